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
from mvseg.data.catalog import BUILTIN_CARDS, get_card, get_vocabulary, unregister_card
from mvseg.data.mixing import mixture_from_config
from mvseg.training import build_clipping, build_optimizer
from mvseg.training.setup import prepare_datasets
from mvseg.training.step import choose_precision

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = [p for p in sorted((ROOT / "configs").rglob("*.yaml")) if not {"cards", "real"} & set(p.parts)]
RUNNABLE = [p for p in CONFIGS if not p.name.startswith("Base-")]
SYSTEMS = sorted((ROOT / "projects").glob("*/configs/*.yaml"))
SYSTEM_MODELS = [p for p in SYSTEMS if not p.name.startswith("Base-")]
MODELS = [p for p in SYSTEM_MODELS if p.parts[-3] == "Detic"]
SCALEDET = [p for p in SYSTEM_MODELS if p.parts[-3] == "ScaleDet"]


@pytest.fixture
def builtin_cards():
    """Forget the cards that a config registers, so that other tests find mvseg's own."""
    yield
    for card in (ROOT / "configs" / "detector" / "cards").glob("*.yaml"):
        if get_card(card.stem).source == card.resolve():
            unregister_card(card.stem)
    register_builtin_cards()


def words_of_the_world(names) -> int:
    """Columns of a label space that puts the word lists of the world's cards one after the other."""
    cards = [yaml.safe_load((BUILTIN_CARDS / f"{name}.yaml").read_text()) for name in names]
    tables = {card["vocabulary"] for card in cards if "vocabulary" in card}
    lines = [line for table in tables for line in (BUILTIN_CARDS / table).read_text().splitlines()]
    return sum(line.split("\t")[0].isdecimal() for line in lines)


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
    columns = {
        "CenterNet2_R50_COCO": 80,
        "BoxSup_LVIS_R50": 1203,
        "COCO_LVIS_joint": 1283,
        "detic": 216,
        "localization": 1,
    }
    expected = columns[path.stem] if path.stem in columns else words_of_the_world(cfg.DATASETS.TRAIN)
    assert model.roi_heads.num_classes == expected
    assert model.roi_heads.mask_on == cfg.MODEL.MASK_ON
    build_optimizer(cfg, model)
    assert build_clipping(cfg) is not None
    assert choose_precision(cfg.SOLVER.AMP.DTYPE) == torch.bfloat16
    metric = cfg.TEST.BEST_METRIC
    assert not metric or metric.split("/")[0] in cfg.DATASETS.TEST


def words_of(cfg) -> list[tuple[str, ...]]:
    cards = [get_card(entry.name) for entry in mixture_from_config(cfg)]
    return [get_vocabulary(card.name, embeddings=False).names for card in cards if card.vocabulary is not None]


