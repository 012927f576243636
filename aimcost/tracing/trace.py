"""A configuration → a model file: the symbolic ops of every layer, as `aimcost.inputs.traced_file` reads them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from logging import ERROR
from typing import Any

import transformers
from torch import nn
from transformers.utils import logging

from ..errors import UnsupportedModelError
from ..inputs.hf.reader import assumed
from ..inputs.strict_json import digest, tagged
from ..inputs.traced_images import WITHOUT_TOWER
from ..ops.attention import windows
from ..types.expression import Expression
from .fit import Fitter
from .model import STAND_IN, Pass, Subject
from .naming import group_of, label
from .ranks import Divided, exchanges, keys_of, over, partners
from .recorder import ELEMENT_BYTES, Event, Recorder
from .tower import Tower, joins

__all__ = ["trace"]

# (batch, tokens) of prefills and (batch, cached) of decode steps: windows, blocks and their multiples on
# both sides, and no two of them in one ratio.
PREFILLS = ((1, 131), (1, 19), (2, 35), (3, 67), (2, 200), (1, 300), (3, 9), (2, 97), (1, 64))
DECODES = ((1, 130), (1, 18), (2, 34), (3, 66), (2, 199), (1, 299), (3, 8), (2, 96), (1, 63))
# A site that runs up to this often in a pass is as many ops; more often it is a loop.
_UNROLLED = 8
_BLOCKS = (16, 32, 64, 128, 256)
_STATED = ": workload.visual_tokens says how many tokens images are"
_PRODUCTS = ("gemm", "bmm", "experts", "attention")
# The pass of each stage that is traced for one rank too.
_RANKED = 7


def trace(config: Mapping[str, Any]) -> dict[str, Any]:
    """The model file of a configuration.

    Raises
    ------
    UnsupportedModelError
        transformers does not know it, it needs the values of tensors, or a size follows no expression.
    """
    with _quiet():
        return _traced(config)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of transformers, which speak of slow kernels and missing weights to whoever runs a model."""
    before = logging.get_verbosity()
    logging.set_verbosity(ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before)


def _traced(config: Mapping[str, Any]) -> dict[str, Any]:
    subject, notes = _subject(config)
    if sizes := subject.assumed_sizes():
        notes.append(assumed(sizes))
    decoder, bounded = _decoder(subject)
    parts = {"decoder": decoder}
    if subject.sees:
        try:
            tower, more = _tower(Tower.of(subject))
        except UnsupportedModelError as error:
            notes.append(f"{WITHOUT_TOWER} ({error}){_STATED}")
        else:
            decoder["outer_parameters"] -= tower["parameters"]
            bounded |= more
            parts["tower"] = tower
        notes.append("visual tokens attend causally, as text does")
    stored, chosen = subject.experts()
    if 0 < chosen < stored and any(op.get("routed") for layer in decoder["layers"] for op in layer.get("ops", ())):
        decoder["routed"] = {"experts": stored, "active": chosen}
    if not subject.keeps_logits:
        notes.append("lm_head runs on every token of the prompt: its forward has no logits_to_keep")
    if bounded:
        notes.insert(0, f"upper bounds, from no exact expression: {', '.join(sorted(bounded))}")
    return {
        "schema": 1,
        "architecture": str(config.get("model_type")),
        "transformers": transformers.__version__,
        "config_digest": digest(config),
        "config": tagged(dict(config)),
        "parameters": subject.parameters(),
        "format": "bf16",
        "notes": notes,
        "parts": parts,
    }


def _subject(config: Mapping[str, Any]) -> tuple[Subject, list[str]]:
    """The model, or its language model where its tower is one of a library that is not installed."""
    try:
        return Subject.build(config), []
    except UnsupportedModelError as error:
        text = config.get("text_config")
        if "timm" not in str(error) or not isinstance(text, Mapping) or "model_type" not in text:
            raise
        note = f"{WITHOUT_TOWER} (timm's, which is not installed), which the parameters leave out too{_STATED}"
        return Subject.build(text), [note]


