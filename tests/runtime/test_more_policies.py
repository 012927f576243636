"""Methods choose as published, on tensors small enough to check."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("aimcost.runtime.executor", exc_type=ImportError)

from aimcost.methods.dart.apply import unlike_pivots
from aimcost.methods.divprune.apply import farthest_first
from aimcost.methods.holov.apply import attended_by_strips
from aimcost.methods.prumerge_plus.apply import attended_and_grid, grid_step, merge_with_grid
from aimcost.methods.sparsevlm.apply import cluster_means, rated_by_text, raters, recycle
from aimcost.methods.vidcom2.apply import unlike_frame_and_video
from aimcost.methods.visionzip.apply import dominant_and_contextual
from aimcost.methods.vispruner.apply import attended_or_distinct

pytestmark = pytest.mark.torch


def _dart(key, hidden, visual, behind, keep):
    """DART as described, for one request: sets and loops. Pivots are visited by their place modulo 32."""
    size = key.transpose(0, 1).flatten(1).abs().sum(-1)
    pivots = [sorted(side, key=lambda i: -float(size[i]))[:4] for side in (visual, behind)]
    kept = set(pivots[0])
    order = sorted(pivots[0] + pivots[1], key=lambda i: i % 32)
    left = keep - len(kept)
    for number, pivot in enumerate(order):
        share = left // len(order) + (number < left % len(order))
        free = [i for i in visual if i not in kept]
        cosine = {i: float(torch.nn.functional.cosine_similarity(hidden[pivot], hidden[i], dim=0)) for i in free}
        kept |= set(sorted(free, key=cosine.get)[:share])
    return sorted(kept)


@pytest.mark.parametrize("keep", [12, 15, 20])
def test_dart_equals_plain_loops(keep):
    """Two requests of 5 + 24 + 7 tokens, the second behind two of padding, with five behind the image."""
    torch.manual_seed(0)
    key, hidden = torch.randn(2, 2, 36, 8), torch.randn(2, 36, 10)
    protected = torch.ones(2, 36, dtype=torch.bool)
    protected[0, 5:29], protected[1, 7:31] = False, False
    live = torch.ones(2, 36, dtype=torch.bool)
    live[1, :2] = False
    scores = unlike_pivots(key=key, hidden=hidden, norm=lambda x: 2 * x, protected=protected, live=live, keep=12 + keep)
    for row, (first, last) in enumerate([(5, 29), (7, 31)]):
        kept = _dart(key[row], hidden[row], list(range(first, last)), list(range(last, 36)), keep)
        assert scores[row].nonzero()[:, 0].tolist() == kept


def test_sparsevlm_raters_are_the_text_that_the_image_resembles():
    torch.manual_seed(0)
    hidden = torch.randn(2, 12, 4)
    protected = torch.tensor([[True] * 2 + [False] * 5 + [True] * 5, [True] * 3 + [False] * 5 + [True] * 4])
    live = torch.ones(2, 12, dtype=torch.bool)
    live[1, 0] = False
    found = raters(hidden=hidden, protected=protected, live=live, visual_count=5)
    for row, (first, last) in enumerate([(2, 7), (3, 8)]):
        shares = (hidden[row, first:last] @ hidden[row, last:].T).softmax(1).mean(0)
        expected = [last + i for i, share in enumerate(shares) if share > shares.mean()]
        assert found[row].nonzero()[:, 0].tolist() == expected


def test_sparsevlm_averages_the_raters_rows_alone():
    torch.manual_seed(0)
    query, key = torch.randn(2, 4, 7, 8), torch.randn(2, 2, 7, 8)
    protected = torch.tensor([[False] * 5 + [True] * 2] * 2)
    chosen = torch.tensor([[False] * 5 + [True, False], [False] * 5 + [True, True]])
    scores = rated_by_text(
        query=query, key=key, scale=0.3, protected=protected, live=None, prepared=chosen, protected_count=2
    )
    logits = query @ key.repeat_interleave(2, 1).transpose(2, 3) * 0.3
    causal = logits.masked_fill(torch.ones(7, 7, dtype=torch.bool).triu(1), float("-inf")).softmax(-1).mean(1)
    assert torch.allclose(scores[0], causal[0, 5], atol=1e-6)
    assert torch.allclose(scores[1], causal[1, 5:].mean(0), atol=1e-6)


def test_sparsevlm_clusters_by_density():
    """Plain loops: a centre is dense and far from what is denser; the others join the nearest centre."""
    torch.manual_seed(1)
    x, count = torch.randn(1, 21, 6), 3
    means, centres = cluster_means(x, count)
    distance = [[float((a - b).norm()) / 6**0.5 for b in x[0]] for a in x[0]]
    density = [math.exp(-sum(d * d for d in sorted(row)[:count]) / count) for row in distance]
    largest = max(map(max, distance))
    score = []
    for i in range(21):
        denser = [distance[i][j] for j in range(21) if density[j] > density[i]]
        score.append(density[i] * min(denser, default=largest))
    expected = sorted(range(21), key=lambda i: -score[i])[:count]
    assert centres[0].tolist() == expected
    members = {centre: [centre] for centre in expected}
    for i in set(range(21)) - set(expected):
        members[min(expected, key=lambda centre: distance[centre][i])].append(i)
    for mean, some in zip(means[0], members.values(), strict=True):
        assert torch.allclose(mean, x[0, some].mean(0), atol=1e-5)


def test_sparsevlm_merges_the_best_rated_of_what_goes():
    torch.manual_seed(2)
    hidden, scores = torch.randn(1, 50, 6), torch.rand(1, 50)
    kept = torch.arange(0, 50, 5)[None]
    gone = [i for i in range(50) if i % 5]
    best = sorted(gone, key=lambda i: -float(scores[0, i]))[: int(0.3 * 40) + 1]
    means, places = recycle(hidden, scores, kept, 2)
    expected, centres = cluster_means(hidden[:, best], 2)
    assert torch.allclose(means, expected)
    assert places[0].tolist() == [best[i] for i in centres[0].tolist()]


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


def _visionzip(x, attention, keys, dominant, contextual, class_feature):
    """VisionZip as described: plain loops over one image's (n, D) tokens and (n, heads, d) keys."""
    begin = [] if class_feature is None else [class_feature]
    order = sorted(range(len(x)), key=lambda i: -float(attention[i]))
    stays = sorted(order[: dominant - len(begin)])
    rest = [i for i in range(len(x)) if i not in stays]
    targets = rest[:: max(1, len(rest) // contextual)][:contextual]
    mean_key = keys.mean(1)
    joined = {target: [] for target in targets}
    for token in rest:
        if token not in targets:
            cosine = torch.nn.functional.cosine_similarity(mean_key[token], mean_key[targets], dim=-1)
            joined[targets[int(cosine.argmax())]].append(x[token])
    made = [x[t] + (sum(more) / len(more) if more else 0) for t, more in joined.items()]
    return torch.stack([*begin, *(x[i] for i in stays), *made])


@pytest.mark.parametrize("with_class_token", [False, True])
@pytest.mark.parametrize(("keep", "contextual"), [(8, 1), (8, 7), (15, 2), (12, 6)])
def test_visionzip_equals_plain_loops(keep, contextual, with_class_token):
    torch.manual_seed(2)
    x, keys, attention = torch.randn(2, 20, 5), torch.randn(2, 20, 12), torch.rand(2, 20)
    token = torch.randn(2, 1, 5) if with_class_token else None
    counts = {"contextual": contextual}
    result = dominant_and_contextual(
        x=x, keep=keep, attention=attention, keys=keys, heads=3, counts=counts, class_feature=token
    )
    for group in range(2):
        one = None if token is None else token[group, 0]
        shaped = keys[group].view(20, 3, 4)
        expected = _visionzip(x[group], attention[group], shaped, keep - contextual, contextual, one)
        assert torch.allclose(result[group], expected, atol=1e-6)


@pytest.mark.parametrize("contextual", [0, 8])
def test_visionzip_may_be_dominant_or_contextual_alone(contextual):
    torch.manual_seed(3)
    x, keys, attention = torch.randn(1, 20, 5), torch.randn(1, 20, 12), torch.rand(1, 20)
    result = dominant_and_contextual(
        x=x, keep=8, attention=attention, keys=keys, heads=3, counts={"contextual": contextual}
    )
    assert result.shape == (1, 8, 5)
    dominant = sorted(attention[0].argsort(descending=True)[:8].tolist())
    assert torch.equal(result[0], x[0, dominant]) == (not contextual)


@pytest.mark.parametrize("keep", [20, 40])
def test_prumerge_plus_lays_a_grid(keep):
    """The grid's step follows from the outliers; what of it the attended ones lack comes after them, in order."""
    torch.manual_seed(8)
    x, keys, attention = torch.randn(1, 144, 6), torch.randn(1, 144, 8), torch.rand(1, 144)
    attention[0, torch.randperm(144)[:6]] += 3.0
    low, high = (float(attention.quantile(q)) for q in (0.25, 0.75))
    outliers = [i for i in range(144) if float(attention[0, i]) > high + 1.5 * (high - low)]
    assert len(outliers) == 6
    grid = list(range(0, 143, int(int(144 / 6) / 3)))
    order = sorted(range(144), key=lambda i: -float(attention[0, i]))
    count = max(m for m in range(144) if len(set(order[:m]) | set(grid)) <= keep - 1)
    stay = order[:count] + [i for i in grid if i not in order[:count]]
    assert attended_and_grid(attention, keep - 1)[0].tolist() == stay
    result = merge_with_grid(x=x, keep=keep, joint_attention=attention, last_keys=keys)
    assert result.shape == (1, keep, 6)
    assert torch.allclose(result[0, -1], sum(attention[0, i] * x[0, i] for i in range(144) if i not in stay), atol=1e-4)


def test_prumerge_plus_shortens_a_grid_that_has_no_room():
    """Twelve outliers would lay every fourth of 144 tokens: more than 20."""
    attention = torch.rand(1, 144, generator=torch.Generator().manual_seed(9))
    attention[0, :12] += 3.0
    step = grid_step(144, 20)
    stay = attended_and_grid(attention, 19)[0].tolist()
    assert len(set(stay)) == 19
    assert set(range(0, 143, step)) <= set(stay)


def test_vispruner_equals_a_plain_loop_over_rounds():
    """48 tokens, 12 stay, 6 by attention: 42 lose eight a round, 34, 26, 18, 10, and then four: 6."""
    torch.manual_seed(4)
    x, attention, features = torch.randn(1, 2, 48, 4), torch.rand(2, 48), torch.randn(2, 48, 6)
    scores = attended_or_distinct(x=x, keep=12, attention=attention, features=features, counts={"important": 6})
    assert scores.shape == (1, 2, 48)
    for group in range(2):
        order = attention[group].argsort(descending=True).tolist()
        unit = torch.nn.functional.normalize(features[group], dim=-1)
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