def columns_by_name(cfg) -> int:
    """Words of a training mixture, of equal ones but for case and separators only one."""
    return len({word.lower().replace("_", " ") for names in words_of(cfg) for word in names})


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_config_of_a_system_describes_a_model_that_can_be_built(path, system_data):
    cfg = load_config(path, ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.TIMM.PRETRAINED", "False"])
    prepare_datasets(cfg)
    assert all(get_card(name).evaluator for name in cfg.DATASETS.TEST)
    model = build_model(cfg)
    assert model.roi_heads.num_classes == columns_by_name(cfg)
    assert f"output/Detic/{path.stem}" == cfg.OUTPUT_DIR
    weights = load_config(path).MODEL.WEIGHTS
    tagged = {get_card(entry.name).supervision for entry in mixture_from_config(cfg)} & {"tags", "captions"}
    assert bool(tagged) == path.stem.startswith("Detic_")
    if tagged:  # goes on from a box-supervised model with the same parameters
        start = next(p for p in MODELS if f"output/Detic/{p.stem}/model_final.pth" == weights)
        before = load_config(start)
        for node in ("BACKBONE", "SWIN", "RESNETS", "FPN", "ROI_BOX_HEAD", "ROI_MASK_HEAD", "MASK_ON", "CENTERNET"):
            assert cfg.MODEL[node] == before.MODEL[node], node
        assert cfg.MODEL.TIMM.NAME.split(".")[0] == before.MODEL.TIMM.NAME.split(".")[0]
        assert cfg.MODEL.TIMM.OUT_INDICES == before.MODEL.TIMM.OUT_INDICES
        assert cfg.DATALOADER.GROUPING == "dataset"


@pytest.mark.parametrize("path", SCALEDET, ids=lambda path: path.stem)
def test_config_of_scaledet_describes_a_model_that_can_be_built(path, system_data):
    off = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.TIMM.PRETRAINED", "False"]
    cfg = load_config(path, [*off, "MODEL.CLASSIFIER.PROMPTS", "single"])  # one prompt for each word: for speed
    prepare_datasets(cfg)
    model = build_model(cfg)
    columns = [1203, 80, 365, 601]
    assert [*map(len, words_of(cfg))] == columns and model.roi_heads.num_classes == sum(columns)
    assert type(model.roi_heads.objectives["boxes"]).__name__ == "ScaleDetObjective"
    assert (model.rules_negative is not None) == path.stem.endswith("safe")
    swin = "SwinB" in path.stem
    solver = cfg.SOLVER
    recipe = (solver.BASE_LR, solver.MAX_ITER, solver.IMS_PER_BATCH, cfg.INPUT.TRAIN_SIZE, cfg.MODEL.BACKBONE.NAME)
    assert recipe == (
        (1e-4, 180000, 32, 896, "build_swin_fpn_backbone")
        if swin
        else (2e-4, 90000, 64, 640, "build_timm_fpn_backbone")
    )
    assert f"output/ScaleDet/{path.stem}" == cfg.OUTPUT_DIR
    # Repeat factors as of the union: every threshold is 0.001 of all images, said for the dataset's own.
    images = [100170, 118287, 1742000, 1743000]
    for entry, count in zip(mixture_from_config(cfg), images, strict=True):
        assert entry.ratio is None and entry.sampler == "repeat_factor"
        assert entry.repeat_threshold == pytest.approx(0.001 * sum(images) / count, rel=0.01)


def test_published_recipes_of_detic():
    """Learning rates, steps, images a step, sizes and shares of the published models (facts/detic.md, a.8)."""
    found = {}
    for path in MODELS:
        cfg = load_config(path)
        solver, mix = cfg.SOLVER, mixture_from_config(cfg)
        tags = [entry for entry in mix if entry.image_size is not None]
        shown = (tags[0].batch_size, tags[0].image_size, tags[0].ratio) if tags else None
        found[path.stem] = (solver.BASE_LR, solver.MAX_ITER, solver.IMS_PER_BATCH, shown)
    r50, swin = (2e-4, 90000, 64), (1e-4, 180000, 32)
    assert found["BoxSup_Lbase_R50"] == (*r50, None) and found["BoxSup_L_SwinB"] == (*swin, None)
    assert found["Detic_LbaseI_R50"] == found["Detic_LI_R50"] == (*r50, (256, 320, 4))
    assert found["Detic_LbaseCCimg_R50"] == found["Detic_LbaseCCcapimg_R50"] == (*r50, (256, 320, 4))
    assert found["Detic_LbaseI_SwinB"] == found["Detic_LI_SwinB"] == (*swin, (128, 448, 4))
    assert found["Detic_LI21k_SwinB"] == found["Detic_LCOCOI21k_SwinB"] == (*swin, (128, 448, 16))
    for name in ("R50", "R18", "CXT"):
        assert found[f"Detic_LCOCOI21k_{name}"] == (*swin, (128, 320, 4)), name
    assert found["BoxSup_OVCOCO_R50"] == (0.02, 90000, 16, None)
    assert all(found[f"Detic_OVCOCO_R50_{name}"][3] == (64, 400, 4) for name in ("max_size", "caption"))


@pytest.mark.parametrize("path", CONFIGS + SYSTEMS, ids=lambda path: path.stem)
def test_config_is_short_and_says_what_it_is(path):
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# ") and len(lines) <= 90
    assert isinstance(yaml.safe_load(path.read_text()), dict)


def test_published_numbers():
    """Detic's and CenterNet2's recipes; where a config means to differ, a comment in it says so."""
    detic = load_config(ROOT / "configs" / "detector" / "BoxSup_LVIS_R50.yaml")
    coco = load_config(ROOT / "configs" / "detector" / "CenterNet2_R50_COCO.yaml")
    for cfg in (detic, coco):
        node = cfg.MODEL.CENTERNET
        assert (node.PRE_NMS_TOPK_TRAIN, node.POST_NMS_TOPK_TRAIN, node.NMS_TH_TRAIN) == (4000, 2000, 0.9)
        assert (node.PRE_NMS_TOPK_TEST, node.POST_NMS_TOPK_TEST, node.NMS_TH_TEST) == (1000, 256, 0.9)
        assert (node.POS_WEIGHT, node.NEG_WEIGHT, node.REG_WEIGHT, node.IGNORE_HIGH_FP) == (0.5, 0.5, 1.0, 0.85)
        assert (node.INFERENCE_TH, node.HM_MIN_OVERLAP, node.MIN_RADIUS, node.NOT_NORM_REG) == (1e-4, 0.8, 4, True)
        assert (node.HM_FOCAL_ALPHA, node.HM_FOCAL_BETA, node.LOSS_GAMMA, node.SIGMOID_CLAMP) == (0.25, 4, 2, 1e-4)
        assert [low for low, _ in node.SOI] == [0, 64, 128, 256, 512]
        assert list(map(list, cfg.MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS)) == [
            [10, 10, 5, 5], [20, 20, 10, 10], [30, 30, 15, 15]
        ]  # fmt: skip
        heads = cfg.MODEL.ROI_HEADS
        assert (heads.BATCH_SIZE_PER_IMAGE, heads.POSITIVE_FRACTION, heads.PROPOSAL_APPEND_GT) == (512, 0.25, True)
        box = cfg.MODEL.ROI_BOX_HEAD
        assert (box.FC_DIM, box.POOLER_SAMPLING_RATIO, box.POOLER_TYPE, box.SMOOTH_L1_BETA) == (
            1024,
            0,
            "ROIAlignV2",
            0,
        )
        assert box.MULT_PROPOSAL_SCORE
        clip = cfg.SOLVER.CLIP_GRADIENTS
        assert (clip.ENABLED, clip.CLIP_TYPE, clip.CLIP_VALUE) == (True, "value", 1.0)
    solver = detic.SOLVER
    assert (solver.OPTIMIZER, solver.BASE_LR, solver.IMS_PER_BATCH, solver.MAX_ITER) == ("ADAMW", 2e-4, 64, 90000)
    assert (solver.WARMUP_ITERS, solver.WARMUP_FACTOR, solver.LR_SCHEDULER_NAME) == (10000, 1e-4, "WarmupCosineLR")
    assert (solver.WEIGHT_DECAY, solver.WEIGHT_DECAY_NORM, solver.WEIGHT_DECAY_BIAS) == (1e-4, 1e-4, None)
    node = detic.MODEL.CLASSIFIER
    assert (node.TEMPERATURE, node.NORMALIZE, node.BIAS, node.FED_LOSS_NUM_CLASSES) == (50, True, None, 50)
    heads = detic.MODEL.ROI_HEADS
    assert (heads.SCORE_THRESH_TEST, heads.NMS_THRESH_TEST, heads.MASK_WEIGHT) == (0.02, 0.5, 1.0)
    assert (detic.TEST.DETECTIONS_PER_IMAGE, detic.INPUT.TRAIN_SIZE, detic.MODEL.BACKBONE.FREEZE_AT) == (300, 640, 0)
    assert mixture_from_config(detic)[0].repeat_threshold == 0.001
    solver = coco.SOLVER
    assert (solver.OPTIMIZER, solver.BASE_LR, solver.IMS_PER_BATCH, solver.MAX_ITER) == ("SGD", 0.02, 16, 90000)
    assert (solver.WARMUP_ITERS, solver.WARMUP_FACTOR, tuple(solver.STEPS)) == (4000, 0.00025, (60000, 80000))
    assert (coco.MODEL.ROI_HEADS.SCORE_THRESH_TEST, coco.MODEL.ROI_HEADS.NMS_THRESH_TEST) == (0.05, 0.7)
