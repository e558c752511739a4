"""What all heads on regions share: the registry, labelling and sampling of proposals, pooling by config."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ...config import configurable
from ...layers import ShapeSpec
from ...structures import ImageList, Instances, pairwise_iou
from ...utils.events import get_event_storage
from ...utils.registry import Registry
from ..matcher import Matcher
from ..poolers import ROIPooler
from ..proposal_generator.proposal_utils import add_ground_truth_to_proposals
from ..sampling import subsample_labels

ROI_HEADS_REGISTRY = Registry("ROI_HEADS")
ROI_HEADS_REGISTRY.__doc__ = "Callables (cfg, input_shape: dict of ShapeSpec) -> heads, picked by MODEL.ROI_HEADS.NAME."


def build_roi_heads(cfg, input_shape: dict[str, ShapeSpec]) -> nn.Module:
    """Build MODEL.ROI_HEADS.NAME for these features."""
    return ROI_HEADS_REGISTRY.get(cfg.MODEL.ROI_HEADS.NAME)(cfg, input_shape)


def select_foreground_proposals(proposals: list[Instances], bg_label: int) -> tuple[list[Instances], list[Tensor]]:
    """Proposals of each image with a class other than -1 and `bg_label`, and the (R,) bool masks that say which."""
    masks = [(image.gt_classes != -1) & (image.gt_classes != bg_label) for image in proposals]
    return [image[mask.nonzero().squeeze(1)] for image, mask in zip(proposals, masks)], masks


class ROIHeads(nn.Module):
    """Base: labels and samples the proposals of the training."""

    @configurable
    def __init__(
        self, *, num_classes, batch_size_per_image, positive_fraction, proposal_matcher, proposal_append_gt=True
    ):
        super().__init__()
        self.num_classes = num_classes
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction
        self.proposal_matcher = proposal_matcher
        self.proposal_append_gt = proposal_append_gt

    @classmethod
    def from_config(cls, cfg):
        options = cfg.MODEL.ROI_HEADS
        return {
            "num_classes": options.NUM_CLASSES,
            "batch_size_per_image": options.BATCH_SIZE_PER_IMAGE,
            "positive_fraction": options.POSITIVE_FRACTION,
            "proposal_append_gt": options.PROPOSAL_APPEND_GT,
            "proposal_matcher": Matcher(options.IOU_THRESHOLDS, options.IOU_LABELS, allow_low_quality_matches=False),
        }

    def _sample_proposals(
        self, matched_idxs: Tensor, matched_labels: Tensor, gt_classes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Draw proposals of one image.

        Args:
            matched_idxs: (R,) best ground truth of each.
            matched_labels: (R,) 1, 0 or -1 by the matcher.
            gt_classes: (G,) classes of the ground truth.

        Returns:
            (S,) proposals drawn, foreground first, and their classes (K for background).
        """
        if len(gt_classes):
            classes = gt_classes[matched_idxs]
            classes[matched_labels == 0] = self.num_classes
            classes[matched_labels == -1] = -1
        else:
            classes = torch.full_like(matched_idxs, self.num_classes)
        drawn = torch.cat(
            subsample_labels(classes, self.batch_size_per_image, self.positive_fraction, self.num_classes)
        )
        return drawn, classes[drawn]

    @torch.no_grad()
    def label_and_sample_proposals(self, proposals: list[Instances], targets: list[Instances]) -> list[Instances]:
        """Sample proposals and give them what is known about their ground truth.

        Args:
            proposals: of each image, with `proposal_boxes` (and `objectness_logits` if ground truth is appended).
            targets: ground truth of each image, with `gt_boxes`, `gt_classes` and any further `gt_...` field.

        Returns:
            Sampled proposals of each image with `gt_classes` (K for background) and, if the image has any ground
            truth, its other `gt_...` fields (meaningless for background).
        """
        if self.proposal_append_gt:
            proposals = add_ground_truth_to_proposals(targets, proposals)
        sampled, foreground, background = [], [], []
        for image, truth in zip(proposals, targets):
            matches, labels = self.proposal_matcher(pairwise_iou(truth.gt_boxes, image.proposal_boxes))
            drawn, classes = self._sample_proposals(matches, labels, truth.gt_classes)
            image = image[drawn]
            image.gt_classes = classes
            if len(truth):
                for name, value in truth.get_fields().items():
                    if name.startswith("gt_") and not image.has(name):
                        image.set(name, value[matches[drawn]])
            background.append((classes == self.num_classes).sum().item())
            foreground.append(len(classes) - background[-1])
            sampled.append(image)
        storage = get_event_storage()
        storage.put_scalar("roi_head/num_fg_samples", np.mean(foreground))
        storage.put_scalar("roi_head/num_bg_samples", np.mean(background))
        return sampled

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Detect, or compute losses.

        Args:
            images: the batch; only sizes may be needed.
            features: named features (N, C, H, W).
            proposals: of each image, with `proposal_boxes`.
            targets: ground truth of each image, in training.

        Returns:
            Detections of each image (in training: sampled proposals) and the losses.
        """
        raise NotImplementedError


def make_pooler(options, names: list[str], input_shape: dict[str, ShapeSpec]) -> tuple[ROIPooler, ShapeSpec]:
    """Pooler by the POOLER_* keys of a head, and the shape of what it gives."""
    channels = {input_shape[name].channels for name in names}
    if len(channels) != 1:
        raise AssertionError(f"MODEL.ROI_HEADS.IN_FEATURES {names} must agree in channels: {sorted(channels)}")
    side = options.POOLER_RESOLUTION
    pooler = ROIPooler(
        output_size=side,
        scales=tuple(1.0 / input_shape[name].stride for name in names),
        sampling_ratio=options.POOLER_SAMPLING_RATIO,
        pooler_type=options.POOLER_TYPE,
    )
    return pooler, ShapeSpec(channels=channels.pop(), height=side, width=side)
