"""Adapters where the backbone has no place for them."""

from __future__ import annotations

import pytest
from detectron2.modeling import build_model
from whole_models import text_cfg


def test_backbones_without_adapters_say_so():
    cfg = text_cfg()
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.RESNETS.OUT_FEATURES = "build_resnet_fpn_backbone", ["res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES, cfg.MODEL.RESNETS.DEPTH = ["res3", "res4", "res5"], 50
    cfg.MODEL.CENTERNET.IN_FEATURES = cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p3", "p4", "p5"]
    cfg.MODEL.CENTERNET.FPN_STRIDES, cfg.MODEL.CENTERNET.SOI = [8, 16, 32], [[0, 80], [64, 160], [128, 10000000]]
    cfg.MODEL.CLASSIFIER.NAME, cfg.DATASETS.TRAIN = "linear", ()
    cfg.MODEL.ADAPTERS.NAME = "se"
    with pytest.raises(ValueError, match=r"takes no adapters: set MODEL.BACKBONE.NAME build_timm_fpn_backbone"):
        build_model(cfg)
