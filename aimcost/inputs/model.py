"""Models: a name in configs/models, an HF config.json or its folder, or an inline mapping."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from ..errors import FileFormatError, InvalidValueError, UnsupportedModelError
from ..extras import torch_module
from ..types import ModelSpec
from ..types.strict import Bounds, Strict, made
from . import discover, hub
from .autotrace import thinker_of, traced_config, transformers_knows
from .files import Stamp, read_mapping, read_once, stamp_of
from .hf.composites import COMPOSITES, language, with_tower
from .hf.from_hf import FAMILIES, model_spec, with_formats
from .hf.original import in_transformers_layout
from .processors import preprocessor_section, processor_stamps
from .schema import validate
from .strict_json import untagged
from .traced_file import is_traced, traced_model

__all__ = ["ModelFile", "load_model", "model_config"]


class ModelFile(Strict):
    """A file in configs/models: an HF-style configuration and where its figures are from."""

    name: Annotated[str, Bounds(min_length=1)]
    source: Annotated[str, Bounds(min_length=1)]
    # checkpoints on the Hugging Face Hub that have this configuration
    hub: list[str] = made(list)
    notes: list[str] = made(list)
    config: dict[str, Any]


def load_model(given: str | Path | Mapping[str, Any]) -> ModelSpec:
    """The shape of a model.

    Raises
    ------
    UnknownNameError, FileFormatError, InvalidValueError
        No such model, an unreadable file, or figures that are missing or fit no model.
    """
    if isinstance(given, Mapping):
        return _spec(given, name=str(given.get("name", "inline")), where="model", source="given inline")
    if not isinstance(given, str | Path):
        raise InvalidValueError("model", "a name, a path or a mapping", given)
    path = _path(given)
    # what lies beside a config.json is read with it; a file of configs/models holds its own
    beside = processor_stamps(path.parent) if path.suffix == ".json" else ()
    return _load_file(path, stamp_of(path), beside)


def model_config(given: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """The HF-style configuration itself, for building the real model."""
    if isinstance(given, Mapping):
        return dict(in_transformers_layout(untagged(given["config"]) if is_traced(given) else given, "model"))
    path = _path(given)
    data = read_once(path)
    return dict(in_transformers_layout(data.get("config", data), str(path)))


def _path(given: str | Path) -> Path:
    """A file: of a known name or Hub id, or the path given, or config.json in the folder given."""
    text = str(given)
    is_name = isinstance(given, str) and "/" not in given and not given.endswith((".json", ".yaml", ".yml"))
    if is_name and not discover.is_file(Path(given) / "config.json"):
        return discover.find("model", text)
    path = discover.at_home(text)
    if not discover.is_file(path):
        path = path / "config.json"
    if discover.is_file(path):
        return path
    checkpoint = hub.checkpoint(given) if isinstance(given, str) else None
    if checkpoint is not None:
        return hub.find(*checkpoint)
    raise FileFormatError(f"model: no such file: {text[:200]}")


@lru_cache(maxsize=256)
def _load_file(path: Path, _: Stamp, beside: tuple[Stamp | None, ...]) -> ModelSpec:
    data = read_mapping(path)
    if is_traced(data):
        return _spec(data, name=path.stem, where=str(path), source=str(path))
    if "config" not in data or "model_type" in data:
        if any(beside):
            data = preprocessor_section(in_transformers_layout(data, str(path)), path.parent)
        name = hub.cached_id(path) or (path.parent.name if path.name == "config.json" else path.stem)
        return _spec(data, name=name, where=str(path), source=str(path))
    file = validate(ModelFile, {"name": path.stem, **data}, where=str(path))
    # the file's own notes are for `aimcost show`; those of the spec concern every estimate
    return _spec(file.config, name=file.name, where=str(path), source=file.source)


def _spec(config: Mapping[str, Any], *, name: str, where: str, source: str) -> ModelSpec:
    """A configuration through its reader, or traced where there is none and transformers knows the model."""
    if is_traced(config):
        model, given = traced_model(config, name=name, where=where), config.get("config", {})
        if model.family in COMPOSITES and model.vision is None:
            model = with_tower(model, untagged(given), where)
        return with_formats(model, given, where)
    thinker = thinker_of(config)
    if thinker is not None:
        beside = {key: config[key] for key in ("preprocessor",) if key in config}
        model = _spec({**thinker, **beside}, name=name, where=where, source=source)
        return replace(model, notes=(*model.notes, "the thinker alone: its talker, which speaks, is not priced"))
    config = in_transformers_layout(config, where)
    kind = config.get("model_type")
    if isinstance(kind, str) and kind in COMPOSITES:
        text = language(config, where)
        own = str(text["model_type"])
        if not transformers_knows(own):
            torch_module("transformers", what := f"{kind}, whose language model ({own}) is traced,")
            raise UnsupportedModelError(f"{where}: {what} needs a transformers that has {own}")
        inner = (
            _spec(text, name=name, where=where, source=source) if own not in COMPOSITES else _traced(text, name, where)
        )
        return with_formats(with_tower(inner, config, where), config, where)
    if isinstance(kind, str) and not _has_reader(kind, config) and transformers_knows(kind):
        return with_formats(_traced(config, name, where), config, where)
    return model_spec(config, name=name, where=where, source=source)


def _traced(config: Mapping[str, Any], name: str, where: str) -> ModelSpec:
    kept_apart = ("name", "preprocessor")
    traced = traced_config({key: value for key, value in config.items() if key not in kept_apart}, where)
    return traced_model(traced, name=name, where=where, preprocessor=config.get("preprocessor"))


# Families of several language models and towers, of which their readers take the usual ones.
_OPEN = ("llava", "llava_next", "llava_next_video", "llava_onevision", "internvl")
# Families whose configuration may leave layers without experts.
_SPARSE = ("qwen2_moe", "qwen3_moe")


def _has_reader(kind: str, config: Mapping[str, Any]) -> bool:
    """Whether a family's reader takes the configuration.

    It does not take LLaVA on Pixtral's tower or on a type without a reader, nor experts in some of the layers.
    """
    if kind in _SPARSE:
        step = config.get("decoder_sparse_step")
        # what is no step is refused by the reader: transformers would compute with -1, and divide by 0
        return not config.get("mlp_only_layers") and not (type(step) is int and step > 1)
    if kind not in _OPEN:
        return kind in FAMILIES
    text, vision = (_section_type(config.get(key)) for key in ("text_config", "vision_config"))
    return (text in FAMILIES or not transformers_knows(text)) and vision != "pixtral"


def _section_type(section: Any) -> str:
    """The ``model_type`` of a section; empty where it has none."""
    return str(section.get("model_type") or "") if isinstance(section, Mapping) else ""
