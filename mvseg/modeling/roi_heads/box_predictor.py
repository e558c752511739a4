"""The last layers of one cascade stage: class logits for the label columns asked for, and class-agnostic box deltas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from mvseg.modeling.classifier import Classifier, LinearClassifier, TextClassifier
from mvseg.modeling.columns import num_label_columns
from mvseg.modeling.objectives import OBJECTIVES
from mvseg.modeling.objectives.region import box_loss
from mvseg.modeling.objectives.tags import TOGETHER
from mvseg.modeling.prompt_context import PromptContext
from mvseg.vocabulary import LabelSpace

DELTA_STD = 0.001
BACKGROUNDS = ("zero", "learned")


class BoxPredictor(nn.Module):
    """Classify regions and refine their boxes."""

    def __init__(
        self,
        input_size: int,
        classifier: Classifier,
        transform: Box2BoxTransform,
        *,
        box_layers: int = 1,
        box_loss_kind: str = "smooth_l1",
        box_loss_beta: float = 0.0,
        box_loss_weight: float = 1.0,
        compared_columns: int = 0,
    ) -> None:
        """Build the predictor.

        Args:
            input_size: length of a region feature.
            classifier: computes class logits.
            transform: encodes boxes as deltas.
            box_layers: linear layers of the box branch: 1 (CenterNet2) or 2 with a ReLU between (Detic).
            box_loss_kind: "smooth_l1" or "giou".
            box_loss_beta: where smooth L1 turns from quadratic to linear.
            box_loss_weight: factor on the box loss.
            compared_columns: columns of a branch that compares the regions of an image; 0: there is none.

        Raises:
            ValueError: if box_layers is neither 1 nor 2.
        """
        super().__init__()
        if box_layers not in (1, 2):
            raise ValueError(f"box_layers must be 1 or 2, not {box_layers}")
        self.cls_score, self.input_size = classifier, input_size
        output = nn.Linear(input_size, 4)
        nn.init.normal_(output.weight, std=DELTA_STD)
        nn.init.zeros_(output.bias)
        hidden = [nn.Linear(input_size, input_size), nn.ReLU()]
        self.bbox_pred = output if box_layers == 1 else nn.Sequential(*hidden, output)
        self.prop_score = comparison_branch(input_size, compared_columns) if compared_columns else None
        self.box2box_transform = transform
        self.box_loss_kind, self.box_loss_beta, self.box_loss_weight = box_loss_kind, box_loss_beta, box_loss_weight

    def forward(self, features: Tensor, columns: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run both branches.

        Args:
            features: (R, input_size) float region features.
            columns: (k,) int64 label columns to compute; None computes all n.

        Returns:
            Class logits (R, k), background last where the classifier has one, and box deltas (R, 4).
        """
        return self.cls_score(features, columns), self.bbox_pred(features)

    def compare(self, features: Tensor, columns: Tensor | None = None) -> Tensor | None:
        """Run the branch that compares the regions of an image.

        Args:
            features: (R, input_size) float region features.
            columns: (k,) int64 label columns to compute; None computes all n.

        Returns:
            (R, k) float logits, with one more column for the background where the classifier has one; None without the
            branch.
        """
        if self.prop_score is None:
            return None
        output: Any = self.prop_score[-1]
        rows = torch.arange(output.out_features - 1, device=features.device) if columns is None else columns
        if self.cls_score.background:
            rows = F.pad(rows, (0, 1), value=output.out_features - 1)
        return F.linear(self.prop_score[:-1](features), output.weight[rows], output.bias[rows])

    @torch.no_grad()
    def refine(self, deltas: Tensor, boxes: Sequence[Boxes]) -> list[Tensor]:
        """Apply deltas to the boxes that they were predicted from.

        Args:
            deltas: (R, 4) float.
            boxes: the R boxes of the batch, image by image, pixels.

        Returns:
            For every image (R_i, 4) float32 refined boxes, pixels, not clipped.
        """
        before = torch.cat([b.tensor for b in boxes])
        return list(self.box2box_transform.apply_deltas(deltas.float(), before).split([len(b) for b in boxes]))

    def box_loss(
        self, deltas: Tensor, proposals: Sequence[Instances], background: int, weights: Tensor | None = None
    ) -> Tensor:
        """Compute the weighted box loss of labelled regions.

        Args:
            deltas: (R, 4) float predicted deltas.
            proposals: for every image ``proposal_boxes``, ``gt_classes`` and, where it has boxes, ``gt_boxes``.
            background: value of gt_classes that means background.
            weights: (R,) float weight of every region; None means 1.

        Returns:
            The loss, a scalar tensor.
        """
        boxes = torch.cat([p.proposal_boxes.tensor for p in proposals])
        matched = [p.gt_boxes if p.has("gt_boxes") else p.proposal_boxes for p in proposals]
        loss = box_loss(
            deltas,
            boxes,
            torch.cat([b.tensor for b in matched]),
            torch.cat([p.gt_classes for p in proposals]) < background,
            self.box2box_transform,
            kind=self.box_loss_kind,
            beta=self.box_loss_beta,
            weights=weights,
        )
        return self.box_loss_weight * loss


