"""Calls that once ran dense, pruned the wrong tokens or crashed: each works, or is refused by its name."""

from __future__ import annotations

import copy
import io
import pickle

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from transformers import DynamicCache

from aimcost.errors import ScheduleError, UnsupportedModelError
from aimcost.methods.sparsevlm.apply import rated_by_text
from aimcost.runtime import apply, apply_masked
from aimcost.runtime.compat import cache_argument, cache_of
from aimcost.types import ReductionEvent

pytestmark = [pytest.mark.torch, pytest.mark.versions("safety")]


def embedded(case):
    """The prompt as embeddings, without ids: as InternVL's and LLaVA's own repositories call their decoders."""
    return {"inputs_embeds": torch.randn(1, case.prompt, 64, generator=torch.Generator().manual_seed(0))}


# inputs_embeds


@pytest.mark.parametrize("name", ["qwen2", "llava-image"])
def test_embeddings_need_boundaries_or_the_text_before(name, toolbox):
    case = toolbox.build_case(name, 1)
    visual = int(case.visual.sum())
    stated = case.schedule([(1, 4)], scorer="uniform")
    assumed = case.schedule([(1, 4)], scorer="uniform", text_before=0)
    with torch.no_grad():
        with apply(case.model, assumed) as applied:
            with pytest.raises(ScheduleError, match="inputs_embeds do not show which tokens are visual"):
                case.model(**embedded(case))
            assert applied.record is None
        with apply(case.model, stated) as applied:
            case.model(**embedded(case))
            expected = applied.record.kept[1]
        with apply(case.model, assumed, boundaries=(5, visual, 9)) as applied:
            case.model(**embedded(case))
            assert torch.equal(applied.record.kept[1], expected)
        with apply(case.model, case.schedule([], text_before=0)):
            case.model(**embedded(case))


# A prompt behind a cached prefix


def prefixed(case, length=7):
    """A cache that holds `length` tokens of text, filled before anything is applied."""
    tokens = torch.randint(
        3, 99, (case.inputs["input_ids"].shape[0], length), generator=torch.Generator().manual_seed(3)
    )
    with torch.no_grad():
        return tokens, cache_of(case.model(input_ids=tokens, use_cache=True))


def behind(case, cache, **more):
    held = cache.get_seq_length()
    mask = torch.nn.functional.pad(case.inputs["attention_mask"], (held, 0), value=1)
    return {**case.inputs, "attention_mask": mask, cache_argument(case.model): cache, "use_cache": True, **more}


