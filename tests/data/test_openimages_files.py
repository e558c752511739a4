"""Reading Open Images: boxes, verified labels, class names and hierarchy, and what every kind of bad input says."""

from __future__ import annotations

import copy
import csv

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from format_files import BOX_ROWS, CLASS_ROWS, LABEL_ROWS, SHARED, open_images_set, picture, write_rows

from mvseg.data import get_records, get_vocabulary
from mvseg.data.catalog import dataset_report


def test_records(tmp_path, card):
    card(name="oid", **open_images_set(tmp_path))
    first, second, third = get_records("oid")
    words = get_vocabulary("oid")
    assert words.names == ("Animal", "Cat", "Dog", "Car") and words.keys == ("/m/animal", "/m/cat", "/m/dog", "/m/car")
    assert words.parents == ((), ("Animal",), ("Animal",), ())  # what lies between is not a word and passed over
    assert first == {
        "file_name": str(tmp_path / "images/train_0/aa.jpg"),
        "height": 30,
        "width": 40,
        "image_id": "aa",
        "dataset": "oid",
        "supervision": "boxes",
        "annotations": [
            {"bbox": [10, 3, 20, 12], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1, "iscrowd": 0,
             "is_occluded": 1, "is_group_of": 0},
            {"bbox": [0, 0, 40, 30], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 2, "iscrowd": 1, "is_group_of": 1},
        ],
        "verified_category_ids": [0, 1, 2],
        "neg_category_ids": [3],
        "not_exhaustive_category_ids": [],  # the animals are the cat and the dogs
    }  # fmt: skip
    assert second["annotations"][0]["bbox"] == [20, 15, 20, 15]  # reached outside by 0.04 pixels
    assert (second["verified_category_ids"], second["neg_category_ids"]) == ([3], [2])
    assert third["annotations"] == [] and third["file_name"] == str(tmp_path / "images/cc.jpg")
    assert (third["verified_category_ids"], third["neg_category_ids"]) == ([1], [2])
    assert third["not_exhaustive_category_ids"] == [1]  # a cat is there, but nobody drew its box
    counts = dataset_report("oid").counts
    wanted = {"images": 3, "annotated_images": 2, "instances": 3, "crowd": 1, "verified": 5, "refuted": 3,
              "foreign_labels": 1, "sizes_read": 3, "clipped": 0}  # fmt: skip
    assert {key: counts[key] for key in wanted} == wanted
    metadata = MetadataCatalog.get("oid")
    assert metadata.ancestors == [[], [0], [0], []] and metadata.evaluator_type == "openimages"
    assert metadata.thing_classes == ["Animal", "Cat", "Dog", "Car"] and not metadata.get("json_file")


def test_what_one_of_several_labels_of_a_word_found_is_there(tmp_path, card):
    labels = [LABEL_ROWS[0], ["cc", "verification", "/m/cat", 1], ["cc", "verification", "/m/dog", 0]]
    for number, order in enumerate((labels, [labels[0], *labels[:0:-1]])):
        card(name=f"pets{number}", aliases={"Cat": "Animal", "Dog": "Animal"},
             **open_images_set(tmp_path / str(number), labels=order))  # fmt: skip
        record = next(r for r in get_records(f"pets{number}") if r["image_id"] == "cc")
        assert (record["verified_category_ids"], record["neg_category_ids"]) == ([0], [])


def test_groups_as_objects_and_sizes_from_a_file(tmp_path, card):
    fields = open_images_set(tmp_path)
    for path in (tmp_path / "images").rglob("*.jpg"):
        path.write_bytes(b"no image: nobody opens it")
    sizes = [["ImageID", "Width", "Height"], ["aa", 40, 30], ["bb", 400, 300], ["cc", 40, 30]]
    fields["files"]["sizes"] = write_rows(tmp_path / "sizes.csv", sizes)
    card(name="oid", **fields, options={"group_of": "object"})
    first, second, _ = get_records("oid")
    assert [a["iscrowd"] for a in first["annotations"]] == [0, 0] and first["annotations"][1]["is_group_of"] == 1
    assert (second["height"], second["width"]) == (300, 400)
    assert dataset_report("oid").counts["clipped"] == 0 and dataset_report("oid").counts["sizes_read"] == 0


