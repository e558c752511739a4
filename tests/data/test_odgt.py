"""ODGT files as CrowdHuman publishes them: kinds of boxes, ignored ones, and what bad input says."""

from __future__ import annotations

import json

import pytest
from detectron2.data import DatasetCatalog
from format_files import picture

from mvseg.data.catalog import dataset_report

PERSON = {"tag": "person", "fbox": [-5, 2, 20, 40], "vbox": [2, 3, 10, 12], "hbox": [4, 3, 3, 4],
          "extra": {"box_id": 0, "occ": 1}, "head_attr": {"ignore": 0, "occ": 0, "unsure": 0}}  # fmt: skip
LINES = [
    {"ID": "273271,c9db000d5146c15", "gtboxes": [
        PERSON,
        {**PERSON, "head_attr": {"ignore": 1}},
        {**PERSON, "tag": "mask", "extra": {"box_id": 2, "ignore": 1}},
    ]},
    {"ID": "b", "gtboxes": [{**PERSON, "extra": {"ignore": 1}}, {**PERSON, "head_attr": {}}]},
]  # fmt: skip


def odgt(folder, lines, **options):
    for line in LINES:
        picture(folder / "Images" / f"{line['ID']}.jpg")
    text = lines if isinstance(lines, str) else "\n".join(map(json.dumps, lines)) + "\n\n"
    (folder / "a.odgt").write_text(text)
    return {"format": "odgt", "image_root": str(folder / "Images"), "annotations": str(folder / "a.odgt"),
            "vocabulary": {"name": "people", "names": ["person"]}, "options": options}  # fmt: skip


@pytest.mark.parametrize(
    ("box", "first", "crowds", "clipped"),
    [
        ("visible", [2, 3, 10, 12], [[0, 0, 1], [1, 0]], 0),
        ("full", [0, 2, 15, 28], [[0, 0, 1], [1, 0]], 5),  # of 40 x 30 pixels
        ("head", [4, 3, 3, 4], [[0, 1, 1], [1, 0]], 0),
    ],
)
def test_the_box_that_is_asked_for(tmp_path, card, box, first, crowds, clipped):
    card(name=f"people_{box}", **odgt(tmp_path, LINES, box=box))
    records = DatasetCatalog.get(f"people_{box}")
    assert [r["image_id"] for r in records] == ["273271,c9db000d5146c15", "b"]
    assert (records[0]["height"], records[0]["width"]) == (30, 40)
    assert records[0]["annotations"][0]["bbox"] == first
    assert [[a["iscrowd"] for a in r["annotations"]] for r in records] == crowds
    counts = dataset_report(f"people_{box}").counts
    assert counts["clipped"] == clipped and counts["crowd"] == sum(map(sum, crowds)) and counts["instances"] == 5


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        (LINES, {}, r"options.box must say which boxes are meant: full, visible, head"),
        (LINES, {"box": "fbox"}, r"full, visible, head, not 'fbox'"),
        ('{"ID": "b", "gtboxes"', {"box": "full"}, r"a.odgt, line 1 is not JSON"),
        ([{"ID": "b"}], {"box": "full"}, r"a.odgt, line 1 needs ID and the list gtboxes"),
        ([LINES[1], LINES[1]], {"box": "full"}, r"duplicate image ID b"),
        ([{"ID": "b", "gtboxes": [{"fbox": [1, 1, 2, 2]}]}], {"box": "full"}, r"line 1, box 1 has no tag"),
        ([{"ID": "b", "gtboxes": [{**PERSON, "tag": "dog"}]}], {"box": "full"}, r"'dog' \(line 1\)"),
        ([{"ID": "b", "gtboxes": [{"tag": "person"}]}], {"box": "head"}, r"line 1, hbox of box 1: bbox must be four"),
    ],
)
def test_bad_input(tmp_path, card, lines, options, message):
    card(name="people_bad", **odgt(tmp_path, lines, **options))
    with pytest.raises(ValueError, match=message):
        DatasetCatalog.get("people_bad")


def test_ids_that_mean_no_image_or_several(tmp_path, card):
    out = {"ID": "../outside", "gtboxes": [PERSON]}
    picture(tmp_path / "outside.jpg")
    card(name="people_out", **odgt(tmp_path, [*LINES, out], box="visible"))
    with pytest.raises(ValueError, match=r"a.odgt, line 3: ID '../outside' leads out of the image folder"):
        DatasetCatalog.get("people_out")
    picture(tmp_path / "Images" / "more" / "b.png")
    card(name="people_twice", **odgt(tmp_path, LINES, box="visible"))
    with pytest.raises(ValueError, match=r"line 2: 2 images of .* are called b: b.jpg, more/b.png; which one is meant"):
        DatasetCatalog.get("people_twice")


def test_a_missing_image(tmp_path, card):
    card(name="people_gone", **odgt(tmp_path, [*LINES, {"ID": "gone", "gtboxes": [PERSON]}], box="visible"))
    with pytest.raises(FileNotFoundError, match=r"'people_gone'.*gone.jpg does not exist"):
        DatasetCatalog.get("people_gone")
