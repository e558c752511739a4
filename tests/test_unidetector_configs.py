"""Configs of UniDetector's second stage: models that can be built, the published recipe, and how they hang together."""

from __future__ import annotations

from pathlib import Path

import pytest
from detectron2.modeling import build_model

import mvseg.modeling  # noqa: F401
from mvseg.config import load_config
from mvseg.data.mixing import mixture_from_config
from mvseg.training import build_optimizer
from mvseg.training.setup import prepare_datasets

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(
    path for kind in ("C4", "E2E") for path in (ROOT / "projects" / "UniDetector" / "configs").glob(f"{kind}_*.yaml")
)


@pytest.fixture
def text_width() -> int:
    return 1024


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_is_the_published_recipe(path):
    cfg = load_config(path)
    solver, classifier, heads = cfg.SOLVER, cfg.MODEL.CLASSIFIER, cfg.MODEL.ROI_HEADS
    coco = "OID" not in path.stem
    rates = (solver.BASE_LR, solver.BACKBONE_MULTIPLIER, [list(entry) for entry in solver.MULTIPLIERS])
    assert rates == ((0.002, 1.0, []) if coco else (0.02, 0.1, [["roi_heads.", 0.1]]))
    assert (solver.IMS_PER_BATCH, solver.CLIP_GRADIENTS.CLIP_VALUE) == (16, 35.0)
    assert (26628 if coco else 130500) == solver.MAX_ITER
    assert (classifier.TEMPERATURE, classifier.BIAS, classifier.PROJECTION) == (100.0, None, False)
    assert ("federated" if coco else "sigmoid", 0.0) == (classifier.LOSS, classifier.FED_LOSS_FREQ_POWER)
    assert (heads.BATCH_SIZE_PER_IMAGE, heads.POSITIVE_FRACTION, heads.NMS) == (512, 0.25, "gaussian")
    assert f"output/UniDetector/{path.stem}" == cfg.OUTPUT_DIR
    stored = [entry.proposals for entry in mixture_from_config(cfg)]
    names = [entry.name for entry in mixture_from_config(cfg)]
    places = [f"output/UniDetector/proposals/{name}" for name in names]
    assert stored == ([None] * len(names) if path.stem.startswith("E2E") else places)
    expected = [] if path.stem.startswith("E2E") else [f"output/UniDetector/proposals/{n}" for n in cfg.DATASETS.TEST]
    assert list(cfg.DATASETS.PROPOSAL_FILES_TEST) == expected
    calibration = cfg.MODEL.CALIBRATION
    if "LVIS" in path.stem:
        assert ("test" if path.stem.endswith("calibrated") else "none") == calibration.PRIOR
        assert (calibration.GAMMA, calibration.BETA, cfg.TEST.DETECTIONS_PER_IMAGE) == (0.6, 0.3, 300)
        assert f"{load_config(path.with_stem('C4_R50_OIDO365COCO')).OUTPUT_DIR}/model_final.pth" == cfg.MODEL.WEIGHTS
    assert ("LVIS" in path.stem) == calibration.ENABLED


@pytest.mark.parametrize("name", ["C4_R50_OIDO365COCO_LVIS_calibrated", "E2E_R50_OIDO365COCO"])
def test_config_describes_a_model_that_can_be_built(name, system_data, monkeypatch):
    path = ROOT / "projects" / "UniDetector" / "configs" / f"{name}.yaml"
    off = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.CLASSIFIER.PROMPTS", "single"]
    cfg = load_config(path, [*off, "MODEL.ANNOTATION_SCOPE", "own"])  # the draw needs the counts of the annotation
    prepare_datasets(cfg)
    model = build_model(cfg)
    assert model.roi_heads.num_classes == 80 + 365 + 500
    assert (model.proposal_generator is None) == name.startswith("C4")
    groups = build_optimizer(cfg, model).param_groups
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            wanted = 0.02 if key.startswith("proposal_generator.") else 0.002
            assert rates[id(parameter)] == pytest.approx(wanted), key
