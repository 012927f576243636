"""Run the methods' released functions on seeded tensors and write what they choose, one JSON file a method.

    python tests/golden/released/record.py CLONES

CLONES is a folder of git clones, named as the repositories are (``VisionZip``, ``divprune``, …); of a repository that
is no clone there, the files as they are at the commit below. Each function is read from that commit and executed as it
stands; nothing of it is copied here. The files hold outputs alone, the commit,
and the versions they were recorded with. `tests/runtime/test_released.py` compares this project's functions with them.
"""

from __future__ import annotations

import ast
import json
import math
import subprocess
import sys
import typing
from pathlib import Path
from types import SimpleNamespace

import inputs
import torch
from torch import nn
from torch.nn import functional

HERE = Path(__file__).parent
COMMITS = {
    "AIM": "LaVi-Lab/AIM at edc24e9f3dfa99496ad332bd43ce20fa7b2cd30c",
    "CDPruner": "Theia-4869/CDPruner at 9541616c40fcd5625de1cdb8ea6c33c129eb7864",
    "FastV": "pkunlp-icler/FastV at d1659729b5bf1be225e99ee15783deeea80f63b1",
    "FasterVLM": "Theia-4869/FasterVLM at f5d5f12037e105a51865ecb4b28a73cd86eb4921",
    "HoloV": "obananas/HoloV at 1d2e65e961e698ff0e7d5bb4625489177dd9deba",
    "LLaVA-PruMerge": "42Shawn/LLaVA-PruMerge at 097c04116a58465e4bcb58cec44a94018a68ff1a",
    "LightCompress": "ModelTC/LightCompress at 9701d035b0aac5df97a2ebaadb30bcf0707616f5 (a port of ZichenWen1/DART)",
    "PyramidDrop": "Cooperx521/PyramidDrop at 6444f304aee4b7edcb022839fb9e8cd07859704a",
    "SparseVLMs": "Gumpest/SparseVLMs at 26a5f48813c46cd1c7364160354e7fdd3febaa67",
    "ToMe": "facebookresearch/ToMe at af95e4b1befa172dadccd8c81e223b10090f9579",
    "VTW": "lzhxmu/VTW at a3d8cfc3c3f8c957b02b504f85e140d633c30453",
    "VidCom2": "xuyang-liu16/VidCom2 at 944a17d14f4848ad080a65eab2b0711a760fa154",
    "VisPruner": "Theia-4869/VisPruner at aefa01adc7c7ce6334e880c88225e90cede760d1",
    "VisionZip": "dvlab-research/VisionZip at 3151f6df4fca36a4cd1c985e5956e725b1f9ad02",
    "divprune": "vbdi/divprune at 799e2d950aa01ba7860907f5a6d86061f885dca6",
    "vllm": "vllm-project/vllm at 094f117823287790739d3022162a3f30f13d758b",
}
CLONES = Path()


def released(repository: str, path: str, *names: str, first: bool = False, **more: object) -> dict[str, typing.Any]:
    """The named functions and classes of a file, executed with what they look up.

    Methods are named by their own name, or as ``Class.method`` where several classes have one.
    """
    commit = COMMITS[repository].split()[2]
    if (file := CLONES / repository / path).is_file():
        source = file.read_text(encoding="utf-8")
    else:
        source = subprocess.run(
            ["git", "-C", CLONES / repository, "show", f"{commit}:{path}"], capture_output=True, text=True, check=True
        ).stdout
    nodes = list(ast.walk(ast.parse(source)))
    classes = {node.name: node for node in nodes if isinstance(node, ast.ClassDef)}
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    plain = [name for name in names if "." not in name and name not in classes]
    wanted: list[typing.Any] = [node for node in functions if node.name in plain]
    if first:
        wanted = [next(node for node in wanted if node.name == name) for name in plain]
    for owner, _, method in (name.partition(".") for name in names if name not in plain):
        if not method:
            wanted.append(classes[owner])
            continue
        node = next(n for n in classes[owner].body if isinstance(n, ast.FunctionDef) and n.name == method)
        node.name = f"{owner}_{method}"
        wanted.append(node)
    for node in wanted:
        node.decorator_list = []
    scope: dict[str, typing.Any] = {**vars(typing), "torch": torch, "nn": nn, "F": functional, "math": math, **more}
    exec(compile(ast.Module(body=wanted, type_ignores=[]), path, "exec"), scope)
    return scope


