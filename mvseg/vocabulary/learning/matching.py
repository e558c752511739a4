"""Greedy matching of detections and objects at one overlap, by the rules of COCO, for all classes at once."""

from __future__ import annotations

import numpy as np

from .boxes import overlap, pairs_in_images
from .evidence import Bools, Detections, Ints, Objects


def match(
    detections: Detections, objects: Objects, threshold: float, wanted: Bools | None = None
) -> tuple[Ints, Ints, Bools]:
    """Match the detections of every column with the objects of every class.

    For every image, column and class the detections choose by falling score: the object not yet taken that overlaps
    most, if it does so by the threshold; else a crowd, which is never used up.

    Args:
        detections: D detections in the order of :meth:`Detections.sorted`.
        objects: objects in the order of their images.
        threshold: smallest overlap, a share of the union; with a crowd of the detection's own area.
        wanted: which columns are compared with which classes, shape ``(columns, classes)``, bool; None: all with all.

    Returns:
        For every match: row of the detection, class, shapes ``(M,)``, int; whether it is with a crowd, shape ``(M,)``,
        bool.

    Source: Lin et al. 2014 (arXiv 1405.0312), and the COCO detection evaluation, https://cocodataset.org/#detection-eval.
    """
    num_classes = int(objects.classes.max(initial=0)) + 1
    parts = []
    for rows, others in pairs_in_images(detections.images, objects.images):
        if wanted is not None:
            chosen = wanted[detections.columns[rows], objects.classes[others]]
            rows, others = rows[chosen], others[chosen]
        values = overlap(detections.boxes[rows], objects.boxes[others], objects.crowd[others])
        close = values >= threshold
        rows, others, values = rows[close], others[close], values[close]
        if not len(rows):
            continue
        # Several detections of an image and column compete for the objects of a class: these are one group.
        groups = detections.columns[rows].astype(np.int64) * num_classes + objects.classes[others]
        images = detections.images[rows]
        order = np.lexsort((-others, -values, objects.crowd[others], rows, groups, images))
        rows, others, groups, images = rows[order], others[order], groups[order], images[order]
        parts.append(_assign(rows, others, _changes(groups) | _changes(images), objects.crowd[others]))
    rows, others = (np.concatenate(p) for p in zip(*parts)) if parts else (np.empty(0, int), np.empty(0, int))
    return rows, objects.classes[others], objects.crowd[others]


def _changes(values: Ints) -> Bools:
    """Where a value differs from the one before it, shape (P,); the first does."""
    return np.concatenate([[True], values[1:] != values[:-1]])


def _assign(rows: Ints, others: Ints, new_group: Bools, crowd: Bools) -> tuple[Ints, Ints]:
    """Give every detection of a group its object; pairs are sorted by group, detection and preference."""
    new_turn = new_group | _changes(rows)
    turn, group = np.cumsum(new_turn) - 1, np.cumsum(new_group) - 1
    number = turn - turn[new_group][group]  # 0 for the first detection of a group, 1 for the second, ...
    alone = np.bincount(group, weights=new_turn)[group] == 1
    first = np.flatnonzero(new_turn & alone)
    chosen = [first]
    rest = np.flatnonzero(~alone)
    if len(rest):
        _, place = np.unique(group[rest] * (int(others.max()) + 1) + others[rest], return_inverse=True)
        taken = np.zeros(len(rest), dtype=bool)
        by_number = np.argsort(number[rest], kind="stable")
        ends = np.cumsum(np.bincount(number[rest]))
        for start, end in zip([0, *ends[:-1]], ends):
            now = by_number[start:end]
            now = now[crowd[rest[now]] | ~taken[place[now]]]
            if len(now):
                best = now[_changes(turn[rest[now]])]
                taken[place[best]] = True
                chosen.append(rest[best])
    kept = np.concatenate(chosen)
    return rows[kept], others[kept]
