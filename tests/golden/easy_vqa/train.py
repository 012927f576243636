"""Train the model in `model/`: LLaVA of 2.1 M parameters on scenes of four easy-vqa pictures. CPU, minutes.

    python tests/golden/easy_vqa/train.py [--folder FOLDER]

Two stages. First the vision tower alone, on the colour and the shape of each patch; then it is frozen, and the
projector and the decoder learn to answer. A patch's features so say what it shows and little of its neighbours:
trained end to end, answers leak into tokens of the background, and any few tokens would do.

Weights are rounded to bfloat16 and stored so. Random streams are seeded; on another machine or version of torch sums
round differently, and the weights differ, the accuracy by a point or so.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scenes import COLOR_QUESTIONS, COLORS, GRID, PATCH, SHAPE_QUESTIONS, SHAPES, SIZE, Scenes, make_scenes
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from torch.nn import functional
from transformers import (
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

FOLDER = Path(__file__).with_name("model")
SPECIAL = ("<pad>", "<image>", "<end>", "<unknown>")
VISUAL = GRID * GRID
# OpenAI CLIP's, which a CLIPImageProcessor applies.
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SEED = 0
# Scenes without textures come first: what a shape is, is learned sooner from them.
VISION = {"plain": 1000, "plain_steps": 250, "scenes": 3000, "steps": 1500, "rows": 16, "rate": 1e-3}
ALIGN = {"steps": 300, "rows": 16, "rate": 3e-3}
DECODER = {"steps": 500, "rows": 4, "rate": 2e-3}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word or question mark."""
    asked = [q.format(w) for q in (*COLOR_QUESTIONS, *SHAPE_QUESTIONS) for w in (*SHAPES, *COLORS)]
    words = sorted({word for text in asked for word in text.replace("?", " ?").split()})
    vocabulary = {word: index for index, word in enumerate((*SPECIAL, *words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unknown>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("isolated")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<end>",
        unk_token="<unknown>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
    )


def make_config(tokenizer: PreTrainedTokenizerFast) -> LlavaConfig:
    """CLIP of 4 layers on 8 x 8 patches of 8, Qwen2 of 8 layers, both 128 wide."""
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=SIZE,
        patch_size=PATCH,
        projection_dim=128,
    )
    text = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        # the usual 0.02 is for models 30 times as wide: attention would start uniform and learn to match slowly
        initializer_range=128**-0.5,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=VISUAL,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )


def pixel_values(pixels: np.ndarray) -> torch.Tensor:
    """(N, 3, 64, 64), normalised."""
    scaled = torch.from_numpy(pixels).float().div_(255).sub_(torch.tensor(MEAN)).div_(torch.tensor(STD))
    return scaled.movedim(-1, 1).contiguous()


