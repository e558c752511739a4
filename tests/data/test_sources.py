"""Reading COCO, LVIS and VOC files: what comes out, what is counted, and what every kind of bad input says."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from coco_files import SQUARE, small_tree, write_coco
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, BoxMode, Instances
from pycocotools import mask as mask_util

from mvseg.data import get_vocabulary
from mvseg.data.catalog import dataset_report


def read(card, folder: Path, tree, name: str = "set", images: bool = True, **fields):
    card(name=name, **{**write_coco(folder, tree, images), "supervision": "masks", **fields})
    return DatasetCatalog.get(name)


def test_coco_records(tmp_path, card):
    tree = small_tree()
    tree["annotations"][1].update(iscrowd=1, segmentation={"size": [30, 40], "counts": [100, 50, 1050]})
    records = read(card, tmp_path, tree)
    assert records[0] == {
        "file_name": str(tmp_path / "images/one.png"),
        "height": 30,
        "width": 40,
        "image_id": 7,
        "dataset": "set",
        "supervision": "masks",
        "annotations": records[0]["annotations"],
    }
    first, crowd = records[0]["annotations"]
    assert first == {
        "bbox": [2, 3, 10, 10],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 0,
        "iscrowd": 0,
        "segmentation": SQUARE,
    }
    assert crowd["iscrowd"] == 1 and crowd["category_id"] == 2
    mask = mask_util.decode(crowd["segmentation"])
    assert mask.T.reshape(-1).nonzero()[0].tolist() == list(range(100, 150))  # column by column
    counts = dataset_report("set").counts
    assert (counts["images"], counts["instances"], counts["crowd"], counts["empty_images"]) == (2, 3, 1, 0)


def test_boxes_only_leaves_segmentations_out(tmp_path, card):
    tree = small_tree()
    del tree["annotations"][0]["segmentation"]
    records = read(card, tmp_path, tree, supervision="boxes")
    assert not any("segmentation" in a for r in records for a in r["annotations"])
    with pytest.raises(ValueError, match=r"annotation 1 has no segmentation, but the card says supervision: masks"):
        read(card, tmp_path, tree, name="masked")


def test_bad_boxes_and_polygons_are_counted(tmp_path, card):
    tree = small_tree()
    first = tree["annotations"][0]

    def add(**change):
        tree["annotations"].append({**copy.deepcopy(first), "id": 100 + len(tree["annotations"]), **change})

    add(bbox=[2, 3, 0, 10])  # no area
    add(bbox=[2, 3, 5, -1])
    add(bbox=[50, 3, 5, 5])  # outside
    add(bbox=[30, 20, 20, 20])  # reaches outside
    add(bbox=[30, 20, 10.4, 10])  # by less than a pixel
    add(segmentation=[[1, 1, 2, 2], *SQUARE])  # one polygon too short
    add(segmentation=[[1, 1, 2, 2]])  # the only one
    tree["images"].append({"id": 20, "file_name": "three.png", "height": 30, "width": 40})
    records = read(card, tmp_path, tree)
    counts = dataset_report("set").counts
    wanted = {"zero_area": 2, "outside": 1, "clipped": 1, "bad_polygons": 2, "no_mask": 1, "empty_images": 1}
    assert {key: counts[key] for key in wanted} == wanted
    boxes = [a["bbox"] for a in records[0]["annotations"]]
    assert boxes[2:] == [[30, 20, 10, 10], [30, 20, 10, 10], [2, 3, 10, 10]]
    assert records[0]["annotations"][-1]["segmentation"] == SQUARE
    assert counts["instances"] == 6 and len(records) == 3
    table = dataset_report("set").table()
    assert "boxes without area: dropped" in table and "crowd" not in table


WRONG = [
    (lambda t: t["annotations"][0].update(category_id=3), r"annotation 1 \(image 7\) has category_id 3"),
    (
        lambda t: t["annotations"][2].update(image_id=8),
        r"annotation 4 belongs to image 8, which the file does not have",
    ),
    (lambda t: t["annotations"][1].update(id=1), r"duplicate annotation id 1"),
    (lambda t: t["images"][1].update(id=7), r"duplicate image id 7"),
    (lambda t: t["categories"][1].update(id=5), r"duplicate category id 5"),
    (lambda t: t["annotations"][1].update(segmentation=[1, 2, 3, 4, 5, 6]), r"annotation 2: segmentation is neither"),
    (lambda t: t["annotations"][1].update(segmentation="mask.png"), r"annotation 2: segmentation is neither"),
    (lambda t: t["annotations"][1].update(segmentation={"size": [30, 40]}), r"annotation 2: segmentation is not RLE"),
    (
        lambda t: t["annotations"][1].update(segmentation={"size": [40, 30], "counts": [1200]}),
        r"annotation 2: RLE of size \[40, 30\] in an image of 30 x 40",
    ),
    (
        lambda t: t["annotations"][1].update(segmentation={"size": [30, 40], "counts": [7]}),
        r"annotation 2: RLE counts cover 7 pixels, the image has 1200",
    ),
    (lambda t: t["annotations"][0].update(bbox=[1, 2, 3]), r"annotation 1: bbox must be four numbers"),
    (lambda t: t["annotations"][0].update(bbox=[1, 2, float("nan"), 3]), r"annotation 1: bbox must be finite"),
    (lambda t: t["annotations"][0].pop("bbox"), r"annotation 1: bbox must be four numbers"),
    (lambda t: t["images"][0].pop("height"), r"image 7 needs file_name, height and width"),
    (lambda t: t["images"][0].update(width=0), r"image 7 has size 30 x 0"),
    (lambda t: t.pop("categories"), r"not COCO JSON.*categories is missing; it has: images, annotations"),
    (lambda t: t["annotations"][1].pop("image_id"), r"annotations\[1\] needs image_id, category_id"),
    (lambda t: t.update(annotations=[]), r"no usable image: 2 images, none with an annotation"),
    (lambda t: [a.update(bbox=[0, 0, 0, 0]) for a in t["annotations"]], r"no usable image"),
    (lambda t: t.update(images=[], annotations=[]), r"no usable image: 0 images"),
]


@pytest.mark.parametrize(("spoil", "message"), WRONG, ids=[m for _, m in WRONG])
def test_wrong_coco_files_say_what_is_wrong(tmp_path, card, spoil, message):
    tree = small_tree()
    spoil(tree)
    with pytest.raises(ValueError, match=message) as error:
        read(card, tmp_path, tree)
    assert "dataset 'set'" in str(error.value)


def test_json_that_is_not_coco(tmp_path, card):
    for text, message in (("{", r"a.json is not JSON"), ("[1]", r"its top level is a list"), ("\x00", r"is not JSON")):
        write_coco(tmp_path, small_tree())
        card(name=f"bad{len(text)}{message}", **write_coco(tmp_path, text, images=False))
        with pytest.raises(ValueError, match=message):
            DatasetCatalog.get(f"bad{len(text)}{message}")


def test_missing_files_name_path_root_and_card(tmp_path, card, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    fields = {"format": "coco", "image_root": "there", "annotations": "there/a.json", "prepare": "Run make data."}
    card(name="missing", **fields)
    with pytest.raises(FileNotFoundError) as error:
        DatasetCatalog.get("missing")
    for part in (
        "'missing'",
        f"annotation file {tmp_path}/there/a.json",
        f"DETECTRON2_DATASETS={tmp_path}",
        "Run make",
    ):
        assert part in str(error.value)
    monkeypatch.delenv("DETECTRON2_DATASETS")
    with pytest.raises(FileNotFoundError, match=r"DETECTRON2_DATASETS is not set, so paths start at ./datasets"):
        DatasetCatalog.get("missing")
    found = write_coco(tmp_path, small_tree(), images=False)
    card(name="no_folder", **{**found, "image_root": str(tmp_path / "nowhere")})
    with pytest.raises(FileNotFoundError, match=r"image folder .*nowhere does not exist"):
        DatasetCatalog.get("no_folder")
    card(name="no_images", **found)
    with pytest.raises(FileNotFoundError, match=r"none of 2 images looked up is there; the first, .*one.png"):
        DatasetCatalog.get("no_images")


def test_split_keeps_listed_images(tmp_path, card):
    (tmp_path / "split.txt").write_text("two\n")
    records = read(card, tmp_path, small_tree(), split=str(tmp_path / "split.txt"))
    assert [r["image_id"] for r in records] == [9]
    assert dataset_report("set").counts["unlisted_images"] == 1
    assert not MetadataCatalog.get("set").get("json_file")
    with pytest.raises(FileNotFoundError, match=r"split file .*gone.txt"):
        read(card, tmp_path, small_tree(), name="gone", split=str(tmp_path / "gone.txt"))


def test_lvis_lists_become_class_indices(tmp_path, card):
    tree = small_tree()
    for image in tree["images"]:
        image["coco_url"] = f"http://images.cocodataset.org/images/{image.pop('file_name')}"
        image.update(neg_category_ids=[11, 5], not_exhaustive_category_ids=[2])
    fields = write_coco(tmp_path, small_tree())
    Path(fields["annotations"]).write_text(json.dumps(tree))
    card(name="federated", **{**fields, "format": "lvis", "image_root": str(tmp_path)})
    record = DatasetCatalog.get("federated")[0]
    assert record["file_name"] == str(tmp_path / "images/one.png")
    assert (record["neg_category_ids"], record["not_exhaustive_category_ids"]) == ([1, 2], [0])
    assert MetadataCatalog.get("federated").evaluator_type == "lvis"


VOC = """<annotation><filename>{file}</filename><size><width>{width}</width><height>{height}</height></size>{objects}
</annotation>"""
OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult>
<bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"""


