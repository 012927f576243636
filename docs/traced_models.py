"""Write docs/traced-models.md, traced types beside transformers' own figures, in ten minutes of CPU time."""

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
processors at 1,000 random sizes a family (tests/tracing/test_image_tokens.py); Llama 4's and Cohere's image processors
need torchvision, so theirs are held to their formulas.

"""


def _error(pairs: Iterable[tuple[Any, Any]]) -> str:
    """The largest relative error."""
    flat = []
    for ours, theirs in pairs:
        several = isinstance(theirs, tuple)
        flat += list(zip(ours, theirs, strict=True)) if several else [(ours, theirs)]
    worst = max((abs(ours - theirs) / theirs if theirs else abs(ours) for ours, theirs in flat), default=0.0)
    return f"{worst:.1%}" if worst else "0 %"


def main() -> None:
    """Compare every type and write the page."""
    import transformers

    from aimcost.errors import AimcostError
    from aimcost.inputs.autotrace import transformers_knows

    spec = importlib.util.spec_from_file_location("comparison", ROOT / "tests" / "tracing" / "comparison.py")
    assert spec is not None
    assert spec.loader is not None
    comparison = importlib.util.module_from_spec(spec)
    sys.modules["comparison"] = comparison
    spec.loader.exec_module(comparison)

    lines = ["| model type | parameters | FLOPs | cache | notes |", "|---|---|---|---|---|"]
    for kind in comparison.EXACT:
        if not transformers_knows(kind):
            continue
        try:
            found = comparison.compared(kind)
        except AimcostError as error:
            lines.append(f"| {kind} | refused | | | {error} |")
            continue
        columns = (_error(found.parameters), _error(found.flops), _error(found.cache), "; ".join(found.notes))
        lines.append(f"| {kind} | " + " | ".join(columns) + " |")
        print(lines[-1], flush=True)
    towers = ["| model type | parameters | FLOPs | notes |", "|---|---|---|---|"]
    for kind in comparison.TOWERS:
        found = comparison.compared_tower(kind)
        towers.append(f"| {kind} | {_error(found.parameters)} | {_error(found.flops)} | {'; '.join(found.notes)} |")
        print(towers[-1], flush=True)
    counts = ", ".join(f"({batch}, {tokens})" for batch, tokens in comparison.COUNTS)
    opening = OPENING.format(release=transformers.__version__, layers="four", counts=counts)
    PAGE.write_text(opening + "\n".join(lines) + "\n" + TOWERS + "\n".join(towers) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
