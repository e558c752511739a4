"""What is known of one drawn picture, small enough to hand from a drawing process to the writing one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .masks import mask_to_polygons

MIN_PIXELS = 12  # objects with fewer visible pixels are annotated by nobody

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class ObjectFacts:
    """One object of a picture.

    Args:
        thing: its kind, a name of the table of things.
        color: English colour word.
        box: tight box of the visible pixels (x, y, width, height).
        area: visible pixels.
        full_area: pixels if nothing lay before it.
        polygons: outline of the visible pixels, empty if the dataset has no masks.
    """

    thing: str
    color: str
    box: Box
    area: int
    full_area: int
    polygons: tuple[list[float], ...] = ()

    @property
    def center(self) -> tuple[float, float]:
        """Centre of the box.

        Returns:
            (x, y) in pixels.
        """
        x, y, w, h = self.box
        return x + w / 2, y + h / 2


@dataclass(frozen=True)
class SegmentFacts:
    """One segment of a panoptic picture.

    Args:
        word: index in the dataset's words, things before stuff.
        segment_id: value in the id picture.
        box: tight box (x, y, width, height).
        area: pixels.
    """

    word: int
    segment_id: int
    box: Box
    area: int


@dataclass(frozen=True)
class ImageFacts:
    """One picture.

    Args:
        number: 1-based number in its split.
        file: path of the picture relative to the folder of its split.
        size: side in pixels.
        objects: its objects, back to front.
        grounds: names of its grounds, the largest first.
        segments: panoptic segments, empty if the dataset has none.
        pixels: pixels of every index of the semantic map, by index, empty if the dataset has none.
    """

    number: int
    file: str
    size: int
    objects: tuple[ObjectFacts, ...]
    grounds: tuple[str, ...]
    segments: tuple[SegmentFacts, ...] = ()
    pixels: tuple[tuple[int, int], ...] = ()


def tight_box(mask: NDArray[Any]) -> Box:
    """Find the tight box of a mask.

    Args:
        mask: (H, W), bool, with at least one pixel.

    Returns:
        (x, y, width, height) in pixels.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)


def object_facts(objects: Sequence[Any], polygons: bool) -> tuple[ObjectFacts, ...]:
    """Describe the objects of a scene.

    Args:
        objects: the drawn things of a scene.
        polygons: whether to outline their masks.

    Returns:
        The objects that show enough pixels, in the same order.
    """
    found = []
    for item in objects:
        area = int(np.count_nonzero(item.mask))
        if area >= MIN_PIXELS:
            outline = tuple(mask_to_polygons(item.mask)) if polygons else ()
            box = (int(item.box[0]), int(item.box[1]), int(item.box[2]), int(item.box[3]))
            found.append(ObjectFacts(item.thing, item.color, box, area, int(item.full_area), outline))
    return tuple(found)
