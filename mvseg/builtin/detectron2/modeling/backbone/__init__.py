"""Backbones: ResNet, FPN, Swin, and their registry."""

# ruff: noqa: F401 (re-exports)

from ..._missing import missing_attribute
from .backbone import Backbone
from .build import BACKBONE_REGISTRY, build_backbone
from .fpn import FPN
from .resnet import BasicStem, BottleneckBlock, ResNet, ResNetBlockBase, build_resnet_backbone, make_stage
from .swin import SwinTransformer

_LEFT_OUT = ("MViT", "RegNet", "SimpleFeaturePyramid", "ViT", "get_vit_lr_decay_rate", "mvit", "regnet", "utils", "vit")


def __getattr__(name: str):
    raise missing_attribute(__name__, name, _LEFT_OUT)
