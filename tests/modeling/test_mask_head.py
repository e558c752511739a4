"""The mask head: the same logits with less work, and one mask for detections with one box."""

from __future__ import annotations

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from detectron2.structures import Boxes, Instances
from torch import Tensor

from mvseg.modeling.roi_heads import mask
from mvseg.modeling.roi_heads.mask import add_masks, mask_logits


def head_of(classes: int, kind: type = MaskRCNNConvUpsampleHead) -> MaskRCNNConvUpsampleHead:
    torch.manual_seed(0)
    head = kind(ShapeSpec(channels=6, height=5, width=4), num_classes=classes, conv_dims=[8, 8, 10]).double()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn_like(parameter) / 3)
    return head


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("regions", [0, 1, 5])
def test_logits_and_gradients_are_those_of_the_layers(
    classes: int, regions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mask, "REGIONS_AT_ONCE", 2)
    head = head_of(classes)
    maps = torch.randn(regions, 6, 5, 4, dtype=torch.float64, requires_grad=True)
    wanted, found = head.layers(maps), mask_logits(head, maps)
    assert found.shape == wanted.shape == (regions, classes, 10, 8)
    torch.testing.assert_close(found, wanted)
    upstream = torch.randn_like(wanted)
    variables = [maps, *head.parameters()]
    for want, got in zip(*(torch.autograd.grad(x, variables, upstream) for x in (wanted, found)), strict=True):
        torch.testing.assert_close(got, want)


def detections(*boxes: list[list[float]]) -> list[Instances]:
    result = []
    for image in boxes:
        classes = torch.arange(len(image)) % 2
        tensor = torch.tensor(image).reshape(-1, 4)
        result.append(Instances((50, 50), pred_boxes=Boxes(tensor), pred_classes=classes))
    return result


ONE, TWO = [3.0, 4, 20, 30], [10.0, 10, 40, 45]


def regions_of(boxes: list[Boxes]) -> Tensor:
    """Features that say which box of which image they belong to."""
    rows = [(image, *box) for image, some in enumerate(boxes) for box in some.tensor.tolist()]
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 5).sum(1)[:, None, None, None].expand(-1, 6, 5, 4) / 50


@pytest.mark.parametrize("classes", [1, 2])
def test_detections_with_one_box_share_the_work(classes: int) -> None:
    head, asked = head_of(classes).eval(), []

    def region_maps(boxes: list[Boxes]) -> Tensor:
        asked.append([len(b) for b in boxes])
        return regions_of(boxes)

    images = [[TWO, ONE, TWO, TWO], [], [ONE, TWO]]
    with torch.no_grad():
        wanted = head(regions_of([d.pred_boxes for d in detections(*images)]), detections(*images))
        found = add_masks(head, region_maps, detections(*images))
        nothing = add_masks(head, region_maps, detections([], []))
    assert asked == [[2, 0, 2], [0, 0]]
    for want, got in zip(wanted, found, strict=True):
        assert got.pred_masks.shape == (len(want), 1, 10, 8)
        torch.testing.assert_close(got.pred_masks, want.pred_masks)
    assert [d.pred_masks.shape for d in nothing] == [(0, 1, 10, 8)] * 2


def test_a_head_with_its_own_ways_keeps_them() -> None:
    class Inverted(MaskRCNNConvUpsampleHead):
        def layers(self, x: Tensor) -> Tensor:
            return -super().layers(x)

    plain, other = head_of(1).eval(), head_of(1, Inverted).eval()
    with torch.no_grad():
        (one,), (two,) = (add_masks(head, regions_of, detections([ONE, TWO])) for head in (plain, other))
    torch.testing.assert_close(two.pred_masks, 1 - one.pred_masks)
