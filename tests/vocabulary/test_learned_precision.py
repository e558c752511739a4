"""Average precision of columns against foreign classes: equal to pycocotools, and suppression to a plain loop."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.ops import nms

from mvseg.vocabulary.learning import Detections, Evidence, MergedPrecision, Objects, average_precision, cross_precision
from mvseg.vocabulary.learning import boxes as box_pairs
from mvseg.vocabulary.learning.boxes import suppressed


def random_evidence(seed: int, images: int = 12, columns: int = 5, classes: int = 3, ties: bool = False) -> Evidence:
    """Boxes on a coarse grid, so that many overlaps are equal, and crowds."""
    rng = np.random.default_rng(seed)

    def boxes(count: int) -> np.ndarray:
        corner, size = rng.integers(0, 4, (count, 2)) * 8.0, rng.integers(2, 5, (count, 2)) * 8.0
        return np.concatenate([corner, corner + size], axis=1)

    many, few = images * 25, images * 6
    scores = rng.integers(1, 9, many) / 10 if ties else rng.permutation(many) / many
    detections = Detections(rng.integers(images, size=many), rng.integers(columns, size=many), boxes(many), scores)
    objects = Objects(
        rng.integers(images, size=few), rng.integers(classes, size=few), boxes(few), rng.random(few) < 0.15
    )
    return Evidence("d", tuple("abcdefg"[:classes]), detections, objects, images)


def coco_ap(evidence: Evidence, column: int, index: int, present: bool) -> float:
    """AP50 of one column against one class, by pycocotools."""
    there, found = evidence.objects, evidence.detections
    truth = COCO()
    truth.dataset = {
        "images": [{"id": i} for i in range(evidence.num_images)],
        "categories": [{"id": 1}],
        "annotations": [
            {
                "id": n + 1, "image_id": int(there.images[n]), "category_id": 1, "iscrowd": int(there.crowd[n]),
                "bbox": [*there.boxes[n, :2], *(there.boxes[n, 2:] - there.boxes[n, :2])],
                "area": float(np.prod(there.boxes[n, 2:] - there.boxes[n, :2])),
            }
            for n in np.flatnonzero(there.classes == index)
        ],
    }  # fmt: skip
    answers = [
        {
            "image_id": int(found.images[n]), "category_id": 1, "score": float(found.scores[n]),
            "bbox": [*found.boxes[n, :2], *(found.boxes[n, 2:] - found.boxes[n, :2])],
        }
        for n in np.flatnonzero(found.columns == column)
    ]  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(answers), "bbox")
        if present:
            evaluation.params.imgIds = sorted({int(i) for i in there.images[there.classes == index]})
        evaluation.evaluate()
        evaluation.accumulate()
    return float(evaluation.eval["precision"][0, :, 0, 0, -1].mean())


@pytest.mark.parametrize(("seed", "ties"), [(0, False), (1, True), (2, True)])
@pytest.mark.parametrize("rule", ["present", "all"])
def test_every_pair_is_as_pycocotools_says(seed: int, ties: bool, rule: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(box_pairs, "PAIRS_AT_ONCE", 300)  # several parts, as in a large set
    evidence = random_evidence(seed, ties=ties)
    matrix = cross_precision(evidence, np.ones((5, 3), dtype=bool), rule=rule)
    expected = [[coco_ap(evidence, column, index, rule == "present") for index in range(3)] for column in range(5)]
    np.testing.assert_allclose(matrix, expected, rtol=0, atol=1e-9)
    assert matrix.min() > 0.01
    assert len(np.unique(matrix)) == 15


def test_unwanted_pairs_and_classes_without_objects():
    evidence = random_evidence(3)
    objects = evidence.objects
    more = Objects(
        np.append(objects.images, 0),
        np.append(objects.classes, 4),
        np.concatenate([objects.boxes, [[0.0, 0, 9, 9]]]),
        np.append(objects.crowd, True),
    )
    lone = Evidence("d", (*evidence.words, "nothing", "crowds"), evidence.detections, more, 12)
    wanted = np.ones((5, 5), dtype=bool)
    wanted[1, :] = wanted[:, 2] = False
    matrix = cross_precision(lone, wanted)
    whole = cross_precision(evidence, np.ones((5, 3), dtype=bool))
    assert np.isnan(matrix[:, 3:]).all()  # nothing to find, and only a crowd
    assert (matrix[1, :3] == 0).all() and (matrix[:, 2] == 0).all()
    np.testing.assert_array_equal(matrix[[0, 2, 3, 4], :2], whole[[0, 2, 3, 4], :2])


def test_only_judged_images_count():
    """Two false detections: one in an image that was judged for the class, one in an image that was not."""
    detections = Detections(
        np.array([0, 1, 2]), np.zeros(3, int), np.tile([0.0, 0, 10, 10], (3, 1)), np.array([0.5, 0.9, 0.8])
    )
    objects = Objects(np.array([0]), np.array([0]), np.array([[0.0, 0, 10, 10]]), np.array([False]))
    judged = np.array([[0, 0], [1, 0]])
    cases = (("present", None, 1.0), ("present", judged, 1.0), ("all", judged, 1 / 2), ("all", None, 1 / 3))
    for rule, looked, expected in cases:
        evidence = Evidence("d", ("a",), detections, objects, 3, looked)
        assert cross_precision(evidence, np.ones((1, 1), bool), rule=rule)[0, 0] == pytest.approx(expected)
        assert MergedPrecision(evidence, 1, rule=rule)([0], 0) == pytest.approx(expected)


def test_average_precision_by_hand():
    assert average_precision(np.array([1, 2, 3]), 3) == pytest.approx(1)
    # Right, wrong, right of four objects: recall 1/4 at precision 1 (0 to 0.25: 26 values), 2/4 at 2/3 (25 values).
    assert average_precision(np.array([1, 3]), 4) == pytest.approx((26 + 25 * 2 / 3) / 101)
    assert average_precision(np.array([], dtype=int), 4) == 0


@pytest.mark.parametrize("seed", range(3))
def test_suppression_is_that_of_torchvision_image_by_image(seed: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(box_pairs, "PAIRS_AT_ONCE", 500)
    found = random_evidence(seed).detections
    gone = suppressed(found.images, found.boxes, 0.5)
    for image in range(12):
        rows = np.flatnonzero(found.images == image)
        kept = nms(torch.tensor(found.boxes[rows]), torch.tensor(found.scores[rows]), 0.5)
        assert sorted(rows[kept.numpy()]) == rows[~gone[rows]].tolist()
    assert 0.2 < gone.mean() < 0.95


@pytest.mark.parametrize("rule", ["present", "all"])
def test_merged_columns_are_one_column_after_suppression(rule: str):
    """The union by another way: a loop over images, torchvision's suppression, and pycocotools."""
    evidence = random_evidence(5)
    merged = MergedPrecision(evidence, 5, rule=rule)
    for columns, index in (((0, 1), 0), ((2, 3, 4), 1), ((4,), 2)):
        found = evidence.detections
        rows = np.flatnonzero(np.isin(found.columns, columns))
        boxes, scores = torch.tensor(found.boxes[rows]), torch.tensor(found.scores[rows])
        kept = [
            mine[nms(boxes[mine], scores[mine], 0.5).numpy()]
            for mine in (np.flatnonzero(found.images[rows] == image) for image in range(12))
        ]
        union = found.take(rows[np.concatenate(kept)])
        union.columns[:] = 0
        expected = coco_ap(Evidence("d", evidence.words, union, evidence.objects, 12), 0, index, rule == "present")
        assert merged(columns, index) == pytest.approx(expected, abs=1e-9)


def test_evidence_says_what_is_out_of_range():
    evidence = random_evidence(0)
    with pytest.raises(ValueError, match=r"evidence of 'd': class of an object is 0 to 2 of 2"):
        Evidence("d", ("a", "b"), evidence.detections, evidence.objects, 12)
    with pytest.raises(ValueError, match=r"image of a detection is 0 to 11 of 5"):
        Evidence("d", ("a", "b", "c"), evidence.detections, evidence.objects, 5)
    with pytest.raises(ValueError, match=r"arrays of different length"):
        Detections(np.zeros(2, int), np.zeros(3, int), np.zeros((2, 4)), np.zeros(2))
