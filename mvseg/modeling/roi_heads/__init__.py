"""Region heads; importing this package registers them."""

from mvseg.modeling.roi_heads.cascade import MultiDatasetCascadeROIHeads

__all__ = ["MultiDatasetCascadeROIHeads"]
