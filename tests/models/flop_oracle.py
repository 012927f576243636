"""transformers on the meta device under `FlopCounterMode`: what every estimate must equal exactly.

Three things are taken off, found by module or given by their shape, so that nothing else can hide
behind them:

* what a rotary embedding counts while it makes its angles (some versions multiply inv_freq (d/2 x 1)
  by positions (1 x n) as matrices);
* tower layers above the one whose features are taken: transformers runs them, nothing needs them;
* the mask of Llama-3.2-Vision's tower, made as a product of a column and a row.
"""

from __future__ import annotations

import ast
import math
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText


def build(config: dict[str, Any], *, image_text: bool = False) -> torch.nn.Module:
    """The model of a configuration on the meta device, experts as batched products."""
    family = AutoModelForImageTextToText if image_text else AutoModelForCausalLM
    made = AutoConfig.for_model(**config)
    with torch.device("meta"):
        model = family.from_config(made, dtype=torch.bfloat16, attn_implementation="sdpa")
    # a loop over the experts that were hit needs values, which meta tensors have not
    model.set_experts_implementation("batched_mm")
    return model.eval()


def counted(call: Any) -> int:
    """FLOPs of a call, those inside rotary embeddings left out."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call()
    by_module = counter.get_flop_counts()
    angles = sum(
        sum(counts.values())
        for name, counts in by_module.items()
        if name.rpartition(".")[2] in ("rotary_emb", "rotary_pos_emb")
    )
    return counter.get_total_flops() - angles


def text_flops(model: torch.nn.Module, *, batch: int, tokens: int) -> int:
    """A prefill of `tokens` tokens, logits of the last one."""
    ids = torch.zeros(batch, tokens, dtype=torch.long, device="meta")
    return counted(lambda: model(input_ids=ids, logits_to_keep=1))


def parameter_count(model: torch.nn.Module) -> int:
    """Stored parameters, tied ones once."""
    return sum({id(p): p.numel() for p in model.parameters()}.values())


def fixed_tower_flops(model: torch.nn.Module, *, inputs: int, size: int) -> int:
    """Tower and projector of LLaVA or InternVL on `inputs` squares of `size` pixels."""
    pixels = torch.zeros(inputs, 3, size, size, dtype=torch.bfloat16, device="meta")
    config = model.config
    if config.model_type == "llava_next":
        # its get_image_features also sorts tiles into images: one image of `inputs` tiles of features
        def call() -> None:
            features = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
            model.model.multi_modal_projector(features[config.vision_feature_layer][:, 1:])

        return counted(call)
    if config.model_type == "llava_onevision":
        return counted(lambda: model.model.get_video_features(pixel_values_videos=pixels[None]))
    return counted(lambda: model.model.get_image_features(pixel_values=pixels))


def video_flops(model: torch.nn.Module, *, frames: int, size: int) -> tuple[int, tuple[int, ...]]:
    """Tower, pooling and projector of LLaVA-NeXT-Video on a video, and the shape of its features."""
    pixels = torch.zeros(1, frames, 3, size, size, dtype=torch.bfloat16, device="meta")
    found = []
    flops = counted(lambda: found.append(model.model.get_video_features(pixel_values_videos=pixels)))
    return flops, tuple(found[0].pooler_output.shape)


def _segments(tower: torch.nn.Module, grid: torch.Tensor, patches: int, pixels: int) -> list[torch.Tensor]:
    """Where the segments of attention end, in a windowed block and in a full one: told by a thin twin on a CPU."""
    thin = dict.fromkeys(("embed_dim", "hidden_size", "intermediate_size", "out_hidden_size"), 16)
    thin |= {"depth": 2, "num_heads": 1, "fullatt_block_indexes": [1], "deepstack_visual_indexes": []}
    twin = type(tower)(type(tower.config)(**{**tower.config.to_dict(), **thin}))
    ends: list[torch.Tensor] = []

    def record(states: torch.Tensor, cu_seqlens: torch.Tensor, **_: Any) -> torch.Tensor:
        ends.append(cu_seqlens)
        return states

    for block in twin.blocks:
        block.forward = record
    with torch.no_grad():
        twin(torch.zeros(patches, pixels), grid_thw=grid)
    return ends


def dynamic_tower_flops(model: torch.nn.Module, *, steps: int, rows: int, columns: int) -> int:
    """Tower and mergers of Qwen-VL on `steps` grids of patches (of one image or video each).

    What it derives from the grids' values is handed to it: numbers are not known on the meta device.
    """
    config = model.config.vision_config
    grid = torch.tensor([[steps, rows, columns]])
    patches = steps * rows * columns
    pixels = config.in_channels * config.temporal_patch_size * config.patch_size**2

    def empty(*shape: int, dtype: torch.dtype = torch.long) -> torch.Tensor:
        return torch.zeros(*shape, dtype=dtype, device="meta")

    windows, frames = _segments(model.model.visual, grid, patches, pixels)
    given = {"position_ids": empty(patches, 2), "cu_seqlens": frames}
    if hasattr(config, "window_size"):
        order = empty(patches // config.spatial_merge_size**2)
        given.update(window_index=order, cu_window_seqlens=windows)
    if hasattr(config, "num_position_embeddings"):
        taps = empty(patches, 4, dtype=torch.float32)
        given.update(interp_indices=empty(patches, 4), interp_weights=taps)
    x = empty(patches, pixels, dtype=torch.bfloat16)
    return counted(lambda: model.model.visual(x, grid_thw=grid, **given))


def crossing_flops(model: torch.nn.Module, *, images: int, tokens: int) -> tuple[int, int]:
    """Llama-3.2-Vision: tower and projector, and the language model on `tokens` text tokens."""
    config = model.config.vision_config
    tiles, side = config.max_num_tiles, config.image_size
    pixels = torch.zeros(1, images, tiles, 3, side, side, dtype=torch.bfloat16, device="meta")
    shape = torch.ones(1, images, dtype=torch.long, device="meta")
    mask = torch.ones(1, images, tiles, dtype=torch.long, device="meta")
    inner = model.model

    def see() -> None:
        features = inner.vision_model(pixels, shape, mask).last_hidden_state
        inner.multi_modal_projector(features)

    patches = (side // config.patch_size) ** 2 + 1
    width = model.config.text_config.hidden_size
    states = torch.zeros(images * tiles, patches, width, dtype=torch.bfloat16, device="meta")
    ids = torch.zeros(1, tokens, dtype=torch.long, device="meta")
    attended = tiles * (patches + -patches % 8)
    mask_product = images * 2 * attended * attended
    # as its processor gives it; without one the layers would attend causally
    which = torch.ones(1, tokens, images, tiles, dtype=torch.long, device="meta")

    def read() -> None:
        model(input_ids=ids, cross_attention_states=states, cross_attention_mask=which, logits_to_keep=1)

    return counted(see) - mask_product, counted(read)


def counting_functions(path: str, methods: tuple[str, ...] = ()) -> SimpleNamespace:
    """Functions and `get_num…` methods of a processor's file in transformers, and others named, as plain functions.

    The files import image libraries that counting does not need, so their definitions are taken out.
    """
    source = (Path(transformers.__file__).parent / "models" / path).read_text(encoding="utf-8")
    tree = ast.parse(source)
    wanted = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    for owner in tree.body:
        if isinstance(owner, ast.ClassDef):
            own = [node for node in owner.body if isinstance(node, ast.FunctionDef)]
            wanted += [node for node in own if node.name.startswith("get_num") or node.name in methods]
    for node in wanted:
        node.decorator_list, node.returns = [], None
        for argument in [*node.args.args, *node.args.kwonlyargs]:
            argument.annotation = None
    names: dict[str, Any] = {"math": math, "lru_cache": lru_cache}
    exec(compile(ast.Module(body=wanted, type_ignores=[]), path, "exec"), names)
    return SimpleNamespace(**names)
