"""Image labels of Open Images as tags."""

from __future__ import annotations

from pathlib import Path

import pytest
from format_files import CLASS_ROWS, LABEL_ROWS, TREE, picture, write_json, write_rows

from mvseg.data import get_records, get_vocabulary
from mvseg.data.catalog import dataset_report
from mvseg.data.label_spaces import label_space


def tag_set(folder: Path, rows=None, flat: bool = False, **more) -> dict:
    for name, place in (("aa", "train_0"), ("bb", "train_1"), ("cc", "")):
        picture(folder / "images" / ("" if flat else place) / f"{name}.jpg")
    return {
        "name": "seen",
        "format": "openimages",
        "supervision": "tags",
        "image_root": str(folder / "images"),
        "annotations": write_rows(folder / "labels.csv", rows or LABEL_ROWS),
        "files": {
            "classes": write_rows(folder / "classes.csv", [*CLASS_ROWS, ["/m/moon", "Moon"]]),
            "hierarchy": write_json(folder / "tree.json", TREE),
        },
        **more,
    }


@pytest.mark.parametrize("flat", [False, True])
def test_labels(tmp_path: Path, card, flat: bool):
    made = card(**tag_set(tmp_path, flat=flat))
    records = get_records("seen")
    assert made.evaluator == "none"
    assert get_vocabulary("seen").names == ("Animal", "Cat", "Dog", "Car", "Moon")
    assert [r["image_id"] for r in records] == ["aa", "bb", "cc"]
    assert [r["image_labels"] for r in records] == [[0], [], [1, 4]]
    assert [r["verified_category_ids"] for r in records] == [[0], [], [1, 4]]
    assert [r["neg_category_ids"] for r in records] == [[3], [2], [2]]
    assert all(Path(r["file_name"]).is_file() and r["annotations"] == [] for r in records)
    counts = dataset_report("seen").counts
    assert [counts[k] for k in ("tags", "refuted", "annotated_images", "foreign_labels")] == [3, 3, 2, 0]
    assert get_vocabulary("seen").parents[1] == ("Animal",)
    assert label_space(["seen"], embeddings=False, image_counts=True).image_count.tolist() == [1, 1, 0, 0, 1]


def test_words_of_another_vocabulary(tmp_path: Path, card):
    card(**tag_set(tmp_path, vocabulary=["Dog", "Cat"]))
    assert [r["image_labels"] for r in get_records("seen")] == [[], [], [1]]
    assert [r["neg_category_ids"] for r in get_records("seen")] == [[], [0], [0]]
    assert dataset_report("seen").counts["foreign_labels"] == 3


def test_labels_of_a_machine(tmp_path: Path, card):
    rows = [LABEL_ROWS[0], ["aa", "machine", "/m/cat", "0.7"], ["aa", "machine", "/m/dog", "0.4"],
            ["bb", "verification", "/m/cat", "0"], ["bb", "machine", "/m/cat", "0.9"],
            ["bb", "verification", "/m/dog", "1.0"]]  # fmt: skip
    card(**tag_set(tmp_path, rows, options={"min_confidence": 0.6}))
    assert [(r["image_labels"], r["neg_category_ids"]) for r in get_records("seen")] == [([1], []), ([1, 2], [])]
    assert dataset_report("seen").counts["unsure_labels"] == 1


def test_split(tmp_path: Path, card):
    (tmp_path / "list.txt").write_text("cc\naa\n")
    card(**tag_set(tmp_path, split=str(tmp_path / "list.txt")))
    assert [r["image_id"] for r in get_records("seen")] == ["aa", "cc"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": [LABEL_ROWS[0], ["aa", "v", "/m/cat", "yes"]]}, r"line 2: Confidence 'yes' is no number from 0 to 1"),
        ({"rows": [LABEL_ROWS[0], ["aa", "v", "/m/cta", "1"]]}, r"line 2: unknown LabelName '/m/cta'"),
        ({"rows": [["ImageID", "LabelName"], ["aa", "/m/cat"]]}, "has no column Confidence"),
        ({"rows": [LABEL_ROWS[0], ["zz", "v", "/m/cat", "1"]]}, "1 of 1 images are missing; the first"),
        ({"rows": [LABEL_ROWS[0], ["aa", "v", "/m/cat", "0"]]}, "none with an annotation that could be kept"),
        ({"options": {"min_confidence": 0}}, r"options.min_confidence must be a number above 0"),
        ({"files": {"image_labels": "x.csv"}}, r"image labels are named under annotations"),
        ({"evaluator": "coco"}, r"say evaluator: openimages"),
    ],
)
def test_wrong_sets(tmp_path: Path, card, change: dict, message: str):
    card(**tag_set(tmp_path, **change))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        get_records("seen")
