"""The site builds without a warning, and every page of docs/ that its menu names is there."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

pytest.importorskip("material")
config_of = pytest.importorskip("mkdocs.config").load_config
build = pytest.importorskip("mkdocs.commands.build").build

pytestmark = pytest.mark.check
ROOT = Path(__file__).resolve().parents[2]


def test_the_site_builds_strictly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="mkdocs")
    build(config_of(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path), strict=True))
    assert (tmp_path / "faq" / "index.html").is_file()
    home = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "fonts.googleapis.com" not in home
    assert "Formulas" in home