def test_only_boxes_with_words_for_labels_and_a_split(tmp_path, card):
    fields = open_images_set(
        tmp_path, boxes=[[*row[:2], str(row[2]).removeprefix("/m/"), *row[3:]] for row in BOX_ROWS]
    )
    (tmp_path / "split.txt").write_text("aa\n")
    card(name="plain", **{**fields, "files": {}}, split=str(tmp_path / "split.txt"))
    (record,) = get_records("plain")
    assert get_vocabulary("plain").names == ("cat", "dog")
    assert (record["verified_category_ids"], record["neg_category_ids"]) == ([0, 1], [])


def test_words_of_a_vocabulary_are_found_by_key_by_name_and_by_alias(tmp_path, card):
    fields = open_images_set(tmp_path)
    card(name="names", **fields, vocabulary=["car", "DOG", "cat", "animal"])
    assert [a["category_id"] for r in get_records("names") for a in r["annotations"]] == [2, 1, 0]
    assert MetadataCatalog.get("names").ancestors == [[], [3], [3], []]
    card(name="alias", **fields, vocabulary=["pet", "vehicle"], aliases={"Cat": "pet", "/m/car": "vehicle"},
         ignore=["Dog"])  # fmt: skip
    first, second, _ = get_records("alias")
    assert [a["category_id"] for a in first["annotations"]] == [0] and second["annotations"][0]["category_id"] == 1
    assert first["neg_category_ids"] == [1] and second["neg_category_ids"] == []  # the dog is ignored there too
    assert dataset_report("alias").counts["ignored"] == 1
    card(name="few", **fields, vocabulary=["cat", "dog"])
    with pytest.raises(
        ValueError, match=r"1 categories of .*boxes.csv are not in vocabulary 'few'(.|\n)*/m/car, line 4"
    ):
        get_records("few")
    twice = [*CLASS_ROWS, ["/m/mouse", "Dog"]]
    card(name="twice", **open_images_set(tmp_path, classes=twice))
    assert get_vocabulary("twice").names == ("Animal", "Cat", "Dog (/m/dog)", "Car", "Dog (/m/mouse)")


def changed(rows, line, column, value):
    rows = copy.deepcopy(rows)
    rows[line - 1][rows[0].index(column)] = value
    return rows


