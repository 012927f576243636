"""Every Triton kernel at its shipped configuration, compiled for GPUs that are not here.

Each test prints registers, spills and shared memory: ``pytest -rP`` shows them.
"""

from __future__ import annotations

import os

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing"),
]

import kernel_aot

from aimcost.kernels.importance import triton_impl as importance
from aimcost.kernels.importance import wavefront_impl as wavefront
from aimcost.kernels.merge import triton_impl as merge
from aimcost.kernels.select import triton_impl as select

NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
ARCHITECTURES = [80, 90]
TILES = {
    importance.row_kernel: importance.tile_config,
    importance.step_kernel: importance.step_config,
    wavefront.wavefront_kernel: wavefront.wavefront_config,
}
MATRIX_UNITS = {80: "mma.sync", 90: "wgmma", 100: "tcgen05.mma"}


def importance_case(kernel, dtype, head_dim, live, arch=80):
    hopper = (arch == 90,) if kernel is wavefront.wavefront_kernel else ()
    tile = TILES[kernel](dtype, head_dim, *hopper)
    flags = "*u8" if live else "*fp32"
    signature = {"q_ptr": "*" + NAMES[dtype], "k_ptr": "*" + NAMES[dtype], "live_ptr": flags}
    signature |= dict.fromkeys(["top_ptr", "total_ptr", "weight_ptr", "mass_ptr", "out_ptr"], "*fp32")
    signature |= {"counter_ptr": "*i32", "tokens": "i32", "counters": "i32", "scale2": "fp32"}
    signature |= {f"stride_{name}": "i32" for name in ("qb", "qh", "qn", "kb", "kh", "kn", "lb")}
    constants = {
        "HEADS": 28,
        "GROUP": 7,
        "D": head_dim,
        "WIDTH": importance.padded_width(head_dim),
        "OWN": tile.block_own,
        "LOOP": tile.block_loop,
        "HAS_LIVE": live,
        "UPCAST": False,
        "WAVEFRONT": False,
        "STEPS": 5,
        "SCAN": wavefront.SCAN,
        "POLLS": wavefront.POLLS,
    }
    names = kernel.arg_names
    signature, constants = ({k: v for k, v in found.items() if k in names} for found in (signature, constants))
    return kernel, signature, constants, tile.warps, tile.stages


def match_case(dtype):
    tile = merge.match_config(dtype)
    signature = {"x_ptr": "*" + NAMES[dtype], "norm_ptr": "*fp32", "best_ptr": "*fp32", "into_ptr": "*i32"}
    signature |= dict.fromkeys(["tokens_a", "tokens_b", "width", "stride_f", "stride_n"], "i32")
    constants = {"BLOCK_A": tile.block_a, "BLOCK_B": tile.block_b, "BLOCK_D": tile.block_d, "UPCAST": False}
    return merge.match_kernel, signature, constants, tile.warps, tile.stages


def ranking_cases():
    lists = dict.fromkeys(["into_ptr", "order_ptr", "ranked_into_ptr"], "*i32")
    norm = {"x_ptr": "*bf16", "norm_ptr": "*fp32"} | dict.fromkeys(["tokens", "width", "stride_f", "stride_n"], "i32")
    yield "norm", (merge.norm_kernel, norm, {"BLOCK_D": merge.ROW_BLOCK}, 4, 3)
    yield (
        "rank",
        (
            merge.rank_kernel,
            {"best_ptr": "*fp32", "tokens_a": "i32", **lists},
            {"BLOCK": merge.RANK_BLOCK},
            8,
            3,
        ),
    )
    rows = {"x_ptr": "*bf16", "out_ptr": "*bf16", **lists}
    rows |= dict.fromkeys(["tokens_a", "tokens_b", "r", "width", "stride_f", "stride_n"], "i32")
    yield "rows", (merge.rows_kernel, rows, {"BLOCK_D": merge.ROW_BLOCK, "SCAN": merge.SCAN_BLOCK}, 4, 3)
    mean = {"weight_ptr": "*fp32", "total_ptr": "*fp32", "out_ptr": "*fp32", "tokens": "i32"}
    yield "head_rms", (importance.head_rms_kernel, mean, {"HEADS": 28, "BLOCK": importance.MEAN_BLOCK}, 4, 3)


