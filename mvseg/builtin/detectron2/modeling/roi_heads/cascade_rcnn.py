"""Cascade R-CNN (Cai and Vasconcelos 2018): box heads in a row, each trained on the boxes of the one before."""

import torch
from torch import Tensor, nn
from torch.autograd.function import Function

from ...config import configurable
from ...structures import Boxes, Instances, pairwise_iou
from ...utils.events import get_event_storage
from ..box_regression import Box2BoxTransform
from ..matcher import Matcher
from .box_head import build_box_head
from .fast_rcnn import FastRCNNOutputLayers, fast_rcnn_inference
from .roi_heads import ROI_HEADS_REGISTRY, StandardROIHeads, make_pooler


class _ScaleGradient(Function):
    """Identity whose gradient is multiplied by a number."""

    @staticmethod
    def forward(ctx, input, scale):
        ctx.scale = scale
        return input

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output * ctx.scale, None


@ROI_HEADS_REGISTRY.register()
class CascadeROIHeads(StandardROIHeads):
    """Several box heads of rising overlap demands; scores are averaged over them at test time."""

    @configurable
    def __init__(self, *, box_in_features, box_pooler, box_heads, box_predictors, proposal_matchers, **kwargs):
        self.num_cascade_stages = len(box_heads)
        super().__init__(
            box_in_features=box_in_features,
            box_pooler=box_pooler,
            box_head=nn.ModuleList(box_heads),
            box_predictor=nn.ModuleList(box_predictors),
            proposal_matcher=proposal_matchers[0],
            **kwargs,
        )
        self.proposal_matchers = proposal_matchers

    @classmethod
    def from_config(cls, cfg, input_shape):
        ret = super().from_config(cfg, input_shape)
        ret.pop("proposal_matcher")
        return ret

    @classmethod
    def _init_box_head(cls, cfg, input_shape):
        names = cfg.MODEL.ROI_HEADS.IN_FEATURES
        options = cfg.MODEL.ROI_BOX_CASCADE_HEAD
        if len(options.IOUS) != len(options.BBOX_REG_WEIGHTS):
            raise AssertionError("MODEL.ROI_BOX_CASCADE_HEAD: IOUS and BBOX_REG_WEIGHTS differ in length")
        if not cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG:
            raise AssertionError("CascadeROIHeads needs MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG True")
        if options.IOUS[0] != cfg.MODEL.ROI_HEADS.IOU_THRESHOLDS[0]:
            raise AssertionError(
                "MODEL.ROI_BOX_CASCADE_HEAD.IOUS and MODEL.ROI_HEADS.IOU_THRESHOLDS differ at the start"
            )
        pooler, shape = make_pooler(cfg.MODEL.ROI_BOX_HEAD, names, input_shape)
        heads, predictors, matchers = [], [], []
        for iou, weights in zip(options.IOUS, options.BBOX_REG_WEIGHTS):
            heads.append(build_box_head(cfg, shape))
            transform = Box2BoxTransform(weights=weights)
            predictors.append(FastRCNNOutputLayers(cfg, heads[-1].output_shape, box2box_transform=transform))
            matchers.append(Matcher([iou], [0, 1], allow_low_quality_matches=False))
        parts = {"box_heads": heads, "box_predictors": predictors, "proposal_matchers": matchers}
        return {"box_in_features": names, "box_pooler": pooler, **parts}

    def _box_losses(self, features, proposals, targets):
        return self._forward_box(features, proposals, targets)

    def _forward_box(
        self, features: dict[str, Tensor], proposals: list[Instances], targets: list[Instances] | None = None
    ):
        """In training the losses of all stages ("loss_cls_stage0", ...); otherwise detections of each image."""
        levels = [features[name] for name in self.box_in_features]
        sizes = [image.image_size for image in proposals]
        outputs = []
        boxes: list[Tensor] = []
        for stage, predictor in enumerate(self.box_predictor):
            if stage > 0:
                proposals = self._create_proposals_from_boxes(boxes, sizes)
                if self.training:
                    proposals = self._match_and_label_boxes(proposals, stage, targets)
            predictions = self._run_stage(levels, proposals, stage)
            boxes = predictor.predict_boxes(predictions, proposals)
            outputs.append((predictor, predictions, proposals))
        if not self.training:
            return self._average_stages(outputs, boxes, sizes)
        losses = {}
        storage = get_event_storage()
        for stage, (predictor, predictions, regions) in enumerate(outputs):
            with storage.name_scope(f"stage{stage}"):
                own = predictor.losses(predictions, regions)
            losses.update({f"{name}_stage{stage}": loss for name, loss in own.items()})
        return losses

    @staticmethod
    def _average_stages(outputs, boxes: list[Tensor], sizes: list[tuple[int, int]]) -> list[Instances]:
        """Boxes of the last stage with the mean scores of all."""
        by_stage = [predictor.predict_probs(predictions, regions) for predictor, predictions, regions in outputs]
        scores = [sum(stages) * (1.0 / len(outputs)) for stages in zip(*by_stage)]
        last = outputs[-1][0]
        limits = (last.test_score_thresh, last.test_nms_thresh, last.test_topk_per_image)
        return fast_rcnn_inference(boxes, scores, sizes, *limits)[0]

    @torch.no_grad()
    def _match_and_label_boxes(
        self, proposals: list[Instances], stage: int, targets: list[Instances]
    ) -> list[Instances]:
        """Give the boxes of a later stage `gt_classes` (K for background) and `gt_boxes`, in place; no sampling."""
        foreground, background = [], []
        for image, truth in zip(proposals, targets):
            overlaps = pairwise_iou(truth.gt_boxes, image.proposal_boxes)
            matches, labels = self.proposal_matchers[stage](overlaps)
            if len(truth):
                classes = truth.gt_classes[matches]
                classes[labels == 0] = self.num_classes
                boxes = truth.gt_boxes.tensor[matches]
            else:
                classes = torch.full_like(matches, self.num_classes)
                boxes = image.proposal_boxes.tensor.new_zeros((len(image), 4))
            image.gt_classes = classes
            image.gt_boxes = Boxes(boxes)
            foreground.append((labels == 1).sum().item())
            background.append(len(labels) - foreground[-1])
        storage = get_event_storage()
        storage.put_scalar(f"stage{stage}/roi_head/num_fg_samples", sum(foreground) / len(foreground))
        storage.put_scalar(f"stage{stage}/roi_head/num_bg_samples", sum(background) / len(background))
        return proposals

    def _run_stage(self, features: list[Tensor], proposals: list[Instances], stage: int):
        """Predictions of one stage for the proposals of all images."""
        pooled = self.box_pooler(features, [image.proposal_boxes for image in proposals])
        # All stages send gradients into the backbone: together they should weigh as much as one head.
        pooled = _ScaleGradient.apply(pooled, 1.0 / self.num_cascade_stages)
        return self.box_predictor[stage](self.box_head[stage](pooled))

    def _create_proposals_from_boxes(self, boxes: list[Tensor], image_sizes: list[tuple[int, int]]) -> list[Instances]:
        """Boxes of the stage before as `proposal_boxes`: constants, clipped and, in training, without empty ones."""
        proposals = []
        for image_boxes, size in zip(boxes, image_sizes):
            kept = Boxes(image_boxes.detach())
            kept.clip(size)
            if self.training:
                kept = kept[kept.nonempty()]
            proposals.append(Instances(size, proposal_boxes=kept))
        return proposals
