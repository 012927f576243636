"""Reports and refusals name what they are about: the stack, the flag, the inner key, every count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import aimcost
from aimcost.errors import AimcostError
from aimcost.inputs.run import load_run

RUN = ["--model", "llava-onevision-qwen2-7b", "--frames", "2", "--method", "aim", "--new-tokens", "5"]
A100 = "nvidia_a100_sxm_80gb"


def compared(cli: Any, *flags: str) -> list[str]:
    return list(cli("compare", *RUN, "--hardware", A100, *flags).stdout.splitlines())


def test_stacks_that_count_differently_list_their_flops(cli: Any) -> None:
    """llava runs attention and selection by other kernels than transformers, and vllm by the same."""
    lines = compared(cli, "--stack", "transformers,llava")
    assert "FLOPs as listed" in lines[0]
    rows = json.loads("\n".join(compared(cli, "--stack", "transformers,llava", "--json")))
    assert len({row["flops"] for row in rows}) == 2
    assert sum("FLOP " in line for line in lines if line.startswith(A100)) == 2
    same = compared(cli, "--stack", "transformers,vllm")
    assert "FLOPs as listed" not in same[0]
    assert "FLOPs" not in same[1]


def test_a_stack_given_twice_is_one(cli: Any) -> None:
    assert "stack vllm," in compared(cli, "--stack", "vllm,vllm")[0]


def test_stacks_that_do_not_act_share_a_row_that_says_so(cli: Any) -> None:
    lines = compared(cli, "--stack", "transformers,vllm", "--estimator", "roofline")
    assert sum(line.startswith(A100) for line in lines) == 1
    (note,) = (line for line in lines if "ignored" in line)
    assert note == (
        "note: stacks transformers and vllm ignored: roofline prices no software stack, so that they share a row"
    )


def test_a_plan_names_its_stack(cli: Any) -> None:
    flags = ["llava_onevision_aim_a100", "--stack", "vllm", "--question", "batch", "--ttft-ms", "900"]
    assert "stack vllm" in cli("plan", *flags).stdout.splitlines()[0]


def test_a_baseline_refuses_the_flag_that_was_given(cli: Any, tmp_path: Path) -> None:
    flags = ["check", "cpu_bf16_cut", "--update", "--baseline", str(tmp_path / "b.json")]
    assert cli(*flags, "--stack", "vllm").stderr.startswith("aimcost: '--stack' must be omitted with --update")
    assert cli(*flags, "--set", "stack=vllm").stderr.startswith("aimcost: '--set' must be omitted with --update")


def test_markers_of_images_of_two_sizes_are_counted_together() -> None:
    """InternVL: ``<img>`` and ``</img>`` around each image."""
    workload = {"images": 2, "image_size": [[900, 900], [448, 448]], "text_tokens": 9}
    estimate = aimcost.estimate({"model": "internvl3-8b", "workload": workload, "hardware": A100})
    noted = [note for note in estimate.notes if "two markers" in note]
    assert noted == ["4 tokens of text around the images: two markers each, by the processor"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"workload": {"int": 3}}, "unknown key 'workload.int'"),
        ({"workload": {"text_tokens": {"int": 3}}}, "unknown key 'workload.text_tokens.int'; did you mean"),
        (
            {"workload": {"text_tokens": {"system": 1.5}}},
            r"'workload.text_tokens.system' must be a whole number \(got 1.5\)",
        ),
        ({"workload": {"text_tokens": {"system": -1}}}, r"'workload.text_tokens.system' must be at least 0 \(got -1\)"),
        ({"precision": {"weights": {"decoder": 4.5}}}, r"'precision.weights.decoder' must be one of 32, 16, 8, 4, "),
        ({"workload": {"text_tokens": [1]}}, "'workload.text_tokens' must be a whole number or a mapping"),
    ],
)
def test_errors_inside_one_of_several_shapes_name_the_inner_key(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(AimcostError, match=message):
        load_run({"model": "llava-1.5-7b", "hardware": A100, **keys})
