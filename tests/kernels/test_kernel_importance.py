"""Importance on the PyTorch path (CPU): the streamed form against the definition and an oracle.

Every score is held to `aimcost.kernels.tolerances.importance_error`. bf16 and fp16 inputs are exact in
fp32, whose arithmetic is theirs; of fp64 only the rounding of the result to fp32 is left.
"""

from __future__ import annotations

import importlib

import kernel_oracles
import pytest

from aimcost.errors import InvalidValueError

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from aimcost.kernels import _dispatch
from aimcost.kernels.importance import importance_scores, path_for, reference
from aimcost.kernels.tolerances import importance_error

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def make(batch, heads, kv_heads, tokens, width, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(batch, heads, tokens, width, generator=generator) * 1.5
    k = torch.randn(batch, kv_heads, tokens, width, generator=generator) * 1.5
    return q.to(dtype), k.to(dtype)


def left_padding(batch, tokens):
    """Request b begins with 3·b dead tokens."""
    return torch.arange(tokens)[None] >= 3 * torch.arange(batch)[:, None]


@pytest.mark.parametrize("padded", [False, True])
def test_definition_equals_plain_python(padded):
    q, k = make(2, 4, 2, 9, 5, torch.float64)
    live = left_padding(2, 9) if padded else torch.ones(2, 9, dtype=torch.bool)
    found = reference.importance_dense(q, k, scale=0.4, tau=0.3, steps=3, live_BN=live)
    bound = importance_error(q, k, scale=0.4, tau=0.3, steps=3, live=live)
    for b in range(2):
        wanted = kernel_oracles.importance(
            q[b].tolist(), k[b].tolist(), scale=0.4, tau=0.3, steps=3, live=live[b].tolist()
        )
        assert kernel_oracles.of_bound(found[b], torch.tensor(wanted, dtype=torch.float64), bound[b]) <= 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("batch", "heads", "kv_heads", "tokens", "width"),
    [(1, 1, 1, 1, 16), (1, 14, 2, 131, 64), (2, 4, 4, 64, 80), (3, 6, 2, 65, 33), (1, 8, 1, 200, 72)],
)
@pytest.mark.parametrize("padded", [False, True])
def test_streamed_equals_the_definition(dtype, batch, heads, kv_heads, tokens, width, padded):
    q, k = make(batch, heads, kv_heads, tokens, width, dtype)
    live = left_padding(batch, tokens) if padded else None
    wanted = reference.importance_dense(q.double(), k.double(), scale=width**-0.5, live_BN=live)
    found = importance_scores(q, k, live=live, path="torch")
    assert found.dtype == torch.float32
    assert found.shape == (batch, tokens)
    bound = importance_error(q, k, scale=width**-0.5, live=live)
    assert kernel_oracles.of_bound(found, wanted, bound) <= 1


@pytest.mark.parametrize("tile", [1, 1 << 9, 1 << 12, 1 << 20])
def test_tiling_changes_nothing(tile, monkeypatch):
    q, k = make(3, 6, 2, 37, 16, torch.float64)
    wanted = reference.importance_dense(q, k, scale=0.25)
    monkeypatch.setattr(reference, "TILE_ELEMENTS", tile)
    found = reference.importance_streamed(q, k, scale=0.25, rows=8)
    assert kernel_oracles.of_bound(found, wanted, importance_error(q, k, scale=0.25)) <= 1


def test_padding_leaves_the_scores_of_the_rest():
    q, k = make(1, 4, 2, 40, 32, torch.float64)
    pad_q, pad_k = (torch.cat([torch.randn(1, x.shape[1], 9, 32).to(x), x], dim=2) for x in (q, k))
    live = torch.arange(49)[None] >= 9
    found = importance_scores(pad_q, pad_k, live=live)
    assert torch.equal(found[:, :9], torch.zeros(1, 9))
    bound = importance_error(q, k, scale=32**-0.5)
    assert kernel_oracles.of_bound(found[:, 9:], importance_scores(q, k), bound) <= 1


def test_mass_is_conserved():
    # One head: the score is d itself, and every row of M sums to 1.
    q, k = make(2, 1, 1, 77, 24, torch.float64)
    live = left_padding(2, 77)
    mass = importance_scores(q, k, live=live).double().sum(dim=1)
    bound = importance_error(q, k, scale=24**-0.5, live=live).sum(dim=1)
    assert kernel_oracles.of_bound(mass, torch.ones(2), bound) <= 1


