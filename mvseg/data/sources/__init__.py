"""Sources: one file for each annotation format, all returning Detectron2's standard records."""

from . import coco, lvis, semantic, voc
from .base import FORMATS, LoadedDataset, find_source, register_format

__all__ = ["FORMATS", "LoadedDataset", "coco", "find_source", "lvis", "register_format", "semantic", "voc"]
