"""HF ``text_config`` mapping → DecoderSpec."""

from __future__ import annotations

from dataclasses import replace

from ...errors import UnknownNameError
from ...types import DecoderSpec, MoeSpec
from .reader import Reader

__all__ = ["DECODER_TYPES", "decoder_spec", "text_section"]

DENSE_TYPES = ("llama", "mistral", "qwen2", "qwen3", "qwen")
MOE_TYPES = ("mixtral", "qwen2_moe", "qwen3_moe")
DECODER_TYPES = (*DENSE_TYPES, *MOE_TYPES)
# The language model of a composite goes by a name of its own there.
_TEXT_ALIASES = {
    "qwen2_vl": "qwen2",
    "qwen2_vl_text": "qwen2",
    "qwen2_5_vl": "qwen2",
    "qwen2_5_vl_text": "qwen2",
    "qwen3_vl_text": "qwen3",
    "qwen3_vl_moe_text": "qwen3_moe",
    "mllama_text_model": "llama",
}
# What the configuration classes of transformers 5.23 fill in; a composite's config.json may omit it.
_DEFAULTS = {
    "llama": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "vocab_size": 32000,
    },
    "mistral": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "vocab_size": 32000,
    },
}


def decoder_spec(reader: Reader) -> tuple[DecoderSpec, tuple[str, ...]]:
    given = reader.get("model_type")
    kind = _TEXT_ALIASES.get(str(given), given)
    if kind not in DECODER_TYPES:
        raise UnknownNameError(
            "model_type", str(given), DECODER_TYPES, where=f"{reader.where}: {reader.prefix or 'model'}"
        )
    reader, notes = _filled(reader, str(kind))
    hidden, heads = reader.count("hidden_size"), reader.count("num_attention_heads")
    kv_heads = reader.count("num_key_value_heads", 8 if kind in ("mistral", "mixtral") else heads)
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
    notes += _window(reader, str(kind))
    qwen_bias = kind in ("qwen2", "qwen", "qwen2_moe")
    bias = reader.flag("attention_bias", False)
    return (
        DecoderSpec(
            hidden=hidden,
            intermediate=intermediate,
            layers=reader.count("num_hidden_layers"),
            heads=heads,
            kv_heads=kv_heads,
            head_dim=reader.count("head_dim", 128 if kind in ("qwen3", "qwen3_moe") else hidden // heads),
            vocab=reader.count("vocab_size"),
            qkv_bias=qwen_bias or bias,
            out_bias=bias and kind != "qwen",
            mlp_bias=reader.flag("mlp_bias", False),
            qk_norm=kind in ("qwen3", "qwen3_moe"),
            tied_embeddings=reader.flag("tie_word_embeddings", False),
            moe=moe,
        ),
        notes,
    )


def _filled(reader: Reader, kind: str) -> tuple[Reader, tuple[str, ...]]:
    """The language model of a composite, with the sizes that its config.json leaves to transformers."""
    missing = {key: value for key, value in _DEFAULTS.get(kind, {}).items() if reader.get(key) is None}
    if not reader.prefix or not missing:
        return reader, ()
    filled = reader.with_defaults(missing)
    sizes = ", ".join(f"{key} {value}" for key, value in missing.items())
    return filled, (f"{reader.prefix.rstrip('.')} not in config.json, transformers' defaults assumed: {sizes}",)


def _window(reader: Reader, kind: str) -> tuple[str, ...]:
    """A note where layers attend to a window only: they are priced as attending to everything."""
    window = reader.get("sliding_window", 4096 if kind == "mistral" else None)
    if window is None or (kind != "mistral" and not reader.flag("use_sliding_window", False)):
        return ()
    return (f"sliding_window {window}: attention is priced in full, an overestimate beyond {window} tokens",)


def _moe(reader: Reader, kind: str) -> MoeSpec:
    """Experts in every layer; models that mix them with plain layers are refused."""
    if reader.count("decoder_sparse_step", 1) != 1 or reader.get("mlp_only_layers"):
        raise reader.fail(
            "mlp_only_layers" if reader.get("mlp_only_layers") else "decoder_sparse_step",
            "omitted or 1: every layer has experts",
        )
    mixtral = kind == "mixtral"
    experts = reader.count("num_local_experts" if mixtral else "num_experts")
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
    section = reader.section("text_config")
    decoder, notes = decoder_spec(section)
    if "tie_word_embeddings" in reader.data:  # the outer flag is the one that transformers obeys
        tied = reader.flag("tie_word_embeddings", False)
        decoder = replace(decoder, tied_embeddings=tied or decoder.tied_embeddings)
    return decoder, notes
