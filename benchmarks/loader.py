"""Speed of the training loader on a drawn data set: images per second by number of workers, and the cost of resuming.

Run: ``python benchmarks/loader.py`` (about a minute). ``--help`` lists the options.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mvseg.config import get_cfg
from mvseg.data.loader import build_train_loader
from mvseg.data.mixing import MixtureSampler
from mvseg.data.streams import ClassAwareStream, ClassCounts, RepeatFactorStream, ShuffledStream, repeat_factors

# isort: split
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

NAME = "benchmark_drawn"


def draw_dataset(folder: Path, count: int, objects: int = 8) -> list[dict[str, Any]]:
    """Write JPEG scenes of 640 x 480 pixels with polygons on a noisy background; a third of them upright."""
    random = np.random.default_rng(0)
    records = []
    for index in range(count):
        width, height = (640, 480) if index % 3 else (480, 640)
        coarse = random.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
        image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        annotations = []
        for _ in range(objects):
            center, radius = random.uniform(80, 400, 2), random.uniform(20, 80)
            angle = np.sort(random.uniform(0, 2 * np.pi, 24))
            polygon = center + radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
            label = int(random.integers(80))
            cv2.fillPoly(image, [polygon.astype(np.int32)], random.integers(0, 256, 3).tolist())
            (x0, y0), (x1, y1) = polygon.min(0), polygon.max(0)
            box = {"bbox": [x0, y0, x1, y1], "bbox_mode": BoxMode.XYXY_ABS, "category_id": label}
            annotations.append({**box, "segmentation": [polygon.ravel().tolist()], "iscrowd": 0})
        path = folder / f"{index}.jpg"
        cv2.imwrite(str(path), image)
        records.append(
            {"file_name": str(path), "height": height, "width": width, "image_id": index, "annotations": annotations}
        )
    return records


def images_per_second(loader: Iterable[list[dict[str, Any]]], seconds: float, warm_up: int = 4) -> float:
    """Count the images that a loader gives, without the start of its workers."""
    batches = iter(loader)
    for _ in range(warm_up):
        next(batches)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        count += len(next(batches))
    return count / (time.perf_counter() - start)


def measure_workers(recipes: list[str], workers: list[int], size: int, seconds: float) -> list[list[str]]:
    """One row per recipe and target (boxes, masks), one column per number of workers."""
    rows = [["images/s", *(f"{n} workers" for n in workers)]]
    for recipe in recipes:
        for masks in (False, True):
            row = [f"{recipe} {size}, {'boxes and masks' if masks else 'boxes'}"]
            for count in workers:
                cfg = get_cfg()
                cfg.DATASETS.MIX = [{"name": NAME, "augmentation": recipe, "image_size": size}]
                cfg.MODEL.MASK_ON, cfg.SEED, cfg.SOLVER.IMS_PER_BATCH = masks, 0, 8
                cfg.DATALOADER.NUM_WORKERS = count
                row.append(f"{images_per_second(build_train_loader(cfg), seconds):.1f}")
            rows.append(row)
    return rows


def measure_resume(step: int) -> list[list[str]]:
    """Time of the sampler alone on a mixture of the size of COCO, LVIS and Objects365."""
    random = np.random.default_rng(0)
    labels = np.minimum(random.zipf(1.3, (100_000, 4)), 1203) - 1
    counts = ClassCounts.from_records([{"annotations": [{"category_id": int(c)} for c in row]} for row in labels])
    streams = [
        ShuffledStream("objects365", 1_740_000),
        RepeatFactorStream("lvis", repeat_factors(counts, 0.001)),
        ClassAwareStream("class aware", counts),
    ]
    landscape = [random.random(len(stream.weights())) < 0.7 for stream in streams]

    def build() -> MixtureSampler:
        return MixtureSampler(streams, shares=(0.5, 0.25, 0.25), batch_sizes=(64,) * 3, landscape=landscape)

    sampler, start = build(), time.perf_counter()
    for _ in range(200):
        sampler.next_batch()
        sampler.state_dict()
    per_batch = (time.perf_counter() - start) / 200
    # A position that far in: epochs and places of the three orders as so many steps leave them.
    images = [step * 64 // 2, step * 64 // 4, step * 64 // 4]
    lengths = [float(stream.weights().sum()) for stream in streams]
    cursors = [[int(n // length), int(n % length)] for n, length in zip(images, lengths)]
    state = {**sampler.state_dict(), "step": step, "images": images, "cursors": cursors}
    resumed, start = build(), time.perf_counter()
    resumed.load_state_dict(state)
    resumed.next_batch()
    return [
        ["sampler, 1.9 million images, batch 64", "ms"],
        ["one batch, with its state", f"{1000 * per_batch:.2f}"],
        [f"resume at step {step}, up to the first batch", f"{1000 * (time.perf_counter() - start):.0f}"],
        ["  (replaying all steps would take)", f"{1000 * per_batch * step:.0f}"],
    ]


def print_table(rows: list[list[str]]) -> None:
    """Print rows with aligned columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths))))
    print()


def main() -> None:
    """Draw the data set, measure, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64, help="images of the drawn data set")
    parser.add_argument("--size", type=int, default=640, help="image size of the recipes in pixels")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recipes", nargs="+", default=["resize_shortest_edge", "resize_crop"])
    parser.add_argument("--seconds", type=float, default=4.0, help="time per measurement")
    parser.add_argument("--step", type=int, default=100_000, help="step at which the sampler is resumed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        records = draw_dataset(Path(folder), options.images)
        DatasetCatalog.register(NAME, lambda: records)
        MetadataCatalog.get(NAME).set(thing_classes=[str(i) for i in range(80)])
        print(f"{options.images} drawn JPEGs of 640 x 480, 8 objects each, batch 8, {os.cpu_count()} cores\n")
        print_table(measure_workers(options.recipes, options.workers, options.size, options.seconds))
    print_table(measure_resume(options.step))


if __name__ == "__main__":
    main()
