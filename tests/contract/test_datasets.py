"""Dataset formats: what the loaders make of small files, and what import registers."""

from __future__ import annotations

import json

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import (
    convert_to_coco_json,
    load_coco_json,
    load_lvis_json,
    load_sem_seg,
    register_coco_instances,
    register_coco_panoptic,
)
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES, _get_builtin_metadata
from detectron2.data.datasets.coco import convert_to_coco_dict
from detectron2.data.datasets.coco_panoptic import load_coco_panoptic_json
from detectron2.data.datasets.lvis import get_lvis_instances_meta
from detectron2.structures import BoxMode
from PIL import Image

from mvseg.provider import detectron2_provider

only_builtin = pytest.mark.skipif(detectron2_provider() != "builtin", reason="about mvseg's own provider")


@pytest.fixture
def names():
    """Give a fresh dataset name, and forget all of them afterwards."""
    used = []

    def fresh() -> str:
        used.append(f"contract_datasets_{len(used)}")
        return used[-1]

    yield fresh
    for catalog in (DatasetCatalog, MetadataCatalog):
        for name in list(catalog.list()):
            if name.startswith("contract_datasets_"):
                catalog.remove(name)


TRIANGLE = [1.0, 1.0, 5.0, 1.0, 5.0, 5.0]


def coco_content() -> dict:
    box = {"bbox": [1.0, 1.0, 4.0, 4.0], "iscrowd": 0, "area": 8.0}
    crowd = {"size": [8, 10], "counts": [8, 16, 56]}
    return {
        "images": [
            {"id": 9, "file_name": "b.jpg", "height": 8, "width": 10},
            {"id": 4, "file_name": "a.jpg", "height": 6, "width": 6},
        ],
        "annotations": [
            {
                **box,
                "id": 1,
                "image_id": 9,
                "category_id": 7,
                "segmentation": [TRIANGLE, [0.0, 0.0, 1.0, 1.0]],
                "extra": "x",
            },
            {**box, "id": 2, "image_id": 9, "category_id": 3, "segmentation": crowd, "iscrowd": 1},
            {**box, "id": 3, "image_id": 4, "category_id": 3, "segmentation": [[0.0, 0.0, 1.0, 1.0]]},
            {**box, "id": 4, "image_id": 4, "category_id": 3},
        ],
        "categories": [{"id": 7, "name": "seven"}, {"id": 3, "name": "three"}],
    }


@pytest.fixture
def coco_file(tmp_path):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(coco_content()))
    return str(path)


def test_coco_records(coco_file, names):
    name = names()
    records = load_coco_json(coco_file, "root", name, extra_annotation_keys=["extra"])
    assert [(r["image_id"], r["file_name"], r["height"], r["width"]) for r in records] == [
        (4, "root/a.jpg", 6, 6),
        (9, "root/b.jpg", 8, 10),
    ]
    assert MetadataCatalog.get(name).thing_classes == ["three", "seven"]
    assert MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id == {3: 0, 7: 1}
    # The two-point polygon is dropped; where nothing is left, so is the annotation.
    assert len(records[0]["annotations"]) == 1 and "segmentation" not in records[0]["annotations"][0]
    first, crowd = records[1]["annotations"]
    assert first["segmentation"] == [TRIANGLE] and first["category_id"] == 1 and first["extra"] == "x"
    assert first["bbox"] == [1.0, 1.0, 4.0, 4.0] and first["bbox_mode"] == BoxMode.XYWH_ABS
    assert crowd["iscrowd"] == 1 and mask_util.area(crowd["segmentation"]) == 16


def test_coco_records_without_a_name_keep_the_ids(coco_file):
    assert [a["category_id"] for r in load_coco_json(coco_file, "") for a in r["annotations"]] == [3, 7, 3]


@pytest.mark.parametrize(
    "change,error",
    [
        ({"ignore": 1}, AssertionError),
        ({"bbox": []}, ValueError),
        ({"category_id": 5}, KeyError),
        ({"id": 2}, AssertionError),
    ],
)
def test_coco_mistakes(tmp_path, names, change, error):
    content = coco_content()
    content["annotations"][0].update(change)
    (tmp_path / "bad.json").write_text(json.dumps(content))
    with pytest.raises(error):
        load_coco_json(str(tmp_path / "bad.json"), "", names())


