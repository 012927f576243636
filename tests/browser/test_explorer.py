"""The explorer's page in a browser: its figures are those of an estimate, and it can be used by everyone."""

from __future__ import annotations

import json
import math
import random
import shlex
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api", reason="needs playwright: make test-browser")

import reference_pictures as pictures

from aimcost.inputs import discover
from aimcost.inputs.files import parse_value, read_mapping
from aimcost.inputs.run import Run, load_run
from aimcost.pricing.pricing import estimate_run
from aimcost.pricing.reproduce import as_printed
from aimcost.report.web.explore import explore_page
from aimcost.search.explorer import settings

EXACT = 1e-6
RUN = "llava_onevision_aim_a100"
# What no picture may have: marks at no place, words of a program, a chart without marks.
FAULTS = """() => {
  const found = [];
  for (const each of document.querySelectorAll(".chart svg *")) {
    for (const { name, value } of each.attributes) {
      if (/NaN|undefined|Infinity/.test(value)) found.push(`${each.tagName} ${name}=${value}`);
    }
  }
  for (const chart of document.querySelectorAll(".chart svg")) {
    if (!chart.querySelector("rect, path, circle")) found.push(`nothing in ${chart.getAttribute("aria-label")}`);
  }
  const words = document.body.innerText.match(/.{0,30}(NaN|undefined|Infinity|\\[object).{0,30}/g);
  return [...found, ...(words ?? [])];
}"""
OVERLAPS = """() => {
  const found = [];
  for (const chart of document.querySelectorAll(".chart svg")) {
    const box = chart.getBoundingClientRect();
    const texts = [...chart.querySelectorAll("text")].map((t) => [t.textContent, t.getBoundingClientRect()]);
    texts.forEach(([a, p], i) => {
      if (p.left < box.left - 1 || p.right > box.right + 1) found.push(`${a} leaves its chart`);
      for (const [b, q] of texts.slice(i + 1)) {
        const wide = Math.min(p.right, q.right) - Math.max(p.left, q.left);
        const high = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
        if (wide > 1 && high > 3) found.push(`${a} on ${b}`);
      }
    });
  }
  return found;
}"""


@pytest.fixture(scope="session")
def page_file(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run with four machines and stacks; few loads, so that it is soon made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings, "FRAMES", (4,))
        patch.setattr(settings, "BATCHES", (1, 4))
        patch.setattr(settings, "TEXT", (64,))
        page = explore_page([(RUN, load_run(RUN))], lambda *_: None, hardware=["nvidia_h100_sxm"], stacks=["vllm"])
    file = tmp_path_factory.mktemp("page") / "page.html"
    file.write_text(page, encoding="utf-8")
    assert len(page) < 6e6
    return file


