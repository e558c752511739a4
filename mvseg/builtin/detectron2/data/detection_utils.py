"""The pieces that dataset mappers are made of: reading images, transforming annotations, building Instances."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2._missing import missing, placeholder
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks, polygons_to_bitmask
from detectron2.utils.file_io import PathManager
from PIL import Image, ImageOps

from . import transforms as T
from .catalog import MetadataCatalog

transform_proposals = placeholder("data.detection_utils.transform_proposals")
transform_keypoint_annotations = placeholder("data.detection_utils.transform_keypoint_annotations")
create_keypoint_hflip_indices = placeholder("data.detection_utils.create_keypoint_hflip_indices")
annotations_to_instances_rotated = placeholder("data.detection_utils.annotations_to_instances_rotated")
_YUV = "YUV-BT.601"
# ITU-R BT.601: Y from R, G, B; U and V scaled to +-0.436 and +-0.615. And the inverse, as usually rounded.
_M_RGB2YUV = [[0.299, 0.587, 0.114], [-0.14713, -0.28886, 0.436], [0.615, -0.51499, -0.10001]]
_M_YUV2RGB = [[1.0, 0.0, 1.13983], [1.0, -0.39465, -0.58060], [1.0, 2.03211, 0.0]]


class SizeMismatchError(ValueError):
    """An image has another size than its record says."""


# ---- pixels ---------------------------------------------------------------------------------------------------------


def _apply_exif_orientation(image: Image.Image) -> Image.Image:
    return ImageOps.exif_transpose(image) or image


def convert_PIL_to_numpy(image: Image.Image, format: str | None) -> np.ndarray:
    """Convert to an array of shape (H, W, C), uint8; "YUV-BT.601" gives floats; None keeps the mode of the file."""
    if format in ("BGR", _YUV):
        array = np.asarray(image.convert("RGB"))
        return array[:, :, ::-1] if format == "BGR" else np.dot(array / 255.0, np.array(_M_RGB2YUV).T)
    array = np.asarray(image if format is None else image.convert(format))
    return array[:, :, None] if format == "L" else array


def convert_image_to_rgb(image: np.ndarray | torch.Tensor, format: str) -> np.ndarray:
    """Undo convert_PIL_to_numpy: (H, W, C) of cfg.INPUT.FORMAT to (H, W, 3) RGB in 0..255, uint8 (float from YUV)."""
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu().numpy()
    if format == "BGR":
        return image[:, :, [2, 1, 0]]
    if format == _YUV:
        return np.dot(image, np.array(_M_YUV2RGB).T) * 255.0
    if format == "L":
        return np.repeat(image[:, :, :1].astype(np.uint8), 3, axis=2)
    return np.asarray(Image.fromarray(image.astype(np.uint8), mode=format).convert("RGB"))


def read_image(file_name: str, format: str | None = None) -> np.ndarray:
    """Read an image upright (its EXIF orientation applied).

    Args:
        file_name: a path that PathManager can open.
        format: a PIL mode, "BGR" or "YUV-BT.601"; None keeps the mode of the file.

    Returns:
        Array of shape (H, W, C) or (H, W), uint8 (float in [0, 1] for YUV).
    """
    with PathManager.open(file_name, "rb") as file:
        return convert_PIL_to_numpy(_apply_exif_orientation(Image.open(file)), format)


def check_image_size(dataset_dict: dict[str, Any], image: np.ndarray) -> None:
    """Compare the size with the record's width and height, or write them there if it has none."""
    height, width = image.shape[:2]
    stated = (dataset_dict.get("width", width), dataset_dict.get("height", height))
    if stated != (width, height):
        image_name = dataset_dict.get("file_name", dataset_dict.get("image_id"))
        raise SizeMismatchError(f"image {image_name} has (width, height) {(width, height)}, its record says {stated}")
    dataset_dict.setdefault("width", width)
    dataset_dict.setdefault("height", height)


# ---- annotations ----------------------------------------------------------------------------------------------------


def get_bbox(annotation: dict[str, Any]) -> Any:
    """Return the box of an annotation as absolute XYXY."""
    return BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)


def _transform_segmentation(segmentation: Any, transforms: Any, image_size: tuple[int, int]) -> Any:
    if isinstance(segmentation, list):
        rings = [np.asarray(ring).reshape(-1, 2) for ring in segmentation]
        return [ring.reshape(-1) for ring in transforms.apply_polygons(rings)]
    if not isinstance(segmentation, dict):
        raise ValueError(f"a segmentation of type {type(segmentation).__name__} is neither polygons nor RLE")
    mask = transforms.apply_segmentation(mask_util.decode(segmentation))
    if tuple(mask.shape[:2]) != tuple(image_size):
        raise AssertionError(f"the transformed mask has size {mask.shape[:2]}, but the image {tuple(image_size)}")
    return mask


def transform_instance_annotations(
    annotation, transforms, image_size, *, keypoint_hflip_indices=None
) -> dict[str, Any]:
    """Transform box and segmentation of one annotation in place.

    Args:
        annotation: bbox, bbox_mode, and optionally segmentation (polygons or RLE); no keypoints.
        transforms: a TransformList or a list of transforms.
        image_size: (height, width) of the transformed image.
        keypoint_hflip_indices: present for Detectron2's signature.

    Returns:
        The annotation: bbox absolute XYXY within the image; polygons stay polygons, RLE becomes a mask (H, W).
    """
    if isinstance(transforms, (tuple, list)):
        transforms = T.TransformList(transforms)
    if "keypoints" in annotation:
        raise missing("structures.Keypoints")
    height, width = image_size
    box = transforms.apply_box(np.array([get_bbox(annotation)], dtype=float))[0].clip(min=0)
    annotation["bbox"] = np.minimum(box, [width, height, width, height])
    annotation["bbox_mode"] = BoxMode.XYXY_ABS
    if "segmentation" in annotation:
        annotation["segmentation"] = _transform_segmentation(annotation["segmentation"], transforms, image_size)
    return annotation


