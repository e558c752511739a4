"""Masks of the world as polygons: holes, which files of polygons do not know, are cut open."""

from __future__ import annotations

import numpy as np
from pycocotools import mask as mask_util

from mvseg.data.sources.world import mask_to_polygons


def test_a_mask_with_two_holes():
    mask = np.ones((20, 30), bool)
    mask[5:9, 4:10] = mask[8:15, 18:22] = False
    polygons = mask_to_polygons(mask)
    filled = mask_util.decode(mask_util.merge(mask_util.frPyObjects(polygons, 20, 30))).astype(bool)
    assert np.array_equal(filled, mask) and len(polygons) == 3