def comparison_branch(input_size: int, columns: int) -> nn.Sequential:
    """Build a branch whose logits compare the regions of an image (WSDDN).

    Args:
        input_size: length of a region feature.
        columns: number of outputs; the last is for the background.

    Returns:
        Two linear layers with a ReLU between.
    """
    first, output = nn.Linear(input_size, input_size), nn.Linear(input_size, columns)
    nn.init.kaiming_uniform_(first.weight, a=1)
    nn.init.zeros_(first.bias)
    nn.init.normal_(output.weight, std=DELTA_STD)
    nn.init.zeros_(output.bias)
    return nn.Sequential(first, nn.ReLU(), output)


def build_predictor(
    cfg: Any,
    shape: ShapeSpec,
    weights: Sequence[float],
    space: LabelSpace | None,
    context: PromptContext | None = None,
    box_layers: int | None = None,
) -> BoxPredictor:
    """Build the predictor of one stage.

    Args:
        cfg: the config tree; reads ``MODEL.ROI_BOX_HEAD`` and ``MODEL.CLASSIFIER``.
        shape: shape of a region feature.
        weights: factors on the deltas of x, y, width, height.
        space: label columns of training, with text embeddings for a text classifier.
        context: makes the text embeddings instead, from the words.
        box_layers: linear layers of the box branch; None: two with a text classifier (Detic), else one (CenterNet2).

    Returns:
        The predictor.
    """
    node = cfg.MODEL.ROI_BOX_HEAD
    size = shape.channels * (shape.width or 1) * (shape.height or 1)
    return BoxPredictor(
        size,
        build_classifier(cfg, size, space, context),
        Box2BoxTransform(weights=tuple(weights)),
        box_layers=box_layers or (2 if cfg.MODEL.CLASSIFIER.NAME == "text" else 1),
        box_loss_kind=node.BBOX_REG_LOSS_TYPE,
        box_loss_beta=node.SMOOTH_L1_BETA,
        box_loss_weight=node.BBOX_REG_LOSS_WEIGHT,
        compared_columns=num_label_columns(cfg, space) + 1 if cfg.MODEL.IMAGE_LABELS.LOSS in TOGETHER else 0,
    )


def build_classifier(
    cfg: Any, input_size: int, space: LabelSpace | None, context: PromptContext | None = None
) -> Classifier:
    """Build the classifier of one stage from ``MODEL.CLASSIFIER``.

    Args:
        cfg: the config tree.
        input_size: length of a region feature.
        space: label columns of training, with text embeddings for a text classifier.
        context: makes the text embeddings instead, from the words.

    Returns:
        The classifier.

    Raises:
        ValueError: if the name is unknown, or a text classifier has no embeddings, or no columns that the loss needs.
    """
    node = cfg.MODEL.CLASSIFIER
    objective = OBJECTIVES.get(node.LOSS)
    further = objective.further_columns(cfg)
    background = further > 0
    if node.NAME == "linear":
        return LinearClassifier(
            input_size,
            num_label_columns(cfg, space),
            prior_prob=node.PRIOR_PROB if objective.multi_label or not background else None,
            background=background,
            further=max(further - 1, 0),
        )
    if node.NAME != "text":
        raise ValueError(f"MODEL.CLASSIFIER.NAME {node.NAME!r}: choose text or linear")
    if further > 1:
        raise ValueError(
            f"MODEL.CLASSIFIER.LOSS {node.LOSS} learns {further} columns that no word stands for, which a text "
            "classifier has not: set MODEL.CLASSIFIER.NAME linear"
        )
    embeddings = context if context is not None else None if space is None else space.embeddings
    if embeddings is None:
        names = "no dataset is named" if space is None else f"the card of {space.datasets[0]} names none"
        raise ValueError(
            f"MODEL.CLASSIFIER.NAME text needs text embeddings, but {names}: set DATASETS.TRAIN (or MIX) to datasets "
            "whose cards name an embeddings file (python -m mvseg.vocabulary embed), MODEL.CLASSIFIER.TEXT_ENCODER to "
            "an encoder that makes them (such as minilm), or MODEL.CLASSIFIER.NAME linear"
        )
    return TextClassifier(
        input_size,
        embeddings,
        temperature=node.TEMPERATURE,
        normalize=node.NORMALIZE,
        bias=node.BIAS,
        background=background,
        projection=node.PROJECTION,
        learned_background=learns_background(cfg),
        test_temperature=node.TEST_TEMPERATURE,
    )


def learns_background(cfg: Any) -> bool:
    """Read ``MODEL.CLASSIFIER.BACKGROUND``.

    Args:
        cfg: the config tree.

    Returns:
        True if the row of the background, where the loss has one, is learnt.

    Raises:
        ValueError: if it is none of the choices.
    """
    value = cfg.MODEL.CLASSIFIER.BACKGROUND
    if value not in BACKGROUNDS:
        raise ValueError(f"MODEL.CLASSIFIER.BACKGROUND {value!r}: choose {' or '.join(BACKGROUNDS)}")
    return value == "learned"
