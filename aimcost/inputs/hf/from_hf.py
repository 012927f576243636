"""HF ``config.json`` mapping → ModelSpec. No network, no transformers.

Which key means what, and its default where a config.json may omit it, follows the configuration
classes of transformers 5.x.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ...errors import InvalidValueError, UnknownNameError, nearest
from ...types import ModelSpec
from . import qwen as hf_qwen
from . import vision as hf_vision
from .decoder import decoder_spec
from .original import in_transformers_layout
from .quantised import by_layer, quantisation
from .reader import Reader

__all__ = ["FAMILIES", "model_spec", "with_formats"]

# Where composites have their language model.
_LANGUAGE = ("text_config", "llm_config", "language_config", "llm_cfg")
# Where torch or transformers is missing.
_TRACING = (
    "any architecture that the installed transformers knows is traced from its config.json: "
    "pip install 'aimcost[torch]'"
)


def model_spec(config: Mapping[str, Any], *, name: str, where: str, source: str = "") -> ModelSpec:
    """The shape that an HF-style configuration describes.

    Raises
    ------
    InvalidValueError
        A figure is missing, of the wrong type, or fits no model.
    UnknownNameError
        Unknown `model_type`.
    """
    config = in_transformers_layout(config, where)
    reader = Reader(config, where)
    kind = config.get("model_type")
    if not isinstance(kind, str):
        raise InvalidValueError("model_type", "given (text)", kind, where=where)
    builder = FAMILIES.get(kind)
    if builder is None:
        raise UnknownNameError("model_type", kind, FAMILIES, where=where, cutoff=_cutoff(kind), remedy=_remedy(config))
    spec = builder(reader, name, source)
    reader.check_spelling()
    filled = dict.fromkeys(note for part in (reader, *reader.sections) for note in part.notes())
    return with_formats(replace(spec, notes=(*spec.notes, *filled)), config, where)


def with_formats(spec: ModelSpec, config: Mapping[str, Any], where: str) -> ModelSpec:
    """A model with the number formats that its configuration states; float32 is told, 16 bit is what is priced."""
    quantised, notes = quantisation(config, where)
    if quantised is not None:
        quantised, left = by_layer(quantised, spec.decoder)
        notes += left
    if quantised is not None and spec.vision is None:
        quantised = replace(quantised, tower=None, projector=None)
    if quantised is not None and spec.decoder.tied_embeddings:
        # one table, which a look-up reads as it is
        quantised = replace(quantised, lm_head=None)
    inner = config.get("text_config")
    stated = [
        each.get(key) for each in (config, inner) if isinstance(each, Mapping) for key in ("dtype", "torch_dtype")
    ]
    is_wide = quantised is None and next((name for name in stated if name), None) in ("float32", "torch.float32")
    return replace(spec, notes=(*spec.notes, *notes), quantised=quantised, stored_wide=is_wide)


def _cutoff(kind: str) -> float:
    """How near a family must be to be meant: a slip of a letter, never one of a digit, which is another generation."""
    near = nearest(kind, FAMILIES, cutoff=0.85)
    return 0.85 if all(re.findall(r"\d", one) == re.findall(r"\d", kind) for one in near) else 1.0


def _remedy(config: Mapping[str, Any]) -> str:
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("transformers") is None:
        return _TRACING
    kind = config["model_type"]
    said = f"nor has the installed transformers a causal or image-text model of type {kind}, to be traced"
    for key in _LANGUAGE:
        inner = config.get(key)
        if isinstance(inner, Mapping) and isinstance(inner.get("model_type"), str):
            alone = f"its language model alone is its {key} ({inner['model_type']}) as a file, images as"
            return f"{said}; {alone} workload.visual_tokens"
    return said


def _text_only(reader: Reader, name: str, source: str) -> ModelSpec:
    decoder, notes = decoder_spec(reader)
    return ModelSpec(name=name, family=reader.data["model_type"], decoder=decoder, source=source, notes=notes)


FAMILIES: Mapping[str, Callable[[Reader, str, str], ModelSpec]] = {
    "llama": _text_only,
    "mistral": _text_only,
    "qwen2": _text_only,
    "qwen3": _text_only,
    "mixtral": _text_only,
    "qwen2_moe": _text_only,
    "qwen3_moe": _text_only,
    "qwen": hf_qwen.qwen_vl,
    "llava": hf_vision.llava,
    "llava_next": hf_vision.llava_next,
    "llava_next_video": hf_vision.llava_next_video,
    "llava_onevision": hf_vision.llava_onevision,
    "qwen2_vl": hf_qwen.qwen_vit,
    "qwen2_5_vl": hf_qwen.qwen_vit,
    "qwen3_vl": hf_qwen.qwen_vit,
    "qwen3_vl_moe": hf_qwen.qwen_vit,
    "internvl": hf_vision.internvl,
    "mllama": hf_vision.mllama,
}
