import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def oracle():
    """transformers on the meta device (flop_oracle.py beside this file)."""
    pytest.importorskip("transformers")
    spec = importlib.util.spec_from_file_location("flop_oracle", Path(__file__).with_name("flop_oracle.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
