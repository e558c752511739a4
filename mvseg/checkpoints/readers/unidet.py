"""Files of UniDet (Zhou et al. 2022, arXiv 2102.13086): a cascade with one classifier, or one for each dataset."""

from __future__ import annotations

import dataclasses
import re

from mvseg.checkpoints.readers.backbones import pyramid_backbone
from mvseg.checkpoints.readers.heads import OLD_BUFFERS, cascade_heads
from mvseg.checkpoints.readers.registry import Join, Part, Rule, Shapes, Unrecognised, register_reader, some

ANCHORS = 9  # three sizes and three shapes
SIZES = [[round(side * 2 ** (k / 3), 4) for k in range(3)] for side in (32, 64, 128, 256, 512)]
CLASSIFIER = re.compile(r"(roi_heads\.box_predictor\.\d+\.cls_score\.)(\d+)\.(weight|bias)")


@register_reader("unidet", "UniDet: ResNet-50 with pyramid and RPN; one classifier for each dataset, or one for all")
def read_unidet(shapes: Shapes) -> list[Part]:
    """Recognise a file of UniDet.

    Args:
        shapes: parameter name to shape.

    Returns:
        Its parts.

    Raises:
        Unrecognised: if its backbone is a ResNeSt, or its proposals are those of another project.
    """
    splits = [name for name in shapes if name.startswith("backbone.bottom_up.") and ".conv2.fc1." in name]
    if splits:
        raise Unrecognised(f"a ResNeSt (split attention), which mvseg does not have: {some(splits, 3)}")
    if any(name.startswith("proposal_generator.centernet_head.") for name in shapes):
        raise Unrecognised("CenterNet proposals, as CenterNet2 and Detic have: python -m mvseg.checkpoints centernet2")
    joins = _joins(shapes)
    joined = {name: shape for name, shape in shapes.items() if not CLASSIFIER.fullmatch(name)}
    for join in joins:
        parts = [shapes[name] for name in join.sources]
        joined[join.target] = (sum(part[0] - 1 for part in parts) + 1, *parts[0][1:])
    heads = cascade_heads(joined)
    if heads.text_width:
        raise Unrecognised("a text classifier, as Detic has: python -m mvseg.checkpoints detic")
    masks = [name for name in shapes if name.startswith("roi_heads.mask_head.")]
    if masks:
        raise Unrecognised(f"a mask head, which UniDet's detectors do not have: {some(masks, 3)}")
    heads = dataclasses.replace(heads, assumed=())  # what is assumed of CenterNet2 does not hold here
    sizes = tuple(shapes[name][0] - 1 for name in joins[0].sources) if joins else ()
    return [pyramid_backbone(shapes), _proposals(shapes), heads, _recipe(joins, sizes)]


def _joins(shapes: Shapes) -> tuple[Join, ...]:
    """The classifiers of the datasets, joined for each stage; none where one classifier serves all."""
    found: dict[str, dict[int, str]] = {}
    for name in shapes:
        if match := CLASSIFIER.fullmatch(name):
            found.setdefault(f"{match[1]}{match[3]}", {})[int(match[2])] = name
    counts = {target: sorted(heads) for target, heads in found.items()}
    if (
        any(numbers != list(range(len(numbers))) for numbers in counts.values())
        or len({*map(len, counts.values())}) > 1
    ):
        raise Unrecognised(f"classifiers are missing: there are {counts}")
    return tuple(Join(target, tuple(heads[k] for k in sorted(heads))) for target, heads in sorted(found.items()))


def _proposals(shapes: Shapes) -> Part:
    name = "proposal_generator.rpn_head.objectness_logits.weight"
    if name not in shapes or "proposal_generator.rpn_head.conv.weight" not in shapes:
        raise Unrecognised(f"no RPN ({name} is not there)")
    if shapes[name][0] != ANCHORS:
        raise Unrecognised(f"{name}: {shapes[name][0]} anchors at every place, known are {ANCHORS}")
    return Part(
        what=f"RPN on p3 to p7, {ANCHORS} anchors",
        config={
            "MODEL.PROPOSAL_GENERATOR.NAME": "MultiDatasetRPN",
            "MODEL.RPN.IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"],
            "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 2000,
            "MODEL.RPN.POST_NMS_TOPK_TRAIN": 2000,
            "MODEL.RPN.PRE_NMS_TOPK_TEST": 1000,
            "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
            "MODEL.ANCHOR_GENERATOR.SIZES": SIZES,
            "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
        },
        rules=(Rule(r"proposal_generator\.rpn_head\..*"), OLD_BUFFERS),
        assumed=("sizes and shapes of the anchors, numbers of proposals",),
    )


def _recipe(joins: tuple[Join, ...], sizes: tuple[int, ...]) -> Part:
    """What UniDet's cascade has otherwise than CenterNet2's."""
    several = f"a classifier for each of {len(sizes)} datasets ({', '.join(map(str, sizes))} classes)"
    return Part(
        what=several if joins else "one classifier for all datasets",
        config={
            "MODEL.META_ARCHITECTURE": "MultiDatasetRCNN",
            "MODEL.MASK_ON": False,
            "MODEL.CLASSIFIER.LOSS": "sigmoid",
            "MODEL.ROI_HEADS.IN_FEATURES": ["p3", "p4", "p5"],
            "MODEL.ROI_HEADS.IOU_THRESHOLDS": [0.5],
            "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0001,
            "MODEL.ROI_HEADS.NMS_THRESH_TEST": 0.5,
            "MODEL.ROI_BOX_CASCADE_HEAD.IOUS": [0.5, 0.6, 0.7],
            "MODEL.ROI_BOX_HEAD.MULT_PROPOSAL_SCORE": False,
            "TEST.DETECTIONS_PER_IMAGE": 300,
        },
        assumed=("sigmoid; IoU thresholds 0.5, 0.6, 0.7; region heads read p3 to p5; score and NMS thresholds",),
        joins=joins,
        heads=sizes,
    )
