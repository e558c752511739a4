"""Time of one training step and of one image at test time, for a config's detector on random images.

    python benchmarks/detector.py
    python benchmarks/detector.py --config-file configs/detector/BoxSup_LVIS_R50.yaml --size 640 --batch 1 --device cuda

The weights are random, so the numbers of proposals and detections are those of an untrained model. Words get random
embeddings: the time does not depend on their values. Prints the median over the repeats, and the largest memory.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import mvseg

# isort: split
import numpy as np
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

import mvseg.modeling  # noqa: F401
from mvseg.config import load_config
from mvseg.data.catalog import register_dataset
from mvseg.vocabulary import Vocabulary

ROOT = Path(__file__).resolve().parents[1]


def build(config_file: str, device: str, table: str) -> torch.nn.Module:
    """Build the config's model for one data set with the words of a built-in table and random embeddings."""
    words = Vocabulary.from_table(table)
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "random.npy"
        np.save(rows, np.random.default_rng(0).normal(size=(len(words), 512)).astype(np.float32))
        register_dataset(
            name="bench", format="coco", image_root=".", annotations="none.json", vocabulary=table, embeddings=str(rows)
        )
        options = ["MODEL.DEVICE", device, "MODEL.WEIGHTS", "", "DATASETS.TRAIN", "('bench',)", "DATASETS.MIX", "[]"]
        return build_model(load_config(config_file, options))


def batch(count: int, size: int, classes: int, objects: int = 8) -> list[dict]:
    """Make random images with random boxes."""
    records = []
    for _ in range(count):
        corners = torch.rand(objects, 2) * size * 0.6
        boxes = torch.cat([corners, corners + size * (0.05 + 0.3 * torch.rand(objects, 2))], 1)
        instances = Instances((size, size), gt_boxes=Boxes(boxes), gt_classes=torch.randint(classes, (objects,)))
        image = torch.randint(0, 255, (3, size, size), dtype=torch.uint8)
        records.append({"image": image, "height": size, "width": size, "dataset": "bench", "instances": instances})
    return records


def median_seconds(call: Callable[[], object], repeats: int, device: str) -> float:
    """Time a call after one warm-up."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", default=str(ROOT / "configs/detector/BoxSup_LVIS_R50.yaml"))
    parser.add_argument("--classes", default="lvis_v1", choices=("lvis_v1", "coco"))
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.manual_seed(0)
    model = build(args.config_file, args.device, args.classes)
    records = batch(args.batch, args.size, model.roi_heads.num_classes)

    def step(dtype: torch.dtype | None) -> None:
        model.zero_grad()
        with EventStorage(0), torch.autocast(args.device, dtype, enabled=dtype is not None):
            losses = model(records)
        sum(losses.values()).backward()

    def detect(dtype: torch.dtype | None) -> None:
        with torch.no_grad(), torch.autocast(args.device, dtype, enabled=dtype is not None):
            model(records[:1])

    print(f"{Path(args.config_file).stem}, {args.size} px, {model.roi_heads.num_classes} words, {args.device}")
    for name, dtype in (("float32", None), ("bfloat16", torch.bfloat16)):
        model.train()
        training = median_seconds(lambda dtype=dtype: step(dtype), args.repeats, args.device)
        model.eval()
        testing = median_seconds(lambda dtype=dtype: detect(dtype), args.repeats, args.device)
        print(f"  {name:9s} forward and backward, batch {args.batch}: {training:7.3f} s   one image: {testing:7.3f} s")
    if args.device == "cuda":
        print(f"  largest GPU memory: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
    else:
        print(f"  largest memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")


if __name__ == "__main__":
    main()
