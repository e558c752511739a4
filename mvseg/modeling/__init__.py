"""Parts of the models; importing this package registers them all with Detectron2."""

from mvseg.modeling.backbones import TimmBackbone
from mvseg.modeling.classifier import LinearClassifier, TextClassifier
from mvseg.modeling.meta_arch import MultiDatasetRCNN
from mvseg.modeling.objectives import OBJECTIVES, RegionObjective, RegionTargets
from mvseg.modeling.proposals import CenterNet, MultiDatasetRPN
from mvseg.modeling.roi_heads import MultiDatasetCascadeROIHeads, MultiDatasetRes5ROIHeads

__all__ = [
    "OBJECTIVES",
    "CenterNet",
    "LinearClassifier",
    "MultiDatasetCascadeROIHeads",
    "MultiDatasetRCNN",
    "MultiDatasetRPN",
    "MultiDatasetRes5ROIHeads",
    "RegionObjective",
    "RegionTargets",
    "TextClassifier",
    "TimmBackbone",
]