def write(method: str, repository: str, function: str, cases: list[dict[str, typing.Any]]) -> None:
    """One file, with its source."""
    versions = {"torch": torch.__version__}
    body = {"method": method, "released": COMMITS[repository], "function": function, "recorded_with": versions}
    lines = ",\n".join(json.dumps(case) for case in cases)
    head = json.dumps(body)[:-1]
    (HERE / f"{method}.json").write_text(f'{head},\n"cases": [\n{lines}\n]}}\n', encoding="utf-8")
    print(method, len(cases))


def tower(seed: int, side: int = 12, heads: int = 4, depth: int = 16) -> dict[str, torch.Tensor]:
    """Queries and keys (H, 1 + n, d) and features (1 + n, H·d) of a tower with a class token."""
    n = side * side + 1
    features = torch.cat((inputs.normal(300 + seed, 1, heads * depth), inputs.field(400 + seed, side, heads * depth)))
    return {
        "query": 1.5 * inputs.normal(100 + seed, heads, n, depth),
        "key": 1.5 * inputs.normal(200 + seed, heads, n, depth),
        "features": features,
    }


def aim() -> None:
    scope = released("AIM", "llava/model/token_merge.py", "bipartite_soft_matching_merge", Callable=object, Tuple=tuple)
    cases = []
    for dtype in ("float32", "float16", "bfloat16"):
        for seed in inputs.SEEDS:
            for r in (36, 72):
                x = inputs.field(seed, 12, 64).to(getattr(torch, dtype))[None]
                out = scope["bipartite_soft_matching_merge"](x, r, x)
                cases.append({"seed": seed, "dtype": dtype, "r": r, "tokens": inputs.numbers(out[0])})
    write("aim", "AIM", "bipartite_soft_matching_merge, Qwen2Model.forward", [*cases, *aim_pruning()])


def aim_pruning() -> list[dict[str, typing.Any]]:
    """What AIM's masks leave after four layers: released rates begin at the 15th of 28 layers, so 14 do nothing."""
    path = "other_packages/transformers/src/transformers/models/qwen2/modeling_qwen2.py"
    helpers = ("get_importance", "_prepare_4d_causal_attention_mask_with_cache_position")
    scope = released(
        *("AIM", path, *helpers, "Qwen2Model.forward", "Qwen2Model._update_causal_mask"),
        Cache=object,
        StaticCache=tuple,
        BaseModelOutputWithPast=SimpleNamespace,
    )
    config = SimpleNamespace(_attn_implementation="eager", output_hidden_states=False, use_return_dict=True)
    config.output_attentions, config.use_cache = False, False
    cases = []
    for seed in inputs.SEEDS:
        decoder = _Decoder(seed)

        def ahead(x: torch.Tensor, **_: object) -> tuple[object, ...]:
            return x, "skip"

        def layer(index: int, decoder: _Decoder = decoder) -> object:
            def run(
                hidden: torch.Tensor, attention_mask: torch.Tensor, position_ids: torch.Tensor, **_: object
            ) -> object:
                out, logits = decoder.with_logits(index, hidden, position_ids, attention_mask)
                return out, scope["get_importance"](logits)

            return run

        model = SimpleNamespace(config=config, gradient_checkpointing=False, training=False, norm=decoder.model.norm)
        model.layers = [ahead] * 14 + [layer(index) for index in range(5)]
        model._update_causal_mask = lambda *given, model=model: scope["Qwen2Model__update_causal_mask"](model, *given)
        x, end = inputs.prompt(seed), inputs.BEFORE + inputs.VISUAL
        bounds = [[inputs.BEFORE, end, end + inputs.AFTER]]
        everything = torch.ones(x.shape[:2], dtype=torch.bool)
        scope["Qwen2Model_forward"](model, inputs_embeds=x, attention_mask=everything, boundaries=bounds)
        kept = {str(cut): model.attention_mask_cache[15 + cut][0].nonzero()[:, 0].tolist() for cut in range(4)}
        cases.append({"seed": seed, "pruned": kept})
    return cases


