"""Soft suppression, against a loop over boxes in float64."""

from __future__ import annotations

import math
import time

import pytest
import torch

from mvseg.modeling.roi_heads import selection
from mvseg.modeling.roi_heads.selection import select_detections


def overlap(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    area = width * height
    return area / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - area)


def naive(boxes, scores, sigma, threshold, agnostic=False):
    """Take the best, lower the others of its class, again and again: (score, row, class), best first."""
    left = [
        [float(scores[r, c]), r, c]
        for r in range(len(boxes))
        for c in range(scores.shape[1])
        if scores[r, c] > threshold[c]
    ]
    found = []
    while left:
        left.sort(key=lambda entry: -entry[0])
        score, row, cls = left.pop(0)
        found.append((score, row, cls))
        for entry in left:
            if agnostic or entry[2] == cls:
                entry[0] *= math.exp(-(overlap(boxes[row].tolist(), boxes[entry[1]].tolist()) ** 2) / sigma)
        left = [entry for entry in left if entry[0] > threshold[entry[2]]]
    return found


def draw(seed: int, regions: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    corner = torch.rand(regions, 2) * 60
    boxes = torch.cat([corner, corner + 10 + 30 * torch.rand(regions, 2)], 1)
    return boxes, torch.rand(regions, classes) ** 2


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("topk", [-1, 7])
def test_equals_a_loop_over_boxes(agnostic: bool, topk: int):
    boxes, scores = draw(1, 30, 4)
    limits = torch.tensor([0.1, 0.02, 0.3, 0.05])
    found, rows = select_detections(
        boxes, scores, (200, 200), score_threshold=limits, nms_threshold=0.5, topk=topk,
        class_agnostic=agnostic, soft_sigma=0.5,
    )  # fmt: skip
    expected = naive(boxes, scores.double(), 0.5, limits.tolist(), agnostic)
    expected = expected if topk < 0 else expected[:topk]
    assert len(expected) >= 7
    assert [(r, c) for _, r, c in expected] == list(zip(rows.tolist(), found.pred_classes.tolist()))
    torch.testing.assert_close(found.scores, torch.tensor([s for s, _, _ in expected]), rtol=1e-5, atol=0)
    torch.testing.assert_close(found.pred_boxes.tensor, boxes[rows])


def test_two_boxes_by_hand():
    """IoU 1/3: the worse score 0.8 becomes 0.8 exp(-(1/9) / 0.5), and is not taken away as by a hard threshold."""
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 5.0, 10.0, 15.0]])
    scores = torch.tensor([[0.9], [0.8]])
    given = {"score_threshold": 0.0, "nms_threshold": 0.3, "topk": 10}
    found, _ = select_detections(boxes, scores, (20, 20), **given, soft_sigma=0.5)
    assert found.scores.tolist() == pytest.approx([0.9, 0.8 * math.exp(-2 / 9)])
    hard, _ = select_detections(boxes, scores, (20, 20), **given)
    assert hard.scores.tolist() == pytest.approx([0.9])
    none, rows = select_detections(boxes[:0], scores[:0], (20, 20), **given, soft_sigma=0.5)
    assert len(none) == len(rows) == 0


def test_few_candidates_first_gives_the_same(monkeypatch: pytest.MonkeyPatch):
    """The best scores all fall far, so that what was left out at first belongs to the answer."""
    boxes = torch.cat([torch.tensor([[0.0, 0.0, 40.0, 40.0]]).repeat(12, 1), draw(2, 20, 1)[0]])
    scores = torch.cat([torch.linspace(0.9, 0.8, 12), torch.linspace(0.5, 0.3, 20)])[:, None]
    given = {"score_threshold": 1e-3, "nms_threshold": 0.5, "topk": 15, "soft_sigma": 0.3}
    whole = select_detections(boxes, scores, (100, 100), **given)
    monkeypatch.setattr(selection, "FIRST_CANDIDATES", 12)
    part = select_detections(boxes, scores, (100, 100), **given)
    assert part[1].tolist() == whole[1].tolist()
    assert part[0].scores.tolist() == whole[0].scores.tolist()
    assert whole[1].max() >= 12


def test_many_words_take_no_longer_than_a_moment():
    boxes, scores = draw(3, 256, 1203)
    start = time.perf_counter()
    found, _ = select_detections(
        boxes, scores, (200, 200), score_threshold=1e-4, nms_threshold=0.5, topk=300, soft_sigma=0.5
    )
    assert len(found) == 300
    assert time.perf_counter() - start < 5  # measured: well below a second


def test_no_candidate_and_no_limit_of_their_number():
    boxes = torch.tensor([[0.0, 0, 8, 8], [1, 1, 9, 9]])
    for limit, count in ((0.5, 0), (0.1, 2)):
        found, rows = select_detections(
            boxes, torch.tensor([[0.3], [0.2]]), (20, 20), score_threshold=limit, nms_threshold=0.5, topk=-1,
            soft_sigma=100.0,
        )  # fmt: skip
        assert len(found) == len(rows) == count
