"""The default mapper: a record becomes the input of a model."""

import copy
import logging
from typing import Any

import numpy as np
import torch
from detectron2._missing import missing
from detectron2.config import configurable

from . import detection_utils as utils
from . import transforms as T


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
        self.is_train, self.image_format = is_train, image_format
        self.augmentations = T.AugmentationList(augmentations)
        self.use_instance_mask, self.instance_mask_format = use_instance_mask, instance_mask_format
        self.use_keypoint, self.keypoint_hflip_indices = use_keypoint, keypoint_hflip_indices
        self.proposal_topk, self.recompute_boxes = precomputed_proposal_topk, recompute_boxes
        kind = "training" if is_train else "inference"
        logging.getLogger(__name__).info("augmentations in %s: %s", kind, augmentations)

    @classmethod
    def from_config(cls, cfg: Any, is_train: bool = True) -> dict[str, Any]:
        """Read cfg.INPUT, and cfg.MODEL for masks, keypoints and proposals."""
        crops = is_train and cfg.INPUT.CROP.ENABLED
        augmentations = utils.build_augmentation(cfg, is_train)
        if crops:
            augmentations.insert(0, T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
        if cfg.MODEL.KEYPOINT_ON:
            raise missing("structures.Keypoints")
        masks = {"use_instance_mask": cfg.MODEL.MASK_ON, "instance_mask_format": cfg.INPUT.MASK_FORMAT}
        # A crop cuts objects, after which the old boxes are too large.
        masks["recompute_boxes"] = cfg.MODEL.MASK_ON and crops
        image = {"augmentations": augmentations, "image_format": cfg.INPUT.FORMAT}
        return {"is_train": is_train, "use_keypoint": False, **image, **masks}

    def _transform_annotations(self, dataset_dict: dict, transforms: T.TransformList, image_shape: tuple) -> None:
        annotations = []
        for annotation in dataset_dict.pop("annotations"):
            if annotation.get("iscrowd", 0):
                continue
            for key, used in (("segmentation", self.use_instance_mask), ("keypoints", self.use_keypoint)):
                if not used:
                    annotation.pop(key, None)
            annotations.append(utils.transform_instance_annotations(annotation, transforms, image_shape))
        instances = utils.annotations_to_instances(annotations, image_shape, mask_format=self.instance_mask_format)
        if self.recompute_boxes:
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        dataset_dict["instances"] = utils.filter_empty_instances(instances)

    def __call__(self, dataset_dict: dict) -> dict:
        """Map a record (which stays as it is).

        Returns:
            The record with image (C, H, W) uint8, and where they apply sem_seg (H, W) int64, proposals, instances.
        """
        record = copy.deepcopy(dataset_dict)
        image = utils.read_image(record["file_name"], format=self.image_format)
        utils.check_image_size(record, image)
        label_file = record.pop("sem_seg_file_name", None)
        carrier = T.AugInput(image, sem_seg=None if label_file is None else utils.read_image(label_file, "L")[:, :, 0])
        transforms = self.augmentations(carrier)
        channels_first = carrier.image.transpose(2, 0, 1)
        record["image"] = torch.from_numpy(np.array(channels_first, order="C"))
        if carrier.sem_seg is not None:
            record["sem_seg"] = torch.from_numpy(carrier.sem_seg.astype(np.int64))
        if self.proposal_topk is not None:
            utils.transform_proposals(record, channels_first.shape[1:], transforms, proposal_topk=self.proposal_topk)
        annotated = "annotations" in record
        if annotated and self.is_train:
            self._transform_annotations(record, transforms, channels_first.shape[1:])
        elif annotated:
            del record["annotations"]
        return record
