"""Polygons under augmentation, against masks drawn pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from detectron2.data import transforms as T
from matplotlib.path import Path

from mvseg.data.polygons import clip_polygon, polygon_area, transform_polygons

SHAPES = {
    "triangle": [[2, 3], [17, 5], [8, 19]],
    "square": [[4, 4], [12, 4], [12, 12], [4, 12]],
    "comb": [[1, 1], [19, 1], [19, 18], [14, 18], [14, 6], [6, 6], [6, 18], [1, 18]],  # two teeth: a cut separates it
    "star": [[10, 0], [12, 7], [19, 8], [13, 12], [15, 19], [10, 14], [4, 19], [6, 12], [1, 8], [8, 7]],
}


def raster(polygon: np.ndarray, width: float, height: float, step: float = 0.1) -> np.ndarray:
    """Which points of a fine grid lie inside, by matplotlib."""
    x, y = np.meshgrid(np.arange(0, width, step) + step / 2.1, np.arange(0, height, step) + step / 2.1)
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    if len(polygon) < 3:
        return np.zeros(len(points), dtype=bool)
    return Path(np.vstack([polygon, polygon[:1]]), closed=True).contains_points(points)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("window", [(0, 0, 20, 20), (3, 8, 15, 20), (5, 5, 9, 9), (7, 7, 13, 30)], ids=str)
@pytest.mark.parametrize("backwards", [False, True])
def test_clipped_area_equals_the_raster(name: str, window: tuple[int, int, int, int], backwards: bool):
    polygon = np.array(SHAPES[name], dtype=np.float64)[:: -1 if backwards else 1]
    x0, y0, x1, y1 = window
    clipped = clip_polygon(polygon, (x0, y0), (x1, y1))
    whole = raster(polygon, 20, 20).reshape(200, 200)[10 * y0 : 10 * y1, 10 * x0 : 10 * x1]
    if len(clipped):
        assert clipped.min(0).tolist() >= [x0, y0] and (clipped <= [x1, y1]).all()
        assert np.mean(raster(clipped, 20, 20).reshape(200, 200)[10 * y0 : 10 * y1, 10 * x0 : 10 * x1] != whole) < 0.01
    assert (polygon_area(clipped) if len(clipped) else 0) == pytest.approx(whole.sum() / 100, abs=0.5)


def test_what_lies_outside_vanishes_and_what_lies_inside_stays():
    square = np.array(SHAPES["square"], dtype=np.float64)
    assert clip_polygon(square, (20, 20), (30, 30)).shape == (0, 2)
    assert clip_polygon(square, (0, 0), (20, 20)).tolist() == square.tolist()
    window = clip_polygon(square, (5, 6), (7, 7))
    assert sorted(window.tolist()) == [[5, 6], [5, 7], [7, 6], [7, 7]] and polygon_area(window) == 2
    assert polygon_area(square) == 64


def test_chain_of_transforms():
    # 20 x 20 -> 40 x 40 -> the 30 x 20 window at (8, 4) -> mirrored.
    chain = T.TransformList([T.ResizeTransform(20, 20, 40, 40), T.CropTransform(8, 4, 30, 20), T.HFlipTransform(30)])
    square = [4.0, 4.0, 12.0, 4.0, 12.0, 12.0, 4.0, 12.0]
    (moved,) = transform_polygons([square], chain)
    # x: 8..24 -> 0..16 -> 14..30; y: 8..24 -> 4..20
    assert sorted(map(tuple, moved.reshape(-1, 2).tolist())) == [(14, 4), (14, 20), (30, 4), (30, 20)]
    assert square == [4.0, 4.0, 12.0, 4.0, 12.0, 12.0, 4.0, 12.0]
    assert transform_polygons([square], T.TransformList([T.CropTransform(12, 0, 8, 20)])) == []  # touches the edge only