def evs() -> None:
    names = ("compute_retained_tokens_count", "compute_retention_mask")
    scope = released("vllm", "vllm/multimodal/evs.py", *names)
    cases = []
    for dtype in ("float32", "float16", "bfloat16"):
        for seed in inputs.SEEDS:
            for q in (0.5, 0.75):
                x = inputs.video(seed).to(getattr(torch, dtype))
                mask = scope["compute_retention_mask"](x, (6, 24, 24), 2, q)
                cases.append({"seed": seed, "dtype": dtype, "q": q, "kept": mask.nonzero()[:, 0].tolist()})
    write("evs", "vllm", "compute_retention_mask", cases)


def cdpruner() -> None:
    scope = released("CDPruner", "llava/model/llava_arch.py", "encode_images")
    cases = []
    for dtype in ("float32", "float16", "bfloat16"):
        for seed in inputs.SEEDS:
            for keep in (16, 48):
                features, image, text = inputs.asked(seed)
                features = features.to(getattr(torch, dtype))
                parts = SimpleNamespace(
                    get_vision_tower=lambda given=(features, image, text): lambda *_, **__: given,
                    mm_projector=lambda x: x,
                )
                model = SimpleNamespace(get_model=lambda parts=parts: parts, visual_token_num=keep)
                _, masks = scope["encode_images"](model, None)
                kept = masks.flatten().nonzero()[:, 0].tolist()
                cases.append({"seed": seed, "dtype": dtype, "keep": keep, "kept": kept})
    write("cdpruner", "CDPruner", "encode_images", cases)


def tome() -> None:
    merging = released("ToMe", "tome/merge.py", "do_nothing", "bipartite_soft_matching", "merge_wavg", Callable=object)
    scope = released("ToMe", "tome/patch/timm.py", "ToMeBlock.forward", "ToMeAttention.forward", **merging)
    cases = []
    for dtype in ("float32", "float16", "bfloat16"):
        for seed in inputs.SEEDS:
            for r in (16, 64):
                x, sizes, keys = (part.to(getattr(torch, dtype)) for part in inputs.sized(seed))
                merge, _ = merging["bipartite_soft_matching"](keys.mean(1), r, True)
                out, sizes = merging["merge_wavg"](merge, x, sizes)
                case = {"seed": seed, "dtype": dtype, "r": r, "sizes": sizes.flatten().int().tolist()}
                cases.append({**case, "tokens": inputs.numbers(out[0])})
    for seed in inputs.SEEDS:
        for r in (8, 20):
            llava = inputs.llava(seed)
            tower = llava.model.vision_tower
            x = tower.pre_layrnorm(tower.embeddings(inputs.picture(seed)))
            info = {"r": [r] * 4, "size": None, "source": None, "trace_source": False, "prop_attn": True}
            info |= {"class_token": True, "distill_token": False}
            for one in tower.encoder.layers[:-1]:
                part, same = one.self_attn, nn.Identity()
                joined = nn.Linear(64, 3 * 64)
                joined.weight = nn.Parameter(torch.cat([getattr(part, f"{name}_proj").weight for name in "qkv"]))
                joined.bias = nn.Parameter(torch.cat([getattr(part, f"{name}_proj").bias for name in "qkv"]))
                attn = SimpleNamespace(qkv=joined, num_heads=4, scale=part.scale, attn_drop=same, proj_drop=same)
                attn.proj = part.out_proj
                block = SimpleNamespace(_tome_info=info, norm1=one.layer_norm1, norm2=one.layer_norm2, mlp=one.mlp)
                block.attn = lambda x, size, attn=attn: scope["ToMeAttention_forward"](attn, x, size)
                block._drop_path1 = block._drop_path2 = same
                x = scope["ToMeBlock_forward"](block, x)
            tokens = llava.model.multi_modal_projector(x[:, 1:])[0]
            cases.append({"seed": seed, "layers_r": r, "tokens": inputs.numbers(tokens)})
    write("tome", "ToMe", "bipartite_soft_matching, merge_wavg, ToMeBlock.forward, ToMeAttention.forward", cases)