def _decoder(subject: Subject) -> tuple[dict[str, Any], set[str]]:
    """The language model, and what is given as a bound."""
    recorder = subject.recorder()
    try:
        subject.run(recorder, batch=1, tokens=4, cached=4)
    except UnsupportedModelError as error:
        subject.own_cache = "cache of its own" in str(error)
        subject.with_mask = not subject.own_cache  # it derives positions from a mask
    whole = [
        subject.run(recorder, batch=PREFILLS[0][0], tokens=PREFILLS[0][1]),
        subject.run(recorder, batch=DECODES[0][0], tokens=1, cached=DECODES[0][1]),
    ]
    kinds = _kinds(subject.layers, whole)
    with subject.only(set(kinds)):
        prefills = [subject.run(recorder, batch=b, tokens=n) for b, n in PREFILLS]
        decodes = [subject.run(recorder, batch=b, tokens=1, cached=n) for b, n in DECODES]
    if not any(whole[0].cache) or _looks_ahead(whole[0]):
        raise UnsupportedModelError(f"{subject.config.model_type}: not a decoder: its layers are not causal")
    for index in kinds:
        if not whole[0].events.get(index):
            raise UnsupportedModelError(
                f"{subject.config.model_type}: layer {index} does nothing on text alone (cross attention)"
            )
    window = next(iter(subject.windows.values()), 0)
    windows = {STAND_IN: window} if window else {}
    blocks = {*_BLOCKS, *subject.blocks()}
    passes = [
        _Passes(
            runs,
            Fitter([p.values for p in runs], ("batch", length), windows=windows, blocks=blocks),
            subject.config.model_type,
            window,
            tables=subject.tables(),
            experts=subject.experts(),
        )
        for runs, length in ((prefills, "tokens"), (decodes, "kv"))
    ]
    ranked, stated = None, dict[str, Any]()
    try:
        ranked = _ranked(subject, recorder, passes, list(kinds))
        passes = [replace(each, rank=rank) for each, rank in zip(passes, ranked.stages, strict=True)]
        stated = {"sizes": dict(ranked.divided.sizes), "kv_sizes": dict(ranked.divided.kv_sizes)}
    except UnsupportedModelError as error:
        stated = {"refused": str(error).removeprefix(f"{subject.config.model_type}: ")}
    layers = _folded(kinds, len(subject.layers), lambda index: _layer(subject, passes, index, ranked))
    decoder = {
        **subject.sizes(),
        "ranks": stated,
        "layers": layers,
        "before": passes[0].ops("before"),
        "after": passes[0].ops("after"),
        "outer_parameters": subject.outer_parameters(),
    }
    return decoder, set().union(*(each.bounded for each in passes))


def _tower(tower: Tower) -> tuple[dict[str, Any], set[str]]:
    """Tower and projector by images and patches of an image, and what is given as a bound."""
    recorder = tower.recorder()
    points = tower.points()
    try:
        tower.run(recorder, *points[0])
    except UnsupportedModelError:
        recorder.real_ranges = True
    kinds = _kinds(tower.layers, [tower.run(recorder, *points[0])[0]])
    with tower.only(set(kinds)):
        runs = [tower.run(recorder, *point) for point in points]
    passes = [one for one, _ in runs]
    fitter = Fitter([p.values for p in passes], ("images", "patches"), squared=True)
    stage = _Passes(passes, fitter, f"{tower.subject.config.model_type} tower", square=tower.square)
    after = stage.ops("after", lambda op: "projector" if joins(op["path"]) else group_of(op))
    return {
        **tower.sizes(),
        "parameters": tower.parameters(),
        "tokens": stage.count([tokens for _, tokens in runs], "visual tokens"),
        "layers": _folded(kinds, len(tower.layers), lambda n: {"ops": stage.ops(n), "alive": stage.alive(n)}),
        "before": stage.ops("before", lambda _: "embedding"),
        "after": after,
    }, stage.bounded


