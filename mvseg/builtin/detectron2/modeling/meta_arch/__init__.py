"""Whole models, and their registries."""

# ruff: noqa: F401 (re-exports)

from ..._missing import missing_attribute
from .build import META_ARCH_REGISTRY, build_model
from .rcnn import GeneralizedRCNN, ProposalNetwork
from .semantic_seg import SEM_SEG_HEADS_REGISTRY, build_sem_seg_head

_LEFT_OUT = (
    "DenseDetector",
    "FCOS",
    "PanopticFPN",
    "RetinaNet",
    "SemSegFPNHead",
    "SemanticSegmentor",
    "dense_detector",
    "fcos",
    "panoptic_fpn",
    "retinanet",
)


def __getattr__(name: str):
    raise missing_attribute(__name__, name, _LEFT_OUT)
