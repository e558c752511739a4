"""Average precision of the columns of one dataset against the classes of another, and of several columns together."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from .boxes import suppressed
from .evidence import Bools, Evidence, Floats, ImageRule, Ints, Objects
from .matching import match

RECALLS = np.linspace(0, 1, 101)


def average_precision(ranks: Ints, total: int) -> float:
    """Compute the average precision at 101 values of recall.

    Args:
        ranks: place of every right detection among those that count, best first, from 1, shape ``(T,)``, int.
        total: number of objects to find, at least 1.

    Returns:
        Average precision, 0 to 1.

    Source: Lin et al. 2014 (arXiv 1405.0312), and the COCO detection evaluation, https://cocodataset.org/#detection-eval.
    """
    if not len(ranks):
        return 0.0
    precision = np.arange(1, len(ranks) + 1) / ranks
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    places = _places(total)
    return float(highest[places[places < len(ranks)]].sum() / len(RECALLS))


@lru_cache(maxsize=4096)
def _places(total: int) -> Ints:
    """The right detection with which each recall is reached, from 0."""
    return np.searchsorted(np.arange(1, total + 1) / total, RECALLS, "left")


def cross_precision(
    evidence: Evidence, wanted: Bools, iou: float = 0.5, rule: ImageRule = "present"
) -> npt.NDArray[np.float64]:
    """Compute the average precision of every label column against every class of one vocabulary.

    Args:
        evidence: detections of N columns and objects of n classes.
        wanted: the pairs that are compared, shape ``(N, n)``, bool.
        iou: smallest overlap of a right detection.
        rule: in which images the detections count.

    Returns:
        AP from 0 to 1, shape ``(N, n)``; 0 where no detection is right or the pair is not wanted, nan in the columns of
        classes without an object.

    Source: Zhou et al. 2022, Simple multi-dataset detection (arXiv 2102.13086), and the notebook
        UniDet_learn_labelspace_mAP of github.com/xingyizhou/UniDet (commit 94cd0e8).
    """
    detections = evidence.detections
    result = np.zeros(wanted.shape)
    result[:, evidence.totals == 0] = np.nan
    counting = evidence.counting_images(rule)
    rows, classes, crowd = match(detections, evidence.objects, iou, wanted & (evidence.totals > 0))
    place, members = _places_by_score(evidence, len(wanted))
    columns = detections.columns[rows]
    order = np.lexsort((place[rows], classes, columns))
    columns, classes, crowd, places = columns[order], classes[order], crowd[order], place[rows[order]]
    starts = np.flatnonzero(np.concatenate([[True], (columns[1:] != columns[:-1]) | (classes[1:] != classes[:-1])]))
    for start, end in zip(starts, [*starts[1:], len(columns)]) if len(columns) else ():
        right = places[start:end][~crowd[start:end]]
        if len(right):
            column, index = columns[start], classes[start]
            counted = counting[index, detections.images[members[column]]]
            counted[places[start:end][crowd[start:end]]] = False  # found a crowd: neither right nor wrong
            result[column, index] = average_precision(np.cumsum(counted)[right], int(evidence.totals[index]))
    return result


def _places_by_score(evidence: Evidence, num_columns: int) -> tuple[Ints, list[Ints]]:
    """Place of every detection in the order of its column by score, and the rows of each column in that order."""
    detections = evidence.detections
    order = np.lexsort((-detections.scores, detections.columns))
    counts = np.bincount(detections.columns, minlength=num_columns)
    starts = np.cumsum(counts) - counts
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order)) - starts[detections.columns[order]]
    return place, np.split(order, starts[1:])


class MergedPrecision:
    """Average precision of several columns that answer as one.

    Args:
        evidence: the dataset on which they answer.
        num_columns: number of label columns.
        iou: smallest overlap of a right detection.
        nms: overlap above which the weaker detection of the union is taken away.
        rule: in which images the detections count.
    """

    def __init__(
        self, evidence: Evidence, num_columns: int, iou: float = 0.5, nms: float = 0.5, rule: ImageRule = "present"
    ) -> None:
        self.evidence, self.iou, self.nms = evidence, iou, nms
        self._counting = evidence.counting_images(rule)
        self._rows = _split_by(evidence.detections.columns, num_columns)
        self._objects = _split_by(evidence.objects.classes, len(evidence.words))

    def __call__(self, columns: Sequence[int], index: int) -> float:
        """Compute the average precision of the union of the columns' detections, with suppression, against one class.

        Args:
            columns: the label columns that answer as one.
            index: class of the dataset, with at least one object.

        Returns:
            Average precision, 0 to 1.
        """
        detections, counting = self.evidence.detections, self._counting[index]
        rows = np.concatenate([self._rows[column] for column in columns])
        rows = rows[counting[detections.images[rows]]]
        found = detections.take(rows).sorted()
        found = found.take(~suppressed(found.images, found.boxes, self.nms))
        mine = self.evidence.objects.take(self._objects[index])
        objects = Objects(mine.images, np.zeros(len(mine), dtype=np.int64), mine.boxes, mine.crowd)
        found.columns[:] = 0
        rows, _, crowd = match(found, objects, self.iou)
        order = np.argsort(-found.scores, kind="stable")
        right, counted = np.zeros(len(found), dtype=bool), np.ones(len(found), dtype=bool)
        right[rows[~crowd]] = True
        counted[rows[crowd]] = False
        ranks = np.cumsum(counted[order])[right[order]]
        return average_precision(ranks, int(self.evidence.totals[index]))


def _split_by(values: Ints, count: int) -> list[Ints]:
    """Rows of every value from 0 to count - 1, ascending."""
    counts = np.bincount(values, minlength=count)
    return np.split(np.argsort(values, kind="stable"), np.cumsum(counts)[:-1])


def own_precision(matrix: Floats, first_column: int) -> Floats:
    """Take the average precision of every class's own column.

    Args:
        matrix: AP of all columns, shape ``(N, n)``, float.
        first_column: the first of the n columns of the dataset.

    Returns:
        AP, shape ``(n,)``, float; nan for classes without an object.
    """
    own = np.arange(matrix.shape[1])
    return matrix[first_column + own, own]
