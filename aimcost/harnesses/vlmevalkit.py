"""VLMEvalKit adapter: a reduced model beside each of the kit's own, named so that its results say the method.

# reduced.py, beside the kit's run.py; then: python reduced.py --model NAME --data ChartQA_TEST
import runpy
from vlmeval.config import supported_VLM
from aimcost.harnesses.vlmevalkit import register

print(register(supported_VLM, "llava_next_vicuna_7b", {"name": "aim", "merge_ratio": 0.25}))
runpy.run_path("run.py", run_name="__main__")
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

from torch import nn

from ..errors import UnknownNameError, UnsupportedModelError
from ..inputs.method_arguments import method_arguments
from .reducing import reduced

__all__ = ["register"]


def register(models: MutableMapping[str, Callable[..., Any]], name: str, method: Mapping[str, Any]) -> str:
    """Add `name` under `method` to the kit's table of models (``vlmeval.config.supported_VLM``).

    Returns
    -------
    str
        The name it is registered under: ``llava_next_vicuna_7b,method=aim,method.merge_ratio=0.25``.

    Raises
    ------
    UnknownNameError
        A name that is not in the table.
    """
    if name not in models:
        raise UnknownNameError("model", name, models)
    make = models[name]
    named = f"{name},{method_arguments(method)}"

    def make_reduced(**kwargs: Any) -> Any:
        model = make(**kwargs)
        if not isinstance(getattr(model, "model", None), nn.Module):
            raise UnsupportedModelError(f"{name}: a reduced model needs its torch module as the attribute 'model'")
        inner = model.generate

        def generate(*args: Any, **more: Any) -> Any:
            with reduced(model.model, method):
                return inner(*args, **more)

        model.generate = generate
        return model

    models[named] = make_reduced
    return named
