"""Boxes, instances and image batches, against pixel counting and hand-worked numbers."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, BoxMode, ImageList, Instances, pairwise_ioa, pairwise_iou
from detectron2.structures.boxes import pairwise_intersection, pairwise_point_box_distance


def integer_boxes(number: int, side: int = 12) -> torch.Tensor:
    corner = torch.randint(0, side - 2, (number, 2))
    size = torch.stack([torch.randint(1, side - int(c.max()), (2,)) for c in corner])
    return torch.cat((corner, corner + size), dim=1).float()


def as_pixels(boxes: torch.Tensor, side: int = 12) -> torch.Tensor:
    pixels = torch.zeros(len(boxes), side, side, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(pixels, boxes.int().tolist()):
        mask[y0:y1, x0:x1] = True
    return pixels.flatten(1)


def test_pairwise_overlaps_count_pixels():
    first, second = integer_boxes(9), integer_boxes(7)
    a, b = as_pixels(first)[:, None], as_pixels(second)[None]
    both, either = (a & b).sum(2).float(), (a | b).sum(2).float()
    assert torch.equal(pairwise_intersection(Boxes(first), Boxes(second)), both)
    torch.testing.assert_close(pairwise_iou(Boxes(first), Boxes(second)), both / either)
    torch.testing.assert_close(pairwise_ioa(Boxes(first), Boxes(second)), both / b.sum(2))
    assert torch.equal(Boxes(first).area(), as_pixels(first).sum(1).float())


def test_overlap_with_an_empty_box_is_zero_and_finite():
    point = Boxes(torch.tensor([[3.0, 3.0, 3.0, 3.0]]))
    assert pairwise_iou(point, point).item() == 0
    assert pairwise_ioa(point, point).item() == 0


@pytest.mark.parametrize("make", [list, tuple, np.asarray, torch.tensor])
def test_box_mode_keeps_the_container(make):
    xywh = make([10.0, 20.0, 5.0, 6.0]) if make in (list, tuple) else make([[10.0, 20.0, 5.0, 6.0]])
    xyxy = BoxMode.convert(xywh, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
    assert type(xyxy) is type(xywh)
    assert np.allclose(xyxy, [10, 20, 15, 26])
    assert np.allclose(BoxMode.convert(xyxy, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS), [10, 20, 5, 6])
    assert np.allclose(xywh, [10, 20, 5, 6]), "the input must not change"


def test_relative_boxes_need_the_image_size():
    with pytest.raises((AssertionError, NotImplementedError)):
        BoxMode.convert([0.1, 0.2, 0.3, 0.4], BoxMode.XYXY_REL, BoxMode.XYXY_ABS)


def test_boxes_methods():
    boxes = Boxes(torch.tensor([[-5.0, 2.0, 30.0, 9.0], [3.0, 4.0, 3.5, 8.0]]))
    assert boxes.nonempty(threshold=1.0).tolist() == [True, False]
    assert boxes.get_centers().tolist() == [[12.5, 5.5], [3.25, 6.0]]
    assert boxes.inside_box((10, 20)).tolist() == [False, True]
    assert boxes.inside_box((10, 20), boundary_threshold=11).tolist() == [True, True]
    boxes.clip((7, 20))
    assert boxes.tensor.tolist() == [[0, 2, 20, 7], [3, 4, 3.5, 7]]
    boxes.scale(2, 10)
    assert boxes.tensor[0].tolist() == [0, 20, 40, 70]
    assert boxes[1].tensor.shape == (1, 4)
    assert len(boxes[torch.tensor([True, False])]) == 1
    assert len(Boxes.cat([boxes, boxes[:1]])) == 3
    assert Boxes(torch.zeros(0)).tensor.shape == (0, 4)
    distances = pairwise_point_box_distance(torch.tensor([[10.0, 30.0]]), boxes[:1])
    assert distances.tolist() == [[[10, 10, 30, 40]]]
    with pytest.raises(AssertionError):
        Boxes(torch.zeros(2, 5))
    with pytest.raises(AssertionError):
        Boxes(torch.tensor([[0.0, 0.0, float("nan"), 1.0]])).clip((5, 5))


def some_instances() -> Instances:
    return Instances((4, 5), gt_boxes=Boxes(torch.rand(3, 4)), scores=torch.arange(3.0), names=["a", "b", "c"])


def test_instances_index_all_fields_together():
    instances = some_instances()
    for item, expected in ((1, [1]), (-1, [2]), (slice(0, 2), [0, 1])):
        part = instances[item]
        assert part.scores.tolist() == expected
        assert part.names == ["abc"[i] for i in expected]
        assert torch.equal(part.gt_boxes.tensor, instances.gt_boxes.tensor[expected])
        assert part.image_size == (4, 5)
    instances.remove("names")
    assert instances[instances.scores > 0.5].scores.tolist() == [1, 2]
    with pytest.raises(IndexError):
        instances[3]


def test_instances_refuse_what_does_not_fit():
    instances = some_instances()
    with pytest.raises(AssertionError):
        instances.labels = torch.zeros(2)
    with pytest.raises(AttributeError):
        _ = instances.labels
    with pytest.raises(NotImplementedError):
        iter(instances)
    with pytest.raises(NotImplementedError):
        len(Instances((4, 5)))
    assert not instances.has("labels")
    assert instances.image_size == (4, 5)


def test_instances_cat_copy_and_move():
    instances = some_instances()
    both = Instances.cat([instances, instances[1:]])
    assert both.scores.tolist() == [0, 1, 2, 1, 2]
    assert both.names == ["a", "b", "c", "b", "c"]
    assert len(both.gt_boxes) == 5
    other = copy.deepcopy(instances).to("cpu")
    other.scores += 1
    assert instances.scores.tolist() == [0, 1, 2]
    assert set(other.get_fields()) == {"gt_boxes", "scores", "names"}


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (7, 9)),
        ({"size_divisibility": 4}, (8, 12)),
        ({"padding_constraints": {"square_size": 16}}, (16, 16)),
        ({"size_divisibility": 4, "padding_constraints": {"size_divisibility": 8}}, (8, 16)),
    ],
)
def test_image_list_pads_right_and_bottom(options, shape):
    images = [torch.rand(3, 7, 5), torch.rand(3, 6, 9)]
    batch = ImageList.from_tensors(images, pad_value=-1.0, **options)
    assert batch.tensor.shape == (2, 3, *shape)
    assert len(batch) == 2
    for index, image in enumerate(images):
        assert torch.equal(batch[index], image)
        assert (batch.tensor[index] == -1).sum() == 3 * (shape[0] * shape[1] - image[0].numel())
    assert [tuple(size) for size in batch.image_sizes] == [(7, 5), (6, 9)]
