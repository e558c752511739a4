"""Rotated boxes are not in the built-in provider: the names import, using them says how to install Detectron2."""

from .._missing import missing, placeholder

RotatedBoxes = placeholder("structures.rotated_boxes.RotatedBoxes")


def pairwise_iou(*args, **kwargs):
    raise missing("structures.rotated_boxes.pairwise_iou")
