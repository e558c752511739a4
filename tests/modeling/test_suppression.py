"""The best boxes after suppression, block by block, against suppression of all."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import nms

from mvseg.modeling.proposals import suppression
from mvseg.modeling.proposals.suppression import best_after_suppression


def crowded(count: int) -> tuple[Tensor, Tensor]:
    """Boxes with whole coordinates in bunches, so that overlaps hit thresholds exactly, and some equal scores."""
    draw = torch.Generator().manual_seed(count)
    corner = torch.randint(0, 12, (count, 2), generator=draw) + 40 * torch.randint(0, 3, (count, 2), generator=draw)
    side = torch.randint(0, 20, (count, 2), generator=draw)
    boxes = torch.cat([corner, corner + side], 1).float()
    return boxes, torch.randint(0, 200, (count,), generator=draw) / 200


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.6, 0.75, 0.9, 1.0])
@pytest.mark.parametrize("block", [1, 7, 1000])
def test_best_are_the_first_of_all(threshold: float, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suppression, "BOXES_AT_ONCE", block)
    boxes, scores = crowded(300)
    everything = nms(boxes, scores, threshold)
    assert 3 < len(everything) <= 300
    for count in (0, 3, len(everything), 1000):
        assert torch.equal(best_after_suppression(boxes, scores, threshold, count), everything[:count])


def test_no_boxes_and_boxes_without_area() -> None:
    assert len(best_after_suppression(torch.zeros(0, 4), torch.zeros(0), 0.5, 10)) == 0
    boxes, scores = torch.tensor([[3.0, 3, 3, 3], [3, 3, 3, 3], [0, 0, 9, 9]]), torch.tensor([0.1, 0.2, 0.3])
    assert torch.equal(best_after_suppression(boxes, scores, 0.5, 10), nms(boxes, scores, 0.5))
