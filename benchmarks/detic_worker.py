"""The process of one system in benchmarks/detic.py: builds its model, then runs each task that it reads from stdin."""

from __future__ import annotations

import argparse
import importlib
import json
import math
import resource
import sys
import time
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

OBJECTS = 8
SYSTEMS = {"mvseg": "detic_mvseg", "original": "detic_original"}


def word_rows(words: int, width: int = 512) -> np.ndarray:
    """Random text rows (words, width) that, like those of real words, have a direction in common."""
    rows = np.random.default_rng(0).normal(size=(words, width)) / math.sqrt(width)
    rows[:, 0] += 1.0
    return rows.astype(np.float32)


def set_weights(model: torch.nn.Module) -> None:
    """Give all weight tensors values that depend only on name and shape; biases and norms stay as they are built."""
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 or ".fc." in name:
            continue
        draw = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        fan = parameter[0].numel()
        scale = 0.001 if "bbox_pred.2" in name else 0.01 if "centernet_head" in name else 1 / math.sqrt(fan)
        with torch.no_grad():
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * scale)


def set_classifier(model: torch.nn.Module, images: list[dict[str, Any]]) -> None:
    """Scale the projections to the text so that few words are found in a region, as after training."""
    for stage in model.roi_heads.box_predictor:
        linear = stage.cls_score.linear
        outputs: list[torch.Tensor] = []
        hook = linear.register_forward_hook(lambda *arguments, outputs=outputs: outputs.append(arguments[2]))
        with torch.no_grad():
            linear.bias.zero_()
            model.eval()(images)
            linear.weight.div_(outputs[-1].norm(dim=1).mean())
            linear.bias[0] = -0.4
        hook.remove()


def pictures(count: int, size: int, objects: int, words: int, seed: int) -> list[dict[str, Any]]:
    """Random images (3, size, size) uint8 with boxes, 16-corner outlines inside them, and classes."""
    draw = np.random.default_rng(seed)
    angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    ring = np.stack([np.cos(angles), np.sin(angles)], 1)
    result = []
    for _ in range(count):
        low = draw.uniform(0, 0.6, (objects, 2)) * size
        high = low + draw.uniform(0.05, 0.35, (objects, 2)) * size
        outlines = [(((a + b) / 2 + ring * (b - a) / 2).reshape(-1)) for a, b in zip(low, high)]
        image = torch.from_numpy(draw.integers(0, 255, (3, size, size), dtype=np.uint8))
        boxes = torch.from_numpy(np.concatenate([low, high], 1)).float()
        classes = torch.from_numpy(draw.integers(0, min(words, 1203), objects))
        label = int(draw.integers(0, words))
        result.append({"image": image, "boxes": boxes, "outlines": outlines, "classes": classes, "label": label})
    return result


def annotated(picture: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A picture as Detectron2's mapper would give it; one without boxes has empty instances."""
    from detectron2.structures import Boxes, Instances, PolygonMasks  # after the system chose its Detectron2

    size = tuple(picture["image"].shape[1:])
    instances = Instances(size, gt_boxes=Boxes(picture["boxes"]), gt_classes=picture["classes"])
    if len(instances):
        instances.gt_masks = PolygonMasks([[outline] for outline in picture["outlines"]])
    record = {"image": picture["image"], "instances": instances, "image_id": 0}
    return {**record, "height": size[0], "width": size[1], **more}


def tasks_of(args: argparse.Namespace) -> dict[str, Callable[[], dict[str, float]]]:
    """Build the model and what can be asked of it."""
    system: Any = importlib.import_module(SYSTEMS[args.system])
    model, optimizer, clip = system.build(args, word_rows(args.words))
    set_weights(model)
    boxes = system.with_boxes([annotated(p) for p in pictures(1, args.size, OBJECTS, args.words, 1)])
    shown = pictures(4, args.size // 2, 0, args.words, 2)
    tags = system.with_tags([annotated(p) for p in shown], [p["label"] for p in shown])
    from detectron2.utils.events import EventStorage

    set_classifier(model, boxes)

    def step(batch: list[dict[str, Any]]) -> dict[str, float]:
        model.train()
        optimizer.zero_grad()
        with EventStorage(0):
            losses = model(batch)
        total = sum(losses.values())
        total.backward()
        clip()
        optimizer.step()
        return {"loss": float(total)}

    def detect() -> dict[str, float]:
        model.eval()
        with torch.no_grad():
            return {"found": float(sum(len(result["instances"]) for result in model(boxes)))}

    for group in optimizer.param_groups:
        group["lr"] = 0.0  # all repetitions do the same
    return {"boxes": lambda: step(boxes), "tags": lambda: step(tags), "detect": detect}


def reset_peak() -> None:
    """Forget the largest memory so far, where the system can."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pass


def peak(device: str) -> float:
    """Largest memory since the reset, GiB."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 2**20
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def run(task: Callable[[], dict[str, float]], device: str) -> dict[str, float]:
    """Run a task once."""
    torch.manual_seed(0)
    reset_peak()
    wall, cpu = time.perf_counter(), time.process_time()
    numbers = task()
    if device == "cuda":
        torch.cuda.synchronize()
    spent = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    return {**spent, "memory": peak(device), **numbers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--system", choices=SYSTEMS, required=True)
    parser.add_argument("--words", type=int, required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--device", required=True)
    for key in ("original", "centernet2", "detectron2"):
        parser.add_argument(f"--{key}")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tasks = tasks_of(args)
    for line in sys.stdin:
        print(json.dumps(run(tasks[line.strip()], args.device)), flush=True)


if __name__ == "__main__":
    main()
