"""Region proposal network (Ren et al. 2015): is there an object at this anchor, and where exactly."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...config.config import configurable, read_keys
from ...layers import Conv2d, ShapeSpec, cat
from ...structures import Boxes, ImageList, Instances, pairwise_iou
from ...utils.events import get_event_storage
from ...utils.registry import Registry
from ..anchor_generator import build_anchor_generator
from ..box_regression import Box2BoxTransform, _dense_box_regression_loss
from ..matcher import Matcher
from ..sampling import subsample_labels
from .build import PROPOSAL_GENERATOR_REGISTRY
from .proposal_utils import find_top_rpn_proposals

RPN_HEAD_REGISTRY = Registry("RPN_HEAD")
RPN_HEAD_REGISTRY.__doc__ = "Callables (cfg, input_shape: list of ShapeSpec) -> head, picked by MODEL.RPN.HEAD_NAME."


def build_rpn_head(cfg, input_shape: list[ShapeSpec]) -> nn.Module:
    """Build MODEL.RPN.HEAD_NAME for features of these shapes."""
    return RPN_HEAD_REGISTRY.get(cfg.MODEL.RPN.HEAD_NAME)(cfg, input_shape)


@RPN_HEAD_REGISTRY.register()
class StandardRPNHead(nn.Module):
    """3x3 convolutions, then one 1x1 for objectness and one for box offsets; shared by all levels."""

    @configurable
    def __init__(self, *, in_channels: int, num_anchors: int, box_dim: int = 4, conv_dims: list[int] = (-1,)):
        super().__init__()
        channels = [in_channels, *(in_channels if width == -1 else width for width in conv_dims)]
        convs = [self._get_rpn_conv(*pair) for pair in pairwise(channels)]
        # The names are those of published weights: "conv" alone, "conv.conv0", ... for several.
        self.conv = convs[0] if len(convs) == 1 else nn.Sequential()
        if len(convs) > 1:
            for index, conv in enumerate(convs):
                self.conv.add_module(f"conv{index}", conv)
        self.objectness_logits = nn.Conv2d(channels[-1], num_anchors, kernel_size=1)
        self.anchor_deltas = nn.Conv2d(channels[-1], num_anchors * box_dim, kernel_size=1)
        for layer in (*convs, self.objectness_logits, self.anchor_deltas):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    def _get_rpn_conv(self, in_channels, out_channels) -> Conv2d:
        return Conv2d(in_channels, out_channels, kernel_size=3, padding=1, activation=nn.ReLU())

    @classmethod
    def from_config(cls, cfg, input_shape):
        channels = {shape.channels for shape in input_shape}
        generator = build_anchor_generator(cfg, input_shape)
        anchors = set(generator.num_anchors)
        if len(channels) != 1 or len(anchors) != 1:
            raise AssertionError(f"RPN levels must agree in channels and anchors per cell: {channels}, {anchors}")
        shape = {"in_channels": channels.pop(), "num_anchors": anchors.pop(), "box_dim": generator.box_dim}
        return shape | {"conv_dims": cfg.MODEL.RPN.CONV_DIMS}

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Logits (N, A, H, W) and offsets (N, A * box_dim, H, W) of each level."""
        hidden = [self.conv(feature) for feature in features]
        return [self.objectness_logits(x) for x in hidden], [self.anchor_deltas(x) for x in hidden]


