"""Losses: pure functions of tensors, and the objectives that a config picks by name and supervision."""

from mvseg.modeling.objectives.captions import CaptionObjective, CaptionTargets
from mvseg.modeling.objectives.classification import FederatedObjective, SigmoidObjective, SoftmaxObjective
from mvseg.modeling.objectives.registry import (
    OBJECTIVES,
    RegionObjective,
    RegionTargets,
    build_objectives,
    chosen_objectives,
)
from mvseg.modeling.objectives.scaledet import ScaleDetObjective
from mvseg.modeling.objectives.tags import ImageLabelObjective, ImageLabelTargets

__all__ = [
    "OBJECTIVES",
    "CaptionObjective",
    "CaptionTargets",
    "FederatedObjective",
    "ImageLabelObjective",
    "ImageLabelTargets",
    "RegionObjective",
    "RegionTargets",
    "ScaleDetObjective",
    "SigmoidObjective",
    "SoftmaxObjective",
    "build_objectives",
    "chosen_objectives",
]
