"""Pairs of boxes of the same image that overlap, without a loop over images, and suppression on them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .evidence import Bools, Floats, Ints

PAIRS_AT_ONCE = 2**20  # of boxes of one image; about 100 MB of temporary arrays


def overlap(boxes: Floats, others: Floats, of_first: Bools | None = None) -> Floats:
    """Compute the intersection over union of pairs of boxes.

    Args:
        boxes: corners, shape ``(P, 4)``, float.
        others: corners, shape ``(P, 4)``, float.
        of_first: where the area of the first box alone is the divisor (crowds), shape ``(P,)``, bool; None: nowhere.

    Returns:
        Overlaps from 0 to 1, shape ``(P,)``, float64.
    """
    boxes, others = boxes.astype(np.float64, copy=False), others.astype(np.float64, copy=False)
    width = np.minimum(boxes[:, 2], others[:, 2]) - np.maximum(boxes[:, 0], others[:, 0])
    height = np.minimum(boxes[:, 3], others[:, 3]) - np.maximum(boxes[:, 1], others[:, 1])
    common = np.maximum(width, 0) * np.maximum(height, 0)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    union = area + (others[:, 2] - others[:, 0]) * (others[:, 3] - others[:, 1]) - common
    whole = union if of_first is None else np.where(of_first, area, union)
    return np.divide(common, whole, out=np.zeros(len(common)), where=whole > 0)


def pairs_in_images(images: Ints, others: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Pair every row of one list with all rows of another that are of the same image, whole images at a time.

    Args:
        images: image numbers, ascending, shape ``(D,)``, int.
        others: image numbers, ascending, shape ``(N,)``, int.

    Yields:
        Row in the first list and row in the second list of every pair, shapes ``(P,)``, int.
    """
    low, high = np.searchsorted(others, images, "left"), np.searchsorted(others, images, "right")
    yield from _pairs(images, low, high)


def _pairs(images: Ints, low: Ints, high: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Pairs of row k with low[k] to high[k] - 1; a part of the rows ends where an image ends."""
    counts = high - low
    total = np.cumsum(counts)
    start = 0
    while start < len(images):
        before = total[start - 1] if start else 0
        end = max(int(np.searchsorted(total, before + PAIRS_AT_ONCE, "right")), start + 1)
        end = int(np.searchsorted(images, images[end - 1], "right"))  # the image's last row
        n = counts[start:end]
        rows = np.repeat(np.arange(start, end), n)
        steps = np.arange(len(rows)) - np.repeat(np.cumsum(n) - n, n)
        yield rows, low[rows] + steps
        start = end


def suppressed(images: Ints, boxes: Floats, threshold: float) -> Bools:
    """Find the detections that greedy non-maximum suppression takes away, in all images at once.

    Args:
        images: image numbers, ascending, within an image the best detection first, shape ``(D,)``, int.
        boxes: corners, shape ``(D, 4)``, float.
        threshold: detections that overlap a better one, which stays, by more than this are taken away.

    Returns:
        True where a detection is taken away, shape ``(D,)``, bool.
    """
    later = np.arange(1, len(images) + 1)
    found = []
    for better, worse in _pairs(images, later, np.searchsorted(images, images, "right")):
        close = overlap(boxes[better], boxes[worse]) > threshold
        found.append((better[close], worse[close]))
    better, worse = (np.concatenate(parts) for parts in zip(*found)) if found else (later[:0], later[:0])
    gone, stays = np.zeros(len(images), dtype=bool), np.ones(len(images), dtype=bool)
    while len(better):
        stays[:] = True
        stays[worse] = False  # nothing better that overlaps is undecided: these stay, and what they overlap goes
        gone[worse[stays[better]]] = True
        left = ~gone[better] & ~gone[worse]
        better, worse = better[left], worse[left]
    return gone
