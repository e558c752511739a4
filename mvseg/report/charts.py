"""Line charts and bars as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mvseg.report.html import NONE, escape

# Told apart also by readers who see red and green alike.
PALETTE = ("#2f6bd8", "#e07b39", "#2a9d8f", "#a64ca6", "#8a6d3b", "#4aa3c7", "#c9485b", "#6b7280", "#7aa33a", "#5b5bd6")
MAX_POINTS = 400  # of a curve; longer ones are thinned out
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 30  # margins around the plot, in the SVG's units


def color_of(index: int) -> str:
    """Choose the colour of the n-th series.

    Args:
        index: from 0.

    Returns:
        A colour of the palette.
    """
    return PALETTE[index % len(PALETTE)]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Choose round numbers within a range: multiples of 1, 2 or 5 times a power of ten.

    Args:
        low: lower end.
        high: upper end, above the lower one.
        count: about how many numbers.

    Returns:
        The numbers, in order.
    """
    rough = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [step * number for number in range(first, last + 1)]


def number(value: float) -> str:
    """Write a number shortly.

    Args:
        value: any finite number.

    Returns:
        Three or four significant digits; small and large ones with an exponent.
    """
    if value and (abs(value) < 1e-3 or abs(value) >= 1e5):
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:.4g}"


@dataclass(frozen=True)
class _Frame:
    """Where values lie in the drawing."""

    width: int
    height: int
    x: tuple[float, float]
    y: tuple[float, float]

    def left(self, value: float) -> float:
        share = (value - self.x[0]) / (self.x[1] - self.x[0])
        return LEFT + share * (self.width - LEFT - RIGHT)

    def top(self, value: float) -> float:
        share = (value - self.y[0]) / (self.y[1] - self.y[0])
        return self.height - BOTTOM - share * (self.height - TOP - BOTTOM)


def line_chart(
    series: Mapping[str, Sequence[tuple[int, float]]],
    title: str,
    *,
    width: int = 520,
    height: int = 230,
    unit: str = "",
    from_zero: bool = True,
    points: bool = False,
) -> str:
    """Draw curves over the iterations.

    Args:
        series: name to (iteration, value) pairs; empty curves are left out.
        title: heading of the figure.
        width: of the drawing; it is scaled to its place.
        height: of the drawing.
        unit: written behind the title.
        from_zero: let the axis start at zero where no value is below it.
        points: mark every value, for curves of few values.

    Returns:
        A ``figure`` with an SVG and, of several curves, a legend; an empty text if there is no value.
    """
    curves = {name: list(values) for name, values in series.items() if values}
    if not curves:
        return ""
    frame = _fit(curves, width, height, from_zero)
    drawn = "".join(_curve(frame, values, color_of(i), name, points) for i, (name, values) in enumerate(curves.items()))
    legend = ""
    if len(curves) > 1:
        items = (f'<span><i style="background:{color_of(i)}"></i>{escape(n)}</span>' for i, n in enumerate(curves))
        legend = f'<div class="legend">{"".join(items)}</div>'
    heading = escape(title) + (f' <span class="unit">{escape(unit)}</span>' if unit else "")
    return (
        f'<figure><figcaption>{heading}</figcaption><svg viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(title)}">{_axes(frame)}{drawn}</svg>{legend}</figure>'
    )


def _fit(curves: Mapping[str, Sequence[tuple[int, float]]], width: int, height: int, from_zero: bool) -> _Frame:
    xs = [x for values in curves.values() for x, _ in values]
    ys = [y for values in curves.values() for _, y in values]
    low, high = min(ys), max(ys)
    if from_zero and low >= 0:
        low = 0.0
    if high <= low:
        high = low + (abs(low) or 1.0)
    first, last = min(xs), max(xs)
    return _Frame(width, height, (first, last if last > first else first + 1), (low, high + 0.04 * (high - low)))


def _axes(frame: _Frame) -> str:
    parts = []
    for value in ticks(*frame.y):
        y = frame.top(value)
        parts.append(f'<line x1="{LEFT}" x2="{frame.width - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{y + 3.5:.1f}" text-anchor="end">{number(value)}</text>')
    for value in ticks(*frame.x, count=6):
        if value == int(value):
            x = frame.left(value)
            parts.append(f'<text x="{x:.1f}" y="{frame.height - 10}" text-anchor="middle">{int(value)}</text>')
    base = frame.height - BOTTOM
    parts.append(f'<line x1="{LEFT}" x2="{frame.width - RIGHT}" y1="{base}" y2="{base}" class="axis"/>')
    return "".join(parts)


def _curve(frame: _Frame, values: Sequence[tuple[int, float]], color: str, name: str, points: bool) -> str:
    step = max(1, math.ceil(len(values) / MAX_POINTS))
    kept = [*values[:-1:step], values[-1]]
    places = [(frame.left(x), frame.top(y), x, y) for x, y in kept]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in places)
    line = f'<polyline points="{path}" fill="none" stroke="{color}" class="curve"/>' if len(places) > 1 else ""
    radius = 3 if points or len(places) == 1 else 0
    hover = places if len(places) <= 80 else places[:: math.ceil(len(places) / 80)]
    marks = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius or 5}" fill="{color if radius else "transparent"}">'
        f"<title>{escape(name)}: {number(value)} at iteration {iteration}</title></circle>"
        for x, y, iteration, value in hover
    )
    return line + marks


def bar_rows(rows: Sequence[tuple[str, float | None, str]], top: float = 100.0) -> str:
    """Draw one horizontal bar for each row.

    Args:
        rows: (label, value or None, colour); None is shown as "no object".
        top: value of a full bar.

    Returns:
        HTML.
    """
    parts = []
    for label, value, color in rows:
        share = 0.0 if value is None else min(max(value / top, 0.0), 1.0)
        text = NONE if value is None else f"{value:.1f}"
        parts.append(
            f'<div class="bar"><span class="what" title="{escape(label)}">{escape(label)}</span><span class="track">'
            f'<i style="width:{100 * share:.1f}%;background:{color}"></i></span><span class="value">{text}</span></div>'
        )
    return f'<div class="bars">{"".join(parts)}</div>'
