"""Polygons under augmentation: cropping without the optional package shapely that fvcore's crop asks for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from detectron2.data import transforms as T

from mvseg.data.streams import FloatArray

# Square pixels below which what a crop leaves of a polygon is nothing.
SMALLEST_AREA = 1e-6


def clip_polygon(polygon: FloatArray, low: tuple[float, float], high: tuple[float, float]) -> FloatArray:
    """Cut a polygon to a rectangle.

    Args:
        polygon: corners (x, y) in pixels, shape ``(N, 2)``, float64; any simple polygon, convex or not.
        low: corner (x, y) of the rectangle with the smallest coordinates.
        high: opposite corner.

    Returns:
        Corners inside the rectangle, shape ``(M, 2)``, float64; M is 0 if nothing is left. Where the cut separates a
        polygon into parts, they stay joined along the rectangle's edge by lines without area.

    Source:
        Sutherland and Hodgman 1974, Reentrant polygon clipping, CACM 17(1).
    """
    for axis in (0, 1):
        for sign, bound in ((1.0, low[axis]), (-1.0, high[axis])):
            inside = sign * (polygon[:, axis] - bound)  # distance to the edge's line, at least 0 on the side to keep
            following, behind = np.roll(polygon, -1, axis=0), np.roll(inside, -1)
            crosses = (inside >= 0) != (behind >= 0)
            part = np.divide(inside, inside - behind, out=np.zeros_like(inside), where=crosses)
            crossing = polygon + part[:, None] * (following - polygon)
            # Every corner that is inside, and after it the point where its edge crosses the line.
            points = np.stack([polygon, crossing], axis=1).reshape(-1, 2)
            polygon = points[np.stack([inside >= 0, crosses], axis=1).reshape(-1)]
            if len(polygon) < 3:
                return np.zeros((0, 2))
    return polygon


def polygon_area(polygon: FloatArray) -> float:
    """Compute the area of a polygon.

    Args:
        polygon: corners (x, y) in pixels, shape ``(N, 2)``, float64.

    Returns:
        Square pixels, at least 0.

    Source:
        The shoelace formula.
    """
    x, y = polygon.T
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


def transform_polygons(polygons: Iterable[Sequence[float]], transforms: T.TransformList) -> list[FloatArray]:
    """Move the polygons of one object along with its augmented image.

    Args:
        polygons: ``[x0, y0, x1, y1, ...]`` each, in pixels.
        transforms: what was done to the image.

    Returns:
        Flat polygons ``(2 * corners,)``, float64, without those that a crop cut away altogether.
    """
    moved = [np.asarray(polygon, dtype=np.float64).reshape(-1, 2).copy() for polygon in polygons]
    for transform in transforms.transforms:
        if isinstance(transform, T.CropTransform):
            corner = np.array([transform.x0, transform.y0], dtype=np.float64)
            size = (float(transform.w), float(transform.h))
            cut = [clip_polygon(polygon - corner, (0.0, 0.0), size) for polygon in moved]
            moved = [polygon for polygon in cut if len(polygon) and polygon_area(polygon) > SMALLEST_AREA]
        else:
            moved = transform.apply_polygons(moved)
    return [polygon.reshape(-1) for polygon in moved]
