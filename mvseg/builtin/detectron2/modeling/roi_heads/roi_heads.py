"""Heads that label and sample proposals, classify them, refine their boxes and segment them."""

import inspect

import numpy as np
import torch
from torch import Tensor, nn

from ..._missing import missing
from ...config.config import configurable, read_keys
from ...layers import ShapeSpec
from ...structures import Boxes, ImageList, Instances, pairwise_iou
from ...utils.events import get_event_storage
from ...utils.registry import Registry
from ..backbone.resnet import BottleneckBlock, ResNet
from ..matcher import Matcher
from ..poolers import ROIPooler
from ..proposal_generator.proposal_utils import add_ground_truth_to_proposals
from ..sampling import subsample_labels
from .box_head import build_box_head
from .fast_rcnn import FastRCNNOutputLayers
from .mask_head import build_mask_head

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
        self.num_classes, self.proposal_matcher, self.proposal_append_gt = (
            num_classes,
            proposal_matcher,
            proposal_append_gt,
        )
        self.batch_size_per_image, self.positive_fraction = batch_size_per_image, positive_fraction

    @classmethod
    def from_config(cls, cfg):
        options = cfg.MODEL.ROI_HEADS
        matcher = Matcher(options.IOU_THRESHOLDS, options.IOU_LABELS, allow_low_quality_matches=False)
        names = "NUM_CLASSES BATCH_SIZE_PER_IMAGE POSITIVE_FRACTION PROPOSAL_APPEND_GT"
        return {**read_keys(options, names), "proposal_matcher": matcher}

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
        sizes = (self.batch_size_per_image, self.positive_fraction)
        drawn = torch.cat(subsample_labels(classes, *sizes, self.num_classes))
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

    def forward(self, images: ImageList, features: dict[str, Tensor], proposals: list[Instances], targets=None):
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
    scales = tuple(1.0 / input_shape[name].stride for name in names)
    pooler = ROIPooler(side, scales, options.POOLER_SAMPLING_RATIO, options.POOLER_TYPE)
    return pooler, ShapeSpec(channels=channels.pop(), height=side, width=side)


def _check_given_boxes(heads: ROIHeads, instances: list[Instances]) -> None:
    if heads.training or not (instances and instances[0].has("pred_boxes") and instances[0].has("pred_classes")):
        raise AssertionError("forward_with_given_boxes needs eval mode and instances with pred_boxes, pred_classes")


