"""Reading label maps, panoptic sets, image folders, captions and phrases, and what bad input says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode
from format_files import (
    SHARED,
    caption_set,
    caption_tree,
    panoptic_set,
    panoptic_tree,
    phrase_set,
    phrase_tree,
    picture,
    save,
    semantic_set,
    stripes,
    write_json,
    write_rows,
)

from mvseg.data import get_card, get_records, get_vocabulary
from mvseg.data.catalog import dataset_report
from mvseg.data.inspection import inspect_card
from mvseg.data.label_maps import check_label_maps, ignore_label, read_panoptic, read_semantic

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the real samples are not there")
ADE = {"label_offset": 1, "ignore_label": 0}


def test_semantic_records(tmp_path, card):
    fields = semantic_set(tmp_path, {"b": stripes(1, 2, 3, 0), "a": stripes(3, 3, 0, 1)}, **ADE)
    picture(tmp_path / "images/unlabelled.jpg")
    (tmp_path / "annotations/training/notes.txt").write_text("x")
    card(name="sem", **fields)
    first, second = get_records("sem")
    assert first == {
        "file_name": str(tmp_path / "images/training/a.jpg"),
        "height": 30,
        "width": 40,
        "image_id": 1,
        "dataset": "sem",
        "supervision": "semantic",
        "sem_seg_file_name": str(tmp_path / "annotations/training/a.png"),
        "sem_seg_values": {"classes": 3, "offset": 1, "ignore": [0]},
    }
    assert np.array_equal(read_semantic(second), stripes(0, 1, 2, 255))
    counts = dataset_report("sem").counts
    wanted = {"images": 2, "label_maps": 2, "unlabelled_images": 1, "other_files": 1, "empty_images": 0}
    assert {key: counts[key] for key in wanted} == wanted
    assert "instances" not in dataset_report("sem").table()
    metadata = MetadataCatalog.get("sem")
    assert metadata.stuff_classes == ["sky", "tree", "road"] and metadata.ignore_label == 255
    assert metadata.evaluator_type == "sem_seg" and metadata.get("thing_classes") is None
    assert get_card("sem").supervision == "semantic"


def test_values_of_label_maps(tmp_path, card):
    fields = semantic_set(tmp_path, {"a": stripes(7, 0, 40, 8)}, label_values=[8, 40, 7], ignore_label=[0, 255])
    card(name="listed", **fields)
    assert np.array_equal(read_semantic(get_records("listed")[0]), stripes(2, 255, 1, 0))
    card(name="plain", **semantic_set(tmp_path / "p", {"a": stripes(0, 1, 2, 255)}))
    assert np.array_equal(read_semantic(get_records("plain")[0]), stripes(0, 1, 2, 255))
    fields = semantic_set(tmp_path / "many", {}, label_offset=1, ignore_label=0)
    picture(tmp_path / "many/images/a.jpg")
    save(tmp_path / "many/annotations/a.png", stripes(0, 256, 300, 1), np.uint16)
    card(name="many", **{**fields, "vocabulary": [f"word {i}" for i in range(300)]})
    assert MetadataCatalog.get("many").ignore_label == 65535  # 255 is a class
    assert (ignore_label(255), ignore_label(256)) == (255, 65535)
    assert np.array_equal(read_semantic(get_records("many")[0]), stripes(65535, 255, 299, 0))


def test_names_of_cityscapes(tmp_path, card):
    picture(tmp_path / "left/aachen/aachen_1_left.png")
    save(tmp_path / "fine/aachen/aachen_1_fine.png", stripes(0, 1))
    save(tmp_path / "fine/aachen/aachen_1_instances.png", stripes(0, 1))
    fields = {"format": "semantic", "image_root": str(tmp_path / "left"), "annotations": str(tmp_path / "fine")}
    card(name="city", **fields, vocabulary=["a", "b"], options={"image_suffix": "_left", "label_suffix": "_fine"})
    (record,) = get_records("city")
    assert record["sem_seg_file_name"].endswith("aachen_1_fine.png") and record["file_name"].endswith("_left.png")
    (tmp_path / "split.txt").write_text("aachen_1_left.png\n")
    card(name="split", **fields, vocabulary=["a", "b"], options={"image_suffix": "_left", "label_suffix": "_fine"},
         split=str(tmp_path / "split.txt"))  # fmt: skip
    assert len(get_records("split")) == 1


@pytest.mark.parametrize(
    ("pixels", "options", "message"),
    [
        (stripes(0, 1, 2, 4), ADE, r"a.png: the values 4 are no classes: 1 to 3 are the 3 classes, 0 is ignored"),
        (stripes(0, 1, 2, 3), {}, r"a.png: the values 3 are no classes: 0 to 2 are the 3 classes, 255 is ignored"),
        (np.zeros((30, 40, 3)), ADE, r"a.png: a picture of mode RGB, not an index image"),
        (np.ones((40, 30)), ADE, r"a.png: the label map has 30 x 40 pixels, its image 40 x 30"),
        (stripes(1, 2), {"label_offset": "1"}, r"options.label_offset must be whole numbers"),
        (
            stripes(1, 2),
            {"label_offset": 1, "ignore_label": 3},
            r"options.ignore_label 3 is the pixel value of a class",
        ),
        (stripes(1, 2), {"label_values": [1, 2]}, r"options.label_values needs 3 different values.* found 2"),
        (stripes(1, 2), {"label_values": [1, 2, 3], "label_offset": 1}, r"say one of them"),
    ],
)
def test_wrong_label_maps(tmp_path, card, pixels, options, message):
    card(name="wrong", **semantic_set(tmp_path, {"a": pixels}, **options))
    with pytest.raises(ValueError, match=message) as error:
        get_records("wrong")
    assert "dataset 'wrong'" in str(error.value)


def test_an_image_beside_its_label_map_is_not_taken_for_it(tmp_path, card):
    save(tmp_path / "all/x.png", stripes(0, 1))
    picture(tmp_path / "all/x.jpg")
    folder = str(tmp_path / "all")
    card(name="beside", format="semantic", image_root=folder, annotations=folder, vocabulary=["sky", "tree"])
    with pytest.raises(ValueError, match=r"x.jpg and .*x.png: which is the image of label map x\?"):
        get_records("beside")


def test_missing_parts_of_semantic_sets(tmp_path, card):
    fields = semantic_set(tmp_path, {"a": stripes(1, 2), "b": stripes(1, 2)}, **ADE)
    card(name="no_words", **{**fields, "vocabulary": None})
    with pytest.raises(ValueError, match=r"label maps do not name their classes; say vocabulary"):
        get_records("no_words")
    (tmp_path / "images/training/b.jpg").unlink()
    card(name="no_image", **fields)
    with pytest.raises(FileNotFoundError, match=r"the image of label map .*b.png, .*b.jpg does not exist"):
        get_records("no_image")
    card(name="no_maps", **{**fields, "annotations": str(tmp_path / "images")})
    with pytest.raises(FileNotFoundError, match=r"holds no label map \*.png"):
        get_records("no_maps")
    for key, what in (("image_root", "image folder"), ("annotations", "folder of label maps")):
        card(name=f"no {key}", **{**fields, key: str(tmp_path / "gone")})
        with pytest.raises(FileNotFoundError, match=f"{what} .*gone does not exist"):
            get_records(f"no {key}")


def test_the_check_command_reads_every_label_map_once(tmp_path, card):
    maps = {f"{i:02}": stripes(1, 2) for i in range(40)}
    maps |= {"05": stripes(9, 1), "17": np.zeros((30, 40, 3)), "31": np.ones((3, 4))}
    card(name="many", **semantic_set(tmp_path, maps, **ADE))
    found = [p.text for p in inspect_card(get_card("many")).problems if p.kind == "label_map"]
    assert sorted(Path(text.split(": ")[0].split(", ")[-1]).name for text in found) == ["05.png", "17.png", "31.png"]


@needs_shared
def test_real_ade20k(card):
    root = SHARED / "ade20k_150"
    fields = {"format": "semantic", "image_root": str(root / "images"), "annotations": str(root / "annotations")}
    card(name="ade", **fields, vocabulary="ade20k_150", options=ADE)
    records = get_records("ade")
    assert len(records) == 3
    seen = {index for record in records for index in np.unique(read_semantic(record))} - {255}
    words = get_vocabulary("ade").names
    assert len(seen) == 21  # the README counts 22 values, "other" among them
    assert {"wall", "building", "sky"} <= {words[index] for index in seen}
    card(name="ade_off", **fields, vocabulary="ade20k_150", options={"label_offset": 1})
    with pytest.raises(ValueError, match=r"the values 0 are no classes: 1 to 150 are the 150 classes, 255 is ignored"):
        get_records("ade_off")


@needs_shared
def test_real_cityscapes(card):
    root = SHARED / "cityscapes"
    used = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    card(
        name="city",
        format="semantic",
        image_root=str(root / "leftImg8bit"),
        annotations=str(root / "gtFine"),
        vocabulary="cityscapes_19",
        options={
            "label_values": used,
            "ignore_label": [value for value in range(34) if value not in used],
            "image_suffix": "_leftImg8bit",
            "label_suffix": "_gtFine_labelIds",
        },
    )
    records = get_records("city")
    assert len(records) == 5
    shares = np.bincount(read_semantic(records[0]).reshape(-1), minlength=256)
    assert get_vocabulary("city").names[int(shares[:19].argmax())] == "road"


def test_panoptic_records(tmp_path, card):
    card(name="pan", **panoptic_set(tmp_path))
    first, second = get_records("pan")
    words = get_vocabulary("pan")
    assert words.names == ("cat", "grass") and words.is_thing == (True, False)
    large = 1 + 256 * 2 + 65536 * 3
    assert first == {
        "file_name": str(tmp_path / "images/a.jpg"),
        "height": 30,
        "width": 40,
        "image_id": 3,
        "dataset": "pan",
        "supervision": "panoptic",
        "pan_seg_file_name": str(tmp_path / "panoptic/a.png"),
        "segments_info": [
            {"id": large, "category_id": 0, "isthing": True, "iscrowd": 0, "area": 600, "bbox": [0, 0, 20, 30]},
            {"id": 9, "category_id": 1, "isthing": False, "iscrowd": 0, "area": 300, "bbox": [20, 0, 10, 30]},
        ],
    }
    assert np.array_equal(read_panoptic(first), stripes(large, large, 9, 0))
    assert second["segments_info"][0]["iscrowd"] == 1
    metadata = MetadataCatalog.get("pan")
    assert metadata.thing_classes == metadata.stuff_classes == ["cat", "grass"]
    assert metadata.thing_dataset_id_to_contiguous_id == {7: 0}
    assert metadata.stuff_dataset_id_to_contiguous_id == {90: 1}
    assert metadata.panoptic_json == str(tmp_path / "panoptic.json")
    assert metadata.panoptic_root == str(tmp_path / "panoptic") and metadata.evaluator_type == "coco_panoptic_seg"
    assert not metadata.get("json_file")  # Detectron2's name for an instances file
    counts = dataset_report("pan").counts
    assert (counts["segments"], counts["crowd"], counts["images"]) == (3, 1, 2)


def test_ignored_segments_become_void(tmp_path, card):
    fields = panoptic_set(tmp_path)
    card(name="ignored", **fields, ignore=["grass"])
    first = get_records("ignored")[0]
    large = 1 + 256 * 2 + 65536 * 3
    assert [s["id"] for s in first["segments_info"]] == [large]
    assert np.array_equal(read_panoptic(first), stripes(large, large, 0, 0))
    assert not MetadataCatalog.get("ignored").get("panoptic_json")
    (tmp_path / "split.txt").write_text("b\n")
    card(name="split", **fields, split=str(tmp_path / "split.txt"))
    assert [r["image_id"] for r in get_records("split")] == [5]
    assert not MetadataCatalog.get("split").get("panoptic_json")


def _segments(tree):
    return tree["annotations"][0]["segments_info"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: _segments(t)[1].update(id=10), r"a.png: no pixel has the segment id 10 of segments_info"),
        (lambda t: _segments(t).pop(), r"a.png: segments_info does not list the id 9 of the map"),
        (lambda t: _segments(t)[1].update(category_id=8), r"image 3: segment 9 has category_id 8.*categories 7 to 90"),
        (lambda t: _segments(t).append(dict(_segments(t)[0])), r"image 3: duplicate segment id"),
        (lambda t: _segments(t)[1].pop("id"), r"image 3: a segment needs id and category_id"),
        (lambda t: t["annotations"][0].update(segments_info={}), r"image 3: segments_info must be a list"),
        (lambda t: t["annotations"][0].update(image_id=4), r"image 4 has segments, but the file does not list it"),
        (lambda t: t["annotations"][1].update(image_id=3), r"image 3 has two annotations"),
        (lambda t: t["annotations"][0].pop("file_name"), r"annotations\[0\] needs image_id, file_name, segments_info"),
        (lambda t: t.pop("categories"), r"not COCO panoptic JSON.*categories is missing"),
        (lambda t: t["images"][0].update(height=20), r"a.png: the label map has 40 x 30 pixels, its image 40 x 20"),
    ],
)
def test_wrong_panoptic_files(tmp_path, card, spoil, message):
    tree = panoptic_tree()
    spoil(tree)
    card(name="wrong", **panoptic_set(tmp_path, tree))
    with pytest.raises(ValueError, match=message) as error:
        get_records("wrong")
    assert "dataset 'wrong'" in str(error.value)


def test_wrong_panoptic_pictures(tmp_path, card):
    fields = panoptic_set(tmp_path)
    save(tmp_path / "panoptic/a.png", np.ones((30, 40)))
    card(name="index", **fields)
    with pytest.raises(ValueError, match=r"a.png: a picture of mode L, not an RGB image whose colours are segment ids"):
        get_records("index")
    (tmp_path / "panoptic/a.png").unlink()
    card(name="one_gone", **fields)
    with pytest.raises(OSError, match=r"label map .*a.png: the file does not exist"):
        get_records("one_gone")
    (tmp_path / "panoptic/b.png").unlink()
    card(name="all_gone", **fields)
    with pytest.raises(FileNotFoundError, match=r"panoptic PNG .*a.png does not exist"):
        get_records("all_gone")
    (tmp_path / "panoptic").rmdir()
    card(name="no_folder", **fields)
    with pytest.raises(FileNotFoundError, match=r"folder of panoptic PNGs .*panoptic does not exist"):
        get_records("no_folder")


@needs_shared
def test_real_coco_panoptic(card):
    root = SHARED / "coco_panoptic"
    fields = {"format": "coco_panoptic", "image_root": str(root / "images"), "annotations": str(root / "panoptic.json")}
    for vocabulary in (None, "coco_panoptic_133"):
        card(name=f"pan {vocabulary}", **fields, files={"panoptic": str(root / "panoptic")}, vocabulary=vocabulary)
        records = get_records(f"pan {vocabulary}")
        for record in records:
            check_label_maps(record)
            ids = read_panoptic(record)
            areas = {s["id"]: s["area"] for s in record["segments_info"]}
            assert {i: int((ids == i).sum()) for i in areas} == areas
        assert len(records) == 3 and dataset_report(f"pan {vocabulary}").counts["segments"] == 34
        words = get_vocabulary(f"pan {vocabulary}")
        assert len(words) == 133 and sum(words.is_thing) == 80


def test_folders_of_classes(tmp_path, card):
    for name in ("cat/1.jpg", "cat/more/2.PNG", "dog/3.jpeg", ".hidden/4.jpg"):
        picture(tmp_path / "set" / name)
    (tmp_path / "set/dog/readme.txt").write_text("x")
    (tmp_path / "set/owl").mkdir()
    card(name="tags", format="image_folder", image_root=str(tmp_path / "set"))
    records = get_records("tags")
    assert records[1] == {
        "file_name": str(tmp_path / "set/cat/more/2.PNG"),
        "image_id": 2,
        "dataset": "tags",
        "supervision": "tags",
        "annotations": [],
        "image_labels": [0],
    }
    assert [r["image_labels"] for r in records] == [[0], [0], [1]] and get_vocabulary("tags").names == ("cat", "dog")
    counts = dataset_report("tags").counts
    assert (counts["tags"], counts["other_files"], counts["empty_folders"]) == (3, 1, 1)
    card(name="words", format="image_folder", image_root=str(tmp_path / "set"), vocabulary=["dog", "horse"],
         aliases={"cat": "horse"})  # fmt: skip
    assert [r["image_labels"] for r in get_records("words")] == [[1], [1], [0]]
    card(name="unknown", format="image_folder", image_root=str(tmp_path / "set"), vocabulary=["dog", "caat"])
    with pytest.raises(ValueError, match=r"'cat' \(folder cat, cat/1.jpg\); nearest: caat"):
        get_records("unknown")
    table = write_rows(tmp_path / "classes.csv", [["cat", "Felis"], ["dog", "Canis"]])
    card(name="table", format="image_folder", image_root=str(tmp_path / "set"), files={"classes": table})
    assert get_vocabulary("table").names == ("Canis", "Felis")
    assert [r["image_labels"] for r in get_records("table")] == [[1], [1], [0]]


def test_list_of_tagged_images(tmp_path, card):
    for name in ("a.jpg", "b c.jpg"):
        picture(tmp_path / name)

    def read(name, text, **fields):
        (tmp_path / "list.txt").write_text(text)
        card(
            name=name, format="image_folder", image_root=str(tmp_path), annotations=str(tmp_path / "list.txt"), **fields
        )
        return [record["image_labels"] for record in get_records(name)]

    assert read("names", "a.jpg\tred bird|dog\n\nb c.jpg\tdog\n") == [[0, 1], [0]]
    assert get_vocabulary("names").names == ("dog", "red bird")
    assert read("numbers", "a.jpg 1\nb c.jpg 0\n", vocabulary=["x", "y"]) == [[1], [0]]
    for name, text, message in (
        ("n1", "a.jpg 2\n", r"line 1, a.jpg of .*list.txt: label 2 is no class index of vocabulary.* 0 to 1"),
        ("n2", "a.jpg 0\nb.jpg\n", r"list.txt, line 2: needs an image, a tab and its labels, found 'b.jpg'"),
        ("n3", "a.jpg\t |\n", r"list.txt, line 1: needs an image"),
        ("n4", "a.jpg\tz\n", r"'z' \(line 1, a.jpg\)"),
        ("n5", "", r"no usable image: 0 images"),
    ):
        with pytest.raises(ValueError, match=message):
            read(name, text, vocabulary=["x", "y"])
    with pytest.raises(FileNotFoundError, match=r"none of 1 images looked up is there; the first, .*gone.jpg"):
        read("gone", "gone.jpg 0\n", vocabulary=["x"])
    card(name="no_list", format="image_folder", image_root=str(tmp_path), annotations="nowhere.txt")
    with pytest.raises(FileNotFoundError, match=r"list of images .*nowhere.txt does not exist"):
        get_records("no_list")
    card(name="no_root", format="image_folder", image_root=str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"image folder .*nowhere does not exist"):
        get_records("no_root")
    card(name="flat", format="image_folder", image_root=str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"has no folders of classes"):
        get_records("flat")


@needs_shared
def test_real_image_folders(card):
    card(name="clothing", format="image_folder", image_root=str(SHARED / "clothing10"))
    records = get_records("clothing")
    assert len(records) == 120 and len(get_vocabulary("clothing")) == 10
    words = get_vocabulary("clothing").names
    assert all(f"/{words[r['image_labels'][0]]}/" in r["file_name"] for r in records)
    card(name="imagenet", format="image_folder", image_root=str(SHARED / "imagenet_sample"), vocabulary="imagenet_1k")
    if get_vocabulary("imagenet").keys is None:
        pytest.skip("the table of ImageNet has no WordNet ids")
    records = get_records("imagenet")
    words = get_vocabulary("imagenet").names
    ostrich = next(r for r in records if "ostrich" in r["file_name"])
    assert len(records) == 110 and words[ostrich["image_labels"][0]] == "ostrich"


def test_classes_of_the_same_name_stay_apart(tmp_path, card):
    for folder in ("n1", "n2", "n3"):
        picture(tmp_path / f"images/{folder}/1.png")
    (tmp_path / "words.txt").write_text("n1 crane\nn2 crane\nn3 dog, hound\n")
    fields = {"format": "image_folder", "image_root": str(tmp_path / "images")}
    card(name="cranes", files={"classes": str(tmp_path / "words.txt")}, **fields)
    assert get_vocabulary("cranes").names == ("crane (n1)", "crane (n2)", "dog")
    assert [record["image_labels"] for record in get_records("cranes")] == [[0], [1], [2]]


def test_captions(tmp_path, card):
    card(name="cap", **caption_set(tmp_path))
    records = get_records("cap")
    assert [r["captions"] for r in records] == [["A dog left of a cat."], ["Two cats"], []]
    assert records[0]["supervision"] == "captions" and "annotations" not in records[0]
    counts = dataset_report("cap").counts
    assert (counts["captions"], counts["empty_sentences"], counts["empty_images"]) == (2, 1, 1)
    with pytest.raises(ValueError, match=r"supervision captions has sentences instead of classes"):
        get_vocabulary("cap")
    card(name="cap_words", **caption_set(tmp_path), vocabulary=["cat", "dog"])
    assert get_vocabulary("cap_words").names == ("cat", "dog")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: t["annotations"][1].update(caption=None), r"annotation 2: a sentence must be a text, found None"),
        (lambda t: t["annotations"][1].update(image_id=9), r"annotation 2 belongs to image 9, which the file does not"),
        (lambda t: t["annotations"][1].pop("caption"), r"annotations\[1\] needs image_id, caption"),
        (lambda t: t.pop("annotations"), r"not COCO captions: it needs the lists images, annotations"),
        (lambda t: [a.update(caption=" ") for a in t["annotations"]], r"no usable image: 3 images"),
        (lambda t: t["images"][0].pop("width"), r"image 1 needs file_name, height and width"),
        (lambda t: t["annotations"][1].update(id=1), r"duplicate annotation id 1"),
    ],
)
def test_wrong_captions(tmp_path, card, spoil, message):
    tree = caption_tree()
    spoil(tree)
    card(name="wrong", **caption_set(tmp_path, tree))
    with pytest.raises(ValueError, match=message):
        get_records("wrong")


def test_phrases(tmp_path, card):
    card(name="ph", **phrase_set(tmp_path))
    (record,) = get_records("ph")
    box = {"bbox": [2, 3, 10, 20], "bbox_mode": BoxMode.XYWH_ABS, "ref_id": 8}
    assert record["phrases"][:2] == [{"text": "left dog", **box}, {"text": "the Leftmost", **box}]
    assert record["phrases"][2]["text"] == "the cat right of it" and len(record["phrases"]) == 3
    counts = dataset_report("ph").counts
    assert (counts["phrases"], counts["empty_sentences"]) == (3, 1)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: t["refs"][0].update(bbox=[1, 2, 3]), r"ref 8: bbox must be four numbers"),
        (lambda t: t["refs"][0].update(image_id=5), r"ref 8 belongs to image 5, which the file does not have"),
        (lambda t: t["refs"][1].update(ref_id=8), r"duplicate ref_id 8"),
        (lambda t: t["refs"][1].update(sentences="the cat"), r"ref 9: sentences must be a list, found 'the cat'"),
        (lambda t: t["refs"][1].update(sentences=[{"tokens": []}]), r"ref 9: a sentence must be a text"),
        (lambda t: t["refs"][1].pop("sentences"), r"refs\[1\] needs image_id, bbox, sentences"),
        (lambda t: t.pop("refs"), r"is not a file of referring expressions: it needs the lists images, refs"),
        (lambda t: [r.update(bbox=[50, 50, 3, 3]) for r in t["refs"]], r"no usable image"),
    ],
)
def test_wrong_phrases(tmp_path, card, spoil, message):
    tree = phrase_tree()
    spoil(tree)
    card(name="wrong", **phrase_set(tmp_path, tree))
    with pytest.raises(ValueError, match=message):
        get_records("wrong")


@needs_shared
def test_real_refcoco(tmp_path, card):
    root = SHARED / "refcoco_testA"
    card(name="ref", format="phrases", image_root=str(root / "images"), annotations=str(root / "refs.json"))
    (record,) = get_records("ref")
    assert (record["image_id"], record["height"], record["width"]) == (192524, 480, 640)
    assert [p["text"] for p in record["phrases"] if p["ref_id"] == 2] == [
        "woman with phone", "girl with cell phone", "middle girl phone"]  # fmt: skip
    assert record["phrases"][6]["bbox"] == [217.4, 6.46, 176.5, 467.08]
    assert dataset_report("ref").counts["no_picture"] == 6
    file = write_json(tmp_path / "list.json", [{"image_id": 1}])
    card(name="lacking", format="phrases", image_root=str(root / "images"), annotations=file)
    with pytest.raises(ValueError, match=r"entry 0 lacks bbox, sentences, file_name"):
        get_records("lacking")


@pytest.mark.parametrize("kind", ["boxes", "masks", "tags", "captions"])
def test_a_format_takes_only_its_own_supervision(tmp_path, card, kind):
    with pytest.raises(ValueError, match=f"format semantic has no supervision '{kind}'; say supervision: semantic"):
        card(name="x", **semantic_set(tmp_path, {}), supervision=kind)


def test_every_format_is_tested_with_missing_files(tmp_path, card, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for kind in ("coco_panoptic", "coco_captions", "phrases"):
        card(name=kind, format=kind, image_root="x", annotations="y.json", prepare="Ask Ann.")
        with pytest.raises(FileNotFoundError, match=rf"annotation file {tmp_path}/y.json does not exist.*Ask Ann\."):
            get_records(kind)
        card(name=f"{kind} 2", format=kind, image_root="x", annotations=write_json(tmp_path / "z.json", "{"))
        with pytest.raises(ValueError, match=r"z.json is not JSON"):
            get_records(f"{kind} 2")
