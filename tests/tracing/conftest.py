"""What tests of this folder share."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def comparison():
    """A traced type beside the real model (comparison.py)."""
    spec = importlib.util.spec_from_file_location("comparison", Path(__file__).with_name("comparison.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules["comparison"] = module  # its dataclass looks itself up
    spec.loader.exec_module(module)
    return module
