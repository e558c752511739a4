"""The visualizer: what is drawn where. Colours may differ between providers, places may not."""

from __future__ import annotations

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks
from detectron2.utils.colormap import colormap, random_color, random_colors
from detectron2.utils.visualizer import (
    ColorMode,
    GenericMask,
    VisImage,
    Visualizer,
    _create_text_labels,
    _PanopticPrediction,
)

NAME = "contract_visualizer"


@pytest.fixture
def metadata():
    meta = MetadataCatalog.get(NAME).set(
        thing_classes=["cat", "dog"],
        thing_colors=[[255, 0, 0], [0, 255, 0]],
        stuff_classes=["sky", "sea"],
        stuff_colors=[[0, 0, 255], [90, 90, 0]],
    )
    yield meta
    MetadataCatalog.remove(NAME)


@pytest.fixture
def image() -> np.ndarray:
    return np.full((120, 160, 3), 100, np.uint8)


def changed(visualizer, image) -> np.ndarray:
    return np.abs(visualizer.get_output().get_image().astype(int) - image).sum(axis=2) > 3


@pytest.mark.parametrize("scale", [1.0, 1.5, 0.5])
def test_size_of_the_picture(image, scale):
    picture = VisImage(image, scale=scale).get_image()
    assert picture.shape == (int(120 * scale), int(160 * scale), 3) and picture.dtype == np.uint8
    assert np.abs(picture.astype(int) - 100).max() <= 1


def test_pictures_are_saved(image, tmp_path):
    visualizer = Visualizer(image)
    visualizer.draw_circle((80, 60), "r", radius=10).save(str(tmp_path / "x.png"))
    from PIL import Image

    saved = np.asarray(Image.open(tmp_path / "x.png").convert("RGB"))
    assert saved.shape == image.shape and saved[60, 80, 0] > 200


def test_boxes_lines_and_masks_are_where_they_should_be(image):
    visualizer = Visualizer(image)
    visualizer.draw_box((20, 30, 90, 80), edge_color="r", alpha=1.0)
    drawn = changed(visualizer, image)
    rows, columns = np.nonzero(drawn)
    assert (
        abs(rows.min() - 30) <= 3
        and abs(rows.max() - 80) <= 3
        and abs(columns.min() - 20) <= 3
        and abs(columns.max() - 90) <= 3
    )
    assert not drawn[40:70, 30:80].any()
    mask = np.zeros((120, 160), bool)
    mask[10:60, 100:150] = True
    mask[25:40, 115:130] = False
    visualizer = Visualizer(image)
    visualizer.draw_binary_mask(mask, color="b", alpha=0.7)
    drawn = changed(visualizer, image)
    assert drawn[12:23, 102:148].all() and not drawn[28:37, 118:127].any(), "the hole stays open"
    visualizer = Visualizer(image)
    visualizer.draw_line([0, 160], [60, 60], color="w")
    assert changed(visualizer, image)[60].all()


def test_small_parts_of_masks_are_left_out(image):
    mask = np.zeros((120, 160), bool)
    mask[10:60, 100:150] = mask[100:102, 3:5] = True
    visualizer = Visualizer(image)
    visualizer.draw_binary_mask(mask, color="b")
    drawn = changed(visualizer, image)
    assert drawn[30, 120] and not drawn[95:110, :10].any()


def test_instances(image, metadata):
    predictions = Instances((120, 160))
    predictions.pred_boxes = Boxes(torch.tensor([[20.0, 20, 90, 90], [100, 40, 150, 110]]))
    predictions.scores = torch.tensor([0.9, 0.5])
    predictions.pred_classes = torch.tensor([0, 1])
    predictions.pred_masks = torch.zeros(2, 120, 160, dtype=torch.bool)
    predictions.pred_masks[0, 40:80, 40:80] = predictions.pred_masks[1, 60:100, 110:140] = True
    visualizer = Visualizer(image, metadata, instance_mode=ColorMode.SEGMENTATION)
    picture = visualizer.draw_instance_predictions(predictions, jittering=False).get_image().astype(int)
    assert (picture[60, 60] - 100).tolist()[0] > 50 and picture[60, 60, 0] > picture[60, 60, 1] + 50, "red, the cat"
    assert picture[90, 125, 1] > picture[90, 125, 0] + 50, "green, the dog"
    assert len(visualizer.output.ax.texts) == 2
    assert {text.get_text() for text in visualizer.output.ax.texts} == {"cat 90%", "dog 50%"}
    colourful = image.copy()
    colourful[..., 0] = 200
    grey = Visualizer(colourful, metadata, instance_mode=ColorMode.IMAGE_BW)
    picture = grey.draw_instance_predictions(predictions).get_image().astype(int)
    assert picture[5, 5].max() - picture[5, 5].min() <= 1, "the background turns grey"
    assert len(Visualizer(image, metadata).draw_instance_predictions(predictions[:0]).ax.texts) == 0


