"""COCO JSON of releases and exports: Objects365's orders and folders, two meanings of one name, other words."""

from __future__ import annotations

import copy
import json
import random

import pytest
from coco_files import small_tree, write_coco
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from format_files import SHARED, picture
from torch import tensor

import mvseg.data as data
from mvseg.data.catalog import dataset_report
from mvseg.vocabulary import Vocabulary


def export(names, ids=None, seed=0):
    """One image of 40 x 30 with an object of every category; the categories in any order."""
    ids = ids or list(range(1, len(names) + 1))
    categories = [{"id": id_, "name": name} for id_, name in zip(ids, names, strict=True)]
    random.Random(seed).shuffle(categories)
    boxes = [{"id": n, "image_id": 1, "category_id": id_, "bbox": [1, 2, 9, 9], "area": 81, "iscrowd": 0}
             for n, id_ in enumerate(ids, start=1)]  # fmt: skip
    image = {"id": 1, "file_name": "images/v1/patch8/objects365_v1_00000001.jpg", "height": 30, "width": 40}
    return {"images": [image], "annotations": boxes, "categories": categories}


def written(folder, tree, place="patch8/objects365_v1_00000001.jpg"):
    picture(folder / "train" / place)
    (folder / "a.json").write_text(json.dumps(tree))
    return {"format": "coco", "image_root": str(folder / "train"), "annotations": str(folder / "a.json")}


def test_objects365_in_any_order_with_any_ids(tmp_path, card):
    names = list(Vocabulary.from_table("objects365").names)
    file = SHARED / "labels/Objects365_names_fix.csv"
    if file.is_file():
        names = [line.split(",")[1] for line in file.read_text().splitlines()]  # as released, with its misspellings
    shuffled = random.Random(1).sample(range(5, 5 + 365), 365)
    for name, ids in (("o365_order", None), ("o365_ids", shuffled)):
        fields = written(tmp_path / name, export(names, ids, seed=len(name)))
        card(name=name, **fields, vocabulary="objects365", options={"find_images": True})
        record = DatasetCatalog.get(name)[0]
        assert [a["category_id"] for a in record["annotations"]] == list(range(365))
        assert record["file_name"].endswith("train/patch8/objects365_v1_00000001.jpg")
        report = dataset_report(name)
        assert report.counts["moved_images"] == 1
        assert (report.counts["other_ids"] > 360) == (name == "o365_ids")
        assert bool(MetadataCatalog.get(name).get("json_file")) == (name == "o365_order")
    if file.is_file():
        assert "Moniter/TV = Monitor/TV" in report.notes["categories found by another spelling"]
        assert "categories found by another spelling: " in report.table()


def test_objects365_of_the_other_version(tmp_path, card):
    words = Vocabulary.from_table("objects365_v1")
    fields = written(tmp_path, export(list(words.names)))
    card(name="right_version", **fields, vocabulary="objects365_v1", options={"find_images": True})
    assert [a["category_id"] for a in DatasetCatalog.get("right_version")[0]["annotations"]] == list(range(365))
    card(name="wrong_version", **fields, vocabulary="objects365", options={"find_images": True})
    with pytest.raises(ValueError) as error:
        DatasetCatalog.get("wrong_version")
    text = str(error.value)
    assert "'wrong_version'" in text and "categories of" in text and "in vocabulary 'objects365'" in text
    assert "'handbag' (id 13, annotation 13); nearest: Handbag/Satchel" in text
    assert "words of the vocabulary have no category: " in text and "Handbag/Satchel, Gloves" in text


@pytest.mark.parametrize(
    "place", ["images/v1/patch8/objects365_v1_00000001.jpg", "v1/patch8/objects365_v1_00000001.jpg",
              "objects365_v1_00000001.jpg", "elsewhere/objects365_v1_00000001.jpg"],
)  # fmt: skip
def test_images_are_found_where_they_were_unpacked(tmp_path, card, place):
    fields = written(tmp_path, export(["cat"]), place)
    card(name="unpacked", **fields, options={"find_images": True})
    assert DatasetCatalog.get("unpacked")[0]["file_name"] == str(tmp_path / "train" / place)


def test_folders_that_the_file_leaves_out(tmp_path, card):
    tree = export(["cat"])
    tree["images"][0]["file_name"] = "x.jpg"
    fields = written(tmp_path, tree, "v2/patch16/x.jpg")
    card(name="inner", **fields, options={"find_images": True})
    assert DatasetCatalog.get("inner")[0]["file_name"].endswith("train/v2/patch16/x.jpg")
    card(name="strict", **fields)
    with pytest.raises(FileNotFoundError, match=r"'strict'.*x.jpg does not exist"):
        DatasetCatalog.get("strict")
    picture(tmp_path / "train/v2/patch17/x.jpg")
    card(name="doubtful", **fields, options={"find_images": True})
    with pytest.raises(ValueError, match=r"image 1: x.jpg lies in 2 folders .*patch16/x.jpg, v2/patch17/x.jpg; which"):
        DatasetCatalog.get("doubtful")


def test_two_images_must_not_become_one(tmp_path, card):
    tree = export(["cat"])
    tree["images"].append({**tree["images"][0], "id": 2, "file_name": "images/v2/patch9/objects365_v1_00000001.jpg"})
    fields = written(tmp_path, tree, "objects365_v1_00000001.jpg")
    card(name="flat", **fields, options={"find_images": True})
    with pytest.raises(ValueError, match=r"'flat': duplicate image file \(without the first 3 folders"):
        DatasetCatalog.get("flat")


