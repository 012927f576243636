"""Result files of other benchmarks: the field lists of each, small files by hand, and odd ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aimcost.errors import AimcostError, UnknownNameError
from aimcost.evidence.formats import Imported, import_file
from aimcost.evidence.joining import join
from aimcost.evidence.timings import load_timings, timing_lines

RUN: dict[str, Any] = {"model": "llama-3.1-8b", "hardware": "nvidia_h100_sxm", "stack": "vllm"}
FIRST = ("merge", "prefill")  # of a run without images

# vllm/benchmarks/serve.py, --save-result: one request at a time, 4 requests of 500 + 101 tokens in 4.4 s
SERVE: dict[str, Any] = {
    "date": "20250101-000000",
    "endpoint_type": "vllm",
    "backend": "vllm",
    "label": None,
    "model_id": "meta-llama/Llama-3.1-8B-Instruct",
    "tokenizer_id": "meta-llama/Llama-3.1-8B-Instruct",
    "num_prompts": 4,
    "request_rate": "inf",
    "burstiness": 1.0,
    "max_concurrency": 1,
    "duration": 4.4,
    "completed": 4,
    "failed": 0,
    "total_input_tokens": 2000,
    "total_output_tokens": 404,
    "request_throughput": 0.909,
    "output_throughput": 91.8,
    "total_token_throughput": 546.4,
    "mean_ttft_ms": 41.0,
    "median_ttft_ms": 40.0,
    "mean_tpot_ms": 10.5,
    "median_tpot_ms": 10.0,
    "mean_e2el_ms": 1090.0,
    "median_e2el_ms": 1080.0,
}
LATENCY: dict[str, Any] = {
    "avg_latency": 1.3,
    "latencies": [1.2, 1.2, 1.5],
    "percentiles": {"10": 1.2, "25": 1.2, "50": 1.25, "75": 1.4, "90": 1.5, "99": 1.5},
}
THROUGHPUT: dict[str, Any] = {
    "elapsed_time": 8.0,
    "num_requests": 32,
    "total_num_tokens": 32 * 640,
    "requests_per_second": 4.0,
    "tokens_per_second": 2560.0,
}


def statistics(**values: float) -> dict[str, Any]:
    """guidellm: a distribution by outcome."""
    return {"successful": {"mean": 0.0, "median": 0.0, **values}, "errored": {"mean": 0.0}, "total": {"mean": 0.0}}


def benchmark(concurrency: float, **metrics: Any) -> dict[str, Any]:
    return {
        "type_": "generative_benchmark",
        "config": {"strategy": {"type_": "synchronous" if concurrency <= 1 else "concurrent"}},
        "metrics": {
            "request_totals": {"successful": 10, "errored": 0, "incomplete": 0, "total": 10},
            "request_concurrency": statistics(mean=concurrency),
            "request_latency": statistics(median=0.75, mean=0.8),
            "prompt_token_count": statistics(mean=700.0),
            "output_token_count": statistics(mean=65.0),
            "time_to_first_token_ms": statistics(median=90.0, mean=95.0),
            "inter_token_latency_ms": statistics(median=10.3, mean=10.4),
            **metrics,
        },
    }


GUIDE: dict[str, Any] = {
    "metadata": {"version": 2, "guidellm_version": "0.5"},
    "config": {},
    "benchmarks": [benchmark(1.0), benchmark(8.2)],
}


def metric(unit: str, **values: float) -> dict[str, Any]:
    return {"unit": unit, **values}


AIPERF: dict[str, Any] = {
    "schema_version": "1.0",
    "aiperf_version": "0.13.0",
    "request_throughput": metric("requests/sec", avg=2.0),
    "request_latency": metric("ms", avg=490.0, p50=480.0),
    "request_count": metric("requests", avg=20.0),
    "time_to_first_token": metric("ms", avg=60.0, p50=55.0),
    "inter_token_latency": metric("ms", avg=8.6, p50=8.5),
    "input_sequence_length": metric("tokens", avg=300.0),
    "output_sequence_length": metric("tokens", avg=51.0),
    "input_config": {"endpoint": {"model_names": ["llama-3.1-8b"]}},
    "was_cancelled": False,
}


def target(seconds: float, **more: Any) -> dict[str, Any]:
    latency = {"unit": "s", "values": [seconds], "count": 1, "total": seconds, "mean": seconds, "p50": seconds}
    return {"memory": None, "latency": latency, "throughput": None, "energy": None, "efficiency": None, **more}


# decode: 4 sequences × 31 steps = 124 tokens in 0.62 s, 200 tokens/s
REPORT: dict[str, Any] = {
    "load_model": target(4.0),
    "first_generate": target(2.0),
    "generate": None,
    "prefill": target(0.05),
    "decode": target(0.62, throughput={"unit": "tokens/s", "value": 200.0}),
}
OPTIMUM: dict[str, Any] = {
    "config": {
        "name": "x",
        "backend": {"name": "pytorch", "model": "meta-llama/Llama-3.1-8B"},
        "scenario": {
            "name": "inference",
            "input_shapes": {"batch_size": 4, "sequence_length": 256},
            "generate_kwargs": {"max_new_tokens": 32, "min_new_tokens": 32},
        },
    },
    "report": REPORT,
}


def read(tmp_path: Path, data: Any, **given: Any) -> Imported:
    path = tmp_path / "result.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    workload = given.pop("workload", None)
    return import_file(path, {**RUN, **given, **({"workload": workload} if workload else {})})


def clocks(imported: Imported) -> dict[str, Any]:
    return {timing.id.removeprefix("result/"): (timing.value_s, timing.stages) for timing in imported.timings}


def test_vllm_serve(tmp_path: Path) -> None:
    """Four requests of 1.08 s in 4.4 s: 0.98 in flight, so all three clocks are those of one request."""
    imported = read(tmp_path, SERVE)
    assert imported.tool == "vllm bench serve"
    assert clocks(imported) == {"ttft": (0.04, FIRST), "e2e": (1.08, (*FIRST, "decode")), "tpot": (0.01, "tpot")}
    run = imported.timings[0].run
    assert run["workload"] == {"text_tokens": 500, "new_tokens": 101, "batch": 1}
    assert (run["model"], run["stack"], imported.timings[0].stack) == ("llama-3.1-8b", "vllm", "vllm")
    assert all(row.predicted > 0 for row in join(imported.timings))


def test_vllm_serve_under_load(tmp_path: Path) -> None:
    """64 requests of 2 s each in 8 s: 16 in flight. A decode step of 16 is left; a first token holds queueing."""
    data = {**SERVE, "completed": 64, "total_input_tokens": 32000, "total_output_tokens": 6464, "duration": 8.0}
    imported = read(tmp_path, {**data, "median_e2el_ms": 2000.0, "max_concurrency": None, "failed": 2})
    assert clocks(imported) == {"tpot": (0.01, "tpot")}
    assert imported.timings[0].run["workload"]["batch"] == 16
    assert imported.timings[0].trust == "low"
    assert any("16 in flight" in note for note in imported.notes)
    assert "2 of 66 requests failed" in imported.notes


def test_vllm_serve_without_percentiles_takes_means(tmp_path: Path) -> None:
    data = {key: value for key, value in SERVE.items() if not key.startswith("median")}
    assert clocks(read(tmp_path, data))["ttft"] == (0.041, FIRST)


def test_vllm_serve_detailed(tmp_path: Path) -> None:
    """Lists alone: medians over the requests that did not fail (TTFT 50 ms, steps of 10 and 12 ms)."""
    data = {key: value for key, value in SERVE.items() if not key.startswith(("median", "mean"))}
    data |= {
        "input_lens": [400, 500, 600, 500],
        "output_lens": [3, 3, 3, 0],
        "ttfts": [0.05, 0.05, 0.06, 0.0],
        "itls": [[0.01, 0.01], [0.012, 0.012], [0.011, 0.011], []],
        "errors": ["", "", "", "connection reset"],
        "generated_texts": ["a", "b", "c", ""],
    }
    imported = read(tmp_path, data)
    assert clocks(imported)["tpot"] == (pytest.approx(0.011), "tpot")
    assert any("input_lens from 400 to 600" in note for note in imported.notes)


def test_vllm_latency(tmp_path: Path) -> None:
    imported = read(tmp_path, LATENCY, workload={"batch": 8, "text_tokens": 32, "new_tokens": 128})
    assert clocks(imported) == {"e2e": (1.25, (*FIRST, "decode"))}
    assert imported.timings[0].trust == "high"


def test_vllm_throughput(tmp_path: Path) -> None:
    """640 tokens a request, 128 of them new: 512 in the prompt."""
    imported = read(tmp_path, THROUGHPUT, workload={"batch": 32, "new_tokens": 128})
    assert clocks(imported) == {"e2e": (8.0, (*FIRST, "decode"))}
    assert imported.timings[0].run["workload"] == {"text_tokens": 512, "batch": 32, "new_tokens": 128}


def test_guidellm(tmp_path: Path) -> None:
    """One operating point a benchmark: all clocks of a synchronous one, the decode step of a concurrent one."""
    imported = read(tmp_path, GUIDE)
    assert set(clocks(imported)) == {
        "0-synchronous/ttft",
        "0-synchronous/e2e",
        "0-synchronous/tpot",
        "1-concurrent/tpot",
    }
    assert clocks(imported)["0-synchronous/e2e"][0] == 0.75
    assert clocks(imported)["0-synchronous/ttft"][0] == pytest.approx(0.09)
    assert [row.run["workload"]["batch"] for row in imported.timings] == [1, 1, 1, 8]


def test_guidellm_with_images(tmp_path: Path) -> None:
    """700 prompt tokens, 576 of them an image of 336 × 336: 124 are text."""
    image = {
        "tokens": statistics(mean=576.0),
        "images": statistics(mean=1.0),
        "pixels": statistics(mean=336.0**2),
        "bytes": statistics(mean=1e4),
    }
    imported = read(tmp_path, {**GUIDE, "benchmarks": [benchmark(1.0, image=image)]}, model="llava-1.5-7b")
    expected = {"text_tokens": 124, "images": 1, "image_size": 336, "new_tokens": 65, "batch": 1}
    assert imported.timings[0].run["workload"] == expected
    assert imported.timings[0].stages == ("vision", "projector", "merge", "prefill")
    assert any("576 visual tokens" in note for note in imported.notes)


def test_aiperf(tmp_path: Path) -> None:
    """2 requests a second of 0.49 s: 0.98 in flight. The one model that it names is a name here, so it is taken."""
    path = tmp_path / "profile_export_aiperf.json"
    path.write_text(json.dumps(AIPERF))
    imported = import_file(path, {"hardware": "nvidia_h100_sxm", "stack": "vllm"})
    assert [timing.value_s for timing in imported.timings] == pytest.approx([0.055, 0.48, 0.0085])
    assert imported.timings[0].run["model"] == "llama-3.1-8b"


def test_optimum_benchmark(tmp_path: Path) -> None:
    """Prefill is a first token; decode's 0.62 s are 31 steps."""
    imported = read(tmp_path, OPTIMUM, stack="transformers")
    assert clocks(imported) == {"ttft": (0.05, FIRST), "tpot": (pytest.approx(0.02), "tpot")}
    assert imported.timings[0].run["workload"] == {"batch": 4, "text_tokens": 256, "new_tokens": 32}
    alone = read(tmp_path, REPORT, workload={"batch": 4, "text_tokens": 256, "new_tokens": 32})
    assert clocks(alone) == clocks(imported)


