"""Reference pictures of the page: a run whose figures follow from its own numbers alone, in both themes and widths.

Write them, after a change that means to move something: .venv-browser/bin/python tests/browser/reference_pictures.py
"""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "pictures"
# Half of every side: small files, and no trouble with the edges of letters.
SCALE = 0.5
HEIGHT = 1700
# (width, theme)
SHOTS = [(width, theme) for width in (390, 1440) for theme in ("light", "dark")]
RUN: dict[str, Any] = {
    "model": {
        "model_type": "llama",
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_hidden_layers": 16,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "vocab_size": 32000,
    },
    "workload": {"visual_tokens": 900, "text_tokens": 60, "new_tokens": 4},
    "method": {"name": "pyramiddrop"},
    "hardware": {"name": "round", "memory_gb_per_s": 1000, "dense_tflops": {"fp16": 100}, "memory_gb": 24},
    # no calibration, no stack: the pictures outlive both
    "estimator": "roofline",
}
# What letters look like: the pictures of another browser or font are others.
LOOKS = """() => {
  const context = document.createElement("canvas").getContext("2d");
  context.font = getComputedStyle(document.body).font;
  return context.measureText("Layer 16: 1,276 tokens, 3.53 ms, compute-bound").width;
}"""
# Of two pictures of one size, the share of pixels of which a channel differs by more than an eighth of its range.
DIFFERENCE = """async ([a, b]) => {
  const [one, other] = await Promise.all([a, b].map(async (content) => {
    const image = new Image();
    image.src = `data:image/png;base64,${content}`;
    await image.decode();
    const canvas = new OffscreenCanvas(image.width, image.height), context = canvas.getContext("2d");
    context.drawImage(image, 0, 0);
    return context.getImageData(0, 0, image.width, image.height);
  }));
  if (one.width !== other.width || one.height !== other.height) return 1;
  let differ = 0;
  for (let i = 0; i < one.data.length; i += 4) {
    if ([0, 1, 2].some((channel) => Math.abs(one.data[i + channel] - other.data[i + channel]) > 32)) differ++;
  }
  return (4 * differ) / one.data.length;
}"""


def page() -> str:
    """The page that is pictured."""
    from aimcost.inputs.run import load_run
    from aimcost.report.web.explore import explore_page

    return explore_page([("run.yaml", load_run(RUN))], lambda *_: None, hardware=["round"])


def taken(browser: Any, file: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Pictures by name, and what they depend on beside the page."""
    found, looks = {}, 0.0
    for width, theme in SHOTS:
        context = browser.new_context(
            viewport={"width": width, "height": HEIGHT},
            color_scheme=theme,
            device_scale_factor=SCALE,
            reduced_motion="reduce",
        )
        shown = context.new_page()
        shown.goto(file.as_uri() + "#layer=9&budget=2")
        shown.wait_for_selector("html[data-ready]")
        # a version is no part of its looks
        shown.evaluate("document.querySelectorAll('footer').forEach((each) => each.remove())")
        found[f"{width}-{theme}"] = shown.screenshot()
        looks = shown.evaluate(LOOKS)
        context.close()
    return found, {"browser": browser.version, "text_width": looks}


def difference(browser: Any, one: bytes, other: bytes) -> float:
    """The share of pixels that differ."""
    context = browser.new_context()
    blank = context.new_page()
    share = blank.evaluate(DIFFERENCE, [base64.b64encode(each).decode() for each in (one, other)])
    context.close()
    return float(share)


def main() -> None:
    """Write the pictures, and what took them."""
    import tempfile

    from playwright.sync_api import sync_playwright

    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = Path(folder, "page.html")
        file.write_text(page(), encoding="utf-8")
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        pictures, looks = taken(browser, file)
        browser.close()
    for name, content in pictures.items():
        (FOLDER / f"{name}.png").write_bytes(content)
    (FOLDER / "taken.json").write_text(json.dumps(looks, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