def test_any_dataset_becomes_a_coco_json(tmp_path, names):
    name = names()
    rle = mask_util.encode(np.asfortranarray(np.eye(6, dtype=np.uint8)))
    annotations = [
        {"bbox": [1, 2, 4, 6], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1, "segmentation": [TRIANGLE]},
        {"bbox": [1.0, 2.0, 3.0, 4.0], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "segmentation": rle},
        {"bbox": np.array([1.0, 2.0, 3.0, 4.5]), "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "iscrowd": 1},
    ]
    record = {"file_name": "a.jpg", "height": 6, "width": 6, "image_id": 77, "annotations": annotations}
    DatasetCatalog.register(name, lambda: [record])
    MetadataCatalog.get(name).set(thing_classes=["a", "b"], thing_dataset_id_to_contiguous_id={10: 0, 20: 1})
    path = str(tmp_path / "out" / "x.json")
    convert_to_coco_json(name, path)
    with open(path) as file:
        content = json.load(file)
    assert content["categories"] == [{"id": 10, "name": "a"}, {"id": 20, "name": "b"}]
    assert content["images"] == [{"id": 77, "width": 6, "height": 6, "file_name": "a.jpg"}]
    found = content["annotations"]
    assert [a["bbox"] for a in found] == [[1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 2, 2.5]]
    assert [a["area"] for a in found] == [8, 6, 5]
    assert [a["category_id"] for a in found] == [20, 10, 10] and [a["iscrowd"] for a in found] == [0, 0, 1]
    assert mask_util.decode({"size": [6, 6], "counts": found[1]["segmentation"]["counts"]}).trace() == 6
    record["height"] = 99
    convert_to_coco_json(name, path)
    with open(path) as file:
        assert json.load(file) == content, "the cached file must be used"
    convert_to_coco_json(name, path, allow_cached=False)
    with open(path) as file:
        assert json.load(file)["images"][0]["height"] == 99


def test_round_trip_through_coco(coco_file, names):
    name = names()
    register_coco_instances(name, {}, coco_file, "root")
    records = DatasetCatalog.get(name)
    content = convert_to_coco_dict(name)
    assert sorted((a["image_id"], a["category_id"]) for a in content["annotations"]) == [(4, 3), (9, 3), (9, 7)]
    assert MetadataCatalog.get(name).evaluator_type == "coco" and MetadataCatalog.get(name).image_root == "root"
    assert sum(len(r["annotations"]) for r in records) == len(content["annotations"])


def test_semantic_pairs(tmp_path):
    for folder, stems, ending in (("images", "abcd", "jpg"), ("labels", "cbz", "png")):
        (tmp_path / folder).mkdir()
        for stem in stems:
            (tmp_path / folder / f"{stem}.{ending}").touch()
    pairs = load_sem_seg(str(tmp_path / "labels"), str(tmp_path / "images"))
    assert [(p["file_name"][-5:], p["sem_seg_file_name"][-5:]) for p in pairs] == [
        ("b.jpg", "b.png"),
        ("c.jpg", "c.png"),
    ]
    with pytest.raises(AssertionError):
        load_sem_seg(str(tmp_path / "images"), str(tmp_path / "images"))


def lvis_content() -> dict:
    image = {"height": 8, "width": 10, "coco_url": "http://images.cocodataset.org/val2017/000000000009.jpg"}
    return {
        "images": [{**image, "id": 9, "neg_category_ids": [3], "not_exhaustive_category_ids": [2]}],
        "annotations": [
            {"id": 1, "image_id": 9, "category_id": 2, "bbox": [1.0, 1.0, 4.0, 4.0], "segmentation": [TRIANGLE]}
        ],
        "categories": [{"id": number, "name": f"n{number}", "image_count": number} for number in (1, 2, 3)],
    }


def test_lvis_records(tmp_path):
    path = tmp_path / "lvis.json"
    path.write_text(json.dumps(lvis_content()))
    (record,) = load_lvis_json(str(path), "coco/")
    assert record["file_name"] == "coco/val2017/000000000009.jpg" and record["image_id"] == 9
    assert record["neg_category_ids"] == [3] and record["not_exhaustive_category_ids"] == [2]
    assert record["annotations"][0]["category_id"] == 1 and record["annotations"][0]["segmentation"] == [TRIANGLE]


@only_builtin
def test_lvis_names_come_from_the_file_where_none_are_known(tmp_path, names):
    content = lvis_content()
    content["categories"][2]["id"] = 12
    content["annotations"][0]["category_id"] = 12
    path = tmp_path / "lvis.json"
    path.write_text(json.dumps(content))
    name = names()
    (record,) = load_lvis_json(str(path), "coco", name)
    assert record["annotations"][0]["category_id"] == 2 and record["file_name"] == "coco/val2017/000000000009.jpg"
    assert MetadataCatalog.get(name).thing_classes == ["n1", "n2", "n3"]
    assert MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id == {1: 0, 2: 1, 12: 2}


def test_lvis_v1_metadata():
    meta = get_lvis_instances_meta("lvis_v1_train")
    assert len(meta["thing_classes"]) == 1203 and meta["thing_classes"][0] == "aerosol_can"
    counts = {entry["id"]: entry["image_count"] for entry in meta["class_image_count"]}
    assert counts[1] == 64 and counts[3] == 1911 and len(counts) == 1203
    assert len(get_lvis_instances_meta("lvis_v0.5_val_cocofied")["thing_classes"]) == 80


VOC_XML = """<annotation><size><width>20</width><height>10</height></size>
<object><name>dog</name><difficult>0</difficult><bndbox><xmin>3</xmin><ymin>2</ymin><xmax>11</xmax><ymax>8</ymax></bndbox></object>
</annotation>"""


def test_panoptic_records(tmp_path, names):
    meta = {"thing_dataset_id_to_contiguous_id": {1: 0}, "stuff_dataset_id_to_contiguous_id": {5: 1}}
    segments = [{"id": 1, "category_id": 1, "area": 3}, {"id": 2, "category_id": 5, "area": 4}]
    content = {"annotations": [{"image_id": "0007", "file_name": "7.png", "segments_info": segments}]}
    (tmp_path / "p.json").write_text(json.dumps(content))
    for file in ("7.jpg", "7.png"):
        Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / file)
    (record,) = load_coco_panoptic_json(str(tmp_path / "p.json"), str(tmp_path), str(tmp_path), meta)
    assert record["image_id"] == 7 and record["pan_seg_file_name"].endswith("7.png")
    assert [(s["category_id"], bool(s["isthing"])) for s in record["segments_info"]] == [(0, True), (1, False)]
    name = names()
    register_coco_panoptic(name, meta, str(tmp_path), str(tmp_path), str(tmp_path / "p.json"), "i.json")
    assert DatasetCatalog.get(name) == [record]
    registered = MetadataCatalog.get(name)
    assert registered.evaluator_type == "coco_panoptic_seg" and registered.label_divisor == 1000
    assert registered.panoptic_json == str(tmp_path / "p.json") and registered.json_file == "i.json"


def test_well_known_names_are_registered():
    expected = {
        "coco_2017_train",
        "coco_2017_val",
        "coco_2014_minival",
        "coco_2017_val_panoptic",
        "lvis_v1_val",
        "lvis_v1_test_dev",
    }
    assert expected <= set(DatasetCatalog.list())


def test_coco_categories():
    assert len(COCO_CATEGORIES) == 133 and sum(c["isthing"] for c in COCO_CATEGORIES) == 80
    assert all(len(c["color"]) == 3 and min(c["color"]) >= 0 and max(c["color"]) <= 255 for c in COCO_CATEGORIES)
    coco = _get_builtin_metadata("coco")
    assert coco["thing_classes"][-1] == "toothbrush" and coco["thing_dataset_id_to_contiguous_id"][90] == 79
    joint = _get_builtin_metadata("coco_panoptic_standard")
    assert joint["stuff_dataset_id_to_contiguous_id"][92] == 80 and joint["thing_classes"] == joint["stuff_classes"]
    with pytest.raises(KeyError):
        _get_builtin_metadata("nothing")