def point(**changes: Any) -> dict[str, Any]:
    return {**GUIDE, "benchmarks": [benchmark(1.0, **changes)]}


@pytest.mark.parametrize(
    ("data", "given", "said"),
    [
        ("[]", {}, "must hold a mapping"),
        ("{", {}, "not JSON"),
        ({"a": 1}, {}, "not a result file that aimcost reads (vllm bench serve"),
        ({**SERVE, "completed": 0}, {}, "no request completed"),
        ({**SERVE, "completed": "4"}, {}, "completed must be a finite number (got '4')"),
        ({**SERVE, "median_ttft_ms": float("nan")}, {}, "median_ttft_ms must be a finite number"),
        ({**SERVE, "median_ttft_ms": -1}, {}, "median_ttft_ms must be above zero"),
        ({**SERVE, "request_rate": "fast"}, {}, "request_rate must be a number or 'inf'"),
        ({**SERVE, "total_input_tokens": None}, {}, "total_input_tokens and total_output_tokens must be given"),
        ({**SERVE, "ttfts": [0.1], "itls": [], "errors": []}, {}, "must be lists of one length"),
        (SERVE, {"model": None}, "'model' must be given"),
        (SERVE, {"model": None}, "(the file says 'meta-llama/Llama-3.1-8B-Instruct')"),
        (SERVE, {"hardware": None}, "'hardware' must be given: the file does not name the GPU"),
        (SERVE, {"stack": None}, "'stack' must be given: the file does not name the software"),
        (LATENCY, {}, "'batch' must be given: vllm bench latency does not record it"),
        (LATENCY, {"workload": {"batch": 8, "text_tokens": 32}}, "'new_tokens' must be given"),
        ({**LATENCY, "avg_latency": None, "percentiles": {}}, {}, "avg_latency must be given"),
        (THROUGHPUT, {}, "'batch' must be given: 32 to take its 32 requests as one batch"),
        (THROUGHPUT, {"workload": {"batch": 8, "new_tokens": 8}}, "'batch' must be 32, the requests of the file"),
        (THROUGHPUT, {"workload": {"batch": 32, "new_tokens": 640}}, "under the 640 tokens a request"),
        ({**GUIDE, "benchmarks": []}, {}, "benchmarks is empty"),
        ({**GUIDE, "benchmarks": [3]}, {}, "benchmarks.0 must be a mapping"),
        (point(request_totals={"successful": 0}), {}, "benchmark 0: no request succeeded"),
        (point(prompt_token_count={}), {}, "prompt_token_count, output_token_count and request_concurrency"),
        ({**AIPERF, "was_cancelled": True}, {}, "the benchmark was cancelled"),
        ({**AIPERF, "time_to_first_token": {"unit": "ticks", "p50": 3}}, {}, "time_to_first_token.unit must be one of"),
        ({**AIPERF, "request_count": None}, {}, "no request completed"),
        (REPORT, {}, "'batch' must be given: the report does not record it (benchmark.json beside it does)"),
        (OPTIMUM, {"workload": {"new_tokens": 64}}, "32 at batch 4: decode's throughput counts 124 tokens"),
        ({"forward": target(0.1)}, {"workload": {"batch": 1}}, "has neither prefill nor decode nor generate"),
        ({"prefill": {"latency": {"unit": "ms", "mean": 3}}}, {"workload": {"batch": 1}}, "latency.unit must be 's'"),
    ],
)
def test_what_is_missing_or_malformed_is_one_line(tmp_path: Path, data: Any, given: dict[str, Any], said: str) -> None:
    path = tmp_path / "result.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    run = {key: value for key, value in {**RUN, **given}.items() if value is not None}
    with pytest.raises(AimcostError) as caught:
        import_file(path, run)
    assert said in str(caught.value)
    assert "result.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_imported_rows_are_timing_files(tmp_path: Path) -> None:
    imported = read(tmp_path, SERVE)
    path = tmp_path / "mine.jsonl"
    path.write_text(timing_lines(imported.timings))
    assert load_timings([path]).requests == imported.timings


