"""CenterNet's targets and losses against hand cases, brute force and numerical gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mvseg.modeling.objectives.centernet import heatmap_focal_loss, location_loss
from mvseg.modeling.proposals.centernet import CenterNet
from mvseg.modeling.proposals.centernet_head import CenterNetHead
from mvseg.modeling.proposals.centernet_targets import Grid, centernet_targets, make_grid

STRIDES, SIZES = [8, 16], [[0, 40], [30, 1e7]]


def grid_of(height: int, width: int) -> Grid:
    return make_grid([(height // s, width // s) for s in STRIDES], STRIDES)


def targets_of(boxes: list, grid: Grid, **more: object):
    tensors = [torch.tensor(b, dtype=torch.float32).reshape(-1, 4) for b in boxes]
    return centernet_targets(tensors, None, grid, size_ranges=SIZES, **more)


def test_one_box_by_hand():
    # 32 x 16 box with centre (26, 20): cell (2, 3) of stride 8, half-diagonal 17.9: only on the first level.
    targets = targets_of([[[10, 12, 42, 28]]], grid_of(64, 64))
    assert targets.centers.tolist() == [2 * 8 + 3]
    assert float(targets.heatmap[2 * 8 + 3]) == 1
    radius2 = max(2 / 81 * 32 * 16, 16)  # min_overlap 0.8: delta = 1/9
    right_neighbour = math.exp(-((36 - 26) ** 2 + (20 - 20) ** 2) / radius2)
    assert float(targets.heatmap[2 * 8 + 4]) == pytest.approx(right_neighbour, rel=1e-5)
    # 3 x 3 cells around the centre have x in {20, 28, 36} and y in {12, 20, 28}; strictly inside is y = 20 only.
    assert targets.locations.tolist() == [2 * 8 + 2, 2 * 8 + 3, 2 * 8 + 4]
    assert targets.distances[1].tolist() == pytest.approx([18 / 8, 8 / 8, 14 / 8, 8 / 8])


def test_conflict_goes_to_the_nearer_object():
    both = [[10.0, 12, 42, 28], [16, 12, 56, 28]]  # centres (26, 20) and (36, 20)
    targets = targets_of([both], grid_of(64, 64))
    cells = dict(zip(targets.locations.tolist(), targets.distances.tolist()))
    assert cells[2 * 8 + 3] == pytest.approx([18 / 8, 1, 14 / 8, 1])
    assert cells[2 * 8 + 4] == pytest.approx([(36 - 16) / 8, 1, (56 - 36) / 8, 1])


def test_overlapping_size_ranges_use_both_levels():
    targets = targets_of([[[8, 8, 58, 58]]], grid_of(64, 64))  # half-diagonal 35.4
    assert sorted(targets.centers.tolist()) == [4 * 8 + 4, 64 + 2 * 4 + 2]


def test_padding_and_other_images_change_nothing():
    boxes = [[[10.0, 12, 42, 28], [8, 8, 58, 58]]]
    small, padded = targets_of(boxes, grid_of(64, 64)), targets_of([boxes[0], []], grid_of(64, 128))

    def by_place(targets, grid: Grid, image: int, images: int):
        """Values keyed by (level, x, y)."""
        counts = [h * w for h, w in grid.shapes]
        rows, start = [], 0
        for count in counts:
            rows.append(torch.arange(start + image * count, start + (image + 1) * count))
            start += images * count
        rows = torch.cat(rows)
        keys = [(int(le), *p) for le, p in zip(grid.levels, grid.points.tolist())]
        heat = dict(zip(keys, targets.heatmap[rows, 0].tolist()))
        place = dict(zip(rows.tolist(), keys))
        centers = sorted(place[c] for c in targets.centers.tolist() if c in place)
        sides = {place[c]: d for c, d in zip(targets.locations.tolist(), targets.distances.tolist()) if c in place}
        return heat, centers, sides

    heat, centers, sides = by_place(small, grid_of(64, 64), 0, 1)
    wide_heat, wide_centers, wide_sides = by_place(padded, grid_of(64, 128), 0, 2)
    assert {k: wide_heat[k] for k in heat} == pytest.approx(heat)
    assert (centers, sides) == (wide_centers, wide_sides)
    empty_heat, *nothing = by_place(padded, grid_of(64, 128), 1, 2)
    assert set(empty_heat.values()) == {0.0} and nothing == [[], {}]


def test_center_on_the_far_edge_stays_inside():
    targets = targets_of([[[56, 56, 72, 72]]], grid_of(64, 64))
    assert targets.centers.tolist() == [63]


@pytest.mark.parametrize("kind", ["giou", "iou", "linear_iou"])
def test_location_loss_gradient(kind: str):
    predicted = (torch.rand(7, 4, dtype=torch.float64) * 3 + 0.1).requires_grad_()
    target, weights = torch.rand(7, 4, dtype=torch.float64) * 3 + 0.1, torch.rand(7, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: location_loss(x, target, normalizer=3, kind=kind, weights=weights), predicted
    )


def test_location_loss_by_hand():
    # Boxes of 2 x 2 and 4 x 4 units around the same centre: I = 4, U = 16, enclosing 16.
    loss = location_loss(torch.ones(1, 4), torch.full((1, 4), 2.0), normalizer=1)
    assert float(loss) == pytest.approx(1 - 5 / 17)
    with pytest.raises(ValueError, match="LOC_LOSS_TYPE"):
        location_loss(torch.ones(1, 4), torch.ones(1, 4), normalizer=1, kind="l1")  # type: ignore[arg-type]


def test_heatmap_loss_gradient_and_brute_force():
    logits = torch.randn(9, 2, dtype=torch.float64, requires_grad=True)
    heatmap = torch.rand(9, 2, dtype=torch.float64)
    centers, classes = torch.tensor([4, 4, 7]), torch.tensor([0, 0, 1])
    weights = torch.rand(9, dtype=torch.float64)

    def loss(x: Tensor) -> Tensor:
        return sum(heatmap_focal_loss(x, heatmap, centers, classes, normalizer=2.0, ignore_above=0.8, weights=weights))

    assert torch.autograd.gradcheck(loss, logits)
    expected = 0.0
    p = logits.sigmoid()
    for row, column in zip(centers.tolist(), classes.tolist()):
        expected -= 0.25 * weights[row] * (1 - p[row, column]) ** 2 * p[row, column].log()
    for row in range(9):
        for column in range(2):
            if p[row, column] < 0.8:
                discount = (1 - heatmap[row, column]) ** 4
                expected -= 0.75 * weights[row] * discount * p[row, column] ** 2 * (1 - p[row, column]).log()
    assert float(loss(logits)) == pytest.approx(float(expected) / 2)


def generator(**changes: object) -> CenterNet:
    arguments = {
        "head": CenterNetHead(16, 2, num_convs=1),
        "in_features": ["p3", "p4"],
        "strides": STRIDES,
        "size_ranges": SIZES,
    }
    return CenterNet(**{**arguments, **changes})


def test_initial_probability_and_narrow_group_norm():
    head = CenterNetHead(48, 1, num_convs=1, prior_prob=0.05)
    assert head.bbox_tower[1].num_groups == 8
    logits, distances = head([torch.zeros(1, 48, 4, 4)])
    assert float(logits[0].sigmoid().mean()) == pytest.approx(0.05, rel=1e-4)
    assert float(distances[0].mean()) == pytest.approx(8)


def test_proposal_of_one_hot_cell():
    logits = [torch.full((1, 1, 8, 8), -20.0), torch.full((1, 1, 4, 4), -20.0)]
    logits[1][0, 0, 1, 2] = 1.0
    distances = [torch.ones(1, 4, 8, 8), torch.tensor([1.0, 2, 0.5, 0]).reshape(1, 4, 1, 1).expand(1, 4, 4, 4)]
    (found,) = generator().eval().propose(logits, distances, grid_of(64, 64), [(60, 60)])
    assert found.proposal_boxes.tensor.tolist() == [[40 - 16, 24 - 32, 40 + 8, 24]]
    probability = torch.tensor(1.0).sigmoid().sqrt()
    assert float(found.objectness_logits.sigmoid()) == pytest.approx(float(probability), rel=1e-5)


def test_degenerate_box_is_not_empty():
    logits, distances = [torch.ones(1, 1, 1, 1)] * 2, [torch.zeros(1, 4, 1, 1)] * 2
    (found,) = generator().eval().propose(logits, distances, make_grid([(1, 1)] * 2, STRIDES), [(8, 8)])
    assert found.proposal_boxes.nonempty().all()


def test_topk_per_level_and_over_all():
    logits, distances = [torch.randn(1, 1, 8, 8), torch.randn(1, 1, 4, 4)], [torch.ones(1, 4, 8, 8)] * 2
    distances[1] = torch.ones(1, 4, 4, 4)
    few = generator(pre_nms_topk=(5, 3), post_nms_topk=(4, 9)).eval()
    (found,) = few.propose(logits, distances, grid_of(64, 64), [(64, 64)])
    assert len(found) == 6  # three of each level, far apart
    (found,) = few.train().propose(logits, distances, grid_of(64, 64), [(64, 64)])
    assert len(found) == 4
    assert (found.objectness_logits.diff() <= 0).all()
