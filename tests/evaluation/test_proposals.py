"""Average recall of boxes: against brute force, hand-worked images, and the numbers of Detectron2's own function."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from torchvision.ops import box_iou

from mvseg.data.catalog import register_dataset
from mvseg.evaluation import build_evaluator
from mvseg.evaluation.proposals import ProposalEvaluator, average_recall, object_overlaps


def drawn_boxes(count: int, draw: np.random.Generator) -> torch.Tensor:
    corner = draw.random((count, 2)) * 60
    return torch.tensor(np.concatenate([corner, corner + 10 + draw.random((count, 2)) * 40], 1), dtype=torch.float32)


def test_pairs_are_made_largest_overlap_first():
    draw = np.random.default_rng(0)
    for objects, boxes in itertools.product((0, 1, 5), (0, 1, 3, 20)):
        truth, found = drawn_boxes(objects, draw), drawn_boxes(boxes, draw)
        pairs = sorted(
            ((float(v), g, p) for (g, p), v in np.ndenumerate(box_iou(truth, found).numpy())), key=lambda pair: -pair[0]
        )
        expected, used = {}, set()
        for value, g, p in pairs:
            if g not in expected and p not in used:
                expected[g] = value
                used.add(p)
        np.testing.assert_allclose(
            object_overlaps(truth, found), [expected.get(g, 0) for g in range(objects)], atol=1e-6
        )


def test_average_recall_by_hand():
    recall, at_half = average_recall(torch.tensor([1.0, 0.5, 0.72, 0.4]))
    # thresholds 0.50 ... 0.95: the first object passes 10 of 10, the second 1, the third 5, the last none
    assert recall == pytest.approx(100 * (10 + 1 + 5) / 40) and at_half == 75
    assert all(math.isnan(v) for v in average_recall(torch.zeros(0)))


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    images = [{"id": i, "file_name": f"{i}.png", "height": 100, "width": 100} for i in (1, 2, 3)]
    boxes = [(1, 1, [0, 0, 20, 20]), (1, 2, [50, 50, 30, 30]), (2, 2, [10, 10, 40, 40]), (2, 1, [0, 0, 5, 5])]
    annotations = [
        {"id": n, "image_id": image, "category_id": c, "bbox": b, "area": b[2] * b[3], "iscrowd": int(b[2] == 5)}
        for n, (image, c, b) in enumerate(boxes, 1)
    ]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "gnu"}]
    (tmp_path / "a.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    (tmp_path / "1.png").touch()
    (tmp_path / "words.tsv").write_text("name\tnovel\ncat\t\ngnu\tyes\n")
    name = f"recall_{tmp_path.name}"
    words = {"vocabulary": str(tmp_path / "words.tsv")}
    register_dataset(name=name, format="coco", image_root=str(tmp_path), annotations=str(tmp_path / "a.json"), **words)
    return name


def test_evaluation_of_a_dataset(dataset: str):
    """A crowd is no object; the image without objects changes nothing; base and novel classes are told apart."""
    evaluator = build_evaluator(dataset, kind="proposals")
    assert isinstance(evaluator, ProposalEvaluator)
    evaluator = ProposalEvaluator(dataset, limits=(1, 2))
    boxes = {
        1: ([[50, 50, 80, 80], [0, 0, 20, 10]], [0.1, 0.9]),  # the better box has IoU 0.5 with the cat
        2: ([[10, 10, 50, 42]], [0.3]),  # IoU 0.8 with the gnu
        3: ([[0, 0, 9, 9]], [0.8]),
    }
    for image_id, (found, scores) in boxes.items():
        answer = Instances((100, 100), pred_boxes=Boxes(torch.tensor(found).float()), scores=torch.tensor(scores))
        if image_id == 2:
            answer = Instances((100, 100), proposal_boxes=answer.pred_boxes, objectness_logits=answer.scores - 5)
        key = "proposals" if image_id == 2 else "instances"
        evaluator.process([{"image_id": image_id}], [{key: answer}])
    results = evaluator.evaluate()["box_proposals"]
    one = {"cat": 1, "gnu 1": 0, "gnu 2": 7}  # thresholds passed: 0.5; none; 0.5 to 0.8
    two = {"cat": 1, "gnu 1": 10, "gnu 2": 7}
    for limit, passed in ((1, one), (2, two)):
        cat, *gnus = passed.values()
        assert results[f"AR@{limit}"] == pytest.approx(100 * (cat + sum(gnus)) / 30), limit
        assert results[f"AR@{limit}-base"] == pytest.approx(10 * cat)
        assert results[f"AR@{limit}-novel"] == pytest.approx(10 * sum(gnus) / 2)


def test_numbers_of_detectron2():
    """Computed with Detectron2's _evaluate_box_proposals (AR) on the boxes of this seed: 5 images, 20 boxes each."""
    draw = np.random.default_rng(7)
    overlaps = {10: [], 20: []}
    for _ in range(5):
        truth, found = drawn_boxes(4, draw), drawn_boxes(20, draw)
        for limit, lists in overlaps.items():
            lists.append(object_overlaps(truth, found[:limit]))
    assert average_recall(torch.cat(overlaps[10]))[0] == pytest.approx(4.0, abs=1e-3)
    assert average_recall(torch.cat(overlaps[20]))[0] == pytest.approx(6.5, abs=1e-3)


def test_a_dataset_without_boxes(tmp_path: Path):
    name = f"recall_tags_{tmp_path.name}"
    register_dataset(name=name, format="image_folder", image_root=str(tmp_path), vocabulary=["cat"])
    with pytest.raises(ValueError, match="cannot be evaluated with proposals: its tags are no boxes"):
        ProposalEvaluator(name)
