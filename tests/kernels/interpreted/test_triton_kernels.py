"""Triton kernels in the interpreter, on the CPU, against the PyTorch path.

Merging: fp32 and fp16 exact for whole-number tokens; bf16 to one unit in the last place, the
interpreter truncating where the GPU rounds. Importance: 5e-6 of the largest score. Selection and
gathering: exact. Every call asks for ``path="triton"``, which is an error where it cannot run.
"""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton")
pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]

from triton.runtime.interpreter import InterpretedFunction

from aimcost.kernels.importance import importance_scores
from aimcost.kernels.importance import reference as importance_reference
from aimcost.kernels.importance import triton_impl as importance_triton
from aimcost.kernels.merge import merge_to_schedule, merge_tokens
from aimcost.kernels.select import gather_tokens, select_tokens

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_interpreter_is_what_runs():
    assert isinstance(importance_triton.step_kernel, InterpretedFunction)


def whole_numbers(frames, tokens, width, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-2, 3, (frames, tokens, width), generator=generator)
    x[:, tokens // 2] = 0  # a row of zeros
    x[:, -1] = x[:, 0]  # equal rows, hence equal similarities
    if tokens > 4:
        x[:, 2] = 2 * x[:, 4]
    return x.to(dtype)


def ulp(x):
    return torch.where(x == 0, 0, torch.exp2(torch.floor(torch.log2(x.float().abs()))) * 2**-7)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("frames", "tokens", "width", "r"),
    [(1, 1, 8, 3), (2, 2, 5, 1), (2, 9, 33, 4), (1, 77, 70, 100), (2, 40, 6, 13), (1, 128, 3, 64)],
)
def test_merge(dtype, frames, tokens, width, r):
    x = whole_numbers(frames, tokens, width, dtype, seed=tokens)
    found, wanted = merge_tokens(x, r, path="triton"), merge_tokens(x, r, path="torch")
    assert found.dtype == dtype
    assert found.shape == wanted.shape
    if dtype == torch.bfloat16:
        assert bool(((found.float() - wanted.float()).abs() <= ulp(wanted)).all())
    else:
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_merge_of_real_numbers_repeated_and_strided(dtype):
    x = torch.randn(30, 2, 100, generator=torch.Generator().manual_seed(0)).to(dtype).transpose(0, 1)
    found, wanted = (merge_to_schedule(x, [15, 7, 4], path=path) for path in ("triton", "torch"))
    assert torch.allclose(found.float(), wanted.float(), rtol=2e-3 if dtype == torch.float16 else 1e-6)


def test_merge_unchecked_nan_stays_inside_the_tensor():
    x = torch.ones(1, 9, 8)
    x[0, 2], x[0, 5] = float("nan"), float("inf")
    assert merge_tokens(x, 3, path="triton", check=False).shape == (1, 6, 8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("batch", "heads", "kv_heads", "tokens", "width"),
    [(1, 2, 1, 1, 64), (2, 4, 2, 50, 32), (1, 2, 2, 127, 80), (1, 4, 1, 33, 96), (1, 2, 1, 70, 256)],
)
@pytest.mark.parametrize("padded", [False, True])
def test_importance(dtype, batch, heads, kv_heads, tokens, width, padded):
    generator = torch.Generator().manual_seed(tokens)
    q = (torch.randn(batch, tokens, heads, width, generator=generator) * 1.5).to(dtype).transpose(1, 2)
    k = (torch.randn(batch, kv_heads, tokens, width, generator=generator) * 1.5).to(dtype)
    live = torch.arange(tokens)[None] >= (torch.arange(batch)[:, None] + 1) * min(7, tokens - 1)
    live = live if padded else None
    wanted = importance_reference.importance_dense(q.double(), k.double(), scale=width**-0.5, live_BN=live)
    found = importance_scores(q, k, live=live, path="triton")
    assert found.dtype == torch.float32
    assert ((found - wanted).abs().max() / wanted.max()).item() < 5e-6
    if padded:
        assert bool((found[~live] == 0).all())


def test_importance_ranks_as_the_torch_path_does():
    generator = torch.Generator().manual_seed(5)
    q, k = (torch.randn(2, heads, 96, 64, generator=generator).bfloat16() for heads in (4, 2))
    kept = [select_tokens(importance_scores(q, k, path=path), 24, path=path) for path in ("triton", "torch")]
    assert torch.equal(*kept)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("batch", "tokens", "keep"), [(1, 1, 1), (2, 37, 36), (3, 130, 17), (1, 128, 64)])
@pytest.mark.parametrize("flags", [False, True])
def test_select(dtype, batch, tokens, keep, flags):
    generator = torch.Generator().manual_seed(tokens)
    # Three in four scores are exactly 0.
    scores = torch.rand(batch, tokens, generator=generator)
    scores = (scores * (torch.rand(batch, tokens, generator=generator) > 0.75)).to(dtype)
    given = {}
    if flags:
        given["protected"] = torch.rand(batch, tokens, generator=generator) > 0.9
        given["live"] = torch.rand(batch, tokens, generator=generator) > 0.3
    found, wanted = (select_tokens(scores, keep, path=p, check=False, **given) for p in ("triton", "torch"))
    assert torch.equal(found, wanted)


def test_select_unchecked_nonsense_gives_the_same_valid_positions():
    scores = torch.tensor([[float("nan"), 1.0, float("inf"), -1.0, float("nan"), -float("inf")]])
    for keep in range(1, 7):
        found, wanted = (select_tokens(scores, keep, path=p, check=False) for p in ("triton", "torch"))
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gather(dtype):
    batch, tokens = 2, 19
    hidden = torch.randn(tokens, batch, 40).to(dtype).transpose(0, 1)
    aux = [
        (torch.randn(1, tokens, 12).to(dtype), 1),
        (torch.randn(batch, tokens, 24)[..., ::2], 1),
        (torch.arange(3 * batch * tokens).view(3, batch, tokens), 2),
        (torch.arange(tokens)[None], 1),
        (torch.rand(batch, tokens) > 0.5, 1),
        (torch.randn(2, 3, batch, tokens, 2, 5), 3),
    ]
    kept = select_tokens(torch.rand(batch, tokens), 7)
    masks = [torch.rand(batch, 1, tokens, tokens) > 0.5, torch.randn(1, 3, tokens, tokens).to(dtype), None]
    for mask in masks:
        found, wanted = (gather_tokens(hidden, kept, aux=aux, mask=mask, path=p) for p in ("triton", "torch"))
        assert torch.equal(found[0], wanted[0])
        assert all(torch.equal(*pair) for pair in zip(found[1], wanted[1], strict=True))
        assert found[2] is wanted[2] is None if mask is None else torch.equal(found[2], wanted[2])
