"""Detectron2's bundled projects are not part of the built-in provider."""

from typing import Any

from detectron2._missing import missing_attribute

_PROJECTS = ("point_rend", "deeplab", "panoptic_deeplab")


def __getattr__(name: str) -> Any:
    raise missing_attribute(__name__, name, known=_PROJECTS)
