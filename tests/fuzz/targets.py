"""What is fuzzed: each target makes one input of a random generator, hands it to aimcost, and says what is wrong.

Right is an answer of finite figures, or one line: an `AimcostError` in Python, status 2 and one line of stderr (or 1,
a failed check) on the command line.
"""

from __future__ import annotations

import copy
import io
import json
import math
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from mutate import flag_text, mutated, mutated_text

import aimcost
from aimcost.cli import main
from aimcost.errors import AimcostError
from aimcost.evidence.formats import import_file
from aimcost.evidence.formats.accuracy import import_scores
from aimcost.evidence.timings import load_timings
from aimcost.guard.bands import load_bands
from aimcost.guard.check import check
from aimcost.inputs import discover
from aimcost.inputs.files import read_mapping
from aimcost.inputs.hardware import load_hardware
from aimcost.inputs.run import load_run
from aimcost.inputs.schema import RunFile, WorkloadFile
from aimcost.inputs.stack import load_stack
from aimcost.inputs.strict_json import digest
from aimcost.measure.campaign.summary import summarise
from aimcost.measure.records import Environment, Record, Sample, load_record
from aimcost.measure.validate import compare_record
from aimcost.measure.validate.measuring import read_profile
from aimcost.report.campaign import summary_text
from aimcost.report.guard import check_json, check_junit, check_markdown, check_text
from aimcost.search.sweep.grid import load_grid
from aimcost.search.sweep.sweep import sweep

__all__ = ["TARGETS"]

ROOT = Path(__file__).resolve().parents[2]
Target = Callable[[random.Random, list[Any]], str | None]
LONGEST = 1500
# Answers of the input under way: none where all that was called has refused it.
ANSWERED: list[Any] = []

TINY = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
}
MACHINE = {
    "name": "round",
    "architecture": "ampere",
    "memory_gb_per_s": 1000,
    "dense_tflops": {"fp16": 100, "int8": 200, "fp32": 20},
    "memory_gb": 40,
    "onchip_buffer_kb": 20000,
    "sm_count": 108,
    "interconnect_gb_per_s": 600,
}
METHODS = discover.method_names()
ESTIMATORS = discover.estimator_names()
MODELS = sorted(name for name in discover.names("model") if not name.startswith("llm_viewer"))
CARDS = sorted(discover.names("hardware"))
STACKS = sorted(discover.names("stack"))
RUN_KEYS = (
    *RunFile.names(),
    *WorkloadFile.names(),
    "name",
    "l1",
    "l2",
    "merge_ratio",
    "ratio",
    "tp",
    "pp",
    "dp",
    "tower",
)
RUNS: tuple[dict[str, Any], ...] = (
    {
        "model": TINY,
        "workload": {"batch": 2, "visual_tokens": 60, "text_tokens": 10, "new_tokens": 3},
        "method": {"name": "fastv", "k": 2, "ratio": 0.5},
        "hardware": MACHINE,
        "budgets": {"max_ttft_ms": 100},
        "parallel": {"tp": 2, "pp": 2},
    },
    {
        "model": "llava-onevision-qwen2-7b",
        "workload": {"frames": 8, "text_tokens": {"system": 14, "question": 86}, "new_tokens": 8, "newline": True},
        "method": {"name": "aim", "merge_ratio": 0.25, "l1": 14, "l2": 22, "convention": "executed"},
        "precision": {"weights": {"decoder": "int4", "lm_head": 16}, "activations": 16, "kv": "fp8"},
        "hardware": "nvidia_a100_sxm_40gb",
        "attention": "eager",
        "stack": "vllm",
        "serving": {"memory_fraction": 0.9, "prefill_chunk": 512, "max_model_len": 4096},
    },
    {
        "model": "qwen2.5-vl-7b",
        "workload": {"images": 2, "image_size": [[640, 480], [300, 1000]], "min_pixels": 3136, "max_pixels": 1003520},
        "method": {"name": "explicit", "tokens_per_layer": [[10, 28]], "select": "uniform"},
        "hardware": "nvidia_h100_sxm",
        "include": ["vision", "prefill"],
        "implementation": "eager",
        "estimator": "roofline",
    },
    {
        "model": {**TINY, "model_type": "qwen2"},
        "workload": {"text_tokens": 50, "new_tokens": 20},
        "hardware": MACHINE,
        "estimator": "llm_viewer",
        "estimator_options": {"skip_mlp_add": True},
        "execution": "cuda_graph",
        "price_per_hour": 2.5,
        "confidence": 0.9,
    },
)

