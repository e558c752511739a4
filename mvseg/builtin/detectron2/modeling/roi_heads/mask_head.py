"""Mask head of Mask R-CNN (He et al. 2017): a small mask for each class of each region."""

import fvcore.nn.weight_init as weight_init
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...config import configurable
from ...layers import Conv2d, ConvTranspose2d, ShapeSpec, cat
from ...structures import Instances
from ...utils.events import get_event_storage
from ...utils.registry import Registry
from .box_head import conv_norm_relu

ROI_MASK_HEAD_REGISTRY = Registry("ROI_MASK_HEAD")
ROI_MASK_HEAD_REGISTRY.__doc__ = "Callables (cfg, input_shape: ShapeSpec) -> head, picked by MODEL.ROI_MASK_HEAD.NAME."


def mask_rcnn_loss(pred_mask_logits: Tensor, instances: list[Instances], vis_period: int = 0) -> Tensor:
    """Mean binary cross entropy of the mask of the true class.

    Args:
        pred_mask_logits: (R, K, M, M), or (R, 1, M, M) for all classes; the foreground regions of all images in order.
        instances: those regions, with `proposal_boxes`, `gt_classes` and `gt_masks`.
        vis_period: put a picture of a mask pair into the event storage every so many iterations; 0: never.

    Returns:
        0-dim loss, 0 without regions.
    """
    side = pred_mask_logits.shape[-1]
    instances = [image for image in instances if len(image)]
    if not instances:
        return pred_mask_logits.sum() * 0
    crops = [image.gt_masks.crop_and_resize(image.proposal_boxes.tensor, side) for image in instances]
    target = cat([masks.to(pred_mask_logits.device) for masks in crops])
    logits = _of_class(pred_mask_logits, [image.gt_classes for image in instances])
    _log_mask_stats(logits, target, vis_period)
    return F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="mean")


def _of_class(masks: Tensor, classes: list[Tensor]) -> Tensor:
    """Masks (R, M, M) of the given classes out of (R, K, M, M), or the only ones of (R, 1, M, M)."""
    column = cat(classes).to(torch.int64) if masks.shape[1] > 1 else 0
    return masks[torch.arange(len(masks), device=masks.device), column]


def _log_mask_stats(logits: Tensor, target: Tensor, vis_period: int) -> None:
    target = target.to(torch.bool)
    wrong = (logits > 0) != target
    positives = target.sum().item()
    storage = get_event_storage()
    storage.put_scalar("mask_rcnn/accuracy", 1 - wrong.float().mean().item())
    false_positives = (wrong & ~target).sum().item() / max(target.numel() - positives, 1.0)
    storage.put_scalar("mask_rcnn/false_positive", false_positives)
    storage.put_scalar("mask_rcnn/false_negative", (wrong & target).sum().item() / max(positives, 1.0))
    if vis_period > 0 and storage.iter % vis_period == 0:
        pairs = torch.cat((logits.detach().sigmoid(), target), dim=2)
        for index, pair in enumerate(pairs):
            storage.put_image(f"Left: mask prediction;   Right: mask GT ({index})", pair.expand(3, -1, -1))


def mask_rcnn_inference(pred_mask_logits: Tensor, pred_instances: list[Instances]) -> None:
    """Give detections their masks.

    Args:
        pred_mask_logits: (D, K, M, M), or (D, 1, M, M) for all classes; the detections of all images in order.
        pred_instances: those detections, with `pred_classes`; they get `pred_masks` (N, 1, M, M), probabilities.
    """
    masks = _of_class(pred_mask_logits, [image.pred_classes for image in pred_instances])[:, None].sigmoid()
    for image, own in zip(pred_instances, masks.split([len(image) for image in pred_instances])):
        image.pred_masks = own


class BaseMaskRCNNHead(nn.Module):
    """Loss and inference around `layers`, which a subclass defines."""

    @configurable
    def __init__(self, *, loss_weight: float = 1.0, vis_period: int = 0):
        super().__init__()
        self.loss_weight, self.vis_period = loss_weight, vis_period

    @classmethod
    def from_config(cls, cfg, input_shape):
        return {"vis_period": cfg.VIS_PERIOD}

    def forward(self, x: Tensor, instances: list[Instances]):
        """In training {"loss_mask": loss}; otherwise the instances, now with `pred_masks`."""
        logits = self.layers(x)
        if self.training:
            return {"loss_mask": mask_rcnn_loss(logits, instances, self.vis_period) * self.loss_weight}
        mask_rcnn_inference(logits, instances)
        return instances

    def layers(self, x: Tensor) -> Tensor:
        """Map region features (R, C, H, W) to mask logits (R, K or 1, M, M)."""
        raise NotImplementedError


@ROI_MASK_HEAD_REGISTRY.register()
class MaskRCNNConvUpsampleHead(BaseMaskRCNNHead, nn.Sequential):
    """3x3 convolutions, upsampling by 2 (with the last of `conv_dims`), and a 1x1 convolution."""

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, num_classes, conv_dims, conv_norm="", **kwargs):
        super().__init__(**kwargs)
        channels = input_shape.channels
        self.conv_norm_relus = []
        for index, width in enumerate(conv_dims[:-1], start=1):
            self.conv_norm_relus.append(conv_norm_relu(channels, width, conv_norm))
            self.add_module(f"mask_fcn{index}", self.conv_norm_relus[-1])
            channels = width
        self.deconv = ConvTranspose2d(channels, conv_dims[-1], kernel_size=2, stride=2)
        self.deconv_relu = nn.ReLU()
        self.predictor = Conv2d(conv_dims[-1], num_classes, kernel_size=1)
        for layer in (*self.conv_norm_relus, self.deconv):
            weight_init.c2_msra_fill(layer)
        nn.init.normal_(self.predictor.weight, std=0.001)
        nn.init.zeros_(self.predictor.bias)

    @classmethod
    def from_config(cls, cfg, input_shape):
        options = cfg.MODEL.ROI_MASK_HEAD
        return {
            **super().from_config(cfg, input_shape),
            "conv_dims": [options.CONV_DIM] * (options.NUM_CONV + 1),
            "conv_norm": options.NORM,
            "input_shape": input_shape,
            "num_classes": 1 if options.CLS_AGNOSTIC_MASK else cfg.MODEL.ROI_HEADS.NUM_CLASSES,
        }

    def layers(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer(x)
        return x


def build_mask_head(cfg, input_shape: ShapeSpec) -> nn.Module:
    """Build MODEL.ROI_MASK_HEAD.NAME for pooled features of this shape."""
    return ROI_MASK_HEAD_REGISTRY.get(cfg.MODEL.ROI_MASK_HEAD.NAME)(cfg, input_shape)
