"""A run's entry against its baseline: which figures moved, in which operations and layers, and why."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..inputs.strict_json import digest
from ..types.stages import DEFAULT_INCLUDE
from .facts import FIGURES

__all__ = [
    "METRICS",
    "Cause",
    "Change",
    "Moved",
    "causes_of",
    "changes_of",
    "moved_ops",
    "not_judged",
    "without_stacks",
    "written_before_stacks",
]

# What a metric is called on the command line and in reports, and its unit.
METRICS = {"flops": "flops", "ttft": "ttft_s", "tpot": "tpot_s", "kv": "kv_bytes", "memory": "peak_bytes"}
_METRIC_OF = {figure: metric for metric, figure in METRICS.items()}
# Predictions are exact; this is far above their rounding and far below any change of a formula.
DEFAULT_TOLERANCE = 1e-6
_SHOWN = 6

Key = tuple[str, str]
Row = tuple[float, float, float]
Rows = dict[int | None, Row]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One figure before and after. `before` is None for a run that the baseline does not have.

    `status` is ``same``, ``better`` (it fell by more than the tolerance), ``worse``, ``new``, or ``repriced``:
    a time under a software stack beside one from before there were stacks.
    """

    metric: str
    before: float | None
    after: float
    tolerance: float
    status: str

    @property
    def relative(self) -> float | None:
        """(after − before) / before; None where there is nothing to divide by."""
        return (self.after - self.before) / self.before if self.before else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """An operation whose cost moved: on which layers, and by how much in all of them together.

    `kind` is ``moved``, ``gone`` or ``new``; `layers` reads ``15–22`` or is empty outside layers.
    """

    stage: str
    name: str
    layers: str
    kind: str
    seconds: tuple[float, float]
    flops: tuple[float, float]
    bytes: tuple[float, float]

    @property
    def delta_s(self) -> float:
        """Seconds gained or lost."""
        return self.seconds[1] - self.seconds[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """Why figures moved: ``schedule``, ``model``, ``workload``, ``profile``, ``settings`` or ``formula``."""

    kind: str
    details: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """One line."""
        return self.kind + (": " + "; ".join(self.details) if self.details else "")


def changes_of(
    before: Mapping[str, Any] | None, after: Mapping[str, Any], tolerances: Mapping[str, float]
) -> list[Change]:
    """The five figures of a run against its baseline's, in one order."""
    changes = []
    for metric, figure in METRICS.items():
        tolerance = tolerances.get(metric, tolerances.get("all", DEFAULT_TOLERANCE))
        new = float(after["figures"][figure])
        # no decode, no seconds of a step: a run that begins to decode has not grown slower
        old = None if before is None else float(before["figures"][figure]) or (None if new else 0.0)
        changes.append(
            Change(metric=metric, before=old, after=new, tolerance=tolerance, status=_status(old, new, tolerance))
        )
    return changes


def written_before_stacks(entry: Mapping[str, Any]) -> bool:
    """Whether a baseline's entry is from before there were software stacks: its settings name an ``execution``."""
    return "execution" in entry["facts"]["settings"]


def without_stacks(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both entries with what they share, for a `before` from before there were stacks.

    Settings without ``execution`` and stack. Where a stack acts, the times of both are of different models and say
    nothing about the run, and so does the profile that they rest on unless it is another card's: FLOPs, the
    cache and memory are what is left to compare.
    """
    repriced = _stack_keys(after["facts"]["settings"]) != set()
    pair = []
    for entry in (before, after):
        settings = entry["facts"]["settings"]
        dropped = {"execution", "tower_attention", *_stack_keys(settings)}
        facts = {**entry["facts"], "settings": {key: v for key, v in settings.items() if key not in dropped}}
        digests = {**entry["digests"], "settings": digest(facts["settings"])}
        operations, figures = entry["operations"], entry["figures"]
        if repriced:
            figures = {**figures, **{name: after["figures"][name] for name in ("ttft_s", "tpot_s")}}
            digests["hardware"] = digest(entry["facts"].get("card", {}))
            operations = {
                key: [[first, last, flops, 0.0, 0.0] for first, last, flops, _, _ in rows]
                for key, rows in operations.items()
                if not key.startswith("overhead/")
            }
        pair.append({**entry, "facts": facts, "digests": digests, "figures": figures, "operations": operations})
    return pair[0], pair[1]


def _stack_keys(settings: Mapping[str, Any]) -> set[str]:
    return {key for key in settings if key.startswith("stack.")}


def not_judged(changes: Iterable[Change], before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """Changes with times ``repriced`` where a stack acts now and did not when `before` was written."""
    if not (written_before_stacks(before) and _stack_keys(after["facts"]["settings"])):
        return list(changes)
    return [
        replace(change, status="repriced") if change.metric in ("ttft", "tpot") and change.status != "same" else change
        for change in changes
    ]


def _status(before: float | None, after: float, tolerance: float) -> str:
    if before is None:
        return "new"
    # slack for rounding: nine digits are stored
    room = before * max(tolerance, 2e-9)
    if after > before + room:
        return "worse"
    return "better" if after < before - room else "same"


def moved_ops(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Moved]:
    """Operations whose figures moved, the largest change of time first, then of FLOPs."""
    ours, theirs = _expanded(before["operations"]), _expanded(after["operations"])
    moved = []
    for key in dict.fromkeys([*ours, *theirs]):
        if key[0] not in DEFAULT_INCLUDE and key[0] not in (after["facts"]["settings"].get("include") or ()):
            continue  # a stage that counts only where a run includes it by name
        found = _moved(key, ours.get(key, {}), theirs.get(key, {}))
        if found is not None:
            moved.append(found)
    return sorted(moved, key=lambda m: (-abs(m.delta_s), -abs(m.flops[1] - m.flops[0]), m.stage, m.name))


def _moved(key: Key, before: Rows, after: Rows) -> Moved | None:
    zero = (0.0, 0.0, 0.0)
    layers = [
        layer
        for layer in dict.fromkeys([*before, *after])
        if _apart(before.get(layer), after.get(layer)) or (layer in before) != (layer in after)
    ]
    if not layers:
        return None
    old = [sum(before.get(layer, zero)[i] for layer in layers) for i in range(3)]
    new = [sum(after.get(layer, zero)[i] for layer in layers) for i in range(3)]
    kind = "gone" if not after else "new" if not before else "moved"
    return Moved(
        stage=key[0],
        name=key[1],
        layers=_ranges(layer for layer in layers if layer is not None),
        kind=kind,
        flops=(old[0], new[0]),
        bytes=(old[1], new[1]),
        seconds=(old[2], new[2]),
    )


def _apart(before: Sequence[float] | None, after: Sequence[float] | None) -> bool:
    if before is None or after is None:
        return before is not after
    return any(abs(a - b) > 1e-7 * max(abs(a), abs(b)) for a, b in zip(before, after, strict=True))


def _expanded(operations: Mapping[str, list[list[Any]]]) -> dict[Key, Rows]:
    """Each operation's figures by layer."""
    expanded: dict[Key, Rows] = {}
    for key, runs in operations.items():
        stage, _, name = key.partition("/")
        rows: Rows = {}
        for first, last, flops, size, seconds in runs:
            for layer in [None] if first is None else range(first, last + 1):
                held = rows.get(layer, (0.0, 0.0, 0.0))
                rows[layer] = (held[0] + flops, held[1] + size, held[2] + seconds)
        expanded[stage, name] = rows
    return expanded


def _ranges(layers: Iterable[int]) -> str:
    """0–3, 7, 9–27."""
    spans: list[list[int]] = []
    for layer in sorted(layers):
        if spans and layer == spans[-1][1] + 1:
            spans[-1][1] = layer
        else:
            spans.append([layer, layer])
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in spans)


def causes_of(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    written_by: str,
    now: str,
    *,
    selection: Collection[str] = (),
) -> list[Cause]:
    """What changed between two entries: each part by its own digest, the formulas by elimination.

    Where model, workload, schedule, profile and settings are the same and figures or operations are
    not, the formulas of aimcost itself are what changed.

    Parameters
    ----------
    selection
        Names of the ops of `after` that choose tokens, which a change of schedule moves in any layer.
    """
    ours, theirs = before["digests"], after["digests"]
    causes = []
    for part, kind in (
        ("model", "model"),
        ("workload", "workload"),
        ("schedule", "schedule"),
        ("hardware", "profile"),
        ("settings", "settings"),
    ):
        if ours[part] != theirs[part]:
            old, new = before["facts"][part], after["facts"][part]
            details = _schedule_details(before, after) if part == "schedule" else _differences(old, new)
            if part == "hardware" and (cards := _differences(*(e["facts"].get("card", {}) for e in (before, after)))):
                details = cards  # another card: its hundreds of figures say no more
            causes.append(Cause(kind=kind, details=tuple(details)))
    versions = written_by if written_by == now else f"{written_by} → {now}"
    figures = any(_status(float(before["figures"][f]), float(after["figures"][f]), 0.0) != "same" for f in FIGURES)
    if not causes and (figures or moved_ops(before, after)):
        inputs = "model, workload, schedule, profile and settings are unchanged"
        causes.append(Cause(kind="formula", details=(f"{inputs}; {versions}",)))
    unexplained = _unexplained(before, after, {cause.kind for cause in causes}, selection)
    if unexplained:
        names = ", ".join(unexplained[:_SHOWN])
        causes.append(
            Cause(kind="formula", details=(f"FLOPs of {names} moved, which no other cause explains; {versions}",))
        )
    return causes


def _unexplained(
    before: Mapping[str, Any], after: Mapping[str, Any], kinds: set[str], selection: Collection[str]
) -> list[str]:
    """Operations whose FLOPs a change of schedule or profile alone cannot have moved.

    A profile moves no FLOPs at all, and a schedule none in layers that compute on the same tokens, but for the ops that
    choose tokens: those that it has, and those that went with a scorer.
    """
    if not kinds or kinds - {"schedule", "profile"}:
        return []
    ours, theirs = _expanded(before["operations"]), _expanded(after["operations"])
    old, new = _tokens(before), _tokens(after)
    scorer_gone = bool(_scorers(before) - _scorers(after))
    found = []
    for key in dict.fromkeys([*ours, *theirs]):
        stage, name = key
        chooses = name in selection or (scorer_gone and key not in theirs)
        free = "schedule" in kinds and (stage != "prefill" or chooses)
        a, b = ours.get(key, {}), theirs.get(key, {})
        zero = (0.0, 0.0, 0.0)
        for layer in dict.fromkeys([*a, *b]):
            same_tokens = layer is None or (layer < min(len(old), len(new)) and old[layer] == new[layer])
            if not free and same_tokens and _apart(a.get(layer, zero)[:1], b.get(layer, zero)[:1]):
                found.append(name)
                break
    return found


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """``key old → new`` for each fact that differs."""
    found = []
    for key in sorted({*before, *after}):
        old, new = before.get(key), after.get(key)
        if old != new:
            found.append(f"{key} {_said(old)} → {_said(new)}{_by(old, new)}")
    more = len(found) - _SHOWN
    return [*found[:_SHOWN], f"and {more} more"] if more > 0 else found


def _said(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "none" if value is None else str(value)


def _by(before: Any, after: Any) -> str:
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (before, after))
    return f" ({after / before - 1:+.2%})" if numbers and before and after / before < 100 else ""


def _scorers(entry: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Action and scorer of every event."""
    return {(action, scorer) for action, scorer, *_ in entry["facts"]["schedule"]["events"]}


def _tokens(entry: Mapping[str, Any]) -> list[int]:
    """Tokens by layer."""
    return [count for count, layers in entry["facts"]["schedule"]["tokens"] for _ in range(layers)]


def _schedule_details(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The method's parameters that changed, and the layers that compute on other counts."""
    details = _differences(before["facts"]["method"], after["facts"]["method"])
    ours, theirs = _tokens(before), _tokens(after)
    if len(ours) != len(theirs):
        return [*details, f"{len(ours)} → {len(theirs)} layers"]
    differ = [(layer, a, b) for layer, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
    if not differ:
        return [*details, "same tokens in every layer, different reduction events"]
    layer, old, new = max(differ, key=lambda item: abs(item[2] - item[1]))
    many = _ranges(item[0] for item in differ)
    word = "layers" if len(differ) > 1 else "layer"
    tokens = sum(b - a for _, a, b in differ)
    details.append(f"{word} {many} on other token counts ({tokens:+,} in all; layer {layer}: {old:,} → {new:,})")
    return details
