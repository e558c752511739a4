"""Layers that torch lacks, or has in another shape."""

# ruff: noqa: F401 (re-exports)

from .._missing import missing_attribute
from .batch_norm import FrozenBatchNorm2d, LayerNorm, NaiveSyncBatchNorm, get_norm
from .blocks import CNNBlockBase
from .deform_conv import DeformConv, ModulatedDeformConv
from .losses import ciou_loss, diou_loss
from .mask_ops import paste_masks_in_image
from .nms import batched_nms, nms
from .roi_align import ROIAlign
from .shape_spec import ShapeSpec
from .wrappers import (
    BatchNorm2d,
    Conv2d,
    ConvTranspose2d,
    Linear,
    cat,
    cross_entropy,
    empty_input_loss_func_wrapper,
    interpolate,
    move_device_like,
    nonzero_tuple,
    shapes_to_tensor,
)

_LEFT_OUT = (
    "ASPP",
    "CycleBatchNormList",
    "DepthwiseSeparableConv2d",
    "ROIAlignRotated",
    "aspp",
    "batched_nms_rotated",
    "nms_rotated",
    "roi_align_rotated",
    "rotated_boxes",
)


def __getattr__(name: str):
    raise missing_attribute(__name__, name, _LEFT_OUT)
