"""Not part of the built-in provider."""

from detectron2._missing import missing

raise missing("projects.panoptic_deeplab")
