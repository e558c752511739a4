"""Detections for other programs: the JSON file in pycocotools, objects of supervision, progress on a terminal."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mvseg.inference.output import CocoResults, to_supervision
from mvseg.inference.progress import Progress, clock_time
from mvseg.vocabulary import Vocabulary

WORDS = Vocabulary(name="w", names=("кот", "bus"), ids=(7, 3))


def detections(masks: bool = True) -> Instances:
    found = Instances((40, 60))
    found.pred_boxes = Boxes(torch.tensor([[2.5, 3, 20, 30], [30, 10, 58, 39.25]]))
    found.scores, found.pred_classes = torch.tensor([0.9, 0.4]), torch.tensor([1, 0])
    if masks:
        found.pred_masks = torch.zeros(2, 40, 60, dtype=torch.bool)
        found.pred_masks[0, 5:25, 4:18] = True
        found.pred_masks[1, 12:30, 33:50] = True
    return found


def written(path: Path, masks: bool = True) -> COCO:
    results = CocoResults(WORDS, {"weights": "x.pth"})
    results.add("a/1.jpg", detections(masks))
    results.add("a/2.jpg", detections(masks)[:0])
    results.add("v.mp4", detections(masks), frame=5)
    results.write(path)
    return COCO(str(path))


def test_the_file_loads_in_pycocotools_as_data_and_as_results(tmp_path: Path, capsys):
    data = written(tmp_path / "new" / "all.json")
    assert [(i["file_name"], i["height"], i["width"], i.get("frame")) for i in data.loadImgs([1, 2, 3])] == [
        ("a/1.jpg", 40, 60, None),
        ("a/2.jpg", 40, 60, None),
        ("v.mp4", 40, 60, 5),
    ]
    assert {c["id"]: c["name"] for c in data.loadCats(data.getCatIds())} == {7: "кот", 3: "bus"}
    first = data.loadAnns(data.getAnnIds(imgIds=1, catIds=3))[0]
    assert first["bbox"] == [2.5, 3, 17.5, 27] and first["score"] == pytest.approx(0.9) and first["area"] == 20 * 14
    assert (data.annToMask(first) == detections().pred_masks[0].numpy()).all()
    assert isinstance(first["segmentation"]["counts"], str)
    tree = json.loads((tmp_path / "new" / "all.json").read_text())
    assert tree["info"]["weights"] == "x.pth" and len(data.getAnnIds()) == 4
    evaluation = COCOeval(data, data.loadRes(tree["annotations"]), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


def test_boxes_alone(tmp_path: Path):
    data = written(tmp_path / "boxes.json", masks=False)
    second = data.loadAnns(data.getAnnIds(imgIds=3, catIds=7))[0]
    assert "segmentation" not in second and second["area"] == pytest.approx(28 * 29.25)


def check_supervision(found) -> None:
    np.testing.assert_allclose(found.xyxy, [[2.5, 3, 20, 30], [30, 10, 58, 39.25]])
    np.testing.assert_allclose(found.confidence, [0.9, 0.4], atol=1e-6)
    assert found.class_id.tolist() == [1, 0] and found.data["class_name"].tolist() == ["bus", "кот"]
    assert found.mask.shape == (2, 40, 60) and found.mask.dtype == bool and found.mask[0].sum() == 280


def test_supervision_objects_by_their_arguments(monkeypatch: pytest.MonkeyPatch):
    module = ModuleType("supervision")
    module.Detections = lambda **fields: SimpleNamespace(**fields)
    monkeypatch.setitem(sys.modules, "supervision", module)
    check_supervision(to_supervision(detections(), WORDS))
    assert to_supervision(detections(masks=False), ["a", "b"]).mask is None
    assert to_supervision(detections()[:0], WORDS).data["class_name"].shape == (0,)
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match="pip install supervision"):
        to_supervision(detections(), WORDS)


def test_supervision_itself():
    library = pytest.importorskip("supervision")
    found = to_supervision(detections(), WORDS)
    assert isinstance(found, library.Detections) and len(found) == 2
    check_supervision(found)
    assert found[found.confidence > 0.5].data["class_name"].tolist() == ["bus"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_says_speed_and_time_left():
    now, stream = [0.0], io.StringIO()
    progress = Progress(300, "images", stream, clock=lambda: now[0])
    for _ in range(120):
        now[0] += 0.25
        progress.step()
    lines = [line.strip() for line in stream.getvalue().splitlines()]
    assert lines[-1] == "120/300 images, 4 images/s, 0:45 left" and len(lines) == 3  # one in ten seconds
    unknown = Progress(0, "frames", Terminal(), clock=lambda: now[0])
    now[0] += 3700
    unknown.step(37)
    assert unknown._stream.getvalue().rstrip(" \r") == "37 frames, 0.01 frames/s, 1:01:40 in all"
    unknown.close()
    assert unknown._stream.getvalue().endswith("\n")
    assert (clock_time(0), clock_time(59.6), clock_time(7205)) == ("0:00", "1:00", "2:00:05")


def test_masks_are_coded_as_pycocotools_does():
    mask = detections().pred_masks[1].numpy()
    code = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
    results = CocoResults(WORDS)
    results.add("x", detections())
    assert results.tree["annotations"][1]["segmentation"]["counts"] == code["counts"].decode()
