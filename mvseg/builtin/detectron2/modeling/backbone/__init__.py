"""Backbones: ResNet, FPN, Swin, and their registry."""

# ruff: noqa: F401 (re-exports)

from ..._missing import module_getattr
from .backbone import Backbone
from .build import BACKBONE_REGISTRY, build_backbone
from .fpn import FPN
from .resnet import BasicStem, BottleneckBlock, ResNet, ResNetBlockBase, build_resnet_backbone, make_stage
from .swin import SwinTransformer

__getattr__ = module_getattr(__name__)
