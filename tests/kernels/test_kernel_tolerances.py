"""The kernels' error bounds: met by correct arithmetic, near what it does, and broken widely by a defect."""

from __future__ import annotations

import kernel_oracles
import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from aimcost.kernels.importance import importance_scores, reference
from aimcost.kernels.merge import merge_tokens
from aimcost.kernels.merge.reference import cosine_order, merge
from aimcost.kernels.tolerances import ROWS_MOVED, importance_error, merge_error, similarity_error, undecided

SLACK = 20
"""The largest of many errors reaches at least this part of its bound, or the bound says nothing."""


def draw(tokens, width, seed, dtype=torch.float32, gain=1.5):
    generator = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(1, heads, tokens, width, generator=generator) * gain for heads in (4, 2))
    return q.to(dtype), k.to(dtype)


def importance_of_bound(found, q, k, **given):
    """Error against fp64 in units of the bound."""
    given = {"scale": q.shape[-1] ** -0.5} | given
    return kernel_oracles.of_bound(
        found, reference.importance_dense(q.double(), k.double(), **given), importance_error(q, k, **given)
    )


@pytest.mark.parametrize("tau", [0.05, 0.1, 1.0])
@pytest.mark.parametrize("width", [16, 64, 256])
def test_importance_errors_come_near_their_bound_and_stay_below(tau, width):
    worst = 0.0
    for seed, tokens in enumerate((2, 17, 65, 96, 150)):
        for gain in (0.5, 1.5, 3.0):
            q, k = draw(tokens, width, seed, gain=gain)
            for found in (
                importance_scores(q, k, tau=tau, path="torch"),
                reference.importance_dense(q, k, scale=width**-0.5, tau=tau),
            ):
                error = importance_of_bound(found, q, k, tau=tau)
                assert error <= 1, (tokens, gain)
                worst = max(worst, error)
    assert worst > 1 / SLACK


def test_a_sharp_softmax_passes_on_less_of_one_product_than_of_two():
    q, k = draw(70, 256, seed=70)
    one, two = (importance_error(q, k, scale=1 / 16, products=n).max() for n in (1, 2))
    assert one < two / 5
    # and a small temperature is part of the condition
    assert importance_error(q, k, scale=1 / 16, tau=0.01, products=2).max() > 5 * two


@pytest.mark.parametrize("width", [32, 128])
def test_defects_of_importance_exceed_the_bound_tenfold(width):
    q, k = draw(90, width, seed=3)
    low = k.bfloat16().float()
    wrong = {
        "bf16 keys": importance_scores(q, low),
        "scale": importance_scores(q, k, scale=1.001 * width**-0.5),
        "temperature": importance_scores(q, k, tau=0.1001),
        "a key less": importance_scores(q, k, live=(torch.arange(90) != 40)[None]),
        "a step less": importance_scores(q, k, steps=4),
    }
    errors = {name: importance_of_bound(found, q, k) for name, found in wrong.items()}
    assert all(error > 10 for error in errors.values()), errors


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [8, 100, 1000])
def test_similarity_errors_come_near_their_bound_and_stay_below(width, dtype):
    x = torch.randn(8, 60, width, generator=torch.Generator().manual_seed(width)).to(dtype)
    error = kernel_oracles.of_bound(cosine_order(x), cosine_order(x.double()), similarity_error(x))
    assert 1 / SLACK < error <= 1


def test_equal_cosines_are_undecided_and_distinct_ones_are_not():
    plain = torch.tensor([[[1.0, 0, 0], [3, 1, 0], [0, 1, 0], [0, 5, 1]]])
    assert undecided(plain).tolist() == [0]
    twice = plain.clone()
    twice[0, 3] = 2 * twice[0, 1]  # both odd tokens lie alike for either even one
    assert undecided(twice).tolist() == [2]


def test_rounding_turns_no_more_than_the_undecided():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 200, 24, generator=generator)
    # In half of the frames, odd tokens have a near twin.
    x[:10, 3::4] = x[:10, 1::4] * (1 + 1e-7 * torch.randn(10, 50, 24, generator=generator))
    found, exact = merge_tokens(x, 100).double(), merge(x.double(), 100)
    wrong = ((found - exact).abs() > merge_error(x, exact, 100)).any(-1).sum(-1)
    assert bool((wrong <= ROWS_MOVED * undecided(x)).all())
    assert bool((wrong[:10] > 0).all())
    assert undecided(x)[10:].sum() < 10


def test_a_wrong_mean_exceeds_the_bound_tenfold():
    x = torch.randn(2, 40, 24, generator=torch.Generator().manual_seed(0)).bfloat16()
    exact = merge(x.double(), 12)
    bound = merge_error(x, exact, 12)
    assert kernel_oracles.of_bound(merge_tokens(x, 12), exact, bound) <= 1
    summed = merge(x.float(), 12) * 1.05
    assert kernel_oracles.of_bound(summed, exact, bound) > 10
