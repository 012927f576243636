"""Tiny random models of every supported family, prompts for them, and an oracle that masks.

The oracle shares no code with the runtime: the stock model runs in full, and a hook on each layer
replaces its mask by one in which the tokens dead at that layer are hidden.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect

import pytest

IMAGE, VIDEO, VISION_START, PAD = 101, 102, 103, 0
VOCAB = 128


def _text(kind, **more):
    return {
        "model_type": kind,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": VOCAB,
        **more,
    }


def _mrope(section):
    return {"rope_type": "default", "mrope_section": section, "rope_theta": 10000.0}


def _vit(kind, size, **more):
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}
    return {"model_type": kind, "image_size": size, "patch_size": 8, **shape, **more}


_QWEN_TOWER = {
    "depth": 3,
    "num_heads": 2,
    "patch_size": 8,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "in_channels": 3,
}
_IDS = {"image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": VISION_START}
_TOKENS = {"image_token_index": IMAGE}

CONFIGS = {
    "llama": _text("llama"),
    "qwen2": _text("qwen2"),
    "qwen3": _text("qwen3", head_dim=16),
    "mistral": _text("mistral", sliding_window=None),
    "llava": {
        "model_type": "llava",
        "text_config": _text("llama"),
        "vision_config": _vit("clip_vision_model", 32),
        **_TOKENS,
    },
    "llava_next": {
        "model_type": "llava_next",
        "text_config": _text("mistral", sliding_window=None),
        "vision_config": _vit("clip_vision_model", 32),
        "image_grid_pinpoints": [[32, 32]],
        **_TOKENS,
    },
    "llava_onevision": {
        "model_type": "llava_onevision",
        "text_config": _text("qwen2"),
        "vision_config": _vit("siglip_vision_model", 48, vision_use_head=False),
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "image_grid_pinpoints": [[48, 48]],
        "video_token_index": VIDEO,
        **_TOKENS,
    },
    "qwen2_vl": {
        "model_type": "qwen2_vl",
        "text_config": _text("qwen2_vl_text", rope_parameters=_mrope([2, 3, 3])),
        "vision_config": {**_QWEN_TOWER, "embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2},
        **_IDS,
    },
    "qwen2_5_vl": {
        "model_type": "qwen2_5_vl",
        "text_config": _text("qwen2_5_vl_text", rope_parameters=_mrope([2, 3, 3])),
        "vision_config": {
            **_QWEN_TOWER,
            "hidden_size": 32,
            "intermediate_size": 48,
            "out_hidden_size": 64,
            "window_size": 32,
            "fullatt_block_indexes": [2],
        },
        **_IDS,
    },
    "qwen3_vl": {
        "model_type": "qwen3_vl",
        "text_config": _text("qwen3_vl_text", head_dim=16, rope_parameters=_mrope([2, 3, 3])),
        "vision_config": {
            **_QWEN_TOWER,
            "hidden_size": 32,
            "intermediate_size": 48,
            "out_hidden_size": 64,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
        **_IDS,
    },
    "internvl": {
        "model_type": "internvl",
        "text_config": _text("qwen2"),
        "vision_config": _vit("internvl_vision", [64, 64], layer_scale_init_value=1.0) | {"patch_size": [8, 8]},
        "image_token_id": IMAGE,
    },
}

# What each case puts into a prompt: token id and length of each visual run, and the tower's inputs.
CASES = {
    "llama": None,
    "qwen2": None,
    "qwen3": None,
    "mistral": None,
    "llava-image": (IMAGE, [16]),
    "llava_next-image": (IMAGE, [36]),
    "llava_onevision-image": (IMAGE, [78]),
    "llava_onevision-video": (VIDEO, [37]),
    "qwen2_vl-image": (IMAGE, [16]),
    "qwen2_vl-video": (VIDEO, [32]),
    "qwen2_5_vl-image": (IMAGE, [16]),
    "qwen2_5_vl-video": (VIDEO, [32]),
    "qwen3_vl-image": (IMAGE, [16]),
    "qwen3_vl-video": (VIDEO, [16, 16]),
    "internvl-image": (IMAGE, [16]),
}
BEFORE, BETWEEN, AFTER = 5, 2, 9
TEXT_ONLY_VISUAL = 24


def pytest_collection_modifyitems(items):
    """Note in the JUnit report which columns and which family of `tests/versions.py` a test belongs to."""
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        family = parameters.get("name", parameters.get("family", "any"))
        for marker in item.iter_markers("versions"):
            item.user_properties.append(("family", str(family).partition("-")[0]))
            item.user_properties += [("column", column) for column in marker.args]


@functools.cache
def tiny_model(family, seed=0):
    from transformers import CONFIG_MAPPING

    from aimcost.runtime import build_model

    if CONFIGS[family]["model_type"] not in CONFIG_MAPPING:
        pytest.skip(f"absent: this transformers has no {family}")
    return build_model(CONFIGS[family], seed=seed)


def _pixels(case, batch, generator):
    import torch

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    family, _, medium = case.partition("-")
    if family == "llava":
        return {"pixel_values": draw(batch, 3, 32, 32)}
    if family == "internvl":
        return {"pixel_values": draw(batch, 3, 64, 64)}
    if family == "llava_next":
        return {"pixel_values": draw(batch, 2, 3, 32, 32), "image_sizes": torch.tensor([[32, 32]] * batch)}
    if family == "llava_onevision" and medium == "video":
        return {"pixel_values_videos": draw(batch, 4, 3, 48, 48)}
    if family == "llava_onevision":
        return {"pixel_values": draw(batch, 2, 3, 48, 48), "image_sizes": torch.tensor([[48, 48]] * batch)}
    frames = 2 if medium == "video" else 1
    grid = torch.tensor([[frames, 8, 8]] * batch)
    pixels = draw(batch * frames * 64, 3 * 2 * 8 * 8)
    if medium == "video":
        return {"pixel_values_videos": pixels, "video_grid_thw": grid}
    return {"pixel_values": pixels, "image_grid_thw": grid}


@dataclasses.dataclass
class Case:
    """A tiny model, a prompt for it, and where the prompt's visual tokens are."""

    name: str
    model: object
    inputs: dict
    visual: object
    real: object

    @property
    def decoder(self):
        inner = self.model.model
        return getattr(inner, "language_model", inner)

    @property
    def prompt(self):
        return self.inputs["input_ids"].shape[1]

    @property
    def text(self):
        return self.prompt - int(self.visual[0].sum())

    def schedule(self, cuts, scorer="pagerank", pre_llm=(), newline=0, text_before=BEFORE, **params):
        """A schedule with `cuts`: (after layer, visual tokens that stay)."""
        from aimcost.types import ReductionEvent, Schedule

        visual = int(self.visual[0].sum())
        if pre_llm:
            visual = pre_llm[-1].groups * pre_llm[-1].tokens_out + newline
        live, tokens, events = visual + self.text, [], []
        after = dict(cuts)
        for layer in range(5):
            tokens.append(live)
            if layer in after:
                kept = after[layer] + self.text
                events.append(
                    ReductionEvent(action="prune", scorer=scorer, after_layer=layer, tokens_in=live, tokens_out=kept)
                )
                live = kept
        return Schedule(
            method="test",
            tokens=tuple(tokens),
            visual_tokens=visual,
            newline_tokens=newline,
            text_before=text_before,
            text_after=self.text - text_before,
            events=(*pre_llm, *events),
            params=params,
        )

    def generate(self, **more):
        import torch

        with torch.no_grad():
            return self.model.generate(
                **{**self.inputs, **more},
                max_new_tokens=16,
                min_new_tokens=16,
                do_sample=False,
                pad_token_id=PAD,
                eos_token_id=None,
            )[:, -16:]

    def cache(self):
        """The KV cache that the prompt fills."""
        from aimcost.runtime.compat import cache_of

        return cache_of(self.model(**self.inputs, use_cache=True))

    def follow(self, cache, **inputs):
        """The model's output on what follows the prompt in `cache`."""
        from aimcost.runtime.compat import cache_argument

        return self.model(**inputs, **{cache_argument(self.model): cache})


