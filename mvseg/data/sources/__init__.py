"""Sources: one file for each annotation format, all returning Detectron2's standard records."""

from . import captions, coco, coco_panoptic, image_tags, lvis, openimages, phrases, semantic, voc
from .base import FORMATS, LoadedDataset, find_source, register_format

__all__ = [
    "FORMATS",
    "LoadedDataset",
    "captions",
    "coco",
    "coco_panoptic",
    "find_source",
    "image_tags",
    "lvis",
    "openimages",
    "phrases",
    "register_format",
    "semantic",
    "voc",
]
