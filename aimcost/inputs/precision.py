"""Number formats of a run: what it says, else what the model's ``quantization_config`` says, else 16 bit."""

from __future__ import annotations

from dataclasses import replace

from ..errors import InvalidValueError
from ..types import ModelSpec, Precision, QuantisationSpec
from ..types.formats import BITS, part_format
from .schema import PrecisionFile, RunFile, WeightsFile

__all__ = ["resolve_precision"]

_BY_BITS = {32: "fp32", 16: "bf16", 8: "int8", 4: "int4"}


def resolve_precision(file: RunFile, model: ModelSpec) -> tuple[Precision, tuple[str, ...]]:
    """The formats of a run, and a note on what the checkpoint's own configuration had to do with them.

    Raises
    ------
    InvalidValueError
        Formats by part that the model cannot have.
    """
    given, quantised = file.precision, model.quantised
    inputs = _inputs(given, quantised)
    if "weights" in given.given:
        precision = _weights(given.weights, inputs)
        _check(precision, model, given.weights)
        if quantised is None:
            return precision, ()
        return precision, (f"precision.weights replaces the quantization_config of {model.name} ({quantised.method})",)
    if quantised is None:
        wide = f"{model.name} is stored in float32: priced in 16 bit, as it is served; precision.weights: 32 otherwise"
        return inputs, (wide,) if model.stored_wide else ()
    precision = replace(
        inputs,
        weights=quantised.weights,
        lm_head=quantised.lm_head,
        tower=quantised.tower,
        projector=quantised.projector,
        experts=quantised.experts,
        scale_bytes=quantised.scale_bytes,
        wide=quantised.wide,
        # activations that the run names are those of products too
        inputs=None if "activations" in given.given else quantised.inputs,
    )
    return precision, (_read(quantised, precision),)


def _inputs(given: PrecisionFile, quantised: QuantisationSpec | None) -> Precision:
    """Formats of activations and cache: the run's, else that of the checkpoint's cache where its weights are used."""
    kv = _dtype(given.kv)
    if quantised is not None and quantised.kv is not None and not {"weights", "kv"} & set(given.given):
        kv = quantised.kv
    return Precision(activations=_dtype(given.activations), kv=kv)


def _weights(given: int | str | WeightsFile, rest: Precision) -> Precision:
    """``precision.weights`` beside the formats of the rest."""
    if not isinstance(given, WeightsFile):
        return replace(rest, weights=_dtype(given))
    named: dict[str, str] = {part: _dtype(value) for part, value in given.dump(exclude_none=True).items()}
    return replace(
        rest,
        weights=named.get("decoder", "bf16"),
        embedding=named.get("embedding"),
        lm_head=named.get("lm_head"),
        tower=named.get("tower"),
        projector=named.get("projector"),
    )


def _check(precision: Precision, model: ModelSpec, given: int | str | WeightsFile) -> None:
    if not isinstance(given, WeightsFile):
        return
    tables = part_format(precision, "embedding"), part_format(precision, "lm_head")
    if model.decoder.tied_embeddings and tables[0] != tables[1]:
        key = "lm_head" if given.lm_head is not None else "embedding"
        expected = f"one format for embedding and lm_head, which {model.name} stores once"
        raise InvalidValueError(f"precision.weights.{key}", expected, getattr(given, key))
    if model.vision is None:
        for key in ("tower", "projector"):
            if getattr(given, key) is not None:
                what = f"omitted: {model.name} has no vision tower"
                raise InvalidValueError(f"precision.weights.{key}", what, getattr(given, key))


def _read(quantised: QuantisationSpec, precision: Precision) -> str:
    parts = {part: getattr(quantised, part) for part in ("experts", "lm_head", "tower", "projector")}
    narrow = [part for part, name in parts.items() if name is not None]
    if BITS[quantised.weights] < 16:
        narrow = ["the decoder's linear layers", *narrow]
    named = [quantised.weights] if BITS[quantised.weights] < 16 else [name for name in parts.values() if name]
    formats = [f"weights {named[0]}"] if named else []
    if precision.inputs is not None:
        formats.append(f"inputs of their products {precision.inputs}, their traffic {precision.activations}")
    formats += [f"kv {quantised.kv}"] if quantised.kv is not None else []
    packed = f"; quantised are {', '.join(narrow)}" if narrow else ""
    return f"quantization_config ({quantised.method}): {', '.join(formats)}{packed}"


def _dtype(given: int | str) -> str:
    return given if isinstance(given, str) else _BY_BITS[given]
