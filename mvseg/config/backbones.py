"""Keys of backbones: timm, Swin Transformers, CLIP."""

from __future__ import annotations

from detectron2.config import CfgNode as CN


def add_trunk_config(cfg: CN) -> None:
    """Add the keys of timm's models and of Swin Transformers.

    Args:
        cfg: the tree, changed in place.
    """
    # Any timm model with features_only (MODEL.BACKBONE.NAME build_timm_fpn_backbone).
    node = cfg.MODEL.TIMM = CN()
    node.NAME = "resnet50"
    node.OUT_INDICES = [2, 3, 4]  # features of strides 8, 16, 32 in a ResNet
    node.PRETRAINED = False  # True downloads timm's weights
    node.NORM = "FrozenBN"  # FrozenBN, BN, SyncBN, GN or "" (as the model has it)
    node.FREEZE_AT = 0
    node.DROP_PATH = 0.0  # largest probability that a block is left out in training; Detic: 0.2 for ConvNeXt-T
    # Swin Transformers for detection (MODEL.BACKBONE.NAME build_swin_fpn_backbone).
    node = cfg.MODEL.SWIN = CN()
    node.SIZE = "B-22k"  # T, S, B, B-22k, B-22k-384, L-22k, L-22k-384; 384: windows of 12 cells instead of 7
    node.OUT_INDICES = [1, 2, 3]  # stages of strides 8, 16, 32
    node.DROP_PATH = None  # None: that of the size, 0.2 for T and S, 0.3 for B and L
    node.FREEZE_AT = 0  # 1: the patch embedding does not train; k: neither do the first k - 1 stages
    node.USE_CHECKPOINT = False  # compute the blocks again in the backward pass: less memory, more time


def add_clip_config(cfg: CN) -> None:
    """Add the keys of CLIP's image side as a detector.

    Args:
        cfg: the tree, changed in place.
    """
    # The image side of a CLIP model with a ResNet: MODEL.BACKBONE.NAME build_clip_resnet_backbone up to stride 16, its
    # last stage and attention pooling in the region heads (MODEL.ROI_HEADS.NAME ClipRes5ROIHeads). How many stages do
    # not train: MODEL.BACKBONE.FREEZE_AT (1: the stem, 2: the first stage too).
    node = cfg.MODEL.CLIP = CN()
    node.ARCHITECTURE = "RN50"  # a name that open_clip knows, or a JSON file with such a model's config
    # Weights to begin with: a tag of open_clip such as "openai" (which downloads) or a checkpoint file of such a model.
    # "": none, MODEL.WEIGHTS brings them (also plain CLIP files).
    node.PRETRAINED = ""
    node.NORM = "FrozenBN"  # FrozenBN, BN, SyncBN or GN; without weights to begin with FrozenBN learns little
