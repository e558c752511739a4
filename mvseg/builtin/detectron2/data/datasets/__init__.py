"""Loaders of well-known dataset formats; importing this package registers the well-known datasets."""

# ruff: noqa: F401 (re-exports)

from ..._missing import module_getattr
from . import builtin
from .coco import convert_to_coco_json, load_coco_json, load_sem_seg, register_coco_instances
from .coco_panoptic import register_coco_panoptic
from .lvis import get_lvis_instances_meta, load_lvis_json, register_lvis_instances

__getattr__ = module_getattr(__name__)
