"""Which coefficients price a run on a machine, what stands in for those it lacks, and how far off they may be."""

from __future__ import annotations

from typing import Literal

from ..errors import CalibrationError
from ..inputs.hardware import load_hardware
from ..types import HardwareSpec, Precision, Stack
from ..types.formats import BITS
from .bands import BandFactors, factors_of
from .calibration import Calibration, calibration_of
from .inheritance import parent_of
from .peaks import compute_dtypes, computed_in
from .timemodels.attention import AttentionModel
from .timemodels.gemm import GemmModel
from .timemodels.measured import AttentionGrid, CurveSet, GemmGrid
from .timemodels.memory_bound import KernelModel
from .timemodels.tables import Provenance

Basis = Literal["measured", "inherited", "assumed"]
BASES: tuple[Basis, ...] = ("measured", "inherited", "assumed")

__all__ = ["BASES", "COLLECTIVE_BAND", "COLLECTIVE_LAUNCH_S", "COLLECTIVE_SHARE", "Basis", "Coefficients"]

# Where no collective was measured: NCCL all-reduces on NVLink reach about this share of the link once
# large, after a start-up of about 10 µs. Assumed, with the widest band.
COLLECTIVE_SHARE, COLLECTIVE_LAUNCH_S, COLLECTIVE_BAND = 0.7, 10e-6, (0.5, 2.0)
# Where a profile has no attention at all: its rows are priced by their traffic.
NO_ATTENTION_BAND = (0.3, 3.0)
# Kinds that a profile may lack: which measured kind stands in.
_STAND_IN = {
    "rope": "rms_norm",
    "layer_norm": "rms_norm",
    "softmax": "rms_norm",
    "merge": "gather",
    "select": "gather",
    "embed": "gather",
}


