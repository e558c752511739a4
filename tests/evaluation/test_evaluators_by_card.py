"""The evaluator that a card names; LVIS with the AP of every class; pictures while evaluating."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from PIL import Image
from torch import nn

from mvseg.data import get_records, register_dataset
from mvseg.data.catalog import get_card, unregister_card
from mvseg.evaluation import PerClassLVISEvaluator, PictureEvaluator, build_evaluator, evaluate_dataset, vocabulary_of
from mvseg.evaluation.evaluators import EVALUATORS, register_evaluator
from mvseg.evaluation.pictures import best_of_overlapping

WORDS = ("ant", "bee", "cow")
BOXES = {1: [(1, [4, 4, 20, 20])], 2: [(2, [10, 10, 20, 12]), (1, [30, 30, 10, 10])]}  # image -> (category, xywh)


def polygon(x, y, w, h):
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """An LVIS set with masks and a COCO set with boxes, on the same two images."""
    folder = tmp_path_factory.mktemp("sets")
    annotations, number = [], 0
    for image_id, objects in BOXES.items():
        Image.fromarray(np.full((48, 64, 3), 90, np.uint8)).save(folder / f"{image_id:012d}.jpg")
        for category, box in objects:
            number += 1
            annotations.append(
                {"id": number, "image_id": image_id, "category_id": category, "bbox": box, "area": box[2] * box[3],
                 "segmentation": polygon(*box)}
            )  # fmt: skip
    images = [
        {"id": i, "height": 48, "width": 64, "file_name": f"{i:012d}.jpg",
         "coco_url": f"http://x/train2017/{i:012d}.jpg", "neg_category_ids": [3], "not_exhaustive_category_ids": []}
        for i in BOXES
    ]  # fmt: skip
    categories = [
        {"id": i + 1, "name": w, "frequency": "rcf"[i], "image_count": 2, "instance_count": 2, "synonyms": [w]}
        for i, w in enumerate(WORDS)
    ]
    content = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    (folder / "train2017").symlink_to(folder)
    (folder / "lvis.json").write_text(json.dumps(content))
    files = {"image_root": str(folder), "annotations": str(folder / "lvis.json")}
    register_dataset(name="eval_lvis", format="lvis", supervision="masks", **files)
    for annotation in annotations:
        annotation["iscrowd"] = 0
    (folder / "coco.json").write_text(json.dumps(content))
    files["annotations"] = str(folder / "coco.json")
    register_dataset(name="eval_coco", format="coco", supervision="boxes", **files)
    for name in ("eval_lvis", "eval_coco"):
        get_records(name)


class Oracle(nn.Module):
    """Answers with the annotations; of class 1 (ant) it finds only the one of the first image."""

    def __init__(self, name: str, masks: bool):
        super().__init__()
        self.records = {record["image_id"]: record for record in get_records(name)}
        self.masks = masks

    def forward(self, batch):
        answers = []
        for record in batch:
            known = self.records[record["image_id"]]["annotations"]
            known = [a for a in known if not (a["category_id"] == 0 and record["image_id"] == 2)]
            found = Instances((48, 64))
            boxes = np.array([a["bbox"] for a in known], dtype=float)
            boxes[:, 2:] += boxes[:, :2]
            found.pred_boxes, found.scores = Boxes(torch.tensor(boxes)), torch.full((len(known),), 0.9)
            found.pred_classes = torch.tensor([a["category_id"] for a in known])
            if self.masks:
                masks = torch.zeros(len(known), 48, 64, dtype=torch.bool)
                for mask, (x0, y0, x1, y1) in zip(masks, boxes.astype(int)):
                    mask[y0:y1, x0:x1] = True
                found.pred_masks = masks
            answers.append({"instances": found})
        return answers


def loader(name: str):
    return [[{k: record[k] for k in ("image_id", "file_name", "height", "width")}] for record in get_records(name)]


def test_the_card_chooses_the_evaluator_and_the_tasks(sets, tmp_path):
    assert isinstance(build_evaluator("eval_coco", str(tmp_path)), COCOEvaluator)
    evaluator = build_evaluator("eval_lvis", str(tmp_path))
    assert isinstance(evaluator, PerClassLVISEvaluator) and evaluator._tasks == ("bbox", "segm")
    assert build_evaluator("eval_lvis", masks=False)._tasks == ("bbox",)
    assert build_evaluator("eval_coco", str(tmp_path), masks=True)._tasks == ("bbox",)  # the set has no masks
    with pytest.raises(ValueError, match="'coco' is already registered"):
        register_evaluator("coco", EVALUATORS["lvis"])
    with pytest.raises(KeyError, match="eval_coco"):
        build_evaluator("eval_cocoo")


def test_lvis_gives_the_ap_of_every_class(sets, tmp_path):
    evaluator = build_evaluator("eval_lvis", str(tmp_path))
    results = evaluate_dataset(Oracle("eval_lvis", masks=True), "eval_lvis", loader("eval_lvis"), evaluator)
    assert set(results) == {"bbox", "segm"}
    for task in ("bbox", "segm"):
        metrics = results[task]
        # one of two ants at precision 1: the recall thresholds 0, 0.01 .. 0.5 count, 51 of 101
        assert metrics["AP-ant"] == pytest.approx(100 * 51 / 101)
        assert metrics["AP-bee"] == pytest.approx(100.0)
        assert np.isnan(metrics["AP-cow"])
        assert metrics["AP"] == pytest.approx((metrics["AP-ant"] + metrics["AP-bee"]) / 2)
        assert metrics["APr"] == pytest.approx(metrics["AP-ant"])
        assert metrics["APc"] == pytest.approx(100.0) and np.isnan(metrics["APf"])
    assert json.loads((tmp_path / "lvis_instances_results.json").read_text())[0]["category_id"] == 1
    assert not hasattr(np, "float")  # numpy itself is left alone


def test_lvis_without_any_detection_gives_zero(sets, tmp_path):
    class Silent(nn.Module):
        def forward(self, batch):
            empty = Instances((48, 64))
            empty.pred_boxes, empty.scores, empty.pred_classes = (
                Boxes(torch.zeros(0, 4)),
                torch.zeros(0),
                torch.zeros(0),
            )
            return [{"instances": empty} for _ in batch]

    evaluator = build_evaluator("eval_lvis", str(tmp_path), masks=False)
    results = evaluate_dataset(Silent(), "eval_lvis", loader("eval_lvis"), evaluator)
    assert results["bbox"]["AP"] == 0.0 and results["bbox"]["AP-bee"] == 0.0


def test_coco_gives_the_ap_of_every_class(sets, tmp_path):
    evaluator = build_evaluator("eval_coco", str(tmp_path))
    results = evaluate_dataset(Oracle("eval_coco", masks=True), "eval_coco", loader("eval_coco"), evaluator)
    assert set(results) == {"bbox"}
    assert results["bbox"]["AP-ant"] == pytest.approx(100 * 51 / 101)
    assert results["bbox"]["AP-bee"] == pytest.approx(100.0)


def test_pictures_show_annotations_left_and_predictions_right(sets, tmp_path):
    evaluator = PictureEvaluator("eval_coco", tmp_path / "p" / "x.png", count=5, height=96)
    assert evaluate_dataset(Oracle("eval_coco", masks=False), "eval_coco", loader("eval_coco"), evaluator) == {}
    picture = np.asarray(Image.open(tmp_path / "p" / "x.png"))
    # two images in one row: each 128 x 96 below a caption of 16, annotations and predictions 6 apart
    assert picture.shape == (96 + 16, 4 * 128 + 3 * 6, 3)
    second = picture[16:, 2 * (128 + 6) :]
    left, right = second[:, :128], second[:, 134:]
    ant = (slice(60, 80), slice(59, 62))  # left edge of the ant of image 2, x = 30, drawn at twice the size
    assert (np.abs(left[ant].astype(int) - 90).max(axis=2) > 30).any(axis=1).all()
    assert (np.abs(right[ant].astype(int) - 90).max(axis=2) < 30).all()
    chosen = PictureEvaluator("eval_coco", tmp_path / "y.png", count=1)
    assert list(chosen.records) == [1]


def test_a_model_without_vocabularies_is_left_as_it_is(sets):
    model = nn.Identity()
    with vocabulary_of(model, "eval_coco"):
        pass
    assert MetadataCatalog.get("eval_coco").thing_classes == list(WORDS)


def test_annotations_left_by_an_earlier_run_are_not_used_again(sets, tmp_path):
    name = "eval_stale"
    card = get_card("eval_coco")
    for words in (["ant", "bee", "cow"], ["cow", "bee", "ant"]):  # other order, so the file itself cannot be used
        register_dataset(
            name=name,
            format="coco",
            image_root=card.image_root,
            annotations=card.annotations,
            vocabulary=["bee", "ant", "cow"],
            aliases=dict(zip(WORDS, words)),
        )
        try:
            build_evaluator(name, str(tmp_path))
        finally:
            unregister_card(name)
        content = json.loads((tmp_path / f"{name}_coco_format.json").read_text())
        names = {category["id"]: category["name"] for category in content["categories"]}
        found = [names[annotation["category_id"]] for annotation in content["annotations"]]
        assert found == [words[0], words[1], words[0]]


def test_a_picture_shows_the_best_word_of_an_object():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30], [0, 0, 10, 5]])
    found = Instances((40, 40), pred_boxes=Boxes(boxes), scores=torch.tensor([0.5, 0.9, 0.4, 0.6]))
    found.pred_classes = torch.tensor([0, 1, 0, 2])
    kept = best_of_overlapping(found)  # overlaps with the best: 0.9 (dropped), none, 5/9 (another object)
    assert kept.pred_classes.tolist() == [1, 2, 0] and kept.scores.tolist() == pytest.approx([0.9, 0.6, 0.4])
