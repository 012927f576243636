"""Functions that easy_vqa_scenes.yaml names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PIL import Image


def pictures(doc: Mapping[str, Any]) -> list[Image.Image]:
    """The scene of a question."""
    with Image.open(doc["picture"]) as picture:
        return [picture.convert("RGB")]
