"""First passes: how often a detector reports every word in some images, as a prior for its calibration."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from detectron2.utils import comm
from torch import Tensor, nn

from mvseg.modeling.calibration import Calibration, calibration_of

logger = logging.getLogger(__name__)


@torch.no_grad()
def count_detections(model: nn.Module, batches: Iterable[list[dict[str, Any]]]) -> tuple[Tensor, int]:
    """Count what a detector reports of every word, without a prior.

    Args:
        model: a detector with region heads that calibrate, not wrapped; its mode and its prior come back
            afterwards.
        batches: records as the model takes them at test time. In several processes each has its own part.

    Returns:
        (m,) float64 detections of every word, over all processes, and the number of images.

    Raises:
        ValueError: if the model does not calibrate (MODEL.CALIBRATION.ENABLED).
    """
    calibration = calibration_of(model)
    if calibration is None:
        raise ValueError(f"{type(model).__name__} does not calibrate its scores: set MODEL.CALIBRATION.ENABLED True")
    training, images, before = model.training, 0, calibration.counts
    model.eval()
    try:
        with calibration.count():
            for batch in batches:
                model(batch)
                images += len(batch)
            own = calibration.counts
    finally:
        model.train(training)
        calibration.set_counts(before)
    counts = torch.zeros(len(calibration.words), dtype=torch.float64) if own is None else own
    gathered = comm.all_gather((counts, images))
    return torch.stack([c for c, _ in gathered]).sum(0), sum(n for _, n in gathered)


def first_pass(model: nn.Module, batches: Iterable[list[dict[str, Any]]], where: str) -> Calibration:
    """Make a first pass and let the detector use what it found.

    Args:
        model: a detector with region heads that calibrate, not wrapped.
        batches: as for :func:`count_detections`; they are gone through once.
        where: what to call the images in the log.

    Returns:
        The calibration, with its prior.

    Raises:
        ValueError: if the batches can be gone through only once, or the model does not calibrate.
    """
    if isinstance(batches, Iterator):
        raise ValueError("a first pass goes through the images before the answers do: give a list or a loader of them")
    start = time.perf_counter()
    counts, images = count_detections(model, batches)
    calibration = calibration_of(model)
    assert calibration is not None  # count_detections has looked
    calibration.set_counts(counts)
    logger.info(
        "First pass over %d images of %s in %.0f s: %s", images, where, time.perf_counter() - start,
        describe_counts(calibration.words, counts),
    )  # fmt: skip
    return calibration


def describe_counts(words: Iterable[str], counts: Tensor) -> str:
    """Say in a line what was counted.

    Args:
        words: m words.
        counts: (m,) float, detections of every word.

    Returns:
        Number of detections, the most frequent words, and how many words were never detected.
    """
    ranked = sorted(zip(counts.tolist(), words), key=lambda pair: (-pair[0], pair[1]))
    best = ", ".join(f"{word} {count:g}" for count, word in ranked[:3])
    never = sum(count == 0 for count, _ in ranked)
    return f"{counts.sum():g} detections, most of {best}; {never} of {len(ranked)} words never"
