"""Counts of transformers' own processors on random inputs: `make processors` runs this where torchvision is.

    python tests/golden/processors/generate.py [FOLDER [FAMILY ...]]

Writes a CSV a family, its first line the versions as JSON. Sizes alone are passed through the processors: images by
their counting functions, videos as tensors on the meta device through sampling, resizing and patching, a few of them
beside that as pixels through all of the processor, which must count the same.
"""

from __future__ import annotations

import csv
import json
import platform
import random
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision
import transformers
from transformers.models.glm4v.processing_glm4v import Glm4vProcessor
from transformers.models.glm4v.video_processing_glm4v import Glm4vVideoProcessor
from transformers.models.glm46v.processing_glm46v import Glm46VProcessor
from transformers.models.glm46v.video_processing_glm46v import Glm46VVideoProcessor
from transformers.models.got_ocr2.image_processing_got_ocr2 import GotOcr2ImageProcessor
from transformers.models.internvl.processing_internvl import InternVLProcessor
from transformers.models.internvl.video_processing_internvl import InternVLVideoProcessor
from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor
from transformers.models.llava_onevision.processing_llava_onevision import LlavaOnevisionProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor
from transformers.models.smolvlm import processing_smolvlm
from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor
from transformers.video_utils import VideoMetadata