PLANNED = {key: value for key, value in RUNS[0].items() if key != "parallel"}


def _finite(document: Any) -> str | None:
    """What is wrong with a result: a figure that is not finite, or negative where none can be."""
    try:
        json.dumps(document, allow_nan=False)
    except ValueError as error:
        return f"result: {error}"
    if isinstance(document, dict):
        for key in ("flops", "bytes", "time_s"):
            value = document.get("totals", {}).get(key, 0)
            if not (isinstance(value, int | float) and math.isfinite(value) and value >= 0):
                return f"totals.{key} is {value!r}"
    return None


def _line(text: str) -> str | None:
    if not text or "\n" in text or len(text) > LONGEST:
        return f"message of {len(text)} characters: {text[:200]!r}"
    return None


def _answered(call: Callable[[], Any]) -> str | None:
    """The problem with an answer, or with the error in its place."""
    try:
        found = call()
        ANSWERED.append(found)
        return _finite(found)
    except AimcostError as error:
        return _line(str(error)) or (f"exit code {error.exit_code}" if error.exit_code != 2 else None)


def _run(rng: random.Random) -> dict[str, Any]:
    run = copy.deepcopy(rng.choice(RUNS))
    if rng.random() < 0.3:
        run["method"] = {"name": rng.choice(METHODS)}
    if rng.random() < 0.2:
        run["estimator"] = rng.choice(ESTIMATORS)
        run.pop("estimator_options", None)
    if rng.random() < 0.1:
        run["stack"] = rng.choice(STACKS)
        run.pop("execution", None)
    return run


def mapping(rng: random.Random, shown: list[Any]) -> str | None:
    run = mutated(rng, _run(rng), names=RUN_KEYS, objects=True)
    shown.append(run)
    return _answered(lambda: aimcost.estimate(run).to_dict())


def overrides(rng: random.Random, shown: list[Any]) -> str | None:
    run, over = _run(rng), mutated(rng, _run(rng), names=RUN_KEYS, objects=True)
    if not isinstance(over, dict) or not all(isinstance(key, str) for key in over):
        over = {"workload": over}
    over.pop("run", None)
    shown += [run, over]
    return _answered(lambda: aimcost.estimate(run, **over).to_dict())


def _config(rng: random.Random) -> dict[str, Any]:
    data = read_mapping(discover.names("model")[rng.choice(MODELS)])
    return dict(data.get("config", data))


def hf_config(rng: random.Random, shown: list[Any]) -> str | None:
    config = mutated(rng, _config(rng), names=("text_config", "vision_config", "model_type", "num_experts", "rope"))
    Path("config.json").write_text(json.dumps(config), encoding="utf-8", errors="surrogatepass")
    workload = rng.choice(({"text_tokens": 20, "new_tokens": 3}, {"images": 1}, {"visual_tokens": 30}, {"frames": 2}))
    shown += [config, workload]
    run = {"model": "config.json", "workload": workload, "hardware": MACHINE, "estimator": rng.choice(ESTIMATORS)}
    return _answered(lambda: aimcost.estimate(run).to_dict())


