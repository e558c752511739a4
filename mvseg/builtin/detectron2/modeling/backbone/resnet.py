"""Residual networks (He et al. 2016) with the options of detection: frozen norms, dilation."""

from itertools import pairwise

import fvcore.nn.weight_init as weight_init
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..._missing import missing, module_getattr
from ...layers import CNNBlockBase, Conv2d, ShapeSpec, get_norm
from .backbone import Backbone
from .build import BACKBONE_REGISTRY

__getattr__ = module_getattr(__name__)

ResNetBlockBase = CNNBlockBase

_BLOCKS_PER_STAGE = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def _conv(in_channels: int, out_channels: int, kernel_size: int, norm, **kwargs) -> Conv2d:
    return Conv2d(in_channels, out_channels, kernel_size, bias=False, norm=get_norm(norm, out_channels), **kwargs)


class _Residual(CNNBlockBase):
    """Shortcut plus a branch conv1, conv2, ...; the shortcut is a 1x1 convolution where the channels change."""

    _names = ("conv1", "conv2")

    def __init__(self, in_channels, out_channels, stride, norm):
        super().__init__(in_channels, out_channels, stride)
        self.shortcut = None
        if in_channels != out_channels:
            self.shortcut = _conv(in_channels, out_channels, 1, norm, stride=stride)

    def _fill(self) -> None:
        # The shortcut comes last: part of the reproducible order of random numbers.
        for name in (*self._names, "shortcut"):
            if getattr(self, name) is not None:
                weight_init.c2_msra_fill(getattr(self, name))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.shortcut is None else self.shortcut(x)
        x = self.conv1(x)
        for name in self._names[1:]:
            x = getattr(self, name)(F.relu_(x))
        return F.relu_(x + shortcut)


class BasicBlock(_Residual):
    """Two 3x3 convolutions (ResNet-18 and 34)."""

    def __init__(self, in_channels, out_channels, *, stride=1, norm="BN"):
        super().__init__(in_channels, out_channels, stride, norm)
        self.conv1 = _conv(in_channels, out_channels, 3, norm, stride=stride, padding=1)
        self.conv2 = _conv(out_channels, out_channels, 3, norm, padding=1)
        self._fill()


class BottleneckBlock(_Residual):
    """1x1, 3x3, 1x1 convolutions; `stride_in_1x1` puts the stride in the first (as in the MSRA weights)."""

    _names = ("conv1", "conv2", "conv3")

    def __init__(
        self,
        in_channels,
        out_channels,
        *,
        bottleneck_channels,
        stride=1,
        num_groups=1,
        norm="BN",
        stride_in_1x1=False,
        dilation=1,
    ):
        super().__init__(in_channels, out_channels, stride, norm)
        first, middle = (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1 = _conv(in_channels, bottleneck_channels, 1, norm, stride=first)
        spatial = {"stride": middle, "padding": dilation, "dilation": dilation, "groups": num_groups}
        self.conv2 = _conv(bottleneck_channels, bottleneck_channels, 3, norm, **spatial)
        self.conv3 = _conv(bottleneck_channels, out_channels, 1, norm)
        self._fill()


class BasicStem(CNNBlockBase):
    """7x7 convolution and max-pooling: stride 4."""

    def __init__(self, in_channels=3, out_channels=64, norm="BN"):
        super().__init__(in_channels, out_channels, 4)
        self.conv1 = _conv(in_channels, out_channels, 7, norm, stride=2, padding=3)
        weight_init.c2_msra_fill(self.conv1)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.relu_(self.conv1(x)), kernel_size=3, stride=2, padding=1)