def write_voc(folder: Path, size=(40, 30), **files) -> dict[str, str]:
    write_coco(folder, small_tree())
    (folder / "xml").mkdir(exist_ok=True)
    for stem, objects in files.items():
        body = "".join(OBJECT.format(name=n, difficult=d, box=b) for n, d, b in objects)
        text = VOC.format(file=f"{stem}.png", width=size[0], height=size[1], objects=body)
        (folder / "xml" / f"{stem}.xml").write_text(text)
    return {"format": "voc", "image_root": str(folder / "images"), "annotations": str(folder / "xml")}


def test_voc_records(tmp_path, card):
    fields = write_voc(
        tmp_path, two=[("dog", 0, (1, 1, 40, 30))], one=[("cat", 1, (3, 4, 12, 13)), ("dog", 0, (5, 5, 5, 9))]
    )
    card(name="voc_set", **fields)
    records = DatasetCatalog.get("voc_set")
    assert get_vocabulary("voc_set").names == ("cat", "dog")
    assert [r["image_id"] for r in records] == [1, 2] and records[0]["file_name"].endswith("images/one.png")
    # Pixels are counted from 1 and the last one belongs to the box.
    assert records[0]["annotations"] == [
        {"bbox": [2, 3, 10, 10], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "difficult": 1, "iscrowd": 1}
    ]
    assert records[1]["annotations"][0]["bbox"] == [0, 0, 40, 30]
    counts = dataset_report("voc_set").counts
    assert (counts["zero_area"], counts["crowd"], counts["instances"]) == (1, 1, 2)


