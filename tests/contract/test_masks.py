"""Bitmaps, polygons and masks relative to boxes, against rectangles whose pixels are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.layers import paste_masks_in_image
from detectron2.structures import BitMasks, Boxes, PolygonMasks, ROIMasks, polygons_to_bitmask
from detectron2.structures.masks import polygon_area, rasterize_polygons_within_box


def rectangle(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([x0, y0, x1, y0, x1, y1, x0, y1], dtype=np.float64)


def test_polygons_to_bitmask_is_the_union():
    mask = polygons_to_bitmask([rectangle(2, 3, 6, 5), rectangle(5, 1, 9, 4)], 8, 12)
    expected = np.zeros((8, 12), dtype=bool)
    expected[3:5, 2:6] = True
    expected[1:4, 5:9] = True
    assert mask.dtype == bool
    assert np.array_equal(mask, expected)
    assert not polygons_to_bitmask([], 8, 12).any()


def test_polygon_area_and_boxes():
    masks = PolygonMasks([[rectangle(0, 0, 4, 5), np.array([10.0, 10, 14, 10, 10, 16])], [rectangle(1, 1, 2, 3)]])
    assert masks.area().tolist() == [20 + 12, 2]
    assert polygon_area(np.array([0.0, 4, 4, 0]), np.array([0.0, 0, 5, 5])) == 20
    assert masks.get_bounding_boxes().tensor.tolist() == [[0, 0, 14, 16], [1, 1, 2, 3]]
    assert PolygonMasks([[], [rectangle(0, 0, 1, 1)]]).nonempty().tolist() == [False, True]


@pytest.mark.parametrize("item", [1, slice(1, 3), [0, 2], torch.tensor([2, 0]), torch.tensor([True, False, True])])
def test_polygons_are_indexed_like_tensors(item):
    masks = PolygonMasks([[rectangle(0, 0, 1 + i, 1)] for i in range(3)])
    expected = torch.arange(1.0, 4.0)[item].reshape(-1)
    assert masks[item].area().tolist() == expected.tolist()
    assert len(PolygonMasks.cat([masks, masks[item]])) == 3 + len(expected)


def test_polygons_are_checked():
    with pytest.raises(ValueError):
        PolygonMasks([[np.zeros(4)]])
    with pytest.raises(ValueError):
        PolygonMasks([np.zeros(6)])


def test_rasterize_within_box_stretches_the_box():
    # The left half of the box is covered, the right half is not, whatever the box's shape.
    mask = rasterize_polygons_within_box([rectangle(0, 0, 15, 100)], np.array([10.0, 20.0, 20.0, 60.0]), 8)
    assert mask.shape == (8, 8)
    assert mask[:, :4].all()
    assert not mask[:, 4:].any()
    cropped = PolygonMasks([[rectangle(0, 0, 15, 100)]]).crop_and_resize(torch.tensor([[10.0, 20.0, 20.0, 60.0]]), 8)
    assert torch.equal(cropped[0], mask)


def test_bitmask_crop_at_cell_size_is_slicing():
    masks = BitMasks(torch.rand(3, 20, 24) > 0.5)
    boxes = torch.tensor([[2.0, 3.0, 10.0, 11.0], [0.0, 0.0, 8.0, 8.0], [16.0, 12.0, 24.0, 20.0]])
    cropped = masks.crop_and_resize(boxes, 8)
    assert cropped.dtype == torch.bool
    for mask, crop, box in zip(masks, cropped, boxes.int().tolist()):
        assert torch.equal(crop, mask[box[1] : box[3], box[0] : box[2]])


def test_bitmask_boxes_and_indexing():
    tensor = torch.zeros(3, 10, 12, dtype=torch.bool)
    tensor[0, 2:5, 3:9] = True
    tensor[2, 9, 11] = True
    masks = BitMasks(tensor)
    assert masks.get_bounding_boxes().tensor.tolist() == [[3, 2, 9, 5], [0, 0, 0, 0], [11, 9, 12, 10]]
    assert masks.nonempty().tolist() == [True, False, True]
    assert masks[2].tensor.shape == (1, 10, 12)
    assert len(masks[torch.tensor([True, False, True])]) == 2
    assert len(BitMasks.cat([masks, masks])) == 6
    rasterised = BitMasks.from_polygon_masks(PolygonMasks([[rectangle(3, 2, 9, 5)]]), 10, 12)
    assert torch.equal(rasterised.tensor[0], tensor[0])
    assert BitMasks.from_polygon_masks([], 10, 12).tensor.shape == (0, 10, 12)
    with pytest.raises(AssertionError):
        BitMasks(torch.zeros(10, 12))


def test_paste_full_masks_fills_the_boxes():
    boxes = torch.tensor([[3.0, 2.0, 9.0, 7.0], [-4.0, -4.0, 4.0, 4.0], [8.0, 6.0, 40.0, 40.0]])
    pasted = paste_masks_in_image(torch.ones(3, 14, 14), boxes, (10, 12))
    expected = torch.zeros(3, 10, 12, dtype=torch.bool)
    expected[0, 2:7, 3:9] = True
    expected[1, 0:4, 0:4] = True
    expected[2, 6:, 8:] = True
    assert torch.equal(pasted, expected)
    assert paste_masks_in_image(torch.ones(0, 14, 14), torch.zeros(0, 4), (10, 12)).shape == (0, 10, 12)


def test_paste_interpolates_between_mask_cells():
    # A 2 x 2 mask with columns 0 and 1 over 8 pixels: cell centres are at 2 and 6, pixel centres at 0.5, 1.5, ...
    mask = torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])
    soft = paste_masks_in_image(mask, torch.tensor([[0.0, 0.0, 8.0, 8.0]]), (8, 8), threshold=-1)
    inner = soft[0, 4, 2:6].float() / 255
    torch.testing.assert_close(inner, torch.tensor([0.125, 0.375, 0.625, 0.875]), atol=1 / 255, rtol=0)
    assert soft.dtype == torch.uint8
    hard = ROIMasks(mask).to_bitmasks(Boxes(torch.tensor([[0.0, 0.0, 8.0, 8.0]])), 8, 8, threshold=0.8)
    assert hard.tensor[0, 4].tolist() == [False] * 5 + [True] * 2 + [False]
    assert ROIMasks(torch.zeros(3, 2, 2))[torch.tensor([0, 2])].tensor.shape == (2, 2, 2)


def test_crop_and_paste_are_inverse():
    masks = BitMasks.from_polygon_masks([[rectangle(4, 4, 20, 28)]], 32, 32)
    box = torch.tensor([[0.0, 0.0, 32.0, 32.0]])
    pasted = paste_masks_in_image(masks.crop_and_resize(box, 16).float(), box, (32, 32))
    assert torch.equal(pasted, masks.tensor)
