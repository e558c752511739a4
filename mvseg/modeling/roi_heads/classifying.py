"""What all region heads for many datasets share: words of the test, class losses by objective, scores to detections."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from mvseg.data.supervision import has_places
from mvseg.modeling.classifier import TextClassifier
from mvseg.modeling.columns import num_label_columns, training_label_space
from mvseg.modeling.context import BatchContext
from mvseg.modeling.objectives import (
    ImageLabelObjective,
    RegionObjective,
    RegionTargets,
    build_objectives,
    chosen_objectives,
)
from mvseg.modeling.prompt_context import PromptContext
from mvseg.modeling.roi_heads.box_predictor import BoxPredictor
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
from mvseg.modeling.roi_heads.selection import fuse_scores, keep_best_class, select_detections
from mvseg.modeling.words import prompt_context
from mvseg.vocabulary import LabelSpace

# Class scores of the regions of a batch that are computed together at test time: 2^24 of 4 bytes are 64 MB a copy.
SCORES_AT_ONCE = 2**24


def classification_arguments(cfg: Any) -> dict[str, Any]:
    """Read what :class:`ClassifyingHeads` needs.

    Args:
        cfg: the config tree; reads ``MODEL.ROI_HEADS``, ``ROI_BOX_HEAD`` and ``CLASSIFIER``.

    Returns:
        Arguments for the constructor of region heads.
    """
    space = training_label_space(cfg)
    columns = num_label_columns(cfg, space)
    return {
        "label_space": space,
        "prompt_context": prompt_context(cfg, space),
        "num_classes": columns,
        "image_labels": ImageLabelSettings.from_config(cfg),
        "objectives": build_objectives(cfg, columns, None if space is None else space.image_count),
        "score_threshold": cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST,
        "nms_threshold": cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST,
        "topk": cfg.TEST.DETECTIONS_PER_IMAGE,
        "class_agnostic_nms": cfg.MODEL.ROI_HEADS.NMS_CLASS_AGNOSTIC,
        "multiply_proposal_score": cfg.MODEL.ROI_BOX_HEAD.MULT_PROPOSAL_SCORE,
        "one_class_per_proposal": cfg.MODEL.ROI_HEADS.ONE_CLASS_PER_PROPOSAL,
    }


class ClassifyingHeads:
    """Mixed into a subclass of Detectron2's ``ROIHeads`` that has one or several :class:`BoxPredictor`."""

    takes_context = True  # forward() accepts a BatchContext
    objectives: Any  # nn.ModuleDict of RegionObjective

    @property
    def predictors(self) -> Sequence[BoxPredictor]:
        """The last layers of every stage.

        Returns:
            At least one predictor.

        Raises:
            NotImplementedError: always, in this base class.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say where its predictors are")

    def _set_classification(
        self,
        *,
        objectives: Mapping[str, RegionObjective],
        image_labels: ImageLabelSettings,
        score_threshold: float,
        nms_threshold: float,
        topk: int,
        class_agnostic_nms: bool,
        multiply_proposal_score: bool,
        one_class_per_proposal: bool,
        label_space: LabelSpace | None,
        prompt_context: PromptContext | None,
    ) -> None:
        """Keep the arguments that all heads have; to be called after the constructor of ``nn.Module``."""
        self.objectives = nn.ModuleDict(objectives)
        self.image_labels = image_labels
        self.score_threshold: float | Tensor = score_threshold  # the latter (m,): one for each word of the test
        self.nms_threshold, self.topk, self.class_agnostic_nms = nms_threshold, topk, class_agnostic_nms
        self.multiply_proposal_score = multiply_proposal_score
        self.one_class_per_proposal = one_class_per_proposal
        self.label_space = label_space
        self.prompt_context = prompt_context

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
        columns: Tensor | None = None,
        words: Sequence[str] | None = None,
    ) -> None:
        """Choose the words of the evaluation mode in all stages; without arguments: the columns of training.

        Args:
            embeddings: (m, D) float text embeddings, for text classifiers.
            columns: (m,) int64 label columns, for closed-set classifiers.
            words: m words, for text classifiers with a learnable context.
        """
        if self.prompt_context is not None:
            self.prompt_context.set_test_words(words)
            return
        for predictor in self.predictors:
            if isinstance(predictor.cls_score, TextClassifier):
                predictor.cls_score.set_test_rows(embeddings)
            else:
                predictor.cls_score.set_test_columns(columns)

    def _class_losses(
        self, predictor: BoxPredictor, hidden: Tensor, proposals: list[Instances], context: BatchContext
    ) -> dict[str, Tensor]:
        """Losses of the regions, grouped by objective; groups count in proportion to their regions.

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
            targets = RegionTargets.of(classes[chosen], images[chosen], context)
            columns = objective.columns(targets)
            logits = predictor.cls_score(hidden[chosen], columns)
            share = 1.0 if whole else len(targets.classes) / max(len(classes), 1)
            for name, loss in objective.losses(logits, targets, columns).items():
                total[name] = total.get(name, 0) + share * loss
        return total

    def _sampled_regions(
        self, proposals: list[Instances], targets: list[Instances], context: BatchContext
    ) -> list[Instances]:
        """Labelled regions of the images whose annotation has places, none for others."""
        places = context.has_places
        known = [pair for pair, has in zip(zip(proposals, targets, strict=True), places, strict=True) if has]
        heads: Any = self
        sampled = iter(heads.label_and_sample_proposals(*map(list, zip(*known))) if known else ())
        nothing = without_regions(proposals)
        return [next(sampled) if has else empty for has, empty in zip(places, nothing, strict=True)]

    def _image_losses(
        self,
        proposals: list[Instances],
        context: BatchContext,
        region_features: Callable[[list[Boxes], int], Tensor],
        refine: Callable[[BoxPredictor, Tensor, list[Instances]], list[Instances]] | None = None,
    ) -> dict[str, Tensor]:
        """Losses of labels and captions of images at every stage, each on the boxes that the stage before it refined.

        ``region_features`` gives the features (R, input_size) of boxes at a stage, ``refine`` the regions of the next
        stage. Where a batch has no such images, but others have, the losses are 0 and connected to the parameters.
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
                hidden = region_features([r.proposal_boxes for r in regions], stage)
            learning, chosen, last = hidden, None, caption_regions(regions, context, device)
            if picks:  # the gradient of all other regions is 0: computed for these alone
                chosen = answering_regions(tags, predictor, hidden, regions, context, columns)
                rows, place = torch.cat([chosen[chosen >= 0], last]).unique(return_inverse=True)
                learning = region_features(boxes_of_rows(regions, rows), stage)
                labels = len(place) - len(last)
                chosen = chosen.masked_scatter(chosen >= 0, place[:labels])
                last = place[labels:]
            found = image_label_losses(tags, predictor, learning, regions, context, columns, chosen)
            if "captions" in kinds:
                found |= caption_losses(self.objectives["captions"], predictor, learning, regions, context, last)
            losses.update({name if refine is None else f"{name}_stage{stage}": loss for name, loss in found.items()})
            if refine is not None and stage + 1 < len(self.predictors):
                with torch.no_grad():  # what is in an image teaches classes, not boxes
                    deltas = predictor.bbox_pred(hidden)
                regions = refine(predictor, deltas, regions)
        return losses

    def _scores(self, hidden: Sequence[Tensor], boxes: Sequence[Tensor]) -> Iterator[Tensor]:
        """Class probabilities (R_i, n) of every image: of all at once while that is small, else one after the other."""
        counts = [len(b) for b in boxes]
        columns = self.predictors[0].cls_score.num_columns
        if sum(counts) * columns <= SCORES_AT_ONCE:
            yield from self._mean_probabilities(hidden).split(counts)
            return
        for regions in zip(*(stage.split(counts) for stage in hidden)):
            yield self._mean_probabilities(regions)

    def _mean_probabilities(self, hidden: Sequence[Tensor]) -> Tensor:
        objective: Any = next(iter(self.objectives.values()))
        total: Tensor | None = None
        for regions, predictor in zip(hidden, self.predictors):
            probabilities = objective.probabilities(predictor.cls_score(regions))
            total = probabilities if total is None else total.add_(probabilities)
        assert total is not None  # there is a stage
        return total.div_(len(self.predictors))

    def _select(self, boxes: Tensor, scores: Tensor, objectness: Tensor, image_size: tuple[int, int]) -> Instances:
        if self.multiply_proposal_score:
            scores = fuse_scores(scores, objectness)
        if self.one_class_per_proposal:
            scores = keep_best_class(scores)
        detections, _ = select_detections(
            boxes,
            scores,
            image_size,
            score_threshold=self.score_threshold,
            nms_threshold=self.nms_threshold,
            topk=self.topk,
            class_agnostic=self.class_agnostic_nms,
        )
        return detections
