"""The default mapper: a record becomes the input of a model."""

from __future__ import annotations

import copy
import logging
from typing import Any

import numpy as np
import torch
from detectron2.config import configurable

from . import detection_utils as utils
from . import transforms as T

__all__ = ["DatasetMapper"]


class DatasetMapper:
    """Read the image, augment it together with its labels, and make tensors and Instances.

    Subclasses usually override ``_transform_annotations`` or ``__call__``.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: list[T.Augmentation | T.Transform],
        image_format: str,
        use_instance_mask: bool = False,
        use_keypoint: bool = False,
        instance_mask_format: str = "polygon",
        keypoint_hflip_indices: np.ndarray | None = None,
        precomputed_proposal_topk: int | None = None,
        recompute_boxes: bool = False,
    ) -> None:
        """Keep the options.

        Args:
            is_train: in testing, annotations are dropped.
            augmentations: policies or transforms, applied in order.
            image_format: as in read_image.
            use_instance_mask: keep segmentations.
            use_keypoint: keep keypoints (the built-in provider then raises on them).
            instance_mask_format: "polygon" or "bitmask".
            keypoint_hflip_indices: for keypoints.
            precomputed_proposal_topk: keep so many of the record's proposals; None: ignore them.
            recompute_boxes: take tight boxes from the masks after cropping.
        """
        if recompute_boxes and not use_instance_mask:
            raise AssertionError("recompute_boxes needs use_instance_mask: the boxes are taken from the masks")
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.use_instance_mask = use_instance_mask
        self.instance_mask_format = instance_mask_format
        self.use_keypoint = use_keypoint
        self.keypoint_hflip_indices = keypoint_hflip_indices
        self.proposal_topk = precomputed_proposal_topk
        self.recompute_boxes = recompute_boxes
        kind = "training" if is_train else "inference"
        logging.getLogger(__name__).info("augmentations in %s: %s", kind, augmentations)

    @classmethod
    def from_config(cls, cfg: Any, is_train: bool = True) -> dict[str, Any]:
        """Read cfg.INPUT, and cfg.MODEL for masks, keypoints and proposals."""
        crops = is_train and cfg.INPUT.CROP.ENABLED
        arguments = {
            "is_train": is_train,
            "augmentations": utils.build_augmentation(cfg, is_train),
            "image_format": cfg.INPUT.FORMAT,
            "use_instance_mask": cfg.MODEL.MASK_ON,
            "instance_mask_format": cfg.INPUT.MASK_FORMAT,
            "use_keypoint": cfg.MODEL.KEYPOINT_ON,
            # A crop cuts objects, after which the old boxes are too large.
            "recompute_boxes": cfg.MODEL.MASK_ON if crops else False,
        }
        if crops:
            arguments["augmentations"].insert(0, T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
        if cfg.MODEL.KEYPOINT_ON:
            arguments["keypoint_hflip_indices"] = utils.create_keypoint_hflip_indices(cfg.DATASETS.TRAIN)
        if cfg.MODEL.LOAD_PROPOSALS:
            kind = "TRAIN" if is_train else "TEST"
            arguments["precomputed_proposal_topk"] = cfg.DATASETS[f"PRECOMPUTED_PROPOSAL_TOPK_{kind}"]
        return arguments

    def _transform_annotations(self, dataset_dict: dict, transforms: T.TransformList, image_shape: tuple) -> None:
        unused = (["segmentation"] if not self.use_instance_mask else []) + (
            ["keypoints"] if not self.use_keypoint else []
        )
        annotations = [
            utils.transform_instance_annotations(
                {key: value for key, value in annotation.items() if key not in unused},
                transforms,
                image_shape,
                keypoint_hflip_indices=self.keypoint_hflip_indices,
            )
            for annotation in dataset_dict.pop("annotations")
            if not annotation.get("iscrowd", 0)
        ]
        instances = utils.annotations_to_instances(annotations, image_shape, mask_format=self.instance_mask_format)
        if self.recompute_boxes:
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        dataset_dict["instances"] = utils.filter_empty_instances(instances)

    def __call__(self, dataset_dict: dict) -> dict:
        """Map a record (which stays as it is).

        Returns:
            The record with image (C, H, W) uint8, and where they apply sem_seg (H, W) int64, proposals, instances.
        """
        dataset_dict = copy.deepcopy(dataset_dict)
        image = utils.read_image(dataset_dict["file_name"], format=self.image_format)
        utils.check_image_size(dataset_dict, image)
        labels = None
        if "sem_seg_file_name" in dataset_dict:
            labels = utils.read_image(dataset_dict.pop("sem_seg_file_name"), "L")[:, :, 0]
        aug_input = T.AugInput(image, sem_seg=labels)
        transforms = self.augmentations(aug_input)
        image_shape = aug_input.image.shape[:2]

        dataset_dict["image"] = torch.as_tensor(np.array(aug_input.image.transpose(2, 0, 1), order="C"))
        if aug_input.sem_seg is not None:
            dataset_dict["sem_seg"] = torch.as_tensor(aug_input.sem_seg.astype("int64"))
        if self.proposal_topk is not None:
            utils.transform_proposals(dataset_dict, image_shape, transforms, proposal_topk=self.proposal_topk)
        if not self.is_train:
            dataset_dict.pop("annotations", None)
        elif "annotations" in dataset_dict:
            self._transform_annotations(dataset_dict, transforms, image_shape)
        return dataset_dict
