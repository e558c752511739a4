"""Heads that classify proposals, refine their boxes and segment them."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn

from ..._missing import missing
from ...config import configurable
from ...layers import ShapeSpec
from ...structures import Boxes, Instances
from ..backbone.resnet import BottleneckBlock, ResNet
from ..poolers import ROIPooler
from .base import ROI_HEADS_REGISTRY, ROIHeads, build_roi_heads, make_pooler, select_foreground_proposals
from .box_head import build_box_head
from .fast_rcnn import FastRCNNOutputLayers
from .mask_head import build_mask_head

__all__ = [
    "ROI_HEADS_REGISTRY",
    "ROIHeads",
    "Res5ROIHeads",
    "StandardROIHeads",
    "build_roi_heads",
    "select_foreground_proposals",
]


@ROI_HEADS_REGISTRY.register()
class Res5ROIHeads(ROIHeads):
    """Box and mask heads that share the last stage of a ResNet on pooled features ("C4")."""

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
        pooler, shape = make_pooler(cfg.MODEL.ROI_BOX_HEAD, names, input_shape)
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
