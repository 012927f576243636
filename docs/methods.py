"""Write docs/methods.md: what each method reduces, and how near it comes to the code that its authors released."""

from __future__ import annotations

import json
from pathlib import Path

from aimcost.inputs import discover
from aimcost.methods.registry import plan_module

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden" / "released"
HEAD = """<!-- written by docs/methods.py -->
# Methods and the code that their authors released

An accuracy is a method's only if what runs is the method. `tests/golden/released/record.py` executes the released
functions, read from git clones at the commits below, on seeded tensors (smooth fields with noise; for FastV, VTW,
AIM's cuts, PyramidDrop and SparseVLM a seeded decoder of five layers, for ToMe a tower as well) and writes what they
choose; `tests/runtime/test_released.py` runs this project's functions on the same tensors and holds every overlap of
this table. An overlap is the least share, over the
cases, of the tokens that the released function keeps or merges and that ours keeps or merges as well; a merged token
counts if its norm and its product with a fixed vector agree to a thousandth, or to the rounding of bf16. Of AIM,
merging and four cuts are compared. `aimcost show METHOD` and the notes of a schedule say the same.

| method | released code | cases | overlap | what differs |
|---|---|---|---|---|
"""
TAIL = """
Record the outputs again, from a folder of clones, or of files at those commits, that are named as the repositories:

```sh
python tests/golden/released/record.py CLONES
```
"""


def row(name: str) -> str:
    """A line of the table; empty for a method without released code."""
    released = getattr(plan_module(name), "RELEASED", None)
    if released is None:
        return ""
    path = GOLDEN / f"{name}.json"
    cases = len(json.loads(path.read_text(encoding="utf-8"))["cases"]) if path.is_file() else 0
    share = "" if released.overlap is None else f"{released.overlap:.2f}"
    return f"| {name} | {released.code} | {cases or ''} | {share} | {'; '.join(released.differs)} |\n"


def main() -> None:
    """Write the page."""
    rows = "".join(row(name) for name in discover.method_names())
    (ROOT / "docs" / "methods.md").write_text(HEAD + rows + TAIL, encoding="utf-8")


if __name__ == "__main__":
    main()
