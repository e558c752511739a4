"""Registry of semantic segmentation heads; the heads themselves come from extensions."""

from torch import nn

from ..._missing import module_getattr
from ...layers import ShapeSpec
from ...utils.registry import Registry

SEM_SEG_HEADS_REGISTRY = Registry("SEM_SEG_HEADS")
SEM_SEG_HEADS_REGISTRY.__doc__ = "Callables (cfg, input_shape: dict of ShapeSpec), picked by MODEL.SEM_SEG_HEAD.NAME."


def build_sem_seg_head(cfg, input_shape: dict[str, ShapeSpec]) -> nn.Module:
    """Build MODEL.SEM_SEG_HEAD.NAME for these features."""
    return SEM_SEG_HEADS_REGISTRY.get(cfg.MODEL.SEM_SEG_HEAD.NAME)(cfg, input_shape)


__getattr__ = module_getattr(__name__)
