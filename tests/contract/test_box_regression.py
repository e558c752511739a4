"""Box offsets and box losses, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from detectron2.modeling.box_regression import Box2BoxTransform, _dense_box_regression_loss
from detectron2.structures import Boxes


def random_boxes(number: int) -> torch.Tensor:
    corner = torch.rand(number, 2) * 50
    return torch.cat((corner, corner + 5 + torch.rand(number, 2) * 40), dim=1)


def test_offsets_by_hand():
    source = torch.tensor([[10.0, 10.0, 20.0, 30.0]])
    target = torch.tensor([[15.0, 10.0, 35.0, 30.0]])
    deltas = Box2BoxTransform((10.0, 10.0, 5.0, 5.0)).get_deltas(source, target)
    # Centre 15 -> 25 over width 10; width 10 -> 20; height unchanged.
    torch.testing.assert_close(deltas, torch.tensor([[10.0, 0.0, 5 * math.log(2), 0.0]]))
    with pytest.raises(AssertionError):
        Box2BoxTransform((1.0, 1.0, 1.0, 1.0)).get_deltas(torch.zeros(1, 4), target)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_apply_inverts_get(weights):
    transform = Box2BoxTransform(weights)
    source, target = random_boxes(20), random_boxes(20)
    deltas = transform.get_deltas(source, target)
    torch.testing.assert_close(transform.apply_deltas(deltas, source), target, rtol=1e-4, atol=1e-3)
    several = transform.apply_deltas(torch.cat((deltas, torch.zeros_like(deltas)), dim=1), source)
    torch.testing.assert_close(several, torch.cat((target, source), dim=1), rtol=1e-4, atol=1e-3)
    assert transform.apply_deltas(deltas.half(), source).dtype == torch.float32


def test_growth_is_clamped():
    box = torch.tensor([[0.0, 0.0, 16.0, 16.0]])
    grown = Box2BoxTransform((1.0, 1.0, 1.0, 1.0)).apply_deltas(torch.tensor([[0.0, 0.0, 50.0, 50.0]]), box)
    torch.testing.assert_close(grown, torch.tensor([[-492.0, -492.0, 508.0, 508.0]]))


def test_dense_smooth_l1_counts_only_foreground():
    transform = Box2BoxTransform((1.0, 1.0, 1.0, 1.0))
    anchors = [Boxes(random_boxes(3)), Boxes(random_boxes(2))]
    everywhere = Boxes.cat(anchors).tensor
    truth = [random_boxes(5), random_boxes(5)]
    exact = torch.stack([transform.get_deltas(everywhere, boxes) for boxes in truth])
    error = torch.randn(2, 5, 4)
    predicted = exact + error
    foreground = torch.tensor([[True, False, True, False, True], [False, True, False, False, False]])
    loss = _dense_box_regression_loss(
        anchors, transform, [predicted[:, :3], predicted[:, 3:]], truth, foreground, "smooth_l1", smooth_l1_beta=0.5
    )
    wrong = error[foreground].abs().double()
    expected = torch.where(wrong < 0.5, wrong**2, wrong - 0.25).sum()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    nothing = _dense_box_regression_loss(
        anchors, transform, [predicted[:, :3], predicted[:, 3:]], truth, torch.zeros_like(foreground)
    )
    assert nothing.item() == 0


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # Anchor (0, 0, 2, 2) predicted unchanged, truth (1, 0, 3, 2): IoU 1/3, enclosing area 6, centre distance 1.
        ("giou", 1 - 1 / 3 + 0.0),
        ("diou", 1 - 1 / 3 + 1 / (9 + 4)),
        ("ciou", 1 - 1 / 3 + 1 / (9 + 4)),
    ],
)
def test_dense_overlap_losses(kind, expected):
    loss = _dense_box_regression_loss(
        [Boxes(torch.tensor([[0.0, 0.0, 2.0, 2.0]]))],
        Box2BoxTransform((1.0, 1.0, 1.0, 1.0)),
        [torch.zeros(1, 1, 4)],
        [torch.tensor([[1.0, 0.0, 3.0, 2.0]])],
        torch.tensor([[True]]),
        box_reg_loss_type=kind,
    )
    assert loss.item() == pytest.approx(expected, abs=1e-5)


def test_unknown_loss_is_an_error():
    with pytest.raises(ValueError, match="foo"):
        _dense_box_regression_loss(
            [Boxes(torch.ones(1, 4))],
            Box2BoxTransform((1.0, 1.0, 1.0, 1.0)),
            [torch.zeros(1, 1, 4)],
            [torch.ones(1, 4)],
            torch.tensor([[True]]),
            box_reg_loss_type="foo",
        )
