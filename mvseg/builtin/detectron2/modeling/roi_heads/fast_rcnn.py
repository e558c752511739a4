"""Predictor of Fast R-CNN (Girshick 2015): class scores and box offsets of regions, their losses, and detection."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...config.config import configurable, read_keys
from ...layers import ShapeSpec, batched_nms, cat, cross_entropy, nonzero_tuple
from ...structures import Boxes, Instances
from ...utils.events import get_event_storage
from ..box_regression import Box2BoxTransform, _dense_box_regression_loss


def fast_rcnn_inference(
    boxes, scores, image_shapes, score_thresh, nms_thresh, topk_per_image
) -> tuple[list[Instances], list[Tensor]]:
    """Turn boxes and scores of each image into detections.

    Args:
        boxes: (R, K * 4), or (R, 4) for all classes, of each image.
        scores: (R, K + 1) of each image; the last column is the background.
        image_shapes: (height, width) of each image.
        score_thresh: keep scores above it.
        nms_thresh: overlap of the suppression within classes.
        topk_per_image: keep at most so many; negative: all.

    Returns:
        For each image Instances with `pred_boxes`, `scores`, `pred_classes` (best first), and the (D,) regions
        that they come from.
    """
    results = [
        fast_rcnn_inference_single_image(*image, score_thresh, nms_thresh, topk_per_image)
        for image in zip(boxes, scores, image_shapes)
    ]
    return [result for result, _ in results], [regions for _, regions in results]


def fast_rcnn_inference_single_image(
    boxes, scores, image_shape, score_thresh, nms_thresh, topk_per_image
) -> tuple[Instances, Tensor]:
    """As `fast_rcnn_inference`, for one image."""
    finite = boxes.isfinite().all(dim=1) & scores.isfinite().all(dim=1)
    boxes, scores = boxes[finite], scores[finite, :-1]
    clipped = Boxes(boxes.reshape(-1, 4))
    clipped.clip(image_shape)
    per_class = clipped.tensor.view(len(scores), boxes.shape[1] // 4, 4)

    regions, classes = nonzero_tuple(scores > score_thresh)
    found = per_class[regions, classes if per_class.shape[1] > 1 else 0]
    values = scores[regions, classes]
    best = batched_nms(found, values, classes, nms_thresh)
    if topk_per_image >= 0:
        best = best[:topk_per_image]
    detections = Instances(image_shape, pred_boxes=Boxes(found[best]), scores=values[best], pred_classes=classes[best])
    return detections, regions[best]


def _log_classification_stats(pred_logits: Tensor, gt_classes: Tensor, prefix: str = "fast_rcnn") -> None:
    """Put accuracies of logits (R, K + 1) against classes (R,), K = background, into the event storage."""
    if gt_classes.numel() == 0:
        return
    background = pred_logits.shape[1] - 1
    predicted = pred_logits.argmax(dim=1)
    right = predicted == gt_classes
    foreground = (gt_classes >= 0) & (gt_classes < background)
    storage = get_event_storage()
    storage.put_scalar(f"{prefix}/cls_accuracy", right.float().mean().item())
    if foreground.any():
        storage.put_scalar(f"{prefix}/fg_cls_accuracy", right[foreground].float().mean().item())
        missed = predicted[foreground] == background
        storage.put_scalar(f"{prefix}/false_negative", missed.float().mean().item())


class FastRCNNOutputLayers(nn.Module):
    """Two linear layers on region features: K + 1 class logits (background last) and box offsets."""

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        box2box_transform,
        num_classes: int,
        test_score_thresh: float = 0.0,
        test_nms_thresh: float = 0.5,
        test_topk_per_image: int = 100,
        cls_agnostic_bbox_reg: bool = False,
        smooth_l1_beta: float = 0.0,
        box_reg_loss_type: str = "smooth_l1",
        loss_weight: float | dict[str, float] = 1.0,
        use_fed_loss: bool = False,
        use_sigmoid_ce: bool = False,
        get_fed_loss_cls_weights: Callable | None = None,
        fed_loss_num_classes: int = 50,
    ):
        super().__init__()
        if isinstance(input_shape, int):
            input_shape = ShapeSpec(channels=input_shape)
        self.num_classes = num_classes
        width = input_shape.channels * (input_shape.width or 1) * (input_shape.height or 1)
        box_dim = len(box2box_transform.weights)
        self.cls_score = nn.Linear(width, num_classes + 1)
        self.bbox_pred = nn.Linear(width, box_dim * (1 if cls_agnostic_bbox_reg else num_classes))
        for layer, std in ((self.cls_score, 0.01), (self.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)
        self.box2box_transform, self.box_reg_loss_type = box2box_transform, box_reg_loss_type
        self.smooth_l1_beta = smooth_l1_beta
        self.test_score_thresh, self.test_nms_thresh = test_score_thresh, test_nms_thresh
        self.test_topk_per_image = test_topk_per_image
        if not isinstance(loss_weight, dict):
            loss_weight = dict.fromkeys(("loss_cls", "loss_box_reg"), loss_weight)
        self.loss_weight = loss_weight
        self.use_fed_loss, self.use_sigmoid_ce = use_fed_loss, use_sigmoid_ce
        self.fed_loss_num_classes = fed_loss_num_classes
        if use_fed_loss and not use_sigmoid_ce:
            raise AssertionError("USE_FED_LOSS needs USE_SIGMOID_CE: it leaves classes out of a sum over classes")
        if use_fed_loss:
            self.register_buffer("fed_loss_cls_weights", get_fed_loss_cls_weights(), persistent=True)

    @classmethod
    def from_config(cls, cfg, input_shape):
        options = cfg.MODEL.ROI_BOX_HEAD
        return {
            "input_shape": input_shape,
            "box2box_transform": Box2BoxTransform(weights=options.BBOX_REG_WEIGHTS),
            "num_classes": cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            **read_keys(
                options, "CLS_AGNOSTIC_BBOX_REG SMOOTH_L1_BETA USE_FED_LOSS USE_SIGMOID_CE FED_LOSS_NUM_CLASSES"
            ),
            "test_score_thresh": cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST,
            "test_nms_thresh": cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST,
            "test_topk_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "box_reg_loss_type": options.BBOX_REG_LOSS_TYPE,
            "loss_weight": {"loss_box_reg": options.BBOX_REG_LOSS_WEIGHT},
            "get_fed_loss_cls_weights": lambda: _fed_loss_weights(cfg),
        }

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map (R, ...) to logits (R, K + 1) and offsets (R, K * 4) or (R, 4)."""
        x = x.flatten(1) if x.dim() > 2 else x
        return self.cls_score(x), self.bbox_pred(x)

    def losses(self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]) -> dict[str, Tensor]:
        """Losses of one batch.

        Args:
            predictions: what `forward` gave for the regions of all images.
            proposals: the regions, with `proposal_boxes`, `gt_classes` and `gt_boxes` (if there is any foreground).

        Returns:
            "loss_cls" and "loss_box_reg".
        """
        logits, deltas = predictions
        gt_classes = cat([image.gt_classes for image in proposals]) if proposals else logits.new_zeros(0).long()
        _log_classification_stats(logits, gt_classes)
        boxes = gt_boxes = deltas.new_zeros((0, 4))
        if proposals:
            boxes = cat([image.proposal_boxes.tensor for image in proposals])
            # An image without objects has no gt_boxes; its regions are background, any box will do.
            gt_boxes = cat([image.get_fields().get("gt_boxes", image.proposal_boxes).tensor for image in proposals])
        if self.use_sigmoid_ce:
            classification = self.sigmoid_cross_entropy_loss(logits, gt_classes)
        else:
            classification = cross_entropy(logits, gt_classes, reduction="mean")
        losses = {"loss_cls": classification, "loss_box_reg": self.box_reg_loss(boxes, gt_boxes, deltas, gt_classes)}
        return {name: loss * self.loss_weight.get(name, 1.0) for name, loss in losses.items()}

    def get_fed_loss_classes(
        self, gt_classes: Tensor, num_fed_loss_classes: int, num_classes: int, weight: Tensor | None
    ) -> Tensor:
        """Classes that take part in the federated loss.

        Args:
            gt_classes: (R,) with `num_classes` for background.
            num_fed_loss_classes: at least so many.
            num_classes: K.
            weight: (K,) sampling weights; None: all alike.

        Returns:
            (C,) the classes present (background too, if present), filled up by sampling absent ones.
        """
        present = gt_classes.unique()
        lacking = num_fed_loss_classes - len(present)
        if lacking <= 0:
            return present
        chance = present.new_ones(num_classes + 1, dtype=torch.float32)
        if weight is not None:
            chance[:-1] = weight.float()
        chance[-1] = 0
        chance[present] = 0
        return torch.cat((present, torch.multinomial(chance, lacking, replacement=False)))

    def sigmoid_cross_entropy_loss(self, pred_class_logits: Tensor, gt_classes: Tensor) -> Tensor:
        """Binary cross entropy of logits (R, K + 1), without background; sum over classes, mean over regions."""
        if pred_class_logits.numel() == 0:
            return pred_class_logits.sum() * 0
        classes = pred_class_logits.shape[1] - 1
        target = F.one_hot(gt_classes, classes + 1)[:, :classes].to(pred_class_logits.dtype)
        loss = F.binary_cross_entropy_with_logits(pred_class_logits[:, :-1], target, reduction="none")
        if self.use_fed_loss:
            sampling = (self.fed_loss_num_classes, classes, self.fed_loss_cls_weights)
            chosen = self.get_fed_loss_classes(gt_classes, *sampling)
            loss = loss * loss.new_zeros(classes + 1).index_fill(0, chosen, 1)[:classes]
        return loss.sum() / len(gt_classes)

    def box_reg_loss(self, proposal_boxes: Tensor, gt_boxes: Tensor, pred_deltas: Tensor, gt_classes: Tensor) -> Tensor:
        """Box loss of the foreground, divided by the number of all regions.

        The division treats every region alike: with the number of foreground regions instead, an image with few would
        give each of them more weight.

        Args:
            proposal_boxes: (R, 4).
            gt_boxes: (R, 4).
            pred_deltas: (R, 4) or (R, K * 4).
            gt_classes: (R,) with K for background.

        Returns:
            0-dim loss.
        """
        foreground = nonzero_tuple((gt_classes >= 0) & (gt_classes < self.num_classes))[0]
        box_dim = proposal_boxes.shape[1]
        if pred_deltas.shape[1] == box_dim:
            deltas = pred_deltas[foreground]
        else:
            deltas = pred_deltas.view(-1, self.num_classes, box_dim)[foreground, gt_classes[foreground]]
        everywhere = torch.ones_like(foreground, dtype=torch.bool)[None]
        boxes = ([proposal_boxes[foreground]], self.box2box_transform, [deltas[None]], [gt_boxes[foreground]])
        loss = _dense_box_regression_loss(*boxes, everywhere, self.box_reg_loss_type, self.smooth_l1_beta)
        return loss / max(gt_classes.numel(), 1.0)

    def inference(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> tuple[list[Instances], list[Tensor]]:
        """Detections of each image, see `fast_rcnn_inference`."""
        boxes, scores = self.predict_boxes(predictions, proposals), self.predict_probs(predictions, proposals)
        limits = (self.test_score_thresh, self.test_nms_thresh, self.test_topk_per_image)
        return fast_rcnn_inference(boxes, scores, [image.image_size for image in proposals], *limits)

    def predict_boxes_for_gt_classes(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> list[Tensor]:
        """Boxes (R, 4) of each image for the true classes; background regions get some class's box."""
        if not proposals:
            return []
        boxes = cat(self.predict_boxes(predictions, proposals))
        if boxes.shape[1] > 4:
            classes = cat([image.gt_classes for image in proposals]).clamp(0, self.num_classes - 1)
            per_class = boxes.view(len(boxes), self.num_classes, boxes.shape[1] // self.num_classes)
            boxes = per_class[torch.arange(len(boxes), device=boxes.device), classes]
        return list(boxes.split([len(image) for image in proposals]))

    def predict_boxes(self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]) -> list[Tensor]:
        """Boxes (R, K * 4) or (R, 4) of each image."""
        if not proposals:
            return []
        references = cat([image.proposal_boxes.tensor for image in proposals])
        boxes = self.box2box_transform.apply_deltas(predictions[1], references)
        return list(boxes.split([len(image) for image in proposals]))

    def predict_probs(self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]) -> list[Tensor]:
        """Scores (R, K + 1) of each image."""
        logits = predictions[0]
        scores = logits.sigmoid() if self.use_sigmoid_ce else logits.softmax(dim=-1)
        return list(scores.split([len(image) for image in proposals]))


def _fed_loss_weights(cfg) -> Tensor:
    from ...data.detection_utils import get_fed_loss_cls_weights

    return get_fed_loss_cls_weights(cfg.DATASETS.TRAIN, cfg.MODEL.ROI_BOX_HEAD.FED_LOSS_FREQ_WEIGHT_POWER)
