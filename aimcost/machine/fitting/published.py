"""Published kernel timings priced by the coefficients that a run would take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...inputs.hardware import load_hardware
from ...ops.gemm import linear
from ...types import Precision
from ...types.formats import Widths, bytes_per_element
from ..coefficients import Coefficients
from ..peaks import peak_flops_per_s
from ..timemodels.memory_bound import KernelModel
from ..timemodels.memory_bound import seconds as kernel_seconds
from ..timemodels.tables import Floats
from .memory_bound import kind_of, width_of

__all__ = ["price_kernels"]


def price_kernels(rows: Sequence[Mapping[str, Any]]) -> Floats:
    """Predicted seconds of kernel rows, shape (rows,).

    Parameters
    ----------
    rows
        With ``kernel``: ``hw`` (a profile), ``kind``, ``dtype``, and m, n, k or bytes and flops.
    """
    result = np.empty(len(rows))
    known: dict[tuple[str, str], Coefficients] = {}
    for index, row in enumerate(rows):
        kernel = row["kernel"]
        key = (str(kernel["hw"]), str(kernel["dtype"]))
        if key not in known:
            dtype = key[1]
            known[key] = Coefficients(load_hardware(key[0]), Precision(weights=dtype, activations=dtype, kv=dtype))
        result[index] = _price(row, known[key])
    return result


def _price(row: Mapping[str, Any], coefficients: Coefficients) -> float:
    return _product(row["kernel"], coefficients) if row["kernel"]["kind"] == "gemm" else _moved(row, coefficients)


def _product(kernel: Mapping[str, Any], coefficients: Coefficients) -> float:
    hardware = coefficients.hardware
    m, n, k = (np.array([float(kernel[key])]) for key in ("m", "n", "k"))
    element = bytes_per_element(str(kernel["dtype"]))
    product = linear(m, k, n, Widths(weights=element, activations=element, kv=element))
    model, _ = coefficients.products()
    seconds = model.seconds(
        m,
        n,
        k,
        bytes_moved=np.asarray(product.bytes),
        weight_bytes=np.asarray(product.read_weights),
        peak=peak_flops_per_s(hardware, coefficients.gemm_dtype)[0],
        bandwidth=hardware.memory_bytes_per_s,
        sm_count=coefficients.sm_count,
    )
    return float(seconds[0])


def _moved(row: Mapping[str, Any], coefficients: Coefficients) -> float:
    kernel, hardware = row["kernel"], coefficients.hardware
    model = coefficients.memory_bound(kind_of(row))
    moved, flops = np.array([float(kernel["bytes"])]), np.array([float(kernel.get("flops", 0.0))])
    if not isinstance(model, KernelModel):
        return float(model.seconds(moved, flops)[0])
    peak, _ = peak_flops_per_s(hardware, coefficients.other_dtype)
    seconds = kernel_seconds(
        moved,
        coefficients.calibration.machine,
        launch_cycles=model.launch_cycles,
        row_cycles=model.row_cycles,
        width=width_of(row) or model.typical_width,
        bytes_per_cycle=model.bytes_per_cycle,
        compute_s=flops / (peak * model.compute_share),
        bandwidth=None if model.share is None else hardware.memory_bytes_per_s * model.share,
        serial=model.serial,
    )
    return float(seconds[0])
