"""What the harnesses share: a model whose every prompt is reduced, and refusals that no harness may swallow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from .. import api
from ..errors import AimcostError

__all__ = ["reduced"]


@contextmanager
def reduced(model: nn.Module, method: Mapping[str, Any] | None) -> Iterator[None]:
    """Inside the block every prompt of `model` is reduced as `method` plans for it; none leaves it as it is.

    Harnesses catch what ``generate`` raises and score an empty answer. A refusal of aimcost's is raised again at the
    end of the block, so that no score counts prompts that were not run.
    """
    if method is None or method["name"] == "none":
        yield
        return
    generate: Callable[..., Any] = model.generate
    refused: list[AimcostError] = []

    def noting(*args: Any, **kwargs: Any) -> Any:
        try:
            return generate(*args, **kwargs)
        except AimcostError as error:
            refused.append(error)
            raise

    model.generate = noting
    try:
        with api.apply(model, method=method):
            yield
    finally:
        del model.generate
    if refused:
        raise refused[0]
