"""How a stack runs the operations around the products: kernels, traffic, and host time a launch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...errors import CalibrationError

__all__ = ["EXECUTIONS", "Execution", "execution_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """How a stack runs the operations around the products.

    Attributes
    ----------
    kernels, traffic
        By kind of operation: launches, and traffic over that of one fused kernel.
    elementwise
        Kinds that run as elementwise kernels, or as one compiled kernel that does not walk along a row.
    host_s
        Host seconds a launch; (low, high) factors for it.
    """

    kernels: Mapping[str, float]
    traffic: Mapping[str, float]
    host_s: float
    host_band: tuple[float, float]
    source: str
    elementwise: frozenset[str] = frozenset({"gated_act"})


# Counted in transformers 5's eager Llama and Qwen2 layers, bytes an element at 16 bit beside those of one
# kernel. RMSNorm: to fp32 (2+4), square (4+4), mean (4), rsqrt, scale (4+4), to 16 bit (4+2), weight (2+2):
# 36 for 4. RoPE: two products, a negation and a concatenation for rotate_half, a sum, for q and k: 20 for 4,
# and the cache's two copies. SiLU then product: 4 + 6 for 6. Attention: its output made contiguous.
_EAGER_KERNELS = {
    "rms_norm": 7.0,
    "rope": 12.0,
    "gated_act": 2.0,
    "attention": 2.0,
    "softmax": 3.0,
    "merge": 8.0,
    "select": 4.0,
}
_EAGER_TRAFFIC = {"rms_norm": 9.0, "rope": 5.0, "gated_act": 10.0 / 6.0, "softmax": 3.0, "merge": 2.0}
EXECUTIONS: Mapping[str, Execution] = {
    "eager": Execution(
        kernels=_EAGER_KERNELS,
        traffic=_EAGER_TRAFFIC,
        elementwise=frozenset({"gated_act", "rms_norm", "rope"}),
        host_s=15e-6,
        host_band=(0.4, 2.0),
        source="15 µs a launch assumed (0.4 to 2 times that): Qwen2-7B's 1,150 launches take about 17 ms of Python "
        "and driver, so that an H200 waits below about 1000 tokens",
    ),
    "compiled": Execution(
        kernels={},
        traffic={},
        host_s=6e-6,
        host_band=(0.4, 2.0),
        source="6 µs a launch assumed (0.4 to 2 times that): one launch an operation, no Python between them",
    ),
    "cuda_graph": Execution(
        kernels={},
        traffic={},
        host_s=0.0,
        host_band=(1.0, 1.0),
        source="a captured graph is launched once",
    ),
}


def execution_of(name: str) -> Execution:
    """An execution mode by name; the run file's schema has checked the name."""
    if name not in EXECUTIONS:
        raise CalibrationError(f"unknown execution {name!r}; known: {', '.join(EXECUTIONS)}")
    return EXECUTIONS[name]