class Opened:
    """A page that was loaded from disk without a network."""

    def __init__(self, context: Any, file: Path, fragment: str = "") -> None:
        self.problems: list[str] = []
        context.set_offline(True)
        self.page = context.new_page()
        self.page.on("console", lambda message: self._said(message))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda request: self._asked(request.url))
        self.page.goto(file.as_uri() + fragment)
        self.page.wait_for_selector("html[data-ready]")

    def _said(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(message.text)

    def _asked(self, url: str) -> None:
        if not url.startswith(("file:", "data:", "blob:")):
            self.problems.append(f"asked for {url}")

    def data(self) -> dict[str, Any]:
        return self.page.evaluate("aimcost.app.run")


@pytest.fixture(scope="module")
def opened(browser: Any, page_file: Path) -> Iterator[Opened]:
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    found = Opened(context, page_file)
    yield found
    context.close()
    assert found.problems == []


def _run_of(data: dict[str, Any], setting: dict[str, Any]) -> Run:
    """The run that a setting of the page means, from the keys that a user would write."""
    choices, context = data["settings"], data["contexts"][setting["context"]]
    text, system = choices["texts"][setting["text"]], choices["text_before"]
    changes = {
        **context["document"],
        **({f"workload.{key}": choices["loads"][setting["load"]]} if (key := choices["loads_key"]) else {}),
        "workload.batch": choices["batches"][setting["batch"]],
        "workload.text_tokens": {"system": system, "question": text - system} if system else text,
        "workload.new_tokens": setting["newTokens"],
    }
    dials = zip(choices["dials"], setting["dials"], strict=True)
    chosen = {dial["key"]: dial["values"][at] for dial, at in dials}
    method = {**choices["fixed"], **{key: value for key, value in chosen.items() if value is not None}}
    if context["convention"] != "executed":
        method["convention"] = context["convention"]
    return load_run(data["document"], changes).with_method(method)


def _random_setting(data: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    choices = data["settings"]
    return {
        "context": chance.randrange(len(data["contexts"])),
        "load": chance.randrange(len(choices["loads"])),
        "batch": chance.randrange(len(choices["batches"])),
        "text": chance.randrange(len(choices["texts"])),
        "newTokens": chance.choice([0, 1, 2, 33, choices["most_new_tokens"]]),
        "dials": [chance.randrange(len(dial["values"])) for dial in choices["dials"]],
        "preset": None,
    }


def _near(found: Any, expected: Any) -> bool:
    return math.isclose(found or 0.0, expected or 0.0, rel_tol=EXACT, abs_tol=1e-15)


def _compare(opened: Opened, settings_to_compare: int, seed: int) -> float:
    """Random settings of a page against estimates, within `EXACT`; the largest relative error."""
    data, chance, compared, worst = opened.data(), random.Random(seed), 0, 0.0
    while compared < settings_to_compare:
        setting = _random_setting(data, chance)
        found = opened.page.evaluate(
            """(setting) => {
              const reduced = aimcost.price(setting);
              return reduced && { ...reduced, gain: aimcost.gain(aimcost.price({ ...setting, dense: true }), reduced) };
            }""",
            setting,
        )
        if found is None:
            continue
        expected = estimate_run(_run_of(data, setting)).to_dict()
        pairs = _figures(found, expected)
        wrong = {name: pair for name, pair in pairs.items() if not _near(*pair)}
        assert not wrong, (setting, wrong)
        assert found["memory"]["fits"] == expected["memory"]["fits"], setting
        for mine, layer in zip(found["layers"], expected["layers"], strict=True):
            assert (mine["tokens"], mine["bound"]) == (layer["tokens"], layer["bound"]), setting
        worst = max(worst, *(abs(a / b - 1.0) for a, b in pairs.values() if a and b))
        compared += 1
    return worst


def _figures(found: dict[str, Any], expected: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Figures of the page, and of the JSON of an estimate."""
    summary, totals = expected["summary"], expected["totals"]
    tpot = found["tpot"] or {"value": None, "low": None, "high": None}
    pairs = {
        "ttft": (found["ttft"]["value"], summary["ttft_s"]),
        "tpot": (tpot["value"], summary["tpot_s"]),
        "total": (found["total"]["value"], totals["time_s"]),
        "flops": (found["flops"], totals["flops"]),
        "bytes": (found["bytes"], totals["bytes"]),
        "kv": (found["memory"]["kv_bytes"], expected["memory"]["kv_bytes"]),
        "peak": (found["memory"]["peak_bytes"], expected["memory"]["peak_bytes"]),
    }
    for end in ("low", "high"):
        pairs[f"ttft {end}"] = (found["ttft"][end], summary[f"ttft_{end}_s"])
        pairs[f"tpot {end}"] = (tpot[end], summary[f"tpot_{end}_s"])
        pairs[f"total {end}"] = (found["total"][end], totals[f"time_{end}_s"])
    if summary["ttft_speedup"] is not None:
        gained = found["gain"]
        pairs["speed-up"] = (gained["speedup"], summary["ttft_speedup"])
        pairs["speed-up low"] = (gained["low"], summary["ttft_speedup_low"])
        pairs["speed-up high"] = (gained["high"], summary["ttft_speedup_high"])
    for stage, sums in expected["stages"].items():
        if stage != "preprocess":  # not part of the totals, and not in the page
            for figure in ("time_s", "flops", "bytes"):
                pairs[f"{stage} {figure}"] = (found["stages"][stage][figure], sums[figure])
    for mine, layer in zip(found["layers"], expected["layers"], strict=True):
        pairs[f"layer {layer['index']}"] = (mine["time_s"], layer["time_s"])
    return pairs


def test_random_settings_equal_an_estimate(opened: Opened) -> None:
    """Times with their bands, stages, layers, cache and gain."""
    worst = _compare(opened, 60, seed=17)
    print(f"60 random settings, largest relative error {worst:.1e}")


IMAGE = {"model": "llava-1.5-7b", "workload": {"images": 1, "text_tokens": 60}}
NO_TOWER = {"workload": {"visual_tokens": 200, "text_tokens": 60}}


@pytest.mark.parametrize(
    "run",
    [
        # features of deep tower layers, two ranks
        {**IMAGE, "model": "qwen3-vl-8b", "method": {"name": "fastv"}, "parallel": {"tp": 2}},
        # markers around each image, which are text
        {**IMAGE, "model": "internvl3-8b", "method": {"name": "divprune"}},
        *(
            pytest.param(run, marks=pytest.mark.check_all)
            for run in (
                # experts
                {**NO_TOWER, "model": "qwen3-30b-a3b", "method": {"name": "vtw"}},
                # a tower that exposes its attention
                {**IMAGE, "method": {"name": "visionzip"}, "stack": "llava"},
                # narrow formats, merging inside the tower
                {**IMAGE, "method": {"name": "tome"}, "precision": {"weights": "int4", "kv": "fp8"}},
            )
        ),
    ],
    ids=["deepstack", "markers", "experts", "eager tower", "int4"],
)
def test_other_models_methods_and_formats(browser: Any, tmp_path: Path, run: dict[str, Any]) -> None:
    loaded = load_run({**run, "hardware": "nvidia_h100_sxm"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings, "IMAGES", (2,))
        patch.setattr(settings, "BATCHES", (4,))
        patch.setattr(settings, "TEXT", ())
        patch.setattr(settings, "MOST_SCHEDULES", 500)
        patch.setattr(settings, "MOST_NEW_TOKENS", 40)
        own = {"hardware": ["nvidia_h100_sxm"], "stacks": [loaded.stack.name]}
        page = explore_page([("run.yaml", loaded)], lambda *_: None, **own)
    file = tmp_path / "page.html"
    file.write_text(page, encoding="utf-8")
    context = browser.new_context()
    opened = Opened(context, file)
    assert opened.page.locator("#notes li").all_text_contents() == list(estimate_run(loaded).notes) != []
    _compare(opened, 8, seed=3)
    assert opened.problems == []
    context.close()


def test_presets_are_the_rows_of_the_paper(opened: Opened) -> None:
    """Each row's run by LLM-Viewer's arithmetic; the printed digits where the row reproduces them."""
    paper = read_mapping(discover.find("paper", "aim"))
    rows = {row["id"]: row for row in paper["rows"]}
    shown = list(opened.page.eval_on_selector_all("#preset option", "all => all.map((o) => o.value)"))
    expected = [
        row["id"]
        for row in paper["rows"]
        if row["run"]["model"] == "llava-onevision-qwen2-7b" and row["run"]["workload"]["frames"] in (4, 32)
    ]
    assert sorted(shown[1:]) == sorted(expected)
    for name in shown[1:]:
        opened.page.select_option("#preset", name)
        prefill = opened.page.evaluate("aimcost.app.result.reduced.stages.prefill")
        assert opened.page.locator("#stack").input_value() == "llm_viewer"
        stage = estimate_run(load_run(rows[name]["run"])).stages["prefill"]
        assert _near(prefill["flops"], stage.flops), name
        assert _near(prefill["time_s"], stage.time_s), name
        for figure, value in (("tflops", prefill["flops"] / 1e12), ("ms", prefill["time_s"] * 1e3)):
            if rows[name]["match"][figure]:
                assert as_printed(value) == rows[name]["printed"][figure], name
    opened.page.click("button.op >> nth=0")  # its formulas are not those of the other estimators
    assert "estimators.llm_viewer" in opened.page.locator(".facts").inner_text()
    opened.page.select_option("#preset", "")


def test_a_slider_updates_within_a_frame_or_three(opened: Opened) -> None:
    """From the embedded tables alone: nothing is asked for, as `opened` checks."""
    times = opened.page.evaluate(
        """() => {
          const times = [];
          const slider = document.getElementById("dial-l1");
          for (let i = 0; i < 30; i++) {
            slider.value = (7 * i) % 29;
            const begun = performance.now();
            slider.dispatchEvent(new Event("input"));
            times.push(performance.now() - begun);
          }
          return times;
        }"""
    )
    print(f"a slider's update: median {statistics.median(times):.0f} ms, least {min(times):.0f} ms")
    assert min(times) < 50  # the least: other work of this machine is not the page's
    opened.page.click("#reset")


def test_copied_run_and_command_mean_what_is_shown(opened: Opened, cli: Any, tmp_path: Path) -> None:
    data, chance = opened.data(), random.Random(5)
    for _ in range(6):
        setting = _random_setting(data, chance)
        found = opened.page.evaluate(
            """(setting) => {
              const app = aimcost.app;
              app.state = { ...app.state, ...setting };
              const shown = aimcost.price({});
              return shown && [shown.total.value, aimcost.toYaml(aimcost.documentOf(app.run, app.state)),
                aimcost.commandOf(app.run, app.state)];
            }""",
            setting,
        )
        if found is None:
            continue
        total, yaml, command = found
        file = tmp_path / "copied.yaml"
        file.write_text(yaml)
        assert _near(total, estimate_run(load_run(file)).totals.time_s), yaml
        done = cli(*shlex.split(command)[1:], "--json")
        assert done.returncode == 0, (command, done.stderr)
        assert _near(total, json.loads(done.stdout)["totals"]["time_s"]), command
    opened.page.click("#reset")


def test_a_copied_command_has_the_flags_that_the_page_was_made_with(browser: Any, cli: Any, tmp_path: Path) -> None:
    """Of a run without a file, and of one whose flags differ from its file."""
    sizes = {"images": 2, "image_size": [[336, 336], [500, 700]], "text_tokens": 60}
    document = {
        "model": "llava-next-vicuna-7b",
        "workload": sizes,
        "precision": {"weights": "int4"},
        "hardware": "nvidia_l4",
        "method": {"name": "fastv", "ratio": 0.6},
        "parallel": {"tp": 2},
    }
    own = tmp_path / "own.yaml"
    own.write_text(json.dumps(document))
    runs = [
        ("", load_run(document)),
        (str(own), load_run(own, {"workload.batch": 4, "method": {"name": "fastv", "k": 5}})),
    ]
    page = tmp_path / "page.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings, "BATCHES", (2,))
        patch.setattr(settings, "TEXT", ())
        patch.setattr(settings, "MOST_SCHEDULES", 50)
        patch.setattr(settings, "MOST_NEW_TOKENS", 4)
        page.write_text(explore_page(runs, lambda *_: None, hardware=["nvidia_l4"], stacks=["vllm"]), encoding="utf-8")
    context = browser.new_context()
    opened = Opened(context, page)
    dials = """(position) => {
      const app = aimcost.app;
      app.state = { ...app.state, dials: app.state.dials.map(() => position) };
      const shown = aimcost.price({});
      return shown && [shown.total.value, aimcost.commandOf(app.run, app.state)];
    }"""
    for number, (argument, run) in enumerate(runs):
        opened.page.evaluate("(number) => aimcost.app.choose(number, '')", number)
        copied = opened.page.evaluate(
            "[aimcost.price({}).total.value, aimcost.commandOf(aimcost.app.run, aimcost.app.state)]"
        )
        assert _near(copied[0], estimate_run(run).totals.time_s)
        for total, command in [copied, opened.page.evaluate(dials, 0)]:
            words = shlex.split(command)
            assert words[2] == argument if argument else words[2] == "--model"
            done = cli(*words[1:], "--json")
            assert done.returncode == 0, (command, done.stderr)
            assert _near(total, json.loads(done.stdout)["totals"]["time_s"]), command
    assert opened.problems == []
    context.close()


def test_the_address_holds_what_is_set(browser: Any, page_file: Path, opened: Opened) -> None:
    setting = {"context": 3, "load": 0, "batch": 1, "text": 1, "newTokens": 12, "dials": [4, 3, 9], "layer": 5}
    fragment = opened.page.evaluate(
        """(setting) => {
          const app = aimcost.app;
          app.state = { ...app.state, ...setting };
          app.share();
          return location.hash;
        }""",
        setting,
    )
    context = browser.new_context()
    again = Opened(context, page_file, fragment)
    state = again.page.evaluate("aimcost.app.state")
    assert {key: state[key] for key in setting} == setting
    assert again.problems == []
    for nonsense in ("#layer=99&new=-3&l1=x&hardware=none&budget=abc&preset=nothing", "#%E0%A4%A", "#merge_ratio={"):
        again.page.goto("about:blank")
        again.page.goto(page_file.as_uri() + nonsense)
        again.page.wait_for_selector("html[data-ready]")
        assert again.page.evaluate("aimcost.app.state.layer") is None
    context.close()
    opened.page.click("#reset")


def test_the_keyboard_alone(browser: Any, page_file: Path) -> None:
    """Every control is reached by Tab; a layer is chosen by arrows, an operation opened by Enter."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    opened = Opened(context, page_file)
    page, reached = opened.page, []
    for _ in range(60):
        page.keyboard.press("Tab")
        where = page.evaluate("document.activeElement.id || document.activeElement.className")
        if where in reached and where == "skip":
            break
        reached.append(where)
        if where == "layer-picker":
            break
    assert {"copy-command", "copy-run", "theme", "preset", "hardware", "stack", "budget", "dial-l1"} <= set(reached)
    assert reached[-1] == "layer-picker"
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert page.evaluate("aimcost.app.state.layer") == 2
    assert page.locator("#detail h3").inner_text() == "Operations of layer 2"
    page.keyboard.press("Tab")  # the button that shows all layers
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    facts = page.locator(".facts").inner_text()
    for word in ("shape", "seconds", "80 % band", "FLOPs", "formula", "aimcost.ops."):
        assert word in facts
    assert page.evaluate("document.activeElement.getAttribute('aria-expanded')") == "true"
    page.focus("#dial-l1")
    page.keyboard.press("ArrowRight")
    assert page.locator(".control:has(#dial-l1) output").inner_text() == "15"
    assert opened.problems == []
    context.close()


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable_and_accessible(browser: Any, page_file: Path, width: int, scheme: str) -> None:
    """Nothing leaves the window, no two labels of a chart lie on each other, and axe-core finds no serious fault."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    opened = Opened(context, page_file, "#layer=17&budget=250&new=9")
    page = opened.page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(OVERLAPS) == []
    assert page.evaluate(FAULTS) == []
    page.click("button.op")
    if width < 1000:
        page.click("summary")
    for position in ([6, 28, 28], [4, 0, 0], [2, 2, 26]):
        page.evaluate("(dials) => { const a = aimcost.app; a.set({ dials }); a.changed(); }", position)
        assert page.evaluate(OVERLAPS) + page.evaluate(FAULTS) == [], position
    grave = [
        (each["id"], [node["html"][:120] for node in each["nodes"]])
        for each in axe.Axe().run(page).response["violations"]
        if each["impact"] in ("serious", "critical")
    ]
    assert grave == []
    assert opened.problems == []
    context.close()


def test_it_looks_as_it_did(browser: Any, tmp_path: Path) -> None:
    """Both themes and widths against pictures of the same browser and font; another's are compared by structure alone.

    Axis labels that vanish are 0.12 % of a picture, a section that moves by six pixels 14 %.
    """
    file = tmp_path / "page.html"
    file.write_text(pictures.page(), encoding="utf-8")
    shown, looks = pictures.taken(browser, file)
    known = json.loads((pictures.FOLDER / "taken.json").read_text(encoding="utf-8"))
    if looks != known:
        pytest.skip(f"the pictures are of {known}, this is {looks}")
    shares = {
        name: pictures.difference(browser, content, (pictures.FOLDER / f"{name}.png").read_bytes())
        for name, content in shown.items()
    }
    # tests/browser/reference_pictures.py writes them anew, to be looked at
    assert {name: share for name, share in shares.items() if share > 1e-3} == {}


@pytest.mark.check_all
def test_other_methods_and_layers_with_windows(browser: Any, tmp_path: Path) -> None:
    """Eager layers where tokens are cut, or all; cuts that cost by what they drop; windows in some layers; defaults."""
    model = {
        "model_type": "qwen2",
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 8,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 1000,
    }
    windows = {"use_sliding_window": True, "sliding_window": 300, "max_window_layers": 3}
    load = {"visual_tokens": 600, "text_tokens": 40}
    runs = [
        {"model": model, "method": {"name": "aim", "l1": 3, "l2": 6}, "implementation": "eager"},
        {"model": model, "method": {"name": "sparsevlm"}, "implementation": "eager"},
        {"model": {**model, **windows}, "method": {"name": "fastv", "k": 2}},
        {"model": model, "method": {"name": "prumerge_plus"}},
    ]
    loaded = [("run.yaml", load_run({**run, "workload": load, "hardware": "nvidia_l4"})) for run in runs]
    file = tmp_path / "page.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings, "BATCHES", (2,))
        patch.setattr(settings, "MOST_NEW_TOKENS", 40)
        patch.setattr(settings, "TEXT", (64,))
        file.write_text(explore_page(loaded, lambda *_: None, hardware=["nvidia_l4"]), encoding="utf-8")
    context = browser.new_context()
    opened = Opened(context, file)
    for number, (_, run) in enumerate(loaded):
        opened.page.evaluate("(number) => aimcost.app.choose(number, '')", number)
        shown = opened.page.evaluate("aimcost.app.result.reduced.ttft.value")
        assert _near(shown, estimate_run(run).ttft_s)  # it opens where the run stands, defaults included
        _compare(opened, 3, seed=number)
        assert opened.page.evaluate(FAULTS) == []
    assert opened.problems == []
    context.close()


TRACED = Path(__file__).parent / "traced"
SPLIT = {"system": 40, "question": 60}


@pytest.mark.check_all
def test_traces_pipelines_and_cached_prefixes(browser: Any, tmp_path: Path) -> None:
    """Layers of several kinds, which cost what their trace says; sends between stages; queries behind a prefix."""
    image, visual = {"images": 1, "text_tokens": SPLIT}, {"visual_tokens": 400, "text_tokens": SPLIT}
    runs = [
        # windows, and a prefix of text
        {"model": f"{TRACED}/gemma3.json", "method": {"name": "fastv"}, "workload": {**visual, "cached_tokens": 40}},
        # a state beside the cache, copies that short prompts do not need
        {"model": f"{TRACED}/falcon_h1.json", "method": {"name": "vtw"}, "workload": visual},
        # latent attention, experts, two ranks in three stages
        {
            "model": f"{TRACED}/deepseek_v2.json",
            "method": {"name": "aim"},
            "workload": visual,
            "parallel": {"tp": 2, "pp": 3},
        },
        # what a method left of the image is in the cache
        {"model": "llava-1.5-7b", "method": {"name": "visionzip"}, "workload": {**image, "cached_tokens": 650}},
        {"model": "llava-1.5-7b", "method": {"name": "fastv"}, "workload": image, "parallel": {"tp": 2, "pp": 3}},
    ]
    loaded = [("run.yaml", load_run({**run, "hardware": "nvidia_l4"})) for run in runs]
    assert [run.workload.caches_visuals for _, run in loaded] == [False, False, False, True, False]
    file = tmp_path / "page.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings, "IMAGES", (2,))
        patch.setattr(settings, "BATCHES", (2,))
        patch.setattr(settings, "TEXT", (64,))
        patch.setattr(settings, "MOST_SCHEDULES", 300)
        patch.setattr(settings, "MOST_NEW_TOKENS", 40)
        own = {"hardware": ["nvidia_l4"], "stacks": ["vllm"]}
        file.write_text(explore_page(loaded, lambda *_: None, **own), encoding="utf-8")
    context = browser.new_context()
    opened = Opened(context, file)
    for number, (_, run) in enumerate(loaded):
        opened.page.evaluate("(number) => aimcost.app.choose(number, '')", number)
        shown = opened.page.evaluate("aimcost.app.result.reduced.ttft.value")
        assert _near(shown, estimate_run(run).ttft_s)
        _compare(opened, 5, seed=number)
        assert opened.page.evaluate(FAULTS) == []
    assert opened.problems == []
    context.close()


def test_names_are_text_and_what_is_missing_is_said(browser: Any, tmp_path: Path) -> None:
    markup = "<img src=x onerror=document.title=1>"
    model = {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 128,
    }
    run = {
        "model": model,
        "workload": {"visual_tokens": 60, "text_tokens": 10},
        "method": {"name": "none"},
        "hardware": {"name": markup, "memory_gb_per_s": 1000, "dense_tflops": {"fp16": 100}},
        "estimator": "roofline",
    }
    page = explore_page([(markup, load_run(run))], lambda *_: None, hardware=[markup])
    file = tmp_path / "page.html"
    file.write_text(page, encoding="utf-8")
    context = browser.new_context()
    opened = Opened(context, file)
    assert opened.page.locator("img").count() == 0
    assert opened.page.locator("#notes").is_hidden()  # an estimate of it has none
    assert "does not fit" not in opened.page.inner_text("#answer")
    opened.page.evaluate("aimcost.app.run.contexts[0].usable_bytes = 1000; aimcost.app.draw()")
    assert "It does not fit: the peak of memory is" in opened.page.inner_text("#answer")
    assert "does not fit" in opened.page.inner_text("#machines")
    assert markup in opened.page.locator("#machines").inner_text()
    assert "No published score" in opened.page.locator("#accuracy").inner_text()
    assert "No timing" in opened.page.locator("#measured").inner_text()
    assert parse_value(shlex.split(opened.page.evaluate("aimcost.commandOf(aimcost.app.run, aimcost.app.state)"))[2])
    assert opened.problems == []
    context.close()
