"""Detic's files of image labels."""

from __future__ import annotations

from pathlib import Path

import pytest
from format_files import picture, write_json

from mvseg.data import get_records, get_vocabulary
from mvseg.data.catalog import dataset_report

CATEGORIES = [{"id": 5, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 9, "name": "elk"}]


def image(number: int, **more) -> dict:
    return {"id": number, "file_name": f"n{number}/{number}.jpg", "height": 30, "width": 40, **more}


def tag_file(folder: Path, images: list[dict], **more) -> dict:
    for number in range(1, 4):
        picture(folder / f"n{number}/{number}.jpg")
    file = write_json(folder / "info.json", {"images": images, "annotations": [], "categories": CATEGORIES})
    return {"name": "info", "format": "coco_image_labels", "image_root": str(folder), "annotations": file, **more}


IMAGES = [image(1, pos_category_ids=[9, 5, 5]), image(2, pos_category_ids=[]), image(3, captions=[" a\n dog ", ""])]


def test_tags(tmp_path: Path, card):
    made = card(**tag_file(tmp_path, IMAGES))
    records = get_records("info")
    assert (made.supervision, made.evaluator) == ("tags", "none")
    assert get_vocabulary("info").names == ("dog", "cat", "elk")  # in the order of the ids
    assert [r["image_labels"] for r in records] == [[1, 2], [], []]
    assert [r.get("captions") for r in records] == [None, None, ["a dog"]]
    assert (records[0]["height"], records[0]["width"], records[0]["annotations"]) == (30, 40, [])
    counts = dataset_report("info").counts
    assert (counts["tags"], counts["annotated_images"], counts["empty_sentences"]) == (2, 1, 1)


def test_captions_and_a_vocabulary(tmp_path: Path, card):
    card(**tag_file(tmp_path, IMAGES, supervision="captions", vocabulary=["elk", "dog"], ignore=["cat"]))
    assert [(r["captions"], r["image_labels"]) for r in get_records("info")] == [([], [0]), ([], []), (["a dog"], [])]
    assert dataset_report("info").counts["ignored"] == 1


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {"pos_category_ids": [3]},
            r"image 1: pos_category_ids has 3, which is not among the file's categories 2 to 9",
        ),
        ({"pos_category_ids": 5}, "must be a list of category ids, found 5"),
        ({"captions": "a dog"}, "captions must be a list of sentences"),
        ({"captions": [3]}, "a sentence must be a text"),
        ({"height": None}, "needs file_name, height and width"),
        ({}, "none with an annotation that could be kept"),
    ],
)
def test_wrong_files(tmp_path: Path, card, entry: dict, message: str):
    card(**tag_file(tmp_path, [image(1) | entry]))
    with pytest.raises(ValueError, match=message):
        get_records("info")