def build_case(name, batch=1, padded=False, seed=0):
    """A case; padded batches hold rows with 0, 2 and 3 tokens of left padding."""
    import torch

    generator = torch.Generator().manual_seed(seed + 1)
    runs = CASES[name]
    ids, lengths = (None, [TEXT_ONLY_VISUAL]) if runs is None else runs
    rows, masks, visual = [], [], []
    for row in range(batch):
        pad = (0, 2, 3)[row % 3] if padded else 0
        tokens, seen = [], []
        parts = [(BEFORE, False)]
        for index, length in enumerate(lengths):
            parts += [(BETWEEN, False)] * bool(index) + [(length, True)]
        parts.append((AFTER - pad, False))
        for length, is_visual in parts:
            drawn = torch.randint(3, 99, (length,), generator=generator).tolist()
            if is_visual and "qwen" in name and "vl" in name:
                tokens[-1] = VISION_START  # by which some releases tell where an image begins
            tokens += [ids] * length if is_visual and ids else drawn
            seen += [is_visual] * length
        rows.append([PAD] * pad + tokens)
        masks.append([0] * pad + [1] * len(tokens))
        visual.append([False] * pad + seen)
    inputs = {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(masks)}
    visual = torch.tensor(visual)
    if runs is not None:
        inputs.update(_pixels(name, batch, generator))
    model = tiny_model(name.partition("-")[0])
    if "mm_token_type_ids" in inspect.signature(model.forward).parameters:
        inputs["mm_token_type_ids"] = visual.int() * (1 if ids == IMAGE else 2)
    return Case(name, model, inputs, visual, inputs["attention_mask"].bool())


