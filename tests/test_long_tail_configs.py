"""The configs of projects/LongTail and projects/CrossDataset: models that can be built, settings as published."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

import mvseg.modeling  # noqa: F401
from mvseg.config import load_config
from mvseg.data.mixing import mixture_from_config
from mvseg.training import build_optimizer

PROJECTS = Path(__file__).resolve().parents[1] / "projects"
FURTHER = {"Softmax": 1, "RFS": 1, "EQLv2": 1, "Seesaw": 2, "BAGS": 6}


def built(path: Path):
    cfg = load_config(path, ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""])
    assert f"output/{path.parts[-3]}/{path.stem}" == cfg.OUTPUT_DIR
    return cfg, build_model(cfg)


@pytest.mark.parametrize("name", ["Softmax_LVIS_R50", "RFS_LVIS_R50", "EQLv2_LVIS_R50", "Seesaw_RFS_LVIS_R50"])
def test_long_tail(name: str):
    cfg, model = built(PROJECTS / "LongTail" / "configs" / f"{name}.yaml")
    layers = [predictor.cls_score for predictor in model.roi_heads.predictors]
    further = FURTHER[name.split("_")[0]]
    assert [len(layer.weight) for layer in layers] == [1203 + further] * 3
    (entry,) = mixture_from_config(cfg)
    threshold = 0.001 if "RFS" in name else None
    assert (entry.sampler == "repeat_factor", entry.repeat_threshold) == ("RFS" in name, threshold)
    recipe = (cfg.SOLVER.BASE_LR, cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER)
    assert recipe == (0.02, 16, 180000 if "Seesaw" in name else 90000)
    stored = [key for key in model.state_dict() if key.startswith("roi_heads.objectives.")]
    assert bool(stored) == (name[0] in "ES" and "Softmax" not in name)


def test_balanced_group_softmax_trains_the_class_layers_alone():
    cfg, model = built(PROJECTS / "LongTail" / "configs" / "BAGS_LVIS_R50.yaml")
    optimizer = build_optimizer(cfg, model)
    names = {id(p): name for name, p in model.named_parameters()}
    moving = {names[id(p)] for group in optimizer.param_groups if group["lr"] > 0 for p in group["params"]}
    stages = range(3)
    assert moving == {f"roi_heads.box_predictor.{s}.cls_score.{p}" for s in stages for p in ("weight", "bias")}
    sizes = model.roi_heads.objectives["boxes"].groups.bincount().tolist()
    counts = model.label_space.image_count
    assert sizes == [int(((counts >= low) & (counts < high)).sum()) for low, high in
                     ((0, 10), (10, 100), (100, 1000), (1000, 10**9))]  # fmt: skip
    assert sum(sizes) == 1203 and min(sizes) > 100
    starts = load_config(PROJECTS / "LongTail" / "configs" / "BAGS_LVIS_R50.yaml").MODEL.WEIGHTS
    assert starts == "output/LongTail/Softmax_LVIS_R50/model_final.pth"


@pytest.mark.parametrize("name", ["Focal_COCO_LVIS_R50", "GroupSoftmax_COCO_LVIS_R50"])
def test_cross_dataset(name: str):
    _, model = built(PROJECTS / "CrossDataset" / "configs" / f"{name}.yaml")
    space, grouped = model.label_space, name.startswith("Group")
    assert space.n == 1283 and model.scopes.has_groups == grouped
    assert len(model.roi_heads.predictors[0].cls_score.weight) == 1284
    if not grouped:
        return
    groups = model.scopes._scopes["group"].groups["coco_2017_train"]
    dog = [column for column, word in enumerate(space.names) if word == "dog"]
    assert len(dog) == 2 and groups[dog[1]] == groups[dog[0]] == dog[0]
    lvis = torch.arange(80, 1283)
    background = int((groups[lvis] == space.n).sum())
    assert 1203 - 2 * 80 < background < 1203 and groups[:80].tolist() == list(range(80))