def test_voc_size_from_the_image(tmp_path, card):
    card(name="sizeless", **write_voc(tmp_path, size=(0, 0), one=[("cat", 0, (1, 1, 9, 9))]))
    record = DatasetCatalog.get("sizeless")[0]
    assert (record["height"], record["width"]) == (30, 40)
    assert dataset_report("sizeless").counts["sizes_read"] == 1


def test_voc_split_and_errors(tmp_path, card):
    fields = write_voc(tmp_path, one=[("cat", 0, (1, 1, 9, 9))], two=[("cow", 0, (1, 1, 9, 9))])
    (tmp_path / "s.txt").write_text("two 1\n")
    card(name="half", **fields, split=str(tmp_path / "s.txt"))
    assert [Path(r["file_name"]).name for r in DatasetCatalog.get("half")] == ["two.png"]
    card(name="unknown", **fields, vocabulary="voc", ignore=["cat"])
    assert len(DatasetCatalog.get("unknown")) == 2
    card(name="strange", **fields, vocabulary=["cat", "crow"])
    with pytest.raises(ValueError, match=r"'cow' \(two.xml, object 1\); nearest: crow"):
        DatasetCatalog.get("strange")
    card(name="masked", **fields, supervision="masks")
    with pytest.raises(ValueError, match=r"the format voc has boxes only"):
        DatasetCatalog.get("masked")
    (tmp_path / "s.txt").write_text("three\n")
    card(name="lost", **fields, split=str(tmp_path / "s.txt"))
    with pytest.raises(FileNotFoundError, match=r"1 images of split .* have no XML file .*three"):
        DatasetCatalog.get("lost")
    for name, text, message in (
        ("broken", "<annotation>", r"one.xml is not XML"),
        ("html", "<html/>", r"one.xml is not a VOC annotation: its root is <html>"),
        ("nameless", "<annotation><object/></annotation>", r"one.xml: object 1 has no name"),
        ("boxless", VOC.format(file="one.png", width=40, height=30, objects="<object><name>cat</name></object>"),
         r"one.xml: object 1: bndbox needs xmin"),
    ):  # fmt: skip
        (tmp_path / "xml/one.xml").write_text(text)
        card(name=name, **fields)
        with pytest.raises(ValueError, match=message):
            DatasetCatalog.get(name)
    (tmp_path / "none").mkdir()
    card(name="none", **{**fields, "annotations": str(tmp_path / "none")})
    with pytest.raises(FileNotFoundError, match=r"holds no XML file"):
        DatasetCatalog.get("none")


