"""Feature pyramid networks (Lin et al. 2017) and the coarser levels on top of them."""

import math
from itertools import pairwise

import fvcore.nn.weight_init as weight_init
from torch import Tensor, nn
from torch.nn import functional as F

from ...layers import Conv2d, ShapeSpec, get_norm
from .backbone import Backbone
from .build import BACKBONE_REGISTRY
from .resnet import build_resnet_backbone


class FPN(Backbone):
    """A top-down path with lateral connections; outputs "p<log2 stride>", all with `out_channels` channels."""

    def __init__(self, bottom_up, in_features, out_channels, norm="", top_block=None, fuse_type="sum", square_pad=0):
        super().__init__()
        if fuse_type not in ("sum", "avg"):
            raise AssertionError(f'MODEL.FPN.FUSE_TYPE is "sum" or "avg", not {fuse_type!r}')
        shapes = bottom_up.output_shape()
        strides = [shapes[name].stride for name in in_features]
        _assert_strides_are_log2_contiguous(strides)
        levels = [int(math.log2(stride)) for stride in strides]
        lateral, output = [], []
        for name, level in zip(in_features, levels):
            for kind, in_channels, size, found in (
                ("lateral", shapes[name].channels, 1, lateral),
                ("output", out_channels, 3, output),
            ):
                options = {"padding": size // 2, "bias": norm == "", "norm": get_norm(norm, out_channels)}
                conv = Conv2d(in_channels, out_channels, size, **options)
                self.add_module(f"fpn_{kind}{level}", conv)
                found.append(conv)
            # Both are made before either is filled: part of the reproducible order of random numbers.
            weight_init.c2_xavier_fill(lateral[-1])
            weight_init.c2_xavier_fill(output[-1])
        # Coarsest first, as they run. Plain lists: the modules are registered under their own names already.
        self.lateral_convs, self.output_convs = lateral[::-1], output[::-1]
        self.bottom_up, self.top_block, self.in_features = bottom_up, top_block, tuple(in_features)
        extra = top_block.num_levels if top_block is not None else 0
        self._out_feature_strides = {f"p{level}": 2**level for level in range(levels[0], levels[-1] + extra + 1)}
        self._out_features = list(self._out_feature_strides)
        self._out_feature_channels = dict.fromkeys(self._out_features, out_channels)
        self._size_divisibility, self._square_pad, self._fuse_type = strides[-1], square_pad, fuse_type

    @property
    def size_divisibility(self):
        return self._size_divisibility

    @property
    def padding_constraints(self):
        return {"square_size": self._square_pad}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map images to {"p2": ..., "p3": ...}, finest first."""
        below = self.bottom_up(x)
        results: list[Tensor] = []
        merged = None
        for name, lateral, output in zip(self.in_features[::-1], self.lateral_convs, self.output_convs):
            side = lateral(below[name])
            if merged is not None:
                side = side + F.interpolate(merged, scale_factor=2.0, mode="nearest")
            merged = side / 2 if self._fuse_type == "avg" and merged is not None else side
            results.insert(0, output(merged))
        if self.top_block is not None:
            source = self.top_block.in_feature
            top = below[source] if source in below else results[self._out_features.index(source)]
            results.extend(self.top_block(top))
        return dict(zip(self._out_features, results, strict=True))


def _assert_strides_are_log2_contiguous(strides) -> None:
    if any(coarse != 2 * fine for fine, coarse in pairwise(strides)):
        raise AssertionError(f"Strides of FPN inputs must double from one to the next: {list(strides)}")


class LastLevelMaxPool(nn.Module):
    """P6 as every second cell of P5."""

    def __init__(self):
        super().__init__()
        self.num_levels, self.in_feature = 1, "p5"

    def forward(self, x: Tensor) -> list[Tensor]:
        return [F.max_pool2d(x, kernel_size=1, stride=2)]


class LastLevelP6P7(nn.Module):
    """P6 and P7 by strided 3x3 convolutions (RetinaNet)."""

    def __init__(self, in_channels, out_channels, in_feature="res5"):
        super().__init__()
        self.num_levels, self.in_feature = 2, in_feature
        self.p6 = nn.Conv2d(in_channels, out_channels, 3, 2, 1)
        self.p7 = nn.Conv2d(out_channels, out_channels, 3, 2, 1)
        weight_init.c2_xavier_fill(self.p6)
        weight_init.c2_xavier_fill(self.p7)

    def forward(self, c5: Tensor) -> list[Tensor]:
        p6 = self.p6(c5)
        return [p6, self.p7(F.relu(p6))]


def _fpn(cfg, bottom_up: Backbone, top_block: nn.Module) -> FPN:
    options = cfg.MODEL.FPN
    return FPN(bottom_up, options.IN_FEATURES, options.OUT_CHANNELS, options.NORM, top_block, options.FUSE_TYPE)


@BACKBONE_REGISTRY.register()
def build_resnet_fpn_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """ResNet with an FPN p2 to p5 and p6 by pooling."""
    return _fpn(cfg, build_resnet_backbone(cfg, input_shape), LastLevelMaxPool())


@BACKBONE_REGISTRY.register()
def build_retinanet_resnet_fpn_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """ResNet with an FPN p3 to p5 and p6, p7 by convolutions on res5."""
    bottom_up = build_resnet_backbone(cfg, input_shape)
    channels = bottom_up.output_shape()["res5"].channels
    return _fpn(cfg, bottom_up, LastLevelP6P7(channels, cfg.MODEL.FPN.OUT_CHANNELS))
