"""Configurations that no reader here knows: traced once by the installed transformers, then read from a cache."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import FileFormatError, UnsupportedModelError
from ..extras import torch_module
from .files import read_mapping, write_atomically

__all__ = ["cache_folder", "thinker_of", "traced_config", "transformers_knows"]

# Raised with what a trace says of a model: files of another one are traced again.
REVISION = 8
# Where the installed transformers lists causal and image-text models by model_type.
_REGISTRY = "models/auto/modeling_auto.py"
_SECTION = r"(?ms)^MODEL_FOR_(?:CAUSAL_LM|IMAGE_TEXT_TO_TEXT)_MAPPING_NAMES = (.*?)^\)"


def transformers_knows(kind: str) -> bool:
    """Whether the installed transformers has a language model of this type. Imports nothing: that takes seconds."""
    return kind in _known()


@lru_cache(maxsize=1)
def _known() -> frozenset[str]:
    spec = importlib.util.find_spec("transformers")
    if spec is None or not spec.submodule_search_locations or importlib.util.find_spec("torch") is None:
        return frozenset()
    registry = Path(spec.submodule_search_locations[0]) / _REGISTRY
    if not registry.is_file():
        return frozenset()
    sections = re.findall(_SECTION, registry.read_text(encoding="utf-8"))
    return frozenset(kind for section in sections for kind in re.findall(r'\(\s*"([^"]+)",', section))


def thinker_of(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The image-text model inside a model that speaks (Qwen2.5-Omni); None for any other."""
    inner = config.get("thinker_config")
    kind = config.get("model_type")
    if not isinstance(inner, Mapping) or not isinstance(kind, str) or not transformers_knows(f"{kind}_thinker"):
        return None
    return {**inner, "model_type": f"{kind}_thinker"}


def cache_folder() -> Path:
    """Where traces lie: ``aimcost/traced`` in the user's cache folder."""
    given = os.environ.get("XDG_CACHE_HOME")
    return (Path(given) if given else Path.home() / ".cache") / "aimcost" / "traced"


def traced_config(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The traced model of a configuration, from the cache where this transformers wrote it.

    Parameters
    ----------
    where
        The configuration's file, for messages.

    Raises
    ------
    MissingExtraError, UnsupportedModelError
        torch or transformers is not installed; the model cannot be traced.
    """
    import importlib.metadata  # here alone: it takes as long to import as a small estimate

    from .strict_json import digest, to_json

    path = cache_folder() / f"{digest(config)}-{REVISION}.json"
    if path.is_file():
        try:
            data = read_mapping(path)
        except FileFormatError:
            data = {}  # written by something else: traced again
        if data.get("transformers") == importlib.metadata.version("transformers"):
            return data
    tracer = torch_module("aimcost.tracing.trace", "tracing a model")
    try:
        traced: dict[str, Any] = tracer.trace(config)
    except UnsupportedModelError as error:
        raise UnsupportedModelError(f"{where}: {error}") from error
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, to_json(traced) + "\n")
    except (FileFormatError, OSError):
        pass  # a folder that cannot be written to costs a trace each time
    return traced
