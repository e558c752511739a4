"""The drawn data: the same everywhere, annotated exactly, and readable through its cards."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from pycocotools import mask as mask_util

from mvseg.data.catalog import BUILTIN_CARDS
from mvseg.data.sources.shapes import WORDS, draw_scene, mask_to_polygons, shape_names, write_shapes
from mvseg.vocabulary import Vocabulary

EXPECTED = [
    ("heart", (95, 9, 20, 21)),
    ("star", (10, 38, 20, 20)),
    ("ring", (45, 41, 23, 24)),
    ("square", (16, 80, 29, 34)),
    ("flower", (69, 31, 30, 28)),
    ("triangle", (28, 76, 32, 32)),
    ("cross", (62, 41, 33, 33)),
]


def scene(index: int, size: int = 128):
    return draw_scene(np.random.default_rng([5, 0, index]), size)


def test_same_seed_same_picture():
    first, second, other = scene(1), scene(1), scene(2)
    assert np.array_equal(first[0], second[0]) and not np.array_equal(first[0], other[0])
    assert [(o.shape, o.box) for o in first[1]] == [(o.shape, o.box) for o in second[1]]
    # Drawn once and written down: another machine or version must give the same objects.
    assert [(o.shape, o.box) for o in first[1]] == EXPECTED


def test_masks_do_not_overlap_and_boxes_are_tight():
    for index in range(20):
        picture, objects = scene(index)
        assert picture.shape == (128, 128, 3) and picture.dtype == np.uint8
        assert sum(o.mask.astype(int) for o in objects).max() <= 1
        for o in objects:
            x, y, w, h = o.box
            assert o.mask[y : y + h, x : x + w].sum() == o.mask.sum() > 20
            for edge in (o.mask[y, :], o.mask[y + h - 1, :], o.mask[:, x], o.mask[:, x + w - 1]):
                assert edge.any()


def test_polygons_fill_exactly_the_mask():
    seen = set()
    for index in range(25):
        for o in scene(index)[1]:
            polygons = mask_to_polygons(o.mask)
            filled = mask_util.decode(mask_util.merge(mask_util.frPyObjects(polygons, 128, 128))).astype(bool)
            assert np.array_equal(filled, o.mask), (index, o.shape)
            seen.add(o.shape)
    assert seen == set(shape_names())  # the ring's hole and shapes that others cut in two are among them


def test_a_mask_with_two_holes():
    mask = np.ones((20, 30), bool)
    mask[5:9, 4:10] = mask[8:15, 18:22] = False
    polygons = mask_to_polygons(mask)
    filled = mask_util.decode(mask_util.merge(mask_util.frPyObjects(polygons, 20, 30))).astype(bool)
    assert np.array_equal(filled, mask) and len(polygons) == 3


def test_every_shape_can_be_told_from_its_ground():
    contrast = []
    for index in range(20):
        picture, objects = scene(index)
        ground = picture[~np.any([o.mask for o in objects], 0)].mean(0)
        contrast += [np.abs(picture[o.mask].mean(0) - ground).sum() for o in objects]
    assert np.mean(np.array(contrast) > 40) > 0.9  # summed over the three colours, of 765


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("datasets")
    assert write_shapes(root / "shapes", images=6, val_images=3, size=96)
    return root


def test_files_and_words(folder):
    names = {p.name for p in (folder / "shapes").iterdir()}
    assert names == {"a_train", "b_train", "val", "shapes.json", "shapes_a_train.json", "shapes_a_val.json",
                     "shapes_b_train.json", "shapes_b_val.json", "shapes_all_val.json"}  # fmt: skip
    trees = {
        p: json.loads((folder / f"shapes/{p}.json").read_text())
        for p in ("shapes_a_val", "shapes_b_val", "shapes_all_val")
    }
    assert [len(t["images"]) for t in trees.values()] == [3, 3, 3]
    boxes = {p: {tuple(a["bbox"]) for a in t["annotations"]} for p, t in trees.items()}
    assert boxes["shapes_a_val"] | boxes["shapes_b_val"] == boxes["shapes_all_val"]
    assert all(("segmentation" in a) == (p != "shapes_b_val") for p, t in trees.items() for a in t["annotations"])
    shared = boxes["shapes_a_val"] & boxes["shapes_b_val"]
    circles = {tuple(a["bbox"]) for a in trees["shapes_all_val"]["annotations"] if a["category_id"] == 1}
    assert shared == circles and len(set(WORDS["shapes_a"].values()) & set(WORDS["shapes_b"].values())) == 0
    assert cv2.imread(str(folder / "shapes/val/000001.png")).shape == (96, 96, 3)


def test_cards_say_the_same_as_the_files(folder):
    rows = Vocabulary.from_file(BUILTIN_CARDS / "shapes_words.txt").names
    for file in BUILTIN_CARDS.glob("shapes_*.yaml"):
        card = yaml.safe_load(file.read_text())
        tree = json.loads((folder / card["annotations"]).read_text())
        assert [c["name"] for c in tree["categories"]] == card["vocabulary"]["names"]
        assert set(card["vocabulary"]["names"]) <= set(rows)
        assert (folder / card["image_root"] / tree["images"][0]["file_name"]).is_file()
        assert card["name"] == file.stem


def test_read_through_the_card(folder, monkeypatch):
    from detectron2.data import DatasetCatalog, MetadataCatalog

    import mvseg.data as data

    monkeypatch.setenv("DETECTRON2_DATASETS", str(folder))
    data.register_builtin_cards()
    try:
        space = data.label_space(["shapes_a_train", "shapes_b_train"])
        assert space.n == 12 and space.embeddings.shape == (12, 384)
        assert data.label_space(["shapes_a_train", "shapes_a_val"]).n == 6
        records = DatasetCatalog.get("shapes_all_val")
        assert len(records) == 3 and records[0]["supervision"] == "masks"
        assert MetadataCatalog.get("shapes_all_val").json_file.endswith("shapes_all_val.json")
    finally:
        monkeypatch.undo()
        data.register_builtin_cards()


def test_drawing_again_does_nothing(folder):
    def state():
        return {p: p.stat().st_mtime_ns for p in (folder / "shapes").rglob("*")}

    before = state()
    assert not write_shapes(folder / "shapes", images=6, val_images=3, size=96)
    assert state() == before
    with pytest.raises(ValueError, match=r"size >= 32, got 6, 3, 8"):
        write_shapes(folder / "shapes", images=6, val_images=3, size=8)


def test_prepare_command(folder, tmp_path):
    script = Path(__file__).resolve().parents[2] / "datasets/prepare_shapes.py"
    command = [
        sys.executable,
        str(script),
        "--output",
        str(tmp_path / "d"),
        "--images",
        "6",
        "--val-images",
        "3",
        "--size",
        "96",
    ]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0 and "drew the shapes data" in result.stdout, result.stderr
    for file in sorted((folder / "shapes").rglob("*.png")):
        twin = tmp_path / "d" / file.relative_to(folder / "shapes")
        assert hashlib.sha256(file.read_bytes()).digest() == hashlib.sha256(twin.read_bytes()).digest()
