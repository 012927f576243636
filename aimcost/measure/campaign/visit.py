"""What the steps of a campaign share: the device, the clock, and one model at a time."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import UnsupportedModelError, argument
from ...inputs.run import load_run
from ...units import format_bytes
from ..records import Environment
from .deadline import Deadline
from .rows import Row, precision
from .sizes import Sizes, config_of

__all__ = ["Visit", "profile_name", "visit_module"]

# Of a CPU's memory; the rest is for activations and for others.
USABLE_SHARE = 0.6


@dataclass(kw_only=True)
class Visit:
    """What the steps share: sizes, the device, the clock, and one model at a time."""

    sizes: Sizes
    device: str
    folder: Path
    seconds: float
    deadline: Deadline
    environment: Environment
    say: Callable[[str], None] = lambda _: None
    _rigs: dict[str, Any] = field(default_factory=dict)

    @property
    def dtype(self) -> str:
        """Number format of the models: a CPU is fast in fp32 alone."""
        return self.sizes.dtype if self.device == "cuda" else "fp32"

    def tick(self) -> None:
        """Raise once the step's time is used up."""
        self.deadline.check()

    def rig(self, model: str | Mapping[str, Any]) -> Any:
        """The model on the device; the one before it is let go first."""
        key = json.dumps(model, sort_keys=True)
        if key not in self._rigs:
            self.release()
            self._check_room(model)
            self.say("building the model")
            self._rigs[key] = visit_module("rig").Rig(
                config_of(model),
                device=self.device,
                dtype=self.dtype,
                repeats=self.sizes.repeats,
                budget_s=self.sizes.budget_s,
                tick=self.tick,
            )
        return self._rigs[key]

    def _check_room(self, model: str | Mapping[str, Any]) -> None:
        """A GPU raises when it is full; a CPU's system ends the process instead."""
        if self.device != "cpu":
            return
        need = visit_module("rig").weight_bytes(config_of(model), self.dtype)
        have = self.environment.memory_bytes
        if have and need > USABLE_SHARE * have:
            raise UnsupportedModelError(
                f"the model holds {format_bytes(need)} in {self.dtype}, this machine {format_bytes(have)}: "
                f"a campaign on a CPU is a dry run, with {argument('tiny')}"
            )

    def release(self) -> None:
        """Let go of the model."""
        for rig in self._rigs.values():
            rig.model = None
            rig.release()
        self._rigs.clear()

    def bench(self) -> Any:
        """What times single operations."""
        module = importlib.import_module("aimcost.measure.profile.bench")
        return module.Bench(self.device, repeats=self.sizes.repeats, budget_s=self.sizes.budget_s)

    def case(
        self,
        name: str,
        document: Mapping[str, Any],
        *,
        implementation: str = "fused",
        dense: bool = False,
        **labels: str,
    ) -> Any:
        """A prefill of the run; `dense`: a prompt of the reduced length, every token in every layer."""
        given = {**document, "precision": precision(self.dtype)}
        run = load_run(given)
        schedule = run.schedule
        prompt = schedule.tokens[0] if dense else schedule.prompt_tokens
        labels = {
            "text_before": str(schedule.text_before),
            "visual_tokens": str(prompt - schedule.text_tokens),
            **labels,
        }
        return visit_module("rig").Prefill(
            name=name,
            prompt=prompt,
            schedule=None if dense or not schedule.events else schedule,
            implementation=implementation,
            run=json.dumps(given, sort_keys=True),
            labels=labels,
        )

    def row_case(self, row: Row, implementation: str = "fused") -> Any:
        """A prefill of one of the paper's rows."""
        document = dict(row.document)
        if implementation == "masked":
            document |= {"implementation": "masked", "attention": "eager"}
        labels = {"rows": ",".join(row.ids), **({"selection": "left out"} if row.counts_only else {})}
        return self.case(row.ids[0], document, implementation=implementation, dense=row.counts_only, **labels)


def visit_module(name: str) -> Any:
    """A module of `aimcost.measure.campaign.torch`, which needs torch."""
    return importlib.import_module(f"aimcost.measure.campaign.torch_{name}")


def profile_name(environment: Environment) -> str:
    """A profile's name from the device's: ``NVIDIA H200`` is nvidia_h200."""
    return re.sub(r"[^a-z0-9]+", "_", environment.device_name.lower()).strip("_")[:60] or environment.device
