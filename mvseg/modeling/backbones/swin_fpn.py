"""Swin Transformers with a feature pyramid of strides 8 to 128 (``MODEL.BACKBONE.NAME: build_swin_fpn_backbone``).

This is Detectron2's Swin, the one for detection: it pads a map before it shifts the windows, shifts them at any size,
and normalises every output. timm's Swin (``build_timm_fpn_backbone``) is the one for classification: it shifts first,
and lacks those norms, so weights of a detector do not carry over to it.

For importers: parameters are named as in the authors' files and in Detic's checkpoints, below ``backbone.bottom_up.``:
``patch_embed.{proj,norm}``, ``layers.K.blocks.J.{norm1,attn.*,norm2,mlp.*}``, ``layers.K.downsample.{norm,reduction}``,
and ``norm1``, ``norm2``, ``norm3`` of the outputs, so nothing is to be renamed. Files of the authors' classifiers have
one ``norm`` and a ``head`` in their place, which a detector does not use, and masks ``attn_mask``, which are computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, SwinTransformer

from mvseg.modeling.backbones.resnet_fpn import build_p67_fpn
from mvseg.vocabulary import did_you_mean


@dataclass(frozen=True)
class SwinSize:
    """What tells one Swin Transformer from another.

    Args:
        width: channels of the first stage; every further stage has twice as many.
        depths: blocks of every stage.
        heads: attention heads of every stage.
        window: side of a window, cells.
        drop_path: largest probability that a block is left out in training.
    """

    width: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    window: int
    drop_path: float


_LONG = (2, 2, 18, 2)
_BASE, _LARGE = (128, _LONG, (4, 8, 16, 32)), (192, _LONG, (6, 12, 24, 48))
# Liu et al. 2021 (arXiv 2103.14030), section 3.3. 22k: meant for weights from ImageNet-22k; 384: trained at that size.
SWIN_SIZES = {
    "T": SwinSize(96, (2, 2, 6, 2), (3, 6, 12, 24), 7, 0.2),
    "S": SwinSize(96, _LONG, (3, 6, 12, 24), 7, 0.2),
    "B": SwinSize(*_BASE, 7, 0.3),
    "B-22k": SwinSize(*_BASE, 7, 0.3),
    "B-22k-384": SwinSize(*_BASE, 12, 0.3),
    "L-22k": SwinSize(*_LARGE, 7, 0.3),
    "L-22k-384": SwinSize(*_LARGE, 12, 0.3),
}


@BACKBONE_REGISTRY.register()
def build_swin_fpn_backbone(cfg: Any, input_shape: ShapeSpec) -> FPN:
    """Build a Swin Transformer with levels p3 to p7.

    Args:
        cfg: the config tree; reads ``MODEL.SWIN`` and ``MODEL.FPN``.
        input_shape: channels of the image.

    Returns:
        The backbone.

    Raises:
        ValueError: if ``MODEL.SWIN.SIZE`` does not exist.
    """
    node = cfg.MODEL.SWIN
    if node.SIZE not in SWIN_SIZES:
        raise ValueError(f"MODEL.SWIN.SIZE {node.SIZE!r} does not exist{did_you_mean(node.SIZE, SWIN_SIZES)}")
    size = SWIN_SIZES[node.SIZE]
    bottom_up = SwinTransformer(
        in_chans=input_shape.channels,
        embed_dim=size.width,
        depths=size.depths,
        num_heads=size.heads,
        window_size=size.window,
        drop_path_rate=size.drop_path if node.DROP_PATH is None else node.DROP_PATH,
        out_indices=tuple(node.OUT_INDICES),
        frozen_stages=node.FREEZE_AT if node.FREEZE_AT > 1 else node.FREEZE_AT - 1,
        use_checkpoint=node.USE_CHECKPOINT,
    )
    return build_p67_fpn(cfg, bottom_up, list(bottom_up.output_shape()))