@pytest.mark.parametrize(
    ("name", "padded"), [("qwen2", False), ("qwen2", True), ("llava-image", False), ("llama", True)]
)
@pytest.mark.parametrize("merged", [False, True])
def test_a_prompt_behind_a_prefix_is_reduced_as_if_the_prefix_were_text(name, padded, merged, toolbox):
    """The same tokens in one prompt without a cache, the prefix as text: same logits, also when decoding goes on."""
    case = toolbox.build_case(name, 3, padded)
    if padded and merged:
        pytest.skip("one prompt with padding in its middle has other places")
    visual = int(case.visual[0].sum())
    merges = ()
    if merged:
        merges = (ReductionEvent(action="merge", scorer="bipartite_cosine", after_layer=None, tokens_in=visual,
                                 tokens_out=visual * 3 // 4),)  # fmt: skip
    schedule = case.schedule([(1, 8), (3, 2)], scorer="uniform", pre_llm=merges)
    text, cache = prefixed(case)
    step = torch.tensor([[5], [6], [7]])
    with torch.no_grad():
        with apply(case.model, schedule) as applied:
            inputs = behind(case, cache)
            found = case.model(**inputs).logits[:, -1]
            record = applied.record
            mask = torch.nn.functional.pad(inputs["attention_mask"], (0, 1), value=1)
            following = case.follow(cache, input_ids=step, attention_mask=mask).logits[:, -1]
        assert record.tokens == schedule.tokens
        assert record.prefix == 7
        whole = copy.copy(case)
        shared = case.inputs["attention_mask"]
        whole.inputs = {
            **case.inputs,
            "input_ids": torch.cat([text, case.inputs["input_ids"]], dim=1),
            "attention_mask": torch.cat([torch.ones_like(text), shared], dim=1),
        }
        whole.visual = torch.nn.functional.pad(case.visual, (7, 0), value=False)
        longer = whole.schedule([(1, 8), (3, 2)], scorer="uniform", pre_llm=merges, text_before=12)
        boundaries = None if name == "llava-image" else whole.visual
        with apply(case.model, longer, boundaries=boundaries):
            output = case.model(**whole.inputs, use_cache=True)
            expected = output.logits[:, -1]
            expected_following = case.follow(cache_of(output), input_ids=step, attention_mask=mask).logits[:, -1]
    bar = 1e-5 * float(expected.abs().max())
    assert torch.allclose(found, expected, rtol=0, atol=bar)
    assert torch.allclose(following, expected_following, rtol=0, atol=bar)


@pytest.mark.parametrize(
    ("name", "scorer", "message"),
    [
        ("llava-image", "pagerank", "'pagerank' reads the queries of the whole prompt"),
        ("llava-image", "last_row", "'last_row' reads the queries of the whole prompt"),
        ("qwen2_vl-image", "uniform", "not supported under mRoPE"),
    ],
)
def test_a_prefix_that_hides_what_is_needed_is_refused(name, scorer, message, toolbox):
    case = toolbox.build_case(name, 1)
    _, cache = prefixed(case)
    with torch.no_grad(), apply(case.model, case.schedule([(1, 8)], scorer=scorer)) as applied:
        case.model(**case.inputs)
        assert applied.record is not None
        with pytest.raises(UnsupportedModelError, match=message):
            case.model(**behind(case, cache))
        assert applied.record is None


def test_another_prompt_behind_a_prefix_is_not_run_dense(toolbox):
    case = toolbox.build_case("qwen2", 1)
    _, cache = prefixed(case)
    with torch.no_grad(), apply(case.model, case.schedule([(1, 8)], scorer="uniform")) as applied:
        case.model(**case.inputs)
        with pytest.raises(ScheduleError, match="the prompt has 4 tokens behind 7 cached ones"):
            case.follow(cache, input_ids=torch.tensor([[3, 4, 5, 6]]))
        assert applied.record is None
        assert case.follow(cache, input_ids=torch.tensor([[3]])).logits.shape[1] == 1


def test_the_record_of_an_earlier_prompt_does_not_outlive_a_refusal(toolbox):
    case = toolbox.build_case("llava-image", 1)
    with torch.no_grad(), apply(case.model, case.schedule([(1, 8)])) as applied:
        case.model(**case.inputs)
        assert applied.record.schedule.tokens == applied.record.tokens
        with pytest.raises(ScheduleError):
            case.model(input_ids=torch.full((1, 30), 7))
        assert applied.record is None


# A reduced cache outside the block


@pytest.mark.parametrize("merged", [False, True])
def test_a_reduced_cache_is_not_continued_outside(merged, toolbox):
    case = toolbox.build_case("llava-image", 1)
    merge = ReductionEvent(action="merge", scorer="bipartite_cosine", after_layer=None, tokens_in=16, tokens_out=12)
    schedule = case.schedule([] if merged else [(1, 8)], pre_llm=[merge] if merged else ())
    step = {"input_ids": torch.tensor([[5]])}
    with torch.no_grad():
        with apply(case.model, schedule):
            cache = case.cache()
            expected = case.follow(copy.deepcopy(cache), **step).logits
        held = [layer.get_seq_length() for layer in cache.layers]
        for kept in (cache, copy.copy(cache), copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
            with pytest.raises(UnsupportedModelError, match=r"a prompt that aimcost\.apply reduced"):
                case.follow(kept, **step)
            assert [layer.get_seq_length() for layer in kept.layers] == held
            with apply(case.model, schedule):
                assert torch.equal(case.follow(copy.deepcopy(kept), **step).logits, expected)
        with apply(case.model, case.schedule([(1, 16)])):
            whole = case.cache()
        assert case.follow(whole, **step).logits.shape[1] == 1


# Ways of decoding


@pytest.mark.parametrize(
    ("named", "given"),
    [
        ("use_cache=False", {"use_cache": False}),
        ("prefill_chunk_size", {"prefill_chunk_size": 8}),
        ("guidance_scale", {"guidance_scale": 1.5}),
        ("prompt_lookup_num_tokens", {"prompt_lookup_num_tokens": 3}),
    ],
)
def test_ways_of_decoding_are_refused_by_their_names(named, given, toolbox):
    case = toolbox.build_case("qwen2", 1)
    if named == "prefill_chunk_size":  # without a cache 5.0 refuses it itself
        given = {**given, cache_argument(case.model): DynamicCache()}
    with apply(case.model, case.schedule([(1, 8)])), pytest.raises(UnsupportedModelError, match=named):
        case.model.generate(**case.inputs, max_new_tokens=4, pad_token_id=0, eos_token_id=1, **given)


def test_assisted_decoding_is_refused_by_its_name(toolbox):
    case, assistant = toolbox.build_case("qwen2", 1), toolbox.build_case("llama", 1)
    with apply(case.model, case.schedule([(1, 8)])), pytest.raises(UnsupportedModelError, match="assistant_model"):
        case.generate(assistant_model=assistant.model)


# Heads: logits, labels, pooling


@pytest.mark.parametrize("name", ["qwen2", "llava-image", "qwen3_vl-image"])
def test_the_log_likelihood_of_a_continuation(name, toolbox):
    """As lmms-eval scores one: labels on the continuation, the loss, greedy tokens at places of the whole prompt."""
    case = toolbox.build_case(name, 1)
    labels = case.inputs["input_ids"].clone()
    labels[:, :-4] = -100
    given = labels.clone()
    schedule = case.schedule([(1, 6), (3, 2)])
    with torch.no_grad(), apply(case.model, schedule) as applied:
        output = case.model(**case.inputs, labels=labels)
        compact = case.model(**case.inputs).logits
        left = applied.record.origin.gather(1, applied.record.kept[3])
    assert torch.equal(labels, given)
    assert output.logits.shape == (1, case.prompt, 128)
    scores = compact.log_softmax(-1)[0, -5:-1].gather(1, labels[0, -4:, None])
    assert torch.allclose(output.loss, -scores.mean(), rtol=0, atol=1e-6 * float(scores.abs().max()))
    greedy = output.logits.argmax(-1)[:, case.prompt - 5 : case.prompt - 1]
    assert torch.equal(greedy, compact[:, -5:-1].argmax(-1))
    assert torch.equal(output.logits[0, left[0]], compact[0])
    dropped = torch.ones(case.prompt, dtype=torch.bool).scatter(0, left[0], False)
    assert torch.isnan(output.logits[0, dropped]).all()


def test_tokens_that_were_dropped_predict_no_label(toolbox):
    """Labels everywhere: the loss is the mean over the tokens that are left, each predicting what follows it."""
    case = toolbox.build_case("llama", 2)
    ids = case.inputs["input_ids"]
    with torch.no_grad(), apply(case.model, case.schedule([(1, 6)])) as applied:
        found = case.model(**case.inputs, labels=ids).loss
        compact = case.model(**case.inputs).logits.log_softmax(-1)
        places = applied.record.kept[1]
    following = torch.nn.functional.pad(ids, (0, 1), value=-100).gather(1, places + 1)
    asked = following >= 0
    expected = -compact[asked].gather(1, following[asked][:, None]).mean()
    assert torch.allclose(found, expected, rtol=0, atol=1e-6 * float(expected))


@pytest.mark.parametrize("padded", [False, True])
def test_logits_of_any_places(padded, toolbox):
    case = toolbox.build_case("qwen2", 3, padded)
    last = case.prompt - 1
    with torch.no_grad(), apply(case.model, case.schedule([(1, 6), (3, 2)])) as applied:
        expected = case.model(**case.inputs).logits
        left = torch.zeros(3, case.prompt, dtype=torch.bool).scatter(1, applied.record.kept[3], True)
        one, four = (case.model(**case.inputs, logits_to_keep=count).logits for count in (1, 4))
        index = case.model(**case.inputs, logits_to_keep=torch.tensor([last - 2, last])).logits
        listed = case.model(**case.inputs, logits_to_keep=[last - 2, last]).logits
        many = case.model(**case.inputs, logits_to_keep=20).logits
    for found, wanted in ((one, [-1]), (four, [-4, -3, -2, -1]), (index, [-3, -1]), (listed, [-3, -1])):
        assert torch.allclose(found, expected[:, wanted], rtol=0, atol=1e-6 * float(expected.abs().max()))
    assert torch.equal(torch.isnan(many).all(-1), ~left[:, -20:])
    assert torch.equal(torch.isnan(many).any(-1), ~left[:, -20:])


def test_heads_that_pool_the_sequence(toolbox):
    from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

    case = toolbox.build_case("qwen2", 3, True)
    schedule = case.schedule([(1, 6), (3, 2)])
    config = copy.deepcopy(case.model.config)
    config.pad_token_id, config.num_labels = 0, 4
    with torch.no_grad():
        sequence = AutoModelForSequenceClassification.from_config(config, attn_implementation="sdpa").eval()
        with apply(sequence, schedule), toolbox.hidden_states(sequence.model):
            found = sequence(**case.inputs, labels=torch.tensor([0, 1, 2]))
            inner = sequence.model(**case.inputs).last_hidden_state[:, -1]
        assert torch.allclose(found.logits, sequence.score(inner), rtol=0, atol=1e-6)
        wanted = torch.nn.functional.cross_entropy(found.logits, torch.tensor([0, 1, 2]))
        assert torch.allclose(found.loss, wanted, rtol=0, atol=1e-6)
        tokens = AutoModelForTokenClassification.from_config(config, attn_implementation="sdpa").eval()
        labels = torch.randint(0, 4, (3, case.prompt))
        with apply(tokens, schedule) as applied:
            found = tokens(**case.inputs, labels=labels)
        kept = applied.record.kept[3]
        wanted = torch.nn.functional.cross_entropy(
            found.logits.gather(1, kept[..., None].expand(-1, -1, 4)).flatten(0, 1), labels.gather(1, kept).flatten()
        )
        assert torch.allclose(found.loss, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["qwen2", "llava-image", "qwen2_vl-image"])
def test_masking_scores_the_same_places(name, toolbox):
    """Where tokens are hidden and not removed, labels and logits are still those of their own places."""
    case = toolbox.build_case(name, 3, True)
    schedule = case.schedule([(1, 8), (3, 2)])
    predicted = case.real & case.real.roll(1, dims=1)  # by a token that is no padding
    labels = case.inputs["input_ids"].masked_fill(~predicted, -100)
    with torch.no_grad():
        with apply(case.model, schedule) as applied:
            dropped = case.model(**case.inputs, labels=labels)
        with apply_masked(case.model, schedule, kept=applied.record.kept):
            masked = case.model(**case.inputs, labels=labels)
    assert torch.allclose(masked.loss, dropped.loss, rtol=1e-5, atol=0)
    assert torch.equal(masked.logits.isnan(), dropped.logits.isnan())
    where = case.real & ~dropped.logits.isnan().any(-1)
    assert toolbox.relative_error(masked.logits, dropped.logits, where) < 1e-5


class Pooled(torch.nn.Module):
    """A head of one's own, which takes the state of each row's last real token."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, attention_mask, **inputs):
        states = self.backbone(attention_mask=attention_mask, **inputs).last_hidden_state
        assert states.shape[1] == attention_mask.shape[1]
        return states[torch.arange(len(states)), attention_mask.sum(1) - 1], states


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("name", ["qwen2", "llava-image"])
def test_heads_of_ones_own_count_the_tokens_of_the_whole_prompt(name, whole, toolbox):
    case = toolbox.build_case(name, 2)
    case.inputs["attention_mask"][1, -6:] = 0
    head = Pooled(case.model.model)
    schedule = case.schedule([(1, 8)])
    with torch.no_grad():
        with apply(head if whole else case.model.model, schedule) as applied:
            found, states = head(**case.inputs)
            alone = case.model.model(**case.inputs).last_hidden_state
        with apply_masked(case.model.model, schedule, kept=applied.record.kept):
            wanted, _ = head(**case.inputs)
    assert torch.allclose(found, wanted, rtol=0, atol=1e-5)
    kept = applied.record.kept[1]
    assert torch.equal(alone, states.gather(1, kept[..., None].expand_as(alone)))
    assert torch.equal(states.isnan().all(-1), torch.ones(states.shape[:2], dtype=bool).scatter(1, kept, False))


def test_a_head_around_the_model_that_was_given(toolbox):
    from transformers import AutoModelForSequenceClassification

    case = toolbox.build_case("qwen2", 3, True)
    schedule = case.schedule([(1, 6), (3, 2)])
    config = copy.deepcopy(case.model.config)
    config.pad_token_id, config.num_labels = 0, 4
    head = AutoModelForSequenceClassification.from_config(config, attn_implementation="sdpa").eval()
    answers, found = torch.tensor([0, 1, 2]), []
    with torch.no_grad():
        for given in (head, head.model):
            with apply(given, schedule):
                found.append(head(**case.inputs, labels=answers))
        assert torch.equal(found[0].logits, found[1].logits)
        assert torch.equal(found[0].loss, found[1].loss)
        with apply(case.model.model, schedule) as applied:
            last = case.model(**case.inputs, logits_to_keep=torch.tensor([case.prompt - 1])).logits
            with pytest.raises(
                UnsupportedModelError, match=r"^Qwen2ForCausalLM has labels for tokens that are dropped"
            ):
                case.model(**case.inputs, labels=case.inputs["input_ids"])
            assert applied.record is None
        with apply(case.model, schedule):
            assert torch.allclose(last, case.model(**case.inputs).logits[:, -1:], rtol=0, atol=1e-5)


# Autocast


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scorer", ["pagerank", "text_raters", "last_row", "last_query", "pivot_cosine"])
def test_scores_do_not_depend_on_autocast(scorer, dtype, toolbox):
    """Scorers get the model's tensors as autocast leaves them, and compute as without it."""
    from aimcost.runtime.policies import layer_policy

    case = toolbox.build_case("qwen2", 3, True)
    schedule = case.schedule([(1, 12)], scorer=scorer)
    found = {}
    with torch.no_grad(), apply(case.model, schedule) as applied:
        policy = layer_policy(scorer)

        def watch(**inputs):
            found["inputs"] = inputs
            found["scores"] = policy(**inputs)
            return found["scores"]

        plan = applied._session.planner.fixed
        plan.scorers[1] = watch
        with torch.autocast("cpu", dtype=dtype):
            case.model(**case.inputs)
    assert torch.equal(found["scores"], policy(**found["inputs"]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_merges_do_not_depend_on_autocast(dtype, toolbox):
    case = toolbox.build_case("internvl-image", 2)
    merge = ReductionEvent(action="merge", scorer="bipartite_cosine", after_layer=None, tokens_in=16, tokens_out=10)
    embeds = torch.randn(2, case.prompt, 64, generator=torch.Generator().manual_seed(1))
    merged = []
    with torch.no_grad(), apply(case.model, case.schedule([], pre_llm=[merge])):
        handle = case.decoder.layers[0].register_forward_pre_hook(
            lambda module, args, kwargs: merged.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
        )
        case.model(inputs_embeds=embeds)
        with torch.autocast("cpu", dtype=dtype):
            case.model(inputs_embeds=embeds)
        handle.remove()
    assert torch.equal(merged[0], merged[1])


# Copies


def _pickled(model):
    return pickle.loads(pickle.dumps(model))


def _saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


# transformers' own hooks on llava's tower cannot be pickled
@pytest.mark.parametrize(
    ("name", "copied"),
    [("llava-image", copy.deepcopy), ("qwen2", copy.deepcopy), ("qwen2", _pickled), ("qwen2", _saved)],
)
def test_copies_made_inside_a_block_are_plain_models(name, copied, toolbox):
    case = toolbox.build_case(name, 1)
    schedule = case.schedule([(1, 8)])
    with torch.no_grad():
        expected = case.model(**case.inputs).logits
        with apply(case.model, schedule):
            reduced = case.model(**case.inputs).logits
            model = copied(case.model)
            assert torch.equal(model(**case.inputs).logits, expected)
            assert torch.equal(case.model(**case.inputs).logits, reduced)
        assert torch.equal(model(**case.inputs).logits, expected)
        with apply(model, schedule):
            assert torch.equal(model(**case.inputs).logits, reduced)


# Merging under mRoPE


@pytest.mark.parametrize("name", ["qwen2_vl-image", "qwen2_5_vl-video", "qwen3_vl-image"])
def test_merged_tokens_take_the_place_of_a_token_that_they_hold(name, toolbox):
    """An unmerged even token its own, an odd one its own, whatever was averaged into it; twice over."""
    case = toolbox.build_case(name, 2)
    visual = int(case.visual[0].sum())
    events = [
        ReductionEvent(action="merge", scorer="bipartite_cosine", after_layer=None, tokens_in=visual,
                       tokens_out=visual * 3 // 4),
        ReductionEvent(action="merge", scorer="bipartite_cosine", after_layer=None, tokens_in=visual * 3 // 4,
                       tokens_out=visual * 3 // 8),
    ]  # fmt: skip
    given, inputs = {}, {}

    def watch(key, into):
        def hook(module, args, kwargs):
            into[key] = {name: value for name, value in kwargs.items() if isinstance(value, torch.Tensor)}

        return hook

    handle = case.decoder.register_forward_pre_hook(watch("before", given), with_kwargs=True)
    with torch.no_grad(), apply(case.model, case.schedule([], pre_llm=events)) as applied:
        after = case.decoder.register_forward_pre_hook(watch("after", inputs), with_kwargs=True)
        case.model(**case.inputs)
    handle.remove(), after.remove()
    record, before, left = applied.record, given["before"], inputs["after"]
    positions = before["position_ids"]
    expected = torch.stack([p.gather(1, record.origin) for p in positions])
    assert torch.equal(left["position_ids"], expected)
    for row in range(2):
        embeds = before["inputs_embeds"][row, case.visual[row]]
        stands = case.visual[row].nonzero()[:, 0]
        holds = [{i} for i in range(visual)]
        places = list(range(visual))
        for event in events:
            unit = torch.nn.functional.normalize(embeds, dim=-1)
            even, odd = range(0, len(embeds), 2), range(1, len(embeds), 2)
            best = {a: max(odd, key=lambda b: (float(unit[a] @ unit[b]), -b)) for a in even}
            ranked = sorted(even, key=lambda a: (-float(unit[a] @ unit[best[a]]), a))
            r = len(embeds) - event.tokens_out
            new, new_holds, new_places = [], [], []
            for a in ranked[r:]:
                new.append(embeds[a]), new_holds.append(holds[a]), new_places.append(places[a])
            for b in odd:
                arrived = [a for a in ranked[:r] if best[a] == b]
                new.append(embeds[[b, *arrived]].mean(0))
                new_holds.append(holds[b].union(*[holds[a] for a in arrived]))
                new_places.append(places[b])
            embeds, holds, places = torch.stack(new), new_holds, new_places
        assert all(place in held for place, held in zip(places, holds, strict=True))
        order = sorted(range(len(places)), key=places.__getitem__)
        assert record.origin[row, record.visual[row]].tolist() == stands[[places[i] for i in order]].tolist()
        found = left["inputs_embeds"][row, record.visual[row]]
        assert torch.allclose(found, embeds[order], rtol=0, atol=1e-6 * float(embeds.abs().max()))


# SparseVLM


def test_sparsevlm_holds_the_rows_of_the_raters_alone():
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                largest = max(largest, result.numel() * result.element_size())
            return result

    heads, tokens, text = 4, 1500, 40
    query, key = torch.randn(1, heads, tokens, 8), torch.randn(1, 2, tokens, 8)
    protected = torch.zeros(1, tokens, dtype=torch.bool)
    protected[:, -text:] = True
    with Watch():
        rated_by_text(
            query=query, key=key, scale=0.3, protected=protected, live=None, prepared=protected, protected_count=text
        )
    assert largest == heads * text * tokens * 4
