"""The original Detic for benchmarks/detic.py: its public interface, and what it needs to run on today's packages."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

CONFIG = "configs/Detic_LbaseI_CLIP_R5021k_640b64_4x_ft4x_max-size.yaml"
MANY_WORDS = 2000  # above, it is configured as its release configures 21,000 classes


def build(args: argparse.Namespace, rows: np.ndarray) -> tuple[torch.nn.Module, torch.optim.Optimizer, Callable]:
    """Build the original's model and optimizer; its optimizer clips by itself."""
    original = Path(args.original)
    centernet2 = args.centernet2 or original / "third_party/CenterNet2"
    sys.path[:0] = [str(folder) for folder in (args.detectron2, centernet2, original) if folder]
    os.chdir(original)  # it reads files relative to its folder
    _mend_today()
    from centernet.config import add_centernet_config
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model
    from detic.config import add_detic_config
    from detic.custom_solver import build_custom_optimizer
    from detic.modeling.backbone import timm as backbones

    backbones.create_timm_resnet = lambda variant, out_indices, pretrained=False, **more: backbones.CustomResNet(
        num_classes=11221, out_indices=out_indices, **backbones.model_params[variant]
    )
    cfg = get_cfg()
    add_centernet_config(cfg)
    add_detic_config(cfg)
    cfg.merge_from_file(CONFIG)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npy"
        np.save(path, rows)
        options: list[Any] = ["MODEL.DEVICE", args.device, "MODEL.WEIGHTS", "", "FP16", False]
        options += ["MODEL.ROI_BOX_HEAD.ZEROSHOT_WEIGHT_PATH", str(path), "MODEL.ROI_HEADS.NUM_CLASSES", len(rows)]
        if len(rows) > MANY_WORDS:
            options += ["MODEL.DYNAMIC_CLASSIFIER", True, "MODEL.ROI_BOX_HEAD.USE_FED_LOSS", False]
        cfg.merge_from_list(options)
        model = build_model(cfg)
    return model, build_custom_optimizer(cfg, model), lambda: None


def _mend_today() -> None:
    """Stand in for a package that only captions need, and let clipping pass over parameters without a gradient."""
    clip, tokenizer = types.ModuleType("clip"), types.ModuleType("clip.simple_tokenizer")
    tokenizer.SimpleTokenizer = object  # type: ignore[attr-defined]
    clip.simple_tokenizer = tokenizer  # type: ignore[attr-defined]
    sys.modules.update({"clip": clip, "clip.simple_tokenizer": tokenizer})
    clip_values = torch.nn.utils.clip_grad_value_

    def clip_known(parameters: Any, *more: Any, **options: Any) -> None:
        one = isinstance(parameters, torch.Tensor)
        known = [p for p in ([parameters] if one else parameters) if p.grad is not None]
        if known:
            clip_values(known, *more, **options)

    torch.nn.utils.clip_grad_value_ = clip_known


def with_boxes(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Complete records with boxes and masks."""
    return [{**record, "ann_type": "box", "pos_category_ids": []} for record in records]


def with_tags(records: list[dict[str, Any]], labels: list[int]) -> list[dict[str, Any]]:
    """Complete records with one image label each."""
    more = {"ann_type": "image"}
    return [{**record, **more, "pos_category_ids": [label]} for record, label in zip(records, labels, strict=True)]