def test_records(image, metadata):
    rle = mask_util.encode(np.asfortranarray(np.pad(np.ones((20, 20), np.uint8), ((60, 40), (100, 40)))))
    record = {
        "annotations": [
            {
                "bbox": [20, 20, 40, 40],
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": 1,
                "segmentation": [[20.0, 20, 60, 20, 60, 60]],
            },
            {
                "bbox": [100, 60, 120, 80],
                "bbox_mode": BoxMode.XYXY_ABS,
                "category_id": 0,
                "segmentation": rle,
                "iscrowd": 1,
            },
        ],
        "sem_seg": np.where(np.indices((120, 160))[1] < 5, 1, 255),
    }
    visualizer = Visualizer(image, metadata)
    visualizer.draw_dataset_dict(record)
    drawn = changed(visualizer, image)
    assert drawn[25, 50] and drawn[70, 110] and drawn[100, 2] and not drawn[110, 80]
    texts = {text.get_text() for text in visualizer.output.ax.texts}
    assert {"dog", "cat|crowd", "sea"} <= texts


def test_panoptic(image, metadata):
    ids = torch.zeros(120, 160, dtype=torch.int64)
    ids[:60], ids[60:, :50] = 1, 2
    segments = [
        {"id": 1, "category_id": 0, "isthing": False},
        {"id": 2, "category_id": 1, "isthing": True, "score": 0.8},
    ]
    visualizer = Visualizer(image, metadata)
    visualizer.draw_panoptic_seg(ids, segments)
    assert {text.get_text() for text in visualizer.output.ax.texts} == {"sky", "dog 80%"}
    drawn = changed(visualizer, image)
    assert drawn[30, 100] and drawn[100, 20] and not drawn[100, 100]
    prediction = _PanopticPrediction(ids, segments, metadata)
    assert np.array_equal(prediction.non_empty_mask(), ids.numpy() > 0)
    assert [info["id"] for _, info in prediction.semantic_masks()] == [1]
    ((mask, info),) = prediction.instance_masks()
    assert info["id"] == 2 and mask.sum() == 60 * 50


def test_masks_in_every_form(image):
    square = np.zeros((120, 160), np.uint8)
    square[20:40, 30:70] = 1
    ring = [30.0, 20, 70, 20, 70, 40, 30, 40]
    forms = [square, [np.array(ring)], mask_util.encode(np.asfortranarray(square))]
    for form in forms:
        mask = GenericMask(form, 120, 160)
        assert np.array_equal(mask.mask, square) and mask.area() == 800
        assert np.allclose(mask.bbox(), [30, 20, 70, 40], atol=1)
        assert not mask.has_holes
        points = np.concatenate([np.asarray(polygon).reshape(-1, 2) for polygon in mask.polygons])
        assert np.abs(points.min(axis=0) - [30, 20]).max() <= 0.5 and np.abs(points.max(axis=0) - [70, 40]).max() <= 0.5
    visualizer = Visualizer(image)
    for masks in (
        BitMasks(torch.from_numpy(square)[None].bool()),
        PolygonMasks([[np.array(ring)]]),
        [GenericMask(square, 120, 160)],
    ):
        assert np.array_equal(visualizer._convert_masks(masks)[0].mask, square)
    with pytest.raises(AssertionError):
        visualizer.overlay_instances(boxes=np.zeros((1, 4)), labels=["a", "b"])


def test_labels():
    assert _create_text_labels([1, 0], torch.tensor([0.934, 0.5]), ["a", "b"]) == ["b 93%", "a 50%"]
    assert _create_text_labels([1, 0], None, None) == ["1", "0"]
    assert _create_text_labels(None, [0.5], None) == ["50%"]
    assert _create_text_labels([1], None, ["a", "b"], [1]) == ["b|crowd"]


def test_colours():
    colors = colormap(rgb=True, maximum=1)
    assert colors.ndim == 2 and colors.shape[1] == 3 and colors.min() >= 0 and colors.max() <= 1
    assert np.allclose(colormap(rgb=False, maximum=255), colors[:, ::-1] * 255)
    assert random_color(rgb=True, maximum=1).shape == (3,)
    assert len(random_colors(5, rgb=True)) == 5 and random_colors(1)[0].shape == (3,)
    visualizer = Visualizer(np.zeros((4, 4, 3)))
    assert np.allclose(visualizer._change_color_brightness((0.5, 0.0, 0.0), 0.0), (0.5, 0, 0))
    assert sum(visualizer._change_color_brightness("r", -0.5)) < 0.6
    assert np.linalg.norm(np.subtract(visualizer._jitter((0.2, 0.2, 0.2)), 0.2)) == pytest.approx(0.5)
