"""How software runs a model: what a stack makes of the operations, and what it adds beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, Literal

from ..frozen import dataclass

__all__ = ["Figure", "Stack"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A number with the low and high end of its 80 % band; a one-sided band has an end at the value."""

    value: float = 0.0
    low: float = 0.0
    high: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.value or self.high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """A software stack on one GPU architecture. Seconds throughout.

    Attributes
    ----------
    implementation, attention
        How a reduction and attention run where the run does not say.
    host_s
        Host seconds per launch.
    kernels, traffic
        By kind of operation: launches, and DRAM traffic over that of one fused kernel.
    elementwise
        Kinds that run as elementwise kernels: chains of them in eager code, generated ones under a compiler.
    products
        GEMM library, where it is not that of the calibration tables (`aimcost.machine.libraries`).
    fused
        ``qkv``, ``gate_up``: projections of a decoder layer that run as one product. ``add_norm``: the
        residual is added inside the norm's kernel.
    graph
        Launches captured in CUDA graphs, which cost the host nothing: ``none``, ``decode`` or ``all``.
    scale
        By kind, or ``<kind>_<stage>``: time over that of the calibrated kernels. ``all``: of every kernel,
        and of the host.
    request_s, per_image_s, per_frame_s, request_at
        What a request costs beside its kernels, and beside which stage.
    step_s, per_sequence_s
        What an engine step (one prefill, one decode step) costs beside its kernels.
    tower_attention, tower_loop
        Attention of the vision tower. ``window``: attention windows are launched one by one.
    tower_layers
        ``all`` of a tower's layers run, or those alone that its features are ``used`` of.
    experts
        ``all`` experts run where transformers' class runs them, or those that a token is ``routed`` to.
    collectives, large_bytes, large_ranks, large_factor
        ``nccl`` or ``one_shot`` all-reduces. Messages of at least `large_bytes` among at least `large_ranks`
        ranks take `large_factor` times as long.
    sync_s, attention_map_s
        Selection: one host sync, and reading attention maps inside the language model.
    spread
        (low, high) factors on a total, for a stack whose figures no timing tests; None: those of all
        stacks (`aimcost.machine.bands`).
    data
        The file's mapping, as read.
    """

    name: str
    summary: str = ""
    implementation: Literal["fused", "eager", "masked"] = "fused"
    attention: Literal["flash", "eager"] = "flash"
    host_s: Figure
    kernels: Mapping[str, float] = field(default_factory=dict)
    traffic: Mapping[str, float] = field(default_factory=dict)
    elementwise: frozenset[str] = frozenset()
    products: str = ""
    fused: tuple[str, ...] = ()
    graph: Literal["none", "decode", "all"] = "none"
    scale: Mapping[str, float] = field(default_factory=dict)
    request_s: Figure = Figure()
    per_image_s: float = 0.0
    per_frame_s: float = 0.0
    request_at: str = "vision"
    step_s: Figure = Figure()
    per_sequence_s: float = 0.0
    tower_attention: Literal["flash", "eager"] = "flash"
    tower_loop: Literal["none", "window"] = "none"
    tower_layers: Literal["all", "used"] = "used"
    experts: Literal["all", "routed"] = "routed"
    collectives: Literal["nccl", "one_shot"] = "nccl"
    large_bytes: float = float("inf")
    large_ranks: int = 2
    large_factor: float = 1.0
    sync_s: float = 0.0
    attention_map_s: Figure = Figure()
    spread: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def scale_of(self, kind: str, stage: str) -> float:
        """Time of an operation over that of the calibrated kernel."""
        if not self.scale:
            return 1.0
        name = "product" if kind == "gemm" else kind
        own = self.scale.get(f"{name}_{stage}", self.scale.get(name, 1.0))
        return self.scale.get("all", 1.0) * own

    def captured(self, stage: str) -> bool:
        """Whether launches of this stage are part of a graph."""
        return self.graph == "all" or (self.graph == "decode" and stage == "decode")
