"""Panoptic quality on worked cases. Upstream needs panopticapi, which is not on PyPI."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOPanopticEvaluator
from PIL import Image

from mvseg.provider import detectron2_provider

pytestmark = pytest.mark.skipif(detectron2_provider() != "builtin", reason="upstream needs panopticapi")
NAME = "contract_panoptic"
# Dataset ids 1, 2 are things, 9 is stuff.
CATEGORIES = [
    {"id": 1, "name": "one", "isthing": 1},
    {"id": 2, "name": "two", "isthing": 1},
    {"id": 9, "name": "nine", "isthing": 0},
]


@pytest.fixture
def register(tmp_path):
    from detectron2.evaluation._panoptic_quality import id2rgb

    def make(ids, segments):
        Image.fromarray(id2rgb(ids)).save(tmp_path / "7.png")
        content = {
            "annotations": [{"image_id": 7, "file_name": "7.png", "segments_info": segments}],
            "categories": CATEGORIES,
        }
        (tmp_path / "p.json").write_text(json.dumps(content))
        MetadataCatalog.pop(NAME, None)
        MetadataCatalog.get(NAME).set(
            panoptic_json=str(tmp_path / "p.json"),
            panoptic_root=str(tmp_path),
            label_divisor=1000,
            thing_dataset_id_to_contiguous_id={1: 0, 2: 1},
            stuff_dataset_id_to_contiguous_id={9: 2},
        )

    yield make
    MetadataCatalog.pop(NAME, None)
    DatasetCatalog.pop(NAME, None)


def score(ids, segments, output_dir=None):
    evaluator = COCOPanopticEvaluator(NAME, output_dir)
    evaluator.reset()
    evaluator.process([{"image_id": 7, "file_name": "x/7.jpg"}], [{"panoptic_seg": (torch.as_tensor(ids), segments)}])
    return evaluator.evaluate()["panoptic_seg"]


def canvas() -> np.ndarray:
    return np.zeros((10, 10), np.int64)


def thing(key, number, is_thing=True):
    return {"id": key, "category_id": number, "isthing": is_thing}


def test_colour_code():
    from detectron2.evaluation._panoptic_quality import id2rgb, rgb2id

    ids = np.array([[0, 1, 255], [256, 70000, 256**3 - 1]])
    assert np.array_equal(rgb2id(id2rgb(ids)), ids)
    assert id2rgb(np.array([[70000]])).tolist() == [[[112, 17, 1]]]


def test_one_match_one_miss_one_false_alarm(register):
    truth = canvas()
    truth[:5, :] = 1  # 50 pixels of class one
    truth[5:, :] = 2  # 50 of stuff nine
    register(truth, [{"id": 1, "category_id": 1, "iscrowd": 0}, {"id": 2, "category_id": 9, "iscrowd": 0}])
    guess = canvas()
    guess[:4, :] = 5  # 40 of 50: IoU 0.8
    guess[5:7, :] = 6  # 20 of 50: no match, so a miss and a false alarm
    results = score(guess, [thing(5, 0), thing(6, 2, False)])
    assert results["PQ_th"] == pytest.approx(80) and results["SQ_th"] == pytest.approx(80) and results["RQ_th"] == 100
    assert results["PQ_st"] == 0 and results["RQ_st"] == 0
    assert results["PQ"] == pytest.approx(40) and results["RQ"] == pytest.approx(50)


def test_a_half_overlap_is_no_match_and_a_wrong_class_neither(register):
    truth = canvas()
    truth[:5, :] = 1
    register(truth, [{"id": 1, "category_id": 1, "iscrowd": 0}])
    half = canvas()
    half[:5, :5] = 5
    assert score(half, [thing(5, 0)])["PQ"] == 0
    whole = canvas()
    whole[:5, :] = 5
    assert score(whole, [thing(5, 1)])["PQ"] == 0
    assert score(whole, [thing(5, 0)])["PQ"] == 100


def test_void_and_crowds_do_not_count_against_a_prediction(register):
    truth = canvas()
    truth[:2, :] = 1  # class one
    truth[2:4, :] = 2  # a crowd of class two
    register(truth, [{"id": 1, "category_id": 1, "iscrowd": 0}, {"id": 2, "category_id": 2, "iscrowd": 1}])
    guess = canvas()
    guess[:2, :] = 5
    guess[4:6, :] = 5  # the part over void is left out of the union: IoU 1
    guess[2:4, :] = 6  # over the crowd of its class: ignored
    guess[8:, :] = 7  # over void only: ignored
    results = score(guess, [thing(5, 0), thing(6, 1), thing(7, 1)])
    assert results["PQ"] == pytest.approx(100) and results["PQ_th"] == pytest.approx(100)
    # The same over a crowd of another class is a false alarm.
    results = score(guess, [thing(5, 0), thing(6, 0), thing(7, 1)])
    assert results["RQ"] == pytest.approx(100 * 1 / 1.5)


def test_labels_instead_of_segments(register, tmp_path):
    truth = canvas()
    truth[:5, :] = 1
    truth[5:, :] = 2
    register(truth, [{"id": 1, "category_id": 2, "iscrowd": 0}, {"id": 2, "category_id": 9, "iscrowd": 0}])
    labels = canvas() - 1
    labels[:5, :] = 1001
    labels[5:, :] = 2000
    assert score(labels, None, str(tmp_path / "out"))["PQ"] == pytest.approx(100)
    (written,) = json.loads((tmp_path / "out" / "predictions.json").read_text())["annotations"]
    assert sorted(segment["category_id"] for segment in written["segments_info"]) == [2, 9]


def test_mistakes_are_named(register):
    truth = canvas()
    truth[:5, :] = 1
    register(truth, [{"id": 1, "category_id": 1, "iscrowd": 0}])
    guess = canvas()
    guess[:5, :] = 5
    with pytest.raises(ValueError, match="image 7"):
        score(guess, [thing(5, 0), thing(6, 0)])
    with pytest.raises(ValueError, match="image 7"):
        score(np.zeros((4, 4), np.int64), [])
