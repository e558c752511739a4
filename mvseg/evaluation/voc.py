"""The measures of the PASCAL VOC challenges: average precision of boxes, over 11 points (2007) or every point (2010-).

The rules of the official devkit: detections of a class are taken by falling score over the whole test set. Each looks
for the object of its class and image that it overlaps most, whether that one is taken already or not. From the IoU
threshold on (it counts itself) it is right if it is the first to find the object, and wrong if it is a further one;
below it is wrong. An object marked difficult need not be found, and a detection that finds one counts for nothing.

VOC's coordinates are pixels counted from 1, the last one included, so the devkit adds 1 to widths and heights. The
reader of the format turns (xmin, ymin, xmax, ymax) into corners (xmin - 1, ymin - 1, xmax, ymax). Their plain
differences are the devkit's widths with the 1 added; overlaps are therefore the devkit's, with nothing to add here.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mvseg.evaluation.matching import (
    BoxEvaluator,
    Detections,
    Floats,
    Ints,
    average_precision,
    best_match,
    corners_of,
    first_of_each,
)
from mvseg.evaluation.split import novel_classes, split_mean

logger = logging.getLogger(__name__)

MEASURES = (2007, 2012)
THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))  # of IoU, as in COCO's measure


@dataclass(frozen=True)
class Truth:
    """The annotated objects of a test set.

    Args:
        images: image number of every object, shape ``(N,)``, int64.
        classes: class index of every object, shape ``(N,)``, int64.
        boxes: corners (x0, y0, x1, y1), shape ``(N, 4)``, float64.
        difficult: whether it is neither to be found nor wrong to find, shape ``(N,)``, bool.
    """

    images: Ints
    classes: Ints
    boxes: Floats
    difficult: npt.NDArray[np.bool_]

    @classmethod
    def from_records(cls, records: Sequence[Mapping[str, Any]]) -> Truth:
        """Collect what records say; images are numbered in their order.

        Args:
            records: dataset records; an annotation is difficult if it says so, or, where it does not say, if it is a
                crowd.

        Returns:
            The truth.
        """
        found = [(i, a) for i, record in enumerate(records) for a in record.get("annotations", ())]
        return cls(
            images=np.array([i for i, _ in found], dtype=np.int64),
            classes=np.array([a["category_id"] for _, a in found], dtype=np.int64),
            boxes=np.array([corners_of(a) for _, a in found], dtype=np.float64).reshape(-1, 4),
            difficult=np.array([a.get("difficult", a.get("iscrowd", 0)) for _, a in found], dtype=bool),
        )


def voc_ap(
    truth: Truth,
    detections: Detections,
    num_classes: int,
    thresholds: Sequence[float] = THRESHOLDS,
    measure: int = 2012,
) -> Floats:
    """Compute the average precision of every class by the rules of the VOC devkit.

    Args:
        truth: the annotations.
        detections: the detections; of equal scores the earlier one comes first.
        num_classes: number n of classes.
        thresholds: the T smallest IoUs at which an object counts as found.
        measure: 2007 for the mean over 11 recalls, 2012 for the area under every point of the curve.

    Returns:
        AP from 0 to 1, shape ``(T, n)``, float64; nan for classes without an object that is not difficult.

    Source:
        Everingham et al. 2010, The PASCAL Visual Object Classes Challenge, section 4.2; the development kits' function
        VOCevaldet.
    """
    precision = {2007: eleven_point_precision, 2012: average_precision}[measure]
    found = detections.best_first()
    truth_keys = truth.images * num_classes + truth.classes
    keys = found.images * num_classes + found.classes
    best, overlap = best_match(keys, found.boxes, truth_keys, truth.boxes, of_union=True)
    totals = np.bincount(truth.classes[~truth.difficult], minlength=num_classes)
    difficult = np.append(truth.difficult, False)  # the last one stands for no object, -1
    result = np.full((len(thresholds), num_classes), np.nan)
    for row, threshold in zip(result, thresholds):
        match = np.where(overlap >= threshold, best, -1)
        counted = ~difficult[match]
        right = first_of_each(match)
        for index in np.flatnonzero(totals):
            row[index] = precision(right[counted & (found.classes == index)], int(totals[index]))
    return result


def eleven_point_precision(hits: npt.NDArray[np.bool_], total: int) -> float:
    """Average the precision at the recalls 0, 0.1, ..., 1, each the highest at that recall or a larger one.

    Recalls are compared as whole numbers: 3 of 10 objects reach 0.3, which in floating point can be just below it.

    Args:
        hits: whether each detection is right, by falling score, shape ``(D,)``, bool.
        total: number of objects to find, at least 1.

    Returns:
        The average, 0 to 1.

    Source:
        Everingham et al. 2010, section 4.2.1, the measure of the challenges up to 2009.
    """
    right = np.cumsum(hits)
    precision = right / np.arange(1, len(hits) + 1)
    reached = [precision[10 * right >= tenth * total] for tenth in range(11)]
    return float(sum(values.max() for values in reached if len(values)) / 11)


class VOCEvaluator(BoxEvaluator):
    """The result of Detectron2's evaluator for VOC: the means over classes at IoU 0.5, 0.75 and over 0.5 to 0.95.

    Objects and their difficulty come from the dataset's records, so any format can be evaluated. Boxes and scores are
    used as they are; Detectron2 rounds them to a tenth of a pixel and a thousandth first.

    Args:
        name: dataset name.
        output_dir: folder for the detections as JSON; None writes none.
        measure: 2007 for the mean over 11 recalls, 2012 for the area under the curve.

    Raises:
        ValueError: if there is no such measure.
    """

    results_file = "voc_results.json"

    def __init__(self, name: str, output_dir: str | None = None, measure: int = 2012) -> None:
        if measure not in MEASURES:
            raise ValueError(
                f"dataset {name!r}: options.measure is 2007 (mean over 11 recalls) or 2012 (area under the curve), "
                f"not {measure!r}"
            )
        super().__init__(name, output_dir)
        self.measure = measure

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Compare the detections of all processes with the annotations.

        Returns:
            ``{"bbox": {"AP", "AP50", "AP75", ...}}`` in percent; with novel classes AP50-base and AP50-novel too; of
            every class "AP-<class>" (mean over the IoUs), "AP@50-<class>" and "AP@75-<class>", nan for classes without
            an object to find. None on other processes than the main one.
        """
        detections = self.gather()
        if detections is None:
            return None
        values = 100 * voc_ap(Truth.from_records(self.records), detections, len(self.names), measure=self.measure)
        at = {50: values[THRESHOLDS.index(0.5)], 75: values[THRESHOLDS.index(0.75)]}
        mean = values.mean(axis=0)  # nan at one IoU is nan at all
        results = {"AP": _mean(mean), "AP50": _mean(at[50]), "AP75": _mean(at[75])}
        results.update(split_mean(at[50].tolist(), novel_classes(self.name)))
        for prefix, column in (("AP-", mean), ("AP@50-", at[50]), ("AP@75-", at[75])):
            results.update({prefix + name: float(value) for name, value in zip(self.names, column, strict=True)})
        known = int((~np.isnan(mean)).sum())
        logger.info(
            "VOC %d measure of %d classes with objects: AP50 %.2f%s",
            self.measure,
            known,
            results["AP50"],
            f"; {len(mean) - known} classes have none and do not count" if known < len(mean) else "",
        )
        return {"bbox": results}


def _mean(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
