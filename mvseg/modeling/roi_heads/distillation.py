"""Region heads that also learn from a teacher: ``MODEL.ROI_HEADS.NAME: DistillingCascadeROIHeads``.

The teacher says what boxes look like to it, as embeddings. Its boxes need no annotation and no class. They go through
the classifier's own projection, or through a head of their own whose answer joins that of the classifier at test time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import build_box_head
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from mvseg.modeling.classifier import TextClassifier
from mvseg.modeling.columns import annotated_columns
from mvseg.modeling.context import BatchContext
from mvseg.modeling.ensemble import geometric_mean, text_shares
from mvseg.modeling.objectives.distillation import Distance, distillation_loss
from mvseg.modeling.precision import at_least_float32
from mvseg.modeling.roi_heads.box_predictor import BoxPredictor
from mvseg.modeling.roi_heads.cascade import MultiDatasetCascadeROIHeads
from mvseg.vocabulary import TrainedWords, Vocabulary

Scores = Literal["text", "image", "ensemble"]
Base = Literal["words", "similarity", "fixed"]


@dataclass(frozen=True)
class DistillationSettings:
    """How regions learn from a teacher, and what its branch says at test time.

    Attributes:
        weight: factor on the loss; 0: nothing is learnt from a teacher.
        distance: of two embeddings.
        max_regions: boxes of an image.
        separate_head: the teacher has a head of its own.
        class_weight: factor on the classification loss.
        scores: which branch gives the class probabilities.
        text_share: "ensemble": weight of the text branch for base words.
        base: which words are base words.
        base_similarity: "similarity": least cosine to an annotated word.
    """

    weight: float = 0.5
    distance: Distance = "l1"
    max_regions: int = 300
    separate_head: bool = False
    class_weight: float = 1.0
    scores: Scores = "text"
    text_share: float = 2 / 3
    base: Base = "words"
    base_similarity: float = 0.9

    def __post_init__(self) -> None:
        choices = (("LOSS", self.distance, Distance), ("SCORES", self.scores, Scores), ("BASE", self.base, Base))
        for key, value, known in choices:
            if value not in get_args(known):
                raise ValueError(f"MODEL.DISTILLATION.{key} {value!r}: choose {', '.join(get_args(known))}")
        if not 0 <= self.text_share <= 1 or min(self.weight, self.class_weight, self.max_regions) < 0:
            raise ValueError(
                f"MODEL.DISTILLATION: LAMBDA {self.text_share} must be from 0 to 1; WEIGHT {self.weight}, CLASS_WEIGHT "
                f"{self.class_weight} and MAX_REGIONS {self.max_regions} not negative"
            )
        if self.weight == 0 and (self.separate_head or self.scores != "text"):
            raise ValueError(
                "MODEL.DISTILLATION.WEIGHT 0.0 teaches no embedding: set SEPARATE_HEAD False and SCORES text, or WEIGHT"
            )

    @classmethod
    def from_config(cls, cfg: Any) -> DistillationSettings:
        """Read ``MODEL.DISTILLATION``.

        Args:
            cfg: the config tree.

        Returns:
            The settings.
        """
        node = cfg.MODEL.DISTILLATION
        return cls(
            weight=node.WEIGHT,
            distance=node.LOSS,
            max_regions=node.MAX_REGIONS,
            separate_head=node.SEPARATE_HEAD,
            class_weight=node.CLASS_WEIGHT,
            scores=node.SCORES,
            text_share=node.LAMBDA,
            base=node.BASE,
            base_similarity=node.BASE_SIMILARITY,
        )


@ROI_HEADS_REGISTRY.register()
class DistillingCascadeROIHeads(MultiDatasetCascadeROIHeads):
    """Cascade heads, also of one stage, with a text classifier whose region embeddings also learn from a teacher."""

    takes_distilled = True  # records may hold embeddings of crops

    @configurable
    def __init__(
        self,
        *,
        distillation: DistillationSettings | None = None,
        image_heads: Sequence[nn.Module] = (),
        trained_words: TrainedWords | None = None,
        **kwargs: Any,
    ) -> None:
        """Build the heads.

        Args:
            distillation: how to learn from a teacher; None: the defaults.
            image_heads: of every stage from pooled regions (R, C, S, S) to embeddings (R, D); empty: the classifiers'
                own projection makes them.
            trained_words: tells the words that were annotated in training; None: nobody knows, so all words are alike.
            **kwargs: as for ``MultiDatasetCascadeROIHeads``.

        Raises:
            ValueError: if the classifiers are no text classifiers, base words are needed but nobody knows them, or a
                learnable context makes the text rows that they are compared with.
        """
        super().__init__(**kwargs)
        self.distillation = distillation or DistillationSettings()
        self.image_heads = nn.ModuleList(image_heads)
        self.trained_words = trained_words
        if self.closed_set:
            raise ValueError(f"{type(self).__name__} compares regions with text: set MODEL.CLASSIFIER.NAME text")
        by_words = self.distillation.scores == "ensemble" and self.distillation.base != "fixed"
        if by_words and trained_words is None:
            raise ValueError(
                f"MODEL.DISTILLATION.BASE {self.distillation.base} asks which words were trained, but no dataset is "
                "named: set DATASETS.TRAIN, or BASE fixed"
            )
        if by_words and self.distillation.base == "similarity" and self.prompt_context is not None:
            raise ValueError(
                "MODEL.DISTILLATION.BASE similarity compares text embeddings that stay as they are: set BASE words or "
                "fixed, or MODEL.CLASSIFIER.CONTEXT_LENGTH 0"
            )
        self.register_buffer("text_share", None, persistent=False)
        self.hear_vocabulary(None)

    @classmethod
    def from_config(cls, cfg: Any, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Read ``MODEL.DISTILLATION`` and what the cascade heads read.

        Args:
            cfg: the config tree.
            input_shape: channels and stride of every feature level.

        Returns:
            The arguments of the constructor.
        """
        arguments = super().from_config(cfg, input_shape)
        settings, space = DistillationSettings.from_config(cfg), arguments["label_space"]
        heads: list[nn.Module] = []
        if settings.separate_head:
            side = cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION
            region = ShapeSpec(
                channels=input_shape[cfg.MODEL.ROI_HEADS.IN_FEATURES[0]].channels, height=side, width=side
            )
            heads = [_image_head(cfg, region, p.cls_score) for p in arguments["box_predictors"]]
        asked = settings.scores == "ensemble" and settings.base != "fixed" and space is not None
        trained = TrainedWords(space, annotated_columns(space)) if asked else None
        return {**arguments, "distillation": settings, "image_heads": heads, "trained_words": trained}

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
        context: BatchContext | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Train on a batch, or detect.

        Args:
            images: the batch; not used.
            features: (B, C, H, W) for every level.
            proposals: for every image ``proposal_boxes``, pixels, and ``objectness_logits``.
            targets: for every image ``gt_boxes``, ``gt_classes`` (label columns) and perhaps ``gt_masks``.
            context: supervision, scope and weight of the images, and what a teacher says; None: complete annotation.

        Returns:
            In training the sampled regions and the losses; otherwise detections and an empty dict.
        """
        regions, losses = super().forward(images, features, proposals, targets, context)
        if self.training and self.distillation.weight:
            features = {name: at_least_float32(feature) for name, feature in features.items()}
            losses |= self._distillation_losses(features, len(proposals), context)
        return regions, losses

    def hear_vocabulary(self, vocabulary: Vocabulary | None) -> None:
        """Find out how much each branch says about the words of the evaluation mode, after ``set_test_words``.

        Args:
            vocabulary: the m words; None: the n columns of training.
        """
        settings = self.distillation
        if settings.scores != "ensemble":
            return
        if settings.base == "fixed" or self.trained_words is None:
            share = torch.tensor([settings.text_share])
        elif settings.base == "words":
            share = text_shares(self.trained_words.of(vocabulary), settings.text_share)
        else:
            classifier: Any = self.predictors[0].cls_score
            trained = classifier.rows[self.trained_words.annotated.to(classifier.rows.device)]
            rows = F.normalize(classifier.text_rows(), dim=1)
            nearest = (rows @ F.normalize(trained, dim=1).t()).amax(1) if len(trained) else rows.new_zeros(len(rows))
            share = text_shares(nearest >= settings.base_similarity, settings.text_share)
        self.text_share = share.to(next(self.parameters()).device)

    def _class_losses(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        losses = super()._class_losses(*args, **kwargs)
        return {name: self.distillation.class_weight * loss for name, loss in losses.items()}

    def _distillation_losses(
        self, features: dict[str, Tensor], num_images: int, context: BatchContext | None
    ) -> dict[str, Tensor]:
        """Losses of the teacher's boxes at every stage; without boxes they are 0 and connected to the parameters.

        They are a mean over the boxes of the images that have a teacher, times the share of these images in the batch.
        """
        known = (context.distill if context else None) or (None,) * num_images
        device = next(iter(features.values())).device
        width = self.text_width or 0
        boxes, teacher = [], [torch.zeros(0, width, device=device)]
        for instances in known:
            count = 0 if instances is None else self.distillation.max_regions
            boxes.append(
                Boxes(torch.zeros(0, 4, device=device)) if instances is None else instances.proposal_boxes[:count]
            )
            teacher.append(teacher[0] if instances is None else instances.gt_embeddings[:count].float())
        weights = None if context is None else context.rows(context.weights, [len(b) for b in boxes])
        factor = self.distillation.weight * sum(instances is not None for instances in known) / num_images
        losses = {}
        for stage in range(len(self.predictors)):
            found = self._embeddings(features, boxes, stage)
            loss = distillation_loss(found, torch.cat(teacher), distance=self.distillation.distance, weights=weights)
            losses[f"loss_distill_stage{stage}"] = factor * loss
        return losses

    def _embeddings(self, features: dict[str, Tensor], boxes: Sequence[Boxes], stage: int) -> Tensor:
        """Embeddings (R, D) that learn from the teacher."""
        if len(self.image_heads):
            return at_least_float32(self.image_heads[stage](self._pooled(features, boxes)))
        classifier: Any = self.predictors[stage].cls_score
        return classifier.embed(self._region_features(features, boxes, stage))

    def _scored_features(
        self, hidden: Tensor, features: dict[str, Tensor], boxes: Sequence[Boxes], stage: int
    ) -> Tensor:
        """Features of the regions for the text branch, and behind them the embeddings of a separate image branch."""
        if not len(self.image_heads) or self.distillation.scores == "text":
            return hidden
        return torch.cat([hidden, self._embeddings(features, boxes, stage)], 1)

    def _probabilities(self, predictor: BoxPredictor, regions: Tensor) -> Tensor:
        scores = self.distillation.scores
        if scores == "text":
            return super()._probabilities(predictor, regions)
        classifier: Any = predictor.cls_score
        hidden, embeddings = regions, None
        if len(self.image_heads):
            width = self.text_width or 0
            hidden, embeddings = regions[:, :-width], regions[:, -width:]
        embeddings = classifier.embed(hidden) if embeddings is None else embeddings
        image = classifier.logits_of_embeddings(embeddings).softmax(1)
        if scores == "image":
            return image
        return geometric_mean(super()._probabilities(predictor, hidden), image, self.text_share)


def _image_head(cfg: Any, region: ShapeSpec, classifier: Any) -> nn.Module:
    """A box head with a projection to the width of the text, as the classifier's but with weights of its own."""
    if not isinstance(classifier, TextClassifier):
        raise ValueError(
            "MODEL.DISTILLATION.SEPARATE_HEAD needs text rows to compare with: set MODEL.CLASSIFIER.NAME text"
        )
    head = build_box_head(cfg, region)
    shape: Any = head.output_shape
    size = shape.channels * (shape.width or 1) * (shape.height or 1)
    return nn.Sequential(head, nn.Flatten(), nn.Linear(size, classifier.rows.shape[1]))
