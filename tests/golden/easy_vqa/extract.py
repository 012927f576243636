"""Write `shapes.npz`, the outlines and labels of easy-vqa's pictures. Needs the package: pip install easy-vqa==1.0."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import easy_vqa
import numpy as np
from PIL import Image
from scenes import SHAPES


def labelled(questions: tuple[Sequence[str], Sequence[str], Sequence[int]]) -> dict[int, int]:
    """Picture -> shape, from every question that says it."""
    found: dict[int, int] = {}
    for question, answer, picture in zip(*questions, strict=True):
        named = next((shape for shape in SHAPES if shape in question), None)
        asserted = answer == "yes" and not re.search(r"\bnot?\b", question)
        if answer in SHAPES:
            found[picture] = SHAPES.index(answer)
        elif named and (question.startswith("what") or asserted):
            found[picture] = SHAPES.index(named)
    return found


def outlines(pictures: Mapping[int, str], numbers: Sequence[int]) -> np.ndarray:
    """(N, 512) packed masks: what differs from the flat background by more than its half-way point to any colour."""
    masks = []
    for number in numbers:
        pixels = np.asarray(Image.open(pictures[number]).convert("RGB")).astype(int)
        masks.append((np.abs(pixels - pixels[0, 0]).max(-1) > 48).ravel())
    return np.packbits(np.array(masks), axis=1)


def main() -> None:
    """Both splits, pictures in the order of their numbers."""
    arrays = {}
    for split, questions, pictures in (
        ("train", easy_vqa.get_train_questions(), easy_vqa.get_train_image_paths()),
        ("test", easy_vqa.get_test_questions(), easy_vqa.get_test_image_paths()),
    ):
        shapes = labelled(questions)
        numbers = sorted(shapes)
        arrays[f"{split}_masks"] = outlines(pictures, numbers)
        arrays[f"{split}_shapes"] = np.array([shapes[number] for number in numbers], np.uint8)
        print(split, len(numbers), "of", len(pictures), "pictures")
    np.savez_compressed(Path(__file__).with_name("shapes.npz"), **arrays)


if __name__ == "__main__":
    main()
