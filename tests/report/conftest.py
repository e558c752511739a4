"""A run's folder written by hand, and two datasets with words and embeddings, for the tests of the report."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from mvseg.data.card import DatasetCard
from mvseg.data.catalog import register_card, unregister_card

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "training"))

WORDS = {"pets": ["cat", "dog", "R&D <lab>"], "street": ["Cat", "car"], "exam": ["cat", "tram", "car"]}
ROWS = {"pets": [[1, 0], [0.8, 0.6], [0, 1]], "street": [[2, 0], [0.6, 0.8]], "exam": [[1, 0], [0, 1], [1, 1]]}


@pytest.fixture
def datasets(tmp_path: Path) -> Iterator[None]:
    """Training sets "pets" and "street" and the test set "exam", which has the new word "tram"."""
    for name, words in WORDS.items():
        np.save(tmp_path / f"{name}.npy", np.array(ROWS[name], np.float32))
        path = str(tmp_path / f"{name}.npy")
        register_card(DatasetCard(name, "coco", "nowhere", "nowhere.json", vocabulary=words, embeddings=path))
    yield
    for name in WORDS:
        unregister_card(name)


@pytest.fixture
def run_folder(tmp_path: Path, datasets: None) -> Path:
    """A finished run of 60 iterations with two evaluations."""
    folder = tmp_path / "run <1>"
    (folder / "pictures").mkdir(parents=True)
    config = {
        "DATASETS": {"TRAIN": ["pets", "street"], "TEST": ["exam"], "CARDS": [], "LABEL_SPACE": "concatenate"},
        "SOLVER": {"MAX_ITER": 60, "IMS_PER_BATCH": 4},
        "MODEL": {"META_ARCHITECTURE": "Some", "DEVICE": "cpu"},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    lines = [
        {"iteration": i, "total_loss": 6.0 - i / 10, "lr": 0.1, "loss_cls_stage0": 1.0, "loss_cls_stage1": 2.0,
         "loss_mask": 0.5, "time": 0.5}
        for i in (19, 39, 59)
    ]  # fmt: skip
    lines += [{"iteration": i, "exam/bbox/AP": ap} for i, ap in ((29, 10.0), (60, 30.0))]
    (folder / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    results = {
        "exam": {"bbox": {"AP": 31.27, "AP50": 52.0, "APl": None, "AP-cat": 60.0, "AP-tram": 2.5, "AP-car": None}}
    }
    (folder / "results.json").write_text(json.dumps({"iteration": 59, "results": results}))
    (folder / "model_final.pth").write_bytes(b"")
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    for name in ("exam_0000029", "exam_0000059", "train_pets"):
        Image.fromarray(noise).save(folder / "pictures" / f"{name}.jpg")
    return folder
