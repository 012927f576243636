"""CDPruner with CLIP's text tower beside the model: the tokens of the most diverse kernel, by its determinants."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import aimcost
from aimcost.errors import AimcostError, InvalidValueError, ScheduleError, UnsupportedModelError
from aimcost.runtime import ClipQuestion, apply

pytestmark = [pytest.mark.torch, pytest.mark.versions("methods")]

POSITIONS = 6
METHOD = {"name": "cdpruner", "keep_tokens": 5}


def tokenizer(text, return_tensors):
    """A token a character, between two that begin and end every text."""
    ids = torch.tensor([[1, *(3 + ord(letter) % 50 for letter in text), 60]])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.fixture(scope="module")
def clip():
    text = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
            "max_position_embeddings": POSITIONS, "vocab_size": 64, "eos_token_id": 60}  # fmt: skip
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 32, "patch_size": 8}  # fmt: skip
    torch.manual_seed(3)
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
    model = transformers.CLIPModel(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return model


def _segments(clip, text):
    """The text's embeddings, six positions at a time."""
    given = tokenizer(text, "pt")
    found = []
    for begin in range(0, given["input_ids"].shape[1], POSITIONS):
        ids, mask = torch.zeros(2, 1, POSITIONS, dtype=torch.long)
        part = given["input_ids"][0, begin : begin + POSITIONS]
        ids[0, : len(part)], mask[0, : len(part)] = part, 1
        found.append(clip.text_projection(clip.text_model(ids, attention_mask=mask).pooler_output)[0])
    return found


def _chosen(tokens, image, texts, keep):
    """Greedily, what makes the determinant of the chosen tokens' kernel largest, in fp64."""
    cosine = torch.nn.functional.cosine_similarity
    away = torch.stack([-sum(cosine(patch, text, dim=0) for text in texts) / len(texts) for patch in image])
    weight = ((away - away.min() + 1e-6) / (away.max() - away.min())).double()
    unit = torch.nn.functional.normalize(tokens.double(), dim=-1)
    kernel = weight[:, None] * (unit @ unit.T) * weight
    kept = []
    for _ in range(keep):
        others = [i for i in range(len(tokens)) if i not in kept]
        kept.append(max(others, key=lambda i: float(torch.linalg.det(kernel[[*kept, i]][:, [*kept, i]]))))
    return sorted(kept)


def test_the_most_diverse_tokens_given_the_question_stay(clip, toolbox):
    case = toolbox.build_case("llava-image", 3, True)
    questions = ("which", "what colour is it?", "where?")
    with torch.no_grad():
        tower = case.model.model.vision_tower
        states = tower(case.inputs["pixel_values"], output_hidden_states=True).hidden_states[-2][:, 1:]
        normed = next(part for name, part in tower.named_modules() if name.endswith("post_layernorm"))(states)
        image, tokens = clip.visual_projection(normed), case.model.model.multi_modal_projector(states)
        assert len(_segments(clip, questions[1])) == 4
        expected = [_chosen(tokens[i], image[i], _segments(clip, text), 5) for i, text in enumerate(questions)]
        question = ClipQuestion(clip, tokenizer)
        with apply(case.model, method=METHOD, question=question) as applied:
            with pytest.raises(ScheduleError, match="call ask"):
                case.model(**case.inputs)
            question.ask(*questions)
            case.model(**case.inputs)
            record = applied.record
            case.generate(num_beams=2)
            question.ask("which")
            case.model(**case.inputs)
            same = applied.record
    first = [int(visual.nonzero()[0]) for visual in case.visual]
    kept = [
        (row[marks] - begin).tolist() for row, marks, begin in zip(record.origin, record.visual, first, strict=True)
    ]
    assert kept == expected
    assert len({tuple(row) for row in kept}) == 3
    assert torch.equal(same.origin[0], record.origin[0])
    assert not torch.equal(same.origin, record.origin)


def test_a_question_of_another_clip_and_none_are_refused(clip, toolbox):
    case = toolbox.build_case("llava-image", 1)
    schedule = aimcost.schedule(
        {"model": toolbox.configs["llava"], "workload": {"images": 1, "text_tokens": 14}, "method": METHOD}
    )
    for given in ({"schedule": schedule}, {"method": METHOD}):
        with pytest.raises(UnsupportedModelError, match="question="):
            aimcost.apply(case.model, **given)
    with pytest.raises(UnsupportedModelError, match="question="):
        apply(case.model, schedule)
    narrow = {**clip.config.vision_config.to_dict(), "hidden_size": 16}
    text = clip.config.text_config.to_dict()
    other = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=narrow, projection_dim=12))
    with pytest.raises(UnsupportedModelError, match="32 wide"):
        apply(case.model, schedule, question=ClipQuestion(other, tokenizer))
    with pytest.raises(InvalidValueError, match="a CLIPModel, which has a text_model"):
        ClipQuestion(clip.text_model, tokenizer)
    question = ClipQuestion(clip, tokenizer)
    for wrong in ((), (3,)):
        with pytest.raises(AimcostError, match="question"):
            question.ask(*wrong)
    question.ask("a", "b")
    with torch.no_grad(), apply(case.model, schedule, question=question), pytest.raises(ScheduleError, match="2 quest"):
        case.model(**case.inputs)
