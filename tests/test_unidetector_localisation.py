"""Configs of UniDetector's first stage: its published numbers, and one column for the words of all datasets."""

from __future__ import annotations

from pathlib import Path

import pytest
from detectron2.modeling import build_model

import mvseg.modeling  # noqa: F401
from mvseg.config import load_config
from mvseg.data.mixing import mixture_from_config
from mvseg.training.setup import prepare_datasets

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / "projects" / "UniDetector" / "configs").glob("CLN_*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_published_numbers(path: Path, system_data):
    """facts/multi_dataset_detection.md, 3.2 and 3.3, from the code of UniDetector."""
    cfg = load_config(path, ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""])
    prepare_datasets(cfg)
    model = build_model(cfg)
    assert model.roi_heads.num_classes == 1 and model.label_space.names == ("object",)
    assert model.label_space.datasets == tuple(cfg.DATASETS.TRAIN)
    generator, heads = model.proposal_generator, model.roi_heads
    assert [a[0].tolist() for a in generator.anchor_generator.cell_anchors] == [
        [-4 * s, -4 * s, 4 * s, 4 * s] for s in (4, 8, 16, 32, 64)
    ]
    assert (generator.box_weight, generator.center_weight, generator.border) == (10, 1, 0)
    box, center = generator.regression, generator.quality
    assert (box.low, box.high, box.least, box.count, box.positive_fraction) == (0.3, 0.7, 0.3, 256, 0.5)
    assert (center.low, center.high, center.count, center.positive_fraction) == (0.1, 0.3, 256, 1.0)
    assert generator.nms_threshold == (0.7, 1.0) and generator.post_nms_topk == (2000, 2000)
    assert (heads.alpha, heads.nms_threshold, heads.topk, heads.score_threshold) == (0.3, 0.9, 1500, 0)
    assert heads.batch_size_per_image == 512 and heads.positive_fraction == 0.25
    solver = cfg.SOLVER
    assert (solver.OPTIMIZER, solver.BASE_LR, solver.IMS_PER_BATCH) == ("SGD", 0.02, 16)
    assert [round(step / solver.MAX_ITER * 12) for step in solver.STEPS] == [8, 11]
    assert (*cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN) == (400, 800, 1333)
    assert f"output/UniDetector/{path.stem}" == cfg.OUTPUT_DIR
    assert all(entry.sampler == "uniform" for entry in mixture_from_config(cfg))
