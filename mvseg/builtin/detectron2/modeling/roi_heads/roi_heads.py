"""Heads that classify proposals, refine their boxes and segment them."""

from __future__ import annotations

import inspect

import numpy as np
import torch
from torch import Tensor, nn

from ..._missing import missing
from ...config import configurable
from ...layers import ShapeSpec, nonzero_tuple
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
    """Base: labels and samples the proposals of the training.

    Args:
        num_classes: K; K itself means background.
        batch_size_per_image: proposals per image in the loss.
        positive_fraction: largest share of foreground among them.
        proposal_matcher: labels proposals by overlap with the ground truth.
        proposal_append_gt: also use the ground truth as proposals.
    """

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


@ROI_HEADS_REGISTRY.register()
class Res5ROIHeads(ROIHeads):
    """Box and mask heads that share the last stage of a ResNet on pooled features ("C4").

    Args:
        in_features: the one feature to pool from.
        pooler: pools it.
        res5: stage that runs on the pooled features.
        box_predictor: classes and boxes from its averaged output.
        mask_head: masks from its output; None for none.
        kwargs: see `ROIHeads`.
    """

    @configurable
    def __init__(
        self,
        *,
        in_features: list[str],
        pooler: ROIPooler,
        res5: nn.Module,
        box_predictor: nn.Module,
        mask_head: nn.Module | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.in_features = in_features
        self.pooler = pooler
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
        ret["pooler"] = ROIPooler(
            output_size=box_options.POOLER_RESOLUTION,
            scales=(1.0 / input_shape[options.IN_FEATURES[0]].stride,),
            sampling_ratio=box_options.POOLER_SAMPLING_RATIO,
            pooler_type=box_options.POOLER_TYPE,
        )
        build = cls._build_res5_block
        if inspect.ismethod(build):
            ret["res5"], out_channels = build(cfg)
        else:
            # An overriding subclass may have made it a plain or static function.
            ret["res5"], out_channels = build(cls, cfg)
        ret["box_predictor"] = FastRCNNOutputLayers(cfg, ShapeSpec(channels=out_channels, height=1, width=1))
        if cfg.MODEL.MASK_ON:
            side = box_options.POOLER_RESOLUTION
            ret["mask_head"] = build_mask_head(cfg, ShapeSpec(channels=out_channels, width=side, height=side))
        return ret

    @classmethod
    def _build_res5_block(cls, cfg) -> tuple[nn.Sequential, int]:
        """The stage "res5" of MODEL.RESNETS, and its output channels."""
        options = cfg.MODEL.RESNETS
        if options.DEFORM_ON_PER_STAGE[-1]:
            raise AssertionError("Res5ROIHeads cannot use deformable blocks: set the last of DEFORM_ON_PER_STAGE False")
        out_channels = options.RES2_OUT_CHANNELS * 8
        blocks = ResNet.make_stage(
            BottleneckBlock,
            3,
            stride_per_block=[2, 1, 1],
            in_channels=out_channels // 2,
            bottleneck_channels=options.NUM_GROUPS * options.WIDTH_PER_GROUP * 8,
            out_channels=out_channels,
            num_groups=options.NUM_GROUPS,
            norm=options.NORM,
            stride_in_1x1=options.STRIDE_IN_1X1,
        )
        return nn.Sequential(*blocks), out_channels

    def _shared_roi_transform(self, features: list[Tensor], boxes: list[Boxes]) -> Tensor:
        return self.res5(self.pooler(features, boxes))

    def forward(self, images, features, proposals, targets=None):
        if self.training:
            if targets is None:
                raise AssertionError("Res5ROIHeads in training mode needs targets")
            proposals = self.label_and_sample_proposals(proposals, targets)
        pooled = self._shared_roi_transform(
            [features[name] for name in self.in_features], [image.proposal_boxes for image in proposals]
        )
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
        if self.training or not (instances and instances[0].has("pred_boxes") and instances[0].has("pred_classes")):
            raise AssertionError("forward_with_given_boxes needs eval mode and instances with pred_boxes, pred_classes")
        if not self.mask_on:
            return instances
        found = [features[name] for name in self.in_features]
        return self.mask_head(self._shared_roi_transform(found, [i.pred_boxes for i in instances]), instances)


@ROI_HEADS_REGISTRY.register()
class StandardROIHeads(ROIHeads):
    """Box head and mask head, each with its own pooling (Lin et al. 2017).

    Args:
        box_in_features: features that the box head pools from.
        box_pooler: pools them.
        box_head: from pooled to region features.
        box_predictor: from region features to classes and boxes, see `FastRCNNOutputLayers`.
        mask_in_features: features of the mask head; None for no masks.
        mask_pooler: pools them; None hands all features to the head.
        mask_head: see `BaseMaskRCNNHead`.
        keypoint_in_features: features of a keypoint head; None for no keypoints.
        keypoint_pooler: pools them; None hands all features to the head.
        keypoint_head: a head of yours with the interface of the mask head.
        train_on_pred_boxes: train the mask head on the refined boxes.
        kwargs: see `ROIHeads`.
    """

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
        self.box_pooler = box_pooler
        self.box_head = box_head
        self.box_predictor = box_predictor
        self.mask_on = mask_in_features is not None
        if self.mask_on:
            self.mask_in_features = mask_in_features
            self.mask_pooler = mask_pooler
            self.mask_head = mask_head
        self.keypoint_on = keypoint_in_features is not None
        if self.keypoint_on:
            self.keypoint_in_features = keypoint_in_features
            self.keypoint_pooler = keypoint_pooler
            self.keypoint_head = keypoint_head
        self.train_on_pred_boxes = train_on_pred_boxes

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
        pooler, shape = _make_pooler(cfg.MODEL.ROI_BOX_HEAD, names, input_shape)
        # The predictor takes what the head gives out.
        head = build_box_head(cfg, shape)
        return {
            "box_in_features": names,
            "box_pooler": pooler,
            "box_head": head,
            "box_predictor": FastRCNNOutputLayers(cfg, head.output_shape),
        }

    @classmethod
    def _init_mask_head(cls, cfg, input_shape):
        if not cfg.MODEL.MASK_ON:
            return {}
        names = cfg.MODEL.ROI_HEADS.IN_FEATURES
        options = cfg.MODEL.ROI_MASK_HEAD
        if not options.POOLER_TYPE:
            shape = {name: input_shape[name] for name in names}
            return {"mask_in_features": names, "mask_pooler": None, "mask_head": build_mask_head(cfg, shape)}
        pooler, shape = _make_pooler(options, names, input_shape)
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
        if targets is None:
            raise AssertionError("StandardROIHeads in training mode needs targets")
        proposals = self.label_and_sample_proposals(proposals, targets)
        losses = self._forward_box(features, proposals)
        losses.update(self._forward_mask(features, proposals))
        losses.update(self._forward_keypoint(features, proposals))
        return proposals, losses

    def forward_with_given_boxes(self, features: dict[str, Tensor], instances: list[Instances]) -> list[Instances]:
        """Add masks (and keypoints) to detections that have `pred_boxes` and `pred_classes`."""
        if self.training or not (instances and instances[0].has("pred_boxes") and instances[0].has("pred_classes")):
            raise AssertionError("forward_with_given_boxes needs eval mode and instances with pred_boxes, pred_classes")
        return self._forward_keypoint(features, self._forward_mask(features, instances))

    def _forward_box(self, features: dict[str, Tensor], proposals: list[Instances]):
        """In training the box losses; otherwise detections of each image."""
        pooled = self.box_pooler(
            [features[name] for name in self.box_in_features], [image.proposal_boxes for image in proposals]
        )
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
        if not self.mask_on:
            return {} if self.training else instances
        if self.training:
            instances, _ = select_foreground_proposals(instances, self.num_classes)
        return self.mask_head(self._pool_for(self.mask_pooler, self.mask_in_features, features, instances), instances)

    def _forward_keypoint(self, features: dict[str, Tensor], instances: list[Instances]):
        """As `_forward_mask`, for a keypoint head given as an argument."""
        if not self.keypoint_on:
            return {} if self.training else instances
        if self.training:
            instances, _ = select_foreground_proposals(instances, self.num_classes)
        return self.keypoint_head(
            self._pool_for(self.keypoint_pooler, self.keypoint_in_features, features, instances), instances
        )

    def _pool_for(self, pooler, names: list[str], features: dict[str, Tensor], instances: list[Instances]):
        if pooler is None:
            return {name: features[name] for name in names}
        boxes = [image.proposal_boxes if self.training else image.pred_boxes for image in instances]
        return pooler([features[name] for name in names], boxes)


def _make_pooler(options, names: list[str], input_shape: dict[str, ShapeSpec]) -> tuple[ROIPooler, ShapeSpec]:
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
