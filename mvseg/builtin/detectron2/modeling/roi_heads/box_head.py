"""The part of a box head between pooled features and the predictor."""

import math

import fvcore.nn.weight_init as weight_init
from torch import Tensor, nn

from ...config import configurable
from ...layers import Conv2d, ShapeSpec, get_norm
from ...utils.registry import Registry

ROI_BOX_HEAD_REGISTRY = Registry("ROI_BOX_HEAD")
ROI_BOX_HEAD_REGISTRY.__doc__ = "Callables (cfg, input_shape: ShapeSpec) -> head, picked by MODEL.ROI_BOX_HEAD.NAME."


def conv_norm_relu(in_channels: int, out_channels: int, norm: str) -> Conv2d:
    """Make the 3x3 convolution that box and mask heads are built of; it has a bias where it has no norm."""
    options = {"bias": not norm, "norm": get_norm(norm, out_channels), "activation": nn.ReLU()}
    return Conv2d(in_channels, out_channels, kernel_size=3, padding=1, **options)


@ROI_BOX_HEAD_REGISTRY.register()
class FastRCNNConvFCHead(nn.Sequential):
    """3x3 convolutions, then linear layers, each with ReLU."""

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, conv_dims: list[int], fc_dims: list[int], conv_norm=""):
        super().__init__()
        if not conv_dims and not fc_dims:
            raise AssertionError("FastRCNNConvFCHead needs at least one convolution or linear layer")
        shape = (input_shape.channels, input_shape.height, input_shape.width)
        self.conv_norm_relus, self.fcs = [], []
        for index, width in enumerate(conv_dims, start=1):
            conv = conv_norm_relu(shape[0], width, conv_norm)
            self.add_module(f"conv{index}", conv)
            self.conv_norm_relus.append(conv)
            shape = (width, *shape[1:])
        for index, width in enumerate(fc_dims, start=1):
            if index == 1:
                self.add_module("flatten", nn.Flatten())
            fc = nn.Linear(math.prod(shape), width)
            self.add_module(f"fc{index}", fc)
            self.add_module(f"fc_relu{index}", nn.ReLU())
            self.fcs.append(fc)
            shape = (width,)
        self._output_size = shape
        for conv in self.conv_norm_relus:
            weight_init.c2_msra_fill(conv)
        for fc in self.fcs:
            weight_init.c2_xavier_fill(fc)

    @classmethod
    def from_config(cls, cfg, input_shape):
        options = cfg.MODEL.ROI_BOX_HEAD
        widths = {"conv_dims": [options.CONV_DIM] * options.NUM_CONV, "fc_dims": [options.FC_DIM] * options.NUM_FC}
        return {"input_shape": input_shape, "conv_norm": options.NORM, **widths}

    def forward(self, x: Tensor) -> Tensor:
        """Map (R, C, H, W) to (R, width), or to maps where there are only convolutions."""
        for layer in self:
            x = layer(x)
        return x

    @property
    def output_shape(self) -> ShapeSpec:
        """Channels, and height and width if the result is a map."""
        return ShapeSpec(**dict(zip(("channels", "height", "width"), self._output_size)))


def build_box_head(cfg, input_shape: ShapeSpec) -> nn.Module:
    """Build MODEL.ROI_BOX_HEAD.NAME for pooled features of this shape."""
    return ROI_BOX_HEAD_REGISTRY.get(cfg.MODEL.ROI_BOX_HEAD.NAME)(cfg, input_shape)
