"""Sources: one file for each annotation format, all returning Detectron2's standard records."""

from . import (
    caption_table,
    captions,
    coco,
    coco_image_labels,
    coco_panoptic,
    image_tags,
    instance_maps,
    lvis,
    odgt,
    openimages,
    phrases,
    semantic,
    tar_shards,
    voc,
)
from .base import FORMATS, LoadedDataset, find_source, register_format

__all__ = [
    "FORMATS",
    "LoadedDataset",
    "caption_table",
    "captions",
    "coco",
    "coco_image_labels",
    "coco_panoptic",
    "find_source",
    "image_tags",
    "instance_maps",
    "lvis",
    "odgt",
    "openimages",
    "phrases",
    "register_format",
    "semantic",
    "tar_shards",
    "voc",
]
