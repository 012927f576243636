"""Merging on the PyTorch path (CPU): exact, but for a cosine that rounding decides, which real numbers may have.

Sums are formed in rank order and divided correctly rounded: equal decisions give equal bits.
"""

from __future__ import annotations

import kernel_oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aimcost.errors import InvalidValueError

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from aimcost.kernels.merge import merge_to_schedule, merge_tokens, path_for, reference
from aimcost.kernels.tolerances import similarity_error, undecided

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


@st.composite
def frames(draw):
    """A few frames of small whole numbers: many equal cosines, equal rows and rows of zeros."""
    count, tokens = draw(st.integers(1, 3)), draw(st.integers(1, 11))
    width = draw(st.integers(1, 6))
    token = st.lists(st.integers(-2, 2), min_size=width, max_size=width)
    # Drawn from a small pool, so that tokens repeat and several A choose one B.
    pool = draw(st.lists(token, min_size=1, max_size=5))
    frame = st.lists(st.sampled_from(pool), min_size=tokens, max_size=tokens)
    return draw(st.lists(frame, min_size=count, max_size=count)), draw(st.integers(0, tokens + 1))


@settings(max_examples=150, deadline=None)
@given(frames(), st.sampled_from(DTYPES))
def test_equals_the_written_semantics_exactly(case, dtype):
    values, r = case
    wanted = torch.tensor([kernel_oracles.merge(frame, r) for frame in values], dtype=torch.float64)
    found = merge_tokens(torch.tensor(values, dtype=dtype), r)
    assert found.dtype == dtype
    assert torch.equal(found, wanted.to(torch.promote_types(dtype, torch.float32)).to(dtype))


@settings(max_examples=50, deadline=None)
@given(frames())
def test_tokens_are_conserved_and_counted(case):
    values, r = case
    x = torch.tensor(values, dtype=torch.float64)
    tokens = x.shape[1]
    assert merge_tokens(x, r).shape[1] == tokens - min(r, tokens // 2)
    # One B and one A: the mean of both, whatever they are.
    if tokens == 2 and r >= 1:
        assert torch.equal(merge_tokens(x, r), x.mean(dim=1, keepdim=True))


def test_order_of_the_output_by_hand():
    # A = e0 (cos 1 with B0), (1, 2) (cos 2/√5 with B1), (3, 1) (cos 3/√10 with B0); B = e0, e1.
    x = torch.tensor([[[2.0, 0], [1, 0], [1, 2], [0, 1], [3, 1]]])
    assert merge_tokens(x, 1).tolist() == [[[3, 1], [1, 2], [1.5, 0], [0, 1]]]
    assert torch.equal(merge_tokens(x, 2), torch.tensor([[[1.0, 2], [2, 1 / 3], [0, 1]]]))


def test_equal_similarities_fall_to_the_earliest():
    ones = torch.ones(1, 6, 4)
    ones[0, :, 0] = torch.tensor([1.0, 2, 4, 8, 16, 32])
    ones[0, :, 1:] = ones[0, :, :1]
    # All cosines are 1: every A goes to B 0, and A 0 and A 1 are the first two.
    assert torch.equal(merge_tokens(ones, 2)[0, :, 0], torch.tensor([16, (2 + 1 + 4) / 3, 8, 32]))


def test_zero_rows_have_similarity_zero():
    x = torch.tensor([[[0.0, 0], [1, 0], [-1, 0], [0, 0]]])
    assert reference.cosine_order(x).tolist() == [[[0, 0], [-1, 0]]]
    # A 1 prefers the zero row (0) to its opposite (-1); A 0 ties at 0, with B 0 and before A 1.
    assert merge_tokens(x, 1).tolist() == [[[-1, 0], [0.5, 0], [0, 0]]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [2.0**-50, 1.0, 2.0**50])
def test_similarity_is_that_of_fp64_and_does_not_depend_on_scale(size, dtype):
    if dtype == torch.float16:
        size = size**0.1  # its range
    x = torch.randn(2, 30, 48, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = reference.cosine_order(x * size)
    assert kernel_oracles.of_bound(found, reference.cosine_order(x.double()), similarity_error(x)) <= 1
    if dtype != torch.float16:  # whose smallest numbers lose bits
        assert torch.equal(found, reference.cosine_order(x))


def test_schedule_halves_as_the_released_code_does():
    x = torch.randn(2, 196, 8, generator=torch.Generator().manual_seed(1))
    counts = [merge_to_schedule(x, [98, 49, 24, 12, 6, 3][:steps]).shape[1] for steps in range(7)]
    assert counts == [196, 98, 49, 25, 13, 7, 4]
    twice = merge_tokens(merge_tokens(x, 98), 49)
    assert torch.equal(merge_to_schedule(x, [98, 49]), twice)


def test_strided_input_and_frames_are_independent():
    x = torch.randn(3, 21, 10, generator=torch.Generator().manual_seed(2))
    wide = torch.zeros(3, 21, 20)
    wide[:, :, ::2] = x
    merged = merge_tokens(x, 7)
    assert torch.equal(merge_tokens(wide[:, :, ::2], 7), merged)
    assert not undecided(x).any()
    assert torch.equal(merge_tokens(x[1:2], 7), merged[1:2])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_refuses_non_finite_values(bad):
    x = torch.zeros(1, 4, 2)
    x[0, 3, 1] = bad
    with pytest.raises(InvalidValueError, match="finite"):
        merge_tokens(x, 1)
    assert merge_tokens(x, 1, check=False).shape == (1, 3, 2)


@pytest.mark.parametrize(
    ("x", "r", "message"),
    [
        (torch.zeros(4, 2), 1, "shape"),
        (torch.zeros(1, 0, 2), 1, "shape"),
        (torch.zeros(1, 4, 2, dtype=torch.int64), 1, "dtype"),
        (torch.zeros(1, 4, 2), -1, "'r'"),
        (torch.zeros(1, 4, 2), 1.5, "'r'"),
        (torch.zeros(1, 4, 2), True, "'r'"),
    ],
)
def test_refuses_bad_arguments(x, r, message):
    with pytest.raises(InvalidValueError, match=message):
        merge_tokens(x, r)


def test_says_which_path_it_takes():
    x = torch.zeros(1, 4, 2)
    assert path_for(x) == "torch"
    with pytest.raises(InvalidValueError, match="path"):
        merge_tokens(x, 1, path="cuda")
    pytest.importorskip("triton")
    with pytest.raises(InvalidValueError, match="not CUDA"):
        merge_tokens(x, 1, path="triton")
