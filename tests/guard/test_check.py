"""`aimcost check`: regressions put in on purpose are caught, and laid at the right door."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

import aimcost
from aimcost.errors import AimcostError, FileFormatError, InvalidValueError, UnknownNameError
from aimcost.guard.baseline import load_baseline, save_baseline, to_text, unchanged
from aimcost.guard.check import RunCheck, check, parse_tolerances
from aimcost.inputs import discover
from aimcost.inputs.hardware import load_hardware
from aimcost.inputs.run import load_run
from aimcost.pricing import facts
from aimcost.report.guard import check_json, check_junit, check_markdown, check_text

MODEL = {
    "model_type": "llama",
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 4096,
}
MACHINE = {"name": "round", "memory_gb_per_s": 1000, "dense_tflops": {"fp16": 100}, "memory_gb": 40}
RUN = {
    "model": MODEL,
    "workload": {"visual_tokens": 600, "text_tokens": 40, "new_tokens": 5},
    "method": {"name": "aim", "merge_ratio": 1.0, "l1": 2, "l2": 5},
    "hardware": MACHINE,
    "estimator": "roofline",
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """The run with one key changed."""
    run = json.loads(json.dumps(RUN))
    *parents, last = path.split("/")
    inner = run
    for key in parents:
        inner = inner.setdefault(key, {})
    inner[last] = value
    return run


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with run.yaml and a baseline of it."""
    monkeypatch.chdir(tmp_path)
    write(RUN)
    check(["run.yaml"], baseline="base.json", update=True)
    return tmp_path


def write(run: dict[str, Any]) -> None:
    Path("run.yaml").write_text(yaml.safe_dump(run), encoding="utf-8")


def checked(run: dict[str, Any], **options: Any) -> RunCheck:
    write(run)
    (only,) = check(["run.yaml"], baseline="base.json", **options).runs
    return only


def test_what_did_not_change_holds(place: Path) -> None:
    run = checked(RUN)
    assert run.ok
    assert not run.causes
    assert not run.moved
    assert {change.status for change in run.changes} == {"same"}


def test_one_layer_later_is_a_change_of_schedule(place: Path) -> None:
    run = checked(changed("method/l1", 3))
    assert not run.ok
    assert [cause.kind for cause in run.causes] == ["schedule"]
    assert "l1 2 → 3 (+50.00%)" in run.causes[0].text
    # layers 3 and 4 now compute on more; none before or after does
    grown = {op.name: op.layers for op in run.moved if op.stage == "prefill" and op.delta_s > 0}
    assert grown["gate_proj"] == "3–4"
    # later layers decode against the same cache: it grew where the prompt did
    assert {op.layers for op in run.moved if op.stage == "decode"} == {"3–4"}
    assert {c.metric for c in run.changes if c.status == "worse"} >= {"flops", "ttft", "kv"}


def test_a_lost_fusion_is_a_change_of_settings_and_names_the_kernels(place: Path) -> None:
    run = checked(changed("implementation", "eager"))
    assert not run.ok
    assert [cause.kind for cause in run.causes] == ["settings"]
    assert "implementation fused → eager" in run.causes[0].text
    new = {op.name: op.layers for op in run.moved if op.delta_s > 0 and op.stage == "prefill"}
    # the layers that AIM scores run eager: where they cut
    assert new["qk_matmul"] == new["softmax"] == new["sv_matmul"] == "2–4"
    fused = next(op for op in run.moved if op.stage == "prefill" and op.name == "fused_attention")
    assert fused.delta_s < 0
    assert fused.layers == "2–4"


def test_a_slower_profile_is_caught_at_three_per_cent(place: Path) -> None:
    run = checked(changed("hardware/memory_gb_per_s", 970))
    assert [cause.kind for cause in run.causes] == ["profile"]
    assert "memory_bytes_per_s 1000000000000 → 970000000000 (-3.00%)" in run.causes[0].text
    by_metric = {change.metric: change for change in run.changes}
    assert by_metric["tpot"].relative == pytest.approx(1 / 0.97 - 1, rel=1e-3)
    assert by_metric["flops"].status == by_metric["kv"].status == "same"
    assert not any(op.flops[0] != op.flops[1] for op in run.moved)


