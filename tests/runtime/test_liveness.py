"""Predicted live activations equal the storage that is alive while real layers run."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from aimcost.inputs.hf.from_hf import model_spec
from aimcost.models import decoder, vit
from aimcost.models.liveness import layer_peak
from aimcost.runtime.compat import cache_argument
from aimcost.types import DecoderSpec, TowerLoad, VisionSpec
from aimcost.types.formats import Widths

pytestmark = pytest.mark.torch
BATCH = 2


class LiveStorage(TorchDispatchMode):
    """After each operation: the bytes of every storage that operations made and something holds."""

    def __init__(self, known):
        super().__init__()
        self.known = {tensor.untyped_storage()._cdata for tensor in known}
        self.alive, self.peak = {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.known:
                    self.alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.alive = {key: value for key, value in self.alive.items() if not value[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return result


@pytest.mark.parametrize("tokens", [40, 300, pytest.param(900, marks=pytest.mark.check)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize(("family", "kv_heads"), [("qwen2", 2), ("llama", 8)])
def test_a_decoder_layer(family, kv_heads, kernel, dtype, tokens):
    spec = DecoderSpec(hidden=256, intermediate=1024, layers=1, heads=8, kv_heads=kv_heads, head_dim=32, vocab=512)
    config = transformers.AutoConfig.for_model(
        family,
        hidden_size=spec.hidden,
        intermediate_size=spec.intermediate,
        num_hidden_layers=1,
        num_attention_heads=spec.heads,
        num_key_value_heads=kv_heads,
        vocab_size=spec.vocab,
    )
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=kernel)
    width = dtype.itemsize
    x = torch.randn(BATCH, tokens, spec.hidden).to(dtype)
    positions = torch.arange(tokens)[None]
    rotation = model.model.rotary_emb(x, positions)
    mask = None
    if kernel == "eager":
        mask = torch.full((1, 1, tokens, tokens), torch.finfo(dtype).min, dtype=dtype).triu(1)
    known = [
        *model.parameters(),
        *model.buffers(),
        x,
        positions,
        *rotation,
        *([] if mask is None else [mask]),
    ]
    cache = transformers.DynamicCache()
    with torch.no_grad(), LiveStorage(known) as seen:
        model.model.layers[0](
            x,
            attention_mask=mask,
            position_ids=positions,
            position_embeddings=rotation,
            **{cache_argument(model.model.layers[0]): cache},
            use_cache=True,
        )
    held = sum(t.numel() * t.element_size() for t in (cache.layers[0].keys, cache.layers[0].values))
    widths, n = Widths(weights=width, activations=width, kv=width), float(tokens)
    name = "eager" if kernel == "eager" else "flash"
    ops = decoder.layer_ops(spec, widths, batch=BATCH, q_len=n, kv_len=n, kernel=name, onchip_bytes=0.0)
    stream = float(BATCH * tokens * spec.hidden * width)
    assert layer_peak(stream, ops) == seen.peak - held + stream


MOE = {
    "qwen3_moe": {"num_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 128, "head_dim": 32},
    "qwen2_moe": {
        "num_experts": 16,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 128,
        "shared_expert_intermediate_size": 256,
    },
    "mixtral": {"num_local_experts": 8, "num_experts_per_tok": 2, "intermediate_size": 1024},
}


@pytest.mark.parametrize("tokens", [300, 2048])
@pytest.mark.parametrize("family", list(MOE))
def test_experts(family, tokens):
    """`grouped_mm` experts on the meta device: four copies of every token by expert at once, and what orders them.

    With experts four times as wide as the model (Mixtral's are 3.5 times), the peak is in their activation instead;
    Mixtral's router leaves its weights in fp32, two more bytes a pair in either order.
    """
    dtype = torch.bfloat16
    config = transformers.AutoConfig.for_model(
        family,
        hidden_size=256,
        num_hidden_layers=1,
        num_attention_heads=8,
        num_key_value_heads=2,
        vocab_size=512,
        **MOE[family],
    )
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype).to("meta")
    if getattr(config, "_experts_implementation", None) != "grouped_mm":
        pytest.skip("this release of transformers runs experts one by one")
    block = model.model.layers[0].mlp
    x = torch.empty(1, tokens, 256, dtype=dtype, device="meta")
    with torch.no_grad(), LiveStorage([*block.parameters(), *block.buffers(), x]) as seen:
        block(x)
    spec = model_spec(config.to_dict(), name="experts", where="test").decoder
    widths, n = Widths(weights=dtype.itemsize, activations=dtype.itemsize, kv=dtype.itemsize), float(tokens)
    ops = decoder.layer_ops(spec, widths, batch=1.0, q_len=n, kv_len=n, kernel="flash", onchip_bytes=0.0)
    # beside the block: its input, the residual and the layer's input
    stream = float(tokens * 256 * dtype.itemsize)
    wider = 2 * 2 * 2 * tokens if family == "mixtral" else 0
    assert layer_peak(stream, ops) == seen.peak + 3 * stream - wider


@pytest.mark.parametrize("patches", [49, 400])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_a_tower_layer(kernel, dtype, patches):
    spec = VisionSpec(
        hidden=96, intermediate=352, layers=1, stored_layers=1, heads=4, image_size=14 * 20, patch_size=14
    )
    config = transformers.SiglipVisionConfig(
        hidden_size=spec.hidden, intermediate_size=spec.intermediate, num_attention_heads=spec.heads
    )
    tower = transformers.AutoModel.from_config(config, dtype=dtype, attn_implementation=kernel)
    layer = next(module for module in tower.modules() if type(module).__name__ == "SiglipEncoderLayer").eval()
    x = torch.randn(BATCH, patches, spec.hidden).to(dtype)
    with torch.no_grad(), LiveStorage([*layer.parameters(), x]) as seen:
        layer(x, attention_mask=None)
    width, side = dtype.itemsize, int(patches**0.5)
    widths, load = Widths(weights=width, activations=width, kv=width), TowerLoad(sequences=1, rows=side, columns=side)
    name = "eager" if kernel == "eager" else "flash"
    ops = vit.layer_ops(spec, widths, inputs=BATCH, load=load, kernel=name, onchip_bytes=0.0)
    stream = float(BATCH * patches * spec.hidden * width)
    assert layer_peak(stream, ops) == seen.peak + stream


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tower_layer_with_rope(dtype):
    """Qwen2-VL, eager: q, k, v are views of one product, which lives on beside the rotated q and k."""
    from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLVisionBlock

    side = 20
    spec = VisionSpec(
        hidden=96,
        intermediate=192,
        layers=1,
        stored_layers=1,
        heads=4,
        image_size=14 * side,
        patch_size=14,
        fused_qkv=True,
        rope=True,
    )
    config = Qwen2VLVisionConfig(
        depth=1, embed_dim=96, num_heads=4, mlp_ratio=2, hidden_size=96, attn_implementation="eager"
    )
    layer = Qwen2VLVisionBlock(config).to(dtype).eval()
    x, angles = torch.randn(side**2, 96).to(dtype), torch.randn(side**2, 24)
    rotation = (angles.cos().to(dtype), angles.sin().to(dtype))
    ends = torch.tensor([0, side**2], dtype=torch.int32)
    with torch.no_grad(), LiveStorage([*layer.parameters(), x, ends, *rotation]) as seen:
        layer(x, cu_seqlens=ends, position_embeddings=rotation)
    width = dtype.itemsize
    widths, load = Widths(weights=width, activations=width, kv=width), TowerLoad(sequences=1, rows=side, columns=side)
    ops = vit.layer_ops(spec, widths, inputs=1.0, load=load, kernel="eager", onchip_bytes=0.0)
    stream = float(side**2 * spec.hidden * width)
    # the lengths of the windows, a few integers, are alive as well
    assert 0 <= seen.peak + stream - layer_peak(stream, ops) < 64


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_embeddings_outlive_the_first_layer(family):
    """Ahead of the first layer one tensor as large as the residual stream is alive, from the second on two: the
    forward of transformers' models keeps what it embedded."""
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "vocab_size": 128}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    config = transformers.AutoConfig.for_model(family, **heads, **shape)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    ids = torch.zeros(BATCH, 50, dtype=torch.long)
    stream, alive = BATCH * 50 * 64 * 4, []
    with torch.no_grad(), LiveStorage([*model.parameters(), *model.buffers(), ids]) as seen:

        def count(*_):
            living = [size for reference, size in seen.alive.values() if not reference.expired()]
            alive.append(living.count(stream))

        for layer in model.model.layers:
            layer.register_forward_pre_hook(count)
        model(ids, use_cache=False, logits_to_keep=1)
    assert alive == [1, 2, 2]
