"""Base of the random policies: an Augmentation looks at an AugInput, decides on a Transform and applies it."""

from __future__ import annotations

import inspect
import pprint
from collections.abc import Sequence
from typing import Any

import numpy as np
from fvcore.transforms.transform import Transform, TransformList


def _check_img_dtype(img: np.ndarray) -> None:
    if not isinstance(img, np.ndarray) or img.ndim not in (2, 3):
        raise AssertionError(f"an image must be a numpy array (H, W) or (H, W, C), not {type(img)} {np.shape(img)}")


def _wanted_inputs(aug: Augmentation) -> tuple[str, ...]:
    """Names of the AugInput attributes that ``aug.get_transform`` takes. A single argument is always the image."""
    if aug.input_args is not None:
        return tuple(aug.input_args)
    parameters = inspect.signature(aug.get_transform).parameters.values()
    if len(parameters) == 1:
        return ("image",)
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        raise TypeError(f"{type(aug).__name__}.get_transform takes *args or **kwargs: name its arguments")
    return tuple(p.name for p in parameters)


def _get_aug_input_args(aug: Augmentation, aug_input: AugInput) -> list[Any]:
    names = _wanted_inputs(aug)
    missing = [name for name in names if not hasattr(aug_input, name)]
    if missing:
        raise AttributeError(f"{type(aug).__name__} needs {', '.join(missing)}: {type(aug_input).__name__} has none")
    return [getattr(aug_input, name) for name in names]


class Augmentation:
    """Base of all policies: override ``get_transform(self, image, ...)``; its arguments name AugInput attributes."""

    input_args: Sequence[str] | None = None

    def _init(self, params: dict[str, Any] | None = None) -> None:
        """Keep the constructor's arguments as attributes: ``self._init(locals())``."""
        for name, value in (params or {}).items():
            if name != "self" and not name.startswith("_"):
                setattr(self, name, value)

    def get_transform(self, *args: Any) -> Transform:
        """Choose a transform for these inputs."""
        raise NotImplementedError(f"{type(self).__name__} must define get_transform")

    def __call__(self, aug_input: AugInput) -> Transform:
        """Choose a transform, apply it to the input in place, and return it."""
        chosen = self.get_transform(*_get_aug_input_args(self, aug_input))
        if not isinstance(chosen, (Transform, TransformList)):
            raise TypeError(f"{type(self).__name__}.get_transform returned {type(chosen).__name__}, not a Transform")
        aug_input.transform(chosen)
        return chosen

    def _rand_range(self, low: float = 1.0, high: float | None = None, size: Any = None) -> Any:
        """Draw uniformly from [low, high); with one bound from [0, low)."""
        bounds = (0, low) if high is None else (low, high)
        return np.random.uniform(*bounds, size if size is not None else [])

    def __repr__(self) -> str:
        shown = []
        _, *parameters = inspect.signature(type(self).__init__).parameters.items()
        for name, parameter in parameters:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or not hasattr(self, name):
                return object.__repr__(self)
            value = getattr(self, name)
            if value is not parameter.default:
                text = pprint.pformat(value)
                shown.append(f"{name}=..." if "\n" in text else f"{name}={text}")
        return f"{type(self).__name__}({', '.join(shown)})"

    __str__ = __repr__


class _TransformToAug(Augmentation):
    """A fixed transform where a policy is expected."""

    def __init__(self, tfm: Transform) -> None:
        self.tfm = tfm

    def get_transform(self, *args: Any) -> Transform:
        return self.tfm

    def __call__(self, aug_input: AugInput) -> Transform:
        aug_input.transform(self.tfm)
        return self.tfm

    def __repr__(self) -> str:
        return repr(self.tfm)

    __str__ = __repr__


def _transform_to_aug(tfm_or_aug: Augmentation | Transform) -> Augmentation:
    if isinstance(tfm_or_aug, Augmentation):
        return tfm_or_aug
    if isinstance(tfm_or_aug, (Transform, TransformList)):
        return _TransformToAug(tfm_or_aug)
    raise TypeError(f"neither an Augmentation nor a Transform: {tfm_or_aug!r}")


class AugmentationList(Augmentation):
    """Policies applied one after the other, each seeing what the earlier ones have made."""

    def __init__(self, augs: Sequence[Augmentation | Transform]) -> None:
        self.augs = [_transform_to_aug(aug) for aug in augs]

    def __call__(self, aug_input: AugInput) -> TransformList:
        """Apply all policies to the input in place and return their transforms."""
        return TransformList([aug(aug_input) for aug in self.augs])

    def __repr__(self) -> str:
        return f"AugmentationList[{', '.join(map(repr, self.augs))}]"

    __str__ = __repr__


class AugInput:
    """What augmentations transform together: image (H, W[, C]), boxes (N, 4) absolute XYXY, sem_seg (H, W) labels.

    Subclasses may carry more; then they override ``transform``.
    """

    def __init__(
        self, image: np.ndarray, *, boxes: np.ndarray | None = None, sem_seg: np.ndarray | None = None
    ) -> None:
        _check_img_dtype(image)
        self.image, self.boxes, self.sem_seg = image, boxes, sem_seg

    def transform(self, tfm: Transform) -> None:
        """Apply one transform to everything, in place."""
        self.image = tfm.apply_image(self.image)
        if self.boxes is not None:
            self.boxes = tfm.apply_box(self.boxes)
        if self.sem_seg is not None:
            self.sem_seg = tfm.apply_segmentation(self.sem_seg)

    def apply_augmentations(self, augmentations: Sequence[Augmentation | Transform]) -> TransformList:
        """Apply policies in order, in place; the same as ``AugmentationList(augmentations)(self)``."""
        return AugmentationList(augmentations)(self)


def apply_augmentations(
    augmentations: Sequence[Augmentation | Transform], inputs: np.ndarray | AugInput
) -> tuple[np.ndarray | AugInput, TransformList]:
    """Apply policies to an image or an AugInput; return what became of it, and the transforms that were used."""
    is_image = isinstance(inputs, np.ndarray)
    carrier = AugInput(inputs) if is_image else inputs
    transforms = carrier.apply_augmentations(augmentations)
    return (carrier.image if is_image else carrier), transforms


TransformGen = Augmentation
StandardAugInput = AugInput
apply_transform_gens = apply_augmentations
