"""Types of transformers, traced and priced: parameters, FLOPs and cache are those of the real model.

Default configurations with few layers, at counts that were not traced. What is not exact is in `REFUSED`, with the
reason in its message; docs/traced-models.md lists them all.
"""

from __future__ import annotations

import pytest

from aimcost.errors import UnsupportedModelError
from aimcost.inputs.autotrace import transformers_knows

pytest.importorskip("transformers")
pytestmark = pytest.mark.torch

# Windows, sinks and experts; a hybrid of two mixers; one product for queries, keys and values.
SAMPLE = ("gpt_oss", "falcon_h1", "olmo2", "phi3")
# Linear attention; other windows; compressed caches and experts behind dense layers.
SLOW = ("qwen3_next", "gemma3_text", "deepseek_v3")
CONVOLVED = (
    *("bailing_hybrid", "bamba", "falcon_h1", "falcon_mamba", "granitemoehybrid", "jamba", "kimi_linear", "lfm2_moe"),
    *("lfm3", "mamba", "mamba2", "nemotron_h", "olmo_hybrid", "qwen3_5_text", "qwen3_next"),
)
REFUSED = {
    "bart": "encoder-decoder",
    "bert": "its layers are not causal",
    "inkling_text": "parameters are as many as its window is wide",
    "longcat_flash": "not one list",
    "zamba2": "its layers share parameters",
    "minimax": "matmul: products of several sizes in a loop",
}


def pytest_generate_tests(metafunc):
    if "kind" in metafunc.fixturenames and metafunc.function.__name__.startswith("test_figures"):
        from pathlib import Path

        names = Path(__file__).with_name("architectures.txt").read_text(encoding="utf-8").split()
        slow = [pytest.param(kind, marks=pytest.mark.check) for kind in SLOW]
        known = {*SAMPLE, *SLOW}
        more = [pytest.param(kind, marks=pytest.mark.check_all) for kind in names if kind not in known]
        metafunc.parametrize("kind", [*SAMPLE, *slow, *more])


def test_figures_are_those_of_the_real_model(kind, comparison):
    if not transformers_knows(kind):
        pytest.skip("not in this release of transformers")
    found = comparison.compared(kind)
    for ours, theirs in (*found.parameters, *found.flops, *found.cache):
        assert ours == theirs
    for ours, theirs in found.prefix:
        # a convolution also runs over the last cached inputs, one fewer than its kernel is wide
        assert ours == theirs or 0 < theirs - ours < 4e-4 * theirs
        assert ours == theirs or kind in CONVOLVED


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.check_all) for kind in REFUSED])
def test_what_cannot_be_traced_is_refused_in_one_line(kind, comparison):
    from aimcost.tracing.trace import trace

    if not transformers_knows(kind):
        pytest.skip("not in this release of transformers")
    with pytest.raises(UnsupportedModelError, match=REFUSED[kind]):
        trace(comparison.config_of(kind))