def divprune() -> None:
    scope = released("divprune", "LLaVA/llava/model/llava_arch.py", "pairwise_cosine_similarity", "DivPrune")
    model = SimpleNamespace()
    model.pairwise_cosine_similarity = lambda x: scope["pairwise_cosine_similarity"](model, x)
    cases = []
    for dtype in ("float32", "float16", "bfloat16"):
        for seed in inputs.SEEDS:
            for keep in (14, 48):
                x = inputs.field(seed, 12, 64).to(getattr(torch, dtype))
                picked, _ = scope["DivPrune"](model, x, 144, threshold_ratio=keep / 144)
                cases.append({"seed": seed, "dtype": dtype, "keep": keep, "kept": picked.tolist()})
    write("divprune", "divprune", "DivPrune", cases)


def vispruner() -> None:
    scope = released("VisPruner", "llava/model/llava_arch.py", "encode_images")
    cases = []
    for seed in inputs.SEEDS:
        for keep in (16, 48):
            given = tower(seed)
            attention = inputs.attention_of(given["query"], given["key"])[:, 0, 1:]
            parts = SimpleNamespace(
                get_vision_tower=lambda f=given["features"], a=attention: lambda *_, **__: (f[None, 1:], a[None]),
                mm_projector=lambda x: x,
            )
            model = SimpleNamespace(
                get_model=lambda parts=parts: parts,
                get_visual_token_num=lambda keep=keep: keep,
                get_important_ratio=lambda: 0.5,
            )
            _, mask = scope["encode_images"](model, None)
            cases.append({"seed": seed, "keep": keep, "kept": mask[0].nonzero()[:, 0].tolist()})
    write("vispruner", "VisPruner", "encode_images", cases)


def fastervlm() -> None:
    scope = released("FasterVLM", "llava/model/llava_arch.py", "encode_images")
    cases = []
    for seed in inputs.SEEDS:
        for keep in (16, 48):
            given = tower(seed)
            attention = inputs.attention_of(given["query"], given["key"])[:, 0, 1:]
            parts = SimpleNamespace(
                get_vision_tower=lambda f=given["features"], a=attention: lambda _: (f[None, 1:], a[None]),
                mm_projector=lambda x: x,
            )
            model = SimpleNamespace(get_model=lambda parts=parts: parts, get_visual_token_num=lambda keep=keep: keep)
            _, mask, _ = scope["encode_images"](model, None)
            cases.append({"seed": seed, "keep": keep, "kept": mask[0].nonzero()[:, 0].tolist()})
    write("fastervlm", "FasterVLM", "encode_images", cases)


def holov() -> None:
    scope = released("HoloV", "llava/model/utils.py", "HoloV")
    cases = []
    for seed in inputs.SEEDS:
        for keep in (16, 64):
            given = tower(seed)
            attention = inputs.attention_of(given["query"], given["key"])[:, 0, 1:].mean(0)
            x = given["features"][1:]
            out = scope["HoloV"](x[None], attention[None], num_patches=16, new_image_token_num=keep)[0]
            kept = [int((x == token).all(-1).nonzero()[0, 0]) for token in out if bool(token.any())]
            cases.append({"seed": seed, "keep": keep, "kept": kept})
    write("holov", "HoloV", "HoloV", cases)


def vidcom2() -> None:
    names = ("select_low_var_channels", "compute_gaussian_scores", "_multi_scale_gaussian", "compute_scales")
    scope = released(
        "VidCom2", "token_compressor/vidcom2/vidcom2.py", *names, "select_outlier_indices", "_map_linear_offset"
    )
    cases = []
    for seed in inputs.SEEDS:
        for share in (0.15, 0.25):
            chosen = scope["select_low_var_channels"](inputs.video(seed))
            video, own = scope["compute_gaussian_scores"](chosen, 144)
            scales = scope["compute_scales"](-video.mean(dim=-1), share)
            each = scope["select_outlier_indices"](video + own, scales, 144)
            kept = scope["_map_linear_offset"](each, 144).tolist()
            cases.append({"seed": seed, "share": share, "kept": kept})
    write("vidcom2", "VidCom2", "vidcom2_compression (its steps)", cases)


