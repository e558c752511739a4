"""Region heads made of the last stage and the attention pooling of CLIP (``MODEL.ROI_HEADS.NAME: ClipRes5ROIHeads``).

RoIAlign on stride 16, the last ResNet stage, then the pooling that CLIP reads whole images with: a region's feature
lies in the space of the text embeddings before any training. Classes are cosines to them, boxes one linear layer on the
same feature: the region heads of RegionCLIP and UniDetector.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from torch import Tensor, nn

from mvseg.modeling.backbones.clip_resnet import clip_resnet
from mvseg.modeling.roi_heads.box_predictor import BoxPredictor
from mvseg.modeling.roi_heads.res5 import MultiDatasetRes5ROIHeads


def attention_pool(pool: Any, maps: Tensor) -> Tensor:
    """Read maps with CLIP's attention pooling.

    Only the query of the mean is computed, not those of all cells, whose answers CLIP does not use.

    Args:
        pool: open_clip's AttentionPool2d, for maps of S x S cells.
        maps: (R, C, S, S) float.

    Returns:
        (R, D) float, the same as ``pool(maps)``.

    Source: Radford et al. 2021, CLIP (arXiv 2103.00020), section 2.4: attention pooling.
    """
    cells = maps.flatten(2).permute(2, 0, 1)  # (S * S, R, C)
    cells = torch.cat([cells.mean(0, keepdim=True), cells]) + pool.positional_embedding[:, None].to(maps.dtype)
    pooled, _ = F.multi_head_attention_forward(
        cells[:1],
        cells,
        cells,
        cells.shape[2],
        pool.num_heads,
        in_proj_weight=None,
        in_proj_bias=torch.cat([pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias]),
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=pool.c_proj.weight,
        out_proj_bias=pool.c_proj.bias,
        training=False,
        need_weights=False,
        use_separate_proj_weight=True,
        q_proj_weight=pool.q_proj.weight,
        k_proj_weight=pool.k_proj.weight,
        v_proj_weight=pool.v_proj.weight,
    )
    return pooled[0]


class ClipRegionStage(nn.Module):
    """What CLIP does behind stride 16: the last stage, and the pooling that turns its map into an embedding."""

    def __init__(self, network: Any) -> None:
        """Take the end of a whole network.

        Args:
            network: from :func:`mvseg.modeling.backbones.clip_resnet`.
        """
        super().__init__()
        self.layer4, self.attnpool = network.layer4, network.attnpool
        self.in_channels = network.layer4[0].conv1.in_channels
        self.channels = network.layer4[-1].conv3.out_channels
        self.side = 2 * (network.image_size // 32)  # of the regions that it reads
        self.width = network.output_dim

    def forward(self, x: Tensor) -> Tensor:
        """Compute the maps of regions.

        Args:
            x: (R, C, S, S) float pooled regions.

        Returns:
            (R, 2 C, S / 2, S / 2) float.
        """
        return self.layer4(x)


@ROI_HEADS_REGISTRY.register()
class ClipRes5ROIHeads(MultiDatasetRes5ROIHeads):
    """C4 heads whose region features are CLIP's image embeddings of the regions."""

    @classmethod
    def from_config(cls, cfg: Any, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Read ``MODEL.CLIP``, ``ROI_HEADS``, ``ROI_BOX_HEAD``, ``ROI_MASK_HEAD`` and ``CLASSIFIER``.

        Args:
            cfg: the config tree.
            input_shape: channels and stride of every feature level.

        Returns:
            The arguments of the constructor.

        Raises:
            ValueError: if the backbone is another one, or regions are pooled to another size than CLIP's maps.
        """
        arguments = super().from_config(cfg, input_shape)
        stage, channels = arguments["res5"], input_shape[arguments["in_features"][0]].channels
        if channels != stage.in_channels:
            raise ValueError(
                f"{cls.__name__} goes on from a map of {stage.in_channels} channels, not of {channels}: set "
                "MODEL.BACKBONE.NAME build_clip_resnet_backbone"
            )
        if stage.side != cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION:
            raise ValueError(
                f"MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION {cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION}: the attention "
                f"pooling of {cfg.MODEL.CLIP.ARCHITECTURE} reads regions of {stage.side}"
            )
        return arguments

    @classmethod
    def _build_res5_block(cls, cfg: Any) -> tuple[ClipRegionStage, int]:
        node = cfg.MODEL.CLIP
        stage = ClipRegionStage(clip_resnet(node.ARCHITECTURE, node.PRETRAINED, node.NORM))
        return stage, stage.channels

    @classmethod
    def _build_predictor(
        cls, cfg: Any, channels: int, arguments: dict[str, Any], box_layers: int | None = None
    ) -> BoxPredictor:
        return super()._build_predictor(cfg, arguments["res5"].width, arguments, box_layers=1)

    def _pool(self, maps: Tensor) -> Tensor:
        return attention_pool(self.res5.attnpool, maps)
