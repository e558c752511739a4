"""Geometric and colour transforms, and the random policies (augmentations) that make them; usually imported as T."""

# ruff: noqa: F401, I001 (re-exports)

from fvcore.transforms.transform import BlendTransform, CropTransform, GridSampleTransform, HFlipTransform
from fvcore.transforms.transform import NoOpTransform, PadTransform, ScaleTransform, Transform, TransformList
from fvcore.transforms.transform import VFlipTransform

from ..._missing import module_getattr
from .augmentation import AugInput, Augmentation, AugmentationList, StandardAugInput, TransformGen
from .augmentation import apply_augmentations, apply_transform_gens
from .augmentation_impl import FixedSizeCrop, RandomCrop, RandomCrop_CategoryAreaConstraint
from .augmentation_impl import RandomApply, RandomBrightness, RandomContrast, RandomFlip, RandomResize
from .augmentation_impl import RandomSaturation, Resize, ResizeScale, ResizeShortestEdge
from .transform import ColorTransform, PILColorTransform, ResizeTransform

__getattr__ = module_getattr(__name__)
