"""Collections: one file for a folder with many small datasets; names, splits, words, and what is wrong with them."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from mvseg.data import get_records, get_vocabulary
from mvseg.data.__main__ import main
from mvseg.data.card_sets import load_cards
from mvseg.data.catalog import dataset_report, get_card, register_cards, unregister_card
from mvseg.evaluation import build_evaluator

FISH = [("creatures", "none"), ("fish", "creatures"), ("jellyfish", "creatures")]


def write_split(folder: Path, categories, boxes=((1, [2, 3, 10, 8]),), name="_annotations.coco.json", images=True):
    """An export as Roboflow makes it: ids from 0, image names with odd characters."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"IMG_1 ({i})_jpg.rf.0a+b.jpg" for i in range(len(boxes))]
    for name_ in names if images else ():
        Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(folder / name_)
    tree = {
        "info": {"description": ""},
        "categories": [{"id": i, "name": n, "supercategory": s} for i, (n, s) in enumerate(categories)],
        "images": [{"id": i, "file_name": n, "height": 30, "width": 40} for i, n in enumerate(names)],
        "annotations": [
            {"id": i, "image_id": i, "category_id": c, "bbox": box, "area": box[2] * box[3], "iscrowd": 0,
             "segmentation": []}
            for i, (c, box) in enumerate(boxes)
        ],
    }  # fmt: skip
    (folder / name).write_text(json.dumps(tree))


