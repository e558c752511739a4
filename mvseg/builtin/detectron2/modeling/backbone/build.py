"""Registry of backbones."""

from ...layers import ShapeSpec
from ...utils.registry import Registry
from .backbone import Backbone

BACKBONE_REGISTRY = Registry("BACKBONE")
BACKBONE_REGISTRY.__doc__ = "Callables (cfg, input_shape: ShapeSpec) -> Backbone, picked by MODEL.BACKBONE.NAME."


def build_backbone(cfg, input_shape: ShapeSpec | None = None) -> Backbone:
    """Build MODEL.BACKBONE.NAME for images of the given channels (default: as many as MODEL.PIXEL_MEAN has)."""
    if input_shape is None:
        input_shape = ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN))
    backbone = BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.NAME)(cfg, input_shape)
    if not isinstance(backbone, Backbone):
        raise AssertionError(f"MODEL.BACKBONE.NAME {cfg.MODEL.BACKBONE.NAME} gave a {type(backbone)}, no Backbone")
    return backbone
