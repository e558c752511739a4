"""Recognition of backbones with their feature pyramids from parameter names and shapes."""

from __future__ import annotations

import math
from collections.abc import Callable

from mvseg.checkpoints.readers.registry import Part, Rule, Shapes, Unrecognised, some

IMAGENET_RGB = {
    "INPUT.FORMAT": "RGB",
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
}
COUNTER = Rule(r".*\.num_batches_tracked", None, "a counter of batch normalisation, which is frozen")
# (blocks of each stage, bottleneck blocks) -> depth
RESNETS: dict[tuple[tuple[int, ...], bool], int] = {
    ((2, 2, 2, 2), False): 18,
    ((3, 4, 6, 3), False): 34,
    ((3, 4, 6, 3), True): 50,
    ((3, 4, 23, 3), True): 101,
    ((3, 8, 36, 3), True): 152,
}
# (blocks of each stage, channels of the first) -> timm's name
CONVNEXTS = {
    ((3, 3, 9, 3), 96): "convnext_tiny",
    ((3, 3, 27, 3), 96): "convnext_small",
    ((3, 3, 27, 3), 128): "convnext_base",
    ((3, 3, 27, 3), 192): "convnext_large",
}
# (blocks of each stage, channels of the first, heads of the first, window) -> MODEL.SWIN.SIZE
SWINS = {
    ((2, 2, 6, 2), 96, 3, 7): "T",
    ((2, 2, 18, 2), 96, 3, 7): "S",
    ((2, 2, 18, 2), 128, 4, 7): "B-22k",
    ((2, 2, 18, 2), 128, 4, 12): "B-22k-384",
    ((2, 2, 18, 2), 192, 6, 7): "L-22k",
    ((2, 2, 18, 2), 192, 6, 12): "L-22k-384",
}


# Without the factor the features of Detic's ConvNeXt differ by 1e-2 of their spread, with it by 3e-6.
CONVNEXT_DOWNSAMPLE = Rule(
    r"backbone\.bottom_up\.base\.stages_\d\.downsample\.0\.weight",
    why="timm 0.5 divided by the unbiased variance",
    scale=lambda shape: math.sqrt((shape[0] - 1) / shape[0]),
)


def pyramid_backbone(shapes: Shapes) -> Part:
    """Recognise a backbone below a feature pyramid with levels p3 to p7.

    Args:
        shapes: parameter name to shape.

    Returns:
        The backbone with its pyramid.

    Raises:
        Unrecognised: if the backbone or the pyramid is not known.
    """
    kinds: dict[str, Callable[[Shapes], Part]] = {
        "backbone.bottom_up.base.layer1.0.conv1.weight": _timm_resnet,
        "backbone.bottom_up.base.stages_0.blocks.0.conv_dw.weight": _convnext,
        "backbone.bottom_up.layers.0.blocks.0.attn.qkv.weight": _swin,
        "backbone.bottom_up.stem.conv1.weight": _detectron2_resnet,
    }
    found = next((read for mark, read in kinds.items() if mark in shapes), None)
    if found is None:
        there = some([name for name in shapes if name.startswith("backbone.")], 4) or "missing"
        raise Unrecognised(f"no known backbone: its entries are {there}; known ones have {', '.join(kinds)}")
    return _with_pyramid(found(shapes), shapes)


def c4_backbone(shapes: Shapes) -> Part:
    """Recognise a ResNet whose last stage lies in the region heads (C4).

    Args:
        shapes: parameter name to shape.

    Returns:
        The backbone; the last stage is part of it.

    Raises:
        Unrecognised: if it is no plain ResNet with bottleneck blocks.
    """
    stages = [_blocks(shapes, f"backbone.res{stage}.") for stage in (2, 3, 4)]
    stages.append(_blocks(shapes, "roi_heads.res5."))
    depth = _resnet_depth(shapes, stages, "backbone.res2.0.conv3.weight" in shapes)
    _refuse_variants(shapes, "backbone.res2.0.conv2.weight")
    return Part(
        what=f"ResNet-{depth} whose last stage is in the region heads (C4)",
        config={
            "MODEL.BACKBONE.NAME": "build_resnet_backbone",
            "MODEL.RESNETS.DEPTH": depth,
            "MODEL.RESNETS.OUT_FEATURES": ["res4"],
        },
        rules=(COUNTER, Rule(r"(backbone\.(stem|res[234])|roi_heads\.res5)\..*")),
        assumed=("start from MSRA's weights: BGR, stride in the 1x1 convolution",),
    )


def _timm_resnet(shapes: Shapes) -> Part:
    base = "backbone.bottom_up.base."
    stages = [_blocks(shapes, f"{base}layer{stage}.") for stage in (1, 2, 3, 4)]
    depth = _resnet_depth(shapes, stages, f"{base}layer1.0.conv3.weight" in shapes)
    return Part(
        what=f"ResNet-{depth} (timm), frozen batch normalisation",
        config=_timm_config(f"resnet{depth}", [2, 3, 4]),
        rules=(
            COUNTER,
            Rule(r"backbone\.bottom_up\.base\.fc\..*", None, "the image classifier of the pre-training, never used"),
            Rule(r"backbone\.bottom_up\.base\..*"),
        ),
    )


def _convnext(shapes: Shapes) -> Part:
    base = "backbone.bottom_up.base."
    stages = tuple(_blocks(shapes, f"{base}stages_{stage}.blocks.") for stage in range(4))
    channels = _shape(shapes, f"{base}stem_0.weight")[0]
    name = _lookup(CONVNEXTS, (stages, channels), "ConvNeXt with (blocks), channels")
    return Part(
        what=f"{name} (timm)",
        config=_timm_config(name, [1, 2, 3]),
        rules=(CONVNEXT_DOWNSAMPLE, Rule(r"backbone\.bottom_up\.base\..*")),
        assumed=("trained with timm 0.5",),
    )