@PROPOSAL_GENERATOR_REGISTRY.register()
class RPN(nn.Module):
    """Anchors, head, training labels, losses and choice of proposals."""

    @configurable
    def __init__(
        self,
        *,
        in_features: list[str],
        head: nn.Module,
        anchor_generator: nn.Module,
        anchor_matcher: Matcher,
        box2box_transform: Box2BoxTransform,
        batch_size_per_image: int,
        positive_fraction: float,
        pre_nms_topk: tuple[float, float],
        post_nms_topk: tuple[float, float],
        nms_thresh: float = 0.7,
        min_box_size: float = 0.0,
        anchor_boundary_thresh: float = -1.0,
        loss_weight: float | dict[str, float] = 1.0,
        box_reg_loss_type: str = "smooth_l1",
        smooth_l1_beta: float = 0.0,
    ):
        super().__init__()
        self.in_features, self.rpn_head = in_features, head
        self.anchor_generator, self.anchor_matcher = anchor_generator, anchor_matcher
        self.anchor_boundary_thresh = anchor_boundary_thresh
        self.batch_size_per_image, self.positive_fraction = batch_size_per_image, positive_fraction
        # By self.training.
        self.pre_nms_topk = dict(zip((True, False), pre_nms_topk))
        self.post_nms_topk = dict(zip((True, False), post_nms_topk))
        self.nms_thresh, self.min_box_size = nms_thresh, float(min_box_size)
        self.box2box_transform, self.box_reg_loss_type = box2box_transform, box_reg_loss_type
        self.smooth_l1_beta = smooth_l1_beta
        if not isinstance(loss_weight, dict):
            loss_weight = dict.fromkeys(("loss_rpn_cls", "loss_rpn_loc"), loss_weight)
        self.loss_weight = loss_weight

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]):
        options = cfg.MODEL.RPN
        shapes = [input_shape[name] for name in options.IN_FEATURES]
        location_weight = options.BBOX_REG_LOSS_WEIGHT * options.LOSS_WEIGHT
        return {
            **read_keys(options, "IN_FEATURES NMS_THRESH BATCH_SIZE_PER_IMAGE POSITIVE_FRACTION SMOOTH_L1_BETA"),
            "min_box_size": cfg.MODEL.PROPOSAL_GENERATOR.MIN_SIZE,
            "loss_weight": {"loss_rpn_cls": options.LOSS_WEIGHT, "loss_rpn_loc": location_weight},
            "anchor_boundary_thresh": options.BOUNDARY_THRESH,
            "box2box_transform": Box2BoxTransform(weights=options.BBOX_REG_WEIGHTS),
            "box_reg_loss_type": options.BBOX_REG_LOSS_TYPE,
            "pre_nms_topk": (options.PRE_NMS_TOPK_TRAIN, options.PRE_NMS_TOPK_TEST),
            "post_nms_topk": (options.POST_NMS_TOPK_TRAIN, options.POST_NMS_TOPK_TEST),
            "anchor_generator": build_anchor_generator(cfg, shapes),
            "anchor_matcher": Matcher(options.IOU_THRESHOLDS, options.IOU_LABELS, allow_low_quality_matches=True),
            "head": build_rpn_head(cfg, shapes),
        }

    def _subsample_labels(self, label: Tensor) -> Tensor:
        """Set all labels (R,) but a random sample to -1, in place."""
        positive, negative = subsample_labels(label, self.batch_size_per_image, self.positive_fraction, 0)
        return label.fill_(-1).index_fill_(0, positive, 1).index_fill_(0, negative, 0)

    @torch.no_grad()
    def label_and_sample_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Label the anchors of each image.

        Args:
            anchors: of each level.
            gt_instances: ground truth of each image, with `gt_boxes`.

        Returns:
            For each image labels (R,) int8 (1 object, 0 background, -1 ignored) and matched boxes (R, 4).
        """
        everywhere = Boxes.cat(anchors)
        labels, boxes = [], []
        for truth in gt_instances:
            matched, label = self.anchor_matcher(pairwise_iou(truth.gt_boxes, everywhere))
            label = label.to(everywhere.device)
            if self.anchor_boundary_thresh >= 0:
                label[~everywhere.inside_box(truth.image_size, self.anchor_boundary_thresh)] = -1
            labels.append(self._subsample_labels(label))
            found = truth.gt_boxes.tensor
            boxes.append(found[matched] if len(found) else torch.zeros_like(everywhere.tensor))
        return labels, boxes

    def losses(self, anchors, pred_objectness_logits, gt_labels, pred_anchor_deltas, gt_boxes) -> dict[str, Tensor]:
        """Losses, summed over the sampled anchors and divided by how many should have been sampled.

        Args:
            anchors: of each level.
            pred_objectness_logits: (N, HWA) of each level.
            gt_labels: (R,) of each image.
            pred_anchor_deltas: (N, HWA, 4) of each level.
            gt_boxes: (R, 4) of each image.

        Returns:
            "loss_rpn_cls" and "loss_rpn_loc".
        """
        labels = torch.stack(gt_labels)
        number = len(labels)
        positive, sampled = labels == 1, labels >= 0
        storage = get_event_storage()
        storage.put_scalar("rpn/num_pos_anchors", positive.sum().item() / number)
        storage.put_scalar("rpn/num_neg_anchors", (labels == 0).sum().item() / number)
        boxes = (anchors, self.box2box_transform, pred_anchor_deltas, gt_boxes, positive)
        location = _dense_box_regression_loss(*boxes, self.box_reg_loss_type, self.smooth_l1_beta)
        logits = cat(pred_objectness_logits, dim=1)[sampled]
        objectness = F.binary_cross_entropy_with_logits(logits, labels[sampled].to(torch.float32), reduction="sum")
        losses = {"loss_rpn_cls": objectness, "loss_rpn_loc": location}
        total = self.batch_size_per_image * number
        return {name: loss / total * self.loss_weight.get(name, 1.0) for name, loss in losses.items()}

    def forward(
        self, images: ImageList, features: dict[str, Tensor], gt_instances: list[Instances] | None = None
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Propose.

        Args:
            images: only their sizes are used.
            features: named features (N, C, H, W).
            gt_instances: ground truth of each image, in training.

        Returns:
            Proposals of each image, and the losses (empty at test time).
        """
        levels = [features[name] for name in self.in_features]
        anchors = self.anchor_generator(levels)
        logits, deltas = self.rpn_head(levels)
        # From maps to one row per anchor, in the order of the anchor generator: row, column, anchor.
        logits = [x.permute(0, 2, 3, 1).flatten(1) for x in logits]
        size = self.anchor_generator.box_dim
        deltas = [x.unflatten(1, (-1, size)).permute(0, 3, 4, 1, 2).flatten(1, 3) for x in deltas]
        losses = {}
        if self.training:
            if gt_instances is None:
                raise AssertionError("RPN in training mode needs gt_instances")
            labels, boxes = self.label_and_sample_anchors(anchors, gt_instances)
            losses = self.losses(anchors, logits, labels, deltas, boxes)
        return self.predict_proposals(anchors, logits, deltas, images.image_sizes), losses

    def predict_proposals(self, anchors, pred_objectness_logits, pred_anchor_deltas, image_sizes) -> list[Instances]:
        """Decode and choose; proposals are constants for whatever learns from them."""
        mode = self.training
        limits = (self.nms_thresh, self.pre_nms_topk[mode], self.post_nms_topk[mode], self.min_box_size, mode)
        with torch.no_grad():
            boxes = self._decode_proposals(anchors, pred_anchor_deltas)
            return find_top_rpn_proposals(boxes, pred_objectness_logits, image_sizes, *limits)

    def _decode_proposals(self, anchors: list[Boxes], pred_anchor_deltas: list[Tensor]) -> list[Tensor]:
        """Boxes (N, HWA, 4) of each level."""
        decoded = []
        for boxes, deltas in zip(anchors, pred_anchor_deltas):
            number = len(deltas)
            references = boxes.tensor.repeat(number, 1)
            flat = self.box2box_transform.apply_deltas(deltas.flatten(0, 1), references)
            decoded.append(flat.view(number, -1, flat.shape[-1]))
        return decoded
