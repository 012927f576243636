"""Seeded tensors on which released functions and this project's are compared: the same on every machine.

Legacy NumPy generators are frozen, so that the streams never change. Features are smooth fields with noise, as
neighbouring patches are; queries, keys and attention are random.
"""

from __future__ import annotations

import numpy as np
import torch

SEEDS = (0, 1, 2)


def normal(seed: int, *shape: int) -> torch.Tensor:
    """Standard normal fp32 values."""
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype(np.float32))


def field(seed: int, side: int, width: int) -> torch.Tensor:
    """(side², width) features that vary slowly over a square grid, and a third as much noise."""
    draw = np.random.RandomState(seed)
    coarse = draw.standard_normal((5, 5, width))
    at = np.linspace(0, 4, side)
    low = np.minimum(at.astype(int), 3)
    part = (at - low)[:, None, None]
    rows = coarse[low] * (1 - part) + coarse[low + 1] * part
    part = (at - low)[None, :, None]
    smooth = rows[:, low] * (1 - part) + rows[:, low + 1] * part
    noise = draw.standard_normal(smooth.shape)
    return torch.from_numpy((smooth + 0.33 * noise).reshape(side * side, width).astype(np.float32))


def attention_of(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """(H, n, n) attention of (H, n, d) queries and keys."""
    return (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).softmax(-1)


def fill(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Overwrite a model's weights, in the order of their names: matrices sharp enough for attention to differ."""
    draw = np.random.RandomState(seed)
    with torch.no_grad():
        for _, weight in sorted(model.named_parameters()):
            drawn = draw.standard_normal(tuple(weight.shape)).astype(np.float32)
            weight.copy_(torch.from_numpy(drawn) * (0.18 if weight.ndim > 1 else 0.1) + (weight.ndim == 1))
    return model.eval()


LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 128,
    "max_position_embeddings": 2048,
}
"""The decoder of the in-model cases; seeds fill its weights."""
BEFORE, VISUAL, AFTER = 6, 144, 14
KEEP = [60, 40, 20]
"""Visual tokens that SparseVLM keeps beside merged ones, of `VISUAL`."""


def decoder(seed: int) -> torch.nn.Module:
    """The decoder, attending eagerly."""
    from transformers import AutoConfig, AutoModel

    shape = {key: value for key, value in LLAMA.items() if key != "model_type"}
    config = AutoConfig.for_model("llama", **shape, attn_implementation="eager")
    return fill(AutoModel.from_config(config), seed)


def prompt(seed: int) -> torch.Tensor:
    """(1, P, 64) embeddings: text, a smooth field of visual tokens, text."""
    text = normal(1000 + seed, BEFORE + AFTER, 64)
    return torch.cat((text[:BEFORE], field(2000 + seed, 12, 64), text[BEFORE:]))[None]


def video(seed: int) -> torch.Tensor:
    """(6 · 144, 64) tokens of a video whose scene changes every second frame."""
    frames = torch.cat([field(10 * seed + frame // 2, 12, 64) for frame in range(6)])
    return frames + 0.2 * normal(700 + seed, 6 * 144, 64)


def asked(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Projected tokens of two crops (2, 144, 64); the tokens and a question of two segments, 32 wide, in one space."""
    features = torch.stack([field(3000 + 2 * seed + crop, 12, 64) for crop in range(2)])
    image = torch.stack([field(3100 + 2 * seed + crop, 12, 32) for crop in range(2)])
    return features, image, normal(3200 + seed, 2, 32)


def sized(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens of a tower behind a class token (1, 145, 64), patches that each stands for, and keys (1, 4, 145, 16)."""
    token = normal(3300 + seed, 1, 64)
    x = torch.cat((token, field(3400 + seed, 12, 64)))[None]
    sizes = 1.0 + normal(3500 + seed, 1, 145, 1).abs().floor()
    keys = torch.cat((token, field(3600 + seed, 12, 64)))
    return x, sizes, keys.unflatten(-1, (4, 16)).transpose(0, 1)[None]


def picture(seed: int) -> torch.Tensor:
    """Pixels (1, 3, 96, 96) whose colours vary slowly."""
    return field(3700 + seed, 96, 3).T.reshape(1, 3, 96, 96).contiguous()


def llava(seed: int) -> torch.nn.Module:
    """A LLaVA of 144 patches: five tower layers, of which four are used, and the decoder of the in-model cases."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 5, "num_attention_heads": 4}
    vision = {"model_type": "clip_vision_model", "image_size": 96, "patch_size": 8, **shape}
    config = AutoConfig.for_model("llava", text_config=dict(LLAMA), vision_config=vision, image_token_index=101)
    return fill(AutoModelForImageTextToText.from_config(config), seed)


def numbers(tokens: torch.Tensor) -> list[list[float]]:
    """Two numbers a token (its norm and its product with a fixed vector): enough to tell tokens apart."""
    tokens = tokens.float()
    along = tokens @ normal(99, tokens.shape[-1])
    return [[round(float(n), 4), round(float(a), 4)] for n, a in zip(tokens.norm(dim=-1), along, strict=True)]
