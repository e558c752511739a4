"""The cards of Open Images' challenge 2019: names said twice, groups, hierarchy, boxes expanded before."""

from __future__ import annotations

import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from format_files import picture, write_rows

import mvseg.data as data
from mvseg.data.card import load_card
from mvseg.data.catalog import BUILTIN_CARDS, dataset_report
from mvseg.evaluation.openimages import Detections, Truth, open_images_ap

MOUSE, COMPUTER_MOUSE, TRAINING, BENCH = "/m/04rmv", "/m/020lf", "/m/076lb9", "/m/0cvnqh"
CLASSES = [[MOUSE, "Mouse"], [COMPUTER_MOUSE, "Mouse"], [TRAINING, "Bench"], [BENCH, "Bench"],
           ["/m/0c_jw", "Furniture"], ["/m/0jbk", "Animal"]]  # fmt: skip
BOXES = [["ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax", "IsGroupOf"],
         ["aa", MOUSE, 0.1, 0.5, 0.1, 0.5, 0], ["aa", COMPUTER_MOUSE, 0.5, 1, 0.5, 1, 0],
         ["aa", BENCH, 0, 1, 0, 1, 1], ["bb", TRAINING, 0, 1, 0, 1, 0]]  # fmt: skip
EXPANDED = [["aa", "/m/0jbk", 0.1, 0.5, 0.1, 0.5, 0], ["aa", "/m/0c_jw", 0, 1, 0, 1, 1]]
LABELS = [["ImageID", "LabelName", "Confidence"], ["aa", MOUSE, 1], ["bb", BENCH, 0]]
HIERARCHY = {"LabelName": "/m/0bl9f", "Subcategory": [
    {"LabelName": "/m/0jbk", "Subcategory": [{"LabelName": MOUSE}]},
    {"LabelName": "/m/0c_jw", "Subcategory": [{"LabelName": BENCH}]},
    {"LabelName": COMPUTER_MOUSE}, {"LabelName": TRAINING}]}  # fmt: skip


@pytest.fixture
def challenge(tmp_path, monkeypatch):
    """Function that writes the validation set of the challenge under the names of its card."""

    def write(boxes):
        folder = tmp_path / "openimages/annotations"
        folder.mkdir(parents=True, exist_ok=True)
        for image in ("aa", "bb"):
            picture(tmp_path / f"openimages/validation/{image}.jpg")
        write_rows(folder / "challenge-2019-validation-detection-bbox.csv", boxes)
        write_rows(folder / "challenge-2019-validation-detection-human-imagelabels.csv", LABELS)
        write_rows(folder / "challenge-2019-classes-description-500.csv", CLASSES)
        (folder / "challenge-2019-label500-hierarchy.json").write_text(json.dumps(HIERARCHY))
        data.register_builtin_cards()

    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    yield write
    monkeypatch.undo()
    data.register_builtin_cards()


def test_names_that_occur_twice(challenge):
    challenge(BOXES)
    first, second = DatasetCatalog.get("openimages_challenge_2019_val")
    words = data.get_vocabulary("openimages_challenge_2019_val")
    named = [words.names[a["category_id"]] for r in (first, second) for a in r["annotations"]]
    assert named == ["Mouse (animal)", "Computer mouse", "Bench", "Training bench"]
    assert [a["iscrowd"] for a in first["annotations"]] == [0, 0, 1]
    assert [words.names[i] for i in second["neg_category_ids"]] == ["Bench"]
    ancestors = MetadataCatalog.get("openimages_challenge_2019_val").ancestors
    assert [words.names[i] for i in ancestors[words.index("Mouse (animal)")]] == ["Animal"]
    assert ancestors[words.index("Computer mouse")] == ancestors[words.index("Training bench")] == []
    assert dataset_report("openimages_challenge_2019_val").counts["not_in_hierarchy"] == 494


def test_boxes_that_somebody_expanded(challenge):
    """Boxes expanded in the file, evaluated without expanding, are those that the evaluation expands itself."""
    results = []
    for boxes, expand in ((BOXES, True), ([*BOXES, *EXPANDED], False), ([*BOXES, *EXPANDED], True)):
        challenge(boxes)
        records = DatasetCatalog.get("openimages_challenge_2019_val")
        words = data.get_vocabulary("openimages_challenge_2019_val")
        ancestors = MetadataCatalog.get("openimages_challenge_2019_val").ancestors
        truth = Truth.from_records(records, ancestors if expand else None)
        classes = np.array([words.index("Mouse (animal)"), words.index("Animal")])
        corners = np.array([[4.0, 3.0, 20.0, 15.0]] * 2)  # a tenth to a half of 40 x 30
        found = Detections(np.zeros(2, int), classes, corners, np.array([0.9, 0.8]))
        results.append(open_images_ap(truth, found, len(words))[classes].tolist())
    assert results[0] == results[1] == [1.0, 1.0]
    assert results[2] == [1.0, 0.5]  # expanded twice: half of the animals are not found


def test_every_card_tells_how_to_get_its_files_and_fits_the_table_of_datasets():
    text = (BUILTIN_CARDS.parents[2] / "datasets/README.md").read_text()
    for path in sorted(BUILTIN_CARDS.glob("*.yaml")):
        card = load_card(path)
        assert card.name == path.stem and card.prepare, path.name
        assert card.image_root.split("/")[0] + "/" in text, f"datasets/README.md shows no layout for {card.name}"