def test_one_clock_alone(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(SERVE))
    assert [timing.quantity for timing in import_file(path, RUN, quantity="tpot").timings] == ["tpot"]
    with pytest.raises(UnknownNameError, match="unknown quantity 'prefill'"):
        import_file(path, RUN, quantity="prefill")


def test_imported_clocks_make_a_stack(tmp_path: Path, cli: Any) -> None:
    """First tokens of 500 and of 16,000 tokens, slower than the stack `vllm` has them: a stack file of one's own."""
    for name, seconds in (("short", 0.07), ("long", 0.6)):
        tokens = 4000 * 500 if name == "short" else 4000 * 16000
        data = {**SERVE, "completed": 4000, "total_input_tokens": tokens, "total_output_tokens": 4000 * 101}
        data |= {"median_ttft_ms": seconds * 1e3, "median_e2el_ms": 2000.0, "duration": 4000 * 2.0}
        (tmp_path / f"{name}.json").write_text(json.dumps(data))
        flags = ("--model", "llama-3.1-8b", "--hardware", "nvidia_h100_sxm", "--stack", "vllm", "--quantity", "ttft")
        assert cli("import", f"{name}.json", *flags, "-o", f"{name}.jsonl").returncode == 0
    made = cli("calibrate-stack", "short.jsonl", "long.jsonl", "-o", "mine.yaml")
    assert made.returncode == 0, made.stderr
    flags = ("--model", "llama-3.1-8b", "--hardware", "nvidia_h100_sxm", "--text-tokens", "500", "--json")
    before, after = (cli("estimate", *flags, "--stack", stack) for stack in ("vllm", "./mine.yaml"))
    assert after.returncode == 0, after.stderr
    first, second = (json.loads(done.stdout)["totals"]["time_s"] for done in (before, after))
    assert second == pytest.approx(0.07, rel=0.15)
    assert abs(second - 0.07) < abs(first - 0.07)