class Coefficients:
    """The time models that a run's formats and kinds of operation take on a machine.

    Attributes
    ----------
    gemm_dtype, other_dtype
        Formats that products with weights, and everything else, compute in.
    sm_count
        Multiprocessors of the machine, or of the card that it inherits from.
    substitutes
        What stood in for coefficients that the profile lacks, in words; grows as they are asked for.
    """

    def __init__(self, hardware: HardwareSpec, precision: Precision) -> None:
        self.hardware, self.precision = hardware, precision
        self.calibration: Calibration = calibration_of(hardware)
        # what the machine computes in, which may be wider than what is asked for
        self.gemm_dtype, self.other_dtype = (computed_in(hardware, dtype) for dtype in compute_dtypes(precision))
        self.substitutes: set[str] = set()
        self.sm_count = hardware.sm_count
        if not self.sm_count:
            parent = load_hardware(self.calibration.inherited_from or parent_of(hardware))
            self.sm_count = max(1, parent.sm_count)
            self.substitutes.add(f"sm_count not given: {self.sm_count} assumed, as on {parent.name}")

    def gemm_format(self, weights: str = "") -> str:
        """What products with weights of this format compute in."""
        own = compute_dtypes(self.precision, weights)[0]
        return self.gemm_dtype if not weights or weights == self.precision.weights else computed_in(self.hardware, own)

    def products(self, computed: str | None = None, *, weights: str = "") -> tuple[GemmModel | GemmGrid, bool]:
        """Coefficients for the run's formats, and whether they are those of the nearest format measured.

        Parameters
        ----------
        computed
            Of products without weights: the format of both operands.
        weights
            Of products with weights: their format, where it is not that of the decoder's linear layers.
        """
        models, precision = self.calibration.gemm, self.precision
        stored = weights or precision.weights
        wanted = self.gemm_format(stored) if computed is None else computed
        if computed is None and BITS[stored] < BITS[precision.inputs or precision.activations]:
            wanted = f"{stored}_weight_only"
        # 8-bit products feed their units twice as fast as 16-bit ones, and reach less of the peak
        dtype = self.gemm_format(stored) if computed is None else computed
        eight = ("fp8", "int8") if dtype in ("fp8", "int8") else ()
        for name in (wanted, dtype, *eight, "bf16" if dtype != "fp32" else "fp32", *models):
            if name in models:
                borrowed = name != wanted and not (name == "bf16" and wanted == "fp16")
                if borrowed:
                    self.substitutes.add(f"GEMMs in {wanted} use efficiencies measured in {name}")
                return models[name], borrowed
        raise CalibrationError(f"{self.hardware.name}: calibration has no GEMM coefficients")

    def _products(self, kind: str, weights: str) -> tuple[GemmModel | GemmGrid, bool]:
        return self.products(weights=weights) if kind == "gemm" else self.products(self.other_dtype)

    def attention(self, stage: str, width: int) -> tuple[AttentionModel | AttentionGrid, bool] | None:
        """The coefficients of an attention, and whether they are another width's or another stage's.

        None where the profile has none at all. The prefill's stand in for the tower's and decode's.
        """
        by_stage = {"vision": self.calibration.encoder_attention, "decode": self.calibration.decode_attention}
        own = by_stage.get(stage, self.calibration.attention)
        models = own or self.calibration.attention
        if not models:
            return None
        # of two that are as near the wider one: kernels pad
        nearest = min(models, key=lambda known: (abs(known - width), -known))
        if nearest != width:
            self.substitutes.add(f"attention at head width {width} uses the efficiencies of width {nearest}")
        if stage == "vision" and self.calibration.encoder_lender:
            self.substitutes.add(
                f"tower attention uses the encoder kernel coefficients of {self.calibration.encoder_lender}"
            )
        if not own:
            name = "tower" if stage == "vision" else stage
            self.substitutes.add(f"{name} attention uses the efficiencies of causal prefill")
        return models[nearest], nearest != width or not own

    def memory_bound(self, kind: str, stack: Stack | None = None) -> KernelModel | CurveSet:
        """Coefficients of a kind, or of the one that stands in for it.

        A kind that a stack runs as a chain of elementwise kernels takes theirs, not the fused kernel's, and so does
        one whose kernel only another vendor's cards have; a machine that timed the chain itself has its curve.
        """
        models = self.calibration.memory_bound
        own = models.get(kind)
        chained = stack is not None and kind in stack.elementwise
        elsewhere = isinstance(own, KernelModel) and own.vendor not in ("", self.hardware.vendor)
        if elsewhere or (chained and not isinstance(own, CurveSet)):
            kind = "pointwise"
        found = models.get(kind) or models.get(_STAND_IN.get(kind, "pointwise")) or models.get("pointwise")
        if found is None:
            raise CalibrationError(f"{self.hardware.name}: calibration has no coefficients for {kind}")
        return found

    def basis(self, kind: str, stage: str, width: int, stack: Stack | None = None) -> Basis:
        """What the time of a kind rests on: measured on this card, on another card, format or kind, or assumed.

        Products and attention are measured where the card has tables of that format, stage and head width;
        memory-bound kernels where that kind was timed on it; an exchange where its link was. `stage` of a product is
        the format of its weights.
        """
        measured = self.calibration.measured
        if kind == "collective":
            if self.calibration.collective is None:
                return "assumed"
            return "measured" if "collective" in measured else "inherited"
        if kind in ("gemm", "bmm"):
            model, borrowed = self._products(kind, stage)
            own = [
                name for name, known in self.calibration.gemm.items() if known is model and f"gemm {name}" in measured
            ]
            grid = isinstance(model, GemmGrid)
            return "measured" if own and not borrowed and (kind == "gemm" or grid) else "inherited"
        if kind == "attention":
            chosen = self.attention(stage, width)
            if chosen is None or chosen[0].provenance.source.startswith("assumed"):
                return "assumed"
            section = {"vision": "encoder_attention", "decode": "decode_attention"}.get(stage, "attention")
            return "measured" if section in measured and not chosen[1] else "inherited"
        kernel = self.memory_bound(kind, stack)
        if kernel.provenance.source.startswith("assumed"):
            return "assumed"
        if isinstance(kernel, CurveSet):
            return "measured"
        name = next(known for known, other in self.calibration.memory_bound.items() if other is kernel)
        return "measured" if name in measured else "inherited"

    def band_factors(self, kind: str, stage: str, width: int) -> BandFactors:
        """Band factors of a kind; `width` matters for attention only, `stage` of a product is its weights' format."""
        evidence: Provenance | tuple[float, float]
        borrowed = False
        if kind == "collective":
            model = self.calibration.collective
            evidence = COLLECTIVE_BAND if model is None else model.provenance
        elif kind in ("gemm", "bmm"):
            products, borrowed = self._products(kind, stage)
            # no batched product was timed
            borrowed = borrowed or kind == "bmm"
            evidence = products.provenance
        elif kind == "attention":
            chosen = self.attention(stage, width)
            evidence = NO_ATTENTION_BAND if chosen is None else chosen[0].provenance
            borrowed = chosen is not None and chosen[1]
        else:
            evidence = self.memory_bound(kind).provenance
        return factors_of(evidence, self.calibration, borrowed=borrowed)
