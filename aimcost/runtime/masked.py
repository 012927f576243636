"""Masking instead of dropping: what the released AIM does, as baseline and as test oracle.

Nothing is removed: every layer computes on every token, in eager fp32 attention, and tokens dead at
a layer are hidden from all queries by an additive mask. Kept sets are given, or chosen as released:
PageRank over all rows, dead ones included, starting uniformly over all of them. Unlike the released
code a dead token never comes back, and decoding sees the same live tokens at every step.
Source: AIM, arXiv 2412.03248, and the behaviour of LaVi-Lab/AIM at commit edc24e9.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..errors import InvalidValueError, ScheduleError, UnsupportedModelError
from ..kernels.select import select_tokens
from ..methods.aim.cost import PAGERANK, PAGERANK_ITERATIONS, PAGERANK_TEMPERATURE
from ..types import Schedule
from . import compat
from .executor import Applied
from .layout import Boundaries
from .prompt import FixedPlan, Plan, make_plan
from .session import Session
from .steps import Continuation, Prefill, Record

__all__ = ["apply_masked", "kept_overlap"]


class MaskingSession(Session):
    """Hides what a schedule drops."""

    def __init__(self, plan: Plan, kept: Mapping[int, torch.Tensor] | None) -> None:
        super().__init__(FixedPlan(plan))
        if kept is not None and not isinstance(kept, Mapping):
            raise InvalidValueError("kept", "positions by layer, as record.kept of an apply has them", kept)
        self._kept, self._layers = kept, tuple(plan.events)
        for layer, event in plan.events.items():
            if kept is None and event.scorer != PAGERANK.name:
                raise ScheduleError(
                    f"masking scorer {event.scorer!r} needs the positions to keep: pass kept=record.kept"
                )
            if kept is not None:
                _check_kept(kept.get(layer), layer, event.tokens_out, plan.schedule.tokens[0])

    def agrees(self, other: Session) -> bool:
        """Whether `other` hides the same tokens."""
        if not isinstance(other, MaskingSession) or (self._kept is None) != (other._kept is None):
            return False
        if self._kept is None or other._kept is None:
            return True
        return all(torch.equal(self._kept[layer], other._kept[layer]) for layer in self._layers)

    def before_layer(
        self, step: Prefill | Continuation, index: int, hidden: torch.Tensor, kwargs: dict[str, Any]
    ) -> None:
        """Put the dead tokens' columns into the layer's mask."""
        if isinstance(step, Continuation):
            notes = step.notes
            alive, prompt = notes.alive_at[index], notes.prompt
            self.close_up(step, index, hidden, kwargs)
        else:
            if step.prefix:
                raise UnsupportedModelError("masking a prompt behind a cached prefix is not supported")
            step.tokens.append(hidden.shape[1])
            step.alive_at.append(step.alive)
            alive, prompt = step.alive, step.prompt
            if step.closed_up:
                kwargs["position_embeddings"] = step.spread_positions(kwargs["position_embeddings"])
        rows, queries = hidden.shape[:2]
        cache = compat.find_cache(self.family.layers[index], kwargs)
        keys = queries + (cache.get_seq_length(index) if cache is not None else 0)
        columns = torch.ones(rows, keys, dtype=torch.bool, device=hidden.device)
        columns[:, :prompt] = False
        columns.scatter_(1, alive, True)
        causal = torch.ones(queries, keys, dtype=torch.bool, device=hidden.device).tril(keys - queries)
        visible = causal[None, None] & columns[:, None, None]
        kwargs["attention_mask"] = _additive(visible, kwargs.get("attention_mask"))

    def after_layer(self, step: Prefill, index: int, hidden: torch.Tensor) -> torch.Tensor:
        """Add what DeepStack adds here, and note which tokens are dead from now on."""
        if index < len(step.extras):
            hidden = hidden + step.extras[index].to(hidden)
        event = step.plan.events.get(index)
        if event is None:
            return hidden
        if self._kept is not None:
            step.alive = self._kept[index].to(hidden.device)
            if len(step.alive) != len(hidden):
                raise ScheduleError(f"kept is given for {len(step.alive)} rows, the batch has {len(hidden)}")
        else:
            scores = step.layer_inputs["scores"].gather(1, step.alive)
            protected = step.protected.gather(1, step.alive)
            step.alive = step.alive.gather(1, select_tokens(scores, event.tokens_out, protected=protected))
        step.kept[index] = step.alive
        return hidden

    def on_attention(
        self,
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        scale: float,
    ) -> torch.Tensor | None:
        """Eager fp32 attention, (B, q, H, D), as the released code has in every layer."""
        step = self.step
        if step is None:
            return None
        group = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
        logits = query.float() @ key.float().transpose(2, 3) * scale + mask
        if isinstance(step, Prefill) and self._kept is None and len(step.tokens) - 1 in step.plan.events:
            step.layer_inputs = {"scores": _released_importance(logits, step.real)}
        output = logits.softmax(-1).to(value.dtype) @ value
        return output.transpose(1, 2).contiguous()


def _check_kept(kept: object, layer: int, count: int, prompt: int) -> None:
    """Raise unless `kept` holds (B, `count`) ascending positions of the `prompt` tokens that reach layer 0."""
    wanted = f"kept needs {count} positions after layer {layer}"
    if not isinstance(kept, torch.Tensor) or kept.ndim != 2 or kept.shape[1] != count or kept.dtype != torch.long:
        raise ScheduleError(f"{wanted}, a row of whole numbers for each row of the batch")
    if bool((kept < 0).any() | (kept >= prompt).any() | (kept[:, 1:] <= kept[:, :-1]).any()):
        raise ScheduleError(f"{wanted}, ascending and below {prompt}")


def _additive(visible: torch.Tensor, given: torch.Tensor | None) -> torch.Tensor:
    """fp32 mask: 0 where `visible` and `given` (boolean or additive) allow, the lowest number elsewhere."""
    if given is not None:
        visible = visible & (given if given.dtype == torch.bool else given >= 0)
    lowest = torch.finfo(torch.float32).min
    return torch.zeros(visible.shape, device=visible.device).masked_fill(~visible, lowest)


def _released_importance(logits: torch.Tensor, real: torch.Tensor | None) -> torch.Tensor:
    """(B, N) scores from masked (B, H, N, N) logits, over all rows but padding, of which the released
    code knows nothing."""
    # A row that sees nothing (padding) would be −inf throughout after the division, and NaN after softmax.
    matrix = (logits / PAGERANK_TEMPERATURE).clamp(min=torch.finfo(logits.dtype).min).softmax(-1)
    rows, heads, tokens, _ = logits.shape
    start = logits.new_ones(rows, tokens) if real is None else real.to(logits.dtype)
    mass = (start / start.sum(1, keepdim=True))[:, None, None].expand(-1, heads, -1, -1)
    for _ in range(PAGERANK_ITERATIONS):
        mass = mass @ matrix
    return mass.square().mean(1).sqrt()[:, 0]


def apply_masked(
    model: nn.Module,
    schedule: Schedule,
    *,
    kept: Mapping[int, torch.Tensor] | None = None,
    boundaries: Boundaries | None = None,
) -> Applied:
    """Run `schedule` by masking alone: ``with apply_masked(model, schedule): model.generate(...)``.

    Parameters
    ----------
    kept
        By ``after_layer``, the (B, n) ascending positions that stay (``record.kept`` of an `apply`).
        None: chosen by AIM's importance as released.

    Raises
    ------
    ScheduleError
        Kept sets that do not fit the schedule, or none for a scorer other than ``pagerank``; and what
        `aimcost.runtime.apply` raises.
    """
    return Applied(MaskingSession(make_plan(model, schedule, boundaries, only_sdpa=True), kept))


def kept_overlap(ours: Record, theirs: Record) -> dict[int, float]:
    """Share of the visual tokens kept by `ours` that `theirs` keeps as well, for each cut.

    Text is left out, since both keep all of it; cuts that leave no visual token are left out too.
    """
    shares = {}
    for layer in sorted(ours.kept.keys() & theirs.kept.keys()):
        left, right = (
            torch.zeros_like(record.visual).scatter(1, record.kept[layer], True) & record.visual
            for record in (ours, theirs)
        )
        total = int(left.sum())
        if total:
            shares[layer] = int((left & right).sum()) / total
    return shares
