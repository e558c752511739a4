"""AP50 of base and novel classes, and the cards of open-vocabulary COCO."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch import nn

from mvseg.data import get_records, register_dataset
from mvseg.data.catalog import get_card, get_vocabulary, register_card, unregister_card
from mvseg.evaluation import build_evaluator, evaluate_dataset
from mvseg.evaluation.split import split_mean
from mvseg.vocabulary import Vocabulary

BASE, NOVEL, LEFT_OUT = ("person", "bench"), ("airplane", "cat"), "teddy bear"


def coco_tree() -> dict[str, Any]:
    """COCO's 80 categories; image k shows what LAYOUT[k] says, one object beside the other."""
    vocabulary = Vocabulary.from_table("coco")
    ids = dict(zip(vocabulary.names, vocabulary.ids or ()))
    layout = [["person", "airplane", "cat"], ["bench", "airplane", LEFT_OUT], [LEFT_OUT], [], ["cat", "person"]]
    annotations = [
        {"id": 10 * image + place, "image_id": image, "category_id": ids[word], "bbox": [20 * place, 4, 16, 16],
         "area": 256, "iscrowd": 0, "segmentation": [[20 * place, 4, 20 * place + 16, 4, 20 * place + 16, 20]]}
        for image, words in enumerate(layout, 1)
        for place, word in enumerate(words)
    ]  # fmt: skip
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 32, "width": 64} for i in range(1, len(layout) + 1)]
    categories = [{"id": i, "name": name} for name, i in ids.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


@pytest.fixture
def coco(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """COCO in small, where the cards look for it."""
    for part in ("train2017", "val2017"):
        (tmp_path / "coco" / part).mkdir(parents=True)
        (tmp_path / "coco" / "annotations").mkdir(exist_ok=True)
        (tmp_path / "coco" / "annotations" / f"instances_{part}.json").write_text(json.dumps(coco_tree()))
        for image in coco_tree()["images"]:
            (tmp_path / "coco" / part / image["file_name"]).touch()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    names = ("coco_2017_train_base", "coco_2017_val_generalized", "coco_2017_val")
    cards = [get_card(name) for name in names]
    for card in cards:  # anew, in case another test has read them
        register_card(card, builtin=True)
    yield tmp_path
    for card in cards:
        register_card(card, builtin=True)


def words_of(name: str) -> dict[int, list[str]]:
    names = get_vocabulary(name, embeddings=False).names
    return {r["image_id"]: [names[a["category_id"]] for a in r["annotations"]] for r in get_records(name)}


def test_training_images_show_base_classes_only(coco: Path):
    assert words_of("coco_2017_train_base") == {1: ["person"], 2: ["bench"], 5: ["person"]}
    words = get_vocabulary("coco_2017_train_base", embeddings=False)
    assert len(words) == 65 and sum(words.novel) == 17


def test_test_images_show_base_and_novel_classes(coco: Path):
    expected = {1: ["person", "airplane", "cat"], 2: ["bench", "airplane"], 5: ["cat", "person"]}
    assert words_of("coco_2017_val_generalized") == expected
    assert list(words_of("coco_2017_val")) == [1, 2, 3, 4, 5]


class Finder(nn.Module):
    """Finds everything but airplanes in image 1; cats with a box of IoU 0.6."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.names = get_vocabulary(name, embeddings=False).names
        self.records = {record["image_id"]: record for record in get_records(name)}

    def forward(self, batch: list[dict]) -> list[dict]:
        answers = []
        for given in batch:
            found, boxes, classes = Instances((32, 64)), [], []
            for annotation in self.records[given["image_id"]]["annotations"]:
                word = self.names[annotation["category_id"]]
                if (given["image_id"], word) == (1, "airplane"):
                    continue
                x, y, w, h = annotation["bbox"]
                boxes.append([x, y, x + w, y + h * (0.6 if word == "cat" else 1.0)])
                classes.append(annotation["category_id"])
            found.pred_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
            found.scores, found.pred_classes = torch.full((len(boxes),), 0.9), torch.tensor(classes, dtype=torch.long)
            answers.append({"instances": found})
        return answers


def evaluate(name: str, folder: Path) -> dict[str, float]:
    loader = [[{k: r[k] for k in ("image_id", "file_name", "height", "width")}] for r in get_records(name)]
    return evaluate_dataset(Finder(name), name, loader, build_evaluator(name, str(folder), masks=False))["bbox"]


def test_base_and_novel_ap50(coco: Path, tmp_path: Path):
    metrics = evaluate("coco_2017_val_generalized", tmp_path)
    airplane = 100 * 51 / 101  # one of two at precision 1: the recall thresholds 0, 0.01 .. 0.5 count
    assert metrics["AP50-base"] == pytest.approx(100.0)  # person, bench
    assert metrics["AP50-novel"] == pytest.approx((airplane + 100) / 2)  # airplane, cat
    assert metrics["AP50"] == pytest.approx((100 + 100 + airplane + 100) / 4)
    assert metrics["AP-cat"] == pytest.approx(30.0)  # right at IoU 0.5, 0.55 and 0.6 of ten
    assert list(metrics).index("AP50-novel") < list(metrics).index("AP-person")  # the summary shows it


def test_no_split_without_novel_classes(coco: Path, tmp_path: Path):
    assert not any(name.startswith("AP50-") for name in evaluate("coco_2017_val", tmp_path))


def test_classes_in_another_order_than_their_ids(coco: Path, tmp_path: Path):
    table = tmp_path / "words.tsv"
    table.write_text("name\tnovel\nperson\tno\nairplane\tyes\ncat\tyes\nbench\tno\n")
    words = Vocabulary.from_table("coco").names
    fields = {"image_root": "coco/val2017", "annotations": "coco/annotations/instances_val2017.json"}
    left_out = [word for word in words if word not in BASE + NOVEL]
    register_dataset(name="split_order", format="coco", vocabulary=str(table), ignore=left_out, **fields)
    try:
        metrics = evaluate("split_order", tmp_path)
    finally:
        unregister_card("split_order")
    assert metrics["AP50-base"] == pytest.approx(100.0)
    assert metrics["AP50-novel"] == pytest.approx((100 * 51 / 101 + 100) / 2)


def test_lvis_splits_by_rarity(tmp_path: Path):
    tree = coco_tree()
    words = {1: ("person", "f"), 15: ("bench", "c"), 5: ("airplane", "r"), 17: ("cat", "r")}
    tree["annotations"] = [a for a in tree["annotations"] if a["category_id"] in words]
    tree["categories"] = [
        {"id": i, "name": n, "frequency": f, "image_count": 2, "instance_count": 2, "synonyms": [n]}
        for i, (n, f) in sorted(words.items())
    ]
    (tmp_path / "val2017").mkdir()
    for image in tree["images"]:
        image |= {"coco_url": f"http://x/val2017/{image['id']:012d}.jpg", "neg_category_ids": []}
        image["not_exhaustive_category_ids"] = []
        (tmp_path / "val2017" / f"{image['id']:012d}.jpg").touch()
    (tmp_path / "lvis.json").write_text(json.dumps(tree))
    files = {"image_root": str(tmp_path), "annotations": str(tmp_path / "lvis.json")}
    register_dataset(name="split_lvis", format="lvis", supervision="boxes", **files)
    try:
        metrics = evaluate("split_lvis", tmp_path)
    finally:
        unregister_card("split_lvis")
    assert metrics["AP50-base"] == pytest.approx(100.0)
    assert metrics["AP50-novel"] == pytest.approx((100 * 51 / 101 + 100) / 2)
    assert metrics["APr"] == pytest.approx((metrics["AP-airplane"] + metrics["AP-cat"]) / 2)


def test_mean_of_the_parts():
    nan = float("nan")
    assert split_mean([1.0, nan, 3.0, 8.0], [False, False, False, True]) == {"AP50-base": 2.0, "AP50-novel": 8.0}
    assert np.isnan(split_mean([1.0, nan], [False, True], "AP")["AP-novel"])
    assert split_mean([1.0], []) == {}


def test_the_option_is_true_or_false(coco: Path):
    fields = {"image_root": "coco/val2017", "annotations": "coco/annotations/instances_val2017.json"}
    register_dataset(name="split_bad", format="coco", vocabulary="coco", options={"only_annotated": "yes"}, **fields)
    try:
        with pytest.raises(ValueError, match=r"split_bad.*only_annotated is true or false, not 'yes'"):
            get_records("split_bad")
    finally:
        unregister_card("split_bad")
