"""Helpers of these tests are imported by name, and a good run to spoil."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def run(tiny_model: dict[str, Any], machine: dict[str, Any]) -> dict[str, Any]:
    return json.loads(
        json.dumps(
            {
                "model": tiny_model,
                "workload": {"visual_tokens": 60, "text_tokens": 10},
                "method": {"name": "none"},
                "hardware": machine,
            }
        )
    )
