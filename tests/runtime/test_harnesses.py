"""What lmms-eval's plug-in and VLMEvalKit's adapter share, without either harness: prompts reduced, refusals raised."""

from __future__ import annotations

import contextlib

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import aimcost
from aimcost.errors import AimcostError, UnknownNameError, UnsupportedModelError
from aimcost.harnesses.reducing import reduced
from aimcost.harnesses.vlmevalkit import register
from aimcost.inputs.method_arguments import method_in

pytestmark = pytest.mark.torch

FASTV = {"name": "fastv", "k": 1, "ratio": 0.5}


class Kit:
    """A model as VLMEvalKit's are: the torch module in an attribute, and failures of a prompt caught."""

    def __init__(self, case):
        self.case, self.model = case, case.model

    def generate(self, message=None):
        try:
            return self.model.generate(**(message or self.case.inputs), max_new_tokens=4, do_sample=False)
        except Exception:
            return ""


def kit_of(case):
    return {"llava": lambda: Kit(case)}


def test_a_registered_model_is_reduced_and_its_name_says_how(toolbox):
    case = toolbox.build_case("llava-image", 1)
    table = kit_of(case)
    name = register(table, "llava", FASTV)
    assert name == "llava,method=fastv,method.k=1,method.ratio=0.5"
    assert method_in(name) == FASTV
    with aimcost.apply(case.model, method=FASTV) as reduction:
        expected = Kit(case).generate()
    tokens = reduction.record.tokens
    assert tokens[-1] < tokens[0]
    assert torch.equal(table[name]().generate(), expected)
    assert "generate" not in vars(case.model)  # the model is left as it was found


def test_a_refusal_that_the_harness_swallows_is_raised(toolbox):
    """Embeddings alone do not say what is visual: refused inside ``generate``, caught by the kit, raised after it."""
    case = toolbox.build_case("llava-image", 1)
    embeds = case.model.get_input_embeddings()(case.inputs["input_ids"])
    kit = Kit(case)
    with pytest.raises(AimcostError), reduced(case.model, FASTV):
        assert isinstance(kit.generate({"inputs_embeds": embeds}), str)
    with contextlib.nullcontext(), reduced(case.model, None):
        assert not isinstance(kit.generate(), str)


def test_what_cannot_be_registered(toolbox):
    with pytest.raises(UnknownNameError, match="lava"):
        register({"llava": Kit}, "lava", FASTV)
    table = {"other": lambda: object()}
    with pytest.raises(UnsupportedModelError, match="needs its torch module"):
        table[register(table, "other", FASTV)]()
