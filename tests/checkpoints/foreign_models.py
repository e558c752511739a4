"""Names and shapes of Detic's and CenterNet2's files, written down from what their models call their parameters.

Narrow models: few channels in pyramid and heads, the backbones as they are (their size tells which they are).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import normalize

Shapes = dict[str, tuple[int, ...]]
CHANNELS, HIDDEN, WIDTH = 32, 16, 8  # of the pyramid, the box heads, the text embeddings
NORM = ("weight", "bias", "running_mean", "running_var")


def layer(name: str, *weight: int, bias: bool = True) -> Shapes:
    return {f"{name}.weight": weight} | ({f"{name}.bias": weight[:1]} if bias else {})


def frozen(name: str, channels: int, counter: bool = True) -> Shapes:
    found: Shapes = {f"{name}.{part}": (channels,) for part in NORM}
    return found | ({f"{name}.num_batches_tracked": ()} if counter else {})


def timm_resnet(depth: int, classes: int = 0) -> Shapes:
    base = "backbone.bottom_up.base."
    found = layer(f"{base}conv1", 64, 3, 7, 7, bias=False) | frozen(f"{base}bn1", 64)
    blocks, bottleneck = {18: ((2, 2, 2, 2), False), 50: ((3, 4, 6, 3), True)}[depth]
    before = 64
    for stage, count in enumerate(blocks):
        inner = 64 * 2**stage
        outer = inner * 4 if bottleneck else inner
        sizes = [(inner, 1), (inner, 3), (outer, 1)] if bottleneck else [(inner, 3), (outer, 3)]
        for block in range(count):
            name, channels = f"{base}layer{stage + 1}.{block}.", before
            for k, (width, kernel) in enumerate(sizes, start=1):
                found |= layer(f"{name}conv{k}", width, channels, kernel, kernel, bias=False)
                found |= frozen(f"{name}bn{k}", width)
                channels = width
            if block == 0 and before != outer:
                found |= layer(f"{name}downsample.0", outer, before, 1, 1, bias=False)
                found |= frozen(f"{name}downsample.1", outer)
            before = outer
    return found | (layer(f"{base}fc", classes, before) if classes else {})


def convnext_tiny() -> Shapes:
    base, widths = "backbone.bottom_up.base.", (96, 192, 384, 768)
    found = layer(f"{base}stem_0", 96, 3, 4, 4) | layer(f"{base}stem_1", 96)
    for stage, (width, count) in enumerate(zip(widths, (3, 3, 9, 3), strict=True)):
        if stage:
            found |= layer(f"{base}stages_{stage}.downsample.0", widths[stage - 1])
            found |= layer(f"{base}stages_{stage}.downsample.1", width, widths[stage - 1], 2, 2)
        for block in range(count):
            name = f"{base}stages_{stage}.blocks.{block}."
            found |= {f"{name}gamma": (width,)} | layer(f"{name}conv_dw", width, 1, 7, 7) | layer(f"{name}norm", width)
            found |= layer(f"{name}mlp.fc1", 4 * width, width) | layer(f"{name}mlp.fc2", width, 4 * width)
    return found


def swin(width: int = 96, blocks: tuple[int, ...] = (2, 2, 6, 2), heads: int = 3, window: int = 7) -> Shapes:
    base = "backbone.bottom_up."
    found = layer(f"{base}patch_embed.proj", width, 3, 4, 4) | layer(f"{base}patch_embed.norm", width)
    for stage, count in enumerate(blocks):
        channels = width * 2**stage
        for block in range(count):
            name = f"{base}layers.{stage}.blocks.{block}."
            found |= {f"{name}attn.relative_position_bias_table": ((2 * window - 1) ** 2, heads * 2**stage)}
            found |= {f"{name}attn.relative_position_index": (window**2, window**2)}
            for part, out, into in (("attn.qkv", 3, 1), ("attn.proj", 1, 1), ("mlp.fc1", 4, 1), ("mlp.fc2", 1, 4)):
                found |= layer(f"{name}{part}", out * channels, into * channels)
            found |= layer(f"{name}norm1", channels) | layer(f"{name}norm2", channels)
        if stage < 3:
            found |= layer(f"{base}layers.{stage}.downsample.reduction", 2 * channels, 4 * channels, bias=False)
            found |= layer(f"{base}layers.{stage}.downsample.norm", 4 * channels)
        if stage:
            found |= layer(f"{base}norm{stage}", channels)
    return found


def c4() -> Shapes:
    found = layer("backbone.stem.conv1", 64, 3, 7, 7, bias=False) | frozen("backbone.stem.conv1.norm", 64, False)
    before = 64
    for stage, count in zip((2, 3, 4, 5), (3, 4, 6, 3), strict=True):
        inner, outer = 2 ** (stage + 4), 2 ** (stage + 6)
        for block in range(count):
            name = f"{'roi_heads' if stage == 5 else 'backbone'}.res{stage}.{block}."
            parts = {"conv1": (inner, before, 1, 1), "conv2": (inner, inner, 3, 3), "conv3": (outer, inner, 1, 1)}
            if block == 0:
                parts["shortcut"] = (outer, before, 1, 1)
            for part, shape in parts.items():
                found |= layer(name + part, *shape, bias=False) | frozen(f"{name}{part}.norm", shape[0], False)
            before = outer
    rpn = "proposal_generator.rpn_head."
    found |= layer(f"{rpn}conv", 1024, 1024, 3, 3) | layer(f"{rpn}objectness_logits", 15, 1024, 1, 1)
    return found | layer(f"{rpn}anchor_deltas", 60, 1024, 1, 1)


def pyramid(widths: tuple[int, int, int]) -> Shapes:
    found: Shapes = {}
    for level, width in zip((3, 4, 5), widths, strict=True):
        found |= layer(f"backbone.fpn_lateral{level}", CHANNELS, width, 1, 1)
        found |= layer(f"backbone.fpn_output{level}", CHANNELS, CHANNELS, 3, 3)
    for level in (6, 7):
        found |= layer(f"backbone.top_block.p{level}", CHANNELS, CHANNELS, 3, 3)
    return found


def centernet() -> Shapes:
    head = "proposal_generator.centernet_head."
    found = layer(f"{head}bbox_pred", 4, CHANNELS, 3, 3) | layer(f"{head}agn_hm", 1, CHANNELS, 3, 3)
    for k in range(4):
        found |= layer(f"{head}bbox_tower.{3 * k}", CHANNELS, CHANNELS, 3, 3)
        found |= layer(f"{head}bbox_tower.{3 * k + 1}", CHANNELS)
    return found | {f"{head}scales.{level}.scale": (1,) for level in range(5)}


def text_predictor(name: str, hidden: int, classes: int, counts: bool = True) -> Shapes:
    found: Shapes = {f"{name}freq_weight": (classes,)} if counts else {}
    found |= {f"{name}cls_score.zs_weight": (WIDTH, classes + 1)} | layer(f"{name}cls_score.linear", WIDTH, hidden)
    return found | layer(f"{name}bbox_pred.0", hidden, hidden) | layer(f"{name}bbox_pred.2", 4, hidden)


def linear_predictor(name: str, hidden: int, classes: int, counts: bool = False) -> Shapes:
    found: Shapes = {f"{name}freq_weight": (classes,)} if counts else {}
    return found | layer(f"{name}cls_score", classes + 1, hidden) | layer(f"{name}bbox_pred", 4, hidden)


def box_head(name: str) -> Shapes:
    return layer(f"{name}fc1", HIDDEN, 49 * CHANNELS) | layer(f"{name}fc2", HIDDEN, HIDDEN)


def masks() -> Shapes:
    head, found = "roi_heads.mask_head.", {}
    for k in range(1, 5):
        found |= layer(f"{head}mask_fcn{k}", HIDDEN, CHANNELS if k == 1 else HIDDEN, 3, 3)
    found |= layer(f"{head}deconv", HIDDEN, HIDDEN, 2, 2)
    return found | layer(f"{head}predictor", 1, HIDDEN, 1, 1)


def detic(backbone: Shapes, widths: tuple[int, int, int], classes: int = 1203, counts: bool = True) -> Shapes:
    found = backbone | pyramid(widths) | centernet() | masks()
    for stage in range(3):
        found |= box_head(f"roi_heads.box_head.{stage}.")
        found |= text_predictor(f"roi_heads.box_predictor.{stage}.", HIDDEN, classes, counts)
    return found


def detic_r18(classes: int = 1203, counts: bool = True) -> Shapes:
    return detic(timm_resnet(18), (128, 256, 512), classes, counts)


def detic_c4() -> Shapes:
    return c4() | text_predictor("roi_heads.box_predictor.", 2048, 80)


def centernet2_r18(classes: int = 80, counts: bool = False, stages: int = 3) -> Shapes:
    """A CenterNet2 with timm's smallest ResNet; ``stages`` 0: one stage that is no list (CenterNet2-F)."""
    found = timm_resnet(18) | pyramid((128, 256, 512)) | centernet()
    for part in [f"{stage}." for stage in range(stages)] or [""]:
        found |= box_head(f"roi_heads.box_head.{part}")
        found |= linear_predictor(f"roi_heads.box_predictor.{part}", HIDDEN, classes, counts)
    return found


def weights_of(shapes: Mapping[str, tuple[int, ...]], image_counts: Tensor | None = None) -> dict[str, Tensor]:
    """Values that follow from the names: text rows of length 1 with a column of zeros, roots of the image counts."""
    state: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        draw = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(0)
        elif name.endswith("relative_position_index"):
            state[name] = relative_position_index(math.isqrt(shape[0]))
        elif name.endswith("zs_weight"):  # the same in all stages
            draw = torch.Generator().manual_seed(1)
            columns = normalize(torch.randn(shape, generator=draw), dim=0)
            columns[:, -1] = 0
            state[name] = columns
        elif name.endswith("freq_weight"):
            state[name] = torch.ones(shape) if image_counts is None else image_counts.sqrt()
        elif name.endswith("running_var"):
            state[name] = torch.rand(shape, generator=draw) + 0.5
        else:
            state[name] = torch.randn(shape, generator=draw) * 0.05
    return state


def relative_position_index(window: int) -> Tensor:
    """Number of the offset between two places of a window, row by row."""
    places = [(y, x) for y in range(window) for x in range(window)]
    side = 2 * window - 1
    return torch.tensor([[(a - c + window - 1) * side + b - d + window - 1 for c, d in places] for a, b in places])