@ROI_HEADS_REGISTRY.register()
class Res5ROIHeads(ROIHeads):
    """Box and mask heads that share the last stage of a ResNet on pooled features ("C4")."""

    @configurable
    def __init__(self, *, in_features, pooler, res5, box_predictor, mask_head=None, **kwargs):
        super().__init__(**kwargs)
        self.in_features, self.pooler = in_features, pooler
        self.res5 = nn.Sequential(*res5) if isinstance(res5, (list, tuple)) else res5
        self.box_predictor = box_predictor
        self.mask_on = mask_head is not None
        if self.mask_on:
            self.mask_head = mask_head

    @classmethod
    def from_config(cls, cfg, input_shape):
        if cfg.MODEL.KEYPOINT_ON:
            raise missing("modeling.roi_heads.keypoint_head")
        options, box_options = cfg.MODEL.ROI_HEADS, cfg.MODEL.ROI_BOX_HEAD
        if len(options.IN_FEATURES) != 1:
            raise AssertionError(f"Res5ROIHeads pools one feature; MODEL.ROI_HEADS.IN_FEATURES {options.IN_FEATURES}")
        ret = super().from_config(cfg)
        ret["in_features"] = options.IN_FEATURES
        ret["pooler"], _ = make_pooler(box_options, options.IN_FEATURES, input_shape)
        build = cls._build_res5_block
        # An overriding subclass may have made it a plain or static function.
        ret["res5"], out_channels = build(cfg) if inspect.ismethod(build) else build(cls, cfg)
        ret["box_predictor"] = FastRCNNOutputLayers(cfg, ShapeSpec(channels=out_channels, height=1, width=1))
        if cfg.MODEL.MASK_ON:
            side = box_options.POOLER_RESOLUTION
            ret["mask_head"] = build_mask_head(cfg, ShapeSpec(channels=out_channels, width=side, height=side))
        return ret

    @classmethod
    def _build_res5_block(cls, cfg) -> tuple[nn.Sequential, int]:
        """The stage "res5" of MODEL.RESNETS, and its output channels."""
        options = cfg.MODEL.RESNETS
        out_channels = options.RES2_OUT_CHANNELS * 8
        channels = {"in_channels": out_channels // 2, "out_channels": out_channels}
        channels["bottleneck_channels"] = options.NUM_GROUPS * options.WIDTH_PER_GROUP * 8
        shared = read_keys(options, "NUM_GROUPS NORM STRIDE_IN_1X1")
        blocks = ResNet.make_stage(BottleneckBlock, 3, stride_per_block=[2, 1, 1], **channels, **shared)
        return nn.Sequential(*blocks), out_channels

    def _shared_roi_transform(self, features: list[Tensor], boxes: list[Boxes]) -> Tensor:
        return self.res5(self.pooler(features, boxes))

    def forward(self, images, features, proposals, targets=None):
        if self.training:
            proposals = self.label_and_sample_proposals(proposals, targets)
        levels = [features[name] for name in self.in_features]
        pooled = self._shared_roi_transform(levels, [image.proposal_boxes for image in proposals])
        predictions = self.box_predictor(pooled.mean(dim=(2, 3)))
        if not self.training:
            instances, _ = self.box_predictor.inference(predictions, proposals)
            return self.forward_with_given_boxes(features, instances), {}
        losses = self.box_predictor.losses(predictions, proposals)
        if self.mask_on:
            foreground, masks = select_foreground_proposals(proposals, self.num_classes)
            losses.update(self.mask_head(pooled[torch.cat(masks)], foreground))
        return [], losses

    def forward_with_given_boxes(self, features: dict[str, Tensor], instances: list[Instances]) -> list[Instances]:
        """Add masks to detections that have `pred_boxes` and `pred_classes`."""
        _check_given_boxes(self, instances)
        if not self.mask_on:
            return instances
        found = [features[name] for name in self.in_features]
        return self.mask_head(self._shared_roi_transform(found, [i.pred_boxes for i in instances]), instances)


@ROI_HEADS_REGISTRY.register()
class StandardROIHeads(ROIHeads):
    """Box head and mask head, each with its own pooling (Lin et al. 2017)."""

    @configurable
    def __init__(
        self,
        *,
        box_in_features: list[str],
        box_pooler: ROIPooler,
        box_head: nn.Module,
        box_predictor: nn.Module,
        mask_in_features: list[str] | None = None,
        mask_pooler: ROIPooler | None = None,
        mask_head: nn.Module | None = None,
        keypoint_in_features: list[str] | None = None,
        keypoint_pooler: ROIPooler | None = None,
        keypoint_head: nn.Module | None = None,
        train_on_pred_boxes: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.in_features = self.box_in_features = box_in_features
        self.box_pooler, self.box_head, self.box_predictor = box_pooler, box_head, box_predictor
        self.train_on_pred_boxes = train_on_pred_boxes
        self.mask_on, self.keypoint_on = mask_in_features is not None, keypoint_in_features is not None
        if self.mask_on:
            self.mask_in_features, self.mask_pooler, self.mask_head = mask_in_features, mask_pooler, mask_head
        if self.keypoint_on:
            self.keypoint_in_features, self.keypoint_pooler = keypoint_in_features, keypoint_pooler
            self.keypoint_head = keypoint_head

    @classmethod
    def from_config(cls, cfg, input_shape):
        ret = super().from_config(cfg)
        ret["train_on_pred_boxes"] = cfg.MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES
        for init in (cls._init_box_head, cls._init_mask_head, cls._init_keypoint_head):
            # A subclass may override these by plain functions (cfg, input_shape); then its own from_config calls them.
            if inspect.ismethod(init):
                ret.update(init(cfg, input_shape))
        return ret

    @classmethod
    def _init_box_head(cls, cfg, input_shape):
        names = cfg.MODEL.ROI_HEADS.IN_FEATURES
        pooler, shape = make_pooler(cfg.MODEL.ROI_BOX_HEAD, names, input_shape)
        # The predictor takes what the head gives out.
        head = build_box_head(cfg, shape)
        predictor = FastRCNNOutputLayers(cfg, head.output_shape)
        return {"box_in_features": names, "box_pooler": pooler, "box_head": head, "box_predictor": predictor}

    @classmethod
    def _init_mask_head(cls, cfg, input_shape):
        if not cfg.MODEL.MASK_ON:
            return {}
        names = cfg.MODEL.ROI_HEADS.IN_FEATURES
        options = cfg.MODEL.ROI_MASK_HEAD
        pooler, shape = None, {name: input_shape[name] for name in names}
        if options.POOLER_TYPE:
            pooler, shape = make_pooler(options, names, input_shape)
        return {"mask_in_features": names, "mask_pooler": pooler, "mask_head": build_mask_head(cfg, shape)}

    @classmethod
    def _init_keypoint_head(cls, cfg, input_shape):
        if cfg.MODEL.KEYPOINT_ON:
            raise missing("modeling.roi_heads.keypoint_head")
        return {}

    def forward(self, images, features, proposals, targets=None):
        if not self.training:
            instances = self._forward_box(features, proposals)
            return self.forward_with_given_boxes(features, instances), {}
        proposals = self.label_and_sample_proposals(proposals, targets)
        losses = self._box_losses(features, proposals, targets)
        losses.update(self._forward_mask(features, proposals))
        losses.update(self._forward_keypoint(features, proposals))
        return proposals, losses

    def _box_losses(self, features, proposals, targets):
        return self._forward_box(features, proposals)

    def forward_with_given_boxes(self, features: dict[str, Tensor], instances: list[Instances]) -> list[Instances]:
        """Add masks (and keypoints) to detections that have `pred_boxes` and `pred_classes`."""
        _check_given_boxes(self, instances)
        return self._forward_keypoint(features, self._forward_mask(features, instances))

    def _forward_box(self, features: dict[str, Tensor], proposals: list[Instances]):
        """In training the box losses; otherwise detections of each image."""
        levels = [features[name] for name in self.box_in_features]
        pooled = self.box_pooler(levels, [image.proposal_boxes for image in proposals])
        predictions = self.box_predictor(self.box_head(pooled))
        if not self.training:
            return self.box_predictor.inference(predictions, proposals)[0]
        losses = self.box_predictor.losses(predictions, proposals)
        if self.train_on_pred_boxes:
            with torch.no_grad():
                boxes = self.box_predictor.predict_boxes_for_gt_classes(predictions, proposals)
            for image, refined in zip(proposals, boxes):
                image.proposal_boxes = Boxes(refined)
        return losses

    def _forward_mask(self, features: dict[str, Tensor], instances: list[Instances]):
        """In training {"loss_mask": ...}; otherwise the instances with `pred_masks`."""
        return self._forward_part("mask", features, instances)

    def _forward_keypoint(self, features: dict[str, Tensor], instances: list[Instances]):
        """As `_forward_mask`, for a keypoint head given as an argument."""
        return self._forward_part("keypoint", features, instances)

    def _forward_part(self, kind: str, features: dict[str, Tensor], instances: list[Instances]):
        if not getattr(self, f"{kind}_on"):
            return {} if self.training else instances
        if self.training:
            instances, _ = select_foreground_proposals(instances, self.num_classes)
        names, pooler = getattr(self, f"{kind}_in_features"), getattr(self, f"{kind}_pooler")
        pooled = {name: features[name] for name in names}
        if pooler is not None:
            boxes = [image.proposal_boxes if self.training else image.pred_boxes for image in instances]
            pooled = pooler(list(pooled.values()), boxes)
        return getattr(self, f"{kind}_head")(pooled, instances)
