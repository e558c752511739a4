"""What a training of a tiny detector would leave, with random weights: config, weights, card and text embeddings."""

from __future__ import annotations

from pathlib import Path

import mvseg

# isort: split
import numpy as np
import torch
import yaml
from detectron2.modeling import build_model
from PIL import Image

import mvseg.modeling  # noqa: F401  (registers the parts)
from mvseg.config import load_config
from mvseg.data.catalog import register_cards

WIDTH = 8
TRAINED = ["cat", "dog", "red car"]
NEW = ["zebra", "a couch", "a settee", "sofa", "пёс", "猫", "🦓", "tram"]

TREE = {
    "MODEL": {
        "META_ARCHITECTURE": "MultiDatasetRCNN",
        "DEVICE": "cpu",
        "MASK_ON": True,
        "PIXEL_STD": [58.0, 58.0, 58.0],
        "BACKBONE": {"NAME": "build_timm_fpn_backbone"},
        "TIMM": {"NAME": "resnet10t", "OUT_INDICES": [2, 3, 4], "NORM": "GN"},
        "FPN": {"OUT_CHANNELS": 16},
        "PROPOSAL_GENERATOR": {"NAME": "CenterNet"},
        "CENTERNET": {
            "IN_FEATURES": ["p3", "p4", "p5"],
            "FPN_STRIDES": [8, 16, 32],
            "SOI": [[0, 32], [16, 64], [32, 10000000]],
            "NUM_BOX_CONVS": 1,
            "NORM": "",
            "POST_NMS_TOPK_TEST": 24,
        },
        "ROI_HEADS": {
            "NAME": "MultiDatasetCascadeROIHeads",
            "IN_FEATURES": ["p3", "p4", "p5"],
            "IOU_THRESHOLDS": [0.6],
            "NMS_THRESH_TEST": 0.6,
        },
        "ROI_BOX_CASCADE_HEAD": {"IOUS": [0.6, 0.7, 0.8]},
        "ROI_BOX_HEAD": {
            "NAME": "FastRCNNConvFCHead",
            "NUM_FC": 1,
            "FC_DIM": 16,
            "POOLER_RESOLUTION": 4,
            "CLS_AGNOSTIC_BBOX_REG": True,
            "MULT_PROPOSAL_SCORE": False,
        },
        "ROI_MASK_HEAD": {
            "NAME": "MaskRCNNConvUpsampleHead",
            "NUM_CONV": 1,
            "CONV_DIM": 8,
            "POOLER_RESOLUTION": 7,
            "CLS_AGNOSTIC_MASK": True,
        },
        "CLASSIFIER": {"TEMPERATURE": 8.0},
    },
    "INPUT": {"MIN_SIZE_TEST": 64, "MAX_SIZE_TEST": 100},
    "DATASETS": {"TRAIN": ["tiny_run_train"]},
    "TEST": {"DETECTIONS_PER_IMAGE": 40},
    "VERSION": 2,
}


def embeddings_of(words: list[str]) -> np.ndarray:
    """A fixed random text embedding for every word, (n, WIDTH) float32."""
    seeds = [sum(i * ord(letter) for i, letter in enumerate(word, 1)) for word in words]
    return np.stack([np.random.default_rng(seed).normal(size=WIDTH) for seed in seeds]).astype(np.float32)


def write_run(folder: Path, classifier: str = "text", dataset: str = "tiny_run_train") -> Path:
    """Write the run into a folder; its text encoder is a table with the embeddings of NEW too."""
    folder.mkdir(parents=True)
    np.save(folder / "trained.npy", embeddings_of(TRAINED))
    np.savez(folder / "table.npz", embeddings=embeddings_of(TRAINED + NEW), names=np.array(TRAINED + NEW))
    card = {"name": dataset, "format": "coco", "image_root": ".", "annotations": "none.json"}
    card |= {"vocabulary": {"name": "tiny", "names": TRAINED}, "embeddings": str(folder / "trained.npy")}
    (folder / "cards").mkdir()
    (folder / "cards" / "tiny.yaml").write_text(yaml.safe_dump(card))
    opts = ["MODEL.CLASSIFIER.NAME", classifier, "DATASETS.CARDS", f"['{folder / 'cards'}']"]
    opts += ["DATASETS.TRAIN", f"('{dataset}',)", "MODEL.CLASSIFIER.PROMPTS", "name"]
    opts += ["MODEL.CLASSIFIER.TEXT_ENCODER", f"table:{folder / 'table.npz'}"]
    (folder / "tree.yaml").write_text(yaml.safe_dump(TREE))
    cfg = load_config(folder / "tree.yaml", opts)
    cfg.OUTPUT_DIR = str(folder)
    (folder / "config.yaml").write_text(cfg.dump())
    register_cards(folder / "cards")
    torch.manual_seed(3)
    model = build_model(cfg)
    torch.nn.init.constant_(model.proposal_generator.centernet_head.bbox_pred.bias, 1.5)  # boxes of a few pixels
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=0.5)
    for predictor in model.roi_heads.box_predictor:  # the boxes stay close to the proposals
        for layer in predictor.bbox_pred.modules():
            if isinstance(layer, torch.nn.Linear):
                torch.nn.init.normal_(layer.weight, std=0.01)
    torch.save({"model": model.state_dict()}, folder / "model_final.pth")
    return folder


def picture(seed: int, height: int = 64, width: int = 80) -> np.ndarray:
    """A drawn picture with structure at several scales, uint8 RGB (height, width, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
