"""Scenes for a small vision-language model: four easy-vqa pictures in one, and open questions about their content.

easy-vqa (Victor Zhou, MIT licence, https://pypi.org/project/easy-vqa, version 1.0) holds 5,000 pictures of 64 x 64
pixels with one shape each. `shapes.npz` holds their outlines and labels, written by `extract.py`; the package itself
is not needed here. A scene is 2 x 2 of them at half their size on 64 x 64 pixels, 64 patches of 8:

- four colours of eight, all different, and three shapes, one of them twice: every colour names one object, and two
  of the shapes do;
- behind each shape a texture, with specks of all eight colours, so that colour does not tell where the shapes are, and
  contrast finds those that stand out and misses others;
- questions ask for the shape of a colour or the colour of a shape, never for a position. Yes or no is not asked:
  on easy-vqa it is 82.5 % right from the text alone.

Scenes of the split `train` are made of the package's training pictures, those of `test` of its test pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

COLORS = {
    "black": (0, 0, 0),
    "blue": (0, 0, 255),
    "brown": (165, 42, 42),
    "gray": (128, 128, 128),
    "green": (0, 255, 0),
    "red": (255, 0, 0),
    "teal": (0, 128, 128),
    "yellow": (255, 255, 0),
}
SHAPES = ("circle", "rectangle", "triangle")
# Questions as easy-vqa words them.
COLOR_QUESTIONS = ("what color is the {}?", "what is the color of the {}?")
SHAPE_QUESTIONS = ("what is the {} shape?",)
CELL, PATCH, GRID = 64, 8, 8
SIZE = PATCH * GRID
# Smaller shapes (half of the pictures) cannot be told apart at this resolution.
SMALLEST_SHARE = 0.07
# Texture colours: none is an answer.
_BACK = np.array(
    [
        (255, 255, 255),
        (255, 170, 220),
        (255, 160, 60),
        (200, 170, 255),
        (170, 240, 255),
        (240, 230, 200),
        (255, 90, 220),
    ]
)
_RGB = np.array(list(COLORS.values()))
_Y, _X = np.mgrid[:CELL, :CELL]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Scenes:
    """`pixels` (N, 64, 64, 3); `labels` (N, 2, 64): colour and shape of each patch, 0 where it shows background;
    `questions` and `answers`: six a scene, two for a colour, then four for a shape."""

    pixels: Bytes
    labels: NDArray[np.int64]
    questions: list[tuple[str, ...]]
    answers: list[tuple[str, ...]]


def make_scenes(split: str, count: int, seed: int, *, plain: bool = False) -> Scenes:
    """`count` scenes of a split, `plain` without textures and specks; the same seed yields the same scenes."""
    with np.load(Path(__file__).with_name("shapes.npz")) as file:
        masks = np.unpackbits(file[f"{split}_masks"], axis=1).reshape(-1, CELL, CELL).astype(bool)
        kinds = file[f"{split}_shapes"]
    large = masks.mean((1, 2)) >= SMALLEST_SHARE
    by_shape = [np.flatnonzero(large & (kinds == shape)) for shape in range(len(SHAPES))]
    rng = np.random.default_rng(seed)
    pixels = np.empty((count, SIZE, SIZE, 3), np.uint8)
    labels = np.zeros((count, 2, GRID * GRID), np.int64)
    questions, answers = [], []
    for index in range(count):
        shapes = rng.permutation([0, 1, 2, rng.integers(3)])
        colors = rng.permutation(len(COLORS))[:4]
        canvas = np.empty((2 * CELL, 2 * CELL, 3), np.int64)
        color_map, shape_map = np.zeros((2, 2 * CELL, 2 * CELL), np.int64)
        for cell, (shape, color) in enumerate(zip(shapes, colors, strict=True)):
            rows, columns = (slice(CELL * at, CELL * (at + 1)) for at in divmod(cell, 2))
            mask = masks[rng.choice(by_shape[shape])]
            canvas[rows, columns] = np.where(mask[..., None], _RGB[color], _texture(rng, plain=plain))
            color_map[rows, columns][mask], shape_map[rows, columns][mask] = color + 1, shape + 1
        pixels[index] = canvas.reshape(SIZE, 2, SIZE, 2, 3).mean((1, 3)).round()
        labels[index] = _patch_labels(color_map), _patch_labels(shape_map)
        asked = _questions(rng, shapes, colors)
        questions.append(tuple(question for question, _ in asked))
        answers.append(tuple(answer for _, answer in asked))
    return Scenes(pixels=pixels, labels=labels, questions=questions, answers=answers)


def _questions(rng: np.random.Generator, shapes: NDArray[np.int64], colors: NDArray[np.int64]) -> list[tuple[str, str]]:
    names = list(COLORS)
    once = [at for at in range(4) if (shapes == shapes[at]).sum() == 1]
    asked = [
        (COLOR_QUESTIONS[rng.integers(len(COLOR_QUESTIONS))].format(SHAPES[shapes[at]]), names[colors[at]])
        for at in once
    ]
    for at in rng.permutation(4):
        asked.append((SHAPE_QUESTIONS[0].format(names[colors[at]]), SHAPES[shapes[at]]))
    return asked


def _texture(rng: np.random.Generator, *, plain: bool) -> NDArray[np.int64]:
    """(64, 64, 3): stripes, checks, noise or a flat colour, with specks of every answer's colour; `plain`: flat."""
    first, second = _BACK[rng.permutation(len(_BACK))[:2]]
    if plain:
        return np.broadcast_to(first, (CELL, CELL, 3))
    period, kind = int(rng.integers(3, 9)), int(rng.integers(4))
    if kind == 0:
        pattern = (_X + _Y) // period % 2 == 0
    elif kind == 1:
        pattern = (_X // period + _Y // period) % 2 == 0
    elif kind == 2:
        pattern = (rng.random((CELL // 4, CELL // 4)) < 0.5).repeat(4, 0).repeat(4, 1)
    else:
        pattern = np.ones((CELL, CELL), bool)
    texture = np.where(pattern[..., None], first, second)
    for color in rng.permutation(len(_RGB)):
        top, left = rng.integers(0, CELL - 4, 2)
        texture[top : top + 4, left : left + 4] = _RGB[color]
    return texture


def _patch_labels(pixel_labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """(64,): the object of each patch where it covers an eighth of it or more, else 0.

    Cells are four whole patches wide: a patch never shows two objects.
    """
    patches = pixel_labels.reshape(GRID, 2 * PATCH, GRID, 2 * PATCH).swapaxes(1, 2).reshape(GRID * GRID, -1)
    covered = (patches > 0).mean(1) >= 1 / 8
    return np.where(covered, patches.max(1), 0)
