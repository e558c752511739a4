"""Region heads; importing this package registers them."""

from mvseg.modeling.roi_heads.cascade import MultiDatasetCascadeROIHeads
from mvseg.modeling.roi_heads.clip_res5 import ClipRes5ROIHeads
from mvseg.modeling.roi_heads.distillation import DistillingCascadeROIHeads
from mvseg.modeling.roi_heads.localization import LocalizationROIHeads
from mvseg.modeling.roi_heads.res5 import MultiDatasetRes5ROIHeads

__all__ = [
    "ClipRes5ROIHeads",
    "DistillingCascadeROIHeads",
    "LocalizationROIHeads",
    "MultiDatasetCascadeROIHeads",
    "MultiDatasetRes5ROIHeads",
]