def test_a_calibrated_profile_is_watched_with_its_tables(place: Path) -> None:
    own, name = Path(__file__).resolve().parent.parent.parent / "hardware_profiles", "nvidia_a100_sxm_80gb"
    Path("tables").mkdir()
    table = Path("tables") / f"{name}.json"
    table.write_text((own / "tables" / f"{name}.json").read_text(encoding="utf-8"), encoding="utf-8")
    card = yaml.safe_load((own / f"{name}.yaml").read_text(encoding="utf-8"))
    run = {**changed("hardware", "./card.yaml"), "estimator": "calibrated"}

    def put_card(**values: Any) -> None:
        Path("card.yaml").write_text(yaml.safe_dump({**card, **values}, sort_keys=False), encoding="utf-8")

    put_card()
    write(run)
    check(["run.yaml"], baseline="card.json", update=True)
    assert not check(["run.yaml"], baseline="card.json").runs[0].causes
    put_card(memory_gb_per_s=card["memory_gb_per_s"] * 0.97)
    (slower,) = check(["run.yaml"], baseline="card.json").runs
    assert [cause.kind for cause in slower.causes] == ["profile"]
    assert "memory_bytes_per_s" in slower.causes[0].text
    assert next(c for c in slower.changes if c.metric == "tpot").status == "worse"
    put_card()
    table.write_text(table.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    os.utime("card.yaml")
    (edited,) = check(["run.yaml"], baseline="card.json").runs
    assert edited.ok
    assert "calibration.tables" in edited.causes[0].text


def test_a_bigger_vocabulary_is_a_change_of_model_in_lm_head(place: Path) -> None:
    run = checked(changed("model/vocab_size", 8192))
    assert [cause.kind for cause in run.causes] == ["model"]
    assert run.causes[0].text == "model: decoder.vocab 4096 → 8192 (+100.00%)"
    assert {op.name for op in run.moved} == {"lm_head"}
    assert {change.metric for change in run.changes if change.status == "worse"} >= {"flops", "tpot", "memory"}


def test_a_bigger_workload_is_no_regression_of_the_model(place: Path) -> None:
    run = checked(changed("workload/batch", 2))
    assert [cause.kind for cause in run.causes] == ["workload"]
    assert "batch 1 → 2" in run.causes[0].text


def test_a_changed_formula_is_found_by_elimination(
    place: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    from aimcost.models import decoder
    from aimcost.pricing import operations

    before = decoder.head_ops

    def dearer(*given: Any, **more: Any) -> Any:
        for op, cost in before(*given, **more):
            yield op, replace(cost, flops=cost.flops * 2) if op.name == "lm_head" else cost

    monkeypatch.setattr(decoder, "head_ops", dearer)
    operations.forget()
    request.addfinalizer(operations.forget)
    run = checked(RUN)
    assert not run.ok
    assert [cause.kind for cause in run.causes] == ["formula"]
    assert {op.name for op in run.moved} == {"lm_head"}
    # it does not hide behind a change of schedule or profile
    for other, kind in (("method/l1", "schedule"), ("hardware/memory_gb_per_s", "profile")):
        run = checked(changed(other, {"schedule": 3, "profile": 970}[kind]))
        assert [cause.kind for cause in run.causes] == [kind, "formula"]
        assert "FLOPs of lm_head" in run.causes[1].text


def test_an_op_that_chooses_tokens_is_known_by_its_group(
    place: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """A method may call its op as it likes: with l1 = 3 layer 2 ranks no longer, on the same tokens."""
    from aimcost.pricing import operations

    named = operations.reduction_ops

    def renamed(*given: Any) -> Any:
        return tuple(("appraise" if name == "score" else name, cost) for name, cost in named(*given))

    monkeypatch.setattr(operations, "reduction_ops", renamed)
    operations.forget()
    request.addfinalizer(operations.forget)
    check(["run.yaml"], baseline="base.json", update=True)
    run = checked(changed("method/l1", 3))
    assert "appraise" in {op.name for op in run.moved}
    assert [cause.kind for cause in run.causes] == ["schedule"]
    # and without its scorer it is gone
    run = checked(changed("method", {"name": "none"}))
    assert "appraise" in {op.name for op in run.moved if op.kind == "gone"}
    assert [cause.kind for cause in run.causes] == ["schedule"]


def test_what_a_change_would_move(place: Path) -> None:
    write(RUN)
    (run,) = check(["run.yaml"], baseline="base.json", overrides={"method.l1": 3}).runs
    assert [cause.kind for cause in run.causes] == ["schedule"]
    with pytest.raises(InvalidValueError, match="'overrides'"):
        check(["run.yaml"], baseline="base.json", update=True, overrides={"method.l1": 3})


def test_two_changes_are_both_named(place: Path) -> None:
    run = changed("method/l1", 3)
    run["model"]["vocab_size"] = 8192
    assert [cause.kind for cause in checked(run).causes] == ["model", "schedule"]


def test_what_falls_holds_unless_strict(place: Path) -> None:
    better = changed("method/l2", 4)
    assert checked(better).ok
    assert {change.status for change in checked(better).changes} >= {"better"}
    assert not checked(better, strict=True).ok


def test_tolerances_are_relative_and_by_metric(place: Path) -> None:
    later = changed("method/l1", 3)
    rise = {change.metric: change.relative for change in checked(later).changes}
    assert rise["ttft"] is not None
    roomy = {"flops": 1.0, "kv": 1.0, "memory": 1.0, "tpot": 1.0, "ttft": rise["ttft"] * 1.01}
    assert checked(later, tolerances=roomy).ok
    assert not checked(later, tolerances={**roomy, "ttft": rise["ttft"] * 0.99}).ok
    assert checked(later, tolerances={"all": 1.0}).ok


@pytest.mark.parametrize(("text", "value"), [("ttft=1%", 0.01), ("ttft=0.01", 0.01), ("ttft = 0", 0.0)])
def test_tolerances_as_text(text: str, value: float) -> None:
    assert parse_tolerances([text]) == {"ttft": value}
    assert parse_tolerances(["3 %"]) == {"all": pytest.approx(0.03)}


@pytest.mark.parametrize("text", ["ttft=-1%", "ttft=200%", "ttft=", "ttft=nan", "ttft=x", "=", ""])
def test_tolerances_that_cannot_be(text: str) -> None:
    with pytest.raises((InvalidValueError, UnknownNameError)):
        parse_tolerances([text])


@pytest.mark.parametrize(("budgets", "include"), [({"max_tpot_ms": 9.0}, None), ({"max_ttft_ms": 9.0}, ["decode"])])
def test_a_budget_on_what_the_run_does_not_have_is_refused(place: Path, budgets: Any, include: Any) -> None:
    run = {**RUN, "budgets": budgets, "workload": {**RUN["workload"], "new_tokens": 5 if include else 0}}
    write({**run, "include": include} if include else run)
    with pytest.raises(InvalidValueError, match=r"budgets\.max_t"):
        check(["run.yaml"])


def test_a_run_that_begins_to_decode_has_not_grown_slower(place: Path) -> None:
    write(changed("workload/new_tokens", 0))
    check(["run.yaml"], baseline="quiet.json", update=True)
    write(RUN)
    (run,) = check(["run.yaml"], baseline="quiet.json").runs
    (tpot,) = (change for change in run.changes if change.metric == "tpot")
    assert (tpot.status, tpot.before) == ("new", None)
    write(changed("workload/new_tokens", 0))
    assert check(["run.yaml"], baseline="quiet.json").ok


def test_another_card_is_named(place: Path) -> None:
    run = checked({**RUN, "hardware": {**MACHINE, "name": "square", "memory_gb_per_s": 900}})
    (cause,) = (cause for cause in run.causes if cause.kind == "profile")
    assert cause.details == ("name round → square",)


def test_budgets_stand_in_the_run_file(place: Path) -> None:
    run = {**RUN, "budgets": {"max_ttft_ms": 1e-3, "max_memory_gb": 39.0, "max_tflops": 1.0}}
    write(run)
    result = check(["run.yaml"])
    assert not result.ok
    assert {b.key: b.ok for b in result.runs[0].budgets} == {
        "max_ttft_ms": False,
        "max_memory_gb": True,
        "max_tflops": True,
    }
    assert "max_ttft_ms" in check_text(result)
    write(RUN)
    with pytest.raises(InvalidValueError, match="baseline"):
        check(["run.yaml"])


def test_a_run_that_the_baseline_lacks_fails(place: Path) -> None:
    Path("other.yaml").write_text(yaml.safe_dump(RUN), encoding="utf-8")
    result = check(["other.yaml"], baseline="base.json")
    assert not result.ok
    check(["other.yaml"], baseline="base.json", update=True)
    assert [run.run for run in check([], baseline="base.json").runs] == ["other.yaml", "run.yaml"]


def test_the_baseline_is_one_text_for_one_content(place: Path) -> None:
    first = Path("base.json").read_bytes()
    check(["run.yaml"], baseline="base.json", update=True)
    assert Path("base.json").read_bytes() == first
    held = load_baseline("base.json")
    shuffled = {name: dict(reversed(entry.items())) for name, entry in held["runs"].items()}
    save_baseline("again.json", shuffled, held["written_by"])
    assert Path("again.json").read_bytes() == first
    assert json.loads(first) == json.loads(to_text(json.loads(first)))


def test_last_bits_change_nothing(place: Path) -> None:
    """A machine that sums in another order rewrites no line and raises no alarm."""
    held = load_baseline("base.json")
    entry = held["runs"]["run.yaml"]
    nudged = json.loads(json.dumps(entry))
    for figure, value in nudged["figures"].items():
        nudged["figures"][figure] = value * (1 + 1e-9)
    for rows in nudged["operations"].values():
        for row in rows:
            row[4] *= 1 - 1e-9
    del nudged["sha"]
    assert unchanged(entry, nudged)
    before = {"run.yaml": nudged}
    save_baseline("base.json", before, held["written_by"])
    text = Path("base.json").read_bytes()
    assert checked(RUN).ok
    check(["run.yaml"], baseline="base.json", update=True)
    assert Path("base.json").read_bytes() == text
    nudged["figures"]["ttft_s"] *= 1.001
    assert not unchanged(entry, nudged)


def damaged(text: str) -> dict[str, str]:
    data = json.loads(text)
    entry = data["runs"]["run.yaml"]

    def without(*keys: str) -> str:
        copy = json.loads(text)
        inner = copy
        for key in keys[:-1]:
            inner = inner[key]
        del inner[keys[-1]]
        return json.dumps(copy)

    flops = str(entry["figures"]["flops"])
    return {
        "empty": "",
        "truncated": text[: len(text) // 2],
        "no object": "[]",
        "a figure edited": text.replace(f'"flops": {flops}', f'"flops": {int(flops) + 1000}', 1),
        "a NaN": text.replace(f'"flops": {flops}', '"flops": NaN', 1),
        "a negative": text.replace(f'"flops": {flops}', f'"flops": -{flops}', 1),
        "merge markers": "<<<<<<< ours\n" + text,
        "a key twice": text.replace('"schema_version": 1', '"schema_version": 1,\n "schema_version": 1'),
        "another version": text.replace('"schema_version": 1', '"schema_version": 2'),
        "version as text": text.replace('"schema_version": 1', '"schema_version": "1"'),
        "no runs": without("runs"),
        "no figures": without("runs", "run.yaml", "figures"),
        "no digest": without("runs", "run.yaml", "digests", "model"),
        "no sha": without("runs", "run.yaml", "sha"),
        "another key": text.replace('"figures"', '"figure"', 1),
        "runs no mapping": json.dumps({**data, "runs": []}),
        "entry no mapping": json.dumps({**data, "runs": {"run.yaml": 3}}),
        "operations no lists": json.dumps({**data, "runs": {"run.yaml": {**entry, "operations": {"a/b": 3}}}}),
        "nested": "[" * 100_000,
    }


@pytest.mark.parametrize("update", [False, True])
def test_a_damaged_baseline_is_refused_and_never_overwritten(place: Path, update: bool) -> None:
    good = Path("base.json").read_text(encoding="utf-8")
    for what, text in damaged(good).items():
        assert text != good, what
        Path("base.json").write_text(text, encoding="utf-8")
        with pytest.raises(FileFormatError) as caught:
            check(["run.yaml"], baseline="base.json", update=update)
        assert caught.value.exit_code == 2
        assert str(caught.value).startswith("base.json"), what
        assert "\n" not in str(caught.value)
        assert Path("base.json").read_text(encoding="utf-8") == text, what
    for content, why in ((b"\xff\xfe", "base.json: is not UTF-8 text"), (b"{\x00", "base.json: is a binary file")):
        Path("base.json").write_bytes(content)
        with pytest.raises(FileFormatError, match=why):
            check(["run.yaml"], baseline="base.json", update=update)


@pytest.mark.parametrize(
    "rows", [[[0, 100_000, 1.0, 1.0, 1.0]] * 11, [[0, 10**9, 1.0, 1.0, 1.0]], [[3, 1, 1.0, 1.0, 1.0]]]
)
def test_runs_of_layers_without_end_are_refused_before_they_are_written_out(place: Path, rows: list[Any]) -> None:
    """A baseline of 23 kB stood for gigabytes; a digest that matches lets it past every other check."""
    held = load_baseline("base.json")["runs"]
    entry = {key: value for key, value in held["run.yaml"].items() if key != "sha"}
    entry["operations"]["prefill/q_proj"] = rows
    save_baseline("base.json", {"run.yaml": entry}, "test")
    with pytest.raises(FileFormatError, match="operations"):
        check(["run.yaml"], baseline="base.json")


def test_a_run_that_cannot_be_priced_leaves_the_baseline_alone(place: Path) -> None:
    good = Path("base.json").read_bytes()
    write(changed("model/vocab_size", -1))
    with pytest.raises(AimcostError):
        check(["run.yaml"], baseline="base.json", update=True)
    assert Path("base.json").read_bytes() == good
    assert os.listdir(place).count("base.json") == 1
    assert not [name for name in os.listdir(place) if name.endswith(".tmp")]


def test_a_baseline_that_is_not_there(place: Path) -> None:
    with pytest.raises(FileFormatError, match="update"):
        check(["run.yaml"], baseline="none.json")
    with pytest.raises(InvalidValueError, match="baseline"):
        check(["run.yaml"], update=True)


def test_reports_name_the_operation_and_the_cause(place: Path) -> None:
    write(changed("model/vocab_size", 8192))
    result = check(["run.yaml"], baseline="base.json")
    for text in (check_text(result), check_markdown(result), check_junit(result)):
        assert "lm_head" in text
        assert "decoder.vocab 4096 → 8192" in text
    suite = ElementTree.fromstring(check_junit(result).encode())
    assert suite.attrib["tests"] == str(len(suite)) == "5"
    failed = [case.attrib["name"] for case in suite if len(case)]
    assert suite.attrib["failures"] == str(len(failed))
    assert set(failed) == {"flops", "ttft", "tpot", "memory"}
    assert json.loads(json.dumps(check_json(result)))["runs"][0]["causes"][0]["kind"] == "model"


def test_reports_take_odd_names(place: Path) -> None:
    Path('a <b> & "c|d".yaml').write_text(yaml.safe_dump(RUN), encoding="utf-8")
    result = check(['a <b> & "c|d".yaml'], baseline="base.json")
    suite = ElementTree.fromstring(check_junit(result).encode())
    assert suite[0].attrib["classname"] == 'a <b> & "c|d".yaml'


def test_a_field_that_is_off_is_no_fact() -> None:
    """So that a version that adds one does not change every digest."""
    run = load_run(RUN)
    kept = facts.run_facts(run)
    assert "decoder.qk_norm" not in kept["model"]
    assert kept["model"]["decoder.vocab"] == 4096
    assert not [key for part in ("model", "hardware", "settings") for key, value in kept[part].items() if not value]
    long = facts.hardware_facts(load_hardware("nvidia_a100_sxm_80gb"))
    assert all(len(str(value)) < 120 for value in long.values())


def test_rounding_keeps_nine_digits() -> None:
    assert facts.rounded(1.23456789012e20) == 1.23456789e20
    assert facts.rounded(2.0) == 2
    assert isinstance(facts.rounded(2.0), int)
    assert facts.rounded(1 / 3) == 0.333333333
    assert facts.rounded(0.0) == 0


def test_the_command(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(RUN), encoding="utf-8")
    assert cli("check", "run.yaml", "--baseline", "b.json", "--update").returncode == 0
    assert cli("check", "--baseline", "b.json").returncode == 0
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(changed("method/l1", 3)), encoding="utf-8")
    reports = ("--junit", "out/j.xml", "--markdown", "out/m.md")
    done = cli("check", "--baseline", "b.json", "--json", *reports)
    assert done.returncode == 1
    assert not done.stderr
    assert json.loads(done.stdout)["ok"] is False
    assert ElementTree.parse(tmp_path / "out/j.xml").getroot().attrib["failures"] != "0"
    assert (tmp_path / "out/m.md").read_text(encoding="utf-8").startswith("### aimcost check")
    (tmp_path / "b.json").write_text("{", encoding="utf-8")
    done = cli("check", "--baseline", "b.json", "--update")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert (tmp_path / "b.json").read_text(encoding="utf-8") == "{"


def test_the_job_summary(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aimcost.cli.commands.check import _append_summary

    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(place / "summary.md"))
    _append_summary("one\n")
    _append_summary("two\n")
    assert (place / "summary.md").read_text(encoding="utf-8") == "one\ntwo\n"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(place))
    with pytest.raises(FileFormatError):
        _append_summary("x")
    monkeypatch.delenv("GITHUB_STEP_SUMMARY")
    _append_summary("nowhere")


SHADOWS = [("hardware", "hardware_profiles", "nvidia_l4"), ("stack", "configs/stacks", "vllm")]


@pytest.mark.parametrize(("key", "folder", "name"), SHADOWS, ids=[key for key, *_ in SHADOWS])
def test_a_file_that_hides_a_shipped_one_is_not_taken_unseen(place: Path, key: str, folder: str, name: str) -> None:
    """A profile of twice the speed, added beside a failing budget, would let it pass."""
    run = {**changed("hardware", "nvidia_l4"), "estimator": "calibrated", key: name}
    write({**run, "budgets": {"max_ttft_ms": 1e6}})
    assert check(["run.yaml"]).ok
    shipped = Path(__file__).resolve().parents[2] / folder / f"{name}.yaml"
    (place / folder).mkdir(parents=True)
    (place / folder / f"{name}.yaml").write_text(shipped.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(InvalidValueError, match=f"run.yaml: '{key}' must be one that aimcost ships.*{folder}/{name}"):
        check(["run.yaml"])
    with pytest.raises(InvalidValueError, match="in place of the shipped file of that name"):
        check(["run.yaml"], baseline="base.json")
    check(["run.yaml"], baseline="base.json", update=True)
    assert load_baseline("base.json")["runs"]["run.yaml"]["facts"]["files"] == {key: f"{folder}/{name}.yaml"}
    assert check(["run.yaml"], baseline="base.json").ok
    (note,) = [note for note in load_run("run.yaml").notes if "in place of" in note]
    assert note.startswith(f"{key} {name} is read from {folder}/{name}.yaml")


def test_a_hidden_card_that_another_inherits_from_is_not_taken_unseen(place: Path) -> None:
    """An L4 takes the coefficients of an L40S: a file under that name changes its figures as well."""
    write({**changed("hardware", "nvidia_l4"), "estimator": "calibrated", "budgets": {"max_ttft_ms": 1e6}})
    assert check(["run.yaml"]).ok
    shipped = discover.own_root() / "hardware_profiles"
    (place / "hardware_profiles").mkdir()
    (place / "hardware_profiles/tables").symlink_to(shipped / "tables")
    text = (shipped / "nvidia_l40s.yaml").read_text(encoding="utf-8")
    (place / "hardware_profiles/nvidia_l40s.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(InvalidValueError, match=r"'hardware.inherits.nvidia_l40s' must be one that aimcost ships"):
        check(["run.yaml"])
    check(["run.yaml"], baseline="base.json", update=True)
    assert check(["run.yaml"], baseline="base.json").ok
    notes = aimcost.estimate("run.yaml").to_dict()["notes"]
    assert any(n.startswith("coefficients of nvidia_l40s are read from hardware_profiles/nvidia_l40s") for n in notes)
    # what takes none of them is not concerned
    write({**changed("hardware", "nvidia_l4"), "estimator": "roofline", "budgets": {"max_ttft_ms": 1e6}})
    assert check(["run.yaml"]).ok


def test_a_profile_of_ones_own_is_named_and_taken(place: Path) -> None:
    (place / "hardware_profiles").mkdir()
    (place / "hardware_profiles" / "mine.yaml").write_text(yaml.safe_dump({**MACHINE, "name": "mine"}))
    write({**changed("hardware", "mine"), "budgets": {"max_ttft_ms": 1e6}})
    assert check(["run.yaml"]).ok
    assert "hardware mine is read from hardware_profiles/mine.yaml" in load_run("run.yaml").notes


def test_a_file_that_is_not_the_one_read_is_not_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a checkout the project's own files come before those of $AIMCOST_PATH."""
    (place / "hardware_profiles").mkdir()
    (place / "hardware_profiles" / "nvidia_l4.yaml").write_text("name: nvidia_l4\n", encoding="utf-8")
    monkeypatch.setenv("AIMCOST_PATH", str(place))
    monkeypatch.chdir(discover.own_root())
    assert discover.not_shipped("hardware", "nvidia_l4") is None


def test_a_baseline_is_checked_from_any_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "runs").mkdir()
    (place / "elsewhere").mkdir()
    (place / "runs" / "mine.yaml").write_text(yaml.safe_dump(RUN))
    check(["runs/mine.yaml"], baseline="other.json", update=True)
    for folder in ("elsewhere", "runs"):
        monkeypatch.chdir(place / folder)
        assert check([], baseline="../other.json").ok
    (only,) = check(["mine.yaml"], baseline="../other.json").runs
    assert (only.run, only.ok) == ("runs/mine.yaml", True)
    assert [each.run for each in check([str(place / "runs/mine.yaml")], baseline=place / "other.json").runs] == [
        only.run
    ]


def test_a_failed_check_names_update(place: Path) -> None:
    write(changed("workload/text_tokens", 900))
    assert check_text(check([], baseline="base.json")).endswith(
        "1 failed; --update records the present figures, where they are meant"
    )
