"""Recognition of proposal generators, region heads and mask heads from parameter names and shapes."""

from __future__ import annotations

import re
from typing import Any

from mvseg.checkpoints.readers.registry import Part, Rule, Shapes, Unrecognised, some

IOUS = [0.6, 0.7, 0.8]  # of the cascade stages
DELTA_WEIGHTS = [[10.0, 10.0, 5.0, 5.0], [20.0, 20.0, 10.0, 10.0], [30.0, 30.0, 15.0, 15.0]]
OLD_BUFFERS = Rule(
    r"pixel_mean|pixel_std|proposal_generator\.anchor_generator\.cell_anchors\..*",
    None,
    "a constant that follows from the config",
)

CLASSIFIER_RULES = (
    Rule(r".*\.freq_weight", None, "counts of images, which belong to the words"),
    Rule(r".*\.prop_score\..*", None, "the branch that compares regions (WSDDN), used only in training"),
    Rule(r".*\.cls_score\.zs_weight", None, "text rows, which belong to the words (saved beside the weights)"),
)


def centernet_proposals(shapes: Shapes) -> Part:
    """Recognise CenterNet as a class-agnostic proposal generator.

    Args:
        shapes: parameter name to shape.

    Returns:
        The proposal generator.

    Raises:
        Unrecognised: if it is a one-stage CenterNet, has shared or deformable towers, or is not there.
    """
    head = "proposal_generator.centernet_head."
    if f"{head}agn_hm.weight" not in shapes:
        hint = f": its entries are {some(_below(shapes, 'proposal_generator.'), 3)}" if _below(shapes, head) else ""
        raise Unrecognised(f"no class-agnostic CenterNet proposals ({head}agn_hm.weight is not there){hint}")
    foreign = [n for n in _below(shapes, head) if re.search(r"cls_tower|cls_logits|share_tower|conv_offset", n)]
    if foreign:
        raise Unrecognised(f"a one-stage CenterNet, or towers of another kind: {some(foreign, 3)}")
    layers = sorted({int(n[len(head) :].split(".")[1]) for n in _below(shapes, f"{head}bbox_tower.")})
    convolutions = [i for i in layers if len(shapes.get(f"{head}bbox_tower.{i}.weight", ())) == 4]
    normalised = len(layers) == 2 * len(convolutions)
    return Part(
        what=f"CenterNet proposals, {len(convolutions)} convolutions in the tower",
        config={
            "MODEL.PROPOSAL_GENERATOR.NAME": "CenterNet",
            "MODEL.CENTERNET.NUM_BOX_CONVS": len(convolutions),
            "MODEL.CENTERNET.NORM": "GN" if normalised else "",
        },
        rules=(Rule(r"proposal_generator\.centernet_head\.(bbox_tower|bbox_pred|agn_hm|scales)\..*"), OLD_BUFFERS),
        assumed=("thresholds and numbers of proposals (the defaults of MODEL.CENTERNET)",),
    )


def rpn_proposals(shapes: Shapes) -> Part:
    """Recognise Detectron2's RPN on one feature level.

    Args:
        shapes: parameter name to shape.

    Returns:
        The proposal generator.

    Raises:
        Unrecognised: if it is not there, or has another number of anchors than Detectron2's default.
    """
    name = "proposal_generator.rpn_head.objectness_logits.weight"
    if name not in shapes or "proposal_generator.rpn_head.conv.weight" not in shapes:
        raise Unrecognised(f"no RPN ({name} is not there)")
    anchors = shapes[name][0]
    if anchors != 15:
        raise Unrecognised(f"{name}: {anchors} anchors at every place, known are 15 (five sizes, three shapes)")
    return Part(
        what="RPN, 15 anchors",
        config={
            "MODEL.PROPOSAL_GENERATOR.NAME": "MultiDatasetRPN",
            "MODEL.RPN.PRE_NMS_TOPK_TEST": 6000,
            "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
        },
        rules=(Rule(r"proposal_generator\.rpn_head\..*"), OLD_BUFFERS),
        assumed=("sizes of the anchors, numbers of proposals",),
    )


