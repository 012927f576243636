"""Hook of the site: a link that leaves docs/, or names a folder or a program, becomes its text."""

from __future__ import annotations

import posixpath
import re
from typing import Any

_LINK = re.compile(r"\[([^\]\n]+)\]\((?!\w+:|#)([^)\s#]+)[^)\s]*\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """The page as Markdown, with such links replaced."""
    folder = posixpath.dirname(page.file.src_uri)

    def kept(found: re.Match[str]) -> str:
        outside = posixpath.normpath(posixpath.join(folder, found[2])).startswith("..")
        page = posixpath.splitext(found[2])[1] not in ("", ".py")
        return found[0] if page and not outside else found[1]

    return _LINK.sub(kept, markdown)
