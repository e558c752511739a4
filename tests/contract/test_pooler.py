"""Pooling from a pyramid: the level of each box, and what is read there."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.structures import Boxes


def square(side: float, x: float = 0.0, y: float = 0.0) -> list[float]:
    return [x, y, x + side, y + side]


def test_levels_follow_the_box_size():
    boxes = Boxes(torch.tensor([square(s) for s in (10, 111.9, 112, 223.9, 224, 447.9, 448, 5000, 0)]))
    levels = assign_boxes_to_levels([boxes], 2, 5, 224, 4)
    assert levels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 0]


def planes(number: int, images: int = 2) -> list[torch.Tensor]:
    """Features that hold 1000 * image + pixel x + y / 10, for every level."""
    levels = []
    for level in range(number):
        stride = 4 * 2**level
        side = 512 // stride
        y, x = torch.meshgrid(*(2 * [(torch.arange(side) + 0.5) * stride]), indexing="ij")
        levels.append(torch.stack([1000.0 * image + x + y / 10 for image in range(images)])[:, None])
    return levels


def test_every_box_keeps_its_row_and_place():
    boxes = [
        Boxes(torch.tensor([square(40, 100, 60), square(300, 50, 90), square(120, 200, 10)])),
        Boxes(torch.tensor([square(200, 20, 20), square(60, 300, 300)])),
    ]
    pooler = ROIPooler(2, [1 / 4, 1 / 8, 1 / 16, 1 / 32], 0, "ROIAlignV2")
    pooled = pooler(planes(4), boxes)
    assert pooled.shape == (5, 1, 2, 2)
    row = 0
    for image, own in enumerate(boxes):
        for x0, y0, x1, _ in own.tensor.tolist():
            quarter = (x1 - x0) / 4
            x = torch.tensor([x0 + quarter, x0 + 3 * quarter])
            y = torch.tensor([y0 + quarter, y0 + 3 * quarter])
            torch.testing.assert_close(pooled[row, 0], 1000.0 * image + x + y[:, None] / 10, rtol=0, atol=0.02)
            row += 1


def test_one_level_and_no_boxes():
    features = [torch.randn(2, 3, 16, 16, requires_grad=True)]
    pooler = ROIPooler((3, 5), [1 / 8], 2, "ROIAlign")
    assert pooler(features, [Boxes(torch.tensor([square(64)])), Boxes(torch.zeros(0, 4))]).shape == (1, 3, 3, 5)
    several = ROIPooler(7, [1 / 4, 1 / 8], 2, "ROIAlignV2")
    empty = several([torch.randn(1, 3, 16, 16), torch.randn(1, 3, 8, 8)], [Boxes(torch.zeros(0, 4))])
    assert empty.shape == (0, 3, 7, 7)


def test_max_pooling_of_regions():
    features = torch.arange(64.0).view(1, 1, 8, 8)
    pooled = ROIPooler(1, [1 / 4], 0, "ROIPool")([features], [Boxes(torch.tensor([[4.0, 4.0, 12.0, 12.0]]))])
    assert pooled.item() == features[0, 0, 3, 3].item()


def test_levels_must_be_contiguous_powers_of_two():
    with pytest.raises(AssertionError):
        ROIPooler(7, [1 / 4, 1 / 16], 0, "ROIAlignV2")
    with pytest.raises(AssertionError):
        ROIPooler(7, [1 / 6], 0, "ROIAlignV2")
    with pytest.raises(ValueError):
        ROIPooler(7, [1 / 4], 0, "Other")
