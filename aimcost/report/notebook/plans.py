"""Plans: the front of what the planner searched, and the methods for a task."""

from __future__ import annotations

from ...search.plan.result import Plan
from ...search.plan.tasks import TaskPlan, TaskPlans
from ..planning import draw_fronts, group_rows
from ..tasks import draw_tasks, machine_rows, method_rows, sentence
from ..text import token_runs
from . import Views

__all__ = ["views"]


def views(plan: Plan | TaskPlan | TaskPlans) -> Views:
    """What can be shown of a plan."""
    if isinstance(plan, Plan):
        return _of_budget(plan)
    if isinstance(plan, TaskPlans):
        return _of_machines(plan)
    headers, cells = method_rows(plan)
    return Views(
        title=plan._line(),
        facts=[sentence(plan)],
        headers=headers,
        cells=cells,
        notes=plan.notes,
        frames={
            "front": lambda: [each.to_dict() for each in plan.front],
            "by_method": lambda: [each.to_dict() for each in plan.by_method],
        },
        plots={"front": lambda figure: draw_tasks(TaskPlans(plans=(plan,)), figure)},
    )


def _of_budget(plan: Plan) -> Views:
    headers, cells, left = group_rows(plan)
    chosen = plan.best or plan.nearest
    facts = [f"no schedule meets the budget: {'; '.join(miss['text'] for miss in plan.shortfalls)}"]
    if plan.best is not None:
        facts = [f"keeps {plan.best.kept_share:.1%} of the visual tokens, summed over layers"]
    if chosen is not None:
        facts.append(f"tokens by layer: {token_runs(chosen.estimate.run.schedule)}")
    if plan.runner_up is not None:
        facts.append(f"runner-up: {plan.runner_up.label}, {plan.runner_up.shape}: {plan.runner_up_lost}")
    return Views(
        title=plan._line(),
        facts=facts,
        headers=headers,
        cells=cells,
        left=left,
        notes=plan.notes,
        frames={
            "front": plan.front,
            "groups": lambda: [
                {"hardware": setting["hardware"], "batch": setting["batch"], **group}
                for setting in plan.to_dict()["settings"]
                for group in setting["groups"]
            ],
        },
        plots={"front": lambda figure: draw_fronts(plan, figure)},
    )


def _of_machines(plans: TaskPlans) -> Views:
    headers, cells = machine_rows(plans)
    return Views(
        title=plans._line(),
        facts=[sentence(plans.best)] if plans.best is not None else [],
        headers=headers,
        cells=cells,
        left=2,
        notes=plans.plans[0].notes,
        frames={
            "front": lambda: [
                {"hardware": plan.run.hardware.name if plan.run.hardware else None, **each.to_dict()}
                for plan in plans.plans
                for each in plan.front
            ]
        },
        plots={"front": lambda figure: draw_tasks(plans, figure)},
    )
