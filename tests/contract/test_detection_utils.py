"""Reading images, transforming annotations, building Instances."""

from __future__ import annotations

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import MetadataCatalog
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks
from PIL import Image

from mvseg.provider import detectron2_provider

only_builtin = pytest.mark.skipif(detectron2_provider() != "builtin", reason="about mvseg's own provider")


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.RandomState(0).randint(0, 256, (6, 9, 3)).astype(np.uint8)


def test_image_formats(tmp_path, picture):
    path = str(tmp_path / "x.png")
    Image.fromarray(picture).save(path)
    assert np.array_equal(utils.read_image(path), picture)
    assert np.array_equal(utils.read_image(path, "BGR"), picture[:, :, ::-1])
    grey = utils.read_image(path, "L")
    assert grey.shape == (6, 9, 1)
    yuv = utils.read_image(path, "YUV-BT.601")
    assert np.allclose(yuv[..., 0], picture @ np.array([0.299, 0.587, 0.114]) / 255)
    assert np.abs(utils.convert_image_to_rgb(yuv, "YUV-BT.601") - picture).max() < 0.01
    assert np.array_equal(utils.convert_image_to_rgb(picture[:, :, ::-1], "BGR"), picture)
    assert np.array_equal(utils.convert_image_to_rgb(torch.from_numpy(picture), "RGB"), picture)
    assert np.array_equal(utils.convert_image_to_rgb(grey, "L"), grey.repeat(3, axis=2))


