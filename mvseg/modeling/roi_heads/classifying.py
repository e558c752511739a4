"""What all region heads for many datasets share: the way of a step, words of the test, class losses, detections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import ROIHeads
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from mvseg.data.supervision import has_places
from mvseg.modeling.calibration import Calibration, calibration_from_config
from mvseg.modeling.classifier import TextClassifier
from mvseg.modeling.columns import num_label_columns, training_image_counts, training_label_space
from mvseg.modeling.context import BatchContext
from mvseg.modeling.objectives import (
    ImageLabelObjective,
    RegionObjective,
    RegionTargets,
    build_objectives,
    chosen_objectives,
)
from mvseg.modeling.precision import at_least_float32
from mvseg.modeling.prompt_context import PromptContext
from mvseg.modeling.region_pooling import use_fast_pooling
from mvseg.modeling.roi_heads.box_predictor import BoxPredictor
from mvseg.modeling.roi_heads.dataset_modulation import DatasetModulation
from mvseg.modeling.roi_heads.detecting import DetectingHeads
from mvseg.modeling.roi_heads.image_labels import (
    ImageLabelSettings,
    answering_regions,
    best_proposals,
    boxes_of_rows,
    caption_losses,
    caption_regions,
    image_label_columns,
    image_label_losses,
    without_regions,
)
from mvseg.modeling.roi_heads.soft_suppression import soft_sigma
from mvseg.modeling.words import prompt_context
from mvseg.vocabulary import LabelSpace


class ClassifyingHeads(DetectingHeads, ROIHeads):
    """Base of region heads with one or several :class:`BoxPredictor`, before one of Detectron2's heads.

    A subclass names ``ClassifyingHeads`` first and Detectron2's heads second. It says where its ``predictors`` are, how
    region features are made, what is learnt where there are boxes, and how proposals become detections.
    """

    takes_context = True  # forward() accepts a BatchContext
    names_stages = False  # losses end in _stage0, _stage1, ...; then there is _next_proposals()

    @configurable
    def __init__(
        self,
        *,
        objectives: Mapping[str, RegionObjective],
        image_labels: ImageLabelSettings | None = None,
        score_threshold: float,
        nms_threshold: float,
        topk: int,
        class_agnostic_nms: bool = False,
        multiply_proposal_score: bool = False,
        one_class_per_proposal: bool = False,
        mask_weight: float = 1.0,
        label_space: LabelSpace | None = None,
        prompt_context: PromptContext | None = None,
        soft_sigma: float | None = None,
        calibration: Calibration | None = None,
        dataset_modulation: DatasetModulation | None = None,
        **kwargs: Any,
    ) -> None:
        """Build the heads.

        Args:
            objectives: kind of supervision to the objective that learns from it.
            image_labels: which regions of an image learn from its labels; None: the defaults.
            score_threshold: test scores must be above it.
            nms_threshold: IoU of the suppression at test time.
            topk: largest number of detections per image.
            class_agnostic_nms: suppress boxes over all classes together, not within each class.
            multiply_proposal_score: test score = sqrt(class probability * proposal probability).
            one_class_per_proposal: report only the best class of every region.
            mask_weight: factor on the mask loss.
            label_space: what the label columns mean; None: nobody said.
            prompt_context: learnable context that the classifiers of all stages make their text rows with, or None.
            soft_sigma: suppression lowers scores by a Gaussian of this width; None: it takes boxes away.
            calibration: how scores follow from probabilities and a prior; None: ``multiply_proposal_score`` says it.
            dataset_modulation: adapts region features to the dataset of their image, or None.
            **kwargs: as for Detectron2's heads; every box predictor is a ``BoxPredictor``.
        """
        super().__init__(**kwargs)
        self.objectives: Any = nn.ModuleDict(objectives)
        self.image_labels = image_labels or ImageLabelSettings()
        self.score_threshold: float | Tensor = score_threshold  # the latter (m,): one for each word of the test
        self.nms_threshold, self.topk, self.class_agnostic_nms = nms_threshold, topk, class_agnostic_nms
        self.multiply_proposal_score = multiply_proposal_score
        self.one_class_per_proposal = one_class_per_proposal
        self.mask_weight = mask_weight
        self.label_space = label_space
        self.prompt_context = prompt_context
        self.soft_sigma, self.calibration = soft_sigma, calibration
        if calibration is not None and label_space is not None:
            calibration.set_words(label_space.names)
        self.dataset_modulation = dataset_modulation
        use_fast_pooling(self)

    @classmethod
    def from_config(cls, cfg: Any, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Read ``MODEL.ROI_HEADS``, ``ROI_BOX_HEAD``, ``ROI_MASK_HEAD`` and ``CLASSIFIER``.

        Args:
            cfg: the config tree.
            input_shape: channels and stride of every feature level.

        Returns:
            The arguments of the constructor; the box predictors are still those of Detectron2's heads.

        Raises:
            ValueError: if boxes or masks are wanted per class.
        """
        heads, boxes = cfg.MODEL.ROI_HEADS, cfg.MODEL.ROI_BOX_HEAD
        if not boxes.CLS_AGNOSTIC_BBOX_REG:
            raise ValueError(f"{cls.__name__} refines one box for all classes: set CLS_AGNOSTIC_BBOX_REG True")
        if cfg.MODEL.MASK_ON and not cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK:
            raise ValueError(f"{cls.__name__} has one mask for all classes: set ROI_MASK_HEAD.CLS_AGNOSTIC_MASK")
        arguments = super().from_config(cfg, input_shape)
        space = training_label_space(cfg)
        columns = num_label_columns(cfg, space)
        return {
            **arguments,
            "label_space": space,
            "prompt_context": prompt_context(cfg, space),
            "num_classes": columns,
            "image_labels": ImageLabelSettings.from_config(cfg),
            "objectives": build_objectives(cfg, columns, training_image_counts(cfg, space)),
            "score_threshold": heads.SCORE_THRESH_TEST,
            "nms_threshold": heads.NMS_THRESH_TEST,
            "topk": cfg.TEST.DETECTIONS_PER_IMAGE,
            "class_agnostic_nms": heads.NMS_CLASS_AGNOSTIC,
            "multiply_proposal_score": boxes.MULT_PROPOSAL_SCORE,
            "one_class_per_proposal": heads.ONE_CLASS_PER_PROPOSAL,
            "mask_weight": heads.MASK_WEIGHT,
            "soft_sigma": soft_sigma(cfg),
            "calibration": calibration_from_config(cfg),
        }

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
            context: supervision, scope and weight of the images; None: complete annotation of weight 1.

        Returns:
            In training the sampled regions and the losses; otherwise detections and an empty dict.

        Raises:
            ValueError: in training without targets, or for a kind of supervision that no objective learns from.
        """
        # Detectron2's poolers round boxes to the precision of the features: bfloat16 to 4 pixels at x = 1000.
        features = {name: at_least_float32(feature) for name, feature in features.items()}
        if not self.training:
            return self.forward_with_given_boxes(features, self._detect(features, proposals)), {}
        if targets is None:
            raise ValueError(f"{type(self).__name__} needs targets in training")
        context = context or BatchContext.plain(targets)
        if self.prompt_context is not None:
            self.prompt_context.forget()
        if self.dataset_modulation is not None:
            self.dataset_modulation.begin(context.vocabularies)
        self.check_supervision(context.supervision)
        regions = self._sampled_regions(proposals, targets, context)
        losses = self._place_losses(features, regions, targets, context)
        losses = {name: context.place_share() * loss for name, loss in losses.items()}
        return regions, losses | self._image_losses(features, proposals, context)

    def _region_features(self, features: dict[str, Tensor], boxes: Sequence[Boxes], stage: int) -> Tensor:
        """Features (R, input_size) of the boxes of a batch, for the predictor of a stage."""
        raise NotImplementedError

    def _adapted(self, hidden: Tensor, boxes: Sequence[Boxes], stage: int = 0) -> Tensor:
        """Features (R, input_size) of the boxes of a batch, adapted to the datasets of their images."""
        if self.dataset_modulation is None:
            return hidden
        return self.dataset_modulation(hidden, [len(image) for image in boxes], stage)

    def _next_proposals(self, predictor: BoxPredictor, deltas: Tensor, proposals: list[Instances]) -> list[Instances]:
        """Regions of the next stage; needed where there is one."""
        raise NotImplementedError

    def _place_losses(
        self, features: dict[str, Tensor], regions: list[Instances], targets: list[Instances], context: BatchContext
    ) -> dict[str, Tensor]:
        """Losses of the sampled regions of images whose annotation has places: classes, boxes, masks."""
        raise NotImplementedError

    def _detect(self, features: dict[str, Tensor], proposals: list[Instances]) -> list[Instances]:
        """Detections without masks; :meth:`_detections` makes them of the regions' features and boxes."""
        raise NotImplementedError

    @classmethod
    def learns_from(cls, cfg: CfgNode) -> tuple[str, ...]:
        """Say from which kinds of annotation these heads can learn.

        Args:
            cfg: the config; ``MODEL.CLASSIFIER.LOSS``, ``MODEL.IMAGE_LABELS.LOSS`` and ``MODEL.CAPTIONS.LOSS`` name the
                objectives, and sentences need ``MODEL.CLASSIFIER.TEXT_ENCODER``.

        Returns:
            Kinds of supervision.
        """
        node = cfg.MODEL.CLASSIFIER
        unread = () if node.TEXT_ENCODER and node.NAME == "text" else ("captions",)
        return tuple(kind for kind in chosen_objectives(cfg) if kind not in unread)

    def check_supervision(self, kinds: Sequence[str]) -> None:
        """Check that there is an objective for every kind of supervision.

        Args:
            kinds: kinds of supervision.

        Raises:
            ValueError: if one has none; the message lists those that have.
        """
        unknown = sorted(set(kinds) - set(self.objectives))
        if unknown:
            raise ValueError(
                f"no objective learns from supervision {', '.join(map(repr, unknown))}; there are objectives for "
                f"{', '.join(map(repr, self.objectives))}"
            )

    @property
    def closed_set(self) -> bool:
        """Whether the classifier knows only the words of training."""
        return not isinstance(self.predictors[0].cls_score, TextClassifier)

    @property
    def text_width(self) -> int | None:
        """Width D of the text embeddings that the classifier takes; None for a closed set."""
        classifier = self.predictors[0].cls_score
        return classifier.rows.shape[1] if isinstance(classifier, TextClassifier) else None

    def set_test_words(
        self,
        embeddings: Tensor | None = None,
        columns: Tensor | Sequence[Tensor] | None = None,
        words: Sequence[str] | None = None,
    ) -> None:
        """Choose the words of the evaluation mode in all stages; without arguments: the columns of training.

        Args:
            embeddings: (m, D) float text embeddings, for text classifiers.
            columns: for closed-set classifiers (m,) int64 label columns, or those (k,) of each of the m words, whose
                logit is the mean of theirs.
            words: m words, for text classifiers with a learnable context.
        """
        if self.prompt_context is not None:
            self.prompt_context.set_test_words(words)
            return
        if self.dataset_modulation is not None:
            self.dataset_modulation.set_test_words(embeddings)
        for predictor in self.predictors:
            if isinstance(predictor.cls_score, TextClassifier):
                predictor.cls_score.set_test_rows(embeddings)
            else:
                predictor.cls_score.set_test_columns(columns)
        if self.closed_set:
            for objective in self.objectives.values():
                objective.set_test_columns(columns)

    def _class_losses(
        self,
        predictor: BoxPredictor,
        hidden: Tensor,
        proposals: list[Instances],
        context: BatchContext,
        factors: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Losses of the regions, grouped by objective; groups count in proportion to their regions.

        A region also counts by its own factor (R,), where there are factors.

        Images without places have no regions. A batch of nothing else gets the losses of no regions, which are 0, so
        that the same losses are reported and the same parameters have gradients in every step.
        """
        placed = [kind for kind in context.supervision if has_places(kind)] or list(self.objectives)
        owners: list[Any] = [self.objectives[kind if has_places(kind) else placed[0]] for kind in context.supervision]
        counts = torch.tensor([len(p) for p in proposals], device=hidden.device)
        images = torch.arange(len(proposals), device=hidden.device)
        images = images.repeat_interleave(counts, output_size=len(hidden))
        classes = torch.cat([p.gt_classes for p in proposals])
        total: dict[str, Tensor] = {}
        for objective in dict.fromkeys(owners):
            members = [owner is objective for owner in owners]
            whole = all(members)
            chosen = slice(None) if whole else torch.tensor(members, device=hidden.device)[images]
            own = None if factors is None else factors[chosen]
            targets = RegionTargets.of(classes[chosen], images[chosen], context, own)
            columns = objective.columns(targets)
            losses = objective.losses_of_features(predictor.cls_score, hidden[chosen], targets, columns)
            share = 1.0 if whole else len(targets.classes) / max(len(classes), 1)
            for name, loss in losses.items():
                total[name] = total.get(name, 0) + share * loss
        return total

    def _sampled_regions(
        self, proposals: list[Instances], targets: list[Instances], context: BatchContext
    ) -> list[Instances]:
        """Labelled regions of the images whose annotation has places, none for others."""
        places = context.has_places
        known = [pair for pair, has in zip(zip(proposals, targets, strict=True), places, strict=True) if has]
        sampled = iter(self.label_and_sample_proposals(*map(list, zip(*known))) if known else ())
        nothing = without_regions(proposals)
        return [next(sampled) if has else empty for has, empty in zip(places, nothing, strict=True)]

    def _image_losses(
        self, features: dict[str, Tensor], proposals: list[Instances], context: BatchContext
    ) -> dict[str, Tensor]:
        """Losses of labels and captions of images at every stage, each on the boxes that the stage before it refined.

        Where a batch has no such images, but others have, the losses are 0 and connected to the parameters.
        """
        kinds = self.image_labels.kinds(context)
        if not kinds:
            return {}
        regions = best_proposals(proposals, context, self.image_labels)
        device = proposals[0].proposal_boxes.device
        tags = self.objectives["tags"]
        picks = isinstance(tags, ImageLabelObjective) and not tags.compares_regions
        columns = image_label_columns(tags, context, device)
        losses: dict[str, Tensor] = {}
        for stage, predictor in enumerate(self.predictors):
            with torch.set_grad_enabled(not picks and torch.is_grad_enabled()):
                hidden = self._region_features(features, [r.proposal_boxes for r in regions], stage)
            learning, chosen, last = hidden, None, caption_regions(regions, context, device)
            if picks:  # the gradient of all other regions is 0: computed for these alone
                chosen = answering_regions(tags, predictor, hidden, regions, context, columns)
                rows, place = torch.cat([chosen[chosen >= 0], last]).unique(return_inverse=True)
                learning = self._region_features(features, boxes_of_rows(regions, rows), stage)
                labels = len(place) - len(last)
                chosen = chosen.masked_scatter(chosen >= 0, place[:labels])
                last = place[labels:]
            found = image_label_losses(tags, predictor, learning, regions, context, columns, chosen)
            if "captions" in kinds:
                found |= caption_losses(self.objectives["captions"], predictor, learning, regions, context, last)
            losses.update({f"{name}_stage{stage}" if self.names_stages else name: loss for name, loss in found.items()})
            if stage + 1 < len(self.predictors):
                with torch.no_grad():  # what is in an image teaches classes, not boxes
                    deltas = predictor.bbox_pred(hidden)
                regions = self._next_proposals(predictor, deltas, regions)
        return losses