def _to_bitmask(segmentation: Any, image_size: tuple[int, int]) -> np.ndarray:
    if isinstance(segmentation, list):
        return polygons_to_bitmask(segmentation, *image_size)
    if isinstance(segmentation, dict):
        return mask_util.decode(segmentation)
    if isinstance(segmentation, np.ndarray) and segmentation.ndim == 2:
        return segmentation
    raise ValueError(f"a segmentation of type {type(segmentation).__name__} is no polygons, RLE dict or array (H, W)")


def _to_masks(annos: Sequence[dict], image_size: tuple[int, int], mask_format: str) -> PolygonMasks | BitMasks:
    lacking = [index for index, anno in enumerate(annos) if "segmentation" not in anno]
    if lacking:
        raise ValueError(f"annotations {lacking[:5]} of this image have no segmentation while others have one")
    segmentations = [anno["segmentation"] for anno in annos]
    if mask_format == "bitmask":
        masks = [np.array(_to_bitmask(item, image_size), order="C") for item in segmentations]
        return BitMasks(torch.stack([torch.from_numpy(mask) for mask in masks]))
    if mask_format != "polygon":
        raise AssertionError(f"mask_format must be polygon or bitmask, not {mask_format!r}")
    if not all(isinstance(item, list) for item in segmentations):
        raise ValueError("the masks of this image are not all polygons (RLE?); set INPUT.MASK_FORMAT: bitmask")
    return PolygonMasks(segmentations)


def annotations_to_instances(
    annos: Sequence[dict], image_size: tuple[int, int], mask_format: str = "polygon"
) -> Instances:
    """Make the training target of one image.

    Args:
        annos: transformed annotations of the image.
        image_size: (height, width).
        mask_format: "polygon" or "bitmask".

    Returns:
        Instances with gt_boxes, gt_classes (N,) int64, and gt_masks if the annotations have segmentations.
    """
    annos = list(annos)
    if annos and "keypoints" in annos[0]:
        raise missing("structures.Keypoints")
    target = Instances(image_size)
    boxes = np.stack([np.asarray(get_bbox(anno), dtype=np.float64) for anno in annos]) if annos else np.zeros((0, 4))
    target.gt_boxes = Boxes(boxes)
    target.gt_classes = torch.tensor([int(anno["category_id"]) for anno in annos], dtype=torch.int64)
    if any("segmentation" in anno for anno in annos):
        target.gt_masks = _to_masks(annos, image_size, mask_format)
    return target


def filter_empty_instances(instances, by_box=True, by_mask=True, box_threshold=1e-05, return_mask=False) -> Any:
    """Drop instances whose box or mask is empty; with return_mask also return the kept rows, (N,) bool."""
    if not (by_box or by_mask):
        raise AssertionError("filter_empty_instances: by_box or by_mask must be true")
    keep = torch.ones(len(instances), dtype=torch.bool)
    if by_box:
        keep &= instances.gt_boxes.nonempty(threshold=box_threshold).cpu()
    if by_mask and instances.has("gt_masks"):
        keep &= instances.gt_masks.nonempty().cpu()
    kept = instances[keep]
    return (kept, keep) if return_mask else kept


# ---- datasets and augmentation --------------------------------------------------------------------------------------


def get_fed_loss_cls_weights(dataset_names: str | Sequence[str], freq_weight_power: float = 1.0) -> torch.Tensor:
    """Return (image count of each class) ** power, shape (classes,), by which the federated loss samples classes."""
    dataset_names = [dataset_names] if isinstance(dataset_names, str) else dataset_names
    check_metadata_consistency("class_image_count", dataset_names)
    counts = MetadataCatalog.get(dataset_names[0]).class_image_count
    ordered = sorted(counts, key=lambda entry: entry["id"])
    return torch.tensor([entry["image_count"] for entry in ordered]).float() ** freq_weight_power


def check_metadata_consistency(key: str, dataset_names: Sequence[str]) -> None:
    """Raise unless all datasets have the same value of a metadata key (all lacking it is fine)."""
    values = [MetadataCatalog.get(name).get(key) for name in dataset_names]
    if any(value != values[0] for value in values):
        raise ValueError(
            f"metadata {key!r} of {', '.join(dataset_names)} differs; trained as one, they must agree on it"
        )


def build_augmentation(cfg: Any, is_train: bool) -> list[T.Augmentation]:
    """Return the default policies of cfg.INPUT: shortest-edge resize, and the flip in training."""
    kind = "TRAIN" if is_train else "TEST"
    lengths, longest = cfg.INPUT[f"MIN_SIZE_{kind}"], cfg.INPUT[f"MAX_SIZE_{kind}"]
    policies = [T.ResizeShortestEdge(lengths, longest, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING if is_train else "choice")]
    flip = cfg.INPUT.RANDOM_FLIP
    if is_train and flip != "none":
        policies.append(T.RandomFlip(horizontal=flip == "horizontal", vertical=flip == "vertical"))
    return policies


build_transform_gen = build_augmentation
