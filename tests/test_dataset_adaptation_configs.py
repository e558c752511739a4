"""The configs of projects/DomainAttention, DetectionHub and CategoryExtension: their parts, and models are built."""

from __future__ import annotations

from pathlib import Path

import pytest
from detectron2.modeling import build_model

import mvseg.modeling  # noqa: F401
from mvseg.config import load_config
from mvseg.data.mixing import mixture_from_config
from mvseg.modeling.backbones.adapters import DomainAttention
from mvseg.training.setup import prepare_datasets

ROOT = Path(__file__).resolve().parents[1]
SYSTEMS = {"DomainAttention": 80 + 20 + 1, "DetectionHub": 80 + 365, "CategoryExtension": 80 + 365}
CONFIGS = [p for name in SYSTEMS for p in sorted((ROOT / "projects" / name / "configs").glob("[!B]*.yaml"))]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_describes_a_model_that_can_be_built(path: Path, system_data):
    off = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.TIMM.PRETRAINED", "False"]
    cfg = load_config(path, off)
    if path.stem.startswith(
        "Again"
    ):  # its pseudo boxes are made by the model of the first training, and no model reads
        first = load_config(path.with_name(path.name.replace("Again", "First")), off)  # them: the same one
        assert cfg.MODEL == first.MODEL and cfg.DATASETS.TRAIN == first.DATASETS.TRAIN
        assert [entry.pseudo_boxes is None for entry in mixture_from_config(cfg)] == [False, True]
        return
    prepare_datasets(cfg)
    model = build_model(cfg)
    system = path.parts[-3]
    assert f"output/{system}/{path.stem}" == cfg.OUTPUT_DIR and cfg.MODEL.ANNOTATION_SCOPE == "own"
    assert model.roi_heads.num_classes == SYSTEMS[system] and not cfg.MODEL.MASK_ON
    banks = [len(m.adapters) for m in model.modules() if isinstance(m, DomainAttention)]
    assert banks == ([6] * 16 if system == "DomainAttention" else [])
    assert (model.roi_heads.dataset_modulation is not None) == (system == "DetectionHub")
    if system == "DomainAttention":
        solver = cfg.SOLVER
        assert (solver.BASE_LR, solver.IMS_PER_BATCH, cfg.DATALOADER.GROUPING) == (0.01, 16, "dataset")
        assert solver.STEPS[0] / solver.MAX_ITER == pytest.approx(10 / 14, abs=0.01)
