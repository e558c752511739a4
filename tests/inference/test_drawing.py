"""Pictures: boxes where the objects are, the same colour for the same word, sheets with every cell in its place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, BoxMode, Instances

from mvseg.inference.drawing import (
    captioned,
    draw_annotations,
    draw_objects,
    draw_predictions,
    label_color,
    save_picture,
    sheet,
    side_by_side,
)
from mvseg.inference.ground_truth import draw_sample
from mvseg.provider import detectron2_provider

GREY = np.full((40, 60, 3), 100, dtype=np.uint8)


def changed(picture: np.ndarray) -> np.ndarray:
    """Where a picture of GREY at twice its size was drawn on."""
    return (np.abs(picture.astype(int) - 100) > 30).any(axis=2)


def test_boxes_are_drawn_at_their_place_in_the_words_colour():
    picture = draw_objects(GREY, [[10, 5, 30, 35]], ["cat"], height=80)
    assert picture.shape == (80, 120, 3) and picture.dtype == np.uint8
    where = changed(picture)
    assert where[20:60, 20].mean() > 0.9 and where[40:60, 60].mean() > 0.9  # left and right edge
    assert not where[:, 100:].any() and not where[75:, :].any()
    edge = picture[50, 60] / 255
    assert np.argmax(edge) == np.argmax(label_color("cat"))
    assert label_color("cat") == label_color("cat") != label_color("dog")


def test_no_objects_give_the_image_itself():
    assert not changed(draw_objects(GREY, [], [], height=80)).any()
    assert not changed(draw_annotations(GREY, {"annotations": []}, ["a"], height=80)).any()


def test_annotations_follow_their_box_mode_and_fill_their_masks():
    polygon = [[10.0, 5.0, 50.0, 5.0, 50.0, 35.0, 10.0, 35.0]]
    box = {"bbox": [10, 5, 40, 30], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1}
    outline = changed(draw_annotations(GREY, {"annotations": [box]}, ["cat", "dog"], height=80))
    filled = changed(draw_annotations(GREY, {"annotations": [{**box, "segmentation": polygon}]}, ["a", "dog"], 80))
    assert outline[20:60, 100].mean() > 0.9  # right edge at x = 50, drawn at twice the size
    assert not outline[40:60, 50:90].any()
    assert filled[40:60, 50:90].all()


def test_predictions_below_the_threshold_are_left_out():
    instances = Instances((40, 60))
    instances.pred_boxes = Boxes(torch.tensor([[2.0, 10, 20, 30], [40, 10, 58, 30]]))
    instances.scores, instances.pred_classes = torch.tensor([0.9, 0.2]), torch.tensor([0, 0])
    where = changed(draw_predictions(GREY, instances, ["x"], threshold=0.3, height=80))
    assert where[:, :50].any() and not where[:, 70:].any()
    assert changed(draw_predictions(GREY, instances, ["x"], threshold=0.1, height=80))[:, 70:].any()
    instances.pred_masks = torch.zeros(2, 40, 60, dtype=torch.bool)
    instances.pred_masks[0, 12:28, 4:18] = True
    assert changed(draw_predictions(GREY, instances, ["x"], height=80))[30:50, 12:30].mean() > 0.9


def test_training_input_keeps_its_colours():
    image = torch.zeros(3, 40, 60, dtype=torch.uint8)
    image[0] = 200  # blue in BGR, red in RGB
    instances = Instances((40, 60))
    instances.gt_boxes, instances.gt_classes = Boxes(torch.zeros(0, 4)), torch.zeros(0, dtype=torch.int64)
    record = {"image": image, "instances": instances}
    assert draw_sample(record, ["x"], rgb=False, height=40)[20, 30].tolist() == [0, 0, 200]
    assert draw_sample(record, ["x"], rgb=True, height=40)[20, 30].tolist() == [200, 0, 0]
    instances = Instances((40, 60))
    instances.gt_boxes, instances.gt_classes = Boxes(torch.tensor([[10.0, 5, 50, 35]])), torch.zeros(1).long()
    drawn = draw_sample({"image": image, "instances": instances}, ["x"], rgb=True, height=40)
    assert (drawn[10:30, 50] != [200, 0, 0]).any(axis=1).all()


def test_sheets_and_captions(tmp_path):
    cells = [np.full((10, 8, 3), value, dtype=np.uint8) for value in (10, 20, 30)]
    picture = sheet(cells, columns=2)
    assert picture.shape == (26, 22, 3)
    assert (picture[5, 4, 0], picture[5, 18, 0], picture[20, 4, 0], picture[20, 18, 0]) == (10, 20, 30, 255)
    pair = side_by_side(cells[0], cells[1], "left", "right")
    assert pair.shape == (26, 22, 3) and (pair[16:, :8] == 10).all()
    assert (captioned(np.zeros((5, 100, 3), dtype=np.uint8), "text")[:16] < 128).any()
    save_picture(picture, tmp_path / "new" / "x.png")
    assert (tmp_path / "new" / "x.png").stat().st_size > 50


@pytest.mark.skipif(detectron2_provider() == "installed", reason="an installed Detectron2 draws in its own way")
def test_a_label_at_the_edge_is_moved_into_the_picture():
    grey = np.full((200, 200, 3), 100, dtype=np.uint8)

    def dark(box):
        return (draw_objects(grey, [box], ["red umbrella"], scores=[0.5], height=200) < 60).all(axis=2)

    middle, right = dark([60, 50, 120, 150]), dark([170, 50, 198, 150])
    above, left = dark([60, -8, 120, 92]), dark([-40, 50, 40, 150])
    for moved in (right, above, left):  # all of it is there
        assert abs(int(moved.sum()) - int(middle.sum())) < 0.15 * middle.sum()
