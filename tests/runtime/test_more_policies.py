"""DART, SparseVLM, DivPrune and VisionZip choose as published, on tensors small enough to check."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("aimcost.runtime.executor", exc_type=ImportError)

from aimcost.methods.dart.apply import unlike_pivots
from aimcost.methods.divprune.apply import farthest_first
from aimcost.methods.sparsevlm.apply import rated_by_text
from aimcost.methods.visionzip.apply import dominant_and_contextual

pytestmark = pytest.mark.torch


def test_dart_drops_what_resembles_a_pivot():
    key = torch.zeros(1, 1, 8, 4)
    for token, (axis, length) in enumerate([(0, 9), (0, 1), (1, 8), (1, 1), (2, 7), (2, 6), (3, 1), (3, 5)]):
        key[0, 0, token, axis] = length
    protected = torch.zeros(1, 8, dtype=torch.bool)
    protected[0, 7] = True
    scores = unlike_pivots(key=key, protected=protected, live=None)
    # visual pivots 0, 2, 4, 5 and the text token; 1, 3 and 6 lie on an axis of theirs
    assert (scores[0, [0, 2, 4, 5, 7]] == 2).all()
    assert torch.allclose(scores[0, [1, 3, 6]], torch.tensor(-1.0))


def test_sparsevlm_averages_the_text_rows_alone():
    torch.manual_seed(0)
    query, key = torch.randn(2, 4, 7, 8), torch.randn(2, 2, 7, 8)
    protected = torch.tensor([[False] * 5 + [True] * 2] * 2)
    scores = rated_by_text(query=query, key=key, scale=0.3, protected=protected, live=None)
    logits = query @ key.repeat_interleave(2, 1).transpose(2, 3) * 0.3
    causal = logits.masked_fill(torch.ones(7, 7, dtype=torch.bool).triu(1), float("-inf")).softmax(-1)
    assert torch.allclose(scores, causal.mean(1)[:, 5:].mean(1), atol=1e-6)


def test_divprune_equals_a_plain_greedy_search():
    torch.manual_seed(1)
    x = torch.randn(2, 3, 5, 6)
    scores = farthest_first(x=x, keep=6).view(2, 15)
    for row in range(2):
        unit = torch.nn.functional.normalize(x[row].reshape(15, 6), dim=-1)
        distance = (1 - unit @ unit.T).tolist()
        chosen = [max(range(15), key=lambda i: min(d for j, d in enumerate(distance[i]) if j != i))]
        while len(chosen) < 6:
            left = [i for i in range(15) if i not in chosen]
            chosen.append(max(left, key=lambda i: min(distance[i][j] for j in chosen)))
        assert scores[row].argsort(descending=True)[:6].tolist() == chosen
        assert int((scores[row] > 0).sum()) == 6


def test_visionzip_splits_as_its_event_says():
    torch.manual_seed(3)
    x, keys = torch.randn(1, 20, 5), torch.randn(1, 20, 4)
    attention = torch.rand(1, 20)
    order = attention[0].argsort(descending=True)
    for contextual in (0, 1, 7, 8):
        counts = {"contextual": contextual}
        result = dominant_and_contextual(x=x, keep=8, attention=attention, keys=keys, counts=counts)
        assert result.shape == (1, 8, 5)
        dominant = sorted(order[: 8 - contextual].tolist())
        assert torch.equal(result[0, : 8 - contextual], x[0, dominant])
        for mean in result[0, 8 - contextual :]:
            assert not (x[0, dominant] == mean).all(-1).any()


def test_visionzip_keeps_the_attended_and_averages_the_rest():
    torch.manual_seed(2)
    x, keys = torch.randn(2, 20, 5), torch.randn(2, 20, 4)
    attention = torch.rand(2, 20)
    result = dominant_and_contextual(x=x, keep=15, attention=attention, keys=keys, counts={"contextual": 2})
    assert result.shape == (2, 15, 5)
    for group in range(2):
        order = attention[group].argsort(descending=True)
        dominant = sorted(order[:13].tolist())
        assert torch.equal(result[group, :13], x[group, dominant])
        rest = sorted(order[13:].tolist())
        unit = torch.nn.functional.normalize(keys[group, rest], dim=-1)
        seeds = [0, 3]
        near = (unit @ unit[seeds].T).argmax(1)
        near[seeds] = torch.arange(2)
        for target in range(2):
            mean = x[group, rest][near == target].mean(0)
            assert torch.allclose(result[group, 13 + target], mean, atol=1e-6)
