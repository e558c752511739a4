"""Small pieces of HTML: escaped text, tables, figures, and pictures as data URIs within a budget of bytes."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

# Width in pixels and JPEG quality, tried in this order until all pictures fit into the budget.
ENCODINGS = ((1320, 84), (1100, 80), (900, 74), (700, 68), (500, 60))


NONE = "&ndash;"  # HTML for a value that is not there


def escape(text: object) -> str:
    """Make a text safe inside HTML, also inside attributes.

    Args:
        text: anything; its str() is taken.

    Returns:
        The escaped text.
    """
    return html.escape(str(text), quote=True)


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], numeric: int = 1, css: str = "") -> str:
    """Write a table.

    Args:
        headers: texts of the head, escaped here.
        rows: cells as HTML; the caller escapes them.
        numeric: columns from this one on are right-aligned.
        css: class of the table.

    Returns:
        HTML.
    """
    head = "".join(f"<th{_num(i, numeric)}>{escape(text)}</th>" for i, text in enumerate(headers))
    body = "".join(
        "<tr>" + "".join(f"<td{_num(i, numeric)}>{cell}</td>" for i, cell in enumerate(row)) + "</tr>" for row in rows
    )
    return f'<div class="scroll"><table class="{css}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _num(index: int, numeric: int) -> str:
    return ' class="num"' if index >= numeric else ""


def section(anchor: str, title: str, *parts: str, lead: str = "") -> str:
    """Write a section of the page.

    Args:
        anchor: its id.
        title: heading.
        parts: HTML.
        lead: one sentence below the heading, escaped here.

    Returns:
        HTML.
    """
    intro = f'<p class="lead">{escape(lead)}</p>' if lead else ""
    return f'<section id="{escape(anchor)}"><h2>{escape(title)}</h2>{intro}{"".join(parts)}</section>'


def note(text: str) -> str:
    """Write a remark that something is missing.

    Args:
        text: escaped here.

    Returns:
        HTML.
    """
    return f'<p class="note">{escape(text)}</p>'


def png_uri(pixels: np.ndarray) -> str:
    """Encode a picture losslessly.

    Args:
        pixels: uint8 RGB, (H, W, 3).

    Returns:
        A ``data:`` URI.
    """
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    if image.getcolors(256) is not None:
        image = image.quantize(256, dither=Image.Dither.NONE)  # a third of the size, and the same colours
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def jpeg_uris(paths: Sequence[Path], budget: int) -> tuple[dict[Path, str], list[str]]:
    """Encode pictures as JPEG so that all of them together stay within a number of bytes.

    Args:
        paths: image files.
        budget: largest number of bytes of all URIs together, as far as the smallest size allows.

    Returns:
        File to its ``data:`` URI, and a text for each file that could not be read.
    """
    images, failed = {}, []
    for path in paths:
        try:
            with Image.open(path) as opened:
                images[path] = opened.convert("RGB")
        except (OSError, ValueError, SyntaxError) as error:
            failed.append(f"picture {path.name}: {type(error).__name__}")
    uris: dict[Path, str] = {}
    for width, quality in ENCODINGS:
        uris = {path: _jpeg_uri(image, width, quality) for path, image in images.items()}
        if sum(map(len, uris.values())) <= budget:
            break
    return uris, failed


def _jpeg_uri(image: Image.Image, width: int, quality: int) -> str:
    if image.width > width:
        image = image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
