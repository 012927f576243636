"""Accuracy of the trained model under token reduction, through `aimcost.apply`.

    python tests/golden/easy_vqa/measure.py -o tests/golden/easy_vqa/accuracy.csv

Open questions about scenes of held-out pictures; an answer counts where the most likely token is its word.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

import aimcost

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from scenes import GRID, PATCH, Scenes, make_scenes
from train import FOLDER, VISUAL, pixel_values

SCENES, SEED = 60, 2
# Of a scene's six questions, two ask for a colour and the next two for a shape.
ASKED = 4
ROWS = 100
METHODS: tuple[dict[str, Any], ...] = (
    {"name": "none"},
    *({"name": "pre_llm", "scorer": "random", "keep_tokens": keep} for keep in (32, 16, 8, 4)),
    *({"name": "pre_llm", "scorer": "uniform", "keep_tokens": keep} for keep in (32, 16, 8)),
    *({"name": "divprune", "ratio": ratio} for ratio in (0.5, 0.25, 0.125)),
    *({"name": "fastv", "k": 2, "ratio": ratio} for ratio in (0.5, 0.75, 0.875)),
    *({"name": "vtw", "k": k} for k in (2, 3, 4, 6)),
    {"name": "aim", "merge_ratio": 1.0, "l1": 3, "l2": 7},
    {"name": "aim", "merge_ratio": 1.0, "l1": 1, "l2": 5},
    {"name": "aim", "merge_ratio": 0.5, "l1": 3, "l2": 7},
    {"name": "aim", "merge_ratio": 0.25, "l1": 3, "l2": 7},
    {"name": "aim", "merge_ratio": 0.125, "l1": 3, "l2": 7},
)
# A rule that looks at pixels alone: the patches of highest contrast stay. Not a method; it shows how far pixels get.
CONTRAST = (16, 8)


def run_of(method: Mapping[str, Any], text: int, folder: Path = FOLDER, batch: int = 1) -> dict[str, Any]:
    """The run of a prompt with so many text tokens, all behind the picture."""
    return {
        "model": str(folder / "config.json"),
        "workload": {"images": 1, "text_tokens": {"system": 0, "question": text}, "batch": batch},
        "method": dict(method),
        "precision": {"weights": "fp32", "activations": "fp32", "kv": "fp32"},
    }


class Examiner:
    """The model, and questions grouped by length: one schedule fits a group."""

    def __init__(self, scenes: Scenes, folder: Path = FOLDER) -> None:
        self.folder = folder
        self.model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        self.image = tokenizer.convert_tokens_to_ids("<image>")
        asked = [
            (scene, question, answer)
            for scene, (questions, answers) in enumerate(zip(scenes.questions, scenes.answers, strict=True))
            for question, answer in list(zip(questions, answers, strict=True))[:ASKED]
        ]
        ids = [tokenizer(question).input_ids for _, question, _ in asked]
        self.groups = {
            length: [index for index, tokens in enumerate(ids) if len(tokens) == length]
            for length in sorted({len(tokens) for tokens in ids})
        }
        self.ids = ids
        self.scene = np.array([scene for scene, _, _ in asked])
        self.answers = torch.tensor(tokenizer.convert_tokens_to_ids([answer for _, _, answer in asked]))
        self.pixels = pixel_values(scenes.pixels)
        patches = scenes.pixels.reshape(-1, GRID, PATCH, GRID, PATCH, 3).swapaxes(2, 3).astype(np.float32)
        self.contrast = torch.from_numpy(patches.std((3, 4)).mean(-1).reshape(-1, VISUAL))

    def _batches(self) -> Any:
        for length, members in self.groups.items():
            for start in range(0, len(members), ROWS):
                rows = members[start : start + ROWS]
                yield length, rows, torch.tensor([self.ids[row] for row in rows])

    @torch.inference_mode()
    def right(self, method: Mapping[str, Any]) -> np.ndarray:
        """Which questions are answered right under a method."""
        found = torch.zeros(len(self.ids), dtype=torch.bool)
        for length, rows, text in self._batches():
            ids = torch.cat((torch.full((len(rows), VISUAL), self.image), text), 1)
            schedule = aimcost.schedule(run_of(method, length, self.folder))
            applied = contextlib.nullcontext() if method["name"] == "none" else aimcost.apply(self.model, schedule)
            with applied:
                out = self.model(input_ids=ids, pixel_values=self.pixels[self.scene[rows]], logits_to_keep=1)
            found[rows] = out.logits[:, -1].argmax(-1) == self.answers[rows]
        return found.numpy()

    @torch.inference_mode()
    def right_by_contrast(self, keep: int) -> np.ndarray:
        """Which are answered right from the `keep` patches of highest contrast; none of them: from the text alone."""
        found = torch.zeros(len(self.ids), dtype=torch.bool)
        inner = self.model.model
        for _, rows, text in self._batches():
            pixels = self.pixels[self.scene[rows]]
            features = inner.multi_modal_projector(inner.vision_tower(pixels).last_hidden_state[:, 1:])
            kept = self.contrast[self.scene[rows]].topk(keep).indices.sort(1).values
            chosen = features.gather(1, kept[..., None].expand(-1, -1, features.shape[-1]))
            embeds = torch.cat((chosen, inner.language_model.embed_tokens(text)), 1)
            hidden = inner.language_model(inputs_embeds=embeds).last_hidden_state
            found[rows] = self.model.lm_head(hidden[:, -1]).argmax(-1) == self.answers[rows]
        return found.numpy()


def mean_visual_tokens(method: Mapping[str, Any], folder: Path = FOLDER) -> float:
    """Visual tokens that a layer computes on, mean over the layers."""
    schedule = aimcost.schedule(run_of(method, 6, folder))
    return float(np.mean([count - schedule.text_tokens for count in schedule.tokens]))


def main() -> None:
    """Every method, then the rule by contrast and the text alone."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=SCENES)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    examiner = Examiner(make_scenes("test", arguments.scenes, SEED), arguments.folder)
    rows: list[Sequence[Any]] = []

    def note(method: str, tokens: float, right: np.ndarray) -> None:
        rows.append((method, f"{tokens:.4g}", int(right.sum()), len(right)))
        print(f"{method:75s} {tokens:6.2f} {right.mean():.3f}", flush=True)

    for method in METHODS:
        note(json.dumps(method), mean_visual_tokens(method, arguments.folder), examiner.right(method))
    for keep in (*CONTRAST, 0):
        note("contrast" if keep else "text alone", keep, examiner.right_by_contrast(keep))
    with arguments.output.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("method", "mean_visual_tokens", "right", "asked"))
        writer.writerows(rows)


if __name__ == "__main__":
    main()
