"""The similarity map as inline SVG: a picture of the cosines, the words at its edges, the datasets as bands."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mvseg.report.charts import color_of
from mvseg.report.html import escape, png_uri
from mvseg.report.words import boundaries, similarity_map, unit_rows
from mvseg.vocabulary import Vocabulary

LABELLED = 72  # words that can be written at the edges
SIDE = 620  # of the map in the drawing, units
LEVELS = 60  # steps of the colour scale: few make a small file
BAND = 7  # thickness of the band of a dataset
# White to dark blue; the eye reads it as one scale.
SCALE = np.array([[255, 255, 255], [222, 235, 247], [158, 202, 225], [66, 133, 201], [24, 72, 148], [8, 29, 88]])


def paint(values: NDArray[np.float32], low: float, high: float) -> NDArray[np.uint8]:
    """Turn values into colours.

    Args:
        values: (m, m).
        low: value of white.
        high: value of the darkest blue.

    Returns:
        uint8 RGB, (m, m, 3).
    """
    share = np.clip((values - low) / max(high - low, 1e-6), 0, 1)
    share = np.rint(share * LEVELS) / LEVELS * (len(SCALE) - 1)
    first = np.minimum(share.astype(int), len(SCALE) - 2)
    part = (share - first)[..., None]
    return np.rint(SCALE[first] * (1 - part) + SCALE[first + 1] * part).astype(np.uint8)


def similarity_figure(groups: Mapping[str, Vocabulary]) -> str:
    """Draw the cosines between all words of several vocabularies.

    Args:
        groups: name to vocabulary.

    Returns:
        A ``figure``; an empty text if there are no embeddings.
    """
    rows = unit_rows(groups)
    if rows is None or len(rows) < 2:
        return ""
    values, block = similarity_map(rows)
    n, m = len(rows), len(values)
    off = values[~np.eye(m, dtype=bool)]
    low, high = (float(np.quantile(off, q)) for q in (0.02, 0.998))
    names = [word for words in groups.values() for word in words.names]
    labelled = n <= LABELLED
    margin = 118 if labelled else 34
    size = margin + SIDE + 14
    # One pixel for each cell: the browser enlarges without smoothing.
    parts = [
        f'<image x="{margin}" y="{margin}" width="{SIDE}" height="{SIDE}" preserveAspectRatio="none" '
        f'style="image-rendering:pixelated" href="{png_uri(paint(values, low, high))}"/>',
        f'<rect x="{margin}" y="{margin}" width="{SIDE}" height="{SIDE}" fill="none" stroke="#9aa3b2"/>',
        *_bands(groups, n, margin),
    ]
    if labelled:
        parts += _labels(names, margin)
    what = "cosine of the text embeddings of two words"
    if block > 1:
        what = f"mean cosine between blocks of {block} neighbouring words"
    return (
        f'<figure class="map"><figcaption>Similarity map <span class="unit">{escape(what)}</span></figcaption>'
        f'<svg viewBox="0 0 {size} {size}" role="img" aria-label="similarity map">{"".join(parts)}</svg>'
        f"{_legends(groups, low, high)}</figure>"
    )


def _legends(groups: Mapping[str, Vocabulary], low: float, high: float) -> str:
    datasets = "".join(
        f'<span><i style="background:{color_of(i)}"></i>{escape(name)} ({end - start} words)</span>'
        for i, (name, start, end) in enumerate(boundaries(groups))
    )
    bar = "".join(f"rgb({r},{g},{b})," for r, g, b in SCALE.tolist()).rstrip(",")
    scale = f'<b style="background:linear-gradient(90deg,{bar})"></b>'
    return (
        f'<div class="legend">{datasets}</div><div class="legend scale"><span>{low:.2f}</span>{scale}'
        f"<span>{high:.2f} and more</span></div>"
    )


def _bands(groups: Mapping[str, Vocabulary], n: int, margin: int) -> list[str]:
    unit = SIDE / n
    parts = []
    for index, (name, start, end) in enumerate(boundaries(groups)):
        first, length = margin + start * unit, (end - start) * unit
        title = f"<title>{escape(name)}: {end - start} words</title>"
        band = f'fill="{color_of(index)}">{title}</rect>'
        far = margin - BAND - 2
        parts.append(f'<rect x="{first:.2f}" y="{far}" width="{length:.2f}" height="{BAND}" {band}')
        parts.append(f'<rect x="{far}" y="{first:.2f}" width="{BAND}" height="{length:.2f}" {band}')
        if start:
            line = 'stroke="#374151" stroke-width="1"/>'
            parts.append(f'<line x1="{first:.2f}" x2="{first:.2f}" y1="{margin}" y2="{margin + SIDE}" {line}')
            parts.append(f'<line y1="{first:.2f}" y2="{first:.2f}" x1="{margin}" x2="{margin + SIDE}" {line}')
    return parts


def _labels(names: list[str], margin: int) -> list[str]:
    unit = SIDE / len(names)
    size = min(12.0, max(7.0, 0.86 * unit))
    near = margin - BAND - 6
    parts = []
    for index, name in enumerate(names):
        place = margin + (index + 0.5) * unit
        text = escape(name if len(name) <= 18 else name[:17] + "…")
        style = f'font-size="{size:.1f}"'
        parts.append(f'<text x="{near}" y="{place + 0.35 * size:.1f}" text-anchor="end" {style}>{text}</text>')
        turned = f'transform="rotate(-90 {place + 0.35 * size:.1f} {near})"'
        parts.append(f'<text x="{place + 0.35 * size:.1f}" y="{near}" {turned} {style}>{text}</text>')
    return parts
