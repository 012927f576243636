"""Models with random weights from a configuration, for demonstrations, measurements and tests."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel

from ..errors import InvalidValueError, UnknownNameError, UnsupportedModelError
from . import compat
from .families import locate

__all__ = ["build_model"]

WEIGHT_GAIN = 1.6
"""Standard deviation of a weight times the root of its fan-in. Around 1.6 attention is neither
uniform nor one-hot, so that scores tell tokens apart; transformers' own initialisation is near-uniform."""

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def build_model(
    config: Mapping[str, Any],
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "fp32",
    seed: int = 0,
    layers: int | None = None,
) -> PreTrainedModel:
    """A transformers model with random weights, in evaluation mode with SDPA attention.

    Parameters
    ----------
    config
        A Hugging Face configuration as a mapping; ``model_type`` names the family.
    device
        Where weights are drawn and stay; ``"meta"`` gives a model without storage.
    dtype
        ``fp32``, ``fp16``, ``bf16`` or the torch dtype.
    layers
        Decoder layers in place of the configuration's own.

    Raises
    ------
    InvalidValueError, UnknownNameError, UnsupportedModelError
        A configuration, dtype or layer count that makes no supported model.
    """
    if not isinstance(config, Mapping):
        raise InvalidValueError("config", "a Hugging Face configuration as a mapping", config)
    values = copy.deepcopy(dict(config))
    kind = values.pop("model_type", None)
    if not isinstance(kind, str):
        raise InvalidValueError("model_type", "the name of a transformers model type", kind)
    if layers is not None:
        _set_layers(values, layers)
    try:
        made = AutoConfig.for_model(kind, **compat.native_config(values))
    except ValueError as error:
        raise UnsupportedModelError(f"transformers cannot make a {kind!r} configuration: {error}") from error
    wanted = _dtype(dtype)
    family = AutoModelForImageTextToText if compat.takes_images(made) else AutoModelForCausalLM
    with torch.device(device), compat.without_initialization():
        model = family.from_config(made, dtype=wanted, attn_implementation="sdpa")
    locate(model)
    if torch.device(device).type != "meta":
        _draw_weights(model, torch.device(device), seed)
    return model.eval()


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in _DTYPES:
        raise UnknownNameError("dtype", dtype, _DTYPES)
    return _DTYPES[dtype]


def _set_layers(values: dict[str, Any], layers: int) -> None:
    if not isinstance(layers, int) or isinstance(layers, bool) or layers < 1:
        raise InvalidValueError("layers", "an integer of at least 1", layers)
    text = values.get("text_config")
    target = text if isinstance(text, dict) else values
    target["num_hidden_layers"] = layers
    if target.get("layer_types") is not None:
        target["layer_types"] = list(target["layer_types"])[:layers]


def _draw_weights(model: nn.Module, device: torch.device, seed: int) -> None:
    """Fill every parameter: biases with 0, norms with 1, all else drawn with a spread set by its fan-in."""
    generator = torch.Generator(device=device).manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            leaf = name.rsplit(".", 1)[-1]
            if parameter.ndim == 1 and leaf in ("bias", "weight"):
                parameter.fill_(0.0 if leaf == "bias" else 1.0)
                continue
            embedding = "embed" in name or leaf != "weight"
            fan_in = parameter.shape[-1] if embedding else parameter[0].numel()
            parameter.normal_(0.0, (1.0 if embedding else WEIGHT_GAIN) * fan_in**-0.5, generator=generator)
