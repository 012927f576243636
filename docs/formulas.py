"""Write docs/formulas.md from the docstrings of aimcost/ops: what each operation counts, and by which convention."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

PAGE = Path(__file__).resolve().parent / "formulas.md"
OPS = PAGE.parent.parent / "aimcost" / "ops"


def page() -> str:
    """The page as text."""
    head = "One multiply-add is 2 FLOPs. docs/formulas.py writes this page from the docstrings of `aimcost/ops`."
    parts = [f"# Formulas\n\n{head}"]
    for path in sorted(OPS.glob("*.py")):
        module = ast.parse(path.read_text(encoding="utf-8"))
        public = [
            node
            for node in module.body
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and ast.get_docstring(node)
        ]
        if path.stem.startswith("_") or not public:
            continue
        parts.append(f"## {path.stem}\n\n{_text(ast.get_docstring(module))}")
        for node in public:
            arguments = ", ".join(each.arg for each in [*node.args.args, *node.args.kwonlyargs])
            text = _text(ast.get_docstring(node))
            parts.append(f"### {node.name}\n\n`{node.name}({arguments})`\n\n```text\n{text}\n```")
    return "\n\n".join(parts) + "\n"


def _text(docstring: str | None) -> str:
    return inspect.cleandoc(docstring or "")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
