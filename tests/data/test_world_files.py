"""The world's files: valid for independent readers, true to the scenes, and the same however they are written."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from mvseg.data.sources.world.datasets import DATASETS, WorldSettings, scene_spec
from mvseg.data.sources.world.files_maps import map_words
from mvseg.data.sources.world.files_openimages import label_name, open_image_id
from mvseg.data.sources.world.grounds import GROUNDS
from mvseg.data.sources.world.scene import draw_scene
from mvseg.data.sources.world.things import ancestors, things
from mvseg.data.sources.world.words import ground_words, open_names, rare_things, word_list
from mvseg.data.sources.world.write import is_written, write_world

SETTINGS = WorldSettings(images=12, val_images=4, size=96)
SCRIPT = Path(__file__).resolve().parents[2] / "datasets/prepare_world.py"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("datasets") / "world"
    done = write_world(root, images=12, val_images=4, size=96, workers=0)
    assert done.datasets == tuple(DATASETS) and done.images == 9 * 12 + 10 * 4
    return root


def scene_of(name: str, split: str, number: int, settings: WorldSettings = SETTINGS):
    """Draw the scene of a picture again: the truth that the files have to tell."""
    return draw_scene(scene_spec(DATASETS[name], split, number, settings))


def visible(scene):
    return [o for o in scene.objects if o.mask.sum() >= 12]


def read_json(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def digests(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock")
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


# ---- pictures and instances ----


@pytest.mark.parametrize(
    ("name", "split"),
    [("world_coco", "train"), ("world_o365", "val"), ("world_sketch", "val"), ("world_new_words", "val")],
)
def test_coco_files_hold_every_named_object(world, name, split, capsys):
    coco = COCO(str(world / DATASETS[name].folder / f"annotations/instances_{split}.json"))
    words = word_list(DATASETS[name].words)
    assert [c["name"] for c in coco.loadCats(sorted(coco.getCatIds()))] == list(words.names)
    for image_id in coco.getImgIds():
        entry = coco.imgs[image_id]
        scene = scene_of(name, split, image_id)
        picture = np.asarray(Image.open(world / DATASETS[name].folder / split / entry["file_name"]))
        assert np.array_equal(picture, scene.image) and picture.shape == (96, 96, 3)
        truth = [o for o in visible(scene) if o.thing in words.index]
        found = coco.loadAnns(coco.getAnnIds(imgIds=image_id))
        assert [words.index[o.thing] + 1 for o in truth] == [a["category_id"] for a in found]
        for o, a in zip(truth, found, strict=True):
            rows, columns = np.nonzero(o.mask)
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert a["bbox"] == box and a["area"] == o.mask.sum() and a["iscrowd"] == 0
            assert ("segmentation" in a) == (name != "world_o365")
            if "segmentation" in a:
                assert np.array_equal(coco.annToMask(a).astype(bool), o.mask), (image_id, o.thing)


def test_pictures_hold_things_without_a_word(world):
    shown = Counter()
    for number in range(1, 13):
        for o in visible(scene_of("world_coco", "train", number)):
            shown[o.thing in word_list("common").index] += 1
    assert 0.03 < shown[False] / shown.total() < 0.35


# ---- LVIS ----


def test_lvis_files_obey_the_federated_rules(world, monkeypatch):
    from lvis import LVIS, LVISEval, LVISResults

    monkeypatch.setattr(np, "float", float, raising=False)  # the package lvis is older than numpy 1.24

    for split in ("train", "val"):
        path = world / f"lvis/lvis_v1_{split}.json"
        lvis, tree = LVIS(str(path)), read_json(path)
        index = {name.replace(" ", "_"): name for name in word_list("all").names}
        names = {c["id"]: index[c["name"]] for c in tree["categories"]}
        assert list(names.values()) == list(word_list("all").names)
        for image in tree["images"]:
            folder, file = image["coco_url"].split("/")[-2:]
            assert (world / "lvis" / folder / file).is_file()
            truth = Counter(o.thing for o in visible(scene_of("world_lvis", split, image["id"])))
            own = Counter(names[a["category_id"]] for a in lvis.img_ann_map[image["id"]])
            negative = {names[c] for c in image["neg_category_ids"]}
            unfinished = {names[c] for c in image["not_exhaustive_category_ids"]}
            assert not negative & set(truth) and unfinished <= set(own)
            for thing, number in own.items():  # a class in the positive set is complete, unless the image says so
                assert number < truth[thing] if thing in unfinished else number == truth[thing]
            assert set(truth) & rare_things() <= set(own)
    boxes = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 1.0}
        for a in tree["annotations"]
    ]
    evaluation = LVISEval(lvis, LVISResults(lvis, boxes), "bbox")
    evaluation.run()
    assert evaluation.results["AP"] > 0.999  # the evaluator finds the file complete and consistent


def test_lvis_counts_are_those_of_the_training_file(world):
    tree = read_json(world / "lvis/lvis_v1_train.json")
    assert tree["categories"] == read_json(world / "lvis/lvis_v1_val.json")["categories"]
    for c in tree["categories"]:
        own = [a for a in tree["annotations"] if a["category_id"] == c["id"]]
        images = len({a["image_id"] for a in own})
        assert (c["instance_count"], c["image_count"]) == (len(own), images)
        assert c["frequency"] == ("r" if images <= 1 else "c" if images <= 2 else "f")


def test_rare_things_stay_rare_and_are_named_by_nobody_else():
    settings = WorldSettings(images=300)
    dataset, names = DATASETS["world_lvis"], word_list("all").names
    allowed = Counter()
    for number in range(1, 301):
        spec = scene_spec(dataset, "train", number, settings)
        assert tuple(spec.things) == names
        allowed.update(t for t, w in zip(spec.things, spec.weights, strict=True) if w > 0)
    assert all(1 <= allowed[t] <= 3 for t in rare_things())  # 1 % of the pictures is the bound of rare
    assert all(allowed[t] == 300 for t in names if t not in rare_things())
    assert len(rare_things()) == round(0.28 * len(names))
    for name in ("common", "objects", "open", "parse"):
        for word, covered in zip(word_list(name).names, word_list(name).covers, strict=True):
            assert not (set(covered) <= rare_things()), f"{word} of {name} names a rare thing only"


# ---- OpenImages ----


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def true_of(thing: str) -> set[str]:
    """Classes of the OpenImages-like dataset that are true of a thing, from the tables of the world alone."""
    own = {w for w, covered in zip(word_list("open").names, word_list("open").covers, strict=True) if thing in covered}
    return own | (set(ancestors(thing)) & set(open_names()))


def test_openimages_boxes_and_verified_labels_are_true(world):
    names = dict(csv.reader((world / "oid/class-descriptions-boxable.csv").open(encoding="utf-8")))
    assert tuple(names.values()) == open_names() and all(label_name(w) == m for m, w in names.items())
    groups, flags = 0, set()
    for split, stem in (("train", "train"), ("val", "validation")):
        boxes = read_csv(world / f"oid/{stem}-annotations-bbox.csv")
        labels = read_csv(world / f"oid/{stem}-annotations-human-imagelabels-boxable.csv")
        assert list(boxes[0]) == ["ImageID", "Source", "LabelName", "Confidence", "XMin", "XMax", "YMin", "YMax",
                                  "IsOccluded", "IsTruncated", "IsGroupOf", "IsDepiction", "IsInside"]  # fmt: skip
        assert list(labels[0]) == ["ImageID", "Source", "LabelName", "Confidence"]
        for number in range(1, SETTINGS.count(split) + 1):
            image = open_image_id(split, number)
            assert (world / "oid" / stem / f"{image}.png").is_file()
            objects = visible(scene_of("world_oid", split, number))
            positive = {names[r["LabelName"]] for r in labels if r["ImageID"] == image and r["Confidence"] == "1"}
            negative = {names[r["LabelName"]] for r in labels if r["ImageID"] == image and r["Confidence"] == "0"}
            true_words = {w for o in objects for w in true_of(o.thing)}
            assert positive <= true_words and not negative & true_words
            own = [r for r in boxes if r["ImageID"] == image]
            assert {names[r["LabelName"]] for r in own} == positive
            for row in own:
                x0, x1, y0, y1 = (round(float(row[k]) * 96) for k in ("XMin", "XMax", "YMin", "YMax"))
                inside = [
                    o for o in objects
                    if names[row["LabelName"]] in true_of(o.thing) and x0 <= o.box[0] and y0 <= o.box[1]
                    and o.box[0] + o.box[2] <= x1 and o.box[1] + o.box[3] <= y1
                ]  # fmt: skip
                if row["IsGroupOf"] == "1":
                    groups += 1
                    assert len(inside) >= 4
                else:
                    hidden = {o.box: str(int(o.mask.sum() < 0.9 * o.full_area)) for o in inside}
                    assert row["IsOccluded"] == hidden[x0, y0, x1 - x0, y1 - y0]
                assert row["IsTruncated"] == str(int(min(x0, y0) == 0 or max(x1, y1) == 96))
                flags.add((row["IsOccluded"], row["IsTruncated"]))
    assert groups and ("1", "0") in flags  # so that the two columns cannot change places


def test_openimages_boxes_are_complete_for_every_positive_class(world):
    """Also for the general classes above: what the evaluator expands to must not lack a box."""
    names = dict(csv.reader((world / "oid/class-descriptions-boxable.csv").open(encoding="utf-8")))
    boxes = read_csv(world / "oid/train-annotations-bbox.csv")
    for number in range(1, 13):
        image = open_image_id("train", number)
        own = [r for r in boxes if r["ImageID"] == image]
        boxed = {names[r["LabelName"]] for r in own}
        tops = {w for word in boxed for w in hierarchy_line(world, word)}
        for o in visible(scene_of("world_oid", "train", number)):
            line = true_of(o.thing)
            if line & tops:
                assert any(
                    float(r["XMin"]) * 96 <= o.box[0] + 0.01 and float(r["XMax"]) * 96 >= o.box[0] + o.box[2] - 0.01
                    and float(r["YMin"]) * 96 <= o.box[1] + 0.01 and float(r["YMax"]) * 96 >= o.box[1] + o.box[3] - 0.01
                    and names[r["LabelName"]] in line
                    for r in own
                ), (number, o.thing)  # fmt: skip


def hierarchy_line(world: Path, word: str) -> set[str]:
    """The word and everything above it in the written hierarchy."""
    names = dict(csv.reader((world / "oid/class-descriptions-boxable.csv").open(encoding="utf-8")))

    def walk(node, above):
        here = [*above, *([names[node["LabelName"]]] if node["LabelName"] in names else [])]
        if here and here[-1] == word:
            return set(here)
        found = [walk(child, here) for child in node.get("Subcategory", [])]
        return next((line for line in found if line), set())

    return walk(read_json(world / "oid/bbox_labels_600_hierarchy.json"), [])


def test_openimages_hierarchy_is_a_tree_of_true_hypernyms(world):
    names = dict(csv.reader((world / "oid/class-descriptions-boxable.csv").open(encoding="utf-8")))
    seen: list[str] = []

    def walk(node, above):
        word = names[node["LabelName"]]
        seen.append(word)
        covered = {t for t in things() if word in true_of(t)}
        assert covered, f"{word} is true of nothing"
        for general in above:
            assert covered < {t for t in things() if general in true_of(t)}, (word, general)
        for child in node.get("Subcategory", []):
            walk(child, [*above, word])

    root = read_json(world / "oid/bbox_labels_600_hierarchy.json")
    assert root["LabelName"] == "/m/0bl9f"
    for child in root["Subcategory"]:
        walk(child, [])
    assert sorted(seen) == sorted(open_names())
    assert any("Subcategory" in child for child in root["Subcategory"])


# ---- tags, maps ----


def test_tags_are_folders_of_pictures_about_one_thing(world):
    words = {}
    for line in (world / "tags/synset_words.txt").read_text().splitlines():
        label, _, text = line.partition(" ")
        words[label] = text.split(", ")[0]
    assert list(words.values()) == list(word_list("all").names)
    files = sorted((world / "tags/train").rglob("*.png"))
    assert len(files) == 12
    for file in files:
        number = int(file.stem.rpartition("_")[2])
        objects = scene_of("world_tags", "train", number).objects
        first = objects[0]
        assert first.thing == words[file.parent.name]
        assert first.full_area >= max(o.full_area for o in objects)


@pytest.mark.parametrize(("split", "folder"), [("train", "training"), ("val", "validation")])
def test_semantic_maps_are_the_scene(world, split, folder):
    dataset = DATASETS["world_ade"]
    names, words = map_words(dataset), word_list("parse")
    rows = list(csv.DictReader((world / "ade/objectInfo.txt").open(), delimiter="\t"))
    assert [r["Name"] for r in rows] == list(names)
    assert [r["Stuff"] == "1" for r in rows] == [n >= len(words.names) for n in range(len(names))]
    unlabelled = 0
    for number in range(1, SETTINGS.count(split) + 1):
        stem = f"ADE_{split}_{number:08d}.png"
        assert Image.open(world / "ade/images" / folder / stem).size == (96, 96)
        with Image.open(world / "ade/annotations" / folder / stem) as image:
            assert image.mode == "L"
            found = np.asarray(image)
        scene = scene_of("world_ade", split, number)
        wanted = np.zeros((96, 96), int)
        for index, ground in enumerate(GROUNDS):
            word = ground_words("parse").get(ground)
            wanted[scene.ground == index] = names.index(word) + 1 if word else 0
        for o in scene.objects:
            word = next((w for w, c in zip(words.names, words.covers, strict=True) if o.thing in c), None)
            wanted[o.mask] = names.index(word) + 1 if word else 0
        assert np.array_equal(found, wanted)
        unlabelled += int((found == 0).sum())
    assert unlabelled > 0


@pytest.mark.parametrize("split", ["train", "val"])
def test_panoptic_files_are_the_scene(world, split):
    tree = read_json(world / f"panoptic/annotations/panoptic_{split}.json")
    categories = {c["id"]: c for c in tree["categories"]}
    assert [c["name"] for c in tree["categories"]] == list(map_words(DATASETS["world_panoptic"]))
    assert [a["image_id"] for a in tree["annotations"]] == [i["id"] for i in tree["images"]]
    for annotation in tree["annotations"]:
        number = annotation["image_id"]
        rgb = np.asarray(Image.open(world / f"panoptic/annotations/panoptic_{split}" / annotation["file_name"]))
        ids = rgb[:, :, 0].astype(int) + 256 * rgb[:, :, 1].astype(int) + 65536 * rgb[:, :, 2].astype(int)
        scene = scene_of("world_panoptic", split, number)
        things_left = [o for o in scene.objects if o.thing in word_list("common").index]
        segments = annotation["segments_info"]
        assert set(np.unique(ids)) - {0} == {s["id"] for s in segments}
        for segment in segments:
            mask, category = ids == segment["id"], categories[segment["category_id"]]
            rows, columns = np.nonzero(mask)
            assert segment["area"] == mask.sum()
            assert segment["bbox"] == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            if category["isthing"]:
                owner = next(o for o in things_left if np.array_equal(o.mask, mask))
                assert category["id"] == word_list("common").index[owner.thing] + 1
            else:
                ground = {ground_words("panoptic")[GROUNDS[g]] for g in np.unique(scene.ground[mask])}
                assert ground == {category["name"]}
        assert sum(categories[s["category_id"]]["isthing"] for s in segments) == len(things_left)
        nameless = np.any(
            [o.mask for o in scene.objects if o.thing not in word_list("common").index] or [np.zeros((96, 96), bool)], 0
        )
        assert np.array_equal(ids == 0, nameless)


# ---- the way the files are written ----


def test_same_bytes_with_any_number_of_workers(world, tmp_path):
    names = ["world_lvis", "world_oid", "world_panoptic", "world_phrases"]
    write_world(tmp_path / "w", names, images=12, val_images=4, size=96, workers=2)
    for name in names:
        folder = DATASETS[name].folder
        assert digests(tmp_path / "w" / folder) == digests(world / folder)


def test_other_seed_other_files(world, tmp_path):
    write_world(tmp_path / "w", ["world_sketch"], val_images=4, size=96, seed=1)
    ours, theirs = digests(tmp_path / "w/sketch"), digests(world / "sketch")
    assert ours.keys() == theirs.keys() and not set(ours.values()) & set(theirs.values())


def test_what_is_there_is_left_alone(world):
    before = {p: p.stat().st_mtime_ns for p in world.rglob("*.png")}
    done = write_world(world, ["world_coco", "world_tags"], images=12, val_images=4, size=96)
    assert done.datasets == () and done.images == 0
    assert {p: p.stat().st_mtime_ns for p in world.rglob("*.png")} == before


def test_other_settings_and_other_code_are_drawn_again(tmp_path, monkeypatch):
    import mvseg.data.sources.world.write as module

    arguments = {"datasets": ["world_sketch"], "size": 64}
    assert write_world(tmp_path, val_images=3, **arguments).images == 3
    assert write_world(tmp_path, val_images=2, **arguments).images == 2
    assert len(list((tmp_path / "sketch/val").iterdir())) == 2  # nothing is left of the larger set
    settings = WorldSettings(1000, 2, 64, 0)
    assert is_written(tmp_path, "world_sketch", settings)
    assert is_written(tmp_path, "world_sketch", WorldSettings(7, 2, 64, 0))  # it has no training pictures
    assert not is_written(tmp_path, "world_sketch", WorldSettings(1000, 2, 64, 1))
    monkeypatch.setattr(module, "_code", lambda: "other")
    assert not is_written(tmp_path, "world_sketch", settings)
    assert write_world(tmp_path, val_images=2, **arguments).images == 2


def test_options_of_single_datasets(tmp_path):
    write_world(
        tmp_path, ["world_sketch", "world_new_words"], val_images=2, size=64,
        overrides={"world_sketch": {"val_images": 3, "size": 80}},
    )  # fmt: skip
    sizes = [Image.open(p).size for p in sorted((tmp_path / "sketch/val").iterdir())]
    assert sizes == [(80, 80)] * 3
    assert [Image.open(p).size for p in sorted((tmp_path / "new_words/val").iterdir())] == [(64, 64)] * 2


def test_a_killed_run_leaves_nothing_that_counts_as_done(tmp_path):
    command = [sys.executable, str(SCRIPT), "--output", str(tmp_path), "--datasets", "world_coco", "--size", "64",
               "--images", "3000", "--workers", "2"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    partial = tmp_path / ".coco.partial/train"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (partial.is_dir() and len(list(partial.iterdir())) > 20):
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert partial.is_dir() and not (tmp_path / "coco").exists()
    done = write_world(tmp_path, ["world_coco"], images=2, val_images=1, size=64)  # waits for the orphans to end
    assert done.images == 3 and not partial.exists()
    assert len(list((tmp_path / "coco/train").iterdir())) == 2


def test_a_failed_run_leaves_the_old_dataset_and_says_why(tmp_path, monkeypatch):
    import mvseg.data.sources.world.write as module

    write_world(tmp_path, ["world_sketch"], val_images=1, size=64)
    before = digests(tmp_path / "sketch")

    def fail(job):
        raise OSError(28, "No space left on device", "some/file.png")

    monkeypatch.setattr(module, "draw_picture", fail)
    with pytest.raises(OSError, match=r"some/file\.png cannot be written: No space left"):
        write_world(tmp_path, ["world_sketch"], val_images=2, size=64)
    assert digests(tmp_path / "sketch") == before and not (tmp_path / ".sketch.partial").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"datasets": ["world_coca"]}, r"no dataset 'world_coca'; nearest: world_coco"),
        ({"datasets": []}, r"no dataset is named; there are: world_coco"),
        ({"size": 8}, r"size >= 64 and seed >= 0, got 1000, 200, 8, 0"),
        ({"images": 0}, r"images and val_images >= 1"),
        ({"workers": -1}, r"workers must be 0 or more, got -1"),
        ({"overrides": {"world_coco": {"image": 3}}}, r"world_coco has no option 'image'; nearest: images"),
        ({"overrides": {"world_oi": {"images": 3}}}, r"no dataset 'world_oi'; nearest: world_oid"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_drawn(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        write_world(tmp_path / "w", **options)
    assert not (tmp_path / "w").exists()


def test_a_full_disk_is_found_before_drawing(tmp_path, monkeypatch):
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=5_000_000))
    with pytest.raises(OSError, match=r"needs about 0\.\d GB there and 0\.0 GB are free; choose another folder"):
        write_world(tmp_path, ["world_coco"])
    assert not list(tmp_path.glob("*coco*"))


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "w").write_text("")
    with pytest.raises(OSError, match=r"w cannot be written: File exists"):
        write_world(tmp_path / "w", ["world_sketch"])


@pytest.fixture(scope="module")
def prepare():
    """The script's main function; that the script starts is seen where a run of it is killed."""
    spec = importlib.util.spec_from_file_location("prepare_world", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def test_prepare_command(prepare, world, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    options = ["--datasets", "world_sketch", "world_tags", "--images", "12", "--val-images", "2", "--size", "96"]
    assert prepare([*options, "--workers", "0", "--set", "world_sketch.val_images=4"]) == 0
    said = capsys.readouterr().out
    assert "drew 2 datasets, 16 images" in said and "images/s" in said
    assert digests(tmp_path / "world/sketch") == digests(world / "sketch")
    assert digests(tmp_path / "world/tags") == digests(world / "tags")


def test_prepare_command_explains_what_is_wrong(prepare, tmp_path, capsys):
    assert prepare(["--output", str(tmp_path), "--set", "world_sketch"]) == 1
    assert "write DATASET.OPTION=NUMBER" in capsys.readouterr().err
    assert prepare(["--output", str(tmp_path), "--datasets", "world_skech"]) == 1
    assert "no dataset 'world_skech'; nearest: world_sketch" in capsys.readouterr().err
    options = ["--output", str(tmp_path), "--datasets", "world_sketch", "--val-images", "1", "--size", "64"]
    assert prepare([*options, "--workers", "0"]) == 0 and "1 images" in capsys.readouterr().out
    assert prepare([*options, "--workers", "0"]) == 0 and "already holds" in capsys.readouterr().out
