"""How much a profile measures: formats, sizes and repeats, by device and by how quick it has to be.

No size here is one of a known model. Widths avoid powers of two, which meet cache-set conflicts that a
grid would pass on to everything near them; token counts avoid multiples of the tiles, as prompts do.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Plan", "plan_for"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Sizes of a profile.

    Attributes
    ----------
    dtypes
        Number formats, each measured on the whole grid.
    rows, outs, ins
        GEMM grid: m, n and k of y[m, n] = x[m, k] @ W[k, n].
    ceiling
        (m, n, k) of the product whose best time is the compute ceiling.
    probes, probe_tokens
        Products and sequence lengths between the nodes: measured to know the error, never fitted.
    tokens
        Sequence lengths of attention.
    heads
        (query heads, kv heads, head_dim, causal) of attention.
    widths, elementwise_rows
        Row-wise and elementwise operations.
    copy_bytes, pool_bytes
        Size of the copied block, and of the block that weights rotate through.
    passes, repeats, budget_s
        How often everything is measured from the start, so that a disturbance of some seconds meets no
        operation's samples all; samples of a task in each pass, and the time after which two must do.
    limit_s
        Seconds after which passes beyond the first are left out, on a slow or loaded machine.
    """

    dtypes: tuple[str, ...]
    rows: tuple[int, ...]
    outs: tuple[int, ...]
    ins: tuple[int, ...]
    ceiling: tuple[int, int, int]
    probes: tuple[tuple[int, int, int], ...]
    tokens: tuple[int, ...]
    probe_tokens: tuple[int, ...]
    heads: tuple[tuple[int, int, int, bool], ...]
    widths: tuple[int, ...]
    elementwise_rows: tuple[int, ...]
    reduction_tokens: tuple[int, ...]
    copy_bytes: int
    pool_bytes: int
    passes: int
    repeats: int
    budget_s: float
    limit_s: float


def plan_for(device: str, *, quick: bool) -> Plan:
    """The sizes for ``cpu`` or ``cuda``."""
    return (_CPU_QUICK if quick else _CPU) if device == "cpu" else (_CUDA_QUICK if quick else _CUDA)


_CPU_PROBES = (
    (5, 900, 2500),
    (20, 300, 700),
    (24, 3300, 800),
    (60, 1000, 1000),
    (75, 500, 3000),
    (90, 4000, 1200),
    (100, 200, 900),
    (210, 1500, 1500),
    (260, 250, 3000),
    (300, 3000, 640),
    (370, 1100, 3200),
    (800, 900, 900),
)
# rows of whole 16 bytes, as every model's: others take kernels without TMA
_CUDA_PROBES = (
    (5, 2000, 3000),
    (40, 6000, 3600),
    (200, 3600, 10000),
    (350, 1520, 3600),
    (700, 3600, 3600),
    (1400, 10000, 2600),
    (3000, 3600, 10000),
    (6300, 10000, 3600),
    (6300, 3600, 3600),
    (12000, 1104, 4304),
)

_CPU = Plan(
    dtypes=("fp32", "bf16"),
    rows=(1, 8, 36, 132, 516, 1200),
    outs=(144, 720, 2160, 6336),
    ins=(336, 1360, 5232),
    ceiling=(1032, 2160, 2160),
    probes=_CPU_PROBES,
    tokens=(1, 20, 75, 145, 187, 197, 270, 395, 530, 750, 790, 1100),
    probe_tokens=(40, 110, 230, 450, 640),
    heads=((6, 2, 64, True), (6, 2, 128, True), (6, 6, 64, False), (6, 6, 80, False)),
    widths=(720, 2160),
    elementwise_rows=(1, 12, 60, 200, 516, 1032),
    reduction_tokens=(100, 400, 1000),
    copy_bytes=256_000_000,
    pool_bytes=160_000_000,
    passes=2,
    repeats=4,
    budget_s=0.2,
    limit_s=50.0,
)
_CPU_QUICK = Plan(
    dtypes=("fp32", "bf16"),
    rows=(1, 8, 36, 132, 516),
    outs=(144, 720, 2160, 6336),
    ins=(336, 1360, 5232),
    ceiling=(516, 2160, 2160),
    probes=_CPU_PROBES[::2],
    tokens=(1, 20, 75, 145, 187, 197, 395, 750, 790),
    probe_tokens=(110, 450),
    heads=((6, 2, 64, True), (6, 2, 128, True), (6, 6, 72, False)),
    widths=(1360,),
    elementwise_rows=(1, 12, 60, 200, 516),
    reduction_tokens=(100, 500),
    copy_bytes=256_000_000,
    pool_bytes=120_000_000,
    passes=2,
    repeats=3,
    budget_s=0.1,
    limit_s=18.0,
)
_CUDA = Plan(
    dtypes=("bf16", "fp16", "fp32"),
    rows=(1, 16, 64, 128, 250, 500, 1000, 2000, 4100, 8200, 16400),
    outs=(576, 1152, 2304, 4608, 9600, 19200),
    ins=(576, 2304, 4608, 14400),
    ceiling=(8192, 8192, 8192),
    probes=_CUDA_PROBES,
    tokens=(1, 60, 130, 260, 520, 1030, 2060, 4100, 8200, 16400),
    probe_tokens=(200, 800, 3000, 6300),
    heads=(
        (28, 4, 128, True),
        (32, 32, 128, True),
        (14, 2, 64, True),
        (16, 16, 72, False),
        (16, 16, 64, False),
    ),
    widths=(1152, 4608),
    elementwise_rows=(1, 130, 1030, 4100, 16400),
    reduction_tokens=(260, 1030, 4100, 6300),
    copy_bytes=2_000_000_000,
    pool_bytes=1_000_000_000,
    passes=1,
    repeats=7,
    budget_s=0.15,
    limit_s=150.0,
)
_CUDA_QUICK = Plan(
    dtypes=("bf16",),
    rows=(1, 64, 250, 1000, 4100, 16400),
    outs=(1152, 4608, 19200),
    ins=(1152, 4608, 14400),
    ceiling=(8192, 8192, 8192),
    probes=_CUDA_PROBES,
    tokens=(1, 130, 1030, 4100, 8200),
    probe_tokens=(200, 800, 3000, 6300),
    heads=((28, 4, 128, True), (16, 16, 72, False)),
    widths=(4608,),
    elementwise_rows=(1, 130, 4100),
    reduction_tokens=(1030, 6300),
    copy_bytes=2_000_000_000,
    pool_bytes=1_000_000_000,
    passes=1,
    repeats=5,
    budget_s=0.05,
    limit_s=60.0,
)
