"""One detector for many datasets (``MODEL.META_ARCHITECTURE: MultiDatasetRCNN``).

It translates each image's class indices into columns of the label space, tells the parts what the image's annotation
speaks about and what it weighs, and speaks another vocabulary at test time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.structures import ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor

from mvseg.modeling.backbones.adapters import DomainAttention
from mvseg.modeling.calibration import tell_calibration
from mvseg.modeling.captions import CaptionReader, caption_reader
from mvseg.modeling.columns import scopes_of
from mvseg.modeling.context import BatchContext
from mvseg.modeling.distilled import check_teacher, read_distilled
from mvseg.modeling.meta_arch.records import check_proposals, instances_of, name_of, with_pseudo_boxes
from mvseg.modeling.meta_arch.scope_checks import check_scopes, objectives_in_use
from mvseg.modeling.words import word_embedder
from mvseg.vocabulary import LabelSpace, Vocabulary, WordColumns
from mvseg.vocabulary.scopes import (
    RECORD_LISTS,
    AnnotationScopes,
    BatchScope,
    ClassRules,
    ImageFacts,
    ScopeSettings,
)


@META_ARCH_REGISTRY.register()
class MultiDatasetRCNN(GeneralizedRCNN):
    """Detectron2's two-stage detector with a label space of several vocabularies."""

    @configurable
    def __init__(
        self,
        *,
        label_space: LabelSpace | None = None,
        annotation_scope: str = "own",
        dataset_scopes: Mapping[str, str] | None = None,
        scope_settings: ScopeSettings | None = None,
        loss_weights: Mapping[str, float] | None = None,
        embed_words: Callable[[Vocabulary], Vocabulary] | None = None,
        read_captions: CaptionReader | None = None,
        test_merge: str = "",
        test_words: str = "",
        **kwargs: Any,
    ) -> None:
        """Build the detector.

        Args:
            label_space: what the label columns mean; None: class indices are columns, one dataset.
            annotation_scope: what an image's annotation speaks about, such as "own"; see mvseg.vocabulary.scopes.
            dataset_scopes: dataset name to its scope, where it has another.
            scope_settings: numbers that scopes need.
            loss_weights: dataset name to the factor on all its losses; 1 for others.
            embed_words: gives text embeddings to vocabularies that bring none, or None.
            read_captions: embeds the captions of a batch, or None.
            test_merge: closed set: file of the words that are one word at test time; empty: none are.
            test_words: closed set: file that says which words of training those of other test sets stand for, or empty.
            **kwargs: as for Detectron2's ``GeneralizedRCNN``.

        Raises:
            ValueError: if the region heads cannot take a batch context, the loss cannot learn from the scope, or a text
                classifier shall have its columns merged.
        """
        super().__init__(**kwargs)
        if not getattr(self.roi_heads, "takes_context", False):
            raise ValueError(
                f"MultiDatasetRCNN cannot use the region heads {type(self.roi_heads).__name__}: "
                "set MODEL.ROI_HEADS.NAME to MultiDatasetCascadeROIHeads, MultiDatasetRes5ROIHeads or a subclass"
            )
        self.label_space = label_space
        self.scopes: AnnotationScopes | None = None
        if label_space is not None:
            self.scopes = AnnotationScopes(label_space, annotation_scope, dataset_scopes, scope_settings)
            check_scopes(self.scopes, objectives_in_use(self.roi_heads))
        elif annotation_scope not in ("all", "own"):
            raise ValueError(f"MODEL.ANNOTATION_SCOPE {annotation_scope} needs a label space: set DATASETS.TRAIN")
        rules = None if self.scopes is None else self.scopes.rules
        for kind in ("positive", "negative", "ignored"):  # buffers follow the model to its device, and are not stored
            self.register_buffer(f"rules_{kind}", getattr(rules, kind, None), persistent=False)
        self.loss_weights = dict(loss_weights or {})
        self.embed_words, self.read_captions = embed_words, read_captions
        self.vocabulary: Vocabulary | None = None
        self.word_columns: WordColumns | None = None
        if self._is_closed_set() and label_space is not None:
            self.word_columns = WordColumns(label_space, test_merge or None, test_words or None)
        elif test_merge or test_words:
            raise ValueError(
                "MODEL.CLASSIFIER.TEST_MERGE and TEST_WORDS are for a closed set (NAME linear): a text classifier "
                "takes any words of a test as they are"
            )

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Read the parts, the annotation scopes, and the loss weights of ``DATASETS.MIX``.

        Args:
            cfg: the config tree.

        Returns:
            The arguments of the constructor.

        Raises:
            ValueError: if the backbone or the region heads have no place for what the config wants to put there.
        """
        arguments = super().from_config(cfg)
        if cfg.MODEL.DATASET_EMBEDDING.ENABLED and getattr(arguments["roi_heads"], "dataset_modulation", None) is None:
            raise ValueError(
                f"MODEL.DATASET_EMBEDDING: the region heads {cfg.MODEL.ROI_HEADS.NAME} do not adapt to datasets: use "
                "MultiDatasetCascadeROIHeads or MultiDatasetRes5ROIHeads"
            )
        if cfg.MODEL.ADAPTERS.NAME and not any(isinstance(m, DomainAttention) for m in arguments["backbone"].modules()):
            raise ValueError(
                f"MODEL.ADAPTERS.NAME {cfg.MODEL.ADAPTERS.NAME}: {cfg.MODEL.BACKBONE.NAME} takes no adapters: "
                "set MODEL.BACKBONE.NAME build_timm_fpn_backbone and MODEL.TIMM.NAME to a ResNet of timm"
            )
        check_teacher(cfg, arguments["roi_heads"])
        arguments["label_space"] = getattr(arguments["roi_heads"], "label_space", None)
        arguments["embed_words"] = word_embedder(cfg)
        arguments["read_captions"] = caption_reader(cfg, getattr(arguments["roi_heads"], "text_width", None))
        scopes = {name: "+".join(parts) for name, parts in scopes_of(cfg).items()}
        arguments["annotation_scope"] = scopes.pop("")
        arguments["dataset_scopes"] = scopes
        arguments["scope_settings"] = ScopeSettings(
            safe_threshold=cfg.MODEL.SAFE_THRESHOLD,
            federated_columns=cfg.MODEL.CLASSIFIER.FED_LOSS_NUM_CLASSES,
            federated_power=cfg.MODEL.CLASSIFIER.FED_LOSS_FREQ_POWER,
            federated_draw=cfg.MODEL.CLASSIFIER.FED_LOSS_DRAW,
        )
        arguments["test_merge"] = cfg.MODEL.CLASSIFIER.TEST_MERGE
        arguments["test_words"] = cfg.MODEL.CLASSIFIER.TEST_WORDS
        arguments["loss_weights"] = {e["name"]: float(e.get("loss_weight", 1.0)) for e in cfg.DATASETS.MIX}
        return arguments

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Train on a batch, or detect.

        Args:
            batched_inputs: for every image ``image`` (3, H, W) uint8 or float; in training ``instances`` whose
                ``gt_classes`` index the image's own vocabulary, and where there are several datasets ``dataset``; also
                ``supervision`` ("masks" if absent and there are ``gt_masks``, else "boxes"), with "tags"
                ``image_labels``, class indices, with "captions" ``captions``, texts, and perhaps ``image_labels``;
                without a proposal generator ``proposals``, Instances with ``proposal_boxes`` and ``objectness_logits``;
                perhaps ``pseudo_boxes`` (:func:`mvseg.modeling.meta_arch.records.with_pseudo_boxes`);
                at test time ``height`` and ``width`` of the wanted output, pixels.

        Returns:
            In training loss name to scalar tensor; otherwise for every image ``{"instances": ...}`` whose
            ``pred_classes`` index the vocabulary that was set (the label space if none was).
        """
        if self.proposal_generator is None:
            check_proposals(batched_inputs)
        if not self.training:
            return self.inference(batched_inputs)
        images = self.preprocess_image(batched_inputs)
        targets, context = self.read_annotations(batched_inputs)
        features = self.backbone(images.tensor)
        proposals, losses = self._propose_with_context(batched_inputs, images, features, targets, context)
        if self.vis_period > 0 and get_event_storage().iter % self.vis_period == 0:
            self.visualize_training([{**x, "instances": instances_of(x)} for x in batched_inputs], proposals)
        _, region_losses = self.roi_heads(images, features, proposals, targets, context)
        return {**losses, **region_losses}

    def _propose_with_context(
        self,
        batched_inputs: list[dict[str, Any]],
        images: ImageList,
        features: dict[str, Tensor],
        targets: list[Instances],
        context: BatchContext,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        if self.proposal_generator is None:  # PROPOSAL_GENERATOR.NAME PrecomputedProposals
            return [record["proposals"].to(self.device) for record in batched_inputs], {}
        if getattr(self.proposal_generator, "takes_context", False):
            return self.proposal_generator(images, features, targets, context)
        if not all(context.has_places):
            raise ValueError(
                f"{type(self.proposal_generator).__name__} would learn that images without boxes are empty: set "
                "MODEL.PROPOSAL_GENERATOR.NAME to MultiDatasetRPN or CenterNet"
            )
        proposals, losses = self.proposal_generator(images, features, targets)
        if context.weights is not None:  # a foreign generator knows no image weights
            losses = {name: loss * context.weights.mean() for name, loss in losses.items()}
        return proposals, losses

    def read_annotations(self, batched_inputs: Sequence[Mapping[str, Any]]) -> tuple[list[Instances], BatchContext]:
        """Translate the annotation of a batch into label columns.

        Args:
            batched_inputs: as for ``forward`` in training.

        Returns:
            For every image new ``Instances`` whose ``gt_classes`` (N,) are label columns, and the context of the batch.
        """
        datasets = [self._dataset_of(record) for record in batched_inputs]
        targets, facts, labels = [], [], []
        for record, dataset in zip(batched_inputs, datasets, strict=True):
            instances = instances_of(record)
            labels.append(self._labels_of(record, dataset))
            if self.label_space is not None:  # before the move: a GPU would make the host wait for the checked values
                fields = dict(instances.get_fields())
                if len(instances):
                    fields["gt_classes"] = self._columns_of(record, dataset, instances.gt_classes)
                facts.append(self._facts_of(record, dataset, torch.cat([fields["gt_classes"], labels[-1]])))
                instances = Instances(instances.image_size, **fields)
                instances = with_pseudo_boxes(instances, record, self.label_space)
            targets.append(instances.to(self.device))
        supervision = tuple(
            record.get("supervision") or ("masks" if x.has("gt_masks") else "boxes")
            for record, x in zip(batched_inputs, targets, strict=True)
        )
        weights = [self.loss_weights.get(dataset, 1.0) for dataset in datasets]
        captions = {} if self.read_captions is None else self.read_captions(batched_inputs, self.device)
        scope = BatchScope() if self.scopes is None else self.scopes.of(facts).to(self.device)
        return targets, BatchContext(
            supervision=supervision,
            scope=scope.mask,
            weights=None if all(w == 1 for w in weights) else torch.tensor(weights, device=self.device),
            rules=None if scope.first_rule is None else self._rules(),
            first_rule=scope.first_rule,
            groups=scope.groups,
            labels=torch.cat(labels).to(self.device),
            vocabularies=None if self.label_space is None else self._places_of(datasets),
            label_images=torch.arange(len(labels)).repeat_interleave(torch.tensor([*map(len, labels)])).to(self.device),
            distill=read_distilled(batched_inputs, self.roi_heads, self.device),
            **captions,
        )

    def _places_of(self, datasets: Sequence[str]) -> Tensor:
        known = {} if self.label_space is None else {name: k for k, name in enumerate(self.label_space.datasets)}
        return torch.tensor([known.get(name, -1) for name in datasets], device=self.device)

    def _rules(self) -> ClassRules:
        return ClassRules(self.rules_positive, self.rules_negative, self.rules_ignored)

    def _facts_of(self, record: Mapping[str, Any], dataset: str, classes: Tensor) -> ImageFacts:
        lists = {
            key: self._columns_of(record, dataset, torch.as_tensor(record[key], dtype=torch.long), key)
            for key in RECORD_LISTS
            if record.get(key) is not None
        }
        return ImageFacts(dataset, classes, lists, f"dataset {dataset!r}, image {name_of(record)}")

    def _labels_of(self, record: Mapping[str, Any], dataset: str) -> Tensor:
        """Label columns (m,) of what is in an image of which only that is known, without repetitions."""
        kind, found = record.get("supervision"), record.get("image_labels")
        if kind not in ("tags", "captions") or (kind == "captions" and found is None):
            return torch.zeros(0, dtype=torch.long)
        if found is None:
            raise ValueError(
                f"dataset {dataset!r}, image {name_of(record)}: its supervision is 'tags', but it has no "
                "image_labels; an image without any tag has an empty list"
            )
        labels = torch.as_tensor(found, dtype=torch.long).flatten()
        if self.label_space is not None:
            labels = self._columns_of(record, dataset, labels, "image labels")
        return labels.unique()  # two classes may share a column

    def _dataset_of(self, record: Mapping[str, Any]) -> str:
        if "dataset" in record:
            return record["dataset"]
        known = () if self.label_space is None else self.label_space.datasets
        if len(known) > 1:
            raise ValueError(
                f"image {name_of(record)} does not say its dataset (key "
                f"'dataset'), and the model is trained with {', '.join(known)}: use mvseg's mapper, or set the key"
            )
        return known[0] if known else ""

    def _columns_of(
        self, record: Mapping[str, Any], dataset: str, classes: Tensor, what: str = "class indices"
    ) -> Tensor:
        assert self.label_space is not None
        count = len(self.label_space.columns(dataset))
        if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < count:
            raise ValueError(
                f"dataset {dataset!r}, image {name_of(record)}: {what} {int(classes.min())} to {int(classes.max())}, "
                f"but its vocabulary has {count} words"
            )
        return self.label_space.to_columns(dataset, classes)

    def set_vocabulary(self, vocabulary: Vocabulary | None) -> None:
        """Choose the words that the model speaks outside training.

        Args:
            vocabulary: words; for a closed-set classifier words of the label space, or those that ``test_words`` maps
                to them. A text classifier takes their text embeddings, or makes them if the model knows its text
                encoder. None returns to the label space of training, where nothing is merged.

        Raises:
            ValueError: if the words lack what the classifier needs.
        """
        if vocabulary is None or getattr(self.roi_heads, "class_agnostic", False):
            self.roi_heads.set_test_words()
        elif self._is_closed_set():
            if self.word_columns is None:
                raise ValueError("this closed-set model does not know what its columns mean: set DATASETS.TRAIN")
            self.roi_heads.set_test_words(columns=self.word_columns.of(vocabulary))
        elif getattr(self.roi_heads, "prompt_context", None) is not None:
            self.roi_heads.set_test_words(words=vocabulary.names)
        else:
            self.roi_heads.set_test_words(embeddings=self._embedded(vocabulary).embeddings)
        if hasattr(self.roi_heads, "hear_vocabulary"):
            self.roi_heads.hear_vocabulary(vocabulary)
        self.vocabulary = vocabulary
        tell_calibration(self.roi_heads, self.label_space if vocabulary is None else vocabulary)

    def _embedded(self, vocabulary: Vocabulary) -> Vocabulary:
        if vocabulary.embeddings is None and self.embed_words is None:
            raise ValueError(
                f"vocabulary {vocabulary.name!r} has no text embeddings: attach them with with_embeddings(file), made "
                "by python -m mvseg.vocabulary embed, or set MODEL.CLASSIFIER.TEXT_ENCODER to the encoder that the "
                "model was trained with"
            )
        return vocabulary if self.embed_words is None else self.embed_words(vocabulary)

    @contextmanager
    def use_vocabulary(self, vocabulary: Vocabulary | None) -> Iterator[MultiDatasetRCNN]:
        """Speak other words inside a ``with`` block.

        Args:
            vocabulary: as for ``set_vocabulary``.

        Yields:
            The model; afterwards it speaks the words from before.
        """
        before = self.vocabulary
        self.set_vocabulary(vocabulary)
        try:
            yield self
        finally:
            self.set_vocabulary(before)

    def _is_closed_set(self) -> bool:
        return getattr(self.roi_heads, "closed_set", False)
