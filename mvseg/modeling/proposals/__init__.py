"""Class-agnostic localisation; importing this package registers the generators."""

from mvseg.modeling.proposals.centernet import CenterNet
from mvseg.modeling.proposals.localization import LocalizationRPN
from mvseg.modeling.proposals.rpn import MultiDatasetRPN

__all__ = ["CenterNet", "LocalizationRPN", "MultiDatasetRPN"]
