"""Selection and gathering on the PyTorch path (CPU): exact, in every dtype."""

from __future__ import annotations

import kernel_oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aimcost.errors import InvalidValueError

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from aimcost.kernels.select import gather_tokens, path_for, select_tokens


@st.composite
def selections(draw):
    batch, tokens = draw(st.integers(1, 3)), draw(st.integers(1, 24))

    def rows(of):
        return draw(st.lists(st.lists(of, min_size=tokens, max_size=tokens), min_size=batch, max_size=batch))

    # Few distinct values: ties everywhere, most of them at zero.
    scores = rows(st.sampled_from([0.0, 0.0, 0.0, 0.25, 0.5, 1e-30]))
    protected, live = rows(st.booleans()), rows(st.sampled_from([True, True, True, False]))
    return scores, protected, live, draw(st.integers(1, tokens))


@settings(max_examples=200, deadline=None)
@given(selections(), st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
def test_equals_the_oracle(case, dtype):
    scores, protected, live, keep = case
    rows = zip(scores, protected, live, strict=True)
    wanted = [kernel_oracles.select(score, keep, safe, alive) for score, safe, alive in rows]
    found = select_tokens(
        torch.tensor(scores, dtype=dtype),
        keep,
        protected=torch.tensor(protected),
        live=torch.tensor(live),
        check=False,
    )
    assert found.dtype == torch.int64
    assert found.tolist() == wanted


def test_zeros_keep_the_earliest_and_all_is_identity():
    zeros = torch.zeros(2, 7)
    assert select_tokens(zeros, 3).tolist() == [[0, 1, 2]] * 2
    assert select_tokens(zeros, 7).tolist() == [list(range(7))] * 2


def test_unchecked_nonsense_still_gives_valid_positions():
    scores = torch.tensor([[float("nan"), 1.0, float("inf"), -1.0, float("nan")]])
    assert select_tokens(scores, 3, check=False).tolist() == [[1, 2, 3]]
    everything = torch.ones(1, 5, dtype=torch.bool)
    assert select_tokens(scores, 2, protected=everything, check=False).tolist() == [[0, 1]]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_refuses_non_finite_scores(bad):
    with pytest.raises(InvalidValueError, match="finite"):
        select_tokens(torch.tensor([[0.0, bad]]), 1)


def test_refuses_counts_outside_the_live_and_protected():
    scores = torch.rand(2, 6)
    live = torch.tensor([[False, False, True, True, True, True], [True] * 6])
    protected = torch.tensor([[False, False, False, False, True, True], [False] * 6])
    for keep in (0, -1, 7, 2.0):
        with pytest.raises(InvalidValueError, match="keep"):
            select_tokens(scores, keep)
    with pytest.raises(InvalidValueError, match="at most the 4 live"):
        select_tokens(scores, 5, live=live)
    with pytest.raises(InvalidValueError, match="at least the 2 protected"):
        select_tokens(scores, 1, protected=protected)
    padded = select_tokens(scores, 5, live=live, protected=~live)  # padding kept by protecting it
    assert padded[0, :2].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": torch.zeros(4)}, "shape"),
        ({"scores": torch.zeros(1, 4, dtype=torch.int64)}, "dtype"),
        ({"live": torch.ones(1, 3, dtype=torch.bool)}, "live"),
        ({"protected": torch.ones(1, 4)}, "protected"),
        ({"path": "fast"}, "path"),
    ],
)
def test_refuses_bad_arguments(change, message):
    arguments = {"scores": torch.zeros(1, 4)} | change
    with pytest.raises(InvalidValueError, match=message):
        select_tokens(arguments.pop("scores"), 2, **arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_gather_takes_what_belongs_to_the_kept(dtype):
    batch, tokens, width = 3, 11, 6
    hidden = torch.randn(batch, tokens, width).to(dtype)
    cos, position = torch.randn(1, tokens, 4), torch.arange(3 * batch * tokens).view(3, batch, tokens)
    mask = torch.rand(batch, 2, tokens, tokens) > 0.5
    kept = select_tokens(torch.rand(batch, tokens), 5)
    small, (small_cos, small_position), small_mask = gather_tokens(
        hidden, kept, aux=[(cos, 1), (position, 2)], mask=mask
    )
    for b in range(batch):
        for slot, at in enumerate(kept[b].tolist()):
            assert torch.equal(small[b, slot], hidden[b, at])
            assert torch.equal(small_cos[b, slot], cos[0, at])
            assert torch.equal(small_position[:, b, slot], position[:, b, at])
            for other, key in enumerate(kept[b].tolist()):
                assert torch.equal(small_mask[b, :, slot, other], mask[b, :, at, key])
    assert small_mask.shape == (batch, 2, 5, 5)


def test_gathering_all_is_identity():
    hidden, mask = torch.randn(2, 9, 4), torch.randn(1, 1, 9, 9)
    kept = select_tokens(torch.rand(2, 9), 9)
    small, (ids,), small_mask = gather_tokens(hidden, kept, aux=[(torch.arange(9)[None], 1)], mask=mask)
    assert torch.equal(small, hidden)
    assert torch.equal(ids, torch.arange(9).expand(2, 9))
    assert torch.equal(small_mask, mask.expand(2, 1, 9, 9))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kept": torch.tensor([[0, 5]])}, "positions"),
        ({"kept": torch.tensor([[-1, 2]])}, "positions"),
        ({"kept": torch.tensor([[0, 1]], dtype=torch.int32)}, "dtype"),
        ({"kept": torch.tensor([[0], [1]])}, "shape"),
        ({"aux": [(torch.zeros(1, 4, 2), 1)]}, "aux"),
        ({"aux": [(torch.zeros(1, 5), 2)]}, "aux"),
        ({"mask": torch.zeros(1, 1, 5, 4)}, "mask"),
        ({"mask": torch.zeros(2, 1, 5, 5)}, "mask"),
    ],
)
def test_gather_refuses_bad_arguments(change, message):
    arguments = {"kept": torch.tensor([[0, 1]])} | change
    with pytest.raises(InvalidValueError, match=message):
        gather_tokens(torch.zeros(1, 5, 3), arguments.pop("kept"), **arguments)


def test_says_which_path_it_takes():
    assert path_for(torch.zeros(1, 4)) == "torch"
    pytest.importorskip("triton")
    with pytest.raises(InvalidValueError, match="not CUDA"):
        select_tokens(torch.zeros(1, 4), 2, path="triton")
