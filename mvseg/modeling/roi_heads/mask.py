"""Training the class-agnostic mask head on batches in which only some images have masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.structures import Instances
from torch import Tensor


def with_masks(proposals: Sequence[Instances], num_classes: int) -> list[Instances]:
    """Keep the foreground regions whose image has masks; images without any stay in the list, empty.

    Args:
        proposals: for every image labelled regions with ``gt_classes`` and perhaps ``gt_masks``.
        num_classes: value of gt_classes that means background.

    Returns:
        For every image the regions that the mask head can learn from.
    """
    kept = []
    for image in proposals:
        useful = image.gt_classes < num_classes
        if not image.has("gt_masks"):
            useful = torch.zeros_like(useful)
        kept.append(image[useful.nonzero()[:, 0]])
    return kept


def mask_targets(proposals: Sequence[Instances], side: int, device: torch.device | str = "cpu") -> Tensor:
    """Rasterise the true masks inside the regions.

    Args:
        proposals: for every image regions with ``proposal_boxes``; non-empty ones with ``gt_masks``.
        side: S, cells along a side.
        device: where the result shall lie.

    Returns:
        (N, S, S) bool, image by image.
    """
    targets = [p.gt_masks.crop_and_resize(p.proposal_boxes.tensor, side).to(device) for p in proposals if len(p)]
    return torch.cat(targets) if targets else torch.zeros((0, side, side), dtype=torch.bool, device=device)