# Folder or file below shared/data -> format, image folder, annotations, words; images, instances, crowd or difficult.
COCO = "coco_instances"
REAL = {
    "train": ("coco", f"{COCO}/train2017", f"{COCO}/annotations/instances_train2017.json", "coco", (128, 939, 10)),
    "val": ("coco", f"{COCO}/val2017", f"{COCO}/annotations/instances_val2017.json", "coco", (80, 815, 11)),
    "car_parts": ("coco", "car_parts/images", "car_parts/annotations.json", None, (260, 2002, 0)),
    "lvis": ("lvis", "lvis_v05", "lvis_v05/annotations/lvis_v0.5_val_with_images.json", None, (4, 50, 0)),
    "bccd": ("voc", "bccd/images", "bccd/annotations", None, (292, 3941, 0)),
    "raccoon": ("voc", "raccoon/images", "raccoon/annotations", None, (200, 217, 0)),
    "voc2012": ("voc", "voc2012/JPEGImages", "voc2012/Annotations", "voc", (60, 167, 24)),
}


@pytest.mark.parametrize("name", REAL)
def test_real_files(shared, card, name):
    folder = shared / "data"
    form, images, annotations, words, expected = REAL[name]
    card(name=name, format=form, image_root=str(folder / images), annotations=str(folder / annotations),
         vocabulary=words, supervision="boxes" if form == "voc" else "masks")  # fmt: skip
    records = DatasetCatalog.get(name)
    instances = [a for r in records for a in r["annotations"]]
    assert (len(records), len(instances), sum(a["iscrowd"] for a in instances)) == expected
    assert all(Path(r["file_name"]).is_file() for r in records)
    assert bool(MetadataCatalog.get(name).get("json_file")) == (form != "voc")
    if form == "lvis":
        absent = [len(r["neg_category_ids"]) for r in records]
        assert sum(absent) == 35 and get_vocabulary(name).frequency is not None
        for record in records:
            assert not {a["category_id"] for a in record["annotations"]} & set(record["neg_category_ids"])
    if form == "coco":
        areas = [mask_util.area(mask_util.merge(mask_util.frPyObjects(a["segmentation"], r["height"], r["width"])))
                 for r in records[:20] for a in r["annotations"] if isinstance(a["segmentation"], list)]  # fmt: skip
        assert np.min(areas) > 0


def perfect_predictions(records):
    """What a detector would output that finds every object that is not a crowd."""
    for record in records:
        kept = [a for a in record["annotations"] if not a["iscrowd"]]
        boxes = torch.tensor([a["bbox"] for a in kept], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        instances = Instances((record["height"], record["width"]))
        instances.pred_boxes = Boxes(boxes)
        instances.pred_classes = torch.tensor([a["category_id"] for a in kept], dtype=torch.long)
        instances.scores = torch.ones(len(kept))
        yield record, {"instances": instances}


@pytest.mark.parametrize("loaded_first", [True, False])
@pytest.mark.parametrize("form", ["coco", "reordered", "no_area", "voc"])
def test_detectron2s_evaluator_agrees_with_the_records(tmp_path, card, form, loaded_first):
    if form == "voc":
        fields = write_voc(
            tmp_path, one=[("cat", 0, (3, 4, 12, 13)), ("dog", 1, (1, 1, 9, 9))], two=[("dog", 0, (1, 1, 40, 30))]
        )
    else:
        tree = small_tree()
        if form == "no_area":
            del tree["annotations"][1]["area"], tree["annotations"][2]["iscrowd"]
        fields = write_coco(tmp_path, tree)
    words = {"vocabulary": ["traffic light", "dog", "cat"]} if form == "reordered" else {}
    card(name="evaluated", **fields, **words)
    if loaded_first:
        DatasetCatalog.get("evaluated")
        assert bool(MetadataCatalog.get("evaluated").get("json_file")) == (form == "coco")
    evaluator = COCOEvaluator("evaluated", tasks=("bbox",), distributed=False, output_dir=str(tmp_path / "out"))
    evaluator.reset()
    for record, output in perfect_predictions(DatasetCatalog.get("evaluated")):
        evaluator.process([record], [output])
    result = evaluator.evaluate()["bbox"]
    assert result["AP"] == pytest.approx(100)
    assert all(result[f"AP-{word}"] == pytest.approx(100) for word in get_vocabulary("evaluated").names)
