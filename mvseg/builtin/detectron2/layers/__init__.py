"""Layers that torch lacks, or has in another shape."""

# ruff: noqa: F401 (re-exports)

from torch.nn import BatchNorm2d, ConvTranspose2d, Linear
from torch.nn.functional import interpolate

from .._missing import module_getattr
from .batch_norm import FrozenBatchNorm2d, LayerNorm, NaiveSyncBatchNorm, get_norm
from .blocks import CNNBlockBase
from .losses import ciou_loss, diou_loss
from .mask_ops import paste_masks_in_image
from .nms import batched_nms, nms
from .roi_align import ROIAlign
from .shape_spec import ShapeSpec
from .wrappers import Conv2d, cat, cross_entropy, move_device_like, nonzero_tuple, shapes_to_tensor

__getattr__ = module_getattr(__name__)