def visionzip() -> None:
    scope = released("VisionZip", "visionzip/clip_encoder.py", "forward")
    cases = []
    for seed in inputs.SEEDS:
        for dominant, contextual in ((27, 5), (48, 12)):
            given = tower(seed)
            attention = inputs.attention_of(given["query"], given["key"])[None]
            outputs = SimpleNamespace(attentions=[attention, None], hidden_states=[given["features"][None], None])
            layer = SimpleNamespace(metric=given["key"].mean(0)[None])
            clip = _Clip(outputs, [layer, None])
            clip._info = {"dominant": dominant - 1, "contextual": contextual}
            model = SimpleNamespace(vision_tower=clip, device="cpu", dtype=torch.float32)
            out, indices = scope["forward"](model, torch.zeros(1))
            cases.append(
                {
                    "seed": seed,
                    "dominant": dominant,
                    "contextual": contextual,
                    "kept": sorted(i - 1 for i in indices[0].tolist() if i),
                    "tokens": inputs.numbers(out[0]),
                }
            )
    write("visionzip", "VisionZip", "CLIPVisionTower_VisionZip.forward", cases)


class _Clip:
    """A vision tower that has run."""

    def __init__(self, outputs: object, layers: list[object], run: tuple[nn.Module, ...] = ()) -> None:
        self._outputs, self._run = outputs, run
        self.vision_model = SimpleNamespace(encoder=SimpleNamespace(layers=layers))

    def __call__(self, *_: object, **__: object) -> object:
        for module in self._run:
            module()
        return self._outputs


class _Given(nn.Module):
    """A projection whose result is given."""

    def __init__(self, value: torch.Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self) -> torch.Tensor:
        return self.value


def prumerge(method: str, function: str) -> None:
    import numpy as np

    found: dict[str, torch.Tensor] = {}
    scope = released(
        "LLaVA-PruMerge",
        "llava/model/multimodal_encoder/clip_encoder.py",
        *("complement_idx", "hook_k", "hook_q", "outlier_dectection", "feature_select", function),
        np=np,
        outputs=found,
    )
    cases = []
    for seed in inputs.SEEDS:
        for sharp in (0.15, 0.3):
            given = tower(seed, side=24)
            flat = {name: given[name].transpose(0, 1).flatten(1)[None] for name in ("query", "key")}
            attn = SimpleNamespace(k_proj=_Given(flat["key"]), q_proj=_Given(sharp * flat["query"]))
            outputs = SimpleNamespace(hidden_states=[given["features"][None], None])
            clip = _Clip(outputs, [None] * 23 + [SimpleNamespace(self_attn=attn)], run=(attn.k_proj, attn.q_proj))
            model = SimpleNamespace(
                vision_tower=clip, device="cpu", dtype=torch.float32, select_layer=-2, select_feature="patch"
            )
            model.feature_select = lambda x, model=model: scope["feature_select"](model, x)
            chosen: list[torch.Tensor] = []
            # the token positions are a local variable: they come by where its complement is formed
            scope["complement_idx"] = lambda i, n, f=scope["complement_idx"], c=chosen: c.append(i) or f(i, n)
            out = scope[function](model, torch.zeros(1, 3))
            case = {"seed": seed, "sharp": sharp, "keep": out.shape[1], "kept": chosen[-1][0].tolist()}
            cases.append({**case, "tokens": inputs.numbers(out[0])})
    write(method, "LLaVA-PruMerge", function, cases)


def dart() -> None:
    scope = released("LightCompress", "llmc/compression/token_reduction/dart.py", "get_retained_image_token")
    cases = []
    for seed in inputs.SEEDS:
        for kept in (36, 68):
            hidden, key = inputs.prompt(seed), inputs.normal(800 + seed, 1, 4, 164, 16)
            key = key * (1 + 0.2 * inputs.normal(900 + seed, 1, 1, 164, 1))
            rules = {
                "vision_token_start_index": inputs.BEFORE,
                "vision_token_length": inputs.VISUAL,
                "pivot_image_token": 4,
                "pivot_text_token": 4,
                "reduction_ratio": 1 - (kept - 4 + 0.5) / inputs.VISUAL,
            }
            found = scope["get_retained_image_token"](rules, hidden, key)
            cases.append({"seed": seed, "keep": kept, "kept": sorted(i - inputs.BEFORE for i in found.tolist())})
    write("dart", "LightCompress", "get_retained_image_token", cases)


