"""From a dataset record to a model input: read, augment by the dataset's own recipe, annotations to Instances."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Instances, PolygonMasks

from mvseg.data.augmentation import (
    AugmentationSettings,
    build_augmentations,
    build_test_augmentations,
    with_image_size,
)
from mvseg.data.crop_embeddings import CropEmbeddingFolder, embeddings_of, open_crop_embeddings
from mvseg.data.mixing import MixEntry, mixture_from_config
from mvseg.data.polygons import transform_polygons
from mvseg.data.proposal_files import ProposalFolder
from mvseg.data.proposals import open_proposals, proposals_of
from mvseg.data.pseudo_boxes import PseudoBoxes, open_pseudo_boxes
from mvseg.data.reading import check_image_size, read_image
from mvseg.data.targets import add_targets, drop_answers
from mvseg.vocabulary import did_you_mean

MASK_FORMATS = ("polygon", "bitmask")


class MultiDatasetMapper:
    """Maps records of several datasets, each with its own augmentations, by Detectron2's conventions for mappers.

    The result holds the record's own fields except the annotations, and: ``image``, uint8 ``(3, H, W)``; in training
    ``instances`` with ``gt_boxes`` (N, 4) in pixels of the augmented image, ``gt_classes`` (N,) in the dataset's own
    vocabulary, and ``gt_masks`` (N,) where the supervision is "masks". ``height`` and ``width`` stay those of the file.
    Crowd annotations are left out. What other kinds of supervision become: :func:`mvseg.data.targets.add_targets`. Of a
    dataset with stored proposals ``proposals`` holds ``proposal_boxes`` and ``objectness_logits``, at test time too. Of
    one with a teacher's crop embeddings ``distill`` holds ``proposal_boxes`` and ``gt_embeddings``, in training.

    A dataset with pseudo boxes has ``pseudo_boxes`` (:meth:`mvseg.data.pseudo_boxes.PseudoBoxes.of`) beside
    ``instances``, and the ``pseudo_datasets`` of their words, in training.

    Args:
        is_train: whether annotations are mapped; False drops them.
        augmentations: dataset name to its augmentations.
        default_augmentations: augmentations of all other datasets.
        image_format: "BGR" or "RGB", order of the channels.
        use_instance_mask: whether masks are mapped.
        instance_mask_format: "polygon" or "bitmask".
        recompute_boxes: make the boxes of annotations with masks tight again after the augmentation.
        proposals: dataset name to its stored proposals; records of others get none.
        proposal_topk: largest number of proposals of an image.
        pseudo_boxes: dataset name to boxes of classes that it does not annotate.
        crop_embeddings: dataset name to its stored crop embeddings; records of others get none.
        crop_embedding_topk: largest number of them of an image.
        kept_area: a crop embedding whose box keeps less of its area in the augmented image is left out.

    Raises:
        ValueError: if the mask format does not exist.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: Mapping[str, Sequence[T.Augmentation]],
        default_augmentations: Sequence[T.Augmentation] = (),
        image_format: str = "BGR",
        use_instance_mask: bool = False,
        instance_mask_format: str = "polygon",
        recompute_boxes: bool = False,
        proposals: Mapping[str, ProposalFolder] | None = None,
        proposal_topk: int = 2000,
        pseudo_boxes: Mapping[str, PseudoBoxes] | None = None,
        crop_embeddings: Mapping[str, CropEmbeddingFolder] | None = None,
        crop_embedding_topk: int = 300,
        kept_area: float = 0.5,
    ) -> None:
        if instance_mask_format not in MASK_FORMATS:
            raise ValueError(
                f"INPUT.MASK_FORMAT {instance_mask_format!r} does not exist"
                f"{did_you_mean(instance_mask_format, MASK_FORMATS)}"
            )
        self.is_train = is_train
        self.augmentations = {name: T.AugmentationList(list(augs)) for name, augs in augmentations.items()}
        self.default_augmentations = T.AugmentationList(list(default_augmentations))
        self.image_format = image_format
        self.use_instance_mask = use_instance_mask
        self.instance_mask_format = instance_mask_format
        self.recompute_boxes = recompute_boxes
        self.proposals, self.proposal_topk = dict(proposals or {}), proposal_topk
        self.pseudo_boxes = dict(pseudo_boxes or {})
        self.crop_embeddings, self.crop_embedding_topk = dict(crop_embeddings or {}), crop_embedding_topk
        self.kept_area = kept_area

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True, with_annotations: bool | None = None) -> dict[str, Any]:
        """Read the arguments from a config.

        Args:
            cfg: the config.
            is_train: augment as in training; False: resize only, as in testing.
            with_annotations: map annotations also in testing, for a validation loss; None: only in training.

        Returns:
            Keyword arguments of the constructor.
        """
        settings = settings_from_config(cfg)
        recipes: dict[str, list[T.Augmentation]] = {}
        default = build_test_augmentations(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
        if is_train:
            recipes = {
                entry.name: entry_augmentations(entry, settings, cfg.INPUT.AUGMENTATION)
                for entry in mixture_from_config(cfg)
            }
            default = build_augmentations(cfg.INPUT.AUGMENTATION, settings)
        return {
            "is_train": is_train if with_annotations is None else with_annotations,
            "augmentations": recipes,
            "default_augmentations": default,
            "image_format": cfg.INPUT.FORMAT,
            "use_instance_mask": cfg.MODEL.MASK_ON,
            "instance_mask_format": cfg.INPUT.MASK_FORMAT,
            "proposals": open_proposals(cfg, cfg.DATASETS.TRAIN if is_train else cfg.DATASETS.TEST),
            "proposal_topk": cfg.DATASETS[f"PRECOMPUTED_PROPOSAL_TOPK_{'TRAIN' if is_train else 'TEST'}"],
            "crop_embeddings": open_crop_embeddings(cfg) if is_train else {},
            "crop_embedding_topk": cfg.MODEL.DISTILLATION.MAX_REGIONS,
            "kept_area": cfg.DATASETS.CROP_EMBEDDINGS_KEPT_AREA,
            "pseudo_boxes": open_pseudo_boxes(cfg) if is_train else {},
            "recompute_boxes": is_train and cfg.MODEL.MASK_ON and cfg.INPUT.CROP.ENABLED,
        }

    def __call__(self, dataset_dict: Mapping[str, Any]) -> dict[str, Any]:
        """Map one record.

        Args:
            dataset_dict: a dataset record; it is not changed.

        Returns:
            The model input.
        """
        record = copy.deepcopy(dict(dataset_dict))
        image = read_image(record["file_name"], self.image_format)
        check_image_size(record, image)
        record.setdefault("height", image.shape[0])
        record.setdefault("width", image.shape[1])
        augmentation = self.augmentations.get(record.get("dataset", ""), self.default_augmentations)
        aug_input = T.AugInput(image)
        transforms = augmentation(aug_input)
        image = aug_input.image
        record["image"] = torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))
        if record.get("dataset") in self.proposals:
            arrays = self.proposals[record["dataset"]].read(record["image_id"])
            record["proposals"] = proposals_of(arrays, transforms, image.shape[:2], self.proposal_topk)
        if not self.is_train:
            drop_answers(record)
            return record
        size = (image.shape[0], image.shape[1])
        if record.get("dataset") in self.crop_embeddings:
            arrays = self.crop_embeddings[record["dataset"]].read(record["image_id"])
            record["distill"] = embeddings_of(arrays, transforms, size, self.crop_embedding_topk, self.kept_area)
        pseudo = self.pseudo_boxes.get(record.get("dataset", ""))
        found = None if pseudo is None else pseudo.of(record["image_id"], transforms, size)
        if pseudo is not None and found is not None:
            record["pseudo_boxes"], record["pseudo_datasets"] = found, pseudo.datasets
        annotations = record.pop("annotations", None)
        if annotations is not None:
            record["instances"] = self._instances(record, annotations, transforms, size)
        add_targets(record, transforms, size)
        return record

    def _instances(
        self, record: Mapping[str, Any], annotations: list[dict[str, Any]], transforms: Any, size: tuple[int, int]
    ) -> Instances:
        annotations = [a for a in annotations if not a.get("iscrowd", 0)]
        with_masks = self.use_instance_mask and supervision_of(record, annotations) == "masks"
        for annotation in annotations:
            annotation.pop("keypoints", None)
            polygons = None
            if not with_masks:
                annotation.pop("segmentation", None)
            elif not annotation.get("segmentation"):
                raise ValueError(
                    f"dataset {record.get('dataset')!r}, image {record.get('image_id')!r}, {record['file_name']}: an "
                    "annotation has no segmentation although the dataset's supervision is 'masks'; leave the "
                    "annotation out or declare the supervision 'boxes'"
                )
            if isinstance(annotation.get("segmentation"), list):
                polygons = transform_polygons(annotation.pop("segmentation"), transforms)
            detection_utils.transform_instance_annotations(annotation, transforms, size)
            if polygons is not None:
                annotation["segmentation"] = polygons
        instances = detection_utils.annotations_to_instances(annotations, size, mask_format=self.instance_mask_format)
        if with_masks and not instances.has("gt_masks"):  # so that images with and without objects have the same fields
            empty = torch.zeros((0, *size), dtype=torch.bool)
            instances.gt_masks = PolygonMasks([]) if self.instance_mask_format == "polygon" else BitMasks(empty)
        if self.recompute_boxes and with_masks:
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        return detection_utils.filter_empty_instances(instances)


