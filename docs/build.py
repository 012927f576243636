"""Fill the documentation's command blocks with what the commands print.

Every ``console`` block in README.md and docs/ whose first line is ``$ aimcost …`` is replaced by
that line and the command's real output. ``--check`` changes nothing and fails where a block
differs from what the present code prints.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(?P<head>```console\n\$ (?P<command>aimcost [^\n]*)\n)(?P<body>.*?)(?P<tail>```)", re.DOTALL)
# Commands whose output depends on the machine they run on are typed from a dated record instead,
# unless they read one.
MACHINE_DEPENDENT = ("demo", "profile", "validate", "campaign")
OFFLINE = "--from-record"


def output_of(command: str) -> str:
    """What a documented command prints, pipes through head and tail included."""
    first, *pipes = [shlex.split(part) for part in command.split(" | ")]
    done = subprocess.run([sys.executable, "-m", *first], cwd=ROOT, capture_output=True, text=True)
    if done.returncode > 1:  # 1 is a check that failed, which a page may show
        raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
    text = done.stdout
    for pipe in pipes:
        text = subprocess.run(pipe, input=text, check=True, capture_output=True, text=True).stdout
    return "\n".join(line.rstrip() for line in text.rstrip().splitlines()) + "\n"


def rebuilt(text: str) -> str:
    """`text` with every block's body replaced by real output."""

    def fill(match: re.Match[str]) -> str:
        command = match["command"]
        if command.split()[1] in MACHINE_DEPENDENT and OFFLINE not in command:
            return match[0]
        return match["head"] + output_of(command) + match["tail"]

    return BLOCK.sub(fill, text)


def main() -> int:
    """Rewrite the pages, or with --check list those that are stale."""
    stale = []
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    # what writes a baseline comes before what reads it
    for path in sorted(pages, key=lambda page: "--update" not in page.read_text(encoding="utf-8")):
        text = path.read_text(encoding="utf-8")
        new = rebuilt(text)
        if "--update" in text:
            new = rebuilt(new)  # what the first pass wrote holds in the second
        if new != text:
            stale.append(path)
            if "--check" not in sys.argv:
                path.write_text(new, encoding="utf-8")
    for path in stale:
        print(("stale: " if "--check" in sys.argv else "rebuilt: ") + str(path.relative_to(ROOT)))
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
