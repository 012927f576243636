"""What a campaign measures: a file of steps, each a list of run files, in ``configs/campaigns``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from ...inputs import discover
from ...inputs.files import read_mapping
from ...inputs.run import Run, load_run
from ...inputs.schema import Positive, Strict, validate
from ...types.strict import Bounds, made

__all__ = ["SUMMARY", "CampaignPlan", "RunsStep", "StackedRun", "is_campaign", "load_plan"]

# The file that says how a campaign's steps ended; a folder that has one holds a campaign.
SUMMARY = "summary.json"
GPU, TINY = "gpu", "tiny"
STACKS = ("transformers", "aimcost_graph")


class RunsStep(Strict):
    """One step: its share of the time, and the runs that it measures (none for a profile or the kernels)."""

    name: Annotated[str, Bounds(min_length=1)]
    weight: Positive
    stacks: list[str] = made(lambda: list(STACKS))
    budget_s: Positive | None = None
    base: dict[str, Any] = made(dict)
    runs: dict[str, dict[str, Any]] = made(dict)


class CampaignPlan(Strict):
    """A campaign's file.

    Attributes
    ----------
    repeats, budget_s
        Passes of each variant of a run, and the seconds after which fewer must do.
    kernels
        The run whose drop events and merging steps give the sizes of the kernels.
    profile
        Fields of `aimcost.measure.profile.plan.Plan` in place of the device's own.
    base
        Keys of every run; those of a step, then of the run itself, replace them whole.
    same_rows
        Rows of the paper that are the same prefill as a run.
    reduced_prompts
        Runs of a prompt that is short already, and the dense prefill each is compared with.
    """

    summary: str
    repeats: Annotated[int, Bounds(ge=1)]
    budget_s: Positive
    kernels: str
    profile: dict[str, Any] = made(dict)
    base: dict[str, Any]
    steps: list[RunsStep]
    same_rows: dict[str, list[str]] = made(dict)
    reduced_prompts: dict[str, str] = made(dict)

    def document(self, step: RunsStep, label: str, dtype: str) -> dict[str, Any]:
        """A run of a step, as a run file has it."""
        precision = dict.fromkeys(("weights", "activations", "kv"), dtype)
        return {"method": "none", **self.base, **step.base, **step.runs[label], "precision": precision}

    def runs_of(self, step: RunsStep, dtype: str, stacks: tuple[str, ...]) -> list[StackedRun]:
        """The runs of a step, each under those of its stacks that run here; under the first of them if none does."""
        here = [stack for stack in step.stacks if stack in stacks] or stacks[:1]
        return [
            StackedRun(name=label, stack=stack, run=load_run(self.document(step, label, dtype), {"stack": stack}))
            for label in step.runs
            for stack in here
        ]

    def kernel_run(self, dtype: str) -> Run:
        """The run that `kernels` names."""
        step = next(step for step in self.steps if self.kernels in step.runs)
        return load_run(self.document(step, self.kernels, dtype))

    def rows_of(self, label: str) -> list[str]:
        """Names under which the paper may print a run."""
        return [label, *self.same_rows.get(label, [])]


@dataclass(frozen=True, kw_only=True)
class StackedRun:
    """A run under one stack; `label` names both in a record."""

    name: str
    stack: str
    run: Run

    @property
    def label(self) -> str:
        """``name@stack``."""
        return f"{self.name}@{self.stack}"


def is_campaign(folder: Path) -> bool:
    """Whether a folder holds the records of a campaign."""
    return (folder / SUMMARY).is_file()


def load_plan(*, tiny: bool) -> CampaignPlan:
    """The campaign's file, or that of a dry run."""
    path = discover.find("campaign", TINY if tiny else GPU)
    data: Mapping[str, Any] = read_mapping(path)
    return validate(CampaignPlan, data, where=str(path))
