"""Number formats of a run: what it says, else what the model's ``quantization_config`` says, else 16 bit."""

from __future__ import annotations

from dataclasses import replace

from ..errors import InvalidValueError
from ..types import ModelSpec, Precision, QuantisationSpec
from ..types.formats import part_format
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
    precision = Precision(
        weights=quantised.weights,
        lm_head=quantised.lm_head,
        tower=quantised.tower,
        projector=quantised.projector,
        scale_bytes=quantised.scale_bytes,
        activations=inputs.activations,
        kv=inputs.kv,
    )
    return precision, (_read(quantised),)


def _inputs(given: PrecisionFile, quantised: QuantisationSpec | None) -> Precision:
    """Formats of activations and cache: the run's, else the checkpoint's where its weights are used, else 16 bit."""
    found = {key: _dtype(getattr(given, key)) for key in ("activations", "kv")}
    if quantised is not None and "weights" not in given.given:
        for key in found.keys() - given.given:
            found[key] = getattr(quantised, key) or found[key]
    return Precision(activations=found["activations"], kv=found["kv"])


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


def _read(quantised: QuantisationSpec) -> str:
    parts = {part: getattr(quantised, part) for part in ("lm_head", "tower", "projector")}
    packed = ", ".join(["the decoder's linear layers", *(part for part, name in parts.items() if name is not None)])
    formats = [f"weights {quantised.weights}"]
    formats += [f"{key} {name}" for key in ("activations", "kv") if (name := getattr(quantised, key)) is not None]
    return f"quantization_config ({quantised.method}): {', '.join(formats)}; quantised are {packed}"


def _dtype(given: int | str) -> str:
    return given if isinstance(given, str) else _BY_BITS[given]