def settings_from_config(cfg: CfgNode) -> AugmentationSettings:
    """Read the numbers of the augmentation recipes from ``INPUT``.

    Args:
        cfg: the config.

    Returns:
        The settings, before a mixture entry changes them.
    """
    size = cfg.INPUT.MIN_SIZE_TRAIN
    crop = cfg.INPUT.CROP
    return AugmentationSettings(
        short_edge=(size,) if isinstance(size, int) else tuple(size),
        short_edge_style=cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING,
        max_long_edge=cfg.INPUT.MAX_SIZE_TRAIN,
        crop_size=cfg.INPUT.TRAIN_SIZE,
        scale_range=(cfg.INPUT.SCALE_RANGE[0], cfg.INPUT.SCALE_RANGE[1]),
        flip=cfg.INPUT.RANDOM_FLIP,
        random_crop=(crop.TYPE, tuple(crop.SIZE)) if crop.ENABLED else None,
    )


def entry_augmentations(entry: MixEntry, settings: AugmentationSettings, recipe: str) -> list[T.Augmentation]:
    """Build the augmentations of one mixture entry.

    Args:
        entry: the entry; what it leaves open comes from the other arguments.
        settings: the common numbers.
        recipe: the common recipe.

    Returns:
        The augmentations in the order of their application.
    """
    settings = with_image_size(settings, entry.image_size, entry.scale_range)
    return build_augmentations(entry.augmentation or recipe, settings)


def supervision_of(record: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]]) -> str:
    """Say what a record's annotations teach.

    Args:
        record: dataset record; its ``supervision`` counts where present.
        annotations: its annotations.

    Returns:
        The supervision: declared, or "masks" if an annotation has a segmentation, else "boxes".
    """
    guess = "masks" if any(a.get("segmentation") for a in annotations) else "boxes"
    return record.get("supervision", guess)