def test_images_that_were_never_published(tmp_path, card):
    tree = export(["cat"])
    tree["images"].append({**tree["images"][0], "id": 2, "file_name": "images/v1/patch6/b.jpg"})
    tree["annotations"].append({**tree["annotations"][0], "id": 9, "image_id": 2})
    fields = written(tmp_path, tree)
    card(name="gaps", **fields, options={"find_images": True, "absent_images": ["patch6/b.jpg"]})
    assert [r["image_id"] for r in DatasetCatalog.get("gaps")] == [1]
    assert dataset_report("gaps").counts["absent_images"] == 1 and dataset_report("gaps").counts["images"] == 1
    assert not MetadataCatalog.get("gaps").get("json_file")  # the evaluator must not expect the missing one
    card(name="no_list", **fields, options={"absent_images": "patch6/b.jpg"})
    with pytest.raises(ValueError, match=r"absent_images must be a list of image paths"):
        DatasetCatalog.get("no_list")
    card(name="no_flag", **fields, options={"find_images": 1})
    with pytest.raises(ValueError, match=r"options.find_images is true or false, not 1"):
        DatasetCatalog.get("no_flag")


def test_one_name_for_two_meanings(tmp_path, card):
    fields = written(
        tmp_path, export(["Mouse", "Keyboard", "Mouse"], [3, 7, 12]), "images/v1/patch8/objects365_v1_00000001.jpg"
    )
    card(name="two_mice", **fields, vocabulary=["Mouse (animal)", "Keyboard", "Computer mouse"])
    with pytest.raises(ValueError, match=r"'Mouse \(3\)' \(id 3, annotation 1\)(.|\n)*'Mouse \(12\)'(.|\n)*aliases"):
        DatasetCatalog.get("two_mice")
    card(name="told_apart", **fields, vocabulary=["Mouse (animal)", "Keyboard", "Computer mouse"],
         aliases={"Mouse (3)": "Computer mouse", "Mouse (12)": "Mouse (animal)"})  # fmt: skip
    assert [a["category_id"] for a in DatasetCatalog.get("told_apart")[0]["annotations"]] == [2, 1, 0]
    assert dataset_report("told_apart").notes["categories found by the card's aliases"] == [
        "Mouse (3) = Computer mouse", "Mouse (12) = Mouse (animal)"]  # fmt: skip
    card(name="same_words", **fields)
    with pytest.raises(ValueError, match=r"same name twice: Mouse"):
        data.get_vocabulary("same_words")


WILDDASH = {1: "ego vehicle", 24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus", 29: "caravan",
            30: "trailer", 31: "train", 32: "motorcycle", 33: "bicycle", 34: "pickup", 35: "van"}  # fmt: skip
STREETS = {
    "vocabulary": {"table": "cityscapes_19", "kind": "thing"},
    "aliases": {"pickup": "car", "van": "car"},
    "ignore": ["ego vehicle", "caravan", "trailer"],
}


def test_wilddash_in_the_words_of_cityscapes(tmp_path, card):
    tree = small_tree()
    tree["categories"] = [{"id": id_, "name": name} for id_, name in WILDDASH.items()]
    for annotation, category in zip(tree["annotations"], (35, 1, 26), strict=True):
        annotation["category_id"] = category
    card(name="wilddash", **write_coco(tmp_path, tree), **STREETS)
    words = data.get_vocabulary("wilddash")
    assert len(words) == 8 and words.name == "cityscapes_19 things"
    found = [[words.names[a["category_id"]] for a in r["annotations"]] for r in DatasetCatalog.get("wilddash")]
    assert found == [["car"], ["car"]]
    report = dataset_report("wilddash")
    assert report.counts["ignored"] == 1 and "van = car" in report.notes["categories found by the card's aliases"]
    # The evaluation sees the merged words: a van that is called a car is right.
    evaluator = COCOEvaluator("wilddash", output_dir=str(tmp_path / "out"))
    evaluator.reset()
    for record in DatasetCatalog.get("wilddash"):
        x, y, w, h = record["annotations"][0]["bbox"]
        answer = Instances((30, 40), pred_boxes=Boxes(tensor([[x, y, x + w, y + h]], dtype=float)),
                           scores=tensor([0.9]), pred_classes=tensor([words.index("car")]))  # fmt: skip
        evaluator.process([{"image_id": record["image_id"]}], [{"instances": answer}])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)


def test_a_mistake_in_a_renaming(tmp_path, card):
    tree = small_tree()
    tree["categories"] = [{"id": id_, "name": name} for id_, name in WILDDASH.items()]
    for annotation in tree["annotations"]:
        annotation["category_id"] = 24
    fields = write_coco(tmp_path, tree)
    for name, change, message in (
        (
            "rvc_typo",
            {"aliases": {"pick-up": "car", "van": "car"}},
            r"aliases names 'pick-up', not in .*nearest: pickup",
        ),
        ("rvc_lost", {"aliases": {"van": "car"}}, r"1 categories of .*\n  'pickup'(.|\n)*ignore: \[category\]"),
        ("rvc_word", {"aliases": {"pickup": "lorry", "van": "car"}}, r"1 categories of .*\n  'pickup'"),
    ):
        card(name=name, **fields, **{**copy.deepcopy(STREETS), **change})
        with pytest.raises(ValueError, match=message):
            DatasetCatalog.get(name)