def schedule_rate(optimizer: torch.optim.Optimizer, step: int, steps: int, peak: float) -> None:
    """Linear warm-up over a twentieth of the steps, then a cosine to zero."""
    warm = max(1, steps // 20)
    share = (step + 1) / warm if step < warm else 0.5 * (1 + np.cos(np.pi * (step - warm) / (steps - warm)))
    for group in optimizer.param_groups:
        group["lr"] = peak * share


def patch_features(model: LlavaForConditionalGeneration, pixels: np.ndarray) -> torch.Tensor:
    """(N, 64, 128): what the projector is given, as LLaVA selects it (the last layer without the class token)."""
    return model.model.vision_tower(pixel_values(pixels)).last_hidden_state[:, 1:]


def place_patches(model: LlavaForConditionalGeneration) -> None:
    """Start the tower's positions with the sines and cosines of rows and columns: neighbours then look alike."""
    table = model.model.vision_tower.embeddings.position_embedding.weight
    waves = 10_000 ** -(torch.arange(table.shape[1] // 4) / (table.shape[1] // 4))
    rows, columns = torch.meshgrid(torch.arange(float(GRID)), torch.arange(float(GRID)), indexing="ij")
    angles = [place.reshape(-1, 1) * waves for place in (columns, rows)]
    with torch.no_grad():
        table[1:] = 0.3 * torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], 1)


def train_vision(model: LlavaForConditionalGeneration, stages: Sequence[tuple[Scenes, int]]) -> None:
    """Teach the tower the colour and the shape of each patch, and say how well it tells them on test scenes.

    `stages` are scenes and the steps that are taken on them. Three patches of four show no object, and are told
    from the others soon: they weigh less.
    """
    heads = nn.ModuleList((nn.Linear(128, len(COLORS) + 1), nn.Linear(128, len(SHAPES) + 1)))
    tower = model.model.vision_tower
    trained = [*tower.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=0.0, weight_decay=0.01, betas=(0.9, 0.98), fused=True)
    weights = [torch.ones(len(names) + 1).index_fill(0, torch.tensor(0), 0.3) for names in (COLORS, SHAPES)]
    test = make_scenes("test", 200, seed=9)
    total, step = sum(steps for _, steps in stages), 0
    for scenes, steps in stages:
        labels = torch.from_numpy(scenes.labels)
        for _ in range(steps):
            schedule_rate(optimizer, step, total, VISION["rate"])
            rows = torch.randint(len(labels), (VISION["rows"],))
            features = patch_features(model, scenes.pixels[rows.numpy()])
            loss = sum(
                functional.cross_entropy(head(features).mT, labels[rows, at], weights[at])
                for at, head in enumerate(heads)
            )
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            step += 1
            if step % 100 == 0 or step == total:
                shares = told_apart(model, heads, test)
                print(
                    f"vision {step:5d} loss {loss.item():.3f}, {shares}, {time.process_time():.0f} s of CPU", flush=True
                )


@torch.no_grad()
def told_apart(model: LlavaForConditionalGeneration, heads: nn.ModuleList, scenes: Scenes) -> str:
    """Shares of the patches that show an object whose colour and shape are told."""
    features = patch_features(model, scenes.pixels)
    labels = torch.from_numpy(scenes.labels)
    shown = labels[:, 0] > 0
    color, shape = ((head(features).argmax(-1) == labels[:, at])[shown].float().mean() for at, head in enumerate(heads))
    return f"of objects' patches colour {color:.3f}, shape {shape:.3f}"


def packed(tokenizer: PreTrainedTokenizerFast, scenes: Scenes) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, questions, T) token ids of `question answer <end>`, padded, and the target at each (-100: none)."""
    flat = [
        f"{q} {a}<end>"
        for qs, answers in zip(scenes.questions, scenes.answers, strict=True)
        for q, a in zip(qs, answers, strict=True)
    ]
    ids = tokenizer(flat, padding=True, padding_side="right", return_tensors="pt").input_ids
    lengths = (ids != tokenizer.pad_token_id).sum(1)
    targets = torch.full_like(ids, -100)
    every = torch.arange(len(ids))
    for back in (2, 1):  # the answer, predicted at the question mark, and the end
        targets[every, lengths - back - 1] = ids[every, lengths - back]
    # The answer at the word that is asked about, too: matching it with a patch is learned before passing it on.
    words = torch.tensor(tokenizer.convert_tokens_to_ids([*COLORS, *SHAPES]))
    asked_about = torch.isin(ids, words) & (torch.arange(ids.shape[1]) < lengths[:, None] - 2)
    targets = torch.where(asked_about, ids[every, lengths - 2][:, None], targets)
    shape = (len(scenes.questions), len(scenes.questions[0]), -1)
    return ids.view(shape), targets.view(shape)


def align(
    model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, scenes: Scenes, features: torch.Tensor
) -> None:
    """Teach the projector to put a patch near the words for what it shows, and a background patch near `<image>`.

    LLaVA's first stage (image-text alignment) with words in place of captions: the decoder then need not discover
    which direction of a visual token is which word.
    """
    words = [torch.tensor(tokenizer.convert_tokens_to_ids(["<image>", *names])) for names in (COLORS, SHAPES)]
    targets = [table[torch.from_numpy(scenes.labels[:, at])] for at, table in enumerate(words)]
    projector, head = model.model.multi_modal_projector, model.lm_head
    trained = [*projector.parameters(), head.weight]
    optimizer = torch.optim.AdamW(trained, lr=0.0, weight_decay=0.0)
    for step in range(ALIGN["steps"]):
        schedule_rate(optimizer, step, ALIGN["steps"], ALIGN["rate"])
        rows = torch.randint(len(features), (ALIGN["rows"],))
        logits = head(projector(features[rows])).mT
        loss = sum(functional.cross_entropy(logits, target[rows]) for target in targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            print(f"alignment {step:5d} loss {loss.item():.3f}, {time.process_time():.0f} s of CPU", flush=True)


def look_alike(model: LlavaForConditionalGeneration) -> None:
    """Start each layer with equal queries and keys: tokens attend to what resembles them, as an answer must."""
    with torch.no_grad():
        for layer in model.model.language_model.layers:
            layer.self_attn.k_proj.weight.copy_(layer.self_attn.q_proj.weight)


def train_decoder(
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    scenes: Scenes,
    features: torch.Tensor,
) -> None:
    """Teach projector and decoder the answers; the questions of a scene share its visual tokens in one sequence."""
    ids, targets = packed(tokenizer, scenes)
    colors = torch.tensor(tokenizer.convert_tokens_to_ids(list(COLORS)))
    _, asked, length = ids.shape
    # A question sees the visual tokens and itself, and stands right behind them.
    block = torch.arange(asked).repeat_interleave(length)
    total = VISUAL + asked * length
    sees = torch.ones(total, total, dtype=torch.bool).tril()
    sees[VISUAL:, VISUAL:] &= block[:, None] == block
    positions = torch.cat((torch.arange(VISUAL), VISUAL + torch.arange(length).repeat(asked)))[None]
    decoder, projector, head = model.model.language_model, model.model.multi_modal_projector, model.lm_head
    trained = [*projector.parameters(), *decoder.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=0.0, weight_decay=0.01, betas=(0.9, 0.98), fused=True)
    for step in range(DECODER["steps"]):
        schedule_rate(optimizer, step, DECODER["steps"], DECODER["rate"])
        rows = torch.randint(len(ids), (DECODER["rows"],))
        text = decoder.embed_tokens(ids[rows].flatten(1))
        embeds = torch.cat((projector(features[rows]), text), 1)
        mask = sees.expand(len(rows), 1, -1, -1)
        hidden = decoder(inputs_embeds=embeds, attention_mask=mask, position_ids=positions, use_cache=False)[0]
        wanted = targets[rows].flatten(1)
        wanted, hidden = wanted[wanted >= 0], hidden[:, VISUAL:][wanted >= 0]
        logits = head(hidden)
        loss = functional.cross_entropy(logits, wanted)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        if step % 25 == 0:
            asks_color = torch.isin(wanted, colors)
            hits = (logits.argmax(-1) == wanted).float()
            shapes = hits[~asks_color & (wanted != tokenizer.eos_token_id)]
            print(
                f"decoder {step:5d} loss {loss.item():.3f}, right colours {hits[asks_color].mean():.2f}, "
                f"shapes {shapes.mean():.2f}, {time.process_time():.0f} s of CPU",
                flush=True,
            )


# A message is its image and its question, with nothing around them.
TEMPLATE = (
    "{% for message in messages %}{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }}"
    "{% endif %}{% endfor %}{% endif %}{% endfor %}"
)


def save(model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Weights in bfloat16, tokenizer, and what a LlavaProcessor needs."""
    tokenizer.chat_template = TEMPLATE
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor = {
        "processor_class": "LlavaProcessor",
        "image_token": "<image>",
        "num_additional_image_tokens": 1,  # CLIP's class token, which is not selected
        "patch_size": PATCH,
        "vision_feature_select_strategy": "default",
    }
    pictures = {
        "image_processor_type": "CLIPImageProcessor",
        "do_center_crop": False,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": False,
        "image_mean": MEAN,
        "image_std": STD,
        "size": {"shortest_edge": SIZE},
    }
    for name, content in (("processor_config", processor), ("preprocessor_config", pictures)):
        (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")


def main() -> None:
    """Train, round, save."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=FOLDER)
    folder = parser.parse_args().folder
    began = time.perf_counter()
    random.seed(SEED)
    torch.manual_seed(SEED)
    tokenizer = make_tokenizer()
    model = LlavaForConditionalGeneration(make_config(tokenizer))
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {len(tokenizer)} words")
    scenes = make_scenes("train", VISION["scenes"], seed=1)
    print(f"scenes made, {time.perf_counter() - began:.0f} s")
    place_patches(model)
    plain = make_scenes("train", VISION["plain"], seed=4, plain=True)
    train_vision(model, ((plain, VISION["plain_steps"]), (scenes, VISION["steps"])))
    print(f"{time.perf_counter() - began:.0f} s")
    torch.manual_seed(SEED + 1)
    model.model.vision_tower.requires_grad_(False)
    with torch.inference_mode():
        parts = [patch_features(model, scenes.pixels[at : at + 100]) for at in range(0, len(scenes.pixels), 100)]
    features = torch.cat(parts).clone()
    look_alike(model)
    align(model, tokenizer, scenes, features)
    train_decoder(model, tokenizer, scenes, features)
    print(f"{time.perf_counter() - began:.0f} s")
    save(model, tokenizer, folder)


if __name__ == "__main__":
    main()