ROWS = 1200
PIXEL_ROWS = 12
RATES = (24, 25, 30, 50, 60)
Row = dict[str, Any]
# What Qwen's tokenizers split text by before anything else; each piece of the text here is one token of theirs.
PIECES = re.compile(r" (?=</?img>)|<\|[a-z_]+\|>|</?img>|[^\r\nA-Za-z0-9<>:.]?[A-Za-z]+|[0-9]| ?[^\sA-Za-z0-9]|\n| ")
# The same of GLM-4's tokenizer and of SmolLM2's, by the patterns of llama.cpp's src/llama-vocab.cpp.
GLM_PIECES = re.compile(r"<\|[a-z_]+\|>|[^\r\nA-Za-z0-9<>.]?[A-Za-z]+|[0-9]{1,3}| ?[^\sA-Za-z0-9<>]+")
SMOL_PIECES = re.compile(r"<[a-z_-]+>|[0-9]| ?[A-Za-z]+| ?[^\sA-Za-z0-9<>]+|\s+(?!\S)|\s+")
TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
ONES = f"zero one two three four five six seven eight nine {TEENS}".split()
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def number_words(number: int) -> str:
    """A number below a thousand as the package num2words writes it, which SmolVLM's processor asks for."""
    if number < 20:
        return ONES[number]
    if number < 100:
        return TENS[number // 10 - 2] + (f"-{ONES[number % 10]}" if number % 10 else "")
    return f"{ONES[number // 100]} hundred" + (f" and {number_words(number % 100)}" if number % 100 else "")


def side(random_: random.Random, most: int = 4000) -> int:
    """Small, odd and huge sides alike."""
    return int(2 ** random_.uniform(4, torch.log2(torch.tensor(float(most))).item()))


def bare(kind: type, **attributes: Any) -> Any:
    """A processor without its tokenizer, for the methods that count."""
    processor = object.__new__(kind)
    for name, value in attributes.items():
        object.__setattr__(processor, name, value)
    return processor


def qwen_images(draw: random.Random) -> Iterator[Row]:
    """Qwen2-VL and 2.5 (patches of 14), Qwen3-VL (16)."""
    for _ in range(ROWS):
        patch = draw.choice((14, 16))
        block = (2 * patch) ** 2
        least = draw.choice((4, 64, 256)) * block
        most = least + draw.choice((64, 1280, 16384)) * block
        width, height = side(draw), side(draw)
        if max(width, height) > 200 * min(width, height):
            continue
        processor = Qwen2VLImageProcessor(min_pixels=least, max_pixels=most, patch_size=patch)
        yield {
            "width": width,
            "height": height,
            "patch": patch,
            "min_pixels": least,
            "max_pixels": most,
            "tokens": processor.get_number_of_image_patches(height, width) // 4,
        }


def internvl_images(draw: random.Random) -> Iterator[Row]:
    for _ in range(ROWS):
        least = draw.choice((1, 1, 2, 4))
        most = least + draw.randrange(12)
        width, height = side(draw), side(draw)
        processor = GotOcr2ImageProcessor(size={"height": 448, "width": 448}, min_patches=least, max_patches=most)
        tiles = processor.get_number_of_image_patches(height, width, dict(InternVLProcessor.images_kwargs))
        yield {"width": width, "height": height, "min_patches": least, "max_patches": most, "tiles": tiles}


class _Grids:
    def __init__(self, grids: list[list[int]]) -> None:
        self.image_grid_pinpoints = grids


def llava_next_images(draw: random.Random) -> Iterator[Row]:
    grids = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
    counter = bare(LlavaNextProcessor, image_processor=_Grids(grids), patch_size=14, num_additional_image_tokens=1)
    for _ in range(ROWS):
        width, height = side(draw), side(draw)
        # the class token that it counts is dropped by the strategy "default"
        yield {"width": width, "height": height, "tokens": counter._get_number_of_features(height, width, 336, 336) - 1}


def llava_onevision_images(draw: random.Random) -> Iterator[Row]:
    grids = [[384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)]
    for _ in range(ROWS):
        most = draw.choice((4, 9))
        counter = bare(
            LlavaOnevisionProcessor,
            image_processor=_Grids(grids),
            num_image_tokens=729,
            vision_aspect_ratio=f"anyres_max_{most}",
        )
        width, height = side(draw), side(draw)
        tokens = counter._get_number_of_features(height, width, 384, 384)
        yield {"width": width, "height": height, "max_tiles": most, "tokens": tokens}


def _clip(draw: random.Random) -> tuple[VideoMetadata, int, int, int, float]:
    """A source longer than the fewest frames, its size, and a rate to sample it at."""
    source = draw.choice(RATES)
    frames = max(8, int(2 ** draw.uniform(3, 17)))
    width, height = side(draw, 2160), side(draw, 2160)
    rate = draw.choice((0.25, 0.29, 0.5, 1, 1.5, 2, 3, 4, 8))
    return VideoMetadata(total_num_frames=frames, fps=source, duration=frames / source), source, width, height, rate


def qwen2_videos(draw: random.Random) -> Iterator[Row]:
    """Sampled, resized with the cap on all frames or without it, cut into patches."""
    for number in range(ROWS):
        metadata, source, width, height, rate = _clip(draw)
        if max(width, height) > 200 * min(width, height):
            continue
        limits = {"min_frames": draw.choice((4, 8)), "max_frames": draw.choice((16, 64, 768))}
        size = {"shortest_edge": draw.choice((16, 128)) * 784, "longest_edge": draw.choice((256, 768, 2048)) * 784}
        capped, budget = draw.random() < 0.7, draw.choice((8000, 128000))
        processor = Qwen2VLVideoProcessor(size=size, cap_pixels_per_frame=capped, max_video_tokens=budget, **limits)
        indices = processor.sample_frames(metadata, fps=rate)
        # torch.arange may add one past the last frame of the source, which no decoder has
        frames = int((indices < metadata.total_num_frames).sum())
        grid = _grid(processor, frames, height, width, capped, pixels=number < PIXEL_ROWS)
        if grid is None:
            continue
        yield {
            "total": metadata.total_num_frames,
            "source_fps": source,
            "fps": rate,
            "width": width,
            "height": height,
            **limits,
            "min_pixels": size["shortest_edge"],
            "max_pixels": size["longest_edge"],
            "total_pixels": int(budget * 784 * 0.9) if capped else 0,
            "frames": frames,
            "tokens": grid[0] * grid[1] * grid[2] // 4,
        }


def qwen3_videos(draw: random.Random) -> Iterator[Row]:
    """As Qwen2-VL's, with limits on all frames together, and the text between them."""
    text = bare(
        Qwen3VLProcessor,
        vision_start_token="<|vision_start|>",
        vision_end_token="<|vision_end|>",
        video_token="<|video_pad|>",
    )
    for number in range(ROWS):
        metadata, source, width, height, rate = _clip(draw)
        if max(width, height) > 100 * min(width, height):
            continue
        limits = {"min_frames": draw.choice((4, 8)), "max_frames": draw.choice((16, 64, 768))}
        size = {"shortest_edge": 4096, "longest_edge": draw.choice((2048, 24576, 98304)) * 1024}
        capped, cap = draw.random() < 0.5, draw.choice((256, 768))
        processor = Qwen3VLVideoProcessor(size=size, cap_pixels_per_frame=capped, max_video_tokens=cap, **limits)
        indices = processor.sample_frames(metadata, fps=rate)
        frames = len(indices)
        grid = _grid(processor, frames, height, width, capped, pixels=number < PIXEL_ROWS)
        if grid is None:
            continue
        metadata.frames_indices = list(indices)
        text.video_processor = processor
        tokens = grid[0] * grid[1] * grid[2] // 4
        inputs = {"video_grid_thw": torch.tensor([grid]), "video_metadata": [metadata]}
        written = text.replace_video_token(inputs, 0)
        yield {
            "total": metadata.total_num_frames,
            "source_fps": source,
            "fps": rate,
            "width": width,
            "height": height,
            **limits,
            "total_pixels": size["longest_edge"],
            "max_pixels": cap * 1024 if capped else 0,
            "frames": frames,
            "tokens": tokens,
            "text": _pieces(written) - tokens,
        }


def internvl_videos(draw: random.Random) -> Iterator[Row]:
    """Frames sampled at a rate, and the text between them."""
    counter = bare(
        InternVLProcessor,
        start_image_token="<img>",
        end_image_token="</img>",
        image_token="<|context|>",
        image_seq_length=4,
    )
    processor = InternVLVideoProcessor()
    while True:
        metadata, source, _, _, rate = _clip(draw)
        if metadata.total_num_frames / source * rate < 1 or metadata.total_num_frames > 20000:
            continue
        indices = processor.sample_frames(metadata, fps=rate, num_frames=None)
        frames = int((indices < metadata.total_num_frames).sum())
        video = torch.empty((frames, 3, 2, 2), device="meta")
        text = counter.replace_video_token({"pixel_values_videos": [video]}, 0)
        yield {
            "total": metadata.total_num_frames,
            "source_fps": source,
            "fps": rate,
            "frames": frames,
            "text": _pieces(text) - frames * 4,
        }


def _glm_videos(draw: random.Random, kind: Any, text: Any) -> Iterator[Row]:
    """Frames of both generations, with limits on all of them together, and the text between them."""
    for number in range(ROWS):
        metadata, source, width, height, rate = _clip(draw)
        if max(width, height) > 100 * min(width, height):
            continue
        if kind is Glm46VVideoProcessor or draw.random() < 0.3:
            rate = 0  # the processor's
        most = draw.choice((2048, 24576, 60000)) * 784
        processor = kind(size={"shortest_edge": 112 * 112, "longest_edge": most})
        text.video_processor = processor
        if metadata.total_num_frames / source * (rate or 2) < 1:
            continue
        indices = processor.sample_frames(metadata, fps=rate or None)
        grid = _grid(processor, len(indices), height, width, False, pixels=number < PIXEL_ROWS)
        if grid is None:
            continue
        metadata.frames_indices = list(indices)
        tokens = grid[0] * grid[1] * grid[2] // 4
        written = text.replace_video_token({"video_grid_thw": torch.tensor([grid]), "video_metadata": [metadata]}, 0)
        # the template puts a marker before and after
        yield {
            "total": metadata.total_num_frames,
            "source_fps": source,
            "fps": rate,
            "width": width,
            "height": height,
            "max_pixels": most,
            "frames": len(indices),
            "tokens": tokens,
            "text": _pieces(written, GLM_PIECES) - tokens + 2,
        }


def glm4v_videos(draw: random.Random) -> Iterator[Row]:
    return _glm_videos(draw, Glm4vVideoProcessor, bare(Glm4vProcessor, image_token="<|image|>"))


def glm46v_videos(draw: random.Random) -> Iterator[Row]:
    return _glm_videos(draw, Glm46VVideoProcessor, bare(Glm46VProcessor, image_token="<|image|>"))


def smolvlm_videos(draw: random.Random) -> Iterator[Row]:
    """Frames sampled at a rate, each a tile, and the text between them."""
    processing_smolvlm.num2words = number_words
    tokens = {"fake_image_token": "<fake_token_around_image>", "global_image_token": "<global-img>"}
    text = bare(processing_smolvlm.SmolVLMProcessor, image_token="<image>", image_seq_len=3, **tokens)
    processor = SmolVLMVideoProcessor(size={"longest_edge": 512}, max_image_size={"longest_edge": 512})
    for number in range(ROWS):
        metadata, source, width, height, rate = _clip(draw)
        if metadata.total_num_frames / source * rate < 1:
            continue
        most = draw.choice((16, 64, 300))
        indices = processor.sample_frames(metadata, num_frames=most, fps=rate)
        video = torch.empty((1, len(indices), 3, height, width), device="meta")
        if number < PIXEL_ROWS and video.numel() < 6e7:
            pixels = torch.zeros(video.shape[1:], dtype=torch.uint8)
            whole = processor(videos=[pixels], do_sample_frames=False, return_tensors="pt")
            assert whole["pixel_values"].shape[-2:] == (512, 512), "a frame is one tile"
        metadata.frames_indices = list(indices)
        written = text.replace_video_token({"pixel_values": video, "video_metadata": [metadata]}, 0)
        yield {
            "total": metadata.total_num_frames,
            "source_fps": source,
            "fps": rate,
            "max_frames": most,
            "frames": len(indices),
            # a question follows, which no break is joined to
            "text": _pieces(f"{written}What", SMOL_PIECES) - 1 - 3 * len(indices),
        }


def _pieces(text: str, pattern: re.Pattern[str] = PIECES) -> int:
    pieces = pattern.findall(text)
    assert "".join(pieces) == text, "the pattern leaves nothing out"
    return len(pieces)


def _grid(
    processor: Any, frames: int, height: int, width: int, capped: bool, *, pixels: bool
) -> tuple[int, int, int] | None:
    """(steps, rows, columns) of patches; None where the processor refuses the shape."""
    factor, temporal = processor.patch_size * processor.merge_size, processor.temporal_patch_size
    video = torch.empty((1, frames, 3, height, width), device="meta")
    try:
        resized = processor.resize(
            video,
            size=processor.size,
            resample=processor.resample,
            factor=factor,
            temporal_factor=temporal,
            cap_pixels_per_frame=capped,
        )
    except ValueError:
        return None
    _, steps, rows, columns = processor.patchify(resized, processor.patch_size, processor.merge_size, temporal)
    if pixels and frames * height * width < 2e7:
        video = torch.zeros((frames, 3, height, width), dtype=torch.uint8)
        whole = processor(videos=[video], do_sample_frames=False, return_tensors="pt")
        assert whole["video_grid_thw"].tolist() == [[steps, rows, columns]], "sizes alone count as pixels do"
    return steps, rows, columns


FAMILIES: Mapping[str, Any] = {
    "qwen_images": qwen_images,
    "internvl_images": internvl_images,
    "llava_next_images": llava_next_images,
    "llava_onevision_images": llava_onevision_images,
    "qwen2_videos": qwen2_videos,
    "qwen3_videos": qwen3_videos,
    "internvl_videos": internvl_videos,
    "glm4v_videos": glm4v_videos,
    "glm46v_videos": glm46v_videos,
    "smolvlm_videos": smolvlm_videos,
}


def main() -> None:
    """Write a file a family."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    chosen = sys.argv[2:] or FAMILIES
    versions = {
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "python": platform.python_version(),
        "seed": 0,
    }
    for name in chosen:
        rows = FAMILIES[name]
        found = [row for row, _ in zip(rows(random.Random(f"{name} 0")), range(ROWS), strict=False)]
        with (folder / f"{name}.csv").open("w", newline="") as file:
            file.write(f"# {json.dumps(versions)}\n")
            writer = csv.DictWriter(file, list(found[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(found)
        print(f"{name}: {len(found)} rows")


if __name__ == "__main__":
    main()
