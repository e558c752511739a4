"""Files of UniDetector (Wang et al. 2023, arXiv 2303.11749): its second stage on CLIP, in mmdetection's names."""

from __future__ import annotations

import re

from mvseg.checkpoints.readers.backbones import COUNTER
from mvseg.checkpoints.readers.registry import Part, Rule, Shapes, Unrecognised, register_reader, some

HEAD = "roi_head.bbox_head."
ROWS = f"{HEAD}zs_weights"
# (blocks of each stage, channels of the stem) -> open_clip's name, as open_clip's own table of architectures has them
ARCHITECTURES: dict[tuple[tuple[int, ...], int], str] = {
    ((3, 4, 6, 3), 64): "RN50",
    ((3, 4, 23, 3), 64): "RN101",
    ((4, 6, 10, 6), 80): "RN50x4",
}


@register_reader("unidetector", "UniDetector: its second stage on CLIP's ResNet-50 (decoupled training)")
def read_unidetector(shapes: Shapes) -> list[Part]:
    """Recognise a file of UniDetector's second stage.

    Args:
        shapes: parameter name to shape.

    Returns:
        Its parts.

    Raises:
        Unrecognised: if it is the first stage or an end-to-end model, or no CLIP model.
    """
    pool = f"{HEAD}attnpool.c_proj.weight"
    if any(name.startswith("rpn_head.rpn_obj") for name in shapes) or f"{HEAD}fc_bbox_score.weight" in shapes:
        raise Unrecognised("UniDetector's first stage (localisation network), which mvseg does not read: train it")
    if any(name.startswith("rpn_head.") for name in shapes):
        raise Unrecognised(
            "an end-to-end model, whose RPN counts its anchors in another order: only the second stage of the "
            "decoupled training is read"
        )
    boxes = shapes.get(f"{HEAD}fc_reg.weight")
    if pool not in shapes or boxes is None:
        raise Unrecognised(f"no region heads with attention pooling ({pool}): entries are {some(list(shapes), 4)}")
    width = shapes[pool][0]
    if boxes != (4, width):
        raise Unrecognised(f"{HEAD}fc_reg.weight {boxes}: known is one box for all classes, (4, {width})")
    return [_image_side(shapes), _heads(shapes, width)]


def _image_side(shapes: Shapes) -> Part:
    blocks = tuple(
        len({name[len(stage) :].split(".")[0] for name in shapes if name.startswith(stage)})
        for stage in ("backbone.layer1.", "backbone.layer2.", "backbone.layer3.", "roi_head.shared_head.layer4.")
    )
    channels = shapes.get("backbone.conv3.weight", (0,))[0]
    name = ARCHITECTURES.get((blocks, channels))
    if name is None:
        raise Unrecognised(f"a ResNet of CLIP with blocks {blocks} and {channels} channels in the stem is not known")
    return Part(
        what=f"CLIP {name}, its last stage and attention pooling in the region heads",
        config={
            "MODEL.BACKBONE.NAME": "build_clip_resnet_backbone",
            "MODEL.CLIP.ARCHITECTURE": name,
            "MODEL.CLASSIFIER.TEXT_ENCODER": f"open_clip:{name}:openai",
            "INPUT.FORMAT": "RGB",
            "MODEL.PIXEL_MEAN": [122.7709383, 116.7460125, 104.09373615],
            "MODEL.PIXEL_STD": [68.5005327, 66.6321579, 70.32316305],
        },
        rules=(
            COUNTER,
            Rule(r"backbone\.(?:(?:conv|bn)[123]|layer[123])\..*"),
            Rule(r"roi_head\.shared_head\.(layer4\..*)", r"roi_heads.res5.\1"),
            Rule(r"roi_head\.bbox_head\.(attnpool\..*)", r"roi_heads.res5.\1"),
        ),
    )


def _heads(shapes: Shapes, width: int) -> Part:
    several = [name for name in shapes if re.fullmatch(re.escape(ROWS) + r"_\d+", name)]
    one = ROWS in shapes
    return Part(
        what=f"text classifier, width {width}" + (f", {len(several)} partitions" if several else ""),
        config={
            "MODEL.META_ARCHITECTURE": "MultiDatasetRCNN",
            "MODEL.PROPOSAL_GENERATOR.NAME": "PrecomputedProposals",
            "MODEL.ROI_HEADS.NAME": "ClipRes5ROIHeads",
            "MODEL.ROI_HEADS.IN_FEATURES": ["res4"],
            "MODEL.ROI_HEADS.IOU_THRESHOLDS": [0.5],
            "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0001,
            "MODEL.ROI_HEADS.NMS": "gaussian",
            "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 14,
            "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True,
            "MODEL.ROI_BOX_HEAD.MULT_PROPOSAL_SCORE": False,
            "MODEL.CLASSIFIER.NAME": "text",
            "MODEL.CLASSIFIER.LOSS": "sigmoid",
            "MODEL.CLASSIFIER.TEMPERATURE": 100.0,
            "MODEL.CLASSIFIER.PROJECTION": False,
            "MODEL.CLASSIFIER.PROMPTS": "clip_80; {}.",
            "TEST.DETECTIONS_PER_IMAGE": 100,
        },
        rules=(
            Rule(r"roi_head\.bbox_head\.fc_reg\.(weight|bias)", r"roi_heads.box_predictor.bbox_pred.\1"),
            Rule(re.escape(ROWS) + r"(_\d+)?", None, "text rows, which belong to the words (saved beside the weights)"),
        ),
        assumed=("temperature 100, 81 prompts, soft suppression, stored proposals of the first stage",),
        text_width=width,
        text_rows=ROWS if one else "",
        num_columns=shapes[ROWS][1] - 1 if one else None,
    )
