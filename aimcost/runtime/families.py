"""Where the parts of a transformers model are: decoder, its layers, and what feeds it visual tokens."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from ..errors import UnsupportedModelError

__all__ = ["MODEL_CLASSES", "Family", "locate"]

DECODERS: frozenset[str] = frozenset(
    {
        "LlamaModel",
        "Qwen2Model",
        "Qwen3Model",
        "MistralModel",
        "Qwen2VLTextModel",
        "Qwen2_5_VLTextModel",
        "Qwen3VLTextModel",
    }
)
CONTAINERS: frozenset[str] = frozenset(
    {
        "LlavaModel",
        "LlavaNextModel",
        "LlavaOnevisionModel",
        "InternVLModel",
        "Qwen2VLModel",
        "Qwen2_5_VLModel",
        "Qwen3VLModel",
    }
)
MODEL_CLASSES = tuple(sorted(DECODERS | CONTAINERS))
_MROPE_DECODERS = frozenset({"Qwen2VLTextModel", "Qwen2_5_VLTextModel", "Qwen3VLTextModel"})


@dataclass(frozen=True, kw_only=True)
class Family:
    """The parts of one model that a schedule is executed on.

    Attributes
    ----------
    decoder
        The language model without its head (it owns `layers`).
    container
        The multimodal module around it, which sees ``input_ids``; None for a text-only model.
    visual_ids
        Placeholder token ids of images and videos; empty for a text-only model.
    mrope
        Positions have time, height and width (Qwen-VL): survivors keep theirs.
    window
        Sliding attention window in tokens, or None.
    head
        The transformers model around them that turns hidden states into logits; None where there is none.
    """

    decoder: nn.Module
    container: nn.Module | None
    visual_ids: tuple[int, ...]
    mrope: bool
    window: int | None
    head: nn.Module | None = None

    @property
    def layers(self) -> nn.ModuleList:
        """The decoder layers, in order."""
        return self.decoder.layers


def _is_a(module: nn.Module, names: frozenset[str]) -> bool:
    return any(cls.__name__ in names for cls in type(module).__mro__)


def _window(config: object) -> int | None:
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if window is None or (kinds is not None and "sliding_attention" not in kinds):
        return None
    return int(window)


def locate(model: nn.Module) -> Family:
    """Find the decoder and its surroundings in `model`.

    Raises
    ------
    UnsupportedModelError
        No supported decoder, more than one, or layers without ``self_attn``.
    """
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(f"a schedule runs on a torch module (got {type(model).__name__})")
    decoders = [module for module in model.modules() if _is_a(module, DECODERS)]
    if len(decoders) != 1:
        raise UnsupportedModelError(
            f"{type(model).__name__}: found {len(decoders)} supported decoders, exactly one is needed; "
            f"supported: {', '.join(sorted(DECODERS))}"
        )
    decoder = decoders[0]
    if not len(decoder.layers) or not all(hasattr(layer, "self_attn") for layer in decoder.layers):
        raise UnsupportedModelError(f"{type(decoder).__name__}: every decoder layer needs a self_attn module")
    holders = [module for module in model.modules() if _is_a(module, CONTAINERS)]
    around = any(child is not decoder and hasattr(child, "language_model") for child in model.modules())
    if around and not holders:
        raise UnsupportedModelError(
            f"{type(model).__name__} wraps a language model in a multimodal class that is not supported; "
            f"supported: {', '.join(sorted(CONTAINERS))}"
        )
    container = holders[0] if holders else None
    ids = ("image_token_id", "video_token_id")
    found = [getattr(container.config, name, None) for name in ids] if container is not None else []
    return Family(
        decoder=decoder,
        container=container,
        visual_ids=tuple(int(token) for token in found if token is not None),
        mrope=_is_a(decoder, _MROPE_DECODERS),
        window=_window(decoder.config),
        head=_head(model, container if container is not None else decoder),
    )


def _head(model: nn.Module, inner: nn.Module) -> nn.Module | None:
    """The transformers model that holds `inner` as a direct part."""
    around = (module for module in model.modules() if any(child is inner for child in module.children()))
    return next((module for module in around if isinstance(module, PreTrainedModel)), None)
