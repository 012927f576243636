"""Whether a profile was fitted on the shapes it is tested on: the nodes of its grids against a run's sizes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ...machine.peaks import compute_dtypes
from ...pricing.result import Estimate

__all__ = ["HeldOut", "held_out_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Distinct shapes of the validated runs, and those among them that the profile measured.

    Attributes
    ----------
    products, lengths
        Distinct (m, n, k) of products with weights, and (stage, head_dim, length) of attention.
    seen_products, seen_lengths
        Those that are nodes of the profile's grids: none should be.
    grid
        False for a profile of fitted coefficients, which has no nodes.
    """

    products: int
    lengths: int
    seen_products: tuple[tuple[float, ...], ...]
    seen_lengths: tuple[tuple[str, float, float], ...]
    grid: bool

    @property
    def clean(self) -> bool:
        """Whether no validated shape is a node."""
        return not self.seen_products and not self.seen_lengths

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "products": self.products,
            "lengths": self.lengths,
            "seen_products": [list(shape) for shape in self.seen_products],
            "seen_lengths": [list(shape) for shape in self.seen_lengths],
            "grid": self.grid,
        }


def held_out_of(profile: Mapping[str, Any], estimates: Iterable[Estimate]) -> HeldOut:
    """Compare the shapes of the priced runs with the nodes of a profile's grids.

    Parameters
    ----------
    profile
        As a hardware profile's file holds it.
    """
    block = profile.get("calibration") or {}
    products: dict[tuple[str, float, float, float], None] = {}
    lengths: dict[tuple[str, float, float], None] = {}
    for estimate in estimates:
        dtype = compute_dtypes(estimate.run.precision)[0]
        for number, segment in enumerate(estimate.table.segments):
            dims = estimate.table.columns(number)
            if segment.kind == "gemm":
                shapes = zip(dims["m"].tolist(), dims["n"].tolist(), dims["k"].tolist(), strict=True)
                products.update(dict.fromkeys((dtype, m, n, k) for m, n, k in shapes))
            elif segment.kind == "attention":
                along = "kv_len" if segment.stage == "decode" else "q_len"
                pairs = zip(dims["head_dim"].tolist(), dims[along].tolist(), strict=True)
                lengths.update(dict.fromkeys((segment.stage, width, length) for width, length in pairs))
    gemm = {dtype: entry for dtype, entry in (block.get("gemm") or {}).items() if entry.get("form") == "grid"}
    return HeldOut(
        products=len(products),
        lengths=len(lengths),
        seen_products=tuple(shape[1:] for shape in products if _is_node(gemm.get(shape[0]), shape[1:])),
        seen_lengths=tuple(length for length in lengths if length[2] in _nodes(block, length[0], length[1])),
        grid=bool(gemm),
    )


def _is_node(entry: Mapping[str, Any] | None, shape: tuple[float, ...]) -> bool:
    return entry is not None and all(value in entry[key] for key, value in zip(("m", "n", "k"), shape, strict=True))


def _nodes(block: Mapping[str, Any], stage: str, width: float) -> set[float]:
    """Lengths that a profile measured attention at, for a stage and the head width it would take."""
    section = {"vision": "encoder_attention", "decode": "decode_attention"}.get(stage, "attention")
    kernels = block.get(section) or {}
    widths = kernels.get(kernels.get("default")) or {}
    if not widths:
        return set()
    entry = widths[min(widths, key=lambda known: abs(int(known) - width))]
    along = "kv_len" if section == "decode_attention" else "q_len"
    return {float(value) for curve in entry.get("curves", []) for value in curve.get(along, [])}
