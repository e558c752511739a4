"""``python -m mvseg.data``: what stats counts, what check finds, and that show draws the annotations at their place."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from coco_files import small_tree, write_coco
from format_files import open_images_set, panoptic_set, semantic_set, stripes
from PIL import Image

from mvseg.data.__main__ import main, missing_places
from mvseg.data.card import load_card, make_card
from mvseg.data.inspection import inspect_card
from mvseg.data.statistics import dataset_statistics
from mvseg.inference.drawing import label_color
from mvseg.inference.ground_truth import LINE_HEIGHT, draw_sample

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def dataset(tmp_path: Path, card) -> Path:
    """The dataset "looked_at" with masks: image 7 with a cat and a traffic light, image 9 with a dog."""
    card(name="looked_at", supervision="masks", **write_coco(tmp_path, small_tree()))
    return tmp_path


def rows_of(text: str) -> dict[str, list[str]]:
    """First cell of each line of a table -> the other cells; cells are two or more spaces apart."""
    cells = [[c.strip() for c in line.split("  ") if c.strip()] for line in text.splitlines()]
    return {row[0]: row[1:] for row in cells if len(row) > 1}


def test_stats_counts_images_objects_sizes_and_classes(dataset: Path, capsys):
    assert main(["stats", "looked_at", "--csv", str(dataset / "out" / "classes.csv")]) == 0
    rows = rows_of(capsys.readouterr().out)
    assert rows["images"] == ["2"] and rows["objects"] == ["3"]
    # SQUARE is a mask of 10 x 10 pixels: all three are small by the mask, though the dog's box is 40 x 30
    assert rows["small (< 32²)"][:2] == ["3", "100.0%"] and rows["large (> 96²)"][0] == "0"
    # sides relative to 40 x 30 pixels: sqrt(100 / 1200) = 0.29, sqrt(160 / 1200) = 0.37, 1
    assert rows["20% to 50%"][0] == "2" and rows["> 50%"][0] == "1"
    # width : height 1, 2.5 and 1.33
    assert rows["0.8 to 1.25"][0] == "1" and rows["2 to 4"][0] == "1" and rows["1.25 to 2"][0] == "1"
    assert rows["1"][0] == "1" and rows["2 to 5"][0] == "1"  # one image with one object, one with two
    assert rows["1 to 10"][0] == "3" and rows["cat"] == ["1", "1"]
    found = list(csv.reader((dataset / "out" / "classes.csv").open()))
    assert found[0] == ["dataset", "class", "images", "objects"]
    assert sorted(found[1:]) == [["looked_at", word, "1", "1"] for word in ("cat", "dog", "traffic light")]


def test_stats_leave_out_crowds_and_count_images_of_a_class_once():
    box = {"bbox": [0, 0, 10, 10], "bbox_mode": 1, "category_id": 1}
    image = {"height": 100, "width": 100, "file_name": "x"}
    records = [
        {**image, "annotations": [box, box, {**box, "iscrowd": 1}]},
        {**image, "annotations": []},
        {**image, "annotations": [], "image_labels": [0, 1]},
        {**image, "annotations": [], "phrases": [{"text": "the red one", "bbox": [0, 0, 50, 20], "bbox_mode": 1}]},
        {**image, "annotations": [], "captions": ["a dog", "a big brown dog"]},
    ]
    found = dataset_statistics("x", records, ["a", "b", "c"])
    assert found.class_images.tolist() == [1, 2, 0] and found.class_objects.tolist() == [1, 3, 0]
    assert found.objects_per_image.tolist() == [2, 0, 2, 1, 0]
    facts = dict(found.facts)
    assert facts["crowd regions"] == "1" and facts["images without annotations"] == "1"
    assert facts["captions"] == "2" and facts["words in a caption or phrase"] == "3.0 (2 to 4)"
    assert sorted(found.aspects.tolist()) == [1, 1, 2.5]


def test_long_tail_groups():
    box = {"bbox": [0, 0, 10, 10], "bbox_mode": 1, "iscrowd": 0}
    counts = {0: 1, 1: 10, 2: 11, 3: 100, 4: 101}
    records = [
        {"height": 9, "width": 9, "annotations": [{**box, "category_id": c}]}
        for c, n in counts.items()
        for _ in range(n)
    ]
    found = dataset_statistics("x", records, [f"word {i}" for i in range(6)])
    rows = rows_of(found.tables(top=1).partition("images that show the class")[2])
    assert [rows[k][0] for k in ("0", "1 to 10", "11 to 100", "> 100")] == ["1", "2", "2", "1"]
    assert "word 4" in rows and "word 5" in rows and "... 4 more" in found.tables(top=1) and "word 2" not in rows


def broken_tree() -> dict:
    """small_tree with one problem of each kind."""
    tree = small_tree()
    square, images, annotations = tree["annotations"][0]["segmentation"], tree["images"], tree["annotations"]
    images += [
        {"id": 10, "file_name": "missing.png", "height": 30, "width": 40},
        {"id": 11, "file_name": "broken.png", "height": 30, "width": 40},
        {"id": 12, "file_name": "larger.png", "height": 30, "width": 40},
        {"id": 13, "file_name": "one.png", "height": 30, "width": 40},
    ]
    tree["categories"].append({"id": 12, "name": "unicorn"})
    good = {"image_id": 10, "category_id": 2, "bbox": [1, 1, 5, 5], "segmentation": square, "iscrowd": 0, "area": 9}
    changes = [
        {"id": 20, "bbox": [1, 1, 0, 5]},
        {"id": 21, "bbox": [50, 50, 5, 5]},
        {"id": 22, "bbox": [35, 1, 10, 5]},
        {"id": 23, "category_id": 99},
        {"id": 24, "segmentation": "a circle"},
        {"id": 25, "segmentation": {"size": [3, 3], "counts": [9]}},
        {"id": 26, "bbox": [1, 2, 3]},
        {"id": 27, "image_id": 77},
        {"id": 28, "segmentation": [[1, 2, 3, 4]]},
        {"id": 4, "image_id": 11},
        {"id": 29, "image_id": 12},
    ]
    annotations += [{**good, **change} for change in changes]
    return tree


def test_check_lists_every_problem_with_its_id(tmp_path: Path, card, capsys):
    paths = write_coco(tmp_path, broken_tree())
    images = tmp_path / "images"
    (images / "missing.png").unlink()
    (images / "broken.png").write_bytes(b"\x89PNG no picture")
    cv2.imwrite(str(images / "larger.png"), np.ones((31, 41, 3), np.uint8))
    words = [{"name": word} for word in ("cat", "dog", "traffic light")]
    words.append({"name": "unicorn", "synonyms": ["Traffic_Light"]})
    (tmp_path / "words.yaml").write_text(yaml.safe_dump([{"synonyms": [], **word} for word in words]))
    card(name="broken", supervision="masks", vocabulary=str(tmp_path / "words.yaml"), **paths)
    assert main(["check", "broken"]) == 1
    out = capsys.readouterr().out
    errors = [line for line in out.splitlines() if line.startswith("ERROR")]
    notes = [line for line in out.splitlines() if line.startswith("note ")]
    for number, what in (
        (23, "category_id 99"), (24, "neither a list"), (25, "RLE of size"), (26, "four numbers"), (27, "image 77"),
    ):  # fmt: skip
        assert any(f"annotation {number} " in f"{line} ".replace(":", " ") and what in line for line in errors), number
    assert any("duplicate annotation id 4" in line for line in errors)
    assert any("image 10" in line and "missing.png does not exist" in line for line in errors)
    assert any("image 11" in line and "broken.png" in line for line in errors)
    assert any("image 12" in line and "41 x 31" in line for line in errors)
    assert len(errors) == 9
    for number, what in ((20, "without area"), (21, "outside"), (22, "reaching outside"), (28, "fewer than 3")):
        assert any(f"annotation {number}:" in line and what in line for line in notes), number
    assert any("images 7 and 13 are the same file" in line for line in notes)
    assert any("image 13" in line and "nothing is annotated" in line for line in notes)
    assert any("'unicorn': no object" in line for line in notes)
    assert any("a synonym of 'unicorn', is spelt like the word 'traffic light'" in line for line in notes)
    assert "6 images opened" in out


def test_check_of_a_good_dataset_ends_with_code_0(dataset: Path, capsys):
    assert main(["check", "looked_at", "--max-images", "1"]) == 0
    assert "1 images opened" in capsys.readouterr().out


def test_check_of_card_files_lists_wrong_cards_and_what_cannot_be_read(tmp_path: Path, capsys):
    fields = {"name": "from_file", **write_coco(tmp_path, "[1, 2", images=False)}
    cards = tmp_path / "cards"
    cards.mkdir()
    (cards / "a.yaml").write_text(yaml.safe_dump(fields))
    (cards / "b.yaml").write_text(yaml.safe_dump({**fields, "formta": "coco"}))
    assert main(["check", str(cards)]) == 1
    out = capsys.readouterr().out
    assert "is not JSON" in out and "reading ended here" in out and "unknown field 'formta'" in out


def test_check_finds_embeddings_that_do_not_fit_and_equal_pictures(dataset: Path, card):
    np.save(dataset / "two_rows.npy", np.ones((2, 4), np.float32))
    paths = write_coco(dataset / "again", small_tree())
    made = card(name="no_rows", embeddings=str(dataset / "two_rows.npy"), **paths)
    kinds = {p.kind: p for p in inspect_card(made).problems}
    assert kinds["embeddings"].fatal and "two_rows.npy" in kinds["embeddings"].text
    assert not kinds["same_picture"].fatal and "two.png" in kinds["same_picture"].text  # all black


def test_check_lists_every_image_that_is_missing(tmp_path: Path):
    sets = {
        "boxes": open_images_set(tmp_path / "boxes"),
        "maps": semantic_set(tmp_path / "maps", {name: stripes(0, 1) for name in "xyz"}),
        "segments": panoptic_set(tmp_path / "segments"),
    }
    gone = {"boxes": ("cc.jpg", "aa.jpg"), "maps": ("y.jpg",), "segments": ("a.jpg", "a.png", "b.png")}
    for name, fields in sets.items():
        for file in gone[name]:
            next((tmp_path / name).rglob(file)).unlink()
        found = inspect_card(make_card({"name": name, **fields}))
        texts = [p.text for p in found.problems if p.kind == "missing_file"]
        assert found.fatal and len(texts) == len(gone[name])
        assert all(any(f"{file} " in text for text in texts) for file in gone[name])


def test_check_needs_a_card(capsys):
    assert main(["check", "coco_2014_train"]) == 1
    assert "'coco_2014_train' was registered by a function and has no card" in capsys.readouterr().out


def test_check_of_a_dataset_without_images(tmp_path: Path):
    found = inspect_card(make_card({"name": "none", **write_coco(tmp_path, {**small_tree(), "images": []})}))
    assert any("no usable image: 0 images" in p.text for p in found.problems)


def test_a_voc_folder_is_read_to_its_end(tmp_path: Path, card):
    (tmp_path / "xml").mkdir()
    (tmp_path / "images").mkdir()
    template = "<annotation><size><width>40</width><height>30</height></size>{}</annotation>"
    thing = "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
    for name, objects in (("a", [("cat", "x"), ("cow", 3)]), ("b", [("cat", 20), ("cat", 2)]), ("c", [("", 2)])):
        cv2.imwrite(str(tmp_path / "images" / f"{name}.jpg"), np.full((30, 40, 3), ord(name), np.uint8))
        (tmp_path / "xml" / f"{name}.xml").write_text(template.format("".join(thing.format(*o) for o in objects)))
    made = card(
        name="voc_small", format="voc", image_root=str(tmp_path / "images"), annotations=str(tmp_path / "xml"),
        vocabulary=["cat", "dog"],
    )  # fmt: skip
    found = [(p.kind, p.fatal) for p in inspect_card(made).problems]
    assert sorted(found) == [
        ("bad_box", True), ("empty_image", False), ("empty_image", False), ("error", True), ("no_objects", False),
        ("unknown_category", True), ("zero_area", False),
    ]  # fmt: skip


def test_show_draws_the_objects_of_the_images_asked_for(dataset: Path):
    sheet = dataset / "sheet.png"
    assert main(["show", "looked_at", "--images", "two,7", "--output", str(sheet), "--height", "300"]) == 0
    picture = np.asarray(Image.open(sheet).convert("RGB")).astype(int)
    assert picture.shape == (316, 806, 3)  # two pictures of 400 x 300 with captions of 16 pixels and a gap of 6
    assert np.abs(picture[16 + 80, 20 + 50] / 255 - 0.4 * np.array(label_color("dog"))).max() < 0.02  # its mask
    # the cat's box and mask cover (2, 3) to (12, 13) of image 7, the second picture; around them it stays black
    assert picture[20:300, 406 + 270 :].max() < 20 and picture[16 + 80, 406 + 70].max() > 50


def test_show_augmented_puts_pairs_beside_each_other(dataset: Path):
    config = dataset / "flip.yaml"
    config.write_text(
        "INPUT: {RANDOM_FLIP: horizontal, MIN_SIZE_TRAIN: [60]}\nMODEL: {MASK_ON: True}\n"
        "DATASETS: {MIX: [{name: looked_at}]}\n"
    )
    pictures = []
    for seed in range(8):
        path = dataset / f"{seed}.png"
        arguments = ["--images", "7", "--augmented", "--config-file", str(config), "--height", "300"]
        assert main(["show", "looked_at", *arguments, "--seed", str(seed), "--output", str(path)]) == 0
        pictures.append(np.asarray(Image.open(path).convert("RGB")).astype(int))
        smaller = ["--opts", "INPUT.MIN_SIZE_TRAIN", "(30,)"]
        assert main(["show", "looked_at", *arguments, "--output", str(dataset / "smaller.png"), *smaller]) == 0
    assert all(p.shape == (316, 806, 3) for p in pictures)
    assert all((p[:, :400] == pictures[0][:, :400]).all() for p in pictures)  # the original stays
    # the square lies at x = 2 to 12 of 40, or, flipped, at 28 to 38
    left, right = ({i for i, p in enumerate(pictures) if p[16 + 125, 406 + x].max() > 50} for x in (30, 370))
    assert left and right and left | right == set(range(8)) and not left & right


def test_show_names_images_that_cannot_be_drawn_and_images_that_do_not_exist(dataset: Path, capsys):
    (dataset / "images" / "one.png").unlink()
    assert main(["show", "looked_at", "--output", str(dataset / "s.png")]) == 1
    assert "one.png: the file does not exist" in capsys.readouterr().err
    assert main(["show", "looked_at", "--images", "tow.png", "--output", str(dataset / "s.png")]) == 2
    assert "no image 'tow.png'; nearest: two.png" in capsys.readouterr().err


def test_list_says_which_files_are_missing(dataset: Path, card, capsys):
    card(name="not_here", format="coco", image_root=str(dataset / "images"), annotations="nowhere/a.json")
    main(["list"])
    rows = rows_of(capsys.readouterr().out)
    assert rows["looked_at"] == ["coco", "masks", "coco", "present"]
    assert rows["not_here"] == ["coco", "boxes", "coco", "no nowhere/a.json"]
    main(["list", "--only-present"])
    rows = rows_of(capsys.readouterr().out)
    assert "looked_at" in rows and "not_here" not in rows


def test_files_beside_a_card_are_not_missing(tmp_path: Path):
    fields = {"name": "beside", **open_images_set(tmp_path)}
    fields["files"] = {role: Path(path).name for role, path in fields["files"].items()}
    (tmp_path / "card.yaml").write_text(yaml.safe_dump({**fields, "split": "list.txt"}))
    assert missing_places(load_card(tmp_path / "card.yaml")) == ["no list.txt"]


def test_maps_get_their_words_colours_and_a_legend():
    sample = {"image": torch.zeros(3, 20, 40, dtype=torch.uint8), "sem_seg": torch.full((20, 40), 255)}
    sample["sem_seg"][:, :20] = 1
    picture = draw_sample(sample, ["sky", "grass"], rgb=True, height=100)
    assert picture.shape == (100 + LINE_HEIGHT + 2, 200, 3)
    assert np.abs(picture[50, 20] / 255 - 0.55 * np.array(label_color("grass"))).max() < 0.02
    assert picture[50, 150].max() == 0
    swatch = picture[100 + 8, 6] / 255
    assert np.abs(swatch - np.array(label_color("grass"))).max() < 0.02  # first in the legend


def test_segments_of_one_word_are_told_apart_and_counted():
    ids = torch.zeros(20, 40, dtype=torch.int64)
    ids[:, 10:20], ids[:, 20:] = 5, 9
    segments = [{"id": 5, "category_id": 0, "iscrowd": 0}, {"id": 9, "category_id": 0, "iscrowd": 0}]
    sample = {"image": torch.zeros(3, 20, 40, dtype=torch.uint8), "pan_seg": ids, "segments_info": segments}
    picture = draw_sample(sample, ["tree"], rgb=True, height=100).astype(int)
    assert picture[50, 20].max() == 0
    assert np.abs(picture[50, 75] / 255 - 0.55 * np.array(label_color("tree"))).max() < 0.02
    assert np.abs(picture[50, 75] - picture[50, 150]).max() > 8


def test_sentences_stand_below_and_phrases_at_their_box():
    image = torch.full((3, 40, 60), 100, dtype=torch.uint8)
    plain = draw_sample({"image": image, "captions": ["a grey wall", "nothing at all"]}, [], rgb=True, height=80)
    assert plain.shape == (80 + 2 * LINE_HEIGHT + 2, 120, 3) and (plain[81:95] < 100).any() and (plain[96:] < 100).any()
    phrase = {"text": "it", "bbox": [10, 5, 30, 35], "bbox_mode": 0}
    both = [phrase, {**phrase, "text": "the same thing"}]
    boxed = draw_sample({"image": image, "phrases": both}, [], rgb=True, height=80)
    assert boxed.shape[0] == 80 + 2 * LINE_HEIGHT + 2  # one box, two phrases about it
    for line in range(2):
        assert np.abs(boxed[88 + line * LINE_HEIGHT, 6] / 255 - np.array(label_color("1"))).max() < 0.02
    changed = (np.abs(boxed[:80].astype(int) - 100) > 30).any(axis=2)
    assert changed[20:60, 20].mean() > 0.9 and not changed[:, 100:].any()
    tags = draw_sample({"image": image, "image_labels": [1]}, ["cat", "dog"], rgb=True, height=80)
    assert np.abs(tags[88, 6] / 255 - np.array(label_color("dog"))).max() < 0.02


def test_the_command_starts():
    result = subprocess.run(
        [sys.executable, "-m", "mvseg.data", "check", "no_such_set"], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert result.returncode == 2 and "no dataset 'no_such_set'" in result.stderr


def test_semantic_maps_are_counted_checked_and_drawn(tmp_path: Path, card, capsys):
    """Value 0 is nothing, 1 is sky, 2 is grass; the second map has a value that is no class."""
    for folder in ("images", "maps"):
        (tmp_path / folder).mkdir()
    first = np.zeros((20, 40), np.uint8)
    first[:, :10], first[:, 10:30] = 1, 2
    for name, labels in (("a", first), ("b", np.full((20, 40), 2, np.uint8))):
        Image.fromarray(np.full((20, 40, 3), ord(name), np.uint8)).save(tmp_path / "images" / f"{name}.png")
        Image.fromarray(labels).save(tmp_path / "maps" / f"{name}.png")
    made = card(
        name="two_maps", format="semantic", image_root=str(tmp_path / "images"), annotations=str(tmp_path / "maps"),
        vocabulary=["sky", "grass", "sea"], options={"label_offset": 1, "ignore_label": 0},
    )  # fmt: skip
    assert main(["stats", "two_maps"]) == 0
    rows = rows_of(capsys.readouterr().out)
    assert rows["grass"] == ["2", "2"] and rows["sky"] == ["1", "1"] and rows["sea"] == ["0", "0"]
    assert rows["pixels without a label"] == ["12.5%"] and rows["semantic maps read"] == ["2 of 2"]
    assert main(["show", "two_maps", "--images", "a", "--height", "200", "--output", str(tmp_path / "s.png")]) == 0
    picture = np.asarray(Image.open(tmp_path / "s.png").convert("RGB")).astype(float)
    tinted = 0.45 * ord("a") / 255 + 0.55 * np.array(label_color("sky"))
    assert np.abs(picture[16 + 100, 50] / 255 - tinted).max() < 0.02
    assert inspect_card(made).problems == []
    Image.fromarray(np.full((20, 40), 9, np.uint8)).save(tmp_path / "maps" / "b.png")
    found = inspect_card(made).problems
    assert any(p.fatal and "b.png" in p.text and "9" in p.text for p in found)
