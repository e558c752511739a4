"""Semantic segmentation scores against counting pixel by pixel."""

from __future__ import annotations

import json

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import SemSegEvaluator
from PIL import Image

NAME = "contract_sem_seg"
CLASSES = ["a", "b", "c", "never"]


@pytest.fixture
def case(tmp_path):
    rng = np.random.RandomState(0)
    records, truths, guesses = [], [], []
    for index in range(2):
        truth = np.kron(rng.randint(0, 3, (4, 5)), np.ones((6, 6), int))
        truth[:3] = 255
        guess = np.where(rng.rand(*truth.shape) < 0.3, rng.randint(0, 3, truth.shape), truth % 255)
        Image.fromarray(truth.astype(np.uint8)).save(tmp_path / f"{index}.png")
        records.append({"file_name": f"{index}.jpg", "sem_seg_file_name": str(tmp_path / f"{index}.png")})
        truths.append(truth)
        guesses.append(guess)
    DatasetCatalog.register(NAME, lambda: records)
    id_map = {10 * (number + 1): number for number in range(4)}
    MetadataCatalog.get(NAME).set(stuff_classes=CLASSES, ignore_label=255, stuff_dataset_id_to_contiguous_id=id_map)
    yield records, np.stack(truths), np.stack(guesses)
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def run(records, guesses, **kwargs):
    evaluator = SemSegEvaluator(NAME, **kwargs)
    evaluator.reset()
    for record, guess in zip(records, guesses):
        scores = torch.nn.functional.one_hot(torch.as_tensor(guess), 4).permute(2, 0, 1).float()
        evaluator.process([record], [{"sem_seg": scores}])
    return evaluator.evaluate()["sem_seg"]


def test_scores_by_counting(case):
    records, truth, guess = case
    results = run(records, guess)
    known = truth != 255
    ious, accuracies, weights = [], [], []
    for number in range(3):
        is_truth, is_guess = (truth == number) & known, (guess == number) & known
        ious.append((is_truth & is_guess).sum() / (is_truth | is_guess).sum())
        accuracies.append((is_truth & is_guess).sum() / is_truth.sum())
        weights.append(is_truth.sum() / known.sum())
        assert results[f"IoU-{CLASSES[number]}"] == pytest.approx(100 * ious[-1])
        assert results[f"ACC-{CLASSES[number]}"] == pytest.approx(100 * accuracies[-1])
    assert results["mIoU"] == pytest.approx(100 * np.mean(ious))
    assert results["fwIoU"] == pytest.approx(100 * np.dot(ious, weights))
    assert results["mACC"] == pytest.approx(100 * np.mean(accuracies))
    assert results["pACC"] == pytest.approx(100 * (truth == guess)[known].mean())
    assert np.isnan(results["IoU-never"])


def test_perfect_labels(case):
    records, truth, _ = case
    results = run(records, np.where(truth == 255, 0, truth))
    assert results["mIoU"] == pytest.approx(100) and results["pACC"] == pytest.approx(100)


def test_predictions_are_written_with_dataset_ids(case, tmp_path):
    records, _, guess = case
    run(records, guess, output_dir=str(tmp_path / "out"))
    written = json.loads((tmp_path / "out" / "sem_seg_predictions.json").read_text())
    first = [row for row in written if row["file_name"] == "0.jpg"]
    assert sorted(row["category_id"] for row in first) == [10, 20, 30]
    for row in first:
        mask = mask_util.decode(row["segmentation"])
        assert np.array_equal(mask, guess[0] == row["category_id"] // 10 - 1)
    assert (tmp_path / "out" / "sem_seg_evaluation.pth").exists()
