"""Formulas of operations in words: the docstrings of the functions that compute them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from ...methods.registry import find_scorer
from ...ops import attention, collectives, gemm, pointwise, quantised, reduction

__all__ = ["formula_of", "module_formula"]

_BY_KIND: dict[str, Callable[..., Any]] = {
    "gemm": gemm.linear,
    "attention": attention.fused,
    "bmm": attention.eager_products,
    "softmax": attention.eager_softmax,
    "rms_norm": pointwise.rms_norm,
    "layer_norm": pointwise.layer_norm,
    "rope": pointwise.rope,
    "gated_act": pointwise.gated_silu,
    "select": reduction.select,
    "gather": reduction.gather,
    "dequantize": quantised.dequantise,
    "embed": pointwise.embed,
}
_BESIDE = {
    "attention": attention.causal_pairs,
}


def formula_of(name: str, kind: str, scorer: str = "") -> dict[str, str]:
    """The formula in words, and the function that it is of; empty where there is none.

    Parameters
    ----------
    scorer
        Of an operation that chooses or merges tokens.
    """
    function = _BY_KIND.get(kind)
    if kind == "pointwise":
        words = name.split("_")
        same = getattr(pointwise, name, None)
        function = pointwise.add if "add" in words else pointwise.gelu if "act" in words else same
    if kind == "collective":
        function = getattr(collectives, name.removesuffix("_score"), None)
    if function is None and scorer:
        function = find_scorer(scorer).cost
    if function is None:
        return {}
    text = _opening(function)
    if kind in _BESIDE:
        text = f"{text} FLOPs: 4·d a pair and head; {_opening(_BESIDE[kind])}"
    return {"text": text, "source": f"{function.__module__}.{function.__qualname__}"}


def module_formula(function: Callable[..., Any]) -> dict[str, str]:
    """What an estimator that builds rows of its own says of its arithmetic."""
    module = inspect.getmodule(function)
    assert module is not None
    return {"text": _opening(module), "source": module.__name__}


def _opening(documented: object) -> str:
    """A docstring up to its sections, as one paragraph."""
    lines = (inspect.getdoc(documented) or "").split("\n")
    sections = [i for i, line in enumerate(lines) if line.startswith("---")]
    body = lines[: sections[0] - 1] if sections else lines
    return " ".join(" ".join(body).replace("`", "").split())
