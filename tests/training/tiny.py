"""A detector of a few hundred parameters and two drawn data sets, so that the tests of the training loop are fast."""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import mvseg  # noqa: F401

# isort: split
import numpy as np
import torch
import yaml
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, Instances
from PIL import Image
from torch import nn

from mvseg.config import load_config

SIZE = 32
SETS = {"tiny_a": ("square", "disk"), "tiny_b": ("disc", "star", "cross")}


@META_ARCH_REGISTRY.register()
class TinyDetector(nn.Module):
    """Predicts one box per image; with dropout, batch statistics and a head that is never used."""

    def __init__(self, cfg):
        super().__init__()
        noisy = cfg.MODEL.RESNETS.DEPTH != 18  # depth 18 stands for: no dropout and no batch statistics
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=4), nn.BatchNorm2d(4) if noisy else nn.GroupNorm(2, 4), nn.ReLU()
        )
        self.drop = nn.Dropout(0.3 if noisy else 0.0)
        self.box = nn.Linear(4, 4)
        self.unused = nn.Linear(4, 4)
        self.words = ["none"]
        self.asked = []
        self.to(cfg.MODEL.DEVICE)

    def use_vocabulary(self, vocabulary):
        @contextmanager
        def exchanged():
            before, self.words = self.words, list(vocabulary.names)
            self.asked.append(self.words)
            yield
            self.words = before

        return exchanged()

    def forward(self, batch):
        images = torch.stack([record["image"].float() / 128 - 1 for record in batch]).to(self.box.weight.device)
        features = self.backbone(images).mean(dim=(2, 3))
        boxes = 3 * self.box(self.drop(features)).float().tanh() + torch.tensor([9.0, 9, 21, 21])
        if self.training:
            targets = torch.stack([record["instances"].gt_boxes.tensor.mean(0) for record in batch]).to(boxes)
            return {"loss_box": ((boxes - targets) / SIZE).square().mean(), "loss_small": 1e-3 * boxes.mean()}
        found = []
        for box in boxes:
            instances = Instances((SIZE, SIZE))
            n = len(self.words)
            instances.pred_boxes = Boxes(box.repeat(n, 1))
            instances.scores = torch.linspace(0.9, 0.5, n) + box.sum() / 1e4
            instances.pred_classes = torch.arange(n)
            found.append({"instances": instances})
        return found


@functools.cache
def shared_sets() -> Path:
    """Write both sets once for all tests of this process; gives the folder of the cards."""
    folder = Path(tempfile.mkdtemp(prefix="mvseg_tiny_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return write_sets(folder)


def write_sets(folder: Path, images: int = 12) -> Path:
    """Write both sets as COCO JSON with one card each; returns the folder of the cards."""
    random = np.random.default_rng(0)
    cards = folder / "cards"
    cards.mkdir(parents=True)
    for name, words in SETS.items():
        (folder / name).mkdir()
        content = {
            "images": [],
            "annotations": [],
            "categories": [{"id": i + 1, "name": w} for i, w in enumerate(words)],
        }
        for i in range(images):
            picture = random.integers(0, 60, (SIZE, SIZE, 3), dtype=np.uint8)
            x, y = random.integers(4, 16, 2).tolist()
            picture[y : y + 12, x : x + 12] = 200
            Image.fromarray(picture).save(folder / name / f"{i}.png")
            content["images"].append({"id": i + 1, "file_name": f"{i}.png", "height": SIZE, "width": SIZE})
            content["annotations"].append(
                {"id": i + 1, "image_id": i + 1, "category_id": 1 + i % len(words), "bbox": [x, y, 12, 12], "area": 144,
                 "iscrowd": 0}
            )  # fmt: skip
        (folder / f"{name}.json").write_text(json.dumps(content))
        card = {"name": name, "format": "coco", "image_root": str(folder / name), "supervision": "boxes"}
        card |= {"annotations": str(folder / f"{name}.json"), "vocabulary": {"name": name, "names": list(words)}}
        (cards / f"{name}.yaml").write_text(yaml.safe_dump(card))
    return cards


def tiny_config(cards: Path, output: Path, *opts: object):
    """A config that trains TinyDetector on both sets in a second."""
    base = [
        "MODEL.META_ARCHITECTURE", "TinyDetector", "MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(output), "SEED", 3,
        "DATASETS.CARDS", [str(cards)], "DATASETS.TRAIN", tuple(SETS), "DATASETS.TEST", tuple(SETS),
        "DATALOADER.NUM_WORKERS", 0, "SOLVER.IMS_PER_BATCH", 4, "SOLVER.MAX_ITER", 6, "SOLVER.BASE_LR", 0.02,
        "SOLVER.WARMUP_ITERS", 3, "SOLVER.CHECKPOINT_PERIOD", 3, "INPUT.MIN_SIZE_TRAIN", (SIZE,), "INPUT.MIN_SIZE_TEST",
        SIZE, "TEST.NUM_PICTURES", 0, "INPUT.RANDOM_FLIP", "horizontal",
    ]  # fmt: skip
    return load_config(None, [str(item) for item in [*base, *opts]])
