"""Maps of instances: Cityscapes' real ones, and generated ones as Mapillary Vistas publishes them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from format_files import SHARED, picture, save
from PIL import Image
from pycocotools import mask as mask_util

import mvseg.data as data
from mvseg.data.catalog import dataset_report
from mvseg.data.label_maps import read_semantic
from mvseg.data.sources.instance_maps import regions_of

sys.path.insert(0, str(Path(__file__).parents[2] / "datasets"))

CITYSCAPES = SHARED / "cityscapes"
needs_cityscapes = pytest.mark.skipif(not CITYSCAPES.is_dir(), reason="no ../shared/data")
PART = (600, 350, 1624, 650)  # left, top, right, bottom
THINGS = {"person": 24, "rider": 25, "car": 26, "truck": 27, "bus": 28, "train": 31, "motorcycle": 32, "bicycle": 33}


@pytest.fixture
def root(monkeypatch):
    """Function that registers the built-in cards below a folder for the length of a test."""

    def use(folder):
        monkeypatch.setenv("DETECTRON2_DATASETS", str(folder))
        data.register_builtin_cards()

    yield use
    monkeypatch.undo()
    data.register_builtin_cards()


@pytest.fixture(scope="module")
def part_of_a_city(tmp_path_factory):
    """Folder with a part of one image of Cityscapes, in its layout."""
    top = tmp_path_factory.mktemp("cities")
    for folder, end in (
        ("leftImg8bit", "leftImg8bit"),
        ("gtFine", "gtFine_instanceIds"),
        ("gtFine", "gtFine_labelIds"),
    ):
        place = f"cityscapes/{folder}/train/aachen/aachen_000002_000019_{end}.png"
        (top / place).parent.mkdir(parents=True, exist_ok=True)
        Image.open(SHARED / place).crop(PART).save(top / place)
    return top


@needs_cityscapes
def test_cityscapes_against_a_mask_for_every_value(root, part_of_a_city):
    root(part_of_a_city)
    records = DatasetCatalog.get("cityscapes_fine_instance_train")
    assert [r["image_id"] for r in records] == [1]
    words = MetadataCatalog.get("cityscapes_fine_instance_train").thing_classes
    assert words == list(THINGS)
    assert data.get_vocabulary("cityscapes_fine_instance_train").ids == tuple(THINGS.values())
    crowds = 0
    for record in records:
        file = record["file_name"].replace("leftImg8bit/", "gtFine/").replace("leftImg8bit", "gtFine_instanceIds")
        pixels = np.asarray(Image.open(file)).astype(int)
        expected = [v for v in np.unique(pixels) if (v // 1000 if v >= 1000 else v) in THINGS.values()]
        found = record["annotations"]
        assert len(found) == len(expected) > 5
        for value, annotation in zip(expected, found, strict=True):
            mask = pixels == value
            assert np.array_equal(mask_util.decode(annotation["segmentation"]), mask)
            ys, xs = np.nonzero(mask)
            assert annotation["bbox"] == [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
            assert THINGS[words[annotation["category_id"]]] == (value // 1000 if value >= 1000 else value)
            assert annotation["iscrowd"] == (value < 1000)
            crowds += annotation["iscrowd"]
    assert dataset_report("cityscapes_fine_instance_train").counts["crowd"] == crowds > 0


@needs_cityscapes
def test_cityscapes_semantic_maps(root, part_of_a_city):
    root(part_of_a_city)
    record = DatasetCatalog.get("cityscapes_fine_sem_seg_train")[0]
    words = data.get_vocabulary("cityscapes_fine_sem_seg_train")
    classes, pixels = read_semantic(record), np.asarray(Image.open(record["sem_seg_file_name"]))
    assert len(words) == 19 and words.index("road") == 0 and words.ids[0] == 7
    pairs = dict(zip(pixels[::3, ::3].flat, classes[::3, ::3].flat, strict=True))
    assert {v: words.ids[c] if c != 255 else None for v, c in pairs.items()} == {
        v: v if v in words.ids else None for v in pairs
    }


def test_runs_around_the_end_of_a_column():
    pixels = np.zeros((4, 3), dtype=np.int64)
    pixels[3, 0] = pixels[0, 1] = 261  # one run in column order
    pixels[1, 2] = 262
    pixels[2:, 2] = 700
    found = regions_of(pixels, [1], 256, groups=False)
    assert [r.value for r in found] == [261, 262] and [r.box for r in found] == [(0, 0, 2, 4), (2, 1, 1, 1)]
    assert [np.argwhere(mask_util.decode(r.rle)).tolist() for r in found] == [[[0, 1], [3, 0]], [[1, 2]]]
    assert regions_of(pixels, [9], 256, groups=False) == []
    # Zero and the first values have label 0, unless they are groups without a number.
    assert [r.value for r in regions_of(pixels, [0], 256, groups=False)] == [0]


LABELS = [
    {"name": "animal--bird", "readable": "Bird", "instances": True, "evaluate": True},
    {"name": "construction--barrier--curb", "readable": "Curb", "instances": False, "evaluate": True},
    {"name": "human--person", "readable": "Person", "instances": True, "evaluate": True},
    {"name": "void--unlabeled", "readable": "Unlabeled", "instances": False, "evaluate": False},
]


def mapillary(folder, labels, version="v1.2", config="config_v1.2.json"):
    """Two birds, a person, and stuff, as 16 bits; the label map beside it."""
    for split in ("training", "validation"):
        picture(folder / split / "images/a.jpg", (6, 8))
        pixels = np.full((6, 8), 256)
        pixels[0, :2], pixels[1, 3], pixels[3:, 4:], pixels[2] = 0, 1, 2 * 256 + 7, 3 * 256
        save(folder / split / version / "instances/a.png", pixels, np.uint16)
        save(folder / split / version / "labels/a.png", pixels // 256)
    (folder / config).write_text(json.dumps({"labels": labels, "version": "x"}))


def test_mapillary_is_prepared_and_read(tmp_path, root, capsys):
    import prepare_mapillary

    mapillary(tmp_path / "mapillary", LABELS, "v2.0", "config_v2.0.json")
    assert prepare_mapillary.main(["--root", str(tmp_path / "mapillary"), "--version", "2.0"]) == 0
    root(tmp_path)
    records = DatasetCatalog.get("mapillary_v2.0_instance_val")
    assert data.get_vocabulary("mapillary_v2.0_instance_val").names == ("Bird", "Person")
    found = records[0]["annotations"]
    assert [(a["category_id"], a["bbox"]) for a in found] == [(0, [0, 0, 2, 1]), (0, [3, 1, 1, 1]), (1, [4, 3, 4, 3])]
    assert mask_util.decode(found[0]["segmentation"]).sum() == 2
    assert MetadataCatalog.get("mapillary_v2.0_instance_val").json_file.endswith("instances_v2.0_val.json")
    semantic = DatasetCatalog.get("mapillary_v2.0_sem_seg_train")
    assert data.get_vocabulary("mapillary_v2.0_sem_seg_train").names == ("Bird", "Curb", "Person")
    classes = read_semantic(semantic[0])
    assert classes[0, 0] == 0 and classes[5, 0] == 1 and classes[5, 7] == 2 and (classes[2] == 255).all()
    # A label that is no word of the table, in the layout of the older archive.
    mapillary(tmp_path / "old", [*LABELS[:2], {**LABELS[2], "name": "human--robot", "readable": "Robot"}, LABELS[3]],
              ".", "config.json")  # fmt: skip
    assert prepare_mapillary.main(["--root", str(tmp_path / "old"), "--version", "1.2"]) == 1
    error = capsys.readouterr().err
    assert "1 categories of" in error and "'Robot' (label 2)" in error and "words of the vocabulary have no" in error


def test_mapillarys_real_list_of_labels(tmp_path, card):
    config = SHARED / "labels/mapillary_vistas_v1.1_config.json"
    if not config.is_file():
        pytest.skip("no ../shared/data")
    mapillary(tmp_path, LABELS)
    pixels = np.full((6, 8), 55 * 256)  # a car, and a void: the ego vehicle
    pixels[0], pixels[1:3, 2] = 64 * 256, 19 * 256 + 3
    save(tmp_path / "training/v1.2/instances/a.png", pixels, np.uint16)
    fields = {"format": "instance_maps", "image_root": str(tmp_path / "training/images"), "options": {"divisor": 256},
              "annotations": str(tmp_path / "training/v1.2/instances"), "files": {"labels": str(config)}}  # fmt: skip
    card(name="mv_table", **fields, vocabulary={"table": "mapillary_65", "kind": "thing"})
    card(name="mv_own", **fields)
    for name, person in (("mv_table", "person"), ("mv_own", "Person")):
        words = data.get_vocabulary(name)
        assert len(words) == 37
        found = DatasetCatalog.get(name)[0]["annotations"]
        assert words.names[found[0]["category_id"]] == person and len(found) == 2
        assert [words.ids[a["category_id"]] for a in found] == [19, 55]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": {}}, r"options.divisor must be a whole number"),
        ({"options": {"divisor": 256, "groups": "yes"}}, r"options.groups is true or false, not 'yes'"),
        (
            {"options": {"divisor": 256, "label_sufix": "x"}},
            r"does not know options.label_sufix; nearest: label_suffix",
        ),
        ({"files": {}}, r"maps do not name their labels; say vocabulary"),
        ({"vocabulary": {"table": "mapillary_65", "kind": "things"}}, r"vocabulary.kind is thing or stuff"),
        (
            {"vocabulary": {"table": "lvis_v1", "kind": "thing"}},
            r"'lvis_v1' does not say which of its words are things",
        ),
    ],
)
def test_wrong_cards(tmp_path, card, change, message):
    mapillary(tmp_path, LABELS)
    fields = {"format": "instance_maps", "image_root": str(tmp_path / "training/images"), "options": {"divisor": 256},
              "annotations": str(tmp_path / "training/v1.2/instances"),
              "files": {"labels": str(tmp_path / "config_v1.2.json")}}  # fmt: skip
    with pytest.raises(ValueError, match=message):
        card(name="mv_wrong", **{**fields, **change})
        DatasetCatalog.get("mv_wrong")


def test_wrong_files(tmp_path, card):
    mapillary(tmp_path, LABELS)
    maps = tmp_path / "training/v1.2/instances"
    fields = {"format": "instance_maps", "image_root": str(tmp_path / "training/images"), "options": {"divisor": 256},
              "annotations": str(maps), "files": {"labels": str(tmp_path / "config_v1.2.json")}}  # fmt: skip
    card(name="mv_bad", **fields)
    save(maps / "a.png", np.zeros((3, 4)))
    with pytest.raises(ValueError, match=r"'mv_bad'.*a.png: the label map has 4 x 3 pixels, its image 8 x 6"):
        DatasetCatalog.get("mv_bad")
    save(maps / "a.png", np.zeros((6, 8, 3)))
    with pytest.raises(ValueError, match=r"a picture of mode RGB, not an index image"):
        DatasetCatalog.get("mv_bad")
    (maps / "a.png").write_bytes(b"no png")
    with pytest.raises(Exception, match=r"mv_bad.*a.png"):
        DatasetCatalog.get("mv_bad")
    (tmp_path / "config_v1.2.json").write_text(json.dumps({"labels": [{"name": "x", "instances": 1}]}))
    with pytest.raises(ValueError, match=r"config_v1.2.json: label 0 needs name, and instances and evaluate"):
        DatasetCatalog.get("mv_bad")
