"""Build hook: package data is the YAML, timings and scores of configs/ and hardware_profiles/, never measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PATTERNS = (
    "configs/models/*.yaml",
    "configs/runs/*.yaml",
    "configs/papers/*.yaml",
    "configs/accuracy/*.csv",
    "configs/timings/*.jsonl",
    "configs/stacks/*.yaml",
    "configs/campaigns/*.yaml",
    "configs/preprocess/*.yaml",
    "hardware_profiles/*.yaml",
    "hardware_profiles/tables/*.json",
)


class DataHook(BuildHookInterface):  # type: ignore[type-arg]
    """Force-include each file that `discover` may look up."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the files to the wheel; a checkout that is installed editable is read in place."""
        if version == "editable":
            return
        root = Path(self.root)
        for pattern in PATTERNS:
            for path in sorted(root.glob(pattern)):
                relative = path.relative_to(root).as_posix()
                build_data["force_include"][str(path)] = f"aimcost/data/{relative}"