def profile(rng: random.Random, shown: list[Any]) -> str | None:
    path = discover.names("hardware")[rng.choice(CARDS)]
    data = mutated(rng, read_mapping(path), names=("calibration", "attained", "dense_tflops", "tables", "hidden"))
    shown.append(data)
    run = {"model": TINY, "workload": {"visual_tokens": 60, "text_tokens": 9, "new_tokens": 3}, "hardware": data}
    return _answered(lambda: aimcost.estimate(run).to_dict())


def stack(rng: random.Random, shown: list[Any]) -> str | None:
    data = mutated(rng, read_mapping(discover.names("stack")[rng.choice(STACKS)]), objects=rng.random() < 0.3)
    shown.append(data)
    run = {**rng.choice(RUNS[:2]), "stack": data}
    return _answered(lambda: aimcost.estimate(run).to_dict())


def _text(rng: random.Random, data: Any) -> str:
    return yaml.safe_dump(data, sort_keys=False) if rng.random() < 0.6 else json.dumps(data, indent=1)


def file(rng: random.Random, shown: list[Any]) -> str | None:
    """Text of a run, model, profile or stack, mutated as text."""
    what = rng.choice(("run", "model", "hardware", "stack"))
    run: Any = _run(rng)
    if what != "run":
        given = {"model": _config, "hardware": lambda _: MACHINE, "stack": lambda r: _stack_data(r)}[what](rng)
        run[what] = f"f.{rng.choice(('yaml', 'json'))}"
        content = mutated_text(rng, _text(rng, given))
        Path(run[what]).write_bytes(content)
    else:
        content = mutated_text(rng, _text(rng, run))
        run = f"f.{rng.choice(('yaml', 'json'))}"
        Path(run).write_bytes(content)
    shown += [run, content[:2000]]
    return _answered(lambda: aimcost.estimate(run).to_dict())


def _stack_data(rng: random.Random) -> dict[str, Any]:
    return read_mapping(discover.names("stack")[rng.choice(STACKS)])


GRIDS: tuple[dict[str, Any], ...] = (
    {
        "base": RUNS[0],
        "axes": {"method": ["none", {"name": "vtw", "k": 2}], "workload.batch": {"from": 1, "to": 3, "step": 1}},
        "chunk": 4,
    },
    {"base": RUNS[3], "axes": [{"workload.text_tokens": [10, 20]}, {"attention": ["flash", "eager"]}]},
    {
        "base": {"model": TINY, "workload": {"visual_tokens": 50, "text_tokens": 9}, "hardware": MACHINE},
        "axes": {"workload.batch": [1, 2]},
        "schedules": {"levels": [1.0, 0.5, 0.0], "select": "aim"},
        "chunk": 10,
    },
    {
        "base": {"model": TINY, "workload": {"visual_tokens": 48, "text_tokens": 9}, "hardware": MACHINE},
        "axes": {},
        "schedules": {"method": "aim", "merge_ratio": [1.0, 0.5], "l1": [0, 2], "l2": [2, 4]},
    },
)


def grid(rng: random.Random, shown: list[Any]) -> str | None:
    data = mutated(rng, rng.choice(GRIDS), names=("axes", "base", "schedules", "from", "to", "step", "chunk", "levels"))
    try:
        text = yaml.safe_dump(data, sort_keys=False)
    except (yaml.YAMLError, RecursionError):
        return None
    if rng.random() < 0.2:
        Path("g.yaml").write_bytes(mutated_text(rng, text))
    else:
        Path("g.yaml").write_text(text, encoding="utf-8", errors="surrogatepass")
    shown.append(Path("g.yaml").read_bytes()[:2000])

    def swept() -> Any:
        found = load_grid("g.yaml")
        # a large grid is a long computation on purpose: that it can be counted is enough
        if found.points <= 200 and found.run(0).workload.new_tokens < 100:
            sweep("g.yaml", f"o.{rng.choice(('csv', 'jsonl'))}")

    return _answered(swept)


PROFILE = read_profile(ROOT / "hardware_profiles/measurements/amd_epyc/2026-11-21_profile.yaml")


