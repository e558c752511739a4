"""Filling of polygons in whole numbers.

Written here because the edge pixels of OpenCV's ``fillPoly`` differ between its versions, and a world must not. Each
column is entered and left where the edges cross its centre; adding up from the top gives what is inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

FINE = 4  # coverage counts fine pixels, this many per pixel and direction
FULL = FINE * FINE  # coverage of a pixel that is wholly inside


def fill(loops: Sequence[Array], height: int, width: int) -> Array:
    """Fill loops by the even-odd rule.

    Args:
        loops: corners (k, 2) of each, x and y in whole pixels from the upper left corner.
        height: of the result.
        width: of the result.

    Returns:
        (height, width), uint8, 1 inside.
    """
    columns, rows, _ = _crossings(loops)
    rows, inside = np.maximum(rows, 0), (columns >= 0) & (columns < width) & (rows < height)
    layer = np.zeros((height, width), np.uint8)
    np.bitwise_xor.at(layer.reshape(-1), (rows * width + columns)[inside], np.uint8(1))
    return np.bitwise_xor.accumulate(layer, 0, out=layer)


def cover(loops: Sequence[Array], height: int, width: int) -> Array:
    """Count how much of each pixel lies inside loops that do not cross and run one way, their holes the other way.

    Args:
        loops: corners (k, 2) of each, x and y in whole fine pixels from the upper left corner, all within the result.
        height: of the result.
        width: of the result.

    Returns:
        (height, width), uint8, 0 to FULL.
    """
    columns, rows, signs = _crossings(loops)
    first, rest = rows // FINE, rows % FINE
    cell = first * width + columns // FINE
    layer = np.bincount(cell, signs * (FINE - rest), (height + 1) * width)
    layer += np.bincount(cell + width, signs * rest, (height + 1) * width)
    total = layer[: height * width].reshape(height, width).astype(np.int16)
    np.cumsum(total, 0, out=total)
    return np.clip(np.abs(total), 0, FULL).astype(np.uint8)


def shrink(fine: Array) -> Array:
    """Count how many of the fine pixels of each pixel are filled.

    Args:
        fine: (4 * H, 4 * W) uint8, FULL where filled.

    Returns:
        (H, W) uint8, 0 to FULL.
    """
    h, w = fine.shape
    half = cv2.resize(fine, (w // 2, h // 2), interpolation=cv2.INTER_AREA)  # means of whole numbers, never rounded
    return cv2.resize(half, (w // FINE, h // FINE), interpolation=cv2.INTER_AREA)


def _crossings(loops: Sequence[Array]) -> tuple[Array, Array, Array]:
    """Find where edges cross the centres of columns.

    Returns:
        Column, first row whose centre is not above the crossing, and direction of the edge (1 or -1), each (n,).
    """
    starts = np.concatenate(loops)
    ends = np.concatenate([part for loop in loops for part in (loop[1:], loop[:1])])
    sign = np.sign(ends[:, 0] - starts[:, 0])
    left = np.where(sign[:, None] > 0, starts, ends)
    run, rise = np.abs(ends[:, 0] - starts[:, 0]), (ends[:, 1] - starts[:, 1]) * sign
    edge = np.repeat(np.arange(len(starts)), run)
    step = np.arange(len(edge)) - np.repeat(np.cumsum(run) - run, run)
    # Crossing at y + rise * (step + 1/2) / run; the centre of row r is r + 1/2.
    run, rise = run[edge], rise[edge]
    rows = left[edge, 1] - (run - rise * (2 * step + 1)) // (2 * run)
    return left[edge, 0] + step, rows, sign[edge]
