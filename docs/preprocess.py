"""Times the families' image processors on one thread of this machine, and writes configs/preprocess/<name>.yaml.

Needs transformers, Pillow and torch; ``OMP_NUM_THREADS=1 python docs/preprocess.py amd_epyc "AMD EPYC (…)"``. The
settings are those of each family's preprocessor_config.json; a machine without torchvision times the PIL backend.
"""

from __future__ import annotations

import itertools
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
import transformers
import yaml
from PIL import Image

from aimcost.inputs.run import load_run
from aimcost.models.visual_tokens import tower_load

SIZES = [(336, 336), (640, 480), (480, 640), (1280, 720), (1024, 1024), (1920, 1080), (2560, 1440)]
REPEATS = 7
CLIP = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
NEXT_GRIDS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
ONEVISION_GRIDS = [[384 * a, 384 * b] for a, b in itertools.product(range(1, 7), repeat=2)]
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
# family: (a model of it, class, its settings), of images and of the frames of a video
IMAGES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llava": ("llava-1.5-7b", "CLIPImageProcessorPil", CLIP),
    "llava_next": ("llava-next-vicuna-7b", "LlavaNextImageProcessorPil", {**CLIP, "image_grid_pinpoints": NEXT_GRIDS}),
    "llava_onevision": (
        "llava-onevision-qwen2-7b",
        "LlavaOnevisionImageProcessorPil",
        {"size": {"height": 384, "width": 384}, "image_grid_pinpoints": ONEVISION_GRIDS},
    ),
    "qwen2_vl": (
        "qwen2-vl-7b",
        "Qwen2VLImageProcessorPil",
        {"size": {"shortest_edge": 3136, "longest_edge": 12845056}},
    ),
    "qwen3_vl": (
        "qwen3-vl-8b",
        "Qwen2VLImageProcessorPil",
        {"size": {"shortest_edge": 65536, "longest_edge": 16777216}, "patch_size": 16, **HALF},
    ),
    "internvl": (
        "internvl3-8b",
        "GotOcr2ImageProcessorPil",
        {"size": {"height": 448, "width": 448}, "crop_to_patches": True, "min_patches": 1, "max_patches": 12},
    ),
    "mllama": (
        "llama-3.2-11b-vision",
        "MllamaImageProcessorPil",
        {"size": {"height": 560, "width": 560}, "max_image_tiles": 4},
    ),
}
# research code processes a video's frames as images of the tower's own processor
FRAMES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llava": ("longva-7b", "CLIPImageProcessorPil", CLIP),
    "llava_onevision": (
        "llava-onevision-qwen2-7b",
        "SiglipImageProcessorPil",
        {"size": {"height": 384, "width": 384}, **HALF},
    ),
}
SAME = {"qwen2_5_vl": "qwen2_vl"}  # one processor class and one setting


def picture(width: int, height: int) -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def seconds(processor: Any, image: Image.Image) -> float:
    """The shortest CPU time of this thread over the repeats, after one that warms up."""
    times = []
    for _ in range(REPEATS + 1):
        start = time.thread_time()
        processor(images=image, return_tensors="pt")
        times.append(time.thread_time() - start)
    return min(times[1:])


def fit(features: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Non-negative least squares of relative errors: the best of all subsets whose figures are not negative."""
    best, least = np.zeros(features.shape[1]), np.inf
    for count in range(1, features.shape[1] + 1):
        for chosen in itertools.combinations(range(features.shape[1]), count):
            some = features[:, chosen] / measured[:, None]
            figures = np.linalg.lstsq(some, np.ones(len(measured)), rcond=None)[0]
            error = float(((some @ figures - 1) ** 2).sum())
            if (figures >= 0).all() and error < least - 1e-9:
                best, least = np.zeros(features.shape[1]), error
                best[list(chosen)] = figures
    return best


def timed(model: str, name: str, settings: dict[str, Any], *, frames: bool) -> dict[str, Any]:
    processor = getattr(transformers, name)(**settings)
    features, measured = [], []
    for width, height in SIZES:
        visual = {"frames": 2} if frames else {"images": 1}
        run = load_run({"model": model, "workload": {**visual, "image_size": [width, height]}})
        load = tower_load(run.model, run.workload)
        assert load is not None
        assert run.model.vision is not None
        received = load.inputs * load.patches * run.model.vision.patch_size**2 / visual.get("frames", 1)
        features.append((1.0, width * height / 1e6, received / 1e6))
        measured.append(seconds(processor, picture(width, height)) * 1e3)
    design, taken = np.array(features), np.array(measured)
    if np.ptp(design[:, 2]) == 0:
        design[:, 2] = 0.0  # the tower's input is always of one size
    figures = fit(design, taken)
    figures = figures * np.exp(np.log(taken / (design @ figures)).mean())  # relative squares lean to low figures
    ratio = taken / (design @ figures)
    keys = ("each", "per_megapixel", "per_tower_megapixel")
    print(model, name, [f"{t:.1f}" for t in taken], figures.round(2), ratio.round(2), flush=True)
    return {
        **{key: float(f"{value:.3g}") for key, value in zip(keys, figures, strict=True)},
        "band": [float(f"{min(1.0, ratio.min()):.2f}"), float(f"{max(1.0, ratio.max()):.2f}")],
    }


def main(name: str, machine: str) -> None:
    torch.set_num_threads(1)
    families: dict[str, Any] = {}
    for family, given in IMAGES.items():
        frames = timed(*FRAMES[family], frames=True) if family in FRAMES else None
        families[family] = {"images": timed(*given, frames=False), "frames": frames}
    families.update({family: families[of] for family, of in SAME.items()})
    document = {
        "machine": machine,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": f"transformers {transformers.__version__} (PIL backend), Pillow {PIL.__version__}, "
        f"numpy {np.__version__}, torch {torch.__version__}",
        "source": f"docs/preprocess.py: shortest of {REPEATS} by CPU time of one thread, images of "
        f"{', '.join(f'{w} x {h}' for w, h in SIZES)}; milliseconds each, by megapixel, and by megapixel that the "
        "tower gets; band: worst ratios to the fit. What did not run here is not priced",
        "other_machine": [0.5, 2.5],
        "families": families,
    }
    dumper = yaml.SafeDumper
    dumper.ignore_aliases = lambda *_: True  # type: ignore[method-assign,assignment]
    path = Path(__file__).parent.parent / "configs" / "preprocess" / f"{name}.yaml"
    path.write_text(yaml.dump(document, Dumper=dumper, sort_keys=False, width=120), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
