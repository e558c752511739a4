"""The quickstart's config on its drawn data: the real detector through the whole main job; slow: it learns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mvseg.config import load_config
from mvseg.data import register_builtin_cards
from mvseg.data.sources.shapes import write_shapes
from mvseg.training import Trainer
from mvseg.training.setup import prepare_datasets

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "quickstart" / "shapes.yaml"
SETS = ("shapes_a_val", "shapes_b_val", "shapes_all_val")


@pytest.fixture
def draw(tmp_path, monkeypatch):
    def prepare(images: int, val_images: int, size: int) -> None:
        monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
        write_shapes(tmp_path / "shapes", images, val_images, size, 0)
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


def test_detector_goes_through_the_whole_job_and_resumes_exactly(draw, tmp_path):
    draw(8, 4, 64)
    opts = ["INPUT.TRAIN_SIZE", 64, "INPUT.MIN_SIZE_TEST", 64, "SOLVER.IMS_PER_BATCH", 4, "SOLVER.EMA.ENABLED", True,
            "TEST.VALIDATION_LOSS", True, "SOLVER.CHECKPOINT_PERIOD", 2, "SOLVER.MAX_ITER", 4]  # fmt: skip
    whole = run(tmp_path / "whole", False, *opts)
    (tmp_path / "parts").mkdir()
    for name in ("model_0000001.pth", "last_checkpoint"):
        source = tmp_path / "whole" / name
        (tmp_path / "parts" / name).write_bytes(source.read_bytes() if name[0] == "m" else b"model_0000001.pth")
    parts = run(tmp_path / "parts", True, *opts)
    for (name, a), b in zip(whole.model.state_dict().items(), parts.model.state_dict().values()):
        assert torch.equal(a, b), name

    content = [json.loads((tmp_path / f / "results.json").read_text()) for f in ("whole", "parts")]
    assert content[0] == content[1]
    results = content[0]["results"]
    assert set(results) == {*SETS, *(f"{name} (EMA)" for name in SETS)}
    assert {"AP-circle", "AP-arrow"} < set(results["shapes_a_val"]["segm"])
    assert "segm" not in results["shapes_b_val"] and "AP-disc" in results["shapes_b_val"]["bbox"]
    assert results["shapes_a_val"]["loss"]["loss_mask"] > 0
    assert results["shapes_b_val"]["loss"]["total"] > 0
    assert "loss" not in results["shapes_all_val"]  # nobody trains its words as one vocabulary


@pytest.mark.slow
def test_quickstart_learns(draw, tmp_path):
    draw(400, 100, 128)
    run(tmp_path / "out", False)
    results = json.loads((tmp_path / "out" / "results.json").read_text())["results"]
    assert all(results[name]["bbox"]["AP50"] > 60 for name in SETS)
