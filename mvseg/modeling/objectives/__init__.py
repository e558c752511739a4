"""Losses: pure functions of tensors, and the objectives that a config picks by name and supervision."""

from mvseg.modeling.objectives.classification import FederatedObjective, SigmoidObjective, SoftmaxObjective
from mvseg.modeling.objectives.registry import OBJECTIVES, RegionObjective, RegionTargets, build_objectives

__all__ = [
    "OBJECTIVES",
    "FederatedObjective",
    "RegionObjective",
    "RegionTargets",
    "SigmoidObjective",
    "SoftmaxObjective",
    "build_objectives",
]
