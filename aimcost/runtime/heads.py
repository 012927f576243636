"""What a head needs of a reduced prompt: hidden states, labels and indices that agree about positions.

A head that asks for the last logits alone gets the live tokens as they are. One that is given labels, asks for
other positions or pools the sequence gets hidden states at the places of the whole prompt, so that it computes
what it always does; dropped tokens have no logits (NaN) and predict no label (`IGNORED`). A module of another kind, or
one around the model that `aimcost.apply` was given, gets NaN for the states themselves.

Shapes: B rows, P prompt tokens, n of them live after the last layer, D width, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import GenerationMixin

__all__ = ["IGNORED", "HeadCall", "at_their_places"]

IGNORED = -100
"""The label that torch's and transformers' losses leave out."""


@dataclass(kw_only=True)
class HeadCall:
    """One call of the module around the decoder.

    Attributes
    ----------
    select
        ``logits_to_keep``, None where the head predicts no tokens.
    labels
        Labels by position, of which the call was given copies: (those of the next token or of its own, tensor).
    kept
        (B, P) which tokens the last layer computed on, once a prompt has run.
    """

    select: int | slice | torch.Tensor | None
    labels: list[tuple[bool, torch.Tensor]]
    kept: torch.Tensor | None = None

    @property
    def whole(self) -> bool:
        """Whether the head works at the places of the whole prompt."""
        return bool(self.labels) or not (isinstance(self.select, int) and self.select in (0, 1))

    @classmethod
    def of(cls, head: nn.Module, kwargs: dict[str, Any]) -> HeadCall:
        """Read a head's arguments by name, and change them in place where they must not be the caller's own."""
        predicts_next = isinstance(head, GenerationMixin)
        select: Any = kwargs.get("logits_to_keep", 0) if predicts_next else None
        if isinstance(select, (list, tuple)):
            given = kwargs.get("input_ids") if kwargs.get("inputs_embeds") is None else kwargs["inputs_embeds"]
            select = torch.tensor(select, device=None if given is None else given.device)
            kwargs["logits_to_keep"] = select
        labels = []
        for name in ("labels", "shift_labels"):
            value = kwargs.get(name)
            if isinstance(value, torch.Tensor) and value.ndim == 2:
                kwargs[name] = value.clone()
                labels.append((predicts_next and name == "labels", kwargs[name]))
        return cls(select=select, labels=labels)

    def spread(self, hidden: torch.Tensor, places: torch.Tensor, length: int) -> torch.Tensor:
        """(B, P, D) from (B, n, D) states of the tokens that stood at `places`, zeros elsewhere."""
        self.kept = torch.zeros(len(hidden), length, dtype=torch.bool, device=hidden.device).scatter(1, places, True)
        for of_next, labels in self.labels:
            if labels.shape[1] != length:
                continue
            dropped = ~self.kept.to(labels.device)
            if of_next:
                labels[:, 1:].masked_fill_(dropped[:, :-1], IGNORED)
            else:
                labels.masked_fill_(dropped, IGNORED)
        return at_their_places(hidden, places, length, fill=0.0)

    def finish(self, output: Any) -> Any:
        """The head's output with NaN for the logits of dropped tokens."""
        if self.kept is None or not isinstance(output, (dict, tuple)):
            return output
        if isinstance(output, tuple):
            return tuple(self._blank(value) for value in output)
        for name in [name for name in output if "logits" in name]:
            output[name] = self._blank(output[name])
        return output

    def _blank(self, value: Any) -> Any:
        if self.kept is None or not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return value
        kept = _selected(self.kept, self.select).to(value.device)
        if value.shape[: kept.ndim] != kept.shape:
            return value
        return value.masked_fill(~kept.view(*kept.shape, *[1] * (value.ndim - kept.ndim)), float("nan"))


def at_their_places(hidden: torch.Tensor, places: torch.Tensor, length: int, *, fill: float) -> torch.Tensor:
    """(B, P, D) from (B, n, D) states of the tokens that stood at `places`, and `fill` for the others."""
    rows, _, width = hidden.shape
    full = hidden.new_full((rows, length, width), fill)
    return full.scatter(1, places[..., None].expand(-1, -1, width), hidden)


def _selected(kept: torch.Tensor, select: int | slice | torch.Tensor | None) -> torch.Tensor:
    """`kept` where ``logits_to_keep`` points: transformers' last so many, a slice, or indices for all or each row."""
    if isinstance(select, slice):
        return kept[:, select]
    if not isinstance(select, torch.Tensor):
        return kept[:, -select:] if select else kept
    select = select.to(kept.device)
    if select.ndim == 1:
        return kept[:, select]
    return kept[select] if select.dtype == torch.bool else kept.gather(1, select)