@contextlib.contextmanager
def hide_dead(decoder, kept, real):
    """The oracle: nothing is removed, layer i does not attend to tokens that are dead at i."""
    import torch
    from transformers import Cache

    prompt, handles = real.shape[1], []

    def hook_of(index):
        def hook(module, args, kwargs):
            hidden = args[0] if args else kwargs["hidden_states"]
            cache = next((value for value in kwargs.values() if isinstance(value, Cache)), None)
            queries = hidden.shape[1]
            keys = queries + (cache.layers[index].get_seq_length() if cache is not None and cache.layers else 0)
            live = real.clone()
            last = max((layer for layer in kept if layer < index), default=None)
            if last is not None:
                live &= torch.zeros_like(live).scatter(1, kept[last], True)
            columns = torch.ones(len(real), keys, dtype=torch.bool)
            columns[:, :prompt] = live
            diagonal = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)
            kwargs["attention_mask"] = diagonal[None, None] & columns[:, None, None]
            return args, kwargs

        return hook

    try:
        for index, layer in enumerate(decoder.layers):
            handles.append(layer.register_forward_pre_hook(hook_of(index), with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def hidden_states(decoder):
    """What each layer hands on during a prefill, by layer."""
    seen, handles = {}, []

    def hook_of(index):
        def hook(module, args, kwargs):
            hidden = args[0] if args else kwargs["hidden_states"]
            seen.setdefault(index, hidden.detach())

        return hook

    try:
        for index, layer in enumerate(decoder.layers):
            handles.append(layer.register_forward_pre_hook(hook_of(index), with_kwargs=True))
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def relative_error(ours, theirs, where):
    """Largest difference over the largest value, over the tokens marked in `where`."""
    return float((ours - theirs)[where].abs().max() / theirs[where].abs().max())


@pytest.fixture
def toolbox():
    """The functions of this file, for test modules that cannot import a conftest."""
    import types

    return types.SimpleNamespace(
        build_case=build_case,
        tiny_model=tiny_model,
        hide_dead=hide_dead,
        hidden_states=hidden_states,
        relative_error=relative_error,
        configs=CONFIGS,
    )


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Values are looked at on a CPU only; here as little as on a GPU."""
    from aimcost.kernels import _dispatch

    monkeypatch.setattr(_dispatch, "should_check", lambda check, tensor: bool(check))


@pytest.fixture
def fake_cuda(monkeypatch, as_on_a_gpu):
    """CPU tensors take the way of CUDA ones."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Graph:
        """Stands in for torch.cuda.CUDAGraph: notes every operator, and computes them anew into the same memory."""

        def __init__(self):
            self.tape, self.replays = [], 0

        def replay(self):
            self.replays += 1
            for func, args, kwargs, outputs in self.tape:
                for new, old in zip(tree_leaves(func(*args, **kwargs)), outputs, strict=True):
                    if isinstance(old, torch.Tensor) and new.data_ptr() != old.data_ptr():
                        old.copy_(new)

        def reset(self):
            self.tape.clear()

    class Recorder(TorchDispatchMode):
        def __init__(self, graph, pool=None):
            super().__init__()
            self.graph = graph

        def __enter__(self):
            monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
            return super().__enter__()

        def __exit__(self, *error):
            monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
            return super().__exit__(*error)

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            self.graph.tape.append((func, args, kwargs or {}, tree_leaves(result)))
            return result

    class Pretends(torch.Tensor):
        """A CPU tensor that says it is on CUDA until it is copied into a graph's buffers."""

        @staticmethod
        def __new__(cls, value):
            return value.as_subclass(cls)

        @property
        def device(self):
            return torch.device("cuda", 0)

        def clone(self):
            return self.as_subclass(torch.Tensor).clone()

    stream = type("Stream", (), {"__init__": lambda *_: None, "wait_stream": lambda *_: None})
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "Stream", stream)
    monkeypatch.setattr(torch.cuda, "current_stream", stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "graph", Recorder)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)

    def on_cuda(inputs):
        return {k: Pretends(v) if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}

    return on_cuda