def cascade_heads(shapes: Shapes) -> Part:
    """Recognise the region heads: one or several stages of two linear layers, a classifier and a box branch.

    Args:
        shapes: parameter name to shape.

    Returns:
        The region heads with their classifier.

    Raises:
        Unrecognised: if they are of another kind, or the stages differ.
    """
    foreign = [n for n in _below(shapes, "roi_heads.box_head.") if not re.search(r"\bfc\d+\.", n)]
    if foreign:
        raise Unrecognised(f"region heads with convolutions are not known: {some(foreign, 3)}")
    stages, first, rename = _stages(shapes)
    box_head, predictor = f"roi_heads.box_head.{first}", f"roi_heads.box_predictor.{first}"
    fc_names = [n for n in _below(shapes, box_head) if n.endswith(".weight")]
    if not stages or not fc_names:
        raise Unrecognised(f"no region heads: entries below roi_heads. are {some(_below(shapes, 'roi_heads.'))}")
    classifier = text_or_linear_classifier(shapes, predictor)
    channels = shapes[fc_names[0]][1]
    fpn = shapes.get("backbone.fpn_output3.weight", (256,))[0]
    resolution = round((channels / fpn) ** 0.5)
    if stages > len(IOUS):
        raise Unrecognised(f"{stages} cascade stages, known are 1 to 3")
    return Part(
        what=f"{stages} cascade stage(s), {len(fc_names)} layers of {shapes[fc_names[0]][0]}; {classifier.what}",
        config={
            "MODEL.ROI_HEADS.NAME": "MultiDatasetCascadeROIHeads",
            "MODEL.ROI_HEADS.IOU_THRESHOLDS": [0.6],
            "MODEL.ROI_BOX_CASCADE_HEAD.IOUS": IOUS[:stages],
            "MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS": DELTA_WEIGHTS[:stages],
            "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
            "MODEL.ROI_BOX_HEAD.NUM_FC": len(fc_names),
            "MODEL.ROI_BOX_HEAD.FC_DIM": shapes[fc_names[0]][0],
            "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": resolution,
            "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True,
            "MODEL.ROI_BOX_HEAD.MULT_PROPOSAL_SCORE": True,
            **classifier.config,
        },
        rules=(*classifier.rules, rename),
        assumed=("IoU thresholds and box weights of the stages", *classifier.assumed),
        text_width=classifier.text_width,
        text_rows=classifier.text_rows,
        num_columns=classifier.num_columns,
        image_weights=classifier.image_weights,
    )


def res5_heads(shapes: Shapes) -> Part:
    """Recognise region heads that are the last stage of a ResNet, with one classifier and box branch.

    Args:
        shapes: parameter name to shape.

    Returns:
        The region heads with their classifier; the ResNet stage belongs to the backbone's part.
    """
    classifier = text_or_linear_classifier(shapes, "roi_heads.box_predictor.")
    return Part(
        what=f"region heads on the last ResNet stage; {classifier.what}",
        config={
            "MODEL.ROI_HEADS.NAME": "MultiDatasetRes5ROIHeads",
            "MODEL.ROI_HEADS.IN_FEATURES": ["res4"],
            "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True,
            "MODEL.ROI_BOX_HEAD.MULT_PROPOSAL_SCORE": False,
            **classifier.config,
        },
        rules=(*classifier.rules, Rule(r"roi_heads\.box_predictor\..*")),
        assumed=("pooling of Detectron2's C4 models", *classifier.assumed),
        text_width=classifier.text_width,
        text_rows=classifier.text_rows,
        num_columns=classifier.num_columns,
        image_weights=classifier.image_weights,
    )


def text_or_linear_classifier(shapes: Shapes, predictor: str) -> Part:
    """Recognise the classifier below a predictor and how it was trained.

    Args:
        shapes: parameter name to shape.
        predictor: beginning of the predictor's names, with a dot at the end.

    Returns:
        The classifier.

    Raises:
        Unrecognised: if there is none, or the box branch refines one box for every class.
    """
    linear, text = f"{predictor}cls_score.weight", f"{predictor}cls_score.linear.weight"
    counts = f"{predictor}freq_weight"
    boxes = shapes.get(f"{predictor}bbox_pred.weight") or shapes.get(f"{predictor}bbox_pred.2.weight")
    if boxes is None or boxes[0] != 4:
        raise Unrecognised(f"{predictor}bbox_pred: known are boxes that do not depend on the class, 4 numbers: {boxes}")
    if text in shapes:
        return _text_classifier(shapes, predictor)
    if linear not in shapes:
        there = some(_below(shapes, predictor)) or "missing"
        raise Unrecognised(f"no classifier: entries below {predictor} are {there}")
    columns, federated = shapes[linear][0] - 1, counts in shapes
    return Part(
        what=f"linear classifier, {columns} classes",
        config={
            "MODEL.CLASSIFIER.NAME": "linear",
            "MODEL.CLASSIFIER.LOSS": "federated" if federated else "softmax",
            "MODEL.ROI_HEADS.NUM_CLASSES": columns,
        },
        rules=CLASSIFIER_RULES,
        assumed=() if federated else ("trained with softmax, as it has no image counts",),
        num_columns=columns,
        image_weights=counts if federated else "",
    )


