"""AP50 as in the Open Images challenge: hierarchy, image-level verification and boxes of groups.

The rules: a box counts for the ancestors of its class too. In an image only classes count that people verified there to
be present or absent; detections of others are ignored. Detections are matched by score to the box of their class with
which their IoU is largest; a box is found once, further detections of it are wrong. Detections that match none, but lie
with half of their area in a box around a group, are together one right detection with the highest of their scores.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from detectron2.data import MetadataCatalog

from mvseg.evaluation.matching import (
    BoxEvaluator,
    Detections,
    Floats,
    Ints,
    average_precision,
    best_match,
    corners_of,
    first_of_each,
    with_related,
)
from mvseg.evaluation.split import novel_classes, split_mean

logger = logging.getLogger(__name__)

THRESHOLD = 0.5  # of IoU, and of the share of a detection that lies in a group


@dataclass(frozen=True)
class Truth:
    """What people said about a test set of N boxes.

    Args:
        images: image number of every box, shape ``(N,)``, int64.
        classes: class index of every box, shape ``(N,)``, int64.
        boxes: corners (x0, y0, x1, y1), shape ``(N, 4)``, float64.
        groups: whether the box is one around a group, shape ``(N,)``, bool.
        verified: image number and class index of what was found to be there or not, shape ``(V, 2)``, int64.
    """

    images: Ints
    classes: Ints
    boxes: Floats
    groups: npt.NDArray[np.bool_]
    verified: Ints

    @classmethod
    def from_records(cls, records: Sequence[Mapping[str, Any]], ancestors: Sequence[Sequence[int]] | None) -> Truth:
        """Collect what records say; images are numbered in their order.

        Args:
            records: dataset records with annotations and verified classes.
            ancestors: class index to those of its ancestors, which boxes and labels then count for as well, and labels
                of absence for its descendants; None: no hierarchy.

        Returns:
            The truth.
        """
        found = [(i, a) for i, record in enumerate(records) for a in record.get("annotations", ())]
        images = np.array([i for i, _ in found], dtype=np.int64)
        classes = np.array([a["category_id"] for _, a in found], dtype=np.int64)
        groups = np.array([a.get("is_group_of", a.get("iscrowd", 0)) for _, a in found], dtype=bool)
        boxes = np.array([corners_of(a) for _, a in found], dtype=np.float64).reshape(-1, 4)
        there, absent = (
            np.array([(i, c) for i, r in enumerate(records) for c in r.get(key, ())], dtype=np.int64).reshape(-1, 2)
            for key in ("verified_category_ids", "neg_category_ids")
        )
        if ancestors is not None:
            rows, classes = with_related(classes, ancestors)
            images, groups, boxes = images[rows], groups[rows], boxes[rows]
            rows, others = with_related(there[:, 1], ancestors)
            there = np.stack([there[rows, 0], others], axis=1)
            rows, others = with_related(absent[:, 1], _reversed(ancestors))
            absent = np.stack([absent[rows, 0], others], axis=1)
        verified = np.concatenate([there, absent, np.stack([images, classes], axis=1)])
        return cls(images, classes, boxes, groups, np.unique(verified, axis=0))


def _reversed(ancestors: Sequence[Sequence[int]]) -> list[list[int]]:
    """Class index to those of its descendants."""
    below: list[list[int]] = [[] for _ in ancestors]
    for index, others in enumerate(ancestors):
        for other in others:
            below[other].append(index)
    return below


def open_images_ap(truth: Truth, detections: Detections, num_classes: int) -> Floats:
    """Compute the average precision of every class at an IoU of 0.5 by the rules of the Open Images challenge.

    Args:
        truth: the annotations, expanded if the hierarchy is to count.
        detections: the detections, expanded likewise.
        num_classes: number n of classes.

    Returns:
        AP from 0 to 1, shape ``(n,)``, float64; nan for classes without a box.

    Source:
        Kuznetsova et al. 2020, The Open Images Dataset V4 (arXiv 1811.00982), section 4.3, and the evaluation page of
        the Open Images challenge 2019, https://storage.googleapis.com/openimages/web/evaluation.html.
    """
    checked = truth.verified[:, 0] * num_classes + truth.verified[:, 1]
    found = detections.take(np.isin(detections.images * num_classes + detections.classes, checked))
    found = found.take(np.argsort(-found.scores, kind="stable"))
    keys = found.images * num_classes + found.classes
    truth_keys = truth.images * num_classes + truth.classes
    single, group = np.flatnonzero(~truth.groups), np.flatnonzero(truth.groups)
    best, overlap = best_match(keys, found.boxes, truth_keys[single], truth.boxes[single], of_union=True)
    right = first_of_each(np.where(overlap >= THRESHOLD, best, -1))
    best, overlap = best_match(keys, found.boxes, truth_keys[group], truth.boxes[group], of_union=False)
    in_group = ~right & (overlap >= THRESHOLD)
    covers = first_of_each(np.where(in_group, best, -1))  # the detection that counts for the group
    counted = ~in_group | covers
    hits = (right | covers)[counted]
    classes = found.classes[counted]
    totals = np.bincount(truth.classes, minlength=num_classes)
    result = np.full(num_classes, np.nan)
    order = np.argsort(classes, kind="stable")  # by class, and within a class by falling score
    ends = np.cumsum(np.bincount(classes, minlength=num_classes))
    for index in np.flatnonzero(totals):
        rows = order[ends[index - 1] if index else 0 : ends[index]]
        result[index] = average_precision(hits[rows], int(totals[index]))
    return result


class OpenImagesEvaluator(BoxEvaluator):
    """AP50 of the Open Images challenge on a dataset whose records say what was verified.

    The hierarchy is the metadata's ``ancestors``; without it, or with ``expand_hierarchy`` False, every class stands
    for itself.

    Args:
        name: dataset name.
        output_dir: folder for the detections as JSON; None writes none.
        expand_hierarchy: boxes and verified labels count for the ancestors of their class too.
        expand_detections: detections count for the ancestors of their class too, for models that only name the
            narrowest class.
    """

    results_file = "openimages_results.json"

    def __init__(
        self, name: str, output_dir: str | None = None, expand_hierarchy: bool = True, expand_detections: bool = False
    ) -> None:
        super().__init__(name, output_dir)
        self.ancestors: list[list[int]] = MetadataCatalog.get(name).get("ancestors") or [[] for _ in self.names]
        self.expand_hierarchy = expand_hierarchy
        self.expand_detections = expand_detections

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Compare the detections of all processes with the annotations.

        Returns:
            ``{"bbox": {"AP50", "AP-<class>", ...}}`` in percent, with novel classes AP50-base and AP50-novel too, nan
            for classes without a box; None on other processes than the main one.
        """
        detections = self.gather()
        if detections is None:
            return None
        if self.expand_detections:
            detections = detections.expanded(self.ancestors)
        truth = Truth.from_records(self.records, self.ancestors if self.expand_hierarchy else None)
        values = 100 * open_images_ap(truth, detections, len(self.names))
        known = values[~np.isnan(values)]
        results = {"AP50": float(known.mean()) if len(known) else float("nan")}
        results.update(split_mean(values.tolist(), novel_classes(self.name)))
        results.update({f"AP-{name}": float(value) for name, value in zip(self.names, values, strict=True)})
        logger.info("Open Images AP50 of %d classes with boxes: %.3f", len(known), results["AP50"])
        return {"bbox": results}
