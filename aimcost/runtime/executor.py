"""Really dropping tokens: `apply` runs a Schedule on an unmodified transformers model.

Dropped tokens leave the hidden states, positions, masks and every later layer's KV cache. Attention
stays SDPA in all layers; scores are computed only where the schedule drops, from that layer's
post-RoPE queries and keys.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NoReturn
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ..errors import InvalidValueError, ScheduleError, UnsupportedModelError
from ..kernels.select import select_tokens
from ..kernels.select.reference import gather_rows
from ..types import ReductionEvent, Schedule
from . import attention, compat
from .layout import Boundaries
from .planning import MethodPlanner
from .policies import all_policies
from .prompt import FixedPlan, Planner, make_plan
from .question import ClipQuestion
from .session import Session
from .steps import Continuation, Prefill, Record

__all__ = ["Applied", "apply"]

_active: WeakKeyDictionary[nn.Module, tuple[Session, int]] = WeakKeyDictionary()
_lock = threading.RLock()


class _Shown(Exception):
    """Raised to stop a forward once the next layer's queries and keys are captured, before its attention runs."""


class DroppingSession(Session):
    """Drops tokens after the layers that the schedule names."""

    def __init__(self, planner: Planner, question: ClipQuestion | None = None) -> None:
        super().__init__(planner)
        self._question = question
        self.reads_attention = planner.reads_attention

    def agrees(self, other: Session) -> bool:
        """Whether `other` asks the same question."""
        return isinstance(other, DroppingSession) and self._question is other._question

    def before_layer(
        self, step: Prefill | Continuation, index: int, hidden: torch.Tensor, kwargs: dict[str, Any]
    ) -> None:
        """Cut positions and masks to the tokens that this layer computes on, or whose keys it holds."""
        if isinstance(step, Continuation):
            kwargs["attention_mask"] = step.cut_mask(kwargs.get("attention_mask"), index)
            self.close_up(step, index, hidden, kwargs)
            return
        if index == 0:
            for scorer in {event.scorer for event in step.plan.events.values()} & all_policies().prepare.keys():
                with attention.exactly(hidden.device):
                    step.prepared[scorer] = all_policies().prepare[scorer](
                        hidden=hidden, protected=step.protected, live=step.real, visual_count=step.visual_count
                    )
        step.tokens.append(hidden.shape[1])
        step.alive_at.append(step.alive)
        step.cut(kwargs)
        if step.alive.shape[1] < step.length and "flash" in compat.attention_name(self.family.decoder):
            kwargs["position_ids"] = None  # rotated already; flash attention takes gaps in them for packed sequences
        if step.plan.reads.get(index) == "next_layer":
            step.layer_inputs = {"position_embeddings": kwargs["position_embeddings"]}

    def after_layer(self, step: Prefill, index: int, hidden: torch.Tensor) -> torch.Tensor:
        """Add what DeepStack adds here, then drop."""
        if index < len(step.extras):
            extra = step.extras[index]
            hidden = hidden + gather_rows(extra, step.alive, 1).to(hidden)
        event = step.plan.events.get(index)
        if event is None:
            return hidden
        keep, hidden = self._choose(step, event, index, hidden)
        step.shown = None
        hidden = step.keep(keep, hidden)
        step.kept[index] = step.alive if step.identity is None else step.identity.sort(dim=1).values
        return hidden

    def on_attention(
        self,
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        scale: float,
    ) -> None:
        """Keep the queries and keys of a layer that is about to be cut."""
        step = self.step
        if not isinstance(step, Prefill):
            return
        if getattr(self._local, "looking", False):
            step.shown = (query, key, scale)
            raise _Shown
        if step.plan.reads.get(len(step.tokens) - 1) == "layer":
            step.shown = (query, key, scale)

    def _choose(
        self, step: Prefill, event: ReductionEvent, index: int, hidden: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Positions among the live tokens that stay, (B, keep), ascending; and the hidden states to take them from."""
        reads, score = step.plan.reads[index], step.plan.scorers[index]
        if reads == "next_layer":
            self._look_ahead(step, index + 1, hidden)
        recycled = dict(event.counts).get("recycled", 0)
        inputs: dict[str, Any] = {
            "protected": step.protected,
            "protected_count": step.prompt - step.visual_count,
            "live": step.real,
            "keep": event.tokens_out - recycled,
        }
        if reads != "positions":
            if step.shown is None:
                raise ScheduleError(
                    f"layer {index} showed no queries and keys: was its attention implementation changed?"
                )
            inputs.update(zip(("query", "key", "scale"), step.shown, strict=True))
            inputs.update(hidden=hidden, norm=self.family.decoder.norm)
        if event.scorer in step.prepared:
            inputs["prepared"] = step.prepared[event.scorer].gather(1, step.alive)
        with attention.exactly(hidden.device):
            scores = score(**inputs, seed=step.plan.seed + 1000 * (index + 1)).to(hidden.device)
            keep = select_tokens(scores, event.tokens_out - recycled, protected=step.protected)
            if not recycled:
                step.identity = None if step.identity is None else step.identity.gather(1, keep)
                return keep, hidden
            merged, centres = all_policies().recycle[event.scorer](hidden, scores, keep, recycled)
        return step.add_recycled(hidden, keep, merged, centres)

    def _look_ahead(self, step: Prefill, index: int, hidden: torch.Tensor) -> None:
        """Have layer `index` compute queries and keys of `hidden`, and nothing more."""
        layer = self.family.layers[index]
        self._local.looking = True
        try:
            layer.self_attn(
                hidden_states=layer.input_layernorm(hidden),
                attention_mask=None,
                **step.layer_inputs,
            )
        except _Shown:
            pass
        finally:
            self._local.looking = False


class Applied:
    """A schedule on a model, as a context manager. Inside it, every prompt is reduced as planned.

    The model is in force for all threads; calls in different threads do not disturb each other. An
    equal schedule may be applied again inside; another one is refused. Leaving the block, by an
    exception too, leaves the model as it was found.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    @property
    def record(self) -> Record | None:
        """What the latest prefill did (`aimcost.runtime.Record`), None before the first."""
        return self._session.record

    def __reduce__(self) -> NoReturn:
        raise UnsupportedModelError("what aimcost.apply returns is bound to its model and has no copies: apply it anew")

    def __enter__(self) -> Applied:
        decoder = self._session.family.decoder
        with _lock:
            running, users = _active.get(decoder, (self._session, 0))
            if users and running is not self._session and not _same(running, self._session):
                raise ScheduleError(
                    f"{running.planner} is already applied to this {type(decoder).__name__}: leave that block first"
                )
            if not users:
                running.enter()
            self._session = running
            _active[decoder] = (running, users + 1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        decoder = self._session.family.decoder
        with _lock:
            if decoder not in _active:
                raise ScheduleError(f"{self._session.planner} is not applied: this block was left before")
            running, users = _active.pop(decoder)
            if users > 1:
                _active[decoder] = (running, users - 1)
            else:
                running.leave()


def _same(left: Session, right: Session) -> bool:
    a, b = left.planner.boundaries, right.planner.boundaries
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        alike = isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and torch.equal(a, b)
    else:
        alike = a == b
    return alike and left.planner == right.planner and left.agrees(right)


def apply(
    model: nn.Module,
    schedule: Schedule | None = None,
    *,
    method: Mapping[str, Any] | str | None = None,
    boundaries: Boundaries | None = None,
    question: ClipQuestion | None = None,
) -> Applied:
    """Run `schedule` on `model`, or `method` as planned for each prompt.

    ``with apply(model, schedule): model.generate(...)``

    Parameters
    ----------
    model
        A transformers model of a supported family (`aimcost.runtime.MODEL_CLASSES`) with a DynamicCache and any
        attention that transformers has registered. Give the model that is called, head included: a module around a
        model given without it gets NaN for the states of dropped tokens, at the places of the whole prompt, and is
        refused if it has a label for each of them.
    schedule
        Counts include padding: the padded prompt is as long as the schedule's, every row has the
        same number of visual tokens, and padding is never dropped.
    method
        In place of `schedule`: what stands under ``method:`` in a run file (``{"name": "fastv", "k": 2}``, or a name
        alone), planned anew for each prompt from its placeholders, grids and padding. A prompt without visual
        tokens passes dense; ``record.schedule`` is the schedule that ran.
    boundaries
        What is visual: (text before, visual, text after), a list of such triples (one a row), or a
        boolean mask (rows, prompt). By default image and video placeholders in ``input_ids``, and for
        a text-only model the counts of the schedule.
    question
        CLIP's text tower, for a method that ranks by the question; ``question.ask(text)`` ahead of each prompt says
        what it asks.

    Returns
    -------
    Applied
        A context manager; its ``record`` says which tokens each layer computed on.

    Raises
    ------
    UnsupportedModelError, ScheduleError, InvalidValueError, UnknownNameError
        Before anything is changed; for what only a prompt can show, when it reaches the decoder.

    Notes
    -----
    Inside the model, survivors keep their RoPE positions. Reductions before the model close up the
    positions, as the released AIM does, except under mRoPE (Qwen-VL), where survivors keep theirs.
    """
    if (schedule is None) == (method is None):
        found = "neither" if schedule is None else "both"
        raise InvalidValueError("schedule", "given, or method in its place", found, where="apply")
    planner: Planner
    if method is not None:
        planner = MethodPlanner(model, method, boundaries, question)
    else:
        assert schedule is not None
        planner = FixedPlan(make_plan(model, schedule, boundaries, question=question))
    return Applied(DroppingSession(planner, question))
