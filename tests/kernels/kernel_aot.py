"""Compile Triton kernels for GPUs that are not there, and read what ptxas says about them."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

SHARED_LIMIT = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}
"""Shared memory a block may use, KiB: CUDA C++ Programming Guide, technical specifications per
compute capability."""


@dataclass(frozen=True, kw_only=True)
class Build:
    """What one kernel became on one architecture."""

    registers: int
    spill_bytes: int
    shared_bytes: int
    mma: str


def build(kernel, signature: dict[str, str], constexprs: dict, warps: int, stages: int, arch: int) -> Build:
    """Compile `kernel` for ``sm_<arch>`` with all pointers, widths and strides divisible by 16.

    Every argument takes a 16-byte alignment hint, as torch gives for its allocations and as the
    launcher detects for strides of usual head dimensions.
    """
    names = kernel.arg_names
    kinds = {name: signature.get(name, "constexpr") for name in names}
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(names)
        if kinds[name].startswith("*") or name.startswith("stride") or name == "width"
    }
    source = ASTSource(fn=kernel, signature=kinds, constexprs=constexprs, attrs=aligned)
    compiled = triton.compile(
        source,
        target=GPUTarget("cuda", arch, 32),
        options={"num_warps": warps, "num_stages": stages},
    )
    ptx = compiled.asm["ptx"]
    said = _ptxas(ptx, arch)
    spills = sum(int(n) for n in re.findall(r"(\d+) bytes spill (?:stores|loads)", said))
    found = re.search(r"Used (\d+) registers", said)
    assert found, said
    unit = next((u for u in ("tcgen05.mma", "wgmma", "mma.sync") if u in ptx), "none")
    return Build(registers=int(found[1]), spill_bytes=spills, shared_bytes=compiled.metadata.shared, mma=unit)


def _ptxas(ptx: str, arch: int) -> str:
    target = re.search(r"\.target (sm_\w+)", ptx)
    assert target, "PTX without a target"
    tool = get_ptxas(arch)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(ptx)
        ran = subprocess.run(
            [tool.path, "-v", f"--gpu-name={target[1]}", str(path), "-o", str(path.with_suffix(".cubin"))],
            capture_output=True,
            text=True,
            check=True,
        )
    return ran.stderr + ran.stdout