WRONG = [
    ({"boxes": changed(BOX_ROWS, 3, "XMin", "0,5")}, r"boxes.csv, line 3: .*decimal comma.*XMin='0,5'"),
    ({"boxes": changed(BOX_ROWS, 3, "XMin", "")}, r"boxes.csv, line 3: the box must be four numbers"),
    ({"boxes": changed(BOX_ROWS, 2, "XMax", "320")}, r"boxes.csv, line 2: coordinates must be shares .* not pixels"),
    ({"boxes": changed(BOX_ROWS, 2, "YMax", "nan")}, r"boxes.csv, line 2: coordinates must be shares"),
    ({"boxes": changed(BOX_ROWS, 4, "LabelName", "/m/cart")},
     r"boxes.csv, line 4: unknown LabelName '/m/cart'.*/m/car$"),
    ({"boxes": changed(BOX_ROWS, 2, "IsGroupOf", "yes")}, r"boxes.csv, line 2: IsGroupOf must be 0 or 1, found 'yes'"),
    ({"boxes": [[*row[:4], *row[5:]] for row in BOX_ROWS]}, r"boxes.csv has no column XMin; it has ImageID, Source"),
    ({"boxes": BOX_ROWS[:1]}, r"no usable image: 3 images, none with an annotation"),
    ({"boxes": [*BOX_ROWS, ["aa", "x"]]}, r"boxes.csv, line 5: 2 cells, 13 are needed"),
    ({"boxes": changed(BOX_ROWS, 2, "ImageID", "zz")}, r"1 of 4 images are missing; the first, .*zz.jpg.*split: in"),
    ({"labels": changed(LABEL_ROWS, 2, "Confidence", "0.7")},
     r"labels.csv, line 2: Confidence '0.7' is neither 0 nor 1"),
    ({"labels": [["ImageID", "Label"]]}, r"labels.csv has no column LabelName, Confidence; it has ImageID, Label"),
    ({"classes": [*CLASS_ROWS, ["/m/cat", "Tiger"]]}, r"classes.csv, line 6: label /m/cat occurs twice"),
    ({"classes": [*CLASS_ROWS, ["/m/x"]]}, r"classes.csv, line 6: needs a label and its name"),
    ({"tree": "{"}, r"tree.json is not JSON"),
    ({"tree": {"LabelName": "/m/cat", "Subcategory": [{"LabelName": "/m/cat"}]}}, r"/m/cat is under itself"),
    ({"tree": {"LabelName": "/m/cat", "Subcategory": [{"Name": "x"}]}}, r"a node under /m/cat has no LabelName"),
]  # fmt: skip


@pytest.mark.parametrize(("parts", "message"), WRONG, ids=[m for _, m in WRONG])
def test_wrong_files_say_what_is_wrong(tmp_path, card, parts, message):
    card(name="wrong", **open_images_set(tmp_path, **parts))
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        get_records("wrong")
    assert "dataset 'wrong'" in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"files": {"clases": "x"}}, r"format openimages does not know files.clases; nearest: classes"),
        ({"options": {"groups": "x"}}, r"format openimages does not know options.groups; nearest: group_of"),
        ({"supervision": "masks"}, r"format openimages has no supervision 'masks'; say supervision: boxes"),
    ],
)
def test_wrong_cards_fail_at_registration(tmp_path, card, change, message):
    with pytest.raises(ValueError, match=message):
        card(name="wrong", **{**open_images_set(tmp_path), **change})


def test_wrong_options_and_missing_files(tmp_path, card):
    fields = open_images_set(tmp_path)
    card(name="o1", **fields, options={"group_of": "crowds"})
    with pytest.raises(ValueError, match=r"options.group_of 'crowds'; nearest: crowd"):
        get_records("o1")
    card(name="o2", **fields, evaluator="coco")
    with pytest.raises(ValueError, match=r"say evaluator: openimages"):
        get_records("o2")
    card(name="o3", **{**fields, "files": {"hierarchy": str(tmp_path / "gone.json")}})
    with pytest.raises(FileNotFoundError, match=r"hierarchy \(files.hierarchy\) .*gone.json does not exist"):
        get_records("o3")
    card(name="o4", **{**fields, "annotations": str(tmp_path / "gone.csv")})
    with pytest.raises(FileNotFoundError, match=r"annotation file .*gone.csv does not exist"):
        get_records("o4")
    card(name="o5", **{**fields, "image_root": str(tmp_path / "nowhere")})
    with pytest.raises(FileNotFoundError, match=r"image folder .*nowhere does not exist"):
        get_records("o5")
    fields["files"]["sizes"] = write_rows(tmp_path / "sizes.csv", [["ImageID", "Width", "Height"], ["aa", 0, 30]])
    card(name="o6", **fields)
    with pytest.raises(ValueError, match=r"sizes.csv, line 2: 0 x 30 is no size"):
        get_records("o6")


