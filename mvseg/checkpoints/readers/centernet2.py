"""Files of CenterNet2 (Zhou, Koltun, Krähenbühl 2021, arXiv 2103.07461): ResNet and pyramid, cascade or one stage."""

from __future__ import annotations

from mvseg.checkpoints.readers.backbones import pyramid_backbone
from mvseg.checkpoints.readers.heads import cascade_heads, centernet_proposals, mask_head
from mvseg.checkpoints.readers.registry import Part, Shapes, Unrecognised, register_reader

LVIS_CLASSES = 1203


@register_reader("centernet2", "CenterNet2: ResNet with pyramid, linear classifier")
def read_centernet2(shapes: Shapes) -> list[Part]:
    """Recognise a file of CenterNet2.

    Args:
        shapes: parameter name to shape.

    Returns:
        Its parts.

    Raises:
        Unrecognised: if it has a text classifier, as Detic.
    """
    heads = cascade_heads(shapes)
    if heads.text_width:
        raise Unrecognised("a text classifier, as Detic has: python -m mvseg.checkpoints detic")
    lvis = heads.num_columns == LVIS_CLASSES
    return [
        pyramid_backbone(shapes),
        centernet_proposals(shapes),
        heads,
        mask_head(shapes),
        Part(
            what="thresholds of the tests on " + ("LVIS" if lvis else "COCO"),
            config={
                "MODEL.META_ARCHITECTURE": "MultiDatasetRCNN",
                "MODEL.ROI_HEADS.IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"],
                "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.02 if lvis else 0.05,
                "MODEL.ROI_HEADS.NMS_THRESH_TEST": 0.5 if lvis else 0.7,
                "TEST.DETECTIONS_PER_IMAGE": 300 if lvis else 100,
            },
            assumed=("region heads read p3 to p7; score and NMS thresholds",),
        ),
    ]