class ResNet(Backbone):
    """A stem and stages of blocks, named "stem", "res2", "res3", ..."""

    def __init__(self, stem, stages, num_classes=None, out_features=None, freeze_at=0):
        super().__init__()
        self.stem, self.num_classes = stem, num_classes
        self._out_feature_strides = {"stem": stem.stride}
        self._out_feature_channels = {"stem": stem.out_channels}
        if out_features is not None:
            # Stages behind the last one wanted would only cost time.
            stages = stages[: max((int(name[3:]) - 1 for name in out_features if name[:3] == "res"), default=0)]
        self.stage_names = tuple(f"res{index}" for index in range(2, len(stages) + 2))
        self.stages = []
        stride, channels = stem.stride, stem.out_channels
        for name, blocks in zip(self.stage_names, stages):
            for block in blocks:
                stride *= block.stride
            channels = blocks[-1].out_channels
            stage = nn.Sequential(*blocks)
            self.add_module(name, stage)
            self.stages.append(stage)
            self._out_feature_strides[name] = stride
            self._out_feature_channels[name] = channels
        last = self.stage_names[-1] if stages else "stem"
        if num_classes is not None:
            self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
            self.linear = nn.Linear(channels, num_classes)
            nn.init.normal_(self.linear.weight, std=0.01)
            last = "linear"
        self._out_features = [last] if out_features is None else out_features
        children = [name for name, _ in self.named_children()]
        if not self._out_features or not set(self._out_features) <= set(children):
            raise AssertionError(f"ResNet outputs {self._out_features} must be among {', '.join(children)}")
        self.freeze(freeze_at)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map images (N, C, H, W) to the features asked for."""
        features = {"stem": self.stem(x)}
        x = features["stem"]
        for name, stage in zip(self.stage_names, self.stages):
            features[name] = x = stage(x)
        if self.num_classes is not None:
            features["linear"] = self.linear(torch.flatten(self.avgpool(x), 1))
        return {name: features[name] for name in features if name in self._out_features}

    def freeze(self, freeze_at=0):
        """Freeze the stem (from 1) and the stages "res2" (from 2), "res3" (from 3), ...; returns the network."""
        if freeze_at >= 1:
            self.stem.freeze()
        for stage in self.stages[: max(freeze_at - 1, 0)]:
            for block in stage.children():
                block.freeze()
        return self

    @staticmethod
    def make_stage(block_class, num_blocks, *, in_channels, out_channels, **kwargs):
        """Build a stage's blocks; only the first has `in_channels`; `<name>_per_block=[...]` gives each its own."""
        ending = "_per_block"
        varying = {name.removesuffix(ending): kwargs.pop(name) for name in list(kwargs) if name.endswith(ending)}
        for name, values in varying.items():
            if len(values) != num_blocks or name in kwargs:
                raise AssertionError(f"{name}{ending} needs {num_blocks} values, and no {name} beside it: {values}")
        blocks = []
        for index in range(num_blocks):
            own = {name: values[index] for name, values in varying.items()}
            blocks.append(block_class(in_channels=in_channels, out_channels=out_channels, **own, **kwargs))
            in_channels = out_channels
        return blocks

    @staticmethod
    def make_default_stages(depth, block_class=None, **kwargs):
        """The four stages of a standard network of 18, 34, 50, 101 or 152 layers; kwargs go to every block."""
        basic = depth < 50
        block_class = block_class or (BasicBlock if basic else BottleneckBlock)
        channels = [64, 64, 128, 256, 512] if basic else [64, 256, 512, 1024, 2048]
        stages = []
        for number, stride, (before, after) in zip(_BLOCKS_PER_STAGE[depth], (1, 2, 2, 2), pairwise(channels)):
            extra = {} if basic else {"bottleneck_channels": after // 4}
            extra |= {"stride_per_block": [stride] + [1] * (number - 1), "in_channels": before, "out_channels": after}
            stages.append(ResNet.make_stage(block_class, number, **extra, **kwargs))
        return stages


make_stage = ResNet.make_stage


@BACKBONE_REGISTRY.register()
def build_resnet_backbone(cfg, input_shape: ShapeSpec) -> ResNet:
    """Build the network of MODEL.RESNETS for images with `input_shape.channels` channels."""
    options = cfg.MODEL.RESNETS
    stem = BasicStem(input_shape.channels, options.STEM_OUT_CHANNELS, options.NORM)
    basic = options.DEPTH in (18, 34)
    _check_resnet_options(options, basic)
    in_channels, out_channels = options.STEM_OUT_CHANNELS, options.RES2_OUT_CHANNELS
    bottleneck = options.NUM_GROUPS * options.WIDTH_PER_GROUP
    stages = []
    for index, number in enumerate(_BLOCKS_PER_STAGE[options.DEPTH]):
        dilation = options.RES5_DILATION if index == 3 else 1
        stride = 1 if index == 0 or dilation == 2 else 2
        block = {"norm": options.NORM, "in_channels": in_channels, "out_channels": out_channels}
        if not basic:
            block |= {"num_groups": options.NUM_GROUPS, "stride_in_1x1": options.STRIDE_IN_1X1}
            block |= {"bottleneck_channels": bottleneck, "dilation": dilation}
        strides = [stride] + [1] * (number - 1)
        stages.append(make_stage(BasicBlock if basic else BottleneckBlock, number, stride_per_block=strides, **block))
        in_channels, out_channels, bottleneck = out_channels, out_channels * 2, bottleneck * 2
    return ResNet(stem, stages, out_features=options.OUT_FEATURES, freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT)


def _check_resnet_options(options, basic: bool) -> None:
    if any(options.DEFORM_ON_PER_STAGE):
        raise missing("modeling.backbone.resnet.DeformBottleneckBlock")
    if options.RES5_DILATION not in (1, 2):
        raise AssertionError(f"MODEL.RESNETS.RES5_DILATION is 1 or 2, not {options.RES5_DILATION}")
    if basic and (options.RES5_DILATION, options.NUM_GROUPS, options.RES2_OUT_CHANNELS) != (1, 1, 64):
        raise AssertionError(f"MODEL.RESNETS.DEPTH {options.DEPTH}: RES5_DILATION, NUM_GROUPS 1, RES2_OUT_CHANNELS 64")
