"""What a teacher says of boxes of a batch's images, read from the records and checked against the detector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.structures import Instances

KEY = "distill"


def read_distilled(
    records: Sequence[Mapping[str, Any]], roi_heads: Any, device: torch.device
) -> tuple[Instances | None, ...] | None:
    """Take the embeddings of crops out of the records of a batch.

    Args:
        records: the batch; ``distill`` holds ``proposal_boxes`` (k, 4) in pixels of the network's image and
            ``gt_embeddings`` (k, D), or is None or not there.
        roi_heads: the region heads.
        device: where the result shall lie.

    Returns:
        The instances of every image, None for images without; None if no record has any.

    Raises:
        ValueError: if the heads learn from no teacher, or its embeddings have another width than the text rows.
    """
    found = [record.get(KEY) for record in records]
    if all(instances is None for instances in found):
        return None
    if not getattr(roi_heads, "takes_distilled", False):
        raise ValueError(
            f"records hold embeddings of crops ({KEY!r}), but {type(roi_heads).__name__} learns from no teacher: set "
            "MODEL.ROI_HEADS.NAME DistillingCascadeROIHeads, or MODEL.DISTILLATION.WEIGHT 0.0"
        )
    for record, instances in zip(records, found, strict=True):
        width = None if instances is None else instances.gt_embeddings.shape[1]
        if width not in (None, roi_heads.text_width):
            raise ValueError(
                f"dataset {record.get('dataset')!r}, image {record.get('image_id', record.get('file_name'))}: the "
                f"teacher's embeddings of crops are {width} wide, the text embeddings of the words "
                f"{roi_heads.text_width}: both must come from one model; embed the crops (python -m mvseg.distill) "
                "with the image side of MODEL.CLASSIFIER.TEXT_ENCODER, or the words with the text side of the teacher"
            )
    return tuple(None if instances is None else instances.to(device) for instances in found)


def check_teacher(cfg: Any, roi_heads: Any) -> None:
    """Check that a distillation that is asked for has somebody who does it.

    Args:
        cfg: the config tree; reads ``MODEL.DISTILLATION.WEIGHT``.
        roi_heads: the region heads.

    Raises:
        ValueError: if the heads learn from no teacher.
    """
    if cfg.MODEL.DISTILLATION.WEIGHT and not getattr(roi_heads, "takes_distilled", False):
        raise ValueError(
            f"MODEL.DISTILLATION.WEIGHT is {cfg.MODEL.DISTILLATION.WEIGHT}, but {type(roi_heads).__name__} learns from "
            "no teacher: set MODEL.ROI_HEADS.NAME DistillingCascadeROIHeads, or the weight to 0.0"
        )