def test_photos_are_turned_upright(tmp_path, picture):
    path = str(tmp_path / "x.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture).save(path, exif=exif)
    assert np.array_equal(utils.read_image(path, "RGB"), np.rot90(picture, -1))


def test_image_size_is_checked_or_filled_in(picture):
    record = {"file_name": "x.png"}
    utils.check_image_size(record, picture)
    assert (record["width"], record["height"]) == (9, 6)
    with pytest.raises(utils.SizeMismatchError, match=r"x\.png"):
        utils.check_image_size({"file_name": "x.png", "width": 6, "height": 9}, picture)


def annotation() -> dict:
    return {
        "bbox": [10.0, 20.0, 30.0, 10.0],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 3,
        "segmentation": [[10.0, 20.0, 40.0, 20.0, 40.0, 30.0, 10.0, 30.0]],
    }


def test_box_and_polygon_follow_the_transforms():
    # Mirrored in a width of 50, [10, 40] becomes [10, 40]; doubled and cut at the image border.
    transforms = [T.HFlipTransform(50), T.ResizeTransform(40, 50, 80, 100), T.CropTransform(40, 30, 30, 50)]
    result = utils.transform_instance_annotations(
        {**annotation(), "segmentation": [[0, 0, 1, 0, 1, 1]]}, transforms[:2], (80, 100)
    )
    assert np.allclose(result["bbox"], [20, 40, 80, 60]) and result["bbox_mode"] == BoxMode.XYXY_ABS
    assert np.allclose(result["segmentation"], [[100, 0, 98, 0, 98, 2]])
    boxed = annotation()
    del boxed["segmentation"]
    result = utils.transform_instance_annotations(boxed, transforms, (50, 30))
    assert np.allclose(result["bbox"], [0, 10, 30, 30])


@only_builtin
def test_integer_boxes_are_not_cut_to_integers():
    boxed = {"bbox": [1, 1, 3, 3], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
    result = utils.transform_instance_annotations(boxed, [T.ResizeTransform(10, 10, 5, 5)], (5, 5))
    assert np.allclose(result["bbox"], [0.5, 0.5, 2, 2])


def test_rle_follows_the_transforms():
    mask = np.zeros((40, 50), np.uint8)
    mask[20:30, 5:15] = 1
    rle = mask_util.encode(np.asfortranarray(mask))
    anno = {**annotation(), "segmentation": rle}
    result = utils.transform_instance_annotations(anno, T.TransformList([T.HFlipTransform(50)]), (40, 50))
    assert np.array_equal(result["segmentation"], mask[:, ::-1])
    instances = utils.annotations_to_instances([result], (40, 50), mask_format="bitmask")
    assert isinstance(instances.gt_masks, BitMasks) and instances.gt_masks.tensor.sum() == 100
    with pytest.raises(ValueError):
        utils.annotations_to_instances([result], (40, 50), mask_format="polygon")
    with pytest.raises(AssertionError):
        utils.transform_instance_annotations({**annotation(), "segmentation": rle}, T.TransformList([]), (1, 1))


def test_instances_from_annotations():
    annos = [annotation(), {**annotation(), "category_id": 1, "bbox": [0.0, 0.0, 5.0, 5.0]}]
    instances = utils.annotations_to_instances(annos, (40, 50))
    assert instances.image_size == (40, 50)
    assert torch.equal(instances.gt_boxes.tensor, torch.tensor([[10.0, 20, 40, 30], [0, 0, 5, 5]]))
    assert instances.gt_classes.tolist() == [3, 1] and instances.gt_classes.dtype == torch.int64
    assert isinstance(instances.gt_masks, PolygonMasks)
    bitmask = utils.annotations_to_instances(annos, (40, 50), mask_format="bitmask")
    assert bitmask.gt_masks.tensor.shape == (2, 40, 50) and bitmask.gt_masks.tensor[0].sum() == 300
    empty = utils.annotations_to_instances([], (40, 50))
    assert len(empty) == 0 and empty.gt_boxes.tensor.shape == (0, 4)


@only_builtin
def test_half_segmented_images_are_an_error():
    half = annotation()
    del half["segmentation"]
    with pytest.raises(ValueError, match="segmentation"):
        utils.annotations_to_instances([half, annotation()], (40, 50))


def test_empty_instances_are_dropped():
    instances = Instances((10, 10))
    instances.gt_boxes = Boxes(torch.tensor([[0.0, 0, 5, 5], [3, 3, 3, 9], [1, 1, 2, 2]]))
    instances.gt_classes = torch.tensor([0, 1, 2])
    masks = torch.zeros(3, 10, 10, dtype=torch.bool)
    masks[0, 0, 0] = masks[1, 3, 3] = True
    instances.gt_masks = BitMasks(masks)
    kept, rows = utils.filter_empty_instances(instances, return_mask=True)
    assert kept.gt_classes.tolist() == [0] and rows.tolist() == [True, False, False]
    assert utils.filter_empty_instances(instances, by_mask=False).gt_classes.tolist() == [0, 2]


@pytest.fixture
def two_datasets():
    names = ["contract_utils_a", "contract_utils_b"]
    yield names
    for name in names:
        MetadataCatalog.pop(name, None)


def test_class_weights_of_the_federated_loss(two_datasets):
    counts = [{"id": 3, "image_count": 100}, {"id": 1, "image_count": 4}, {"id": 2, "image_count": 9}]
    MetadataCatalog.get(two_datasets[0]).class_image_count = counts
    weights = utils.get_fed_loss_cls_weights(two_datasets[0], 0.5)
    torch.testing.assert_close(weights, torch.tensor([2.0, 3.0, 10.0]))


def test_datasets_must_agree(two_datasets):
    MetadataCatalog.get(two_datasets[0]).thing_classes = ["a"]
    MetadataCatalog.get(two_datasets[1]).thing_classes = ["b"]
    utils.check_metadata_consistency("thing_classes", two_datasets[:1])
    with pytest.raises(ValueError):
        utils.check_metadata_consistency("thing_classes", two_datasets)


def test_default_augmentation():
    cfg = get_cfg()
    train, test = utils.build_augmentation(cfg, True), utils.build_augmentation(cfg, False)
    assert [type(policy) for policy in train] == [T.ResizeShortestEdge, T.RandomFlip]
    assert len(test) == 1 and test[0].short_edge_length in ((800, 800), [800, 800]) and test[0].max_size == 1333
    cfg.INPUT.RANDOM_FLIP = "vertical"
    assert utils.build_augmentation(cfg, True)[1].vertical
    cfg.INPUT.RANDOM_FLIP = "none"
    assert len(utils.build_augmentation(cfg, True)) == 1
