"""LVIS evaluation: federated rules on a hand-made file. Upstream cannot finish it on numpy >= 1.24."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_lvis_instances
from detectron2.evaluation import LVISEvaluator
from detectron2.structures import Boxes, Instances

from mvseg.provider import detectron2_provider

pytestmark = pytest.mark.skipif(detectron2_provider() != "builtin", reason="upstream uses np.float")
NAME = "contract_lvis_evaluation"


@pytest.fixture
def dataset(tmp_path):
    """Image 1: an object of class 1, class 2 surely absent, class 3 not checked. Image 2: class 3, not exhaustive."""

    def image(number, absent, incomplete):
        return {
            "id": number,
            "height": 100,
            "width": 100,
            "coco_url": f"x/val2017/{number}.jpg",
            "neg_category_ids": absent,
            "not_exhaustive_category_ids": incomplete,
        }

    def annotation(number, image_id, category):
        ring = [10.0, 10, 30, 10, 30, 30, 10, 30]
        return {
            "id": number,
            "image_id": image_id,
            "category_id": category,
            "bbox": [10.0, 10, 20, 20],
            "area": 400.0,
            "segmentation": [ring],
        }

    categories = [
        {
            "id": number,
            "name": f"n{number}",
            "frequency": kind,
            "synonyms": [f"n{number}"],
            "image_count": 1,
            "instance_count": 1,
        }
        for number, kind in ((1, "r"), (2, "c"), (3, "f"))
    ]
    content = {
        "info": {},
        "images": [image(1, [2], []), image(2, [], [3])],
        "annotations": [annotation(1, 1, 1), annotation(2, 2, 3)],
        "categories": categories,
    }
    path = tmp_path / "lvis.json"
    path.write_text(json.dumps(content))
    register_lvis_instances(NAME, {"thing_classes": ["n1", "n2", "n3"]}, str(path), "")
    yield
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def run(rows_by_image, masks=False, **kwargs):
    evaluator = LVISEvaluator(NAME, **kwargs)
    evaluator.reset()
    for image_id, rows in rows_by_image.items():
        instances = Instances((100, 100))
        instances.pred_boxes = Boxes(torch.tensor([row[2] for row in rows], dtype=torch.float32).reshape(-1, 4))
        instances.scores = torch.tensor([row[1] for row in rows])
        instances.pred_classes = torch.tensor([row[0] for row in rows], dtype=torch.int64)
        if masks:
            instances.pred_masks = torch.zeros(len(rows), 100, 100, dtype=torch.bool)
            for mask, (_, _, (x0, y0, x1, y1)) in zip(instances.pred_masks, rows):
                mask[y0:y1, x0:x1] = True
        evaluator.process([{"image_id": image_id}], [{"instances": instances}])
    return evaluator.evaluate()


HIT, MISS = [10, 10, 30, 30], [60, 60, 80, 80]


def test_numpy_is_left_alone(dataset):
    run({1: [(0, 0.9, HIT)], 2: []})
    assert not hasattr(np, "float")


def test_only_what_was_checked_counts(dataset):
    perfect = {1: [(0, 0.9, HIT)], 2: [(2, 0.9, HIT)]}
    assert run(perfect)["bbox"]["AP"] == pytest.approx(100)
    # A false alarm of class 3 in image 1 (never checked) and in image 2 (not exhaustive) costs nothing ...
    free = {1: [*perfect[1], (2, 0.99, MISS)], 2: [*perfect[2], (2, 0.99, MISS)]}
    assert run(free)["bbox"]["APf"] == pytest.approx(100)
    # ... but one of class 1 in image 1, where the class is complete, halves the precision.
    costly = {1: [*perfect[1], (0, 0.99, MISS)], 2: perfect[2]}
    results = run(costly)["bbox"]
    assert results["APr"] == pytest.approx(50) and results["APf"] == pytest.approx(100)
    assert results["AP"] == pytest.approx(75)


def test_masks_files_and_limit(dataset, tmp_path):
    rows = {1: [(0, 0.9, MISS), (0, 0.8, HIT)], 2: [(2, 0.9, HIT)]}
    results = run(rows, masks=True, output_dir=str(tmp_path / "out"))
    assert set(results) == {"bbox", "segm"} and results["segm"]["APr"] == pytest.approx(50)
    written = json.loads((tmp_path / "out" / "lvis_instances_results.json").read_text())
    assert [row["category_id"] for row in written] == [1, 1, 3]
    limited = run(rows, max_dets_per_image=1)
    assert limited["bbox"]["APr"] == 0 and limited["bbox"]["APf"] == pytest.approx(100)


def test_nothing_predicted(dataset):
    assert np.isnan(run({1: [], 2: []})["bbox"]["AP"])
    evaluator = LVISEvaluator(NAME)
    evaluator.reset()
    assert evaluator.evaluate() == {}
