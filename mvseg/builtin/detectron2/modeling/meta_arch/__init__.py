"""Whole models, and their registries."""

# ruff: noqa: F401 (re-exports)

from ..._missing import module_getattr
from .build import META_ARCH_REGISTRY, build_model
from .rcnn import GeneralizedRCNN
from .semantic_seg import SEM_SEG_HEADS_REGISTRY, build_sem_seg_head

__getattr__ = module_getattr(__name__)
