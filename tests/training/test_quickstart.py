"""The quickstart's config on a small world: the real detector through the whole main job; slow: it learns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mvseg.config import load_config
from mvseg.data import register_builtin_cards
from mvseg.data.sources.world.write import write_world
from mvseg.training import Trainer
from mvseg.training.setup import prepare_datasets

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "quickstart" / "world.yaml"
WORLD = ("world_coco", "world_lvis", "world_o365", "world_oid", "world_sketch", "world_new_words")
TRAIN = ("world_coco_train", "world_lvis_train_norare", "world_o365_train", "world_oid_train")
TEST = tuple(f"{name}_val" for name in WORLD)


@pytest.fixture
def draw(tmp_path, monkeypatch):
    def prepare(datasets: tuple[str, ...], images: int, val_images: int, size: int) -> None:
        monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
        write_world(tmp_path / "world", datasets, images, val_images, size)
        register_builtin_cards()  # they resolve their paths again

    yield prepare
    monkeypatch.undo()
    register_builtin_cards()


def run(output: Path, resume: bool, *opts: object) -> Trainer:
    cfg = load_config(CONFIG, [str(item) for item in ("OUTPUT_DIR", output, *opts)])
    prepare_datasets(cfg)
    output.mkdir(exist_ok=True)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume)
    trainer.train()
    return trainer


def test_the_config_names_what_is_tested_here():
    cfg = load_config(CONFIG)
    assert (tuple(cfg.DATASETS.TRAIN), tuple(cfg.DATASETS.TEST)) == (TRAIN, TEST)


def test_detector_goes_through_the_whole_job_and_resumes_exactly(draw, tmp_path):
    draw(WORLD, 8, 2, 64)
    opts = ["INPUT.TRAIN_SIZE", 64, "INPUT.MIN_SIZE_TEST", 64, "SOLVER.IMS_PER_BATCH", 4, "SOLVER.EMA.ENABLED", True,
            "TEST.VALIDATION_LOSS", True, "SOLVER.CHECKPOINT_PERIOD", 2, "SOLVER.MAX_ITER", 4,
            "TEST.NUM_PICTURES", 1]  # fmt: skip
    whole = run(tmp_path / "whole", False, *opts)
    (tmp_path / "parts").mkdir()
    for name in ("model_0000001.pth", "last_checkpoint"):
        source = tmp_path / "whole" / name
        (tmp_path / "parts" / name).write_bytes(source.read_bytes() if name[0] == "m" else b"model_0000001.pth")
    again = ("world_coco_val", "world_oid_val")  # two are enough to compare, and they need no pictures
    few = ["DATASETS.TEST", again, "TEST.NUM_PICTURES", 0, "TEST.REPORT", False]
    parts = run(tmp_path / "parts", True, *opts, *few)
    for (name, a), b in zip(whole.model.state_dict().items(), parts.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name

    results, resumed = (json.loads((tmp_path / f / "results.json").read_text())["results"] for f in ("whole", "parts"))
    assert set(resumed) == {*again, *(f"{name} (EMA)" for name in again)}
    assert resumed == {name: results[name] for name in resumed}
    assert set(results) == {*TEST, *(f"{name} (EMA)" for name in TEST)}
    check_results_of_each_dataset(results)


def check_results_of_each_dataset(results) -> None:
    """Every dataset is measured by its own evaluator, in its own words, with what it has annotated."""
    assert {"AP-cat", "AP-star"} < set(results["world_coco_val"]["segm"])
    assert results["world_coco_val"]["segm"].keys() == results["world_sketch_val"]["segm"].keys()
    assert {"AP", "APr", "APc", "APf"} <= set(results["world_lvis_val"]["segm"])
    assert "segm" not in results["world_o365_val"] and "AP50" in results["world_o365_val"]["bbox"]
    assert "AP-kitty" in results["world_new_words_val"]["bbox"]  # a cat, by a word that is never trained
    assert "AP-kitty" not in results["world_coco_val"]["bbox"]
    losses = {name: results[name].get("loss", {}) for name in TEST}
    assert all(losses[name]["total"] > 0 for name in TEST[:4])
    assert losses["world_coco_val"]["loss_mask"] > 0
    assert losses["world_sketch_val"]["total"] not in (0, losses["world_coco_val"]["total"])  # other pictures
    assert not losses["world_new_words_val"]  # nobody trains its words


@pytest.mark.slow
def test_quickstart_learns(draw, tmp_path):
    draw(WORLD, 500, 100, 160)
    run(tmp_path / "out", False)
    results = json.loads((tmp_path / "out" / "results.json").read_text())["results"]
    assert results["world_coco_val"]["bbox"]["AP50"] > 50
