"""mvseg's Detic for benchmarks/detic.py."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mvseg

# isort: split
import numpy as np
import torch
from detectron2.modeling import build_model

import mvseg.modeling  # noqa: F401
from mvseg.config import load_config
from mvseg.data.catalog import register_dataset
from mvseg.training import build_clipping, build_optimizer
from mvseg.training.setup import keep_freed_memory
from mvseg.vocabulary import Vocabulary

CONFIG = Path(__file__).resolve().parents[1] / "configs/detector/BoxSup_LVIS_R50.yaml"


def build(args: argparse.Namespace, rows: np.ndarray) -> tuple[torch.nn.Module, torch.optim.Optimizer, Callable]:
    """Build model, optimizer and clipping for LVIS's words and, beyond their number, further ones without boxes."""
    counts = Vocabulary.from_table("lvis_v1").image_counts().int().tolist()[: len(rows)]
    counts += [0] * (len(rows) - len(counts))
    words = [{"id": i + 1, "name": f"word {i}", "image_count": count} for i, count in enumerate(counts)]
    with tempfile.TemporaryDirectory() as folder:
        table, embeddings = Path(folder) / "words.json", Path(folder) / "rows.npy"
        table.write_text(json.dumps(words))
        np.save(embeddings, rows)
        more = {"vocabulary": str(table), "embeddings": str(embeddings)}
        register_dataset(name="bench", format="coco", image_root=".", annotations="none.json", **more)
        options = ["MODEL.DEVICE", args.device, "MODEL.WEIGHTS", "", "DATASETS.TRAIN", "('bench',)"]
        options += ["DATASETS.MIX", "[]", "DATASETS.TEST", "()", "MODEL.BACKBONE.NAME", "build_timm_fpn_backbone"]
        options += ["SOLVER.CLIP_GRADIENTS.ENABLED", "True", "INPUT.FORMAT", "RGB"]
        options += ["MODEL.PIXEL_STD", "[58.395, 57.12, 57.375]"]
        options += ["MODEL.PIXEL_MEAN", "[123.675, 116.28, 103.53]"]
        cfg = load_config(CONFIG, options)
        model = build_model(cfg)
    if args.device == "cpu":
        keep_freed_memory()  # as before every training
    optimizer, clip = build_optimizer(cfg, model), build_clipping(cfg)
    assert clip is not None
    return model, optimizer, lambda: clip(model.parameters())


def with_boxes(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Complete records with boxes and masks."""
    return [{**record, "dataset": "bench", "supervision": "masks"} for record in records]


def with_tags(records: list[dict[str, Any]], labels: list[int]) -> list[dict[str, Any]]:
    """Complete records with one image label each."""
    more = {"dataset": "bench", "supervision": "tags"}
    return [{**record, **more, "image_labels": [label]} for record, label in zip(records, labels, strict=True)]
