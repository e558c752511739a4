"""The command that finds pseudo boxes, its file under augmentation, and how sure a detector is of a place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from detectron2.data import transforms as T
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image
from tiny_run import TREE
from torch import nn

from mvseg.config import load_config
from mvseg.data.catalog import get_records, register_cards, unregister_card
from mvseg.data.mappers import MultiDatasetMapper
from mvseg.data.pseudo_boxes import open_pseudo_boxes, read_pseudo_boxes
from mvseg.inference.building import build
from mvseg.inference.pseudo_boxes import Finder, dropout_in_box_heads, localization_confidence, other_columns
from mvseg.inference.pseudo_boxes.__main__ import class_thresholds, main
from mvseg.inference.pseudo_boxes.finding import without_drawn
from mvseg.vocabulary import LabelSpace, Vocabulary

OWN, OTHER = "finding_own", "finding_other"
WORDS = {OWN: ["cat", "dog"], OTHER: ["car", "cat", "tram"]}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two datasets of small pictures, and config and weights of a tiny detector that knows the words of both."""
    folder = tmp_path_factory.mktemp("finding")
    draw = np.random.default_rng(0)
    for name, words in WORDS.items():
        images, boxes = [], []
        for i in range(3):
            height, width = 40 + 8 * i, 90 - 6 * i
            Image.fromarray(draw.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(folder / f"{name}_{i}.png")
            images.append({"id": 10 + i, "file_name": f"{name}_{i}.png", "height": height, "width": width})
            boxes.append({"id": i + 1, "image_id": 10 + i, "category_id": 1, "bbox": [5, 5, 25, 20], "area": 500})
        categories = [{"id": k + 1, "name": word} for k, word in enumerate(words)]
        content = {"images": images, "annotations": boxes, "categories": categories}
        (folder / f"{name}.json").write_text(json.dumps(content))
        card = {"name": name, "format": "coco", "image_root": str(folder), "annotations": str(folder / f"{name}.json")}
        (folder / "cards").mkdir(exist_ok=True)
        (folder / "cards" / f"{name}.yaml").write_text(yaml.safe_dump(card))
    model = {**TREE["MODEL"], "MASK_ON": False, "CLASSIFIER": {"NAME": "linear"}}
    tree = {**TREE, "MODEL": model, "DATALOADER": {"NUM_WORKERS": 0}}
    tree["DATASETS"] = {"MIX": [{"name": name} for name in WORDS], "CARDS": [str(folder / "cards")]}
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    register_cards(folder / "cards")
    torch.manual_seed(0)
    network = build(load_config(folder / "config.yaml"), None, "cpu")
    torch.nn.init.constant_(network.proposal_generator.centernet_head.bbox_pred.bias, 1.5)
    for predictor in network.roi_heads.box_predictor:  # scores that differ
        nn.init.normal_(predictor.cls_score.weight, std=2.0)
        nn.init.zeros_(predictor.cls_score.bias)
    torch.save({"model": network.state_dict()}, folder / "model.pth")
    yield folder
    for name in WORDS:
        unregister_card(name)


def command(run: Path, output: Path, *more: str) -> int:
    given = ["--config-file", str(run / "config.yaml"), "--weights", str(run / "model.pth"), "--output", str(output)]
    return main([*given, "--dataset", OWN, "--score-threshold", "0.3", "--drawn-iou", "1", *more])


@pytest.fixture(scope="module")
def file(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("found") / "new" / "pseudo.json"
    assert command(run, output, "--passes", "2") == 0
    return output


def test_the_file_holds_what_the_detector_finds_of_other_words(run: Path, file: Path):
    tree = json.loads(file.read_text())
    assert {(c["dataset"], c["name"]) for c in tree["categories"]} <= {(OTHER, "car"), (OTHER, "tram")}  # no cats
    assert [image["file_name"] for image in tree["images"]] == [f"{OWN}_{i}.png" for i in range(3)]
    cfg = load_config(run / "config.yaml")
    model = build(cfg, run / "model.pth", "cpu")
    mapper = MultiDatasetMapper(cfg, False)
    model.roi_heads.score_threshold = torch.tensor([2, 2, 0.3, 2, 0.3])
    count = 0
    for record in get_records(OWN):
        with torch.no_grad():
            found = model([mapper(record)])[0]["instances"]
        rows = [a for a in tree["annotations"] if a["image_id"] == record["image_id"]]
        count += len(rows)
        assert [r["category_id"] - 1 for r in rows] == found.pred_classes.tolist()
        boxes = BoxMode.convert(torch.tensor([r["bbox"] for r in rows]), BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
        torch.testing.assert_close(boxes, found.pred_boxes.tensor, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose([r["score"] for r in rows], found.scores, rtol=1e-4)
        for row in rows:
            assert row["weight"] == pytest.approx(row["score"] * row["localization"]) and 0 <= row["localization"] <= 1
    assert count > 3
    assert 0.1 < np.mean([a["localization"] for a in tree["annotations"]]) < 1


def test_the_boxes_follow_the_augmentation_and_reach_a_step(run: Path, file: Path):
    mix = [{"name": OWN, "pseudo_boxes": str(file)}, {"name": OTHER}]
    cfg = load_config(run / "config.yaml", ["DATASETS.MIX", str(mix)])
    model = build(cfg, run / "model.pth", "cpu").train()
    record = get_records(OWN)[1]
    rows = [a for a in json.loads(file.read_text())["annotations"] if a["image_id"] == 11]
    plain = open_pseudo_boxes(cfg)[OWN].of(11, T.TransformList([T.HFlipTransform(record["width"])]), (48, 84))
    x0, y0, width, height = rows[0]["bbox"]
    expected = [84 - x0 - width, y0, 84 - x0, y0 + height]
    np.testing.assert_allclose(plain.gt_boxes.tensor[0], np.clip(expected, 0, [84, 48, 84, 48]), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(plain.gt_weights, [row["weight"] for row in rows], rtol=1e-5)
    mapped = [MultiDatasetMapper(cfg, True)(record), MultiDatasetMapper(cfg, True)(get_records(OTHER)[0])]
    assert len(mapped[0]["pseudo_boxes"]) and "pseudo_boxes" not in mapped[1]
    assert "pseudo_boxes" not in MultiDatasetMapper(cfg, False)(record)
    targets, _ = model.read_annotations(mapped)
    assert set(targets[0].gt_classes[targets[0].gt_pseudo].tolist()) <= {2, 4}
    assert targets[0].gt_classes[~targets[0].gt_pseudo].tolist() == [0]


def test_damaged_and_foreign_files(run: Path, file: Path, tmp_path: Path):
    tree = json.loads(file.read_text())

    def fails(change: Any, match: str, dataset: str = OWN) -> None:
        other = json.loads(file.read_text())
        change(other)
        (tmp_path / "p.json").write_text(json.dumps(other))
        with pytest.raises(ValueError, match=match):
            read_pseudo_boxes(tmp_path / "p.json", dataset)

    assert len(tree["annotations"]) == sum(map(len, read_pseudo_boxes(file, OWN).images.values()))
    fails(lambda t: None, f"is of dataset '{OWN}'", OTHER)
    fails(lambda t: t["info"].update(images_fingerprint="x"), "made for other images")
    fails(lambda t: t["info"].clear(), "damaged")
    fails(lambda t: t["categories"][0].update(name="carr"), "has no word 'carr'")
    fails(lambda t: t["annotations"][0].update(category_id=99), "no category 99")
    fails(lambda t: t["annotations"][0].update(weight=1.5), r"weight 1\.5 must be from 0 to 1")
    (tmp_path / "p.json").write_text(file.read_text()[:-9])
    with pytest.raises(ValueError, match="damaged"):
        read_pseudo_boxes(tmp_path / "p.json", OWN)
    with pytest.raises(FileNotFoundError, match=r"python -m mvseg\.inference\.pseudo_boxes"):
        read_pseudo_boxes(tmp_path / "none.json", OWN)


def test_the_command_says_what_is_wrong(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "t.yaml").write_text("trm: 0.5")
    assert command(run, tmp_path / "p.json", "--class-thresholds", str(tmp_path / "t.yaml")) == 1
    assert "'trm' is no word that is looked for; nearest: tram" in capsys.readouterr().err
    assert not (tmp_path / "p.json").exists()
    space = LabelSpace.concatenate({name: Vocabulary(name, tuple(words)) for name, words in WORDS.items()})
    assert other_columns(space, OWN).tolist() == [False, False, True, False, True]
    with pytest.raises(ValueError, match="not trained with dataset 'third'"):
        other_columns(space, "third")
    (tmp_path / "t.yaml").write_text("tram: 0.7")
    limits = class_thresholds(space, other_columns(space, OWN), 0.4, tmp_path / "t.yaml")
    torch.testing.assert_close(limits, torch.tensor([torch.inf, torch.inf, 0.4, torch.inf, 0.7]))


def test_what_is_drawn_already_is_left_out():
    found = Instances((50, 50), pred_boxes=Boxes(torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10], [0, 0, 10, 5]])))
    drawn = [{"bbox": [0, 0, 10, 9], "bbox_mode": BoxMode.XYWH_ABS}]
    assert without_drawn(found, drawn, 0.56).pred_boxes.tensor[:, 0].tolist() == [20, 0]
    assert without_drawn(found, drawn, 0.5).pred_boxes.tensor[:, 0].tolist() == [20]
    assert len(without_drawn(found, [], 0.5)) == 3


def test_confidence_in_a_place_by_hand():
    boxes, classes = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10], [0, 20, 10, 30]]), torch.tensor([0, 1, 2])
    first = (torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10], [0, 20, 10, 30]]), classes)
    second = (torch.tensor([[20.0, 0, 30, 10], [0, 0, 10, 8], [0, 28, 10, 38]]), torch.tensor([0, 0, 2]))
    found = localization_confidence(boxes, classes, [first, second])
    # mean box of the first: (0, 0, 10, 9), IoU 9/10 and 8/9; the second and the third are found once in two passes
    torch.testing.assert_close(found, torch.tensor([(9 / 10 + 8 / 9) / 2, 0.5, 0.5]))
    nothing = torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)
    assert localization_confidence(boxes, classes, [nothing]).tolist() == [0, 0, 0]
    assert localization_confidence(*nothing, [first]).shape == (0,)


def test_dropout_only_inside_the_block(run: Path):
    model = build(load_config(run / "config.yaml"), run / "model.pth", "cpu")
    head, x = model.roi_heads.box_head[0], torch.randn(4, 16, 4, 4)
    before = head(x)
    with dropout_in_box_heads(model.roi_heads, 0.5):
        during = head(x)
    assert (during == 0).sum() > (before == 0).sum() and torch.equal(head(x), before)
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="between 0 and 1"), dropout_in_box_heads(model.roi_heads, 1.0):
        pass
    with pytest.raises(ValueError, match="no box head"), dropout_in_box_heads(nn.Identity(), 0.5):
        pass
    limits = torch.tensor([2, 2, 0.3, 2, 0.3])
    record = MultiDatasetMapper(load_config(run / "config.yaml"), False)(get_records(OWN)[0])
    one, two = (Finder(model, limits, 2, 0.3)([record])[0].localization for _ in range(2))
    torch.testing.assert_close(one, two)  # the same whenever it is asked
    assert torch.equal(torch.get_rng_state(), state)
