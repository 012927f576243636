"""HF ``config.json`` mapping → ModelSpec. No network, no transformers.

Which key means what, and its default where a config.json may omit it, follows the configuration
classes of transformers 5.x.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ..errors import InvalidValueError, UnknownNameError
from ..types import DecoderSpec, ModelSpec, ProjectorSpec, VisionSpec

__all__ = ["DECODER_TYPES", "FAMILIES", "model_spec"]

DECODER_TYPES = ("llama", "mistral", "qwen2", "qwen3", "qwen")
MAX_SIZE = 10_000_000
MAX_LAYERS = 10_000


class _Reader:
    """Typed access to one mapping, with errors that name the file and the key."""

    def __init__(self, data: Mapping[str, Any], where: str, prefix: str = "") -> None:
        self.data, self.where, self.prefix = data, where, prefix

    def count(self, key: str, default: int | None = None) -> int:
        value = self.data.get(key)
        if value is None:
            if default is not None:
                return default
            raise InvalidValueError(self.prefix + key, "given (a whole number)", None, where=self.where)
        most = MAX_LAYERS if key == "num_hidden_layers" else MAX_SIZE
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise InvalidValueError(self.prefix + key, f"a whole number from 1 to {most}", value, where=self.where)
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.data.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise InvalidValueError(self.prefix + key, "true or false", value, where=self.where)
        return value

    def section(self, key: str) -> _Reader:
        value = self.data.get(key)
        if not isinstance(value, Mapping):
            raise InvalidValueError(self.prefix + key, "given (a mapping)", value, where=self.where)
        return _Reader(value, self.where, f"{self.prefix}{key}.")

    def fail(self, key: str, expected: str) -> InvalidValueError:
        return InvalidValueError(self.prefix + key, expected, self.data.get(key), where=self.where)


def model_spec(config: Mapping[str, Any], *, name: str, where: str, source: str = "") -> ModelSpec:
    """The shape that an HF-style configuration describes.

    Raises
    ------
    InvalidValueError
        A figure is missing, of the wrong type, or fits no model.
    UnknownNameError
        `model_type` is none that aimcost knows.
    """
    reader = _Reader(config, where)
    kind = config.get("model_type")
    if not isinstance(kind, str):
        raise InvalidValueError("model_type", "given (text)", kind, where=where)
    builder = FAMILIES.get(kind)
    if builder is None:
        raise UnknownNameError("model_type", kind, FAMILIES, where=where)
    return builder(reader, name, source)


def _decoder(reader: _Reader) -> tuple[DecoderSpec, tuple[str, ...]]:
    kind = reader.data.get("model_type")
    if kind not in DECODER_TYPES:
        raise UnknownNameError(
            "model_type", str(kind), DECODER_TYPES, where=f"{reader.where}: {reader.prefix or 'model'}"
        )
    hidden, heads = reader.count("hidden_size"), reader.count("num_attention_heads")
    kv_heads = reader.count("num_key_value_heads", heads)
    if heads % kv_heads:
        raise reader.fail("num_key_value_heads", f"a divisor of num_attention_heads ({heads})")
    if reader.data.get("head_dim") is None and hidden % heads:
        raise reader.fail("num_attention_heads", f"a divisor of hidden_size ({hidden}), or head_dim given")
    intermediate = reader.count("intermediate_size")
    notes: tuple[str, ...] = ()
    if kind == "qwen":
        # Qwen-1 builds gate and up with half of intermediate_size (its own modeling file).
        notes = (f"Qwen halves intermediate_size: the MLP is {intermediate // 2} wide, not {intermediate}",)
        if intermediate % 2:
            raise reader.fail("intermediate_size", "even: Qwen halves it")
        intermediate //= 2
    qwen_bias = kind in ("qwen2", "qwen")
    bias = reader.flag("attention_bias", False)
    return (
        DecoderSpec(
            hidden=hidden,
            intermediate=intermediate,
            layers=reader.count("num_hidden_layers"),
            heads=heads,
            kv_heads=kv_heads,
            head_dim=reader.count("head_dim", 128 if kind == "qwen3" else hidden // heads),
            vocab=reader.count("vocab_size"),
            qkv_bias=qwen_bias or bias,
            out_bias=bias and kind != "qwen",
            mlp_bias=reader.flag("mlp_bias", False),
            qk_norm=kind == "qwen3",
            tied_embeddings=reader.flag("tie_word_embeddings", False),
        ),
        notes,
    )


def _text_section(reader: _Reader) -> tuple[DecoderSpec, tuple[str, ...]]:
    section = reader.section("text_config")
    decoder, notes = _decoder(section)
    if "tie_word_embeddings" in reader.data:  # the outer flag is the one that transformers obeys
        tied = reader.flag("tie_word_embeddings", False)
        decoder = replace(decoder, tied_embeddings=tied or decoder.tied_embeddings)
    return decoder, notes


def _text_only(reader: _Reader, name: str, source: str) -> ModelSpec:
    decoder, notes = _decoder(reader)
    return ModelSpec(name=name, family=reader.data["model_type"], decoder=decoder, source=source, notes=notes)


def _tower(reader: _Reader, feature_layer: int) -> VisionSpec:
    """A CLIP or SigLIP tower whose features are taken at hidden state `feature_layer`."""
    kind = str(reader.data.get("model_type"))
    if kind not in ("siglip_vision_model", "clip_vision_model"):
        allowed = ("siglip_vision_model", "clip_vision_model")
        raise UnknownNameError("model_type", kind, allowed, where=f"{reader.where}: {reader.prefix}")
    stored = reader.count("num_hidden_layers")
    # hidden states are numbered from the embedding (0) to the last layer's output (stored)
    runs = feature_layer if feature_layer >= 0 else stored + 1 + feature_layer
    if not 0 < runs <= stored:
        raise InvalidValueError(
            "vision_feature_layer", f"within the tower's {stored} layers", feature_layer, where=reader.where
        )
    image, patch = reader.count("image_size"), reader.count("patch_size")
    if patch > image:
        raise reader.fail("patch_size", f"at most image_size ({image})")
    if reader.count("hidden_size") % reader.count("num_attention_heads"):
        raise reader.fail("num_attention_heads", f"a divisor of hidden_size ({reader.count('hidden_size')})")
    return VisionSpec(
        hidden=reader.count("hidden_size"),
        intermediate=reader.count("intermediate_size"),
        layers=runs,
        stored_layers=stored,
        heads=reader.count("num_attention_heads"),
        image_size=image,
        patch_size=patch,
        class_token=kind == "clip_vision_model",
    )


def _feature_layer(reader: _Reader, default: int) -> int:
    value = reader.data.get("vision_feature_layer", default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise reader.fail("vision_feature_layer", "a whole number")
    return value


def _two_linears(vision: VisionSpec, decoder: DecoderSpec) -> tuple[tuple[int, int], ...]:
    return ((vision.hidden, decoder.hidden), (decoder.hidden, decoder.hidden))


def _llava(reader: _Reader, name: str, source: str) -> ModelSpec:
    """LLaVA-1.5 and its kin: every patch of a fixed-size image becomes a token."""
    decoder, notes = _text_section(reader)
    vision = _tower(reader.section("vision_config"), _feature_layer(reader, -2))
    side = math.isqrt(vision.patches)
    # LongVA pools each frame 2x2 before the language model; llava-hf configs do not.
    stride = reader.count("spatial_pool_stride", 1)
    if stride > side:
        raise reader.fail("spatial_pool_stride", f"at most the patch grid's side ({side})")
    tokens = (side // stride) ** 2
    projector = ProjectorSpec(linears=_two_linears(vision, decoder), tokens_per_image=tokens, tokens_per_frame=tokens)
    return ModelSpec(
        name=name,
        family="llava",
        decoder=decoder,
        vision=vision,
        projector=projector,
        source=source,
        notes=notes,
    )


def _llava_onevision(reader: _Reader, name: str, source: str) -> ModelSpec:
    """LLaVA-OneVision: a frame's patch grid is pooled 2x2 (rounding up), a video ends in a newline."""
    decoder, notes = _text_section(reader)
    vision = _tower(reader.section("vision_config"), _feature_layer(reader, -1))
    pooled = math.ceil(math.isqrt(vision.patches) / 2)
    projector = ProjectorSpec(
        linears=_two_linears(vision, decoder),
        tokens_per_image=vision.patches,
        tokens_per_frame=pooled * pooled,
        newline_token=True,
    )
    return ModelSpec(
        name=name,
        family="llava_onevision",
        decoder=decoder,
        vision=vision,
        projector=projector,
        source=source,
        notes=notes,
    )


def _qwen_vl(reader: _Reader, name: str, source: str) -> ModelSpec:
    """Qwen and, where the config has a ``visual`` section, Qwen-VL: 256 queries an image."""
    decoder, notes = _decoder(reader)
    if not isinstance(reader.data.get("visual"), Mapping):
        return ModelSpec(name=name, family="qwen", decoder=decoder, source=source, notes=notes)
    queries = reader.section("visual").count("n_queries", 256)
    projector = ProjectorSpec(linears=(), tokens_per_image=queries, tokens_per_frame=queries)
    notes = (*notes, "the vision tower and resampler of Qwen-VL are not priced, only its language model")
    return ModelSpec(name=name, family="qwen", decoder=decoder, projector=projector, source=source, notes=notes)


FAMILIES: Mapping[str, Callable[[_Reader, str, str], ModelSpec]] = {
    "llama": _text_only,
    "mistral": _text_only,
    "qwen2": _text_only,
    "qwen3": _text_only,
    "qwen": _qwen_vl,
    "llava": _llava,
    "llava_onevision": _llava_onevision,
}
