"""The trainer writes the report at its end, unless it is asked not to, and never fails because of it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
from tiny import shared_sets, tiny_config

from mvseg.data.catalog import register_cards
from mvseg.training import Trainer, setup


@pytest.fixture
def cards() -> Path:
    register_cards(shared_sets())
    return shared_sets()


def test_training_ends_with_a_report(cards: Path, tmp_path: Path):
    cfg = tiny_config(cards, tmp_path, "TEST.NUM_PICTURES", 2)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    results = Trainer(cfg).train()
    text = (tmp_path / "report.html").read_text()
    assert f"{results['tiny_a']['bbox']['AP']:.1f}" in text and "Total loss" in text
    assert text.count("data:image/jpeg") == 4  # training data and predictions of both sets
    assert "not finished" not in text


def test_no_report_if_it_is_not_wanted(cards: Path, tmp_path: Path):
    Trainer(tiny_config(cards, tmp_path, "TEST.REPORT", False, "SOLVER.MAX_ITER", 1)).train()
    assert not (tmp_path / "report.html").exists()


def test_a_report_that_fails_does_not_lose_the_results(
    cards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def fail(folder: str) -> None:
        raise RuntimeError("broken report")

    monkeypatch.setattr("mvseg.training.trainer.write_report", fail)
    results = Trainer(tiny_config(cards, tmp_path, "SOLVER.MAX_ITER", 1)).train()
    assert "tiny_a" in results and "no report could be written" in caplog.text


def test_setup_records_how_the_run_was_started(cards: Path, tmp_path: Path):
    opts = ["OUTPUT_DIR", str(tmp_path), "MODEL.DEVICE", "cpu", "DATASETS.TRAIN", "('tiny_a',)"]
    args = argparse.Namespace(config_file="", opts=opts, eval_only=False, resume=False)
    for _ in range(2):
        setup(args)
    sessions = json.loads((tmp_path / "run.json").read_text())["sessions"]
    assert len(sessions) == 2 and "torch" in sessions[1]["versions"] and sessions[0]["command"][0] == "python"
