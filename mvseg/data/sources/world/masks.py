"""Masks as polygons without holes, for files that know no holes."""

from __future__ import annotations

import itertools
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_FINE = 4  # masks are enlarged this much before their contours are followed, so that the contours keep their pixels


def mask_to_polygons(mask: Array) -> list[list[float]]:
    """Outline a mask; where it has holes it is cut in pieces without holes.

    Args:
        mask: (H, W), bool.

    Returns:
        Polygons [x0, y0, x1, y1, ...] in pixels whose union, filled as COCO does, is the mask.
    """
    left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
    crop = mask[top : top + height, left : left + width].astype(np.uint8)
    polygons: list[list[float]] = []
    for start, stop in _columns_without_holes(crop):
        piece = crop[:, start:stop]
        size = ((stop - start) * _FINE, height * _FINE)
        fine = cv2.resize(piece, size, interpolation=cv2.INTER_NEAREST)
        contours, _ = cv2.findContours(fine, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        for contour in contours:
            points = cv2.approxPolyDP(contour, 1.5, True)[:, 0].astype(float)
            if len(points) >= 3:
                points = (points + 0.5) / _FINE + (left + start, top)
                polygons.append([round(v, 3) for v in points.reshape(-1).tolist()])
    return polygons


def _columns_without_holes(crop: Array) -> list[tuple[int, int]]:
    """Cut a mask into column ranges through the middle of its holes."""
    contours, tree = cv2.findContours(crop, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cuts = {0, crop.shape[1]}
    for contour, (_, _, _, parent) in zip(contours, tree[0], strict=True):
        if parent >= 0:
            cuts.add(int(contour[:, 0, 0].min() + contour[:, 0, 0].max() + 1) // 2)
    edges = sorted(cuts)
    return list(itertools.pairwise(edges))