def test_strided_inputs():
    q, k = make(2, 4, 2, 50, 32)
    q_BNHD = q.transpose(1, 2).contiguous().transpose(1, 2)
    assert not q_BNHD.is_contiguous()
    assert torch.equal(importance_scores(q_BNHD, k), importance_scores(q, k))


def test_never_holds_a_matrix_of_all_tokens(monkeypatch):
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                largest = max(largest, result.numel())
            return result

    monkeypatch.setattr(reference, "TILE_ELEMENTS", 1 << 12)
    q, k = make(1, 4, 2, 600, 16)
    with Watch():
        importance_scores(q, k, path="torch")
    assert 600 < largest <= 64 * 600 < 600 * 600 / 2


def test_refuses_bad_values():
    q, k = make(1, 4, 2, 6, 8)
    for bad in (float("nan"), float("inf")):
        spoilt = q.clone()
        spoilt[0, 1, 2, 3] = bad
        with pytest.raises(InvalidValueError, match="'q' must be finite"):
            importance_scores(spoilt, k)
        with pytest.raises(InvalidValueError, match="'k' must be finite"):
            importance_scores(q, spoilt[:, :2])
    with pytest.raises(InvalidValueError, match="live"):
        importance_scores(q, k, live=torch.zeros(1, 6, dtype=torch.bool))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": torch.zeros(1, 3, 6, 8)}, "head count"),
        ({"k": torch.zeros(1, 2, 5, 8)}, "shape"),
        ({"k": torch.zeros(1, 2, 6, 8, dtype=torch.bfloat16)}, "dtype"),
        ({"q": torch.zeros(4, 6, 8)}, "shape"),
        ({"tau": 0.0}, "tau"),
        ({"scale": float("nan")}, "scale"),
        ({"steps": 0}, "steps"),
        ({"live": torch.ones(1, 5, dtype=torch.bool)}, "live"),
        ({"live": torch.ones(1, 6)}, "live"),
        ({"path": "gpu"}, "path"),
    ],
)
def test_refuses_bad_arguments(change, message):
    given = {"q": torch.zeros(1, 4, 6, 8), "k": torch.zeros(1, 2, 6, 8)} | change
    with pytest.raises(InvalidValueError, match=message):
        importance_scores(given.pop("q"), given.pop("k"), **given)


def test_says_which_path_it_takes():
    q, k = make(1, 4, 2, 6, 8)
    assert path_for(q, k) == "torch"
    pytest.importorskip("triton")
    with pytest.raises(InvalidValueError, match="not CUDA"):
        importance_scores(q, k, path="triton")


@pytest.fixture
def as_on(monkeypatch):
    """Tensors that say they are on a GPU of a compute capability; scores are the name of the kernel."""
    pytest.importorskip("triton")
    for name in ("triton", "wavefront"):
        module = importlib.import_module(f"aimcost.kernels.importance.{name}_impl")
        monkeypatch.setattr(module, "importance", lambda *_, name=name, **__: name)

    def on(capability, dtype, width):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
        monkeypatch.setattr(_dispatch, "_ampere_or_later", lambda _: capability >= (8, 0))
        with FakeTensorMode():
            return [torch.empty(1, heads, 6, width, dtype=dtype, device="cuda:0") for heads in (4, 2)]

    return on


@pytest.mark.parametrize(
    ("capability", "dtype", "width", "path"),
    [
        ((9, 0), torch.bfloat16, 128, "wavefront"),
        ((9, 0), torch.float16, 72, "wavefront"),  # padded to 128
        ((9, 0), torch.bfloat16, 129, "triton"),
        ((9, 0), torch.float16, 256, "triton"),
        ((9, 0), torch.float32, 64, "wavefront"),
        ((9, 0), torch.float32, 256, "wavefront"),
        ((8, 0), torch.bfloat16, 128, "triton"),
        ((8, 0), torch.float32, 64, "triton"),
        ((10, 0), torch.bfloat16, 128, "triton"),
    ],
)
def test_takes_the_path_that_was_timed_to_be_faster(as_on, capability, dtype, width, path):
    q, k = as_on(capability, dtype, width)
    assert path_for(q, k) == path
    assert importance_scores(q, k) == path
    # the wavefront holds eight masses a key
    assert importance_scores(q, k, steps=8) == path_for(q, k, 8) == path
    assert importance_scores(q, k, steps=9) == path_for(q, k, 9) == "triton"