def _record(kind: Any) -> dict[str, Any]:
    precision = dict.fromkeys(("weights", "activations", "kv"), "fp32")
    workload = {"visual_tokens": 20, "text_tokens": 5, "new_tokens": 3}
    document = {"model": {"name": "t", **TINY}, "workload": workload, "method": "none", "precision": precision}
    samples = [
        Sample(
            op=op,
            name=name,
            dims=dims,
            dtype="fp32",
            samples_s=(1e-3, 2e-3),
            clock="thread_cpu",
            labels={"run": "r", "variant": "dense", "implementation": "fused"},
        )
        for op, name, dims in (
            ("prefill", "", {"batch": 1.0, "tokens": 25.0}),
            ("layer", "", {"layer": 1.0, "tokens": 25.0}),
            ("decode", "", {"steps": 1.0}),
            ("gemm", "linear", {"m": 8.0, "n": 16.0, "k": 32.0}),
            ("merge", "", {"groups": 2.0, "tokens": 8.0, "width": 4.0, "kept": 4.0}),
            ("attention", "", {"batch": 1.0, "heads": 4.0, "kv_heads": 2.0, "head_dim": 16.0, "q": 9.0, "kv": 9.0}),
        )
    ]
    settings = {"runs": {"r": document}, "profile": PROFILE, "profile_from": "x", "measured": ["r"], "repeats": 2}
    record = Record(
        kind=kind,
        environment=Environment(device="cpu", device_name="x", packages={"torch": "2"}, memory_bytes=8e9),
        seed=1,
        started="2026-01-02T03:04:05+00:00",
        finished="2026-01-02T03:05:05+00:00",
        settings=settings,
        samples=tuple(samples),
    )
    found: dict[str, Any] = json.loads(record.to_json())
    return found


def record(rng: random.Random, shown: list[Any]) -> str | None:
    data = mutated(rng, _record(rng.choice(("validation", "validation", "profile"))))
    text = json.dumps(data)
    content = mutated_text(rng, text) if rng.random() < 0.3 else text.encode("utf-8", "surrogatepass")
    Path("r.json").write_bytes(content)
    shown.append(content[:3000])
    return _answered(lambda: compare_record(load_record("r.json"), where="r.json").to_dict())


def campaign(rng: random.Random, shown: list[Any]) -> str | None:
    summary = {
        "schema_version": 2,
        "device_name": "x",
        "profile": "x.yaml",
        "tiny": True,
        "device": "cpu",
        "dtype": "fp32",
        "minutes": 1.0,
        "started": "2026-01-02T03:04:05+00:00",
        "finished": None,
        "notes": [],
        "steps": [
            {"name": name, "state": "done", "seconds": 1.0, "message": ""}
            for name in ("profile", "correctness", "kernels", "papers")
        ],
    }
    files: dict[str, Any] = {"summary.json": summary}
    for name in ("profile", "correctness", "kernels", "papers"):
        data = _record({"profile": "profile", "papers": "validation"}.get(name, "campaign"))
        if name == "correctness":
            data["settings"]["results"] = [
                {"check": "merge", "dtype": "fp32", "size": "1", "value": 0.1, "bar": 1.0, "ok": True, "path": "torch"}
            ]
        files[f"{name}.json"] = data
    for name in rng.sample(sorted(files), rng.choice((1, 1, 2))):
        files[name] = mutated(rng, files[name])
    for name, data in files.items():
        Path(name).write_text(json.dumps(data), encoding="utf-8", errors="surrogatepass")
    shown.append(files)

    def summarised() -> Any:
        found = summarise(".")
        summary_text(found)
        return json.loads(json.dumps(found))

    return _answered(summarised)


