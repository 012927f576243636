"""Write the table of simulated gates into docs/guarding.md; `python docs/guarding.py`, a minute."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "guarding.md"
BLOCK = re.compile(r"(<!-- written by docs/guarding.py -->\n).*?(<!-- to here -->)", re.DOTALL)
GATES, HISTORIES = 2000, 300
SLOWDOWNS = (0.0, 0.05, 0.10, 0.20)


def main() -> None:
    """Simulate and write."""
    spec = importlib.util.spec_from_file_location("noise", ROOT / "tests" / "guard" / "noise.py")
    assert spec is not None
    assert spec.loader is not None
    noise = importlib.util.module_from_spec(spec)
    sys.modules["noise"] = noise
    spec.loader.exec_module(noise)

    lines = [
        "| noise | false alarms | +5 % | +10 % | +20 % | sees "
        "| base: false | +10 % | sees | rise: false | after 4 | after 6 |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, model in noise.MODELS.items():
        band = noise.simulated(model, SLOWDOWNS, GATES)
        pairs = noise.simulated_pairs(model, SLOWDOWNS, GATES)
        rise = noise.risen(model, HISTORIES)
        cells = [
            *(f"{share:.1%}" if not slowdown else f"{share:.0%}" for slowdown, share in band.alarms.items()),
            f"{band.visible:.1%}",
            f"{pairs.alarms[0.0]:.1%}",
            f"{pairs.alarms[0.10]:.0%}",
            f"{pairs.visible:.1%}",
            f"{rise.false:.1%}",
            *(f"{rise.after[count - 1]:.0%}" for count in (4, 6)),
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    text, count = BLOCK.subn(
        lambda match: match[1] + "\n".join(lines) + "\n" + match[2], PAGE.read_text(encoding="utf-8")
    )
    assert count == 1, "docs/guarding.md has no place for the table"
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
