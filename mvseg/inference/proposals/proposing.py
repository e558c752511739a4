"""What a detector proposes for an image: boxes of any class with a score, in pixels of the image file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Instances
from torch import nn

from mvseg.data.proposal_files import BOXES, SCORES, Arrays
from mvseg.vocabulary import did_you_mean

SOURCES = ("auto", "generator", "detections")


def weights_fingerprint(model: nn.Module) -> str:
    """Compute a number that tells two sets of weights apart, whatever file they came from.

    Args:
        model: the model.

    Returns:
        Hash of the names, types and values of all parameters and stored buffers.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, values in sorted(model.state_dict().items()):
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


class Proposer:
    """Asks a model for proposals.

    Args:
        model: a ``GeneralizedRCNN`` of Detectron2 or a subclass, in evaluation mode.
        source: "generator": the boxes of the proposal generator; "detections": those of the region heads, whatever
            class they have; "auto": the latter of class-agnostic heads, the former of others.
        topk: largest number of boxes of an image.
        score_threshold: boxes must score more, 0 to 1.

    Raises:
        ValueError: if there is no such source, or the model has no proposal generator to ask.
    """

    def __init__(self, model: Any, source: str = "auto", topk: int = 1000, score_threshold: float = 0.0) -> None:
        if source not in SOURCES:
            raise ValueError(f"source {source!r} of proposals{did_you_mean(source, SOURCES)}")
        if source == "auto":
            agnostic = getattr(getattr(model, "roi_heads", None), "class_agnostic", False)
            source = "detections" if agnostic else "generator"
        if source == "generator" and getattr(model, "proposal_generator", None) is None:
            raise ValueError(f"{type(model).__name__} of this config has no proposal generator: use source detections")
        self.model, self.source, self.topk, self.score_threshold = model, source, topk, score_threshold

    @torch.no_grad()
    def __call__(self, batched_inputs: Sequence[Mapping[str, Any]]) -> list[Arrays]:
        """Propose boxes.

        Args:
            batched_inputs: as the model takes them at test time.

        Returns:
            For every image ``boxes`` (k, 4) float32 x0, y0, x1, y1 in pixels of the record's size, best first, and
            ``scores`` (k,) float32, 0 to 1.
        """
        inputs = list(batched_inputs)
        if self.source == "detections":
            found = [answer["instances"] for answer in self.model(inputs)]
        else:
            images = self.model.preprocess_image(inputs)
            proposals, _ = self.model.proposal_generator(images, self.model.backbone(images.tensor), None)
            found = [
                detector_postprocess(p, record.get("height", p.image_size[0]), record.get("width", p.image_size[1]))
                for p, record in zip(proposals, inputs, strict=True)
            ]
        return [self._best(instances) for instances in found]

    def _best(self, found: Instances) -> dict[str, np.ndarray]:
        boxes = (found.proposal_boxes if found.has("proposal_boxes") else found.pred_boxes).tensor.float()
        scores = found.objectness_logits.float().sigmoid() if found.has("objectness_logits") else found.scores.float()
        usable = boxes.isfinite().all(1) & (scores > self.score_threshold)
        boxes, scores = boxes[usable], scores[usable]
        order = scores.argsort(descending=True, stable=True)[: self.topk]
        return {BOXES: boxes[order].cpu().numpy(), SCORES: scores[order].cpu().numpy()}