def test_boxes_outside_are_counted(tmp_path, card):
    rows = [
        *BOX_ROWS,
        ["bb", "x", "/m/car", 1, 1.1, 1.2, 0, 1, 0, 0, 0, 0, 0],  # outside
        ["bb", "x", "/m/car", 1, 0.5, 0.5, 0, 1, 0, 0, 0, 0, 0],  # no area
        ["bb", "x", "/m/car", 1, 0.5, 0.4, 0, 1, 0, 0, 0, 0, 0],
        ["bb", "x", "/m/car", 1, -0.5, 0.5, 0, 1, 0, 0, 0, 0, 0],  # reaches outside
    ]
    card(name="outside", **open_images_set(tmp_path, boxes=rows))
    assert get_records("outside")[1]["annotations"][-1]["bbox"] == [0, 0, 20, 30]
    counts = dataset_report("outside").counts
    assert (counts["outside"], counts["zero_area"], counts["clipped"], counts["instances"]) == (1, 2, 1, 4)


def test_unreadable_image(tmp_path, card):
    fields = open_images_set(tmp_path)
    (tmp_path / "images/cc.jpg").write_text("no image")
    card(name="unreadable", **fields)
    with pytest.raises(ValueError, match=r"image .*cc.jpg cannot be read"):
        get_records("unreadable")


def test_a_picture_on_its_side_has_the_size_that_the_mapper_sees(tmp_path, card):
    from PIL import Image

    from mvseg.data.reading import check_image_size, read_image

    fields = open_images_set(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    path = picture(tmp_path / "images/cc.jpg")
    Image.open(path).save(path, exif=exif)
    card(name="turned", **fields)
    record = get_records("turned")[2]
    assert (record["height"], record["width"]) == (40, 30)
    check_image_size(record, read_image(record["file_name"]))


needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the real samples are not there")


@needs_shared
def test_real_hierarchy_and_classes(tmp_path, card):
    """The 601 classes of Open Images with the boxes of VOC photographs under their MIDs."""
    voc = SHARED / "voc2012"
    with (voc / "openimages_format.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    descriptions = SHARED / "labels/oid_601_class_descriptions.csv"
    mids = {name.lower(): mid for mid, name in csv.reader(descriptions.read_text().splitlines())}
    names = {"aeroplane": "airplane", "diningtable": "table", "tvmonitor": "television", "pottedplant": "houseplant",
             "motorbike": "motorcycle", "cow": "cattle", "sofa": "couch"}  # fmt: skip
    made = [rows[0]]
    for image, source, name, confidence, *cells in rows[1:]:
        numbers = [cell.replace(",", ".") for cell in cells]
        made.append([image[:-4], source, mids[names.get(name, name)], confidence, *numbers])
    files = {"classes": str(descriptions), "hierarchy": str(SHARED / "labels/oid_600_hierarchy.json")}
    fields = {"format": "openimages", "image_root": str(voc / "JPEGImages"), "files": files}
    for vocabulary in (None, "openimages_601"):
        name = f"real {vocabulary}"
        card(name=name, **fields, annotations=write_rows(tmp_path / "b.csv", made), vocabulary=vocabulary)
        words = get_vocabulary(name)
        found = [words.names[a["category_id"]] for r in get_records(name) for a in r["annotations"]]
        assert len(found) == 167 and "Airplane" in found and "Person" in found
        above = MetadataCatalog.get(name).ancestors
        named = {word: {words.names[i] for i in above[words.index(word)]} for word in ("Cat", "Man", "Wheel")}
        cat = {"Animal", "Carnivore", "Mammal"} & set(words.names)
        assert named == {"Cat": cat, "Man": {"Person"}, "Wheel": {"Auto part"}}  # a wheel is part of a car, but no car


@needs_shared
def test_a_table_with_decimal_commas_is_refused(card):
    voc = SHARED / "voc2012"
    card(name="trap", format="openimages", image_root=str(voc / "JPEGImages"),
         annotations=str(voc / "openimages_format.csv"))  # fmt: skip
    with pytest.raises(ValueError, match=r"openimages_format.csv, line 2: .*decimal comma"):
        DatasetCatalog.get("trap")
