"""LLM-Viewer's arithmetic, quirks included: the estimator behind the tables of arXiv 2412.03248.

Source: hahnyuan/LLM-Viewer commit 472f71f and its fork in LaVi-Lab/AIM commit edc24e9
(``flexible_analyzer``). It prices the language model's prefill and decode alone. Its quirks live
here and nowhere else; what is right is in `aimcost.ops`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ...errors import InvalidValueError
from ...inputs.run import Run
from ...machine.peaks import require_hardware
from ...ops import Cost
from ...ops.cost import Array
from ...ops.op import Group, Op, OpCost
from ...types import DecoderSpec, HardwareSpec, Precision
from ...types.formats import BITS, Widths, part_format
from ...types.strict import Strict
from ..estimator import Estimator
from ..priced import COMPUTE, MEMORY, PricedTable
from ..table import OpTable, TableBuilder, check_rows

__all__ = ["ESTIMATOR"]


class Options(Strict):
    """Keys under ``estimator_options:``.

    Attributes
    ----------
    skip_mlp_add
        Leave out the addition after the MLP.
    """

    skip_mlp_add: bool = False


def price(run: Run) -> PricedTable:
    """Price the language model of a run as LLM-Viewer does.

    Raises
    ------
    InvalidValueError
        The run names no hardware, the hardware has no 16-bit peak, or the model has layers that
        LLM-Viewer does not know.
    """
    decoder = run.model.decoder
    if decoder.moe is not None or decoder.cross_layers or decoder.traced is not None:
        what = "experts" if decoder.moe is not None else "cross attention" if decoder.cross_layers else "traced layers"
        raise InvalidValueError(
            "estimator", f"a model without {what}, which LLM-Viewer does not know ({run.model.name})", run.estimator
        )
    if run.workload.cached_tokens:
        what = "omitted under llm_viewer: LLM-Viewer's prefill has no cache"
        raise InvalidValueError("workload.cached_tokens", what, run.workload.cached_tokens)
    hardware = require_hardware(run.hardware)
    table = _table(run, hardware)
    peak, note = _peak(hardware, run.precision)
    compute = table.flops / peak
    memory = table.bytes / hardware.memory_bytes_per_s
    return PricedTable(
        table=table,
        seconds=np.maximum(compute, memory) * table.count,
        bound=np.where(compute >= memory, COMPUTE, MEMORY),
        notes=(*((note,) if note else ()), *_ignored(decoder), *_format_notes(run.precision)),
    )


def _ignored(decoder: DecoderSpec) -> tuple[str, ...]:
    """QUIRK: a head is hidden / heads wide, and attention has no window."""
    notes = []
    if decoder.head_dim * decoder.heads != decoder.hidden:
        own = decoder.hidden // decoder.heads
        notes.append(f"llm_viewer ignores head_dim {decoder.head_dim}: its heads are hidden / heads = {own} wide")
    if decoder.window:
        notes.append(f"llm_viewer ignores sliding_window {decoder.window}")
    return tuple(notes)


def _format_notes(precision: Precision) -> tuple[str, ...]:
    """Weights that are not stored in the one format that it knows."""
    notes = _head_note(precision)
    if precision.wide:
        notes += (f"llm_viewer reads the linear layers that stay in 16 bit in {precision.weights}, as all weights",)
    return notes


def _head_note(precision: Precision) -> tuple[str, ...]:
    own = part_format(precision, "lm_head")
    if precision.lm_head is not None or own == precision.weights:
        return ()
    return (f"llm_viewer reads lm_head in {precision.weights}, as all weights; it is stored in {own}",)


def _peak(hardware: HardwareSpec, precision: Precision) -> tuple[float, str | None]:
    """QUIRK: the 8-bit peak only where weights, activations *and* KV cache are 8 bits or fewer."""
    peaks = hardware.dense_flops_per_s
    inputs = precision.inputs or precision.activations
    narrow = all(BITS[dtype] <= 8 for dtype in (precision.weights, inputs, precision.kv))
    if narrow:
        for dtype in ("int8", "fp8"):
            if dtype in peaks:
                return peaks[dtype], None
    for dtype in ("fp16", "bf16", "fp32"):
        if dtype in peaks:
            note = f"{hardware.name} has no int8 peak: computed at {dtype}" if narrow else None
            return peaks[dtype], note
    return max(peaks.values()), f"{hardware.name} has no 16-bit peak: computed at its fastest"


def _table(run: Run, hardware: HardwareSpec) -> OpTable:
    widths = Widths.of(run.precision)
    # QUIRK: the weights' format, unless the run or the checkpoint names one of lm_head
    head_widths = widths if run.precision.lm_head is None else Widths.of(run.precision, "lm_head")
    decoder, batch = run.model.decoder, float(run.workload.batch)
    # one kernel for all layers: that of the layers that only an eager implementation would change
    # stays the run's own, but masking makes every layer eager
    masked = run.implementation == "masked" and bool(run.schedule.layer_events)
    kernel, skip = "eager" if masked else run.attention, run.estimator_options.get("skip_mlp_add", False)
    tokens = np.array(run.computed.tokens, dtype=float)
    check_rows(run, run.workload.new_tokens, 3 if kernel == "eager" else 1)
    layers = np.arange(decoder.layers)
    builder = TableBuilder()
    # QUIRK: in prefill the qk query load counts the KV heads; in decode it counts all heads.
    prefill = _layer(decoder, widths, hardware, batch, tokens, tokens, float(decoder.kv_heads), kernel)
    for op, cost in prefill:
        if not (skip and op.name == "mlp_add"):
            builder.add("prefill", op, cost, layers)
    head = Op("lm_head", "head", "replicated", place="after")
    builder.add("prefill", head, _lm_head(decoder, head_widths, batch), None)
    # QUIRK: G steps, the first with the n prompt tokens cached and no entry for itself.
    steps = run.workload.new_tokens
    if steps:
        cached = (tokens[:, None] + np.arange(float(steps))[None, :]).ravel()
        decode = _layer(decoder, widths, hardware, batch, 1.0, cached, float(decoder.heads), kernel)
        for op, cost in decode:
            if skip and op.name == "mlp_add":
                continue
            if np.ndim(cost.flops):
                builder.add("decode", op, cost, np.repeat(layers, steps))
            else:
                builder.add("decode", op, cost, layers, float(steps))
        builder.add("decode", head, _lm_head(decoder, head_widths, batch), None, float(steps))
    return builder.finish(steps)


def _layer(
    decoder: DecoderSpec,
    widths: Widths,
    hardware: HardwareSpec,
    batch: float,
    q: Array,
    n: Array,
    query_load_heads: float,
    kernel: str,
) -> Iterator[OpCost]:
    """One layer: `q` query tokens, `n` tokens attended to."""
    h, i, heads, kv_heads = decoder.hidden, decoder.intermediate, decoder.heads, decoder.kv_heads
    a, c = widths.activations, widths.kv
    kv_width = h * kv_heads // heads
    d = h // heads  # QUIRK: a separate head_dim is ignored
    if d < 1:
        raise InvalidValueError("num_attention_heads", f"at most hidden_size ({h}) under llm_viewer", heads)
    yield _op("attn_norm", "norms"), _norm(batch, h, q, a)
    yield _op("q_proj", "projections"), _linear(batch, q, h, h, widths)
    yield _op("k_proj", "projections"), _linear(batch, q, h, kv_width, widths, to_kv=True)
    yield _op("v_proj", "projections"), _linear(batch, q, h, kv_width, widths, to_kv=True)
    product = 2.0 * batch * q * n * d * heads  # QUIRK: no causal halving
    softmax = 5.0 * batch * heads * q * n
    keys = batch * n * d * kv_heads * c
    scores = batch * q * n * heads * a
    queries = batch * q * d * heads * a
    if kernel == "flash":
        r = min(math.ceil(hardware.onchip_bytes / (c * d)), d) if hardware.onchip_bytes else d
        yield (
            _op("fused_attention", "attention"),
            Cost(
                kind="attention",
                flops=2.0 * product + softmax,
                flops_full_square=2.0 * product,
                read_activations=queries,
                # QUIRK: the output is taken to be the n x n scores, twice
                write_activations=2.0 * scores,
                # QUIRK of the fork: reloads count the KV heads (upstream counts all heads)
                read_kv=2.0 * np.ceil(q / r) * keys,
            ),
        )
    else:
        yield (
            _op("qk_matmul", "attention"),
            Cost(
                kind="bmm",
                flops=product,
                flops_full_square=product,
                read_activations=batch * q * d * query_load_heads * a,
                write_activations=scores,
                read_kv=keys,
            ),
        )
        yield (
            _op("softmax", "attention"),
            Cost(
                kind="softmax",
                flops=softmax,
                flops_full_square=0.0,
                read_activations=scores,
                write_activations=scores,
            ),
        )
        yield (
            _op("sv_matmul", "attention"),
            Cost(
                kind="bmm",
                flops=product,
                flops_full_square=product,
                read_activations=scores,
                write_activations=queries,
                read_kv=keys,
            ),
        )
    yield _op("out_proj", "projections"), _linear(batch, q, h, h, widths)
    yield _op("attn_add", "rest"), _add(batch, h, q, a)
    yield _op("mlp_norm", "norms"), _norm(batch, h, q, a)
    if decoder.gated_mlp:
        yield _op("gate_proj", "mlp"), _linear(batch, q, h, i, widths)
    yield _op("up_proj", "mlp"), _linear(batch, q, h, i, widths)
    # QUIRK: the activation is taken to be hidden wide, not intermediate
    elements = batch * h * q
    yield (
        _op("mlp_act", "mlp"),
        Cost(
            kind="pointwise",
            flops=2.0 * elements,
            read_activations=2.0 * elements * a,
            write_activations=elements * a,
        ),
    )
    yield _op("down_proj", "mlp"), _linear(batch, q, i, h, widths)
    yield _op("mlp_add", "rest"), _add(batch, h, q, a)


def _op(name: str, group: Group) -> Op:
    """Its rows are priced on one device and hold no memory: nothing else is declared."""
    return Op(name, group, "replicated")


def _linear(
    batch: float, q: Array, in_features: float, out_features: float, widths: Widths, *, to_kv: bool = False
) -> Cost:
    out = batch * q * out_features
    return Cost(
        kind="gemm",
        flops=2.0 * batch * q * in_features * out_features,
        read_weights=in_features * out_features * widths.weights,
        read_activations=batch * q * in_features * widths.activations,
        write_activations=0.0 if to_kv else out * widths.activations,
        write_kv=out * widths.kv if to_kv else 0.0,
    )


def _norm(batch: float, h: float, q: Array, a: float) -> Cost:
    moved = batch * h * q
    return Cost(kind="norm", flops=7.0 * moved, read_activations=moved * a, write_activations=moved * a)


def _add(batch: float, h: float, q: Array, a: float) -> Cost:
    """QUIRK: a residual reads one operand."""
    moved = batch * h * q
    return Cost(kind="pointwise", flops=moved, read_activations=moved * a, write_activations=moved * a)


def _lm_head(decoder: DecoderSpec, widths: Widths, batch: float) -> Cost:
    """QUIRKS: one FLOP a multiply-add, one token; the traffic ignores the batch."""
    return Cost(
        kind="gemm",
        flops=batch * decoder.hidden * decoder.vocab,
        read_weights=decoder.hidden * decoder.vocab * widths.weights,
        read_activations=decoder.hidden * widths.activations,
        write_activations=decoder.vocab * widths.activations,
    )


ESTIMATOR = Estimator(
    name="llm_viewer",
    summary="LLM-Viewer's arithmetic, quirks included: reproduces the published tables",
    time_means="LLM-Viewer's arithmetic, language model alone",
    price=price,
    stages=("prefill", "decode"),
    prices_parallel=False,
    options=Options,
)
