"""An older place of the registration function."""

from .coco import register_coco_instances  # noqa: F401