class _Decoder:
    """The seeded decoder of `inputs`, layer by layer, at whatever positions it is told."""

    def __init__(self, seed: int) -> None:
        self.model = inputs.decoder(seed)

    def rotary(self, x: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.model.rotary_emb(x, positions)

    def layer(self, index: int, x: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What layer `index` makes of (1, n, h), and its attention."""
        one, n = self.model.layers[index], x.shape[1]
        mask = torch.full((n, n), torch.finfo(x.dtype).min).triu(1)[None, None]
        mixed, weights = one.self_attn(
            one.input_layernorm(x), position_embeddings=self.rotary(x, positions), attention_mask=mask
        )
        x = x + mixed
        return x + one.mlp(one.post_attention_layernorm(x)), weights

    def with_logits(
        self, index: int, x: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What layer `index` makes of (1, n, h) under a mask (1, 1, n, n), and its masked attention logits."""
        from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

        one, normed = self.model.layers[index], self.model.layers[index].input_layernorm(x)
        part = one.self_attn
        query, key, value = (
            projection(normed).unflatten(-1, (4, 16)).transpose(1, 2)
            for projection in (part.q_proj, part.k_proj, part.v_proj)
        )
        query, key = apply_rotary_pos_emb(query, key, *self.rotary(x, positions))
        logits = query @ key.transpose(2, 3) * part.scaling + mask
        x = x + part.o_proj((logits.softmax(-1) @ value).transpose(1, 2).flatten(2))
        return x + one.mlp(one.post_attention_layernorm(x)), logits


def pyramiddrop() -> None:
    from transformers.models.llama.modeling_llama import rotate_half

    def turned(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, at: torch.Tensor) -> object:
        cos, sin = cos[at][:, None], sin[at][:, None]
        return q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin

    def causal(mask: torch.Tensor, shape: tuple[int, int], x: torch.Tensor, **_: object) -> torch.Tensor:
        return torch.full((shape[1], shape[1]), torch.finfo(x.dtype).min).triu(1)[None, None]

    scope = released(
        "PyramidDrop",
        "llava/model/modeling_llama_pdrop.py",
        "pdrop_rank_drop",
        apply_rotary_pos_emb=turned,
        _prepare_4d_causal_attention_mask=causal,
        IGNORE_INDEX=-100,
    )
    cases = []
    for seed in inputs.SEEDS:
        decoder, x = _Decoder(seed), inputs.prompt(seed)

        def rotary(values: torch.Tensor, seq_len: int, decoder: _Decoder = decoder) -> tuple[torch.Tensor, ...]:
            return tuple(part[0] for part in decoder.rotary(values, torch.arange(seq_len)[None]))

        layers = []
        for one in decoder.model.layers:
            shape = {"num_heads": 4, "num_key_value_heads": 4, "head_dim": 16, "rotary_emb": rotary}
            projections = {name: getattr(one.self_attn, name) for name in ("q_proj", "k_proj", "v_proj")}
            attn = SimpleNamespace(**shape, **projections)
            layers.append(SimpleNamespace(self_attn=attn, input_layernorm=one.input_layernorm))
        model = SimpleNamespace(
            config=SimpleNamespace(),
            training=False,
            layers=layers,
            image_tokens=[inputs.VISUAL],
            image_token_posi=[inputs.BEFORE],
            prompt_len=[inputs.BEFORE + inputs.AFTER],
            image_token_ratio_list=[1.0, 0.5, 0.25, 0.125],
        )
        positions, kept, alive = torch.arange(x.shape[1])[None], {}, list(range(x.shape[1]))
        for index in range(len(layers)):
            x, _ = decoder.layer(index, x, positions)
            if index + 1 in (1, 2, 3):
                before = x
                positions, _, x, _ = scope["pdrop_rank_drop"](model, index, index + 1, x, positions, None, None)
                alive = [alive[int((before[0] == row).all(-1).nonzero()[0, 0])] for row in x[0]]
                kept[str(index)] = alive
        cases.append({"seed": seed, "kept": kept, "tokens": inputs.numbers(decoder.model.norm(x)[0])})
    write("pyramiddrop", "PyramidDrop", "pdrop_rank_drop", cases)


def fastv() -> None:
    path = "src/transformers/src/transformers/models/llama/modeling_llama.py"
    scope = released(
        *("FastV", path, "_make_causal_mask", "_expand_mask", "LlamaModel.forward"),
        "LlamaModel._prepare_decoder_attention_mask",
        BaseModelOutputWithPast=SimpleNamespace,
    )
    cases = []
    for seed in inputs.SEEDS:
        for after, keep in ((1, 36), (2, 72)):
            decoder = _Decoder(seed)
            places: list[list[int]] = []

            def layer(index: int, decoder: _Decoder = decoder, places: list[list[int]] = places) -> object:
                def run(x: torch.Tensor, position_ids: torch.Tensor, **_: object) -> tuple[object, ...]:
                    places.append(position_ids[0].tolist())
                    return decoder.layer(index, x, position_ids)

                return run

            model = SimpleNamespace(
                config=SimpleNamespace(output_hidden_states=False, use_cache=False, use_return_dict=True),
                layers=[layer(index) for index in range(5)],
                norm=decoder.model.norm,
                gradient_checkpointing=False,
                training=False,
                use_fast_v=True,
                fast_v_sys_length=inputs.BEFORE,
                fast_v_image_token_length=inputs.VISUAL,
                fast_v_attention_rank=keep,
                fast_v_agg_layer=after,
                fast_v_inplace=True,
            )
            prepare = scope["LlamaModel__prepare_decoder_attention_mask"]
            model._prepare_decoder_attention_mask = lambda *given, model=model, f=prepare: f(model, *given)
            out = scope["LlamaModel_forward"](model, inputs_embeds=inputs.prompt(seed), output_attentions=True)
            tokens = inputs.numbers(out.last_hidden_state[0])
            cases.append({"seed": seed, "k": after, "keep": keep, "kept": places[-1], "tokens": tokens})
    write("fastv", "FastV", "LlamaModel.forward", cases)


def vtw() -> None:
    scope = released(
        *("VTW", "llava/model/language_model/VTW.py", "temp_cache", "VTWLlamaModel.forward"),
        BaseModelOutputWithPast=SimpleNamespace,
    )
    held = scope["temp_cache"]
    held.image_token_nums, held.system_token_nums = inputs.VISUAL, inputs.BEFORE
    cases = []
    for seed in inputs.SEEDS:
        for k in (2, 3):
            decoder, held.k = _Decoder(seed), k

            def layer(index: int, decoder: _Decoder = decoder) -> object:
                def run(x: torch.Tensor, position_ids: torch.Tensor, **_: object) -> tuple[object, ...]:
                    return decoder.layer(index, x, position_ids)

                run.self_attn = SimpleNamespace(layer_idx=index)  # type: ignore[attr-defined]
                return run

            config = SimpleNamespace(output_attentions=False, output_hidden_states=False, use_cache=False)
            config.use_return_dict = True
            model = SimpleNamespace(config=config, gradient_checkpointing=False, training=False)
            model.layers, model.norm = [layer(index) for index in range(5)], decoder.model.norm
            model._use_flash_attention_2, model._use_sdpa = True, False
            out = scope["VTWLlamaModel_forward"](model, inputs_embeds=inputs.prompt(seed))
            cases.append({"seed": seed, "k": k, "tokens": inputs.numbers(out.last_hidden_state[0])})
    write("vtw", "VTW", "VTWLlamaModel.forward", cases)


class _Torch:
    """torch, with a clock for a GPU that is not there."""

    def __init__(self) -> None:
        event = SimpleNamespace(record=lambda: None, elapsed_time=lambda _: 0.0)
        self.cuda = SimpleNamespace(Event=lambda **_: event, synchronize=lambda: None)

    def __getattr__(self, name: str) -> object:
        return getattr(torch, name)


def sparsevlm() -> None:
    import logging

    def rearrange(x: torch.Tensor, pattern: str) -> torch.Tensor:
        return x[:, :, None] if pattern.endswith("l () r") else x[:, None]

    where = "llava/model/language_model"
    files = {
        f"{where}/modelling_sparse_llama.py": ("forward",),
        f"{where}/score.py": ("attn_postprocess_topk",),
        f"{where}/utils.py": ("cluster_and_merge", "index_points", "batch_index_select"),
    }
    scope: dict[str, typing.Any] = {
        "layer_dict": {1: 0, 2: 1, 3: 2},
        "sparse_token_dict": {192: inputs.KEEP},
        "RETAIN_TOKN": 192,
        "V2_0": False,
        "ein": SimpleNamespace(rearrange=rearrange),
        "loggerinfo": logging.getLogger("released"),
        "prefix": "",
        "torch": _Torch(),
        "BaseModelOutputWithPast": SimpleNamespace,
        "GenerateOutput": object,
    }
    # of several functions of a name, the first of the file is the model's
    found = {path: released("SparseVLMs", path, *names, first=True, **scope) for path, names in files.items()}
    for path, names in files.items():
        scope.update({name: found[path][name] for name in names})
    for functions in found.values():
        for name, value in list(functions.items()):
            if callable(value) and getattr(value, "__globals__", None) is functions:
                functions.update({key: given for key, given in scope.items() if key != name})
    cases = []
    for seed in inputs.SEEDS:
        decoder, x = _Decoder(seed), inputs.prompt(seed)

        class Layers(list):  # type: ignore[type-arg]
            """Layers that are called as the released model calls its own."""

        def layer(index: int, decoder: _Decoder = decoder) -> object:
            def run(hidden_states: torch.Tensor, position_ids: torch.Tensor, **_: object) -> tuple[object, ...]:
                out, weights = decoder.layer(index, hidden_states, position_ids)
                return out, None, weights

            run.mlp = SimpleNamespace(up_proj=SimpleNamespace(out_features=96))  # type: ignore[attr-defined]
            return run

        kept: list[list[int]] = []
        forward = found[f"{where}/modelling_sparse_llama.py"]["forward"]
        chosen = scope["attn_postprocess_topk"]

        def noted(*given: object, chosen: object = chosen, kept: list[list[int]] = kept) -> object:
            result = chosen(*given)  # type: ignore[operator]
            kept.append(result[0][0].nonzero()[:, 0].tolist())
            return result

        forward.__globals__["attn_postprocess_topk"] = noted
        config = SimpleNamespace(output_attentions=False, output_hidden_states=False, use_cache=False)
        config.use_return_dict = True
        model = SimpleNamespace(
            config=config,
            training=False,
            gradient_checkpointing=False,
            _use_flash_attention_2=True,
            _use_sdpa=False,
            pruning_loc=[1, 2, 3],
            layers=Layers(layer(i) for i in range(5)),
            num_layers=5,
            norm=decoder.model.norm,
            **dict.fromkeys(
                ("init_token_total_shape", "generate_process_count", "all_FLOPs", "total_cuda_time", "num_forward"), 0
            ),
            num_token_pool=0,
        )
        out = forward(model, inputs_embeds=x, image_shape=inputs.VISUAL, pre_prompt_length_list=[inputs.BEFORE])
        hidden = next(part for part in out if isinstance(part, SimpleNamespace)).last_hidden_state
        cases.append({"seed": seed, "kept": kept, "tokens": inputs.numbers(hidden[0])})
    write("sparsevlm", "SparseVLMs", "LlamaDynamicvitModel.forward", cases)


def main() -> None:
    global CLONES
    CLONES = Path(sys.argv[1])
    with torch.no_grad():
        aim()
        tome()
        fastv()
        vtw()
    evs()
    cdpruner()
    divprune()
    vispruner()
    fastervlm()
    holov()
    vidcom2()
    visionzip()
    prumerge("prumerge", "token_prune_merge_advanced")
    prumerge("prumerge_plus", "token_prune_merge_advanced_plus")
    dart()
    with torch.no_grad():
        pyramiddrop()
        sparsevlm()


if __name__ == "__main__":
    main()
