"""Methods choose as published, on tensors small enough to check."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("aimcost.runtime.executor", exc_type=ImportError)

from aimcost.methods.dart.apply import unlike_pivots
from aimcost.methods.divprune.apply import farthest_first
from aimcost.methods.holov.apply import attended_by_strips
from aimcost.methods.sparsevlm.apply import rated_by_text
from aimcost.methods.vidcom2.apply import unlike_frame_and_video
from aimcost.methods.visionzip.apply import dominant_and_contextual
from aimcost.methods.vispruner.apply import attended_or_distinct

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


def test_vispruner_equals_a_plain_loop_over_rounds():
    """48 tokens, 12 stay, 6 by attention: 42 lose eight a round, 34, 26, 18, 10, and then four: 6."""
    torch.manual_seed(4)
    x, attention = torch.randn(1, 2, 48, 6), torch.rand(2, 48)
    scores = attended_or_distinct(x=x, keep=12, attention=attention, counts={"important": 6})
    assert scores.shape == (1, 2, 48)
    for group in range(2):
        order = attention[group].argsort(descending=True).tolist()
        unit = torch.nn.functional.normalize(x[0, group], dim=-1)
        left = order[6:]
        while len(left) > 6:
            evens, odds = left[::2], left[1::2]
            nearest = [max(float(unit[i] @ unit[j]) for j in odds) for i in evens]
            ranked = sorted(range(len(evens)), key=lambda e: -nearest[e])
            left = [evens[e] for e in ranked[min(8, len(left) - 6) :]] + odds
        assert scores[0, group].nonzero()[:, 0].tolist() == sorted(order[:6] + left)
        assert (scores[0, group, order[:6]] == 2).all()


@pytest.mark.parametrize("tokens", [32, 30])
def test_holov_shares_by_strip(tokens):
    """Four strips of 8 (or 8, 8, 7, 7), ten tokens: mean scores to shares, floors, then the largest shares."""
    torch.manual_seed(5)
    x, attention = torch.randn(1, 1, tokens, 6), torch.rand(1, tokens) ** 3
    scores = attended_by_strips(x=x, keep=10, attention=attention, counts={"patches": 4})[0, 0]
    starts = [0, 8, 16, 16 + tokens // 4]
    strips = [list(range(a, b)) for a, b in zip(starts, [*starts[1:], tokens], strict=True)]
    means = []
    for strip in strips:
        unit = torch.nn.functional.normalize(x[0, 0, strip], dim=-1)
        similarity = unit @ unit.T
        similarity.fill_diagonal_(0.0)
        mean = similarity.sum(1) / (len(strip) - 1)
        variance = ((similarity - mean[:, None]) ** 2).sum(1) / (len(strip) - 1)
        scaled = attention[0, strip] * 1e3
        means.append(float((scaled + 0.09 * variance * scaled.mean() / variance.mean()).mean()))
    shares = [10 * mean / sum(means) for mean in means]
    allowed = [int(share) for share in shares]
    for strip in sorted(range(4), key=lambda p: -shares[p])[: 10 - sum(allowed)]:
        allowed[strip] += 1
    expected = []
    for strip, count in zip(strips, allowed, strict=True):
        expected += sorted(strip, key=lambda i: -float(attention[0, i]))[:count]
    assert sorted(scores.topk(10).indices.tolist()) == sorted(expected)


def test_vidcom2_gives_unlike_frames_more():
    """Three frames alike and one of another kind: it keeps more than a quarter of its tokens, they keep fewer."""
    torch.manual_seed(6)
    frames = torch.randn(1, 1, 16, 12).expand(1, 4, 16, 12) + 0.3 * torch.randn(1, 4, 16, 12)
    frames = frames.clone()
    frames[:, 2] = 3 * torch.randn(16, 12)
    scores = unlike_frame_and_video(x=frames.reshape(1, 1, 64, 12), keep=16, counts={"frames": 4}).view(64)
    kept = torch.bincount(scores.topk(16).indices // 16, minlength=4)
    assert kept[2] == max(kept)
    assert kept[2] > 4
    steady = frames.view(64, 12).var(0, correction=0).argsort()[:6]
    unit = torch.nn.functional.normalize(frames[0][..., steady], dim=-1)
    video, own = unit.mean((0, 1), keepdim=True), unit.mean(1, keepdim=True)
    similar = sum(
        torch.exp(-((unit - centre) ** 2).sum(-1) / (2 * 2.0**k)) for centre in (video, own) for k in range(-3, 2)
    )
    chosen = scores.topk(16).indices
    in_frame = chosen[chosen // 16 == 2] % 16
    assert sorted(in_frame.tolist()) == sorted(similar[2].argsort()[: len(in_frame)].tolist())