def test_the_command(tmp_path: Path, cli: Any) -> None:
    """`aimcost import` prints the comparison, and writes rows that `aimcost evidence` takes."""
    (tmp_path / "result.json").write_text(json.dumps(SERVE))
    missing = cli("import", "result.json", "--model", "llama-3.1-8b", "--hardware", "nvidia_h100_sxm")
    assert missing.returncode == 2
    assert "'--stack' must be given" in missing.stderr
    flags = ("--model", "llama-3.1-8b", "--hardware", "nvidia_h100_sxm", "--stack", "vllm")
    for again in ("result.json", "./result.json", str(tmp_path / "result.json")):
        twice = cli("import", "result.json", again, *flags, "-o", "mine.jsonl")
        assert twice.returncode == 2
        assert f"'FILE' must be another file: it is given twice (got '{Path(again)}')" in twice.stderr
    assert not (tmp_path / "mine.jsonl").exists()
    done = cli("import", "result.json", *flags, "-o", "mine.jsonl")
    assert done.returncode == 0, done.stderr
    assert "priced under stack vllm" in done.stdout
    shown = cli("evidence", "mine.jsonl", "--json")
    assert shown.returncode == 0, shown.stderr
    rows = json.loads(shown.stdout)["rows"]
    assert [(row["id"], row["published_s"]) for row in rows] == [
        ("result/ttft", 0.04),
        ("result/e2e", 1.08),
        ("result/tpot", 0.01),
    ]
