"""The best K detections of every class in a whole test set, kept while it is gone through, in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_SLACK = 1 << 17  # rows collected before the surplus is dropped


@dataclass(frozen=True)
class Kept:
    """Detections of many images, in the order in which they came.

    Args:
        images: image id of every detection, shape ``(R,)``, int64.
        classes: class index, shape ``(R,)``, int32.
        scores: scores, shape ``(R,)``, float64.
        boxes: (x, y, width, height) in pixels, shape ``(R, 4)``, float32.
        masks: run-length code of the mask or None, shape ``(R,)``, objects.
    """

    images: npt.NDArray[np.int64]
    classes: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float64]
    boxes: npt.NDArray[np.float32]
    masks: npt.NDArray[np.object_]

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def join(cls, parts: Sequence[Kept]) -> Kept:
        """Put detections one after the other.

        Args:
            parts: the parts.

        Returns:
            All of them.
        """
        return cls(
            np.concatenate([np.zeros(0, np.int64), *(part.images for part in parts)]),
            np.concatenate([np.zeros(0, np.int32), *(part.classes for part in parts)]),
            np.concatenate([np.zeros(0), *(part.scores for part in parts)]),
            np.concatenate([np.zeros((0, 4), np.float32), *(part.boxes for part in parts)]),
            np.concatenate([np.zeros(0, object), *(part.masks for part in parts)]),
        )

    def take(self, rows: npt.NDArray[Any]) -> Kept:
        """Choose some of the detections.

        Args:
            rows: indices or mask, shape ``(K,)`` or ``(R,)``.

        Returns:
            Those detections.
        """
        columns = (self.images, self.classes, self.scores, self.boxes, self.masks)
        return Kept(*(column[rows] for column in columns))

    def best(self, budget: int) -> Kept:
        """Keep the best of every class; of equal scores those that came first.

        Args:
            budget: detections of each class.

        Returns:
            They, still in the order in which they came.
        """
        order = np.lexsort((-self.scores, self.classes))  # stable: by class, then by falling score, then as they came
        sizes = np.bincount(self.classes)
        places = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return self.take(np.sort(order[places < budget]))


class ClassBudget:
    """Collects detections image by image and holds little more than the best ``budget`` of each class.

    Args:
        budget: detections of each class.
        num_classes: number of classes.
    """

    def __init__(self, budget: int, num_classes: int) -> None:
        self.budget = budget
        self._parts: list[Kept] = []
        self._rows = self._settled = 0
        # A full class takes only what is better than its worst: of equal scores the first ones stay.
        self._limits = np.full(num_classes, -np.inf)

    def wanted(self, classes: npt.NDArray[Any], scores: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Say which detections can still be among the best.

        Args:
            classes: class indices, shape ``(D,)``.
            scores: scores, shape ``(D,)``.

        Returns:
            Mask, shape ``(D,)``, bool.
        """
        return np.asarray(scores > self._limits[classes])

    def add(self, found: Kept) -> None:
        """Take the detections of further images.

        Args:
            found: the detections.
        """
        chosen = found.take(self.wanted(found.classes, found.scores))
        if not len(chosen):
            return
        self._parts.append(chosen)
        self._rows += len(chosen)
        if self._rows > 1.5 * self._settled + _SLACK:
            self.settle()

    def settle(self) -> Kept:
        """Drop what is not among the best so far.

        Returns:
            What is, in the order in which it came.
        """
        kept = Kept.join(self._parts).best(self.budget)
        sizes = np.bincount(kept.classes, minlength=len(self._limits))
        worst = np.full(len(self._limits), np.inf)
        np.minimum.at(worst, kept.classes, kept.scores)
        self._limits = np.where(sizes >= self.budget, worst, -np.inf)
        self._parts, self._rows, self._settled = [kept], len(kept), len(kept)
        return kept
