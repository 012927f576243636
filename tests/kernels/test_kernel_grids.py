"""Launch grids at sizes that no test could run: on tensors without storage, with kernels that note their grid."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from aimcost.kernels.importance import triton_impl as importance
from aimcost.kernels.importance import wavefront_impl as wavefront
from aimcost.kernels.merge import triton_impl as merge
from aimcost.kernels.select import triton_impl as select

pytestmark = pytest.mark.torch

# CUDA C++ Programming Guide, technical specifications per compute capability.
LIMITS = (2**31 - 1, 65_535, 65_535)


@pytest.fixture
def grids(monkeypatch):
    """By kernel, the grid it was launched with; nothing runs."""
    found = {}

    def noting(name):
        def launch(grid):
            def call(*_, **__):
                found[name] = grid

            return call

        return type("Noted", (), {"__getitem__": lambda self, grid: launch(grid)})()

    for module in (importance, wavefront, merge, select):
        for name in [name for name in vars(module) if name.endswith("_kernel")]:
            monkeypatch.setattr(module, name, noting(name))
    return found


def empty(*shape, dtype=torch.bfloat16):
    return torch.empty(*shape, dtype=dtype, device="meta")


def test_grids_stay_within_their_limits(grids):
    """3,000 requests of 28 heads; 70,000 requests; a mask of three heads over 32,768 tokens; 100,000 tokens a group."""
    importance.importance(empty(3000, 28, 64, 128), empty(3000, 4, 64, 128), scale=0.1, tau=0.1, steps=2, live=None)
    wavefront.importance(empty(3000, 28, 64, 128), empty(3000, 4, 64, 128), scale=0.1, tau=0.1, steps=2, live=None)
    select.select(empty(70_000, 64, dtype=torch.float32), 32, None, None)
    kept = empty(1, 32_768, dtype=torch.int64)
    select.gather_mask(empty(1, 3, 32_768, 32_768, dtype=torch.bool), kept)
    select.gather_rows([(empty(70_000, 64, 16), 1)], empty(70_000, 32, dtype=torch.int64))
    merge.merge(empty(2, 100_000, 3584), 100)
    assert grids.keys() == {
        "row_kernel", "step_kernel", "wavefront_kernel", "head_rms_kernel", "keep_kernel", "compact_kernel",
        "mask_kernel", "gather_kernel", "norm_kernel", "match_kernel", "rank_kernel", "rows_kernel",
    }  # fmt: skip
    for name, grid in grids.items():
        assert all(size <= limit for size, limit in zip(grid, LIMITS, strict=False)), name
    tile = importance.step_config(torch.bfloat16, 128)
    assert math.prod(grids["step_kernel"]) == 3000 * 28 * math.ceil(64 / tile.block_own)
    assert math.prod(grids["mask_kernel"]) == 3 * 32_768 * 32_768 // select.MASK_BLOCK
    assert math.prod(grids["rows_kernel"]) == 2 * (100_000 - 100) * math.ceil(3584 / merge.ROW_BLOCK)
