"""Hugging Face Hub ids, looked up offline: in the bundled model files, then in the local cache of checkpoints."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..errors import FileFormatError, nearest
from . import discover
from .files import read_once

__all__ = ["cached_id", "checkpoint", "find"]

# The Hub's own rule: an owner and a name of letters, digits, ``-``, ``_`` and ``.``
_ID = r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}"
# Its page in a browser, or its URI: ``https://huggingface.co/owner/name/tree/main``, ``hf://owner/name@main``.
_ADDRESS = (
    rf"(?:(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/|hf://(?:models/)?|)(?P<id>{_ID})"
    r"(?:@(?P<at>[\w.-]+)|/(?:tree|blob|resolve)/(?P<tree>[\w.-]+)(?:/[^?#]*)?)?/?(?:[?#].*)?"
)
# The revision that an id by itself means.
DEFAULT_REVISION = "main"


def checkpoint(text: str) -> tuple[str, str] | None:
    """The id ``owner/name`` and the revision that `text` names: an id, with ``@revision``, or a page of the Hub.

    None where it names no checkpoint.
    """
    found = re.fullmatch(_ADDRESS, text.strip())
    if found is None or found["id"].endswith((".json", ".yaml", ".yml")):
        return None
    return found["id"], found["at"] or found["tree"] or DEFAULT_REVISION


def find(name: str, revision: str = DEFAULT_REVISION) -> Path:
    """The configuration of a checkpoint: a bundled model file that lists the id, else its cached ``config.json``.

    Bundled ids are compared as the Hub does, ignoring case; cached ones as they were downloaded. A revision other than
    the default one is looked up in the cache alone. Nothing is downloaded.

    Raises
    ------
    FileFormatError
        Neither has it; the nearest bundled ids are named.
    """
    if revision != DEFAULT_REVISION:
        cached = _cached(name, revision)
        if cached is None:
            raise FileFormatError(
                f"model: revision {revision} of {name} is not in the local Hugging Face cache; "
                "any checkpoint works by the path of its config.json"
            )
        return cached
    known = _bundled()
    for one, path in known.items():
        if one.lower() == name.lower():
            return path
    cached = _cached(name, revision)
    if cached is not None:
        return cached
    # of the same maker and kind, or under another maker's name
    own = name.partition("/")[2]
    tails = {one.partition("/")[2]: one for one in known}
    close = [tails[tail] for tail in nearest(own, tails)]
    hint = f"; bundled: {', '.join(close)}" if close else ""
    raise FileFormatError(
        f"model: {name} is neither bundled nor, as one snapshot, in the local Hugging Face cache{hint}; "
        "any checkpoint works by the path of its config.json"
    )


def cached_id(path: Path) -> str | None:
    """The id of the checkpoint whose cached ``config.json`` lies at `path`; None elsewhere."""
    folder = path.parent.parent.parent.name
    if path.parent.parent.name != "snapshots" or not folder.startswith("models--"):
        return None
    return folder.removeprefix("models--").replace("--", "/", 1)


def _bundled() -> dict[str, Path]:
    """Hub ids of every model file on the search path."""
    found: dict[str, Path] = {}
    for path in discover.names("model").values():
        ids = read_once(path).get("hub")
        for one in ids if isinstance(ids, list) else ():
            found.setdefault(str(one), path)
    return found


def _cached(name: str, revision: str) -> Path | None:
    """``config.json`` of the snapshot that the branch or tag names in the local cache, or that is the commit.

    Of the default branch, also that of the only snapshot there.
    """
    folder = _cache_folder() / f"models--{name.replace('/', '--')}"
    reference, commit = folder / "refs" / revision, revision
    if reference.is_file():
        commit = reference.read_text(encoding="utf-8", errors="replace").strip()
    path = folder / "snapshots" / commit / "config.json"
    if path.is_file():
        return path
    snapshots = sorted(folder.glob("snapshots/*/config.json"))
    return snapshots[0] if revision == DEFAULT_REVISION and len(snapshots) == 1 else None


def _cache_folder() -> Path:
    """Where huggingface_hub keeps checkpoints: ``HF_HUB_CACHE``, else below ``HF_HOME``, else its default."""
    if given := os.environ.get("HF_HUB_CACHE"):
        return discover.at_home(given)
    if home := os.environ.get("HF_HOME"):
        return discover.at_home(home) / "hub"
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return discover.at_home(base) / "huggingface" / "hub"
