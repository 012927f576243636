"""Files of this folder that tests share: what transformers itself gives, and configurations."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


def _file(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def real_models():
    """transformers' own figures (real_model.py)."""
    return _file("real_model")


@pytest.fixture(scope="session")
def configs():
    """Configurations of image-text models (configs.py)."""
    return _file("configs").CONFIGS
