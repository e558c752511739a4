"""Keypoints are not in the built-in provider: the names import, using them says how to install Detectron2."""

from .._missing import missing, placeholder

Keypoints = placeholder("structures.keypoints.Keypoints")


def heatmaps_to_keypoints(*args, **kwargs):
    raise missing("structures.keypoints.heatmaps_to_keypoints")