def _text_classifier(shapes: Shapes, predictor: str) -> Part:
    rows, counts = f"{predictor}cls_score.zs_weight", f"{predictor}freq_weight"
    width, federated = shapes[f"{predictor}cls_score.linear.weight"][0], counts in shapes
    config: dict[str, Any] = {
        "MODEL.CLASSIFIER.NAME": "text",
        "MODEL.CLASSIFIER.LOSS": "federated" if federated else "sigmoid",
        "MODEL.CLASSIFIER.TEXT_ENCODER": "open_clip:ViT-B-32:openai",
        "MODEL.CLASSIFIER.PROMPTS": "single",
    }
    if f"{predictor}cls_score.cls_bias" in shapes:
        config["MODEL.CLASSIFIER.BIAS"] = 0.0
    return Part(
        what=f"text classifier, width {width}",
        config=config,
        rules=CLASSIFIER_RULES,
        assumed=('temperature 50, text embeddings of CLIP ViT-B/32 with the prompt "a {}"',),
        text_width=width,
        text_rows=rows if rows in shapes else "",
        num_columns=shapes[rows][1] - 1 if rows in shapes else None,
        image_weights=counts if federated else "",
    )


def mask_head(shapes: Shapes) -> Part:
    """Recognise class-agnostic masks, or that there are none.

    Args:
        shapes: parameter name to shape.

    Returns:
        The mask head; without masks a part that only switches them off.

    Raises:
        Unrecognised: if there is one mask for each class.
    """
    names = _below(shapes, "roi_heads.mask_head.")
    if not names:
        return Part(what="no masks", config={"MODEL.MASK_ON": False})
    masks = shapes.get("roi_heads.mask_head.predictor.weight", (0,))[0]
    if masks != 1:
        raise Unrecognised(f"roi_heads.mask_head.predictor.weight: {masks} masks, known is 1 for all classes")
    convolutions = [n for n in names if re.fullmatch(r"roi_heads\.mask_head\.mask_fcn\d+\.weight", n)]
    return Part(
        what=f"class-agnostic masks, {len(convolutions)} convolutions",
        config={
            "MODEL.MASK_ON": True,
            "MODEL.ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
            "MODEL.ROI_MASK_HEAD.NUM_CONV": len(convolutions),
            "MODEL.ROI_MASK_HEAD.CONV_DIM": shapes[convolutions[0]][0],
            "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 14,
            "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": True,
        },
        rules=(Rule(r"roi_heads\.mask_head\.(mask_fcn\d+|deconv|predictor)\..*"),),
    )


def _stages(shapes: Shapes) -> tuple[int, str, Rule]:
    """Number of stages, what stands before the names of the first one, and what they become."""
    if "roi_heads.box_head.fc1.weight" in shapes:  # a single stage that is no list
        return 1, "", Rule(r"roi_heads\.(box_head|box_predictor)\.(.*)", r"roi_heads.\1.0.\2")
    stages = len({n.split(".")[2] for n in _below(shapes, "roi_heads.box_head.")})
    _check_stages(shapes, stages)
    return stages, "0.", Rule(r"roi_heads\.(box_head|box_predictor)\.\d+\..*")


def _check_stages(shapes: Shapes, stages: int) -> None:
    """All stages must have the entries of the first."""
    for part in ("box_head", "box_predictor"):
        found = [_stage(shapes, f"roi_heads.{part}.{k}.") for k in range(stages)]
        for k, entries in enumerate(found):
            if entries != found[0]:
                differ = sorted({name for name, _ in set(entries.items()) ^ set(found[0].items())})
                raise Unrecognised(
                    f"stage {k} of roi_heads.{part} differs from stage 0 in {some(differ, 4)}: the "
                    "file is not complete, or its stages are of different kinds"
                )


def _stage(shapes: Shapes, prefix: str) -> dict[str, tuple[int, ...]]:
    return {name[len(prefix) :]: shape for name, shape in shapes.items() if name.startswith(prefix)}


def _below(shapes: Shapes, prefix: str) -> list[str]:
    return [name for name in shapes if name.startswith(prefix)]
