"""Losses: pure functions of tensors, and the objectives that a config picks by name and supervision."""

from mvseg.modeling.objectives.balanced_groups import BalancedGroupSoftmaxObjective
from mvseg.modeling.objectives.captions import CaptionObjective, CaptionTargets
from mvseg.modeling.objectives.classification import FederatedObjective, SigmoidObjective, SoftmaxObjective
from mvseg.modeling.objectives.equalization import EqualizationObjective, EqualizationV2Objective
from mvseg.modeling.objectives.focal import FocalObjective
from mvseg.modeling.objectives.registry import (
    OBJECTIVES,
    RegionObjective,
    build_objectives,
    chosen_objectives,
)
from mvseg.modeling.objectives.scaledet import ScaleDetObjective
from mvseg.modeling.objectives.seesaw import SeesawObjective
from mvseg.modeling.objectives.tags import ImageLabelObjective, ImageLabelTargets
from mvseg.modeling.objectives.targets import RegionTargets

__all__ = [
    "OBJECTIVES",
    "BalancedGroupSoftmaxObjective",
    "CaptionObjective",
    "CaptionTargets",
    "EqualizationObjective",
    "EqualizationV2Objective",
    "FederatedObjective",
    "FocalObjective",
    "ImageLabelObjective",
    "ImageLabelTargets",
    "RegionObjective",
    "RegionTargets",
    "ScaleDetObjective",
    "SeesawObjective",
    "SigmoidObjective",
    "SoftmaxObjective",
    "build_objectives",
    "chosen_objectives",
]