@pytest.fixture
def collection(tmp_path, monkeypatch):
    """Function that writes a collection file and registers it for the length of a test."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    registered: list[str] = []

    def register(**fields):
        path = tmp_path / "zoo.yaml"
        path.write_text(yaml.safe_dump({"collection": "zoo", "root": "zoo", **fields}, sort_keys=False))
        names = register_cards(path)
        registered.extend(names)
        return names

    yield register
    for name in dict.fromkeys(registered):
        unregister_card(name)


def test_every_dataset_and_split_becomes_a_card(collection, tmp_path):
    zoo = tmp_path / "zoo"
    write_split(zoo / "Aquarium/Aquarium Combined.v2-raw-1024.coco/train", FISH, [(1, [2, 3, 10, 8])] * 3)
    write_split(zoo / "Aquarium/Aquarium Combined.v2-raw-1024.coco/test", FISH)
    write_split(zoo / "pothole/valid", [("pothole", "none")], [(0, [1, 1, 5, 5])])
    for part in ("large", "tiled"):  # two datasets in one folder
        write_split(zoo / f"Drone/{part}/valid", FISH, name="annotations_without_background.json")
    write_split(zoo / "pistols/export", FISH, name="val_annotations_without_background.json")  # splits in one folder
    (zoo / "notes" / "deep" / "deeper").mkdir(parents=True)
    names = collection(splits={"train": "train", "valid": "valid", "test": "test", "val": "val"})
    assert names == [
        "zoo_Aquarium_train", "zoo_Aquarium_test", "zoo_Drone_large_valid", "zoo_Drone_tiled_valid",
        "zoo_pistols_val", "zoo_pothole_valid",
    ]  # fmt: skip
    records = get_records("zoo_Aquarium_train")
    assert len(records) == 3 and all(Path(r["file_name"]).is_file() for r in records)
    assert get_vocabulary("zoo_Aquarium_train").names == ("fish", "jellyfish")
    assert dataset_report("zoo_Aquarium_train").counts["supercategories"] == 1
    assert [a["category_id"] for r in records for a in r["annotations"]] == [0, 0, 0]
    assert get_vocabulary("zoo_pothole_valid").names == ("pothole",)
    assert Path(get_records("zoo_pistols_val")[0]["file_name"]).parent == zoo / "pistols/export"
    # a perfect detector has 100 with the evaluator that the cards name
    import torch
    from detectron2.structures import Boxes, Instances

    for name in ("zoo_Aquarium_train", "zoo_pothole_valid"):
        evaluator = build_evaluator(name, str(tmp_path / "out" / name))
        evaluator.reset()
        for record in get_records(name):
            found = Instances((30, 40))
            x, y, w, h = record["annotations"][0]["bbox"]
            found.pred_boxes = Boxes(torch.tensor([[x, y, x + w, y + h]], dtype=torch.float32))
            found.scores, found.pred_classes = torch.ones(1), torch.tensor([record["annotations"][0]["category_id"]])
            evaluator.process([record], [{"instances": found}])
        assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100), name


def test_supercategories_stay_where_they_are_used_or_are_words(collection, tmp_path):
    zoo = tmp_path / "zoo"
    write_split(zoo / "used/valid", FISH, [(0, [1, 1, 5, 5])])
    write_split(zoo / "same/valid", [("pistol", "none"), ("pistol", "pistol")])
    write_split(zoo / "coco/valid", [("person", "person"), ("car", "vehicle")])
    write_split(zoo / "kept/valid", FISH)
    collection(changes={"kept": {"options": {"drop_supercategories": False}}})
    assert get_vocabulary("zoo_used_valid").names == ("creatures", "fish", "jellyfish")
    assert get_vocabulary("zoo_same_valid").names == ("pistol",)
    assert get_vocabulary("zoo_coco_valid").names == ("person", "car")
    assert get_vocabulary("zoo_kept_valid").names == ("creatures", "fish", "jellyfish")


def test_words_can_be_put_differently(collection, tmp_path):
    zoo = tmp_path / "zoo"
    write_split(zoo / "pothole/valid", [("potholes", "none"), ("pothole", "potholes")])
    write_split(zoo / "sea/valid", FISH, [(1, [2, 3, 10, 8]), (2, [1, 1, 9, 9])])
    prompt = "there are some holes on the road"
    collection(
        datasets=["sea", "pothole"],
        fields={"evaluator": "voc", "options": {"measure": 2007}},
        changes={"pothole": {"aliases": {"pothole": prompt}}, "sea": {"aliases": {"jellyfish": "fish"}}},
    )
    assert get_vocabulary("zoo_pothole_valid").names == (prompt,)
    assert get_records("zoo_pothole_valid")[0]["annotations"][0]["category_id"] == 0
    # an alias that is another category's name joins the two
    assert get_vocabulary("zoo_sea_valid").names == ("fish",)
    assert [a["category_id"] for r in get_records("zoo_sea_valid") for a in r["annotations"]] == [0, 0]
    assert get_card("zoo_sea_valid").options == {"drop_supercategories": True, "measure": 2007}


def test_forty_datasets_are_registered_in_no_time(collection, tmp_path, capsys):
    for number in range(40):
        for split in ("train", "valid", "test"):
            write_split(tmp_path / f"zoo/set {number}/{split}", FISH, images=False)
    start = time.process_time()
    names = collection()
    assert time.process_time() - start < 1.5
    assert len(names) == 120 == len(set(names))
    assert main(["list", "--cards", str(tmp_path / "zoo.yaml"), "--only-present"]) == 0
    printed = capsys.readouterr().out
    assert all(f"{name} " in printed for name in names)


def test_datasets_that_are_named_need_not_be_there_yet(collection, capsys):
    names = collection(datasets={"Aquarium": "Aquarium/raw", "pothole": "pothole"}, splits=["test"], prepare="Ask Ann.")
    assert names == ["zoo_Aquarium_test", "zoo_pothole_test"]
    with pytest.raises(
        FileNotFoundError, match=r"zoo_Aquarium_test.*Aquarium/raw/test/_annotations.coco.json.*Ask Ann"
    ):
        get_records("zoo_Aquarium_test")


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"root": "nowhere"}, FileNotFoundError, r"collection 'zoo' \(.*zoo.yaml\): folder .*nowhere does not exist"),
        ({"root": "empty"}, FileNotFoundError, r"no dataset in .*empty: looked for .*_annotations.coco.json.*splits"),
        ({"datasets": ["fsh"]}, ValueError, r"no dataset 'fsh' in .*nearest: fish"),
        ({"changes": {"fsh": {}}}, ValueError, r"changes names 'fsh'; nearest: fish"),
        ({"changes": {"fish": {"evalator": "voc"}}}, ValueError, r"unknown field 'evalator'; nearest: evaluator"),
        ({"fields": {"format": "voc", "options": {"x": 1}}}, ValueError, r"zoo_fish_valid.*format voc does not know"),
        ({"annotations": ["a.json"]}, ValueError, r"'a.json' needs \{split\}"),
        ({"splits": []}, ValueError, r"splits has the wrong form: \[\]"),
        ({"splits": ["valid", 2]}, ValueError, r"splits: 2 must be the name of a folder"),
        ({"changes": {"fish": "voc"}}, ValueError, r"changes of 'fish' must be fields of its cards, not 'voc'"),
        ({"splits": "valid"}, ValueError, r"splits has the wrong form"),
        ({"split": ["valid"]}, ValueError, r"unknown field 'split'; nearest: splits"),
    ],
)
def test_what_is_wrong_with_a_collection(collection, tmp_path, fields, error, message):
    write_split(tmp_path / "zoo/fish/valid", FISH)
    (tmp_path / "empty/a/b").mkdir(parents=True)
    with pytest.raises(error, match=message):
        collection(**fields)


def test_two_folders_with_one_name(collection, tmp_path):
    write_split(tmp_path / "zoo/a b/valid", FISH)
    write_split(tmp_path / "zoo/a_b/valid", FISH)
    with pytest.raises(ValueError, match=r"would both be called 'a_b'; give names"):
        collection()


def test_bad_files_of_a_collection_are_found_when_they_are_read(collection, tmp_path):
    zoo = tmp_path / "zoo"
    write_split(zoo / "nothing/valid", FISH, [])
    write_split(zoo / "outside/valid", FISH, [(1, [50, 3, 10, 8]), (1, [30, 20, 20, 20])])
    write_split(zoo / "unknown/valid", FISH, [(7, [1, 1, 5, 5])])
    write_split(zoo / "lost/valid", FISH, images=False)
    collection(changes={"outside": {"vocabulary": ["fish", "jellyfish"]}})
    with pytest.raises(ValueError, match=r"zoo_nothing_valid.*no usable image: 0 images"):
        get_records("zoo_nothing_valid")
    assert get_records("zoo_outside_valid")[1]["annotations"][0]["bbox"] == [30, 20, 10, 10]
    counts = dataset_report("zoo_outside_valid").counts
    assert (counts["outside"], counts["clipped"], counts["instances"]) == (1, 1, 1)
    with pytest.raises(ValueError, match=r"annotation 0 \(image 0\) has category_id 7"):
        get_records("zoo_unknown_valid")
    with pytest.raises(FileNotFoundError, match=r"none of 1 images looked up is there"):
        get_records("zoo_lost_valid")
    assert main(["check", str(tmp_path / "zoo.yaml")]) == 1


def test_the_collection_that_comes_with_mvseg(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    path = Path(__file__).parents[2] / "datasets" / "odinw.yaml"
    with pytest.raises(FileNotFoundError, match=r"collection 'odinw'.*odinw does not exist .*README.md"):
        load_cards(path)
    write_split(tmp_path / "odinw/Raccoon/Raccoon.v2-raw.coco/valid", [("raccoons", "none"), ("raccoon", "raccoons")])
    assert [card.name for card in load_cards(path)] == ["odinw_Raccoon_valid"]
