"""Files of Detic (Zhou et al. 2022, arXiv 2201.02605): CenterNet2 with a text classifier; C4 for COCO."""

from __future__ import annotations

from mvseg.checkpoints.readers.backbones import c4_backbone, pyramid_backbone
from mvseg.checkpoints.readers.heads import cascade_heads, centernet_proposals, mask_head, res5_heads, rpn_proposals
from mvseg.checkpoints.readers.registry import Part, Rule, Shapes, Unrecognised, register_reader, some

TEXT_ENCODER = Rule(r"text_encoder\..*", None, "CLIP's text encoder, frozen: MODEL.CLASSIFIER.TEXT_ENCODER names it")


@register_reader("detic", "Detic: ResNet, Swin or ConvNeXt with pyramid, or ResNet-50 C4; text classifier")
def read_detic(shapes: Shapes) -> list[Part]:
    """Recognise a file of Detic.

    Args:
        shapes: parameter name to shape.

    Returns:
        Its parts.

    Raises:
        Unrecognised: if it is a Deformable DETR, which has no region heads, or has no text classifier.
    """
    transformer = [name for name in shapes if name.startswith(("detr.", "transformer."))]
    if transformer:
        raise Unrecognised(f"a Deformable DETR, which mvseg does not read: {some(transformer, 3)}")
    if any(name.startswith("roi_heads.res5.") for name in shapes):
        return [c4_backbone(shapes), rpn_proposals(shapes), res5_heads(shapes), mask_head(shapes), _c4_test()]
    heads = cascade_heads(shapes)
    if not heads.text_width:
        raise Unrecognised("a linear classifier, as CenterNet2 has: python -m mvseg.checkpoints centernet2")
    return [
        pyramid_backbone(shapes),
        centernet_proposals(shapes),
        heads,
        mask_head(shapes),
        Part(
            what="thresholds of the tests on LVIS",
            config={
                "MODEL.META_ARCHITECTURE": "MultiDatasetRCNN",
                "MODEL.ROI_HEADS.IN_FEATURES": ["p3", "p4", "p5"],
                "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.02,
                "MODEL.ROI_HEADS.NMS_THRESH_TEST": 0.5,
                "TEST.DETECTIONS_PER_IMAGE": 300,
            },
            rules=(TEXT_ENCODER,),
            assumed=("region heads read p3 to p5; score and NMS thresholds",),
        ),
    ]


def _c4_test() -> Part:
    return Part(
        what="thresholds of the tests on COCO",
        config={
            "MODEL.META_ARCHITECTURE": "MultiDatasetRCNN",
            "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.05,
            "MODEL.ROI_HEADS.NMS_THRESH_TEST": 0.5,
            "TEST.DETECTIONS_PER_IMAGE": 100,
        },
        rules=(TEXT_ENCODER,),
        assumed=("score and NMS thresholds",),
    )
