"""Classifiers on any columns and words; selection of detections with many classes."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from mvseg.modeling.classifier import LinearClassifier, TextClassifier
from mvseg.modeling.roi_heads import selection
from mvseg.modeling.roi_heads.selection import keep_best_class, select_detections

FEATURES = torch.randn(5, 12, generator=torch.Generator().manual_seed(1))
ROWS = torch.randn(7, 8, generator=torch.Generator().manual_seed(2))


def both(background: bool) -> list:
    return [
        TextClassifier(12, ROWS, bias=-1.5, background=background),
        LinearClassifier(12, 7, background=background),
    ]


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("index", [0, 1], ids=["text", "linear"])
def test_columns_are_a_subset_of_all_columns(index: int, background: bool):
    classifier = both(background)[index]
    full, columns = classifier(FEATURES), torch.tensor([6, 0, 3])
    some = classifier(FEATURES, columns)
    assert full.shape == (5, 7 + background) and some.shape == (5, 3 + background)
    expected = torch.cat([full[:, columns], full[:, 7:]], 1)
    torch.testing.assert_close(some, expected)


def test_text_logits_by_hand():
    classifier = TextClassifier(12, ROWS, temperature=20.0, bias=-1.5, background=True)
    hidden = FEATURES @ classifier.linear.weight.t() + classifier.linear.bias
    cosine = np.empty((5, 7))
    for i, h in enumerate(hidden.detach().numpy()):
        for j, r in enumerate(ROWS.numpy()):
            cosine[i, j] = h @ r / np.linalg.norm(h) / np.linalg.norm(r)
    logits = classifier(FEATURES).detach().numpy()
    np.testing.assert_allclose(logits[:, :7], 20 * cosine - 1.5, rtol=1e-4)
    np.testing.assert_allclose(logits[:, 7], -1.5)


def test_permuted_words_permute_the_scores():
    classifier, order = TextClassifier(12, ROWS).eval(), torch.tensor([3, 1, 6, 0, 2, 5, 4])
    before = classifier(FEATURES)
    classifier.set_test_rows(ROWS[order])
    torch.testing.assert_close(classifier(FEATURES), before[:, order])


def test_test_words_do_not_touch_training():
    classifier = TextClassifier(12, ROWS)
    trained = classifier(FEATURES)
    classifier.set_test_rows(torch.eye(8)[:3])
    assert torch.equal(classifier(FEATURES), trained) and classifier.num_columns == 7
    assert classifier.eval()(FEATURES).shape == (5, 3) and classifier.num_columns == 3
    assert copy.deepcopy(classifier)(FEATURES).shape == (5, 3)
    classifier.set_test_rows(None)
    assert torch.equal(classifier(FEATURES), trained)
    with pytest.raises(ValueError, match="8 wide"):
        classifier.set_test_rows(torch.zeros(3, 9))


def test_stages_share_their_rows():
    stages = nn.ModuleList(TextClassifier(12, ROWS) for _ in range(3))
    for later in stages[1:]:
        later.share_rows(stages[0])
    stages.double().eval()  # as a move to another device, by whichever of them it comes first
    assert len({stage.rows.data_ptr() for stage in stages}) == 1 and stages[2].rows.dtype == torch.float64
    stages[1].set_test_rows(ROWS[:2])
    assert [stage.num_columns for stage in stages] == [2, 2, 2]
    stages[0].set_test_rows(None)
    assert [stage.num_columns for stage in stages] == [7, 7, 7]


def test_linear_test_columns():
    classifier = LinearClassifier(12, 7).eval()
    full = classifier(FEATURES)
    classifier.set_test_columns(torch.tensor([5, 2]))
    torch.testing.assert_close(classifier(FEATURES), full[:, [5, 2, 7]])
    torch.testing.assert_close(classifier(FEATURES, torch.tensor([1])), full[:, [2, 7]])
    assert classifier.num_columns == 2 and classifier.train().num_columns == 7


@pytest.mark.parametrize("background", [True, False])
def test_a_word_is_the_mean_of_the_logits_of_its_columns(background: bool):
    classifier = LinearClassifier(12, 7, background=background).eval()
    torch.nn.init.normal_(classifier.bias)
    full = classifier(FEATURES)
    groups = [[5, 0, 2], [3], [], [2]]
    classifier.set_test_columns([torch.tensor(g, dtype=torch.long) for g in groups])
    found = classifier(FEATURES)
    assert classifier.num_columns == 4 and found.shape == (5, 4 + background)
    torch.testing.assert_close(found[:, 0], (full[:, 5] + full[:, 0] + full[:, 2]) / 3)
    torch.testing.assert_close(found[:, [1, 3]], full[:, [3, 2]])
    assert (found[:, 2] == -torch.inf).all() and (found[:, 2].sigmoid() == 0).all()
    if background:
        torch.testing.assert_close(found[:, -1], full[:, -1])
    torch.testing.assert_close(classifier(FEATURES, torch.tensor([1, 0])), found[:, [1, 0, 4][: 2 + background]])
    assert torch.equal(classifier.train()(FEATURES), full) and classifier.num_columns == 7
    classifier.eval().set_test_columns(None)
    assert torch.equal(classifier(FEATURES), full)


def test_words_are_not_stored():
    assert set(TextClassifier(12, ROWS, bias=0.0).state_dict()) == {"linear.weight", "linear.bias", "cls_bias"}
    assert set(LinearClassifier(12, 7).state_dict()) == {"weight", "bias"}


def test_prior_probability():
    logits = LinearClassifier(12, 7, prior_prob=0.02)(torch.zeros(1, 12))
    torch.testing.assert_close(logits.sigmoid(), torch.full((1, 8), 0.02))


def test_gradient_reaches_the_projection_only():
    classifier = TextClassifier(12, ROWS.double(), bias=0.5).double()
    features = FEATURES.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: classifier(x, torch.tensor([2, 0])), features)
    assert {name for name, _ in classifier.named_parameters()} == {"linear.weight", "linear.bias", "cls_bias"}


def test_autocast_keeps_the_logits_exact():
    classifier = TextClassifier(12, ROWS)
    with torch.autocast("cpu", torch.bfloat16):
        logits = classifier(FEATURES)
    assert logits.dtype == torch.float32
    assert (logits - logits.bfloat16().float()).abs().max() > 0  # not rounded to bfloat16
    torch.testing.assert_close(logits, classifier(FEATURES), rtol=0, atol=1.0)


def brute_force(
    boxes: Tensor, scores: Tensor, threshold: float | Tensor, nms: float, topk: int, agnostic: bool = False
) -> list[tuple[int, int]]:
    """Greedy suppression of all candidates, one by one."""
    candidates = [(float(scores[r, c]), r, c) for r, c in (scores > threshold).nonzero().tolist()]
    kept: list[tuple[int, int]] = []
    overlap = box_iou(boxes, boxes)
    for _, row, column in sorted(candidates, reverse=True):
        if all((column != c and not agnostic) or overlap[row, r] <= nms for r, c in kept):
            kept.append((row, column))
    return kept[:topk]


@pytest.mark.parametrize("first", [3, 40, 4096])
def test_selection_from_few_candidates_is_that_from_all(monkeypatch: pytest.MonkeyPatch, first: int):
    monkeypatch.setattr(selection, "FIRST_CANDIDATES", first)
    corner = torch.rand(30, 2) * 40
    boxes = torch.cat([corner, corner + 20 + torch.rand(30, 2) * 10], 1)
    scores = torch.rand(30, 6)
    found, rows = select_detections(boxes, scores, (100, 100), score_threshold=0.2, nms_threshold=0.4, topk=25)
    assert list(zip(rows.tolist(), found.pred_classes.tolist())) == brute_force(boxes, scores, 0.2, 0.4, 25)
    assert (found.scores.diff() <= 0).all()


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("nms", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("first", [2, 4096])
def test_suppression_within_and_over_classes(monkeypatch: pytest.MonkeyPatch, agnostic: bool, nms: float, first: int):
    monkeypatch.setattr(selection, "FIRST_CANDIDATES", first)
    corner = torch.rand(25, 2) * 60
    boxes = torch.cat([corner, corner + 15 + torch.rand(25, 2) * 20], 1)
    scores, thresholds = torch.rand(25, 5), torch.tensor([0.1, 0.9, 0.5, 0.3, 2.0])
    found, rows = select_detections(
        boxes, scores, (99, 99), score_threshold=thresholds, nms_threshold=nms, topk=30, class_agnostic=agnostic
    )
    pairs = list(zip(rows.tolist(), found.pred_classes.tolist()))
    assert pairs == brute_force(boxes, scores, thresholds, nms, 30, agnostic)
    assert {c for _, c in pairs} <= {0, 1, 2, 3} and len(pairs) >= (1 if agnostic else 4)
    if nms == 1.0:  # nothing is suppressed
        assert len(pairs) == min(30, int((scores > thresholds).sum()))


@pytest.mark.parametrize("count", [1, 7, 50, 399, 400, 500])
def test_the_best_scores_are_those_of_a_stable_sort(count: int):
    scores = torch.randint(0, 40, (400,)) / 40  # many are equal
    assert selection._best(scores, count).tolist() == scores.argsort(descending=True, stable=True)[:count].tolist()


def test_selection_looks_at_few_candidates(monkeypatch: pytest.MonkeyPatch):
    seen = []
    original = selection.batched_nms
    monkeypatch.setattr(selection, "batched_nms", lambda b, *args: seen.append(len(b)) or original(b, *args))
    corner = torch.rand(200, 2) * 500
    boxes = torch.cat([corner, corner + 30], 1)
    found, _ = select_detections(
        boxes, torch.rand(200, 1203), (600, 600), score_threshold=0.0, nms_threshold=0.5, topk=300
    )
    assert len(found) == 300 and max(seen) <= 4096  # of 240,600 that pass


def test_selection_clips_and_drops_what_is_not_finite():
    boxes = torch.tensor([[-5.0, 2, 50, 9], [0, 0, torch.nan, 1], [0, 0, 5, 5]])
    scores = torch.tensor([[0.9], [0.9], [torch.inf]])
    found, rows = select_detections(boxes, scores, (20, 30), score_threshold=0.1, nms_threshold=0.5, topk=9)
    assert rows.tolist() == [0] and found.pred_boxes.tensor.tolist() == [[0, 2, 30, 9]]


def test_selection_of_nothing():
    found, rows = select_detections(
        torch.zeros(0, 4), torch.zeros(0, 3), (9, 9), score_threshold=0.1, nms_threshold=0.5, topk=9
    )
    assert len(found) == len(rows) == 0 and found.pred_classes.dtype == torch.int64


def test_one_class_per_region():
    scores = torch.tensor([[0.2, 0.7, 0.1], [0.9, 0.3, 0.8]])
    assert keep_best_class(scores).tolist() == torch.tensor([[0, 0.7, 0], [0.9, 0, 0]]).tolist()
    assert keep_best_class(torch.zeros(2, 0)).shape == (2, 0)
