"""Write docs/traced-models.md, traced types beside transformers' own figures, in ten minutes of CPU time.

``python docs/traced_models.py TYPE …`` computes the rows of these types alone, and leaves the others as they are.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "traced-models.md"
OPENING = """# Traced models beside transformers

Written by `make check-all` (docs/traced_models.py): transformers {release}, default configurations of about {layers}
layers, at {counts} (requests, tokens), none of them traced. Error of the estimate against the model itself: stored
parameters, FLOPs of matrix products and attention by `FlopCounterMode` in prefill and decode, bytes of the real cache
by layer.

"""
TOWERS = """
## Towers

Tower and projector at numbers and sizes of images that were not traced. Image tokens are held to transformers'
processors at 1,000 random sizes a family (tests/tracing/test_image_tokens.py). Some of these need torchvision:
Llama 4's and Cohere's are held to their formulas, LFM2-VL's and Kimi K2.5's to the functions of their files.

"""


def _notes(found: Any) -> str:
    """All but that the sizes are the class's, which they are on the whole page."""
    return "; ".join(note for note in found.notes if not note.startswith("sizes not in config.json"))


def _error(pairs: Iterable[tuple[Any, Any]]) -> str:
    """The largest relative error."""
    flat = []
    for ours, theirs in pairs:
        several = isinstance(theirs, tuple)
        flat += list(zip(ours, theirs, strict=True)) if several else [(ours, theirs)]
    worst = max((abs(ours - theirs) / theirs if theirs else abs(ours) for ours, theirs in flat), default=0.0)
    return f"{worst:.1%}" if worst else "0 %"


def _rows() -> dict[str, str]:
    """Rows of the page as it is, by type; towers' after ``tower``."""
    if not PAGE.exists():
        return {}
    text, _, towers = PAGE.read_text(encoding="utf-8").partition("## Towers")
    rows = {}
    for prefix, part in (("", text), ("tower ", towers)):
        for line in part.splitlines():
            if line.startswith("| ") and not line.startswith("| model type"):
                rows[prefix + line.split("|")[1].strip()] = line
    return rows


def _text_row(comparison: Any, kind: str) -> str:
    from aimcost.errors import AimcostError

    try:
        found = comparison.compared(kind)
    except AimcostError as error:
        return f"| {kind} | refused | | | {error} |"
    columns = (_error(found.parameters), _error(found.flops), _error(found.cache), _notes(found))
    return f"| {kind} | " + " | ".join(columns) + " |"


def _tower_row(comparison: Any, kind: str) -> str:
    found = comparison.compared_tower(kind)
    return f"| {kind} | {_error(found.parameters)} | {_error(found.flops)} | {_notes(found)} |"


def main(chosen: list[str]) -> None:
    """Compare every type, or those chosen, and write the page."""
    import transformers

    from aimcost.inputs.autotrace import transformers_knows

    spec = importlib.util.spec_from_file_location("comparison", ROOT / "tests" / "tracing" / "comparison.py")
    assert spec is not None
    assert spec.loader is not None
    comparison = importlib.util.module_from_spec(spec)
    sys.modules["comparison"] = comparison
    spec.loader.exec_module(comparison)

    rows = _rows()
    known = [kind for kind in comparison.EXACT if transformers_knows(kind)]
    for prefix, kinds, row in (("", known, _text_row), ("tower ", comparison.TOWERS, _tower_row)):
        for kind in kinds:
            if kind in chosen or not chosen or prefix + kind not in rows:
                rows[prefix + kind] = row(comparison, kind)
                print(rows[prefix + kind], flush=True)
    lines = [
        "| model type | parameters | FLOPs | cache | notes |",
        "|---|---|---|---|---|",
        *(rows[kind] for kind in known),
    ]
    towers = ["| model type | parameters | FLOPs | notes |", "|---|---|---|---|"]
    towers += [rows[f"tower {kind}"] for kind in comparison.TOWERS]
    counts = ", ".join(f"({batch}, {tokens})" for batch, tokens in comparison.COUNTS)
    opening = OPENING.format(release=transformers.__version__, layers="four", counts=counts)
    PAGE.write_text(opening + "\n".join(lines) + "\n" + TOWERS + "\n".join(towers) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
