"""The COCO JSON of Visual Genome: names to words, images of other datasets, and what bad input says."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog
from format_files import picture

import mvseg.data as data
from mvseg.vocabulary import Vocabulary

FILE = Path(__file__).parents[2] / "datasets/prepare_visual_genome.py"
spec = importlib.util.spec_from_file_location("prepare_visual_genome", FILE)
prepare = importlib.util.module_from_spec(spec)
spec.loader.exec_module(prepare)


def thing(*names, x=1):
    return {
        "object_id": x,
        "names": list(names),
        "synsets": [],
        "x": x,
        "y": 2,
        "w": 5,
        "h": 6,
        "merged_object_ids": [],
    }


def images(count=4):
    url = "https://cs.stanford.edu/people/rak248/VG_100K{}/{}.jpg"
    return [{"image_id": n, "url": url.format("_2" if n % 2 else "", n), "width": 40, "height": 30,
             "coco_id": 100 + n if n < 3 else None, "flickr_id": None} for n in range(1, count + 1)]  # fmt: skip


def write(root, objects, pictures=None):
    root.mkdir()
    (root / "objects.json").write_text(objects if isinstance(objects, str) else json.dumps(objects))
    (root / "image_data.json").write_text(json.dumps(images() if pictures is None else pictures))
    (root / "object_alias.txt").write_text("television,telly\ncup,mug\nglass,mug\n")
    return str(root)


OBJECTS = [
    {"image_id": 1, "objects": [thing("Telly"), thing("gizmo"), thing("gizmo")]},
    {"image_id": 2, "objects": [thing("gizmo", "man")]},
    {"image_id": 3, "objects": [thing("mug"), thing("man")]},
]


def test_names_of_one_thing():
    words = Vocabulary("w", names=("tv", "cup", "glass", "couch"), synonyms=((), (), (), ("sofa", "tv")))
    table = prepare.name_table(words, [["tv", "telly"], ["cup", "mug"], ["glass", "mug"], ["lamp", "light"]])
    assert table["telly"] == (0, "alias") and table["sofa"] == (3, "synonym") and table["tv"] == (0, "word")
    assert "mug" not in table and "lamp" not in table  # two words, no word
    counts = Counter()
    found = list(prepare.boxes_of([thing("sofa", "TV"), thing("lamp"), thing("mug")], table, counts))
    assert found == [(0, [1.0, 2.0, 5.0, 6.0])] and counts == {"word": 1, "- lamp": 1, "- mug": 1}


def test_prepared_and_read(tmp_path, monkeypatch, capsys):
    root = write(tmp_path / "visual_genome", OBJECTS)
    (tmp_path / "val2017.json").write_text(json.dumps({"images": [{"id": 102}]}))
    assert prepare.main(["--root", root, "--val", "1", "--leave-out", str(tmp_path / "val2017.json")]) == 0
    text = capsys.readouterr().out
    assert "1 images of" in text and "gizmo 2" in text and "train.json: 2 images" in text
    assert text.count("objects.json does not have 1 of the images") == 1  # said, as it looks like an empty image
    for number in (1, 3):
        picture(tmp_path / f"visual_genome/VG_100K_2/{number}.jpg")
    picture(tmp_path / "visual_genome/VG_100K/4.jpg")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    data.register_builtin_cards()
    words = data.get_vocabulary("visual_genome_val")
    val = DatasetCatalog.get("visual_genome_val")
    assert [words.names[a["category_id"]] for r in val for a in r["annotations"]] == ["television"]
    train = DatasetCatalog.get("visual_genome_train")
    assert [r["file_name"][-15:] for r in train] == ["VG_100K_2/3.jpg", "me/VG_100K/4.jpg"[-15:]]
    assert "man" in [words.names[a["category_id"]] for r in train for a in r["annotations"]]
    monkeypatch.undo()
    data.register_builtin_cards()


def test_words_of_a_list_with_synonyms(tmp_path):
    (tmp_path / "objects_vocab.txt").write_text("computer mouse,mouse\n\nbread\n")
    words = prepare.read_words(str(tmp_path / "objects_vocab.txt"))
    assert words.names == ("computer mouse", "bread") and words.synonyms == (("mouse",), ())


@pytest.mark.parametrize(
    ("objects", "arguments", "message"),
    [
        ("[{", (), "objects.json is not JSON"),
        ({"image_id": 1}, (), "objects.json must be a list of images"),
        ([{"image_id": 1}], (), "objects.json: entry 0 needs image_id, objects"),
        (OBJECTS, ("--words", "missing.tsv"), "missing.tsv does not exist"),
        (
            [{"image_id": 1, "objects": [{"names": ["man"], "x": 1}]}],
            (),
            "image 1: an object needs names, x, y, w and h",
        ),
        (OBJECTS, ("--val", "val.txt"), "2 validation ids are those of no image in image_data.json, such as 77"),
    ],
)
def test_bad_input(tmp_path, capsys, monkeypatch, objects, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "val.txt").write_text("1\n77\n78\n")
    assert prepare.main(["--root", write(tmp_path / "vg", objects), *arguments]) == 1
    assert message in capsys.readouterr().err
