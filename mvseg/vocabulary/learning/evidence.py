"""What a partitioned detector found in the test set of one dataset, beside what is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]
Bools = npt.NDArray[np.bool_]
# Images that count for a class: those that show it (as UniDet did), or all that the annotation judges for it.
ImageRule = Literal["present", "all"]


@dataclass(frozen=True)
class Detections:
    """Detections of all label columns in a set of images.

    Args:
        images: image number of every detection, shape ``(D,)``, int.
        columns: label column of every detection, shape ``(D,)``, int.
        boxes: corners (x0, y0, x1, y1) in pixels, shape ``(D, 4)``, float.
        scores: scores, shape ``(D,)``, float.
    """

    images: Ints
    columns: Ints
    boxes: Floats
    scores: Floats

    def __post_init__(self) -> None:
        lengths = {len(self.images), len(self.columns), len(self.boxes), len(self.scores)}
        if len(lengths) > 1 or self.boxes.shape[1:] != (4,):
            raise ValueError(f"detections: arrays of different length {sorted(lengths)}, boxes {self.boxes.shape}")

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: Ints | Bools) -> Detections:
        """Choose some of the detections.

        Args:
            rows: indices or mask, shape ``(K,)`` or ``(D,)``.

        Returns:
            Those detections.
        """
        return Detections(self.images[rows], self.columns[rows], self.boxes[rows], self.scores[rows])

    def sorted(self) -> Detections:
        """Bring the detections into the order of the images, best first within each image.

        Returns:
            The same detections; equal scores of an image stay in their order.
        """
        return self.take(np.lexsort((-self.scores, self.images)))


@dataclass(frozen=True)
class Objects:
    """The annotated objects of a set of images.

    Args:
        images: image number of every object, shape ``(N,)``, int.
        classes: class index of every object in its own vocabulary, shape ``(N,)``, int.
        boxes: corners (x0, y0, x1, y1) in pixels, shape ``(N, 4)``, float.
        crowd: whether the box is one around a crowd or group, shape ``(N,)``, bool.
    """

    images: Ints
    classes: Ints
    boxes: Floats
    crowd: Bools

    def __post_init__(self) -> None:
        lengths = {len(self.images), len(self.classes), len(self.boxes), len(self.crowd)}
        if len(lengths) > 1 or self.boxes.shape[1:] != (4,):
            raise ValueError(f"objects: arrays of different length {sorted(lengths)}, boxes {self.boxes.shape}")

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: Ints | Bools) -> Objects:
        """Choose some of the objects.

        Args:
            rows: indices or mask, shape ``(K,)`` or ``(N,)``.

        Returns:
            Those objects.
        """
        return Objects(self.images[rows], self.classes[rows], self.boxes[rows], self.crowd[rows])


@dataclass(frozen=True)
class Evidence:
    """One vocabulary, and what all columns of the label space found in the images of its test set.

    Args:
        name: name of the vocabulary; all different.
        words: its words, in the order of its class indices.
        detections: what was found; columns count through the vocabularies in the order in which they are given.
        objects: what is there, in the words of this vocabulary.
        num_images: number of images; 0 where the vocabulary has no test set.
        judged: image number and class index of what people looked for, shape ``(V, 2)``, int; None: everything in every
            image.
        synonyms: other names of each word, or empty; only reported.
        embeddings: text embeddings, shape ``(n, D)``, float, or None; only reported.

    Raises:
        ValueError: if an image or class is out of range.
    """

    name: str
    words: tuple[str, ...]
    detections: Detections
    objects: Objects
    num_images: int
    judged: Ints | None = None
    synonyms: tuple[tuple[str, ...], ...] = ()
    embeddings: Floats | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        ranges = (
            ("image of a detection", self.detections.images, self.num_images),
            ("image of an object", self.objects.images, self.num_images),
            ("class of an object", self.objects.classes, len(self.words)),
        )
        for what, values, end in ranges:
            if len(values) and not 0 <= values.min() <= values.max() < end:
                raise ValueError(f"evidence of {self.name!r}: {what} is {values.min()} to {values.max()} of {end}")
        object.__setattr__(self, "detections", self.detections.sorted())
        order = np.argsort(self.objects.images, kind="stable")
        object.__setattr__(self, "objects", self.objects.take(order))

    @cached_property
    def totals(self) -> Ints:
        """Number of objects of every class that are to be found, without crowds.

        Returns:
            Counts, shape ``(n,)``, int.
        """
        return np.bincount(self.objects.classes[~self.objects.crowd], minlength=len(self.words))

    def counting_images(self, rule: ImageRule) -> Bools:
        """Say in which images the detections of a class count.

        Args:
            rule: "present": in those that have an object or crowd of the class; "all": in all that were judged.

        Returns:
            Table, shape ``(n, images)``, bool.
        """
        if rule == "all" and self.judged is None:
            return np.ones((len(self.words), self.num_images), dtype=bool)
        table = np.zeros((len(self.words), self.num_images), dtype=bool)
        table[self.objects.classes, self.objects.images] = True
        if rule == "all" and self.judged is not None:
            table[self.judged[:, 1], self.judged[:, 0]] = True
        return table


def first_columns(evidence: Sequence[Evidence]) -> tuple[int, ...]:
    """Give the first label column of every vocabulary.

    Args:
        evidence: the vocabularies.

    Returns:
        One more number than vocabularies; the last is the number of columns.
    """
    starts = [0]
    for one in evidence:
        starts.append(starts[-1] + len(one.words))
    return tuple(starts)
