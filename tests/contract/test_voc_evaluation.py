"""VOC evaluation on a folder with known answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_pascal_voc
from detectron2.evaluation import PascalVOCDetectionEvaluator
from detectron2.evaluation.pascal_voc_evaluation import parse_rec, voc_ap
from detectron2.structures import Boxes, Instances

NAME = "contract_voc"
# Image -> (class, difficult, box as written: from 1, last pixel included).
OBJECTS = {
    "x1": [("dog", 0, (11, 11, 30, 30)), ("cat", 0, (51, 51, 90, 90))],
    "x2": [("dog", 0, (11, 11, 30, 30)), ("dog", 1, (61, 11, 90, 40))],
}


@pytest.fixture
def dataset(tmp_path):
    for folder in ("Annotations", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    for name, objects in OBJECTS.items():
        items = "".join(
            f"<object><name>{label}</name><pose>Left</pose><truncated>0</truncated><difficult>{difficult}</difficult><bndbox>"
            f"<xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
            for label, difficult, (x0, y0, x1, y1) in objects
        )
        xml = f"<annotation><size><width>100</width><height>100</height></size>{items}</annotation>"
        (tmp_path / "Annotations" / f"{name}.xml").write_text(xml)
    (tmp_path / "ImageSets" / "Main" / "val.txt").write_text("\n".join(OBJECTS) + "\n")
    yield tmp_path
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def run(folder, year, rows_by_image):
    register_pascal_voc(NAME, str(folder), "val", year, ["cat", "dog"])
    evaluator = PascalVOCDetectionEvaluator(NAME)
    evaluator.reset()
    for name, rows in rows_by_image.items():
        instances = Instances((100, 100))
        instances.pred_boxes = Boxes(torch.tensor([row[2] for row in rows], dtype=torch.float32).reshape(-1, 4))
        instances.scores = torch.tensor([row[1] for row in rows])
        instances.pred_classes = torch.tensor([row[0] for row in rows], dtype=torch.int64)
        evaluator.process([{"image_id": name}], [{"instances": instances}])
    return evaluator.evaluate()["bbox"]


def test_perfect_boxes_and_difficult_objects(dataset):
    rows = {
        "x1": [(1, 0.9, (10, 10, 30, 30)), (0, 0.8, (50, 50, 90, 90))],
        "x2": [(1, 0.7, (10, 10, 30, 30)), (1, 0.99, (60, 10, 90, 40))],
    }
    assert run(dataset, 2012, rows) == pytest.approx({"AP": 100, "AP50": 100, "AP75": 100})


def test_average_precision_by_hand(dataset):
    # Dog: hit, a second box on the same object (wrong), hit: precisions 1, 1/2, 2/3 at recalls 1/2, 1/2, 1.
    rows = {"x1": [(1, 0.9, (10, 10, 30, 30)), (1, 0.8, (11, 11, 30, 30))], "x2": [(1, 0.7, (10, 10, 30, 30))]}
    result = run(dataset, 2012, rows)
    assert result["AP50"] == pytest.approx((0.5 * 1 + 0.5 * 2 / 3) / 2 * 100), "the cat is missed: AP 0"


def test_eleven_points_of_2007(dataset):
    rows = {"x1": [(1, 0.9, (10, 10, 30, 30)), (1, 0.8, (11, 11, 30, 30))], "x2": [(1, 0.7, (10, 10, 30, 30))]}
    assert run(dataset, 2007, rows)["AP50"] == pytest.approx((6 * 1 + 5 * 2 / 3) / 11 / 2 * 100)


def test_average_precision_of_a_curve():
    recall, precision = np.array([0.1, 0.1, 0.4, 0.9]), np.array([1, 0.5, 0.66, 0.4])
    assert voc_ap(recall, precision) == pytest.approx(0.1 * 1 + 0.3 * 0.66 + 0.5 * 0.4)
    assert voc_ap(recall, precision, use_07_metric=True) == pytest.approx((2 * 1 + 3 * 0.66 + 5 * 0.4) / 11)


def test_annotation_files(dataset):
    register_pascal_voc(NAME, str(dataset), "val", 2012, ["cat", "dog"])
    objects = parse_rec(str(dataset / "Annotations" / "x2.xml"))
    assert [(o["name"], o["difficult"], o["bbox"]) for o in objects] == [
        ("dog", 0, [11, 11, 30, 30]),
        ("dog", 1, [61, 11, 90, 40]),
    ]
