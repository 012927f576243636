"""HF ``text_config`` mapping → DecoderSpec."""

from __future__ import annotations

from dataclasses import replace

from ...errors import UnknownNameError
from ...types import DecoderSpec, MoeSpec
from .class_defaults import CLASS_DEFAULTS, SECTION_TYPES
from .reader import Reader

__all__ = ["DECODER_TYPES", "decoder_spec", "text_section"]

DENSE_TYPES = ("llama", "mistral", "qwen2", "qwen3", "qwen")
MOE_TYPES = ("mixtral", "qwen2_moe", "qwen3_moe")
DECODER_TYPES = (*DENSE_TYPES, *MOE_TYPES)
# A composite names its language model's type separately.
_TEXT_ALIASES = {
    "qwen2_vl": "qwen2",
    "qwen2_vl_text": "qwen2",
    "qwen2_5_vl": "qwen2",
    "qwen2_5_vl_text": "qwen2",
    "qwen3_vl_text": "qwen3",
    "qwen3_vl_moe_text": "qwen3_moe",
    "mllama_text_model": "llama",
}
# Composites obey their own ``tie_word_embeddings``; the classes of these take over the language model's as well.
_INNER_TIES = ("llava", "llava_onevision", "qwen2_vl", "qwen2_5_vl")
# Sizes that a config.json of a language model alone states: without one it is not that model's file.
_STATED = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")


def decoder_spec(reader: Reader) -> tuple[DecoderSpec, tuple[str, ...]]:
    given = reader.get("model_type")
    kind = _TEXT_ALIASES.get(str(given), given)
    if kind not in DECODER_TYPES:
        raise UnknownNameError(
            "model_type", str(given), DECODER_TYPES, where=f"{reader.where}: {reader.prefix or 'model'}"
        )
    if not reader.prefix:
        own = SECTION_TYPES.get(str(given), {}).get("text_config", str(given))
        reader.defaults = {key: value for key, value in CLASS_DEFAULTS.get(own, {}).items() if key not in _STATED}
    notes: tuple[str, ...] = ()
    hidden, heads = reader.count("hidden_size"), reader.count("num_attention_heads")
    kv_heads = reader.count("num_key_value_heads", heads)
    if heads % kv_heads:
        raise reader.fail("num_key_value_heads", f"a divisor of num_attention_heads ({heads})")
    if reader.get("head_dim") is None and hidden % heads:
        raise reader.fail("num_attention_heads", f"a divisor of hidden_size ({hidden}), or head_dim given")
    moe = _moe(reader, str(kind)) if kind in MOE_TYPES else None
    if moe is None:
        intermediate = reader.count("intermediate_size")
    else:
        intermediate = moe.active * moe.intermediate + moe.shared_intermediate
    if kind == "qwen":
        # Qwen-1 builds gate and up with half of intermediate_size (its own modeling file).
        if intermediate % 2:
            raise reader.fail("intermediate_size", "even, since Qwen halves it")
        notes += (f"Qwen halves intermediate_size: the MLP is {intermediate // 2} wide, not {intermediate}",)
        intermediate //= 2
    layers = reader.count("num_hidden_layers")
    window, window_layers = _window(reader, str(kind), layers)
    qwen_bias = kind in ("qwen2", "qwen") or (kind == "qwen2_moe" and reader.flag("qkv_bias", True))
    bias = reader.flag("attention_bias", False)
    return (
        DecoderSpec(
            hidden=hidden,
            intermediate=intermediate,
            layers=layers,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=reader.count("head_dim", hidden // heads),
            vocab=reader.count("vocab_size"),
            qkv_bias=qwen_bias or bias,
            out_bias=bias and kind != "qwen",
            mlp_bias=reader.flag("mlp_bias", False),
            qk_norm=kind in ("qwen3", "qwen3_moe"),
            tied_embeddings=reader.flag("tie_word_embeddings", False),
            moe=moe,
            window=window,
            window_layers=window_layers,
            context_limit=reader.limit("max_position_embeddings"),
            context_assumed=reader.data.get("max_position_embeddings") is None,
        ),
        notes,
    )


def _window(reader: Reader, kind: str, layers: int) -> tuple[int, tuple[int, ...] | None]:
    """Size of the sliding window (zero: none), and the layers that have it (None: all).

    Mistral, Mixtral and Qwen3-MoE: all layers or none. Qwen2 and Qwen3: those from `max_window_layers` on.
    Qwen2-MoE: every other one below it. ``layer_types`` overrides the two last.
    """
    if kind in ("mistral", "mixtral"):
        return (reader.count("sliding_window"), None) if reader.get("sliding_window") is not None else (0, None)
    if kind not in ("qwen2", "qwen3", "qwen2_moe", "qwen3_moe") or not reader.flag("use_sliding_window", False):
        return 0, None
    if reader.get("sliding_window") is None:
        return 0, None
    window = reader.count("sliding_window")
    if kind == "qwen3_moe":
        return window, None
    given = reader.get("layer_types")
    first = reader.get("max_window_layers")
    if isinstance(given, list) and len(given) == layers:
        some = tuple(index for index, name in enumerate(given) if name == "sliding_attention")
    elif isinstance(first, bool) or not isinstance(first, int) or first < 0:
        raise reader.fail("max_window_layers", "a whole number")
    elif kind == "qwen2_moe":
        some = tuple(range(0, min(first, layers), 2))
    else:
        some = tuple(range(min(first, layers), layers))
    return (window, some) if some else (0, None)


def _moe(reader: Reader, kind: str) -> MoeSpec:
    """Experts in every layer; models that mix them with plain layers are refused."""
    if reader.count("decoder_sparse_step", 1) != 1 or reader.get("mlp_only_layers"):
        raise reader.fail(
            "mlp_only_layers" if reader.get("mlp_only_layers") else "decoder_sparse_step",
            "omitted or 1: every layer has experts",
        )
    mixtral = kind == "mixtral"
    # transformers 5 writes the one name where 4 wrote the other
    names = ("num_local_experts", "num_experts")
    experts = reader.count(next((name for name in names if name in reader.data), names[0 if mixtral else 1]))
    active = reader.count("num_experts_per_tok")
    if active > experts:
        raise reader.fail("num_experts_per_tok", f"at most the {experts} experts")
    return MoeSpec(
        experts=experts,
        active=active,
        intermediate=reader.count("intermediate_size" if mixtral else "moe_intermediate_size"),
        shared_intermediate=reader.count("shared_expert_intermediate_size") if kind == "qwen2_moe" else 0,
    )


def text_section(reader: Reader) -> tuple[DecoderSpec, tuple[str, ...]]:
    section = reader.part("text_config")
    decoder, notes = decoder_spec(section)
    kind = str(reader.data.get("model_type"))
    if kind not in _INNER_TIES:
        section.filled.pop("tie_word_embeddings", None)  # the language model's is not obeyed
    reader.defaults = CLASS_DEFAULTS.get(kind, {})
    tied = reader.flag("tie_word_embeddings", False) or (kind in _INNER_TIES and decoder.tied_embeddings)
    return replace(decoder, tied_embeddings=tied), notes