def _swin(shapes: Shapes) -> Part:
    base = "backbone.bottom_up."
    stages = tuple(_blocks(shapes, f"{base}layers.{stage}.blocks.") for stage in range(4))
    channels = _shape(shapes, f"{base}patch_embed.proj.weight")[0]
    table = _shape(shapes, f"{base}layers.0.blocks.0.attn.relative_position_bias_table")
    window = (math.isqrt(table[0]) + 1) // 2
    size = _lookup(SWINS, (stages, channels, table[1], window), "Swin with (blocks), channels, heads, window")
    # Detectron2's Swin, not timm's: the same names, and the same numbers (mvseg.modeling.backbones.swin_fpn).
    config = {"MODEL.BACKBONE.NAME": "build_swin_fpn_backbone", "MODEL.SWIN.SIZE": size, **IMAGENET_RGB}
    return Part(
        what=f"Swin-{size}",
        config=config,
        rules=(
            Rule(r".*\.attn_mask", None, "a mask that follows from the size of the map"),
            Rule(r"backbone\.bottom_up\.(patch_embed|layers|norm[123])\..*"),
        ),
    )


def _detectron2_resnet(shapes: Shapes) -> Part:
    base = "backbone.bottom_up."
    stages = [_blocks(shapes, f"{base}res{stage}.") for stage in (2, 3, 4, 5)]
    depth = _resnet_depth(shapes, stages, f"{base}res2.0.conv3.weight" in shapes)
    _refuse_variants(shapes, f"{base}res2.0.conv2.weight")
    config = {
        "MODEL.BACKBONE.NAME": "build_p67_resnet_fpn_backbone",
        "MODEL.RESNETS.DEPTH": depth,
        "MODEL.RESNETS.OUT_FEATURES": ["res3", "res4", "res5"],
        "MODEL.FPN.IN_FEATURES": ["res3", "res4", "res5"],
    }
    if depth < 50:
        config["MODEL.RESNETS.RES2_OUT_CHANNELS"] = 64
    return Part(
        what=f"ResNet-{depth} (Detectron2), frozen batch normalisation",
        config=config,
        rules=(COUNTER, Rule(r"backbone\.bottom_up\.(stem|res[2345])\..*")),
        assumed=("start from MSRA's weights: BGR, stride in the 1x1 convolution",),
    )


def _with_pyramid(bottom_up: Part, shapes: Shapes) -> Part:
    levels = sorted({int(n.split(".")[1][11:]) for n in shapes if n.startswith("backbone.fpn_lateral")})
    if levels != [3, 4, 5] or "backbone.top_block.p7.weight" not in shapes:
        raise Unrecognised(
            f"{bottom_up.what}: the pyramid has levels {levels or 'of another kind'}, known is one with lateral "
            "levels 3, 4, 5 and top_block p6, p7 (no BiFPN, no DLA)"
        )
    channels = _shape(shapes, "backbone.fpn_output3.weight")[0]
    return Part(
        what=f"{bottom_up.what}; pyramid p3 to p7, {channels} channels",
        config={**bottom_up.config, "MODEL.FPN.OUT_CHANNELS": channels},
        rules=(Rule(r"backbone\.(fpn_lateral[345]|fpn_output[345]|top_block\.p[67])\..*"), *bottom_up.rules),
        assumed=bottom_up.assumed,
    )


def _timm_config(name: str, levels: list[int]) -> dict[str, object]:
    return {
        "MODEL.BACKBONE.NAME": "build_timm_fpn_backbone",
        "MODEL.TIMM.NAME": name,
        "MODEL.TIMM.OUT_INDICES": levels,
        **IMAGENET_RGB,
    }


def _blocks(shapes: Shapes, prefix: str) -> int:
    """Number of consecutive blocks below a prefix."""
    return len({name[len(prefix) :].split(".")[0] for name in shapes if name.startswith(prefix)})


def _shape(shapes: Shapes, name: str) -> tuple[int, ...]:
    if name not in shapes:
        raise Unrecognised(f"the file lacks {name}: it is not complete")
    return shapes[name]


def _lookup(table: dict, key: tuple, what: str) -> str:
    if key not in table:
        raise Unrecognised(f"{what} {key} is not known; known are {some([f'{v}: {k}' for k, v in table.items()])}")
    return table[key]


def _resnet_depth(shapes: Shapes, stages: list[int], bottleneck: bool) -> int:
    depth = RESNETS.get((tuple(stages), bottleneck))
    if depth is None:
        raise Unrecognised(
            f"a ResNet with {stages} blocks in its stages, {'with' if bottleneck else 'without'} bottlenecks, is not "
            f"known; known are {', '.join(f'ResNet-{d}: {list(s)}' for (s, _), d in RESNETS.items())}. "
            "Where a stage has too few blocks, the file is not complete"
        )
    return depth


def _refuse_variants(shapes: Shapes, conv2: str) -> None:
    """Refuse ResNets with deformable or grouped convolutions and Res2Nets."""
    deformable = [name for name in shapes if "conv2_offset" in name]
    splits = [name for name in shapes if ".convs." in name and ".res" in name]
    if deformable or splits:
        raise Unrecognised(f"a ResNet with deformable convolutions or a Res2Net: {some(deformable + splits, 3)}")
    out, inner = _shape(shapes, conv2)[:2]
    if out != inner:
        raise Unrecognised(f"a ResNet with grouped convolutions: {conv2} has shape {shapes[conv2]}")