def baseline(rng: random.Random, shown: list[Any]) -> str | None:
    Path("r.yaml").write_text(yaml.safe_dump({**RUNS[0], "estimator": "roofline"}), encoding="utf-8")
    check(["r.yaml"], baseline="b.json", update=True)
    text = Path("b.json").read_text(encoding="utf-8")
    if rng.random() < 0.7:
        data = mutated(rng, json.loads(text))
        runs = data.get("runs") if isinstance(data, dict) else None
        for entry in (runs or {}).values() if isinstance(runs, dict) and rng.random() < 0.8 else ():
            if isinstance(entry, dict):  # a digest that matches: what follows is reached
                try:
                    entry["sha"] = digest({key: value for key, value in entry.items() if key != "sha"})
                except (TypeError, ValueError):
                    continue
        content = json.dumps(data).encode("utf-8", "surrogatepass")
    else:
        content = mutated_text(rng, text)
    Path("b.json").write_bytes(content)
    shown.append(content[:3000])

    def checked() -> Any:
        result = check(["r.yaml"] if rng.random() < 0.5 else [], baseline="b.json", update=rng.random() < 0.2)
        for form in (check_text, check_markdown, check_junit):
            form(result)
        return check_json(result)

    return _answered(checked)


def bands(rng: random.Random, shown: list[Any]) -> str | None:
    shape = dict.fromkeys(("tokens", "layers", "hidden", "intermediate", "heads", "kv_heads", "head_dim"), 8)
    old = {"schema_version": 1, "bands": {"t": {"yardstick": shape, "ratios": [1.0, 1.1]}}}
    updates = [{"cpu": "x", "ratios": [1.0, 1.1]}, {"cpu": "", "ratios": [0.9]}]
    new = {"schema_version": 2, "bands": {"t": {"yardstick": shape, "updates": updates}}}
    data = mutated(rng, rng.choice([old, new]))
    text = json.dumps(data)
    content = mutated_text(rng, text) if rng.random() < 0.4 else text.encode("utf-8", "surrogatepass")
    Path("b.json").write_bytes(content)
    shown.append(content)

    def limits() -> Any:
        found = {name: band.limit(0.05, cpu="x") for name, band in load_bands("b.json").items()}
        return {name: [limit.center, limit.ratio, limit.visible] for name, limit in found.items()}

    return _answered(limits)


_ARGUMENTS = ("hardware", "methods", "shapes", "batches", "frames", "confidence", "objective", "levels", "earliest_cut")


def python(rng: random.Random, shown: list[Any]) -> str | None:
    """Arguments of the other entry points."""
    run = _run(rng) if rng.random() < 0.3 else PLANNED
    which = rng.choice(("budgets", "plan", "compare", "stacks", "estimate", "load_hardware", "load_stack", "with_"))
    one = _odd_value(rng)
    shown += [which, run]
    if which == "budgets":
        budgets = mutated(rng, {"max_ttft_ms": 50, "max_kv_gb": 1.0}, objects=True)
        shown.append(budgets)
        return _answered(lambda: aimcost.plan(run, budgets).to_dict() and None)
    if which == "plan":
        key = rng.choice(_ARGUMENTS)
        shown += [key, one]
        return _answered(lambda: aimcost.plan(run, {"max_ttft_ms": 50}, **{key: one}).to_dict() and None)
    if which == "with_":
        over = mutated(rng, {"workload": {"batch": 2}, "method": {"name": "vtw"}}, names=RUN_KEYS, objects=True)
        shown.append(over)
        return _answered(lambda: load_run(run).with_(over) and None) if isinstance(over, dict) else None
    shown.append(one)
    calls: dict[str, Callable[[], Any]] = {
        "compare": lambda: aimcost.compare(run, one),
        "stacks": lambda: aimcost.compare(run, ["nvidia_l4"], one),
        "estimate": lambda: aimcost.estimate(one).to_dict(),
        "load_hardware": lambda: load_hardware(one),
        "load_stack": lambda: load_stack(one),
    }
    return _answered(lambda: calls[which]() and None)


