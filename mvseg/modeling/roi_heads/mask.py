"""The class-agnostic mask head: on batches in which only some images have masks, and on the boxes of detections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead, mask_rcnn_inference
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

REGIONS_AT_ONCE = 16  # on the CPU: their maps stay in the cache, and those of 300 detections need no gigabytes


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


def mask_logits(head: nn.Module, maps: Tensor) -> Tensor:
    """Run the layers of a mask head.

    Detectron2's head ends in an upsampling by 2, where every cell becomes four cells on its own, and a convolution of
    one cell. So the four cells are computed side by side and only the logits are put in their places: on a CPU three
    times as fast as a transposed convolution.

    Args:
        head: a mask head of Detectron2 with ``layers``.
        maps: (R, C, S, S) float region features.

    Returns:
        (R, K, M, M) float logits.
    """
    layers: Any = head
    if type(head) is not MaskRCNNConvUpsampleHead or maps.device.type != "cpu":
        return layers.layers(maps)
    return torch.cat([_side_by_side(layers, part) for part in maps.split(REGIONS_AT_ONCE)])


def _side_by_side(head: Any, maps: Tensor) -> Tensor:
    for layer in head.conv_norm_relus:
        maps = layer(maps)
    regions, _, height, width = maps.shape
    inner, classes = head.deconv.out_channels, head.predictor.out_channels
    weight = head.deconv.weight.permute(2, 3, 1, 0).flatten(0, 2)  # (4 * inner, C)
    hidden = torch.matmul(weight, maps.flatten(2)).add_(head.deconv.bias.repeat(4)[:, None]).relu_()
    logits = torch.matmul(head.predictor.weight.flatten(1), hidden.view(regions, 4, inner, height * width))
    logits = (logits + head.predictor.bias[:, None]).view(regions, 2, 2, classes, height, width)
    return logits.permute(0, 3, 4, 1, 5, 2).reshape(regions, classes, 2 * height, 2 * width)


def add_masks(
    head: nn.Module, region_maps: Callable[[list[Boxes]], Tensor], detections: Sequence[Instances]
) -> list[Instances]:
    """Give detections their masks; several detections with one box share the work.

    With many words a region is often detected as more than one of them.

    Args:
        head: a mask head of Detectron2.
        region_maps: gives the features (R, C, S, S) of the boxes of a batch, pixels.
        detections: for every image ``pred_boxes`` and ``pred_classes``.

    Returns:
        The detections, with ``pred_masks`` (N, 1, M, M), probabilities.
    """
    detections = list(detections)
    if type(head) is not MaskRCNNConvUpsampleHead:  # it may make more of its logits than probabilities
        return head(region_maps([image.pred_boxes for image in detections]), detections)
    found = [image.pred_boxes.tensor.unique(dim=0, return_inverse=True) for image in detections]
    boxes, rows, count = [], [], 0
    for distinct, inverse in found:
        boxes.append(Boxes(distinct))
        rows.append(inverse + count)
        count += len(distinct)
    logits = mask_logits(head, region_maps(boxes))
    mask_rcnn_inference(logits[torch.cat(rows)], detections)
    return detections
