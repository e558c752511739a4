"""Registry of semantic segmentation heads; the heads themselves come from extensions."""

from __future__ import annotations

from torch import nn

from ..._missing import missing_attribute
from ...layers import ShapeSpec
from ...utils.registry import Registry

__all__ = ["SEM_SEG_HEADS_REGISTRY", "build_sem_seg_head"]

SEM_SEG_HEADS_REGISTRY = Registry("SEM_SEG_HEADS")
SEM_SEG_HEADS_REGISTRY.__doc__ = "Callables (cfg, input_shape: dict of ShapeSpec), picked by MODEL.SEM_SEG_HEAD.NAME."


def build_sem_seg_head(cfg, input_shape: dict[str, ShapeSpec]) -> nn.Module:
    """Build MODEL.SEM_SEG_HEAD.NAME for these features."""
    return SEM_SEG_HEADS_REGISTRY.get(cfg.MODEL.SEM_SEG_HEAD.NAME)(cfg, input_shape)


def __getattr__(name: str):
    raise missing_attribute(__name__, name, ("SemSegFPNHead", "SemanticSegmentor"))
