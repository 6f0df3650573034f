"""What all HTML pages share: a self-contained file from the templates in `templates/`.

Everything is escaped, and the page's Content-Security-Policy allows no script but its own, no
network and no images but those in the file.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtcli.runtime.files import atomic_write
from vtcli.runtime.words import percent

if TYPE_CHECKING:
    from jinja2 import Environment

CONTROL_CHARACTERS = dict.fromkeys((*range(9), 11, 12, *range(14, 32), 127), "\ufffd")
"""HTML has no form for these; a replacement character is shown instead."""


def render_page(template: str, script: str | None = None, media: str = "", **values: Any) -> str:
    """A page as text; `script` is a file in `templates/`, `media` where its videos may come from.

    The template is given `policy`, `style` and `script` besides `values`.
    """
    from markupsafe import Markup

    code = _template_file(script) if script else ""
    allowed = ""
    if code:
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        allowed = f"; script-src 'sha256-{digest}'"
    if media:
        allowed += f"; media-src {media}"
    page = (
        _templates()
        .get_template(template)
        .render(
            policy="default-src 'none'; img-src data:; style-src 'unsafe-inline'" + allowed,
            style=Markup(_template_file("page.css")),
            script=Markup(code),
            **values,
        )
    )
    return page.translate(CONTROL_CHARACTERS)


def write_page(text: str, path: Path) -> None:
    """Write a page; raises `DataError` where it cannot be written."""
    # HTML has no form for the bytes of a path that is not UTF-8: a question mark replaces them.
    page = text.encode("utf-8", "replace")
    with atomic_write(path, len(page)) as part:
        part.write_bytes(page)


def strip_frames(images: Sequence[bytes], times: Sequence[str]) -> list[dict[str, str]]:
    """The frames of a strip as a template shows them: address and time ("" if unknown)."""
    pairs = zip(images, times or ("",) * len(images), strict=True)
    return [{"uri": data_uri(image), "time": time} for image, time in pairs]


def data_uri(image: bytes) -> str:
    """A JPEG or PNG file as an address that a page can hold."""
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode('ascii')}"


@cache
def _templates() -> Environment:
    """The templates; jinja2 is imported only when a page is written."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader("vtcli.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    templates.filters["percent"] = percent
    return templates


def _template_file(name: str) -> str:
    return (resources.files("vtcli.report") / "templates" / name).read_text("utf-8")
