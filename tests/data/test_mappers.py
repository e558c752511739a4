"""The mapper: what comes out of a record, per-dataset recipes, masks, crowds, empty images."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from drawn_records import draw_records

from mvseg.config import get_cfg
from mvseg.data.mappers import MultiDatasetMapper
from mvseg.data.reading import ImageSizeError

FLIP = [T.RandomFlip(prob=1.0)]


def mapper(**changes) -> MultiDatasetMapper:
    arguments = {"augmentations": {}, "use_instance_mask": True}
    return MultiDatasetMapper(True, **{**arguments, **changes})


@pytest.fixture
def record(tmp_path) -> dict:
    record = draw_records(tmp_path, 2, masks=True)[1]
    extra = {"dataset": "a", "supervision": "masks", "neg_category_ids": [2], "not_exhaustive_category_ids": [1]}
    return {**record, **extra}


def test_mapped_record(record):
    before = copy.deepcopy(record)
    result = mapper()(record)
    assert record == before
    assert result["image"].dtype == torch.uint8 and result["image"].shape == (3, 30, 40)
    kept = ("height", "width", "file_name", "image_id", "dataset", "supervision", "neg_category_ids")
    assert {key: result[key] for key in kept} == {key: record[key] for key in kept}
    assert result["not_exhaustive_category_ids"] == [1] and "annotations" not in result
    instances = result["instances"]
    assert instances.image_size == (30, 40)
    assert instances.gt_boxes.tensor.tolist() == [a["bbox"] for a in record["annotations"]]
    assert instances.gt_classes.tolist() == [a["category_id"] for a in record["annotations"]]
    assert torch.equal(instances.gt_masks.get_bounding_boxes().tensor, instances.gt_boxes.tensor)


def test_every_dataset_has_its_own_augmentation(record):
    both = mapper(augmentations={"flipped": FLIP}, default_augmentations=[T.Resize((60, 80))])
    plain = mapper()(record)
    flipped = both({**record, "dataset": "flipped"})
    assert torch.equal(flipped["image"], plain["image"].flip(2))
    x0, y0, x1, y1 = plain["instances"].gt_boxes.tensor.T
    assert torch.equal(flipped["instances"].gt_boxes.tensor, torch.stack([40 - x1, y0, 40 - x0, y1], dim=1))
    other = both(record)
    assert other["image"].shape == (3, 60, 80) and (other["height"], other["width"]) == (30, 40)
    assert torch.equal(other["instances"].gt_boxes.tensor, plain["instances"].gt_boxes.tensor * 2)


@pytest.mark.parametrize("masks", [True, False])
def test_same_result_as_detectron2s_mapper(record, masks):
    # Detectron2 crops polygons with the optional package shapely, so the masks are compared without a crop.
    crop = [] if masks else [T.FixedSizeCrop((40, 40), pad=False)]
    augmentations = [T.ResizeScale(0.5, 2.0, 50, 50), *crop, T.RandomFlip()]
    arguments = {"image_format": "BGR", "use_instance_mask": masks, "instance_mask_format": "bitmask"}
    theirs = DatasetMapper(True, augmentations=augmentations, recompute_boxes=masks, **arguments)
    ours = mapper(augmentations={"a": augmentations}, recompute_boxes=masks, **arguments)
    for seed in range(20):
        results = []
        for one in (theirs, ours):
            np.random.seed(seed)
            results.append(one(copy.deepcopy(record)))
        expected, got = results
        assert torch.equal(expected["image"], got["image"])
        assert torch.equal(expected["instances"].gt_classes, got["instances"].gt_classes)
        assert torch.allclose(expected["instances"].gt_boxes.tensor, got["instances"].gt_boxes.tensor)
        if masks:
            assert torch.equal(expected["instances"].gt_masks.tensor, got["instances"].gt_masks.tensor)


@pytest.mark.parametrize(("supervision", "use_mask"), [("boxes", True), ("masks", False)])
def test_masks_only_where_they_are_declared_and_wanted(record, supervision, use_mask):
    result = mapper(use_instance_mask=use_mask)({**record, "supervision": supervision})
    assert not result["instances"].has("gt_masks") and len(result["instances"]) == 2


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
def test_image_without_objects_has_the_same_fields(record, mask_format):
    result = mapper(instance_mask_format=mask_format)({**record, "annotations": []})
    instances = result["instances"]
    assert len(instances) == 0 and instances.gt_boxes.tensor.shape == (0, 4)
    assert instances.gt_classes.dtype == torch.int64 and len(instances.gt_masks) == 0


def test_crowds_and_objects_cropped_away_are_left_out(record):
    record["annotations"][0]["iscrowd"] = 1
    box = record["annotations"][1]["bbox"]
    assert mapper()(record)["instances"].gt_boxes.tensor.tolist() == [box]
    corner = T.CropTransform(0, 0, 2, 2)
    record["annotations"][1].update(bbox=[20.0, 10.0, 8.0, 8.0], bbox_mode=BoxMode.XYWH_ABS)
    record["annotations"][1]["segmentation"] = [[20, 10, 28, 10, 28, 18]]
    result = mapper(augmentations={"a": [corner]})(record)
    assert result["image"].shape == (3, 2, 2) and len(result["instances"]) == 0


def test_recomputed_boxes_are_tight(record):
    polygon = [4, 4, 20, 4, 4, 20]  # a triangle: what lies right of x = 12 reaches down to y = 12 only
    record["annotations"] = [
        {"bbox": [4, 4, 20, 20], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "segmentation": [polygon]}
    ]
    crop = {"a": [T.CropTransform(12, 0, 28, 30)]}
    loose = mapper(augmentations=crop, instance_mask_format="bitmask")(record)["instances"]
    tight = mapper(augmentations=crop, instance_mask_format="bitmask", recompute_boxes=True)(record)["instances"]
    assert loose.gt_boxes.tensor.tolist() == [[0, 4, 8, 20]]
    assert tight.gt_boxes.tensor[0, 3].item() == pytest.approx(12, abs=1)


def test_annotation_without_mask_in_a_dataset_of_masks(record):
    del record["annotations"][1]["segmentation"]
    with pytest.raises(ValueError, match=r"dataset 'a', image 1, .*1.png: an annotation has no segmentation"):
        mapper()(record)


def test_wrong_image_size(record):
    with pytest.raises(ImageSizeError, match="40 x 30 pixels, the annotations say 41 x 30"):
        mapper()({**record, "width": 41})


def test_plain_detectron2_record_without_our_fields(record):
    for key in ("dataset", "supervision", "height", "width"):
        del record[key]
    result = mapper()(record)
    assert result["instances"].has("gt_masks") and (result["height"], result["width"]) == (30, 40)


def test_from_config(record):
    cfg = get_cfg()
    cfg.MODEL.MASK_ON = True
    cfg.INPUT.TRAIN_SIZE, cfg.INPUT.AUGMENTATION, cfg.INPUT.SCALE_RANGE = 48, "fixed_size", [1.0, 1.0]
    cfg.INPUT.MIN_SIZE_TEST = 15
    cfg.DATASETS.MIX = [
        {"name": "a", "image_size": 32, "scale_range": [2.0, 2.0]},
        {"name": "b", "augmentation": "resize_shortest_edge", "image_size": 24},
    ]
    train = MultiDatasetMapper(cfg)
    assert train(record)["image"].shape == (3, 32, 32)
    assert train({**record, "dataset": "b"})["image"].shape == (3, 24, 32)
    assert train({**record, "dataset": "c"})["image"].shape == (3, 48, 48)
    test = MultiDatasetMapper(cfg, False)
    result = test(record)
    assert result["image"].shape == (3, 15, 20) and "instances" not in result and "annotations" not in result
    validation = MultiDatasetMapper(cfg, False, with_annotations=True)(record)
    assert validation["image"].shape == (3, 15, 20) and len(validation["instances"]) == 2


def test_unknown_mask_format():
    with pytest.raises(ValueError, match=r"INPUT\.MASK_FORMAT 'polygons' does not exist; nearest: polygon"):
        mapper(instance_mask_format="polygons")