def _folded(
    kinds: Mapping[int, list[int]], count: int, describe: Callable[[int], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Runs of equal layers; a kind is described where it comes first."""
    layers: list[dict[str, Any]] = []
    entries: dict[int, int] = {}
    last = -1
    for index in range(count):
        first = kinds_of(kinds, index)
        if first == last:
            layers[-1]["repeat"] += 1
        elif first in entries:
            layers.append({"repeat": 1, "same_as": entries[first]})
        else:
            entries[first] = len(layers)
            layers.append({"repeat": 1, **describe(first)})
        last = first
    return layers


def _looks_ahead(prefill: Pass) -> bool:
    """Whether attention sees all keys in every layer that has any."""
    masks = [e.dims for events in prefill.events.values() for e in events if e.kind == "attention"]
    return bool(masks) and all(dims["pairs"] == dims["q_len"] * dims["kv_len"] for dims in masks)


def kinds_of(kinds: Mapping[int, list[int]], index: int) -> int:
    """The first layer that `index` is like."""
    return next(first for first, members in kinds.items() if index in members)


@dataclass(frozen=True, slots=True)
class _Twin:
    """The same op of one rank, and of one that has its share of the KV heads alone; the collective behind it."""

    share: Event
    kv: Event | None
    exchange: str


@dataclass(frozen=True, slots=True)
class _Rank:
    """One rank's passes at the counts of one pass of the whole model: twins of its ops, by identity."""

    factor: int
    twins: Mapping[int, _Twin]
    cache: Sequence[tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class _Ranked:
    """The model as one rank has it, and as one has it that divides KV heads alone."""

    divided: Divided
    shares: Sequence[Subject]
    stages: Sequence[_Rank]

    def split(self, whole: float, shares: Sequence[float]) -> list[float]:
        return _divided(self.divided.factor, whole, shares)


def _ranked(subject: Subject, recorder: Recorder, passes: Sequence[_Passes], kinds: Sequence[int]) -> _Ranked:
    """One rank's trace beside the model's.

    Raises
    ------
    UnsupportedModelError
        The configuration does not say what ranks divide, or they run what there is no rule for.
    """
    divided = keys_of(subject.config.get_text_config(decoder=True))
    alone = [False, True] if divided.apart else [False]
    shares = [subject.changed(partial(over, divided=divided, kv_alone=each)) for each in alone]
    runs: list[list[Pass]] = []
    for share in shares:
        own = share.recorder(like=recorder)
        (batch, tokens), (rows, cached) = PREFILLS[_RANKED], DECODES[_RANKED]
        with share.only(set(kinds)):
            runs.append(
                [
                    share.run(own, batch=batch, tokens=tokens),
                    share.run(own, batch=rows, tokens=1, cached=cached),
                ]
            )
    stages = []
    for stage, each in enumerate(passes):
        twins: dict[int, _Twin] = {}
        for index in kinds:
            whole = each.gated[_RANKED].get(index, [])
            others = [partners(whole, _gated(run[stage].events.get(index, []))) for run in runs]
            after = exchanges(others[0])
            if all(a.dims == b.dims for a, b in others[0]):
                raise UnsupportedModelError(f"layer {index} has nothing that ranks divide")
            for number, event in enumerate(whole):
                kv = others[1][number][1] if len(others) > 1 else None
                twins[id(event)] = _Twin(others[0][number][1], kv, after.get(id(event), ""))
        stages.append(_Rank(divided.factor, twins, [run[stage].cache for run in runs]))
    return _Ranked(divided, shares, stages)


def _divided(factor: int, whole: float, shares: Sequence[float]) -> list[float]:
    """[the part of a size that all ranks divide, the part that those with different KV heads divide].

    Raises
    ------
    UnsupportedModelError
        A rank's is larger, or smaller than its share.
    """
    if not whole:
        return [0.0, 0.0]
    parts = [(whole - share) * factor / (whole * (factor - 1.0)) for share in shares]
    total, kv = parts[0], parts[1] if len(parts) > 1 else 0.0
    if not 0.0 <= kv <= total <= 1.0:
        raise UnsupportedModelError("a size of one rank is not its share of the whole")
    return [total - kv, kv]


def _layer(subject: Subject, passes: Sequence[_Passes], index: int, ranked: _Ranked | None) -> dict[str, Any]:
    prefill, decode = passes
    cache = [p.cache[index] if index < len(p.cache) else 0.0 for p in prefill.passes]
    split: dict[str, list[float]] = {}
    if ranked is not None:
        split = {
            "parameters": ranked.split(
                subject.layer_parameters(index), [share.layer_parameters(index) for share in ranked.shares]
            ),
            "alive": prefill.alive_split(index),
            "decode_alive": decode.alive_split(index),
        }
        if cache[_RANKED]:
            split["cache_bytes"] = ranked.split(cache[_RANKED], [held[index] for held in ranked.stages[0].cache])
    return {
        **({"split": split} if split else {}),
        "parameters": subject.layer_parameters(index),
        "ops": prefill.ops(index),
        "decode": decode.ops(index),
        "cache_bytes": prefill.bytes(cache, f"cache of layer {index}"),
        "alive": prefill.alive(index),
        "decode_alive": decode.alive(index),
    }


def _kinds(layers: Sequence[nn.Module], passes: Sequence[Pass]) -> dict[int, list[int]]:
    """Layers that do the same and hold the same, by the first of them."""
    found: dict[Any, list[int]] = {}
    for index, layer in enumerate(layers):
        shapes = tuple((name, tuple(p.shape)) for name, p in layer.named_parameters())
        # a layer that leaves its keys to later ones does what others do
        flags = tuple(
            (name, key) for name, m in layer.named_modules() for key, value in vars(m).items() if value is True
        )
        done = tuple(
            tuple(
                (e.site, e.name, tuple(e.dims.items()), e.read, e.write, e.read_kv, e.write_kv)
                for e in p.events.get(index, ())
            )
            for p in passes
        )
        cache = tuple(p.cache[index] if index < len(p.cache) else 0.0 for p in passes)
        found.setdefault((shapes, flags, done, cache), []).append(index)
    return {members[0]: members for members in found.values()}


@dataclass(frozen=True, slots=True)
class _Passes:
    """Passes of one stage at several counts, and the fit of what they measured."""

    passes: Sequence[Pass]
    fitter: Fitter
    model: str
    window: int = 0
    # side in patches of the squares that a tower attends in
    square: int = 0
    # tensors of token embeddings and lm_head
    tables: frozenset[int] | set[int] = frozenset()
    rank: _Rank | None = None
    # experts of a layer and those that a token is routed to, where all of them run
    experts: tuple[int, int] = (0, 0)
    # what the file gives as a bound, by name
    bounded: set[str] = field(default_factory=set)
    # ops by pass and layer, activations with their gates
    gated: list[dict[int | str, list[Event]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.gated:
            self.gated.extend({layer: _gated(events) for layer, events in p.events.items()} for p in self.passes)

    def ops(self, layer: int | str, group: Callable[[dict[str, Any]], str] = group_of) -> list[dict[str, Any]]:
        """Symbolic ops of a layer, in execution order."""
        sites: dict[Any, list[list[Event]]] = {}
        order: dict[Any, int] = {}
        for number, gated in enumerate(self.gated):
            for event in gated.get(layer, []):
                key = (event.site, event.name, event.kind, event.flags)
                runs = sites.setdefault(key, [[] for _ in self.passes])
                runs[number].append(event)
                order.setdefault(key, len(order))
        ops: list[dict[str, Any]] = []
        for key, runs in sites.items():
            try:
                made = list(self._site_ops(layer, key, runs))
            except UnsupportedModelError:
                if key[2] not in ("move", "pointwise"):
                    raise
                made = [self._bound(key, runs)]  # copies that come and go with strides, masks of blocks
            self._divide(made, runs)
            ops += made
        ops.sort(key=lambda op: op.pop("_position"))
        _mark_routed(ops, self.experts[0])
        _label(ops, group)
        return ops

    def _divide(self, ops: Sequence[dict[str, Any]], runs: Sequence[Sequence[Event]]) -> None:
        """Say of a site's ops what one rank has of them; those that the rank's counts do not need are whole."""
        if self.rank is None or not runs[_RANKED]:
            return
        events = runs[_RANKED]
        several = len(ops) == len(events)
        for number, op in enumerate(ops):
            some = [events[number]] if several else list(events)
            twins = [self.rank.twins[id(event)] for event in some if id(event) in self.rank.twins]
            if not twins:
                continue
            whole, others = _sum(some), [_sum([twin.share for twin in twins])]
            if twins[0].kv is not None:
                others.append(_sum([twin.kv for twin in twins if twin.kv is not None]))
            split = {}
            for name, size in _SIZES.items():
                if name in op:
                    split[name] = _divided(self.rank.factor, size(whole), [size(other) for other in others])
            for name in op["dims"]:
                split[name] = _divided(self.rank.factor, whole.dims[name], [other.dims[name] for other in others])
            split = {name: shares for name, shares in split.items() if any(shares)}
            if split:
                op["split"] = split
            if twins[-1].exchange:
                op["exchange"] = twins[-1].exchange

    def alive_split(self, layer: int | str) -> list[float]:
        """What ranks divide of the peak: a bound, attained by one rank and by any number of them."""
        assert self.rank is not None
        factor, peak, rest = self.rank.factor, 0.0, 0.0
        for event in self.gated[_RANKED].get(layer, []):
            share = self.rank.twins[id(event)].share.alive
            peak = max(peak, event.alive)
            rest = max(rest, (share - event.alive / factor) / (1.0 - 1.0 / factor))
        return [round(1.0 - rest / peak, 6), 0.0] if peak else [0.0, 0.0]

    def _site_ops(self, layer: int | str, key: Any, runs: list[list[Event]]) -> Iterator[dict[str, Any]]:
        counts = [len(run) for run in runs]
        where = f"layer {layer}, {key[0][0] or 'layer'}: {key[1]}"
        if min(counts) == max(counts) <= _UNROLLED:
            for number in range(counts[0]):
                yield self._op(where, [run[number] for run in runs], [1] * len(runs))
            return
        present = [bool(run) for run in runs]
        most = max(counts)
        if most <= _UNROLLED and set(counts) == {0, most} and key[2] not in _PRODUCTS:
            factor = self.fitter.indicator(present)
            if factor is not None:
                # a copy that only some strides need: those of a batch, of several blocks
                chosen = [number for number, there in enumerate(present) if there]
                for number in range(most):
                    yield self._on(chosen)._op(where, [runs[n][number] for n in chosen], [1] * len(chosen), factor)
                return
        alike = all(len({tuple(e.dims.items()) for e in run}) <= 1 for run in runs)
        if key[2] == "attention" and self._in_squares(runs):
            yield self._squares(runs)
            return
        if not alike and key[2] in _PRODUCTS:
            raise UnsupportedModelError(f"{self.model}: {where}: products of several sizes in a loop")
        yield self._op(where, [_sum(run) if run else None for run in runs], counts)

    def _in_squares(self, runs: Sequence[Sequence[Event]]) -> bool:
        """Whether attention runs on squares of patches, of every image at every grid."""
        if not self.square:
            return False
        for one, run in zip(self.passes, runs, strict=True):
            grid = windows(int(one.values["rows"]), int(one.values["columns"]), self.square)
            expected = sorted(size for count, size in grid for _ in range(int(count * one.values["images"])))
            if sorted(event.dims["q_len"] for event in run) != expected:
                return False
            if any(event.dims["kv_len"] != event.dims["q_len"] or event.dims["batch"] != 1 for event in run):
                return False
        return True

    def _squares(self, runs: Sequence[Sequence[Event]]) -> dict[str, Any]:
        first = runs[0][0]
        return {
            "name": first.name,
            "kind": first.kind,
            "path": first.site[0],
            "dims": {
                **{name: first.dims[name] for name in ("heads", "kv_heads", "head_dim")},
                "batch": "images",
                "q_len": "patches",
                "kv_len": "patches",
            },
            "_position": first.order,
            "mask": "square",
            "window": self.square,
        }

    def _bound(self, key: Any, runs: Sequence[Sequence[Event]]) -> dict[str, Any]:
        """A copy of memory or arithmetic by element, bounded."""
        some = next(run[0] for run in runs if run)
        self.bounded.add(f"{key[0][0]}: {key[1]}".strip(": "))
        moved = [ELEMENT_BYTES * sum(e.read + e.read_kv for e in run) for run in runs]
        written = [ELEMENT_BYTES * sum(e.write + e.write_kv for e in run) for run in runs]
        flops = [sum(e.flops for e in run) for run in runs]
        return {
            **({"flops": self.fitter.bound(flops)} if any(flops) else {}),
            "name": some.name,
            "kind": some.kind,
            "path": some.site[0],
            "dims": {"elements": self.fitter.bound([size / ELEMENT_BYTES for size in written])},
            "_position": some.order,
            "read_bytes": self.fitter.bound(moved),
            "write_bytes": self.fitter.bound(written),
        }

    def _on(self, chosen: Sequence[int]) -> _Passes:
        return replace(self, passes=[self.passes[n] for n in chosen], fitter=self.fitter.on(chosen))

    def _op(
        self, where: str, events: Sequence[Event | None], counts: Sequence[int], factor: str = ""
    ) -> dict[str, Any]:
        """One op from its totals at every point; `factor`: 1 where it runs, 0 elsewhere."""
        some = next(event for event in events if event is not None)
        first = events[0] or some

        def fit(what: str, value: Callable[[Event], float]) -> str | float:
            found = self._fit(
                [0.0 if e is None else value(e) for e in events],
                f"{where}: {what}",
                apart=what.startswith("bytes") and not factor,
            )
            return f"{factor}*({found})" if factor else found

        dims = {name: fit(name, partial(_dim, name=name)) for name in some.dims if name != "pairs"}
        op: dict[str, Any] = {
            "name": some.name,
            "kind": some.kind,
            "path": some.site[0],
            "dims": dims,
            "_position": first.order if events[0] is not None else some.order,
        }
        if some.kind == "attention":
            ends = [one.values["kv"] for one, event in zip(self.passes, events, strict=True) if event is not None]
            op["mask"] = _mask([e for e in events if e is not None], ends, where, self.model)
            if op["mask"] in ("window", "chunk"):
                op["window"] = self.window
        weight = _weight(some)
        if weight:
            op["weight_bytes"] = weight * ELEMENT_BYTES
        if any(key in self.tables for key in some.weights):
            op["exchange"] = "all_reduce" if some.kind == "embed" else "all_gather"
            op["split"] = {"weight_bytes": "vocabulary", **({} if some.kind == "embed" else {"n": "vocabulary"})}
        if max(counts) > 1:
            op["count"] = self._fit([float(c) for c in counts], f"{where}: times it runs")
        if factor:
            op["count"] = factor
        if some.kind not in ("gemm", "experts", "attention", "rms_norm", "layer_norm", "embed", "weighted_sum"):
            op["read_bytes"] = fit("bytes read", lambda e: ELEMENT_BYTES * (e.read + e.read_kv))
            op["write_bytes"] = fit("bytes written", lambda e: ELEMENT_BYTES * (e.write + e.write_kv))
        if any(e is not None and e.read_kv for e in events):
            op["read_cached_bytes"] = fit("bytes read from the cache", lambda e: ELEMENT_BYTES * e.read_kv)
        if any(e is not None and e.write_kv for e in events):
            op["cached_bytes"] = fit("bytes cached", lambda e: ELEMENT_BYTES * e.write_kv)
        if some.flops and some.kind not in _PRODUCTS:
            op["flops"] = fit("FLOPs", lambda e: e.flops)
        return op

    def _fit(self, values: Sequence[float], where: str, *, apart: bool = False) -> str | float:
        found = self.fitter.fit_apart(values) if apart else self.fitter.fit(values)
        if found is None:
            raise UnsupportedModelError(f"{self.model}: {where} follows no expression of the counts: {list(values)}")
        return found

    def bytes(self, elements: Sequence[float], where: str) -> str | float:
        """Elements of the traced format as an expression of bytes."""
        return self._fit([ELEMENT_BYTES * value for value in elements], where)

    def count(self, values: Sequence[float], where: str) -> str | float:
        """An expression of a number of things."""
        return self._fit(values, where)

    def alive(self, layer: int | str) -> list[str | float]:
        """Bytes alive during the layer's ops: expressions whose largest is the peak."""
        measured = [sorted({e.alive for e in p.events.get(layer, ())})[-1:] for p in self.passes]
        if not all(measured):
            return [0.0]
        found = self.fitter.fit_apart([ELEMENT_BYTES * peak[0] for peak in measured])
        if found is not None:
            return [found]
        expressions: dict[str | float, None] = {}
        lists = [p.events.get(layer, []) for p in self.passes]
        if len({len(events) for events in lists}) == 1:
            for same in zip(*lists, strict=True):
                each = self.fitter.fit_apart([ELEMENT_BYTES * e.alive for e in same])
                if each is not None:
                    expressions[each] = None
        if not expressions:
            self.bounded.add("activations alive")
            return [self.fitter.bound([ELEMENT_BYTES * peak[0] for peak in measured])]
        return list(expressions)


def _mark_routed(ops: Sequence[dict[str, Any]], experts: int) -> None:
    """Mark products of every token with all experts of a layer, and the elementwise ops around them.

    These are in the experts' module or the one around it, and as wide as the experts together.
    """
    products = [op for op in ops if experts > 1 and op["kind"] == "bmm" and op["dims"]["groups"] == float(experts)]
    products = [op for op in products if op.get("weight_bytes")]
    paths = {op["path"] for op in products}
    paths |= {path.rpartition(".")[0] for path in paths}
    wide = experts * min((min(op["dims"]["n"], op["dims"]["k"]) for op in products), default=0)
    for op in ops:
        if op["kind"] in _PRODUCTS:
            routed = any(op is product for product in products)
        else:
            elements = op["dims"].get("elements")
            one = {"batch": 1.0, "tokens": 1.0, "kv": 1.0}
            routed = bool(wide and op["path"] in paths and elements and Expression.of(elements)(one) >= wide)
        if routed:
            op["routed"] = True


def _weight(event: Event) -> float:
    return sum(size for _, size in event.weights.values())


# Sizes of an op in the file that are no dims.
_SIZES: Mapping[str, Callable[[Event], float]] = {
    "weight_bytes": _weight,
    "read_bytes": lambda event: event.read + event.read_kv,
    "write_bytes": lambda event: event.write + event.write_kv,
    "read_cached_bytes": lambda event: event.read_kv,
    "cached_bytes": lambda event: event.write_kv,
    "flops": lambda event: event.flops,
}


def _dim(event: Event, *, name: str) -> float:
    return event.dims[name]


def _sum(run: Sequence[Event]) -> Event:
    """Events of a loop as one."""
    first = run[0]
    alike = len({tuple(e.dims.items()) for e in run}) == 1
    dims = dict(first.dims) if alike else {name: sum(e.dims[name] for e in run) for name in first.dims}
    total = Event(
        site=first.site,
        name=first.name,
        kind=first.kind,
        dims=dims,
        flags=first.flags,
        read=sum(e.read for e in run),
        write=sum(e.write for e in run),
        read_kv=sum(e.read_kv for e in run),
        write_kv=sum(e.write_kv for e in run),
        weights={k: v for e in run for k, v in e.weights.items()},
        flops=sum(e.flops for e in run),
    )
    total.order = first.order
    return total


def _mask(events: Sequence[Event], ends: Sequence[float], where: str, model: str) -> str:
    """Which (query, key) pairs the mask lets through, as a rule that holds at every count."""
    for name, rule in _MASKS.items():
        if all(e.dims["pairs"] == rule(e.dims["q_len"], e.dims["kv_len"]) for e in events):
            return name
    # where a block begins depends on all tokens so far, not on those that the cache holds
    if all(e.dims["pairs"] == _chunked(e.dims["q_len"], end) for e, end in zip(events, ends, strict=True)):
        return "chunk"
    raise UnsupportedModelError(f"{model}: {where}: its mask is neither causal nor full, windowed or chunked")


def _causal(q: float, kv: float) -> float:
    return q * (kv - q) + q * (q + 1) / 2


def _windowed(q: float, kv: float) -> float:
    return sum(min(kv - q + i, STAND_IN) for i in range(1, int(q) + 1))


def _chunked(q: float, kv: float) -> float:
    return sum((kv - q + i - 1) % STAND_IN + 1 for i in range(1, int(q) + 1))


_MASKS: Mapping[str, Callable[[float, float], float]] = {
    "causal": _causal,
    "full": lambda q, kv: q * kv,
    "window": _windowed,
}


def _gated(events: Sequence[Event]) -> list[Event]:
    """An activation and the product with its gate as one op, where nothing else reads the activation."""
    readers: dict[int, int] = {}
    for event in events:
        for number in event.reads:
            readers[number] = readers.get(number, 0) + 1
    made = {e.writes[0]: e for e in events if e.kind == "activation" and len(e.writes) == 1 and not e.write_kv}
    result, dropped = [], set()
    for event in events:
        if event.name == "mul" and event.kind == "pointwise":
            source = next((made[n] for n in event.reads if n in made and readers[n] == 1), None)
            if source is not None and source.dims == event.dims:
                dropped.add(id(source))
                event.name, event.kind = "gated_act", "gated_act"
                event.flops += source.flops
        result.append(event)
    return [event for event in result if id(event) not in dropped]


def _label(ops: Sequence[dict[str, Any]], group: Callable[[dict[str, Any]], str]) -> None:
    """Names that are unique in the layer, and groups."""
    used: dict[str, int] = {}
    adds = [op for op in ops if op["path"] == "" and op["name"] == "add"]
    for op in ops:
        name = label(op, adds, ops)
        used[name] = used.get(name, 0) + 1
        op["group"] = group(op)
        op["name"] = name if used[name] == 1 else f"{name}_{used[name]}"
    for op in ops:
        del op["path"]
