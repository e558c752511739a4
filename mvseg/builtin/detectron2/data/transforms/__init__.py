"""Geometric and colour transforms, and the random policies (augmentations) that make them; usually imported as T."""

from fvcore.transforms.transform import (
    BlendTransform,
    CropTransform,
    GridSampleTransform,
    HFlipTransform,
    NoOpTransform,
    PadTransform,
    ScaleTransform,
    Transform,
    TransformList,
    VFlipTransform,
)

from . import augmentation, augmentation_impl, transform
from .augmentation import *  # noqa: F403
from .augmentation import __all__ as _augmentation_names
from .augmentation_impl import *  # noqa: F403
from .augmentation_impl import __all__ as _policy_names
from .transform import *  # noqa: F403
from .transform import __all__ as _transform_names

__all__ = [
    "BlendTransform",
    "CropTransform",
    "GridSampleTransform",
    "HFlipTransform",
    "NoOpTransform",
    "PadTransform",
    "ScaleTransform",
    "Transform",
    "TransformList",
    "VFlipTransform",
    "augmentation",
    "augmentation_impl",
    "transform",
    *_augmentation_names,
    *_policy_names,
    *_transform_names,
]