def _odd_value(rng: random.Random) -> Any:
    """Anything, or a list of anything."""
    given = mutated(rng, [1, "x"], objects=True)
    return given if rng.random() < 0.3 or not isinstance(given, list) or not given else given[0]


TIMING = {
    "id": "a-1",
    "source": "y",
    "model": "qwen2-0.5b",
    "batch": 1,
    "quantity": "ttft",
    "value_s": 0.1,
    "group": "g",
    "stack": "vllm",
    "run": {"model": "qwen2-0.5b", "workload": {"text_tokens": 10}, "hardware": "nvidia_l4"},
    "stages": ["prefill"],
}
# Of vllm bench serve, latency and throughput, guidellm and lmms-eval, with what each needs of the user.
GIVEN = {"model": "llama-3.1-8b", "hardware": "nvidia_h100_sxm", "stack": "vllm"}
RESULTS: tuple[Any, ...] = (
    {
        "backend": "vllm",
        "date": "20250101-000000",
        "endpoint_type": "vllm",
        "tokenizer_id": "x",
        "num_prompts": 4,
        "request_throughput": 0.909,
        "model_id": "meta-llama/Llama-3.1-8B-Instruct",
        "request_rate": "inf",
        "max_concurrency": 1,
        "duration": 4.4,
        "completed": 4,
        "total_input_tokens": 2000,
        "total_output_tokens": 404,
        "median_ttft_ms": 40.0,
        "mean_tpot_ms": 10.5,
        "median_e2el_ms": 1080.0,
    },
    {"avg_latency": 1.3, "latencies": [1.2, 1.2, 1.5], "percentiles": {"10": 1.2, "50": 1.25, "99": 1.5}},
    {"elapsed_time": 8.0, "num_requests": 32, "total_num_tokens": 20480, "tokens_per_second": 2560.0},
    read_mapping(ROOT / "tests/golden/lmms_eval/fastv.json"),
)


def evidence(rng: random.Random, shown: list[Any]) -> str | None:
    """Files of timings, scores and other benchmarks."""
    which = rng.randrange(3)
    if which == 0:
        text = "\n".join(json.dumps(mutated(rng, TIMING)) for _ in range(2))
        content = mutated_text(rng, text) if rng.random() < 0.4 else text.encode("utf-8", "surrogatepass")
        Path("t.jsonl").write_bytes(content)
        shown.append(content)
        return _answered(lambda: len(load_timings([Path("t.jsonl")]).requests))
    if which == 1:
        data = rng.choice(RESULTS)
        data = mutated(rng, data) if rng.random() < 0.9 else data
        Path("r.json").write_text(json.dumps(data), encoding="utf-8", errors="surrogatepass")
        shown.append(data)
        given = {**GIVEN, "workload": {"text_tokens": 512, "new_tokens": 128, "batch": 8}}
        if "results" in data:
            return _answered(lambda: import_scores([Path("r.json")], {"model": "llava-1.5-7b"}) and None)
        return _answered(lambda: import_file(Path("r.json"), given) and None)
    table = 'schedule,score\n"[[70, 4]]",50\n"[[70, 2], [20, 2]]",40\n"{name: vtw, k: 2}",30\n'
    if rng.random() < 0.5:
        table = 'method,parameters,benchmark,score,vanilla\naim,"{l1: 1, l2: 3}",mme,50,60\nvtw,{k: 2},mme,40,60\n'
    content = mutated_text(rng, table)
    Path("a.csv").write_bytes(content)
    shown.append(content)
    return _answered(lambda: aimcost.plan(PLANNED, {"max_ttft_ms": 50}, accuracy="a.csv").to_dict() and None)


