"""transformers' own figures for a configuration: parameters, FLOPs by `FlopCounterMode`, bytes of the real cache.

On the ``meta`` device where the model runs there, with experts as batched products and fused attention.
Nothing of the tracer is used.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, DynamicCache
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

__all__ = ["RealModel", "RealTower"]


class RealModel:
    """A model and its cache.

    Parameters
    ----------
    device
        ``meta``, or ``cpu`` for layers that look at values (a small configuration then).
    """

    def __init__(self, config: dict[str, Any], device: str = "meta") -> None:
        self.device = device
        self.config = AutoConfig.for_model(**config)
        family = AutoModelForCausalLM if config["model_type"] in CAUSAL else AutoModelForImageTextToText
        with torch.device(device):
            try:
                model = family.from_config(self.config, dtype=torch.bfloat16, attn_implementation="sdpa")
            except ValueError:  # a model of its own attention: sinks, soft caps
                model = family.from_config(self.config, dtype=torch.bfloat16, attn_implementation="eager")
        self.model = model.eval()
        self.model.set_experts_implementation("batched_mm")

    @property
    def parameters(self) -> int:
        """Stored parameters, tied ones once."""
        return sum({id(p): p.numel() for p in self.model.parameters()}.values())

    def _call(self, batch: int, tokens: int, cache: Any) -> Any:
        names = inspect.signature(self.model.forward).parameters

        given = {
            "input_ids": torch.ones(batch, tokens, dtype=torch.long, device=self.device),
            "use_cache": True,
            "logits_to_keep": 1,
        }
        slot = next(name for name in ("cache", "past_key_values", "cache_params") if name in names)
        own = self.config.model_type == "minimax"
        given[slot] = cache if cache is not None or own else DynamicCache(config=self.config)
        output = self.model(**{name: value for name, value in given.items() if name in names})
        found = getattr(output, slot, None)
        return given[slot] if found is None else found

    def flops(self, batch: int, tokens: int, *, cached: int = 0) -> tuple[int, tuple[float, ...]]:
        """FLOPs of `tokens` new tokens a request after `cached` ones, and the bytes of the cache by layer afterwards.

        What rotary embeddings count while they make their angles is left out.
        """
        with torch.no_grad():
            cache = self._call(batch, cached, None) if cached else None
            with FlopCounterMode(display=False) as counter:
                cache = self._call(batch, tokens, cache)
        angles = sum(
            sum(counts.values())
            for name, counts in counter.get_flop_counts().items()
            if "rotary" in name.rpartition(".")[2]
        )
        return counter.get_total_flops() - angles, _by_layer(cache)


class RealTower:
    """The tower and projector of an image-text model.

    Parameters
    ----------
    device
        ``meta``, or ``cpu`` for towers that put what they compute beside real masks (a small configuration then).
    """

    def __init__(self, config: dict[str, Any], device: str = "meta") -> None:
        self.config, self.device = AutoConfig.for_model(**config), device
        with torch.device(device):
            # fused attention on a CPU is an op that FlopCounterMode does not count
            attention = "eager" if device == "cpu" else "sdpa"
            try:
                model = AutoModelForImageTextToText.from_config(
                    self.config, dtype=torch.bfloat16, attn_implementation=attention
                )
            except ValueError:  # a language model of its own attention
                apart = {"": "eager", "text_config": "eager", "vision_config": attention}
                model = AutoModelForImageTextToText.from_config(
                    self.config, dtype=torch.bfloat16, attn_implementation=apart
                )
        self.model = model.eval()

    @property
    def parameters(self) -> int:
        """Stored parameters that are neither the language model's nor of audio."""
        whole = {id(p): p.numel() for name, p in self.model.named_parameters() if "audio" not in name}
        language = {id(p) for p in self.model.get_decoder().parameters()}
        language |= {id(p) for p in self.model.get_output_embeddings().parameters()}
        return sum(size for key, size in whole.items() if key not in language)

    def flops(self, images: int, high: int, wide: int) -> int:
        """FLOPs on images of that many pixels, without those of rotary angles."""
        owner = self.model.model if hasattr(self.model, "model") else self.model
        vision = self.config.vision_config
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            if self.config.model_type == "lfm2_vl":
                # half of every input is padding, as of an image of half a tile
                side = high // vision.patch_size
                pixels = torch.empty(images, side**2, 3 * vision.patch_size**2, device=self.device)
                shapes, shown = torch.tensor([[side // 2, side]] * images), torch.zeros(images, side**2)
                shown[:, : side**2 // 2] = 1
                owner.get_image_features(pixels.bfloat16(), spatial_shapes=shapes, pixel_attention_mask=shown)
            elif "image_grid_thw" in inspect.signature(owner.get_image_features).parameters:
                rows, columns, temporal = high // vision.patch_size, wide // vision.patch_size, 2
                each = [3 * temporal * vision.patch_size**2]
                if self.config.model_type == "kimi_k25":
                    each = [3, vision.patch_size, vision.patch_size]
                pixels = torch.empty(images * rows * columns, *each, device=self.device)
                grid = torch.tensor([[1, rows, columns]] * images)
                owner.get_image_features(pixels.bfloat16(), image_grid_thw=grid)
            else:
                self._square(owner, torch.empty(images, 3, high, wide, dtype=torch.bfloat16, device=self.device))
        angles = sum(
            sum(counts.values())
            for name, counts in counter.get_flop_counts().items()
            if "rotary" in name.rpartition(".")[2]
        )
        return counter.get_total_flops() - angles

    def _square(self, owner: Any, pixels: torch.Tensor) -> None:
        kind = self.config.model_type
        if kind in ("idefics3", "smolvlm"):  # get_image_features looks for empty images by their values
            vision = self.config.vision_config
            side = vision.image_size // vision.patch_size
            embedded = owner.vision_model.embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
            assert embedded.shape[1] == side * side
            encoded = owner.vision_model.encoder(inputs_embeds=embedded).last_hidden_state
            owner.connector(owner.vision_model.post_layernorm(encoded))
        elif kind == "llava_next_video":  # get_image_features joins tiles by their image
            features = owner.vision_tower(pixels, output_hidden_states=True).hidden_states
            owner.multi_modal_projector(features[self.config.vision_feature_layer][:, 1:])
        elif kind == "llama4":
            found = owner.get_image_features(pixels).last_hidden_state
            owner.multi_modal_projector(found.reshape(-1, found.shape[-1]))
        elif self.config.vision_config.model_type == "pixtral":
            sizes = torch.tensor([list(pixels.shape[2:])] * len(pixels))  # get_image_features would move it to meta
            found = owner.vision_tower(pixels, image_sizes=sizes).last_hidden_state
            owner.multi_modal_projector(*((found.squeeze(0), sizes) if kind == "mistral3" else (found,)))
        else:
            owner.get_image_features(pixels)


def _by_layer(cache: Any) -> tuple[float, ...]:
    held = [_bytes(layer) for layer in cache.layers]
    for index, state in enumerate(getattr(cache, "linear_cache", [])):  # MiniMax's
        held += [0.0] * (index + 1 - len(held))
        held[index] += state.numel() * state.element_size() if isinstance(state, torch.Tensor) else 0.0
    return tuple(held)


def _bytes(layer: Any) -> float:
    held = {}
    for value in vars(layer).values():
        for entry in value.values() if isinstance(value, dict) else [value]:
            if isinstance(entry, torch.Tensor) and entry.ndim:  # a scalar is a window's width
                held[id(entry)] = entry.numel() * entry.element_size()
    return float(sum(held.values()))
