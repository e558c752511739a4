"""Class-agnostic localisation; importing this package registers the generators."""

from mvseg.modeling.proposals.centernet import CenterNet

__all__ = ["CenterNet"]