DOTTED = ("workload.batch", "method.l1", "model.hidden_size", "hardware.memory_gb", "x.y.z")
_SIZES = "--batch --frames --images --text-tokens --new-tokens --visual-tokens --tp --pp --dp"
_NAMES = "--model --hardware --estimator --method --attention --stack --implementation"
_FORMS = "--json --csv --format -o --set"
# What a command is given at least, and flags that it has.
COMMANDS: dict[str, tuple[str, str]] = {
    "estimate": ("qwen.yaml", f"{_SIZES} {_NAMES} {_FORMS} --layers --ops --macs --flops-formula"),
    "compare": ("qwen.yaml", f"{_FORMS} --hardware --stack --batch"),
    "plan": (
        "qwen.yaml",
        f"{_FORMS} --ttft-ms --tpot-ms --kv-gb --memory-gb --flops --method --shape --batch --hardware --confidence "
        "--objective --accuracy --task --earliest-cut",
    ),
    "check": ("qwen.yaml", f"{_FORMS} --baseline --tolerance --junit --markdown --stack"),
    "list": ("", "--json --all"),
    "show": ("", "--json"),
    "schema": ("", "--json"),
    "sweep": ("g.yaml -o o.csv", "--workers --engine --scheduler --resume -o"),
    "validate": ("--from-record r.json", "--plot --json --device"),
    "campaign": ("--from .", "--json --minutes"),
    "import": ("r.json", "--model --hardware --stack --images --quantity --metric --set -o"),
}


def flags(rng: random.Random, shown: list[Any]) -> str | None:
    """A command line of flags and odd values."""
    command = rng.choice(list(COMMANDS))
    first, known = (text.split() for text in COMMANDS[command])
    Path("qwen.yaml").write_text(yaml.safe_dump(RUNS[0]), encoding="utf-8")
    arguments = [command, *first]
    if rng.random() < 0.15:
        arguments = [command, *(flag_text(rng) for _ in range(rng.randint(0, 2)))]
    for _ in range(rng.choice((1, 1, 2, 3))):
        flag = rng.choice(known)
        if flag in ("--json", "--csv", "--macs", "--resume", "--all"):
            arguments.append(flag)
        elif flag == "--set":
            key = rng.choice(
                (*RUN_KEYS, "workload.batch", "method.l1", "model.hidden_size", "hardware.memory_gb", "x.y.z")
            )
            arguments += [flag, f"{key}={flag_text(rng)}"]
        else:
            arguments += [flag, flag_text(rng)]
    shown.append(arguments)
    return _command(arguments)


def _command(arguments: list[str]) -> str | None:
    """The problem with how a command ends."""
    if any("/dev/" in text for text in arguments) and {"-o", "--junit", "--markdown"} & set(arguments):
        return None  # a device is not written to
    out, err, before = io.StringIO(), io.StringIO(), (sys.argv, sys.stdout, sys.stderr)
    sys.argv, sys.stdout, sys.stderr = ["aimcost", *arguments], out, err
    os.environ["AIMCOST_QUIET_PROCESS"], os.environ["AIMCOST_TRACEBACK"] = "1", "1"
    try:
        main()
        status: Any = 0
    except SystemExit as end:
        status = end.code
    finally:
        sys.argv, sys.stdout, sys.stderr = before
    said = err.getvalue()
    if status in (0, 1):
        ANSWERED.append(status)
    if "out of memory" in said:
        return "MemoryError"
    if status not in (0, 1, 2):
        return f"status {status!r}: {said[:200]}"
    if status == 1 and arguments[0] not in ("check", "plan"):
        return f"status 1: {said[:200]}"
    if status == 2 and not said.startswith("aimcost: ") and said.strip():
        return f"stderr {said[:200]!r}"
    if said.rstrip("\n").count("\n") > 0:
        return f"{said.count(chr(10))} lines: {said[:300]!r}"
    if any(ord(char) < 32 and char != "\n" for char in said):
        return f"control characters in {said[:300]!r}"
    return None


TARGETS: dict[str, Target] = {
    one.__name__: one
    for one in (
        *(mapping, flags, file, hf_config, profile, stack, grid, record, campaign, baseline, bands, python, evidence),
        *(overrides, mapping, flags),
    )
}
