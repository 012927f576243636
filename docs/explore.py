"""Write the pictures of docs/explore.md from a page of the present code: needs what `make test-browser` installs.

.venv-browser/bin/python docs/explore.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from aimcost.inputs.run import load_run
from aimcost.report.web.explore import explore_page

RUN = "llava_onevision_aim_a100"
PICTURES = Path(__file__).parent / "pictures"
# width, height, theme, what is set, what is looked at (empty: the top)
SHOTS = {
    "explore-light": (1440, 1240, "light", "#budget=250&layer=16", ""),
    "explore-dark": (1440, 1000, "dark", "#budget=250&layer=16", "#machines"),
    "explore-dark-390": (390, 1560, "dark", "#budget=250&layer=16", ""),
}


def main() -> None:
    """Open the page as a user would, and take its picture."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = Path(folder, "page.html")
        file.write_text(explore_page([(RUN, load_run(RUN))], lambda *_: None), encoding="utf-8")
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        for name, (width, height, theme, fragment, place) in SHOTS.items():
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=theme)
            page.goto(file.as_uri() + fragment)
            page.wait_for_selector("html[data-ready]")
            if place:
                page.evaluate("(place) => document.querySelector(place).closest('section').scrollIntoView()", place)
            page.screenshot(path=PICTURES / f"{name}.png")
        browser.close()


if __name__ == "__main__":
    main()
