"""Every config that comes with mvseg: its keys and datasets exist, its mixture parses, its model can be built."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from detectron2.modeling import build_model

import mvseg.modeling  # noqa: F401
from mvseg.config import load_config
from mvseg.data import register_builtin_cards
from mvseg.data.catalog import get_card, unregister_card
from mvseg.data.mixing import mixture_from_config
from mvseg.training import build_clipping, build_optimizer
from mvseg.training.setup import prepare_datasets
from mvseg.training.step import choose_precision

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = [p for p in sorted((ROOT / "configs").rglob("*.yaml")) if not {"cards", "real"} & set(p.parts)]
RUNNABLE = [p for p in CONFIGS if not p.name.startswith("Base-")]


@pytest.fixture
def builtin_cards():
    """Forget the cards that a config registers, so that other tests find mvseg's own."""
    yield
    for card in (ROOT / "configs" / "detector" / "cards").glob("*.yaml"):
        if get_card(card.stem).source == card.resolve():
            unregister_card(card.stem)
    register_builtin_cards()


@pytest.mark.parametrize("path", RUNNABLE, ids=lambda path: path.stem)
def test_config_describes_a_model_that_can_be_built(path, tmp_path, monkeypatch, builtin_cards):
    monkeypatch.chdir(ROOT)  # paths of cards start from the folder in which train_net.py is called
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    (tmp_path / "embeddings").mkdir()
    for name, rows in (("lvis_v1_clip", 1203), ("coco_clip", 80)):
        np.save(tmp_path / "embeddings" / f"{name}.npy", np.random.default_rng(0).normal(size=(rows, 512)))
    register_builtin_cards()  # they resolve their paths again
    cfg = load_config(path, ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""])
    prepare_datasets(cfg)
    assert [entry.name for entry in mixture_from_config(cfg)] == list(cfg.DATASETS.TRAIN)
    assert all(get_card(name).evaluator for name in cfg.DATASETS.TEST)
    model = build_model(cfg)
    columns = {"shapes": 12, "CenterNet2_R50_COCO": 80, "BoxSup_LVIS_R50": 1203, "COCO_LVIS_joint": 1283}
    assert model.roi_heads.num_classes == columns[path.stem]
    assert model.roi_heads.mask_on == cfg.MODEL.MASK_ON
    build_optimizer(cfg, model)
    assert build_clipping(cfg) is not None
    assert choose_precision(cfg.SOLVER.AMP.DTYPE) == torch.bfloat16
    metric = cfg.TEST.BEST_METRIC
    assert not metric or metric.split("/")[0] in cfg.DATASETS.TEST


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_is_short_and_says_what_it_is(path):
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# ") and len(lines) <= 90
    assert isinstance(yaml.safe_load(path.read_text()), dict)