def selection_cases():
    keep = {"score_ptr": "*fp32", "protected_ptr": "*u8", "live_ptr": "*u8", "flag_ptr": "*u8"}
    keep |= dict.fromkeys(["tokens", "keep", "stride_sb"], "i32")
    constants = {"HAS_PROTECTED": True, "HAS_LIVE": True, "LOWEST": select.LOWEST}
    constants |= {"BLOCK": select.RANK_BLOCK, "SCAN": select.RANK_SCAN}
    yield "keep", (select.keep_kernel, keep, constants, 4, 3)
    compact = {"flag_ptr": "*u8", "kept_ptr": "*i64", "tokens": "i32", "keep": "i32"}
    yield "compact", (select.compact_kernel, compact, {"BLOCK": select.COMPACT_BLOCK}, 4, 3)
    gather, sizes = {"kept_ptr": "*i64", "keep": "i32", "requests": "i32"}, {}
    # A hidden state, cos, sin, mRoPE's position ids, which tokens are left, which are protected.
    rows = [("*bf16", 1, 3584), ("*bf16", 1, 128), ("*bf16", 1, 128), ("*i64", 3, 1), ("*i64", 1, 1), ("*u8", 1, 1)]
    for i, (kind, lead, width) in enumerate(rows):
        gather |= {f"src{i}": kind, f"dst{i}": kind}
        gather |= {f"stride_{name}{i}": "i32" for name in "lbn"}
        sizes |= {f"LEAD{i}": lead, f"WIDTH{i}": width, f"BLOCK{i}": min(select.ROW_BLOCK, width)}
    yield "gather", (select.gather_kernel, gather, sizes, 4, 3)
    mask = {"mask_ptr": "*bf16", "kept_ptr": "*i64", "out_ptr": "*bf16", "keep": "i32"}
    mask |= {f"stride_{name}": "i32" for name in "bhqk"}
    yield "mask", (select.mask_kernel, mask, {"HEADS": 1, "BLOCK": select.MASK_BLOCK}, 4, 3)


def compile_and_check(case, arch):
    built = kernel_aot.build(*case, arch)
    print(f"sm_{arch} {case[0].fn.__name__}: {built}")
    assert built.spill_bytes == 0, built
    assert built.registers <= 255, built
    # The tightest of the supported GPUs, so that one tile serves them all.
    assert built.shared_bytes <= min(kernel_aot.SHARED_LIMIT.values()) * 1024, built
    return built


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("kernel", ["row_kernel", "step_kernel"])
@pytest.mark.parametrize(
    ("dtype", "head_dim", "live"),
    [
        (torch.bfloat16, 128, True),
        (torch.bfloat16, 256, True),
        (torch.float32, 128, False),
        *(
            pytest.param(*case, marks=pytest.mark.check)
            for case in (
                (torch.bfloat16, 64, False),
                (torch.bfloat16, 128, False),
                (torch.float16, 72, True),
                (torch.float32, 64, True),
                (torch.float32, 256, True),
            )
        ),
    ],
)
def test_importance_kernels(kernel, dtype, head_dim, live, arch):
    case = importance_case(getattr(importance, kernel), dtype, head_dim, live)
    built = compile_and_check(case, arch)
    # fp32 is asked to be exact, which no tensor core is.
    assert built.mma == ("none" if dtype == torch.float32 else MATRIX_UNITS[arch])


@pytest.mark.parametrize(
    ("dtype", "head_dim", "live", "arch"),
    [
        *(pytest.param(torch.bfloat16, 128, False, arch, marks=pytest.mark.check) for arch in ARCHITECTURES),
        *(
            pytest.param(dtype, head_dim, True, arch, marks=pytest.mark.check_all)
            for dtype in (torch.float16, torch.bfloat16, torch.float32)
            for head_dim in (64, 72, 128, 256)
            for arch in (*ARCHITECTURES, *(() if dtype == torch.float32 else (100,)))
        ),
    ],
)
def test_wavefront_kernel(dtype, head_dim, live, arch):
    case = importance_case(wavefront.wavefront_kernel, dtype, head_dim, live, arch)
    built = compile_and_check(case, arch)
    # half the tile at a width of 256, fewer rows than a warp group's product has
    unit = "mma.sync" if head_dim == 256 else MATRIX_UNITS[arch]
    assert built.mma == ("none" if dtype == torch.float32 else unit)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("dtype", list(NAMES))
def test_merge_match_kernel(dtype, arch):
    built = compile_and_check(match_case(dtype), arch)
    assert (built.mma == "none") == (dtype == torch.float32)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=name) for cases in (ranking_cases, selection_cases) for name, case in cases()],
)
def test_the_other_kernels(case, arch):
    compile_and_check(case, arch)


@pytest.mark.parametrize("kernel", ["row_kernel", "step_kernel"])
@pytest.mark.parametrize("head_dim", [64, 128, 256])
def test_importance_kernels_on_blackwell(kernel, head_dim):
    case = importance_case(getattr(importance, kernel), torch.bfloat16, head_dim, True)
    assert compile_and_check(case, 100).mma == "tcgen05.mma"
