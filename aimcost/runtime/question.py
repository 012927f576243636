"""The question as CLIP reads it, for methods that rank visual tokens by it."""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import nn

from ..errors import InvalidValueError, ScheduleError

__all__ = ["ClipQuestion", "check_question"]


class ClipQuestion:
    """CLIP's text tower and projections beside a model, and the question that the next prompt asks.

    ``question = ClipQuestion(clip, tokenizer)``, then ``with aimcost.apply(model, schedule, question=question):`` and
    ``question.ask("What colour is the car?")`` ahead of each prompt.

    Parameters
    ----------
    clip
        A transformers CLIPModel from the checkpoint of the model's own tower.
    tokenizer
        Its tokenizer.
    """

    def __init__(self, clip: nn.Module, tokenizer: Any) -> None:
        for part in ("text_model", "text_projection", "visual_projection"):
            if not hasattr(clip, part):
                raise InvalidValueError("clip", f"a CLIPModel, which has a {part}", type(clip).__name__)
        self._clip, self._tokenizer = clip, tokenizer
        self._asked = threading.local()

    @property
    def width(self) -> int:
        """Elements of what the tower yields a patch."""
        return int(self._clip.visual_projection.in_features)  # type: ignore[union-attr, arg-type]

    def ask(self, *texts: str) -> None:
        """Set the question of this thread's next prompts: one for all rows, or one a row."""
        if not texts or not all(isinstance(text, str) for text in texts):
            raise InvalidValueError("texts", "a question, or one for each row", texts)
        with torch.no_grad():
            self._asked.embeds = [self._embed(text) for text in texts]

    def _embed(self, text: str) -> torch.Tensor:
        """(M, P): the text in segments of as many tokens as CLIP has positions; the last one is padded, with zeros."""
        clip: Any = self._clip
        given = self._tokenizer(text=text, return_tensors="pt")
        size = clip.text_model.config.max_position_embeddings
        missing = -given["input_ids"].shape[1] % size
        device = clip.text_projection.weight.device
        ids, mask = (
            nn.functional.pad(given[name], (0, missing)).reshape(-1, size).to(device)
            for name in ("input_ids", "attention_mask")
        )
        embeds: torch.Tensor = clip.text_projection(clip.text_model(ids, attention_mask=mask).pooler_output)
        return embeds

    def of_rows(self, rows: int) -> list[torch.Tensor]:
        """(M, P) of each row's question.

        Raises
        ------
        ScheduleError
            Nothing was asked, or not of each row.
        """
        asked: list[torch.Tensor] = getattr(self._asked, "embeds", [])
        if not asked:
            raise ScheduleError("the method ranks by the question: call ask(text) on it ahead of the prompt")
        if len(asked) == 1:
            return asked * rows
        if rows % len(asked):
            raise ScheduleError(f"{len(asked)} questions were asked, the prompt has {rows} rows")
        copies = rows // len(asked)
        return [embeds for embeds in asked for _ in range(copies)]

    def see(self, features: torch.Tensor) -> torch.Tensor:
        """(…, P) in the common space, of normed tower features (…, E)."""
        projection: Any = self._clip.visual_projection
        embeds: torch.Tensor = projection(features.to(projection.weight))
        return embeds


def check_question(question: object) -> None:
    """Raise where something else was given, the text itself say.

    Raises
    ------
    InvalidValueError
        Neither a `ClipQuestion` nor None.
    """
    if question is not None and not isinstance(question, ClipQuestion):
        raise InvalidValueError("question", "a ClipQuestion, whose ask(text) is called ahead of each prompt", question)
