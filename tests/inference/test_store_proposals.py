"""The command that stores proposals: in pixels of the files, resumed after a kill, shared among processes."""

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
from PIL import Image
from tiny_run import TREE

from mvseg.config import load_config
from mvseg.data.catalog import get_records, register_cards, unregister_card
from mvseg.data.mappers import MultiDatasetMapper
from mvseg.data.proposal_files import ProposalFolder
from mvseg.data.proposals import proposals_of
from mvseg.inference.building import build
from mvseg.inference.proposals import Proposer, store_proposals, weights_fingerprint
from mvseg.inference.proposals import storing as storing_module
from mvseg.inference.proposals.__main__ import main

IMAGES = 7


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A dataset of small pictures of several sizes, and the config and weights of a tiny localisation network."""
    folder = tmp_path_factory.mktemp("storing")
    draw = np.random.default_rng(0)
    images, boxes = [], []
    for i in range(IMAGES):
        height, width = 40 + 8 * i, 90 - 6 * i
        Image.fromarray(draw.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        images.append({"id": 100 - i, "file_name": f"{i}.png", "height": height, "width": width})
        boxes.append({"id": i + 1, "image_id": 100 - i, "category_id": 1, "bbox": [5, 5, 25, 20], "area": 500})
    content = {
        "images": images,
        "annotations": boxes,
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    (folder / "a.json").write_text(json.dumps(content))
    card = {"name": "storing", "format": "coco", "image_root": str(folder), "annotations": str(folder / "a.json")}
    (folder / "card.yaml").write_text(yaml.safe_dump(card))
    heads = {**TREE["MODEL"]["ROI_HEADS"], "NAME": "LocalizationROIHeads", "SCORE_THRESH_TEST": 0.0}
    tree = {
        **TREE,
        "MODEL": {
            **TREE["MODEL"],
            "MASK_ON": False,
            "PROPOSAL_GENERATOR": {"NAME": "LocalizationRPN"},
            "LOCALIZATION": {"IN_FEATURES": ["p3", "p4", "p5"], "POST_NMS_TOPK_TEST": 24},
            "CLASSIFIER": {"NAME": "linear", "LOSS": "softmax"},
            "ROI_HEADS": heads,
            "ROI_BOX_CASCADE_HEAD": {"IOUS": [0.6], "BBOX_REG_WEIGHTS": [[10.0, 10.0, 5.0, 5.0]]},
        },
        "DATALOADER": {"NUM_WORKERS": 0},
        "INPUT": {"MIN_SIZE_TEST": 64, "MAX_SIZE_TEST": 96},
        "DATASETS": {"TRAIN": ["storing"], "TEST": [], "CARDS": [str(folder / "card.yaml")], "LABEL_SPACE": "object"},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    register_cards(folder / "card.yaml")
    torch.manual_seed(0)
    model = build(load_config(folder / "config.yaml"), None, "cpu")
    torch.save({"model": model.state_dict()}, folder / "model.pth")
    yield {"config": str(folder / "config.yaml"), "weights": str(folder / "model.pth")}
    unregister_card("storing")


def command(run: dict[str, str], output: Path, *more: str) -> int:
    given = [
        "--config-file",
        run["config"],
        "--weights",
        run["weights"],
        "--dataset",
        "storing",
        "--output",
        str(output),
    ]
    return main([*given, "--shard-images", "3", "--topk", "12", *more])


@pytest.fixture(scope="module")
def stored(run: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("proposals") / "p"
    assert command(run, output) == 0
    return output


def test_boxes_are_those_of_the_model_in_pixels_of_the_file(run: dict[str, str], stored: Path):
    cfg = load_config(run["config"])
    model = build(cfg, run["weights"], "cpu")
    mapper, folder = MultiDatasetMapper(cfg, False), ProposalFolder(stored)
    assert len(folder) == IMAGES and len(folder.manifest["shards"]) == 3
    assert folder.manifest["weights"] == weights_fingerprint(model) and folder.manifest["source"] == "detections"
    for record in get_records("storing"):
        with torch.no_grad():
            found = model([mapper(record)])[0]["instances"]
        arrays = folder.read(record["image_id"])
        assert arrays["boxes"].dtype == arrays["scores"].dtype == np.float32 and len(arrays["boxes"]) <= 12
        np.testing.assert_allclose(arrays["scores"], found.scores[:12], rtol=1e-5)
        np.testing.assert_allclose(arrays["boxes"], found.pred_boxes.tensor[:12], rtol=1e-4, atol=1e-3)
        assert (np.diff(arrays["scores"]) <= 0).all()
        limit = [record["width"], record["height"]] * 2
        assert (arrays["boxes"] >= 0).all() and (arrays["boxes"] <= limit).all()
        plain = proposals_of(arrays, T.TransformList([T.NoOpTransform()]), (record["height"], record["width"]), 99)
        torch.testing.assert_close(plain.objectness_logits.sigmoid(), torch.from_numpy(arrays["scores"].copy()))


def test_generator_as_the_source(run: dict[str, str]):
    cfg = load_config(run["config"])
    model = build(cfg, run["weights"], "cpu")
    record = MultiDatasetMapper(cfg, False)(get_records("storing")[2])
    found = Proposer(model, "generator", topk=5, score_threshold=0.1)([record])[0]
    with torch.no_grad():
        images = model.preprocess_image([record])
        proposals = model.proposal_generator(images, model.backbone(images.tensor))[0][0]
    scale = record["width"] / proposals.image_size[1]
    np.testing.assert_allclose(found["boxes"], proposals.proposal_boxes.tensor[:5] * scale, rtol=2e-2, atol=0.5)
    np.testing.assert_allclose(found["scores"], proposals.objectness_logits[:5].sigmoid(), rtol=1e-5)
    assert len(Proposer(model, "generator", score_threshold=0.999)([record])[0]["scores"]) == 0
    with pytest.raises(ValueError, match=r"'detection'.*detections"):
        Proposer(model, "detection")
    model.proposal_generator = None
    with pytest.raises(ValueError, match="has no proposal generator: use source detections"):
        Proposer(model, "generator")


class Counting:
    """Stands for a model: the boxes of an image are made of its id; can die after some images."""

    def __init__(self, dies_after: int = 99) -> None:
        self.seen: list[int] = []
        self.dies_after = dies_after

    def __call__(self, batch: list[dict[str, Any]]) -> list[dict[str, np.ndarray]]:
        answers = []
        for record in batch:
            if len(self.seen) == self.dies_after:
                raise KeyboardInterrupt
            self.seen.append(record["image_id"])
            box = np.array([[0, 0, record["image_id"], 1]], np.float32)
            answers.append({"boxes": box, "scores": np.array([0.5], np.float32)})
        return answers


def store(output: Path, propose: Counting) -> int:
    facts = {"weights": "w", "topk": 1}
    return store_proposals(propose, lambda record: dict(record), "storing", output, facts=facts, shard_images=2)


def test_a_killed_job_goes_on(run: dict[str, str], tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        store(tmp_path, Counting(dies_after=5))
    again = Counting()
    assert store(tmp_path, again) == 3 and again.seen == [96, 95, 94]  # the third shard anew, and the last
    folder = ProposalFolder(tmp_path)
    assert [folder.read(100 - i)["boxes"][0, 2] for i in range(IMAGES)] == [100 - i for i in range(IMAGES)]
    (tmp_path / "shard-00001.boxes.npy").write_bytes(b"damaged")
    repair = Counting()
    assert store(tmp_path, repair) == 2 and repair.seen == [98, 97]
    assert ProposalFolder(tmp_path).read(98)["boxes"][0, 2] == 98
    nothing = Counting()
    assert store(tmp_path, nothing) == 0 and nothing.seen == []


def test_processes_share_the_shards(run: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    parts = []
    monkeypatch.setattr(storing_module.comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(storing_module.comm, "synchronize", lambda: None)
    for rank in (1, 0):  # the main process finishes
        monkeypatch.setattr(storing_module.comm, "get_rank", lambda rank=rank: rank)
        monkeypatch.setattr(storing_module.comm, "is_main_process", lambda rank=rank: rank == 0)
        part = Counting()
        store(tmp_path, part)
        parts.append(part.seen)
    assert parts == [[98, 97, 94], [100, 99, 96, 95]]
    assert len(ProposalFolder(tmp_path)) == IMAGES


def test_errors_of_the_command(run: dict[str, str], stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert command(run, stored, "--score-threshold", "0.5") == 1
    assert "score_threshold is 0.0 there and 0.5 now" in capsys.readouterr().err
    assert main(["--dataset", "storingg", "--output", str(stored), "--evaluate"]) == 1
    assert "storing" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--dataset", "storing", "--output", str(tmp_path)])
    with pytest.raises(ValueError, match="at least one image"):
        store_proposals(Counting(), dict, "storing", tmp_path, facts={}, shard_images=0)


def test_recall_of_what_is_stored(run: dict[str, str], stored: Path, caplog: pytest.LogCaptureFixture):
    assert main(["--dataset", "storing", "--output", str(stored), "--evaluate"]) == 0
    assert "Recall on storing" in caplog.text
