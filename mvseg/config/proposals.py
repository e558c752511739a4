"""Keys of proposal generators: CenterNet, the class-agnostic localisation network."""

from __future__ import annotations

from detectron2.config import CfgNode as CN


def add_centernet_config(cfg: CN) -> None:
    """Add the keys of CenterNet proposals.

    Args:
        cfg: the tree, changed in place.
    """
    # CenterNet as a class-agnostic proposal generator (Zhou et al. 2021, arXiv 2103.07461); CenterNet2's key names.
    node = cfg.MODEL.CENTERNET = CN()
    node.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]
    node.FPN_STRIDES = [8, 16, 32, 64, 128]  # pixels
    node.NUM_BOX_CONVS = 4
    node.NORM = "GN"
    node.PRIOR_PROB = 0.01  # initial heatmap probability
    node.HM_MIN_OVERLAP = 0.8  # IoU that a shifted box must keep inside the Gaussian
    node.MIN_RADIUS = 4  # pixels
    node.SOI = [[0, 80], [64, 160], [128, 320], [256, 640], [512, 10000000]]  # half-diagonal per level, pixels
    node.HM_FOCAL_ALPHA = 0.25
    node.HM_FOCAL_BETA = 4.0
    node.LOSS_GAMMA = 2.0
    node.SIGMOID_CLAMP = 1e-4
    node.IGNORE_HIGH_FP = 0.85  # negatives scored above this are ignored (missing annotations); < 0: off
    node.POS_WEIGHT = 0.5
    node.NEG_WEIGHT = 0.5
    node.REG_WEIGHT = 1.0
    node.LOC_LOSS_TYPE = "giou"  # giou, iou or linear_iou
    node.NOT_NORM_REG = True  # True: every box location counts 1; False: weighted by the heatmap
    node.INFERENCE_TH = 1e-4  # heatmap probability below which a location gives no proposal
    node.NMS_TH_TRAIN = 0.9
    node.NMS_TH_TEST = 0.9
    node.PRE_NMS_TOPK_TRAIN = 4000  # per level
    node.PRE_NMS_TOPK_TEST = 1000
    node.POST_NMS_TOPK_TRAIN = 2000  # over all levels
    node.POST_NMS_TOPK_TEST = 256


def add_localization_config(cfg: CN) -> None:
    """Add the keys of the class-agnostic localisation network.

    Args:
        cfg: the tree, changed in place.
    """
    # Class-agnostic localisation (Kim et al. 2022, OLN, arXiv 2108.06753; first stage of UniDetector, arXiv
    # 2303.11749): MODEL.PROPOSAL_GENERATOR.NAME LocalizationRPN with MODEL.ROI_HEADS.NAME LocalizationROIHeads.
    node = cfg.MODEL.LOCALIZATION = CN()
    node.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    node.FEATURE_NORM = 1.0  # length of the features of a place before the last layers; large: they learn faster
    node.ANCHOR_SCALE = 8.0  # side of the one anchor of a place, strides
    node.BOX_IOUS = [0.3, 0.7]  # anchors below the first are negative, from the second on they learn the object's box
    node.CENTER_IOUS = [0.1, 0.3]  # the same for the centerness
    node.LEAST_IOU = 0.3  # the best anchors of an object learn it from this IoU on
    node.BOX_ANCHORS = 256  # of an image; those without an object count in the mean, and learn nothing
    node.BOX_POSITIVE_FRACTION = 0.5
    node.CENTER_ANCHORS = 256  # of an image
    # Where objects give fewer anchors of centerness, background learns that its centerness is 0. The paper has only
    # positives; the published code fills up.
    node.CENTER_NEGATIVES = False
    node.BORDER = 0  # pixels that a learning anchor may reach beyond its image; negative: as far as it likes
    node.BOX_WEIGHT = 10.0
    node.CENTER_WEIGHT = 1.0
    node.OVERLAP_WEIGHT = 1.0  # of the predicted IoU of a region
    node.ALPHA = 0.3  # confidence = objectness^ALPHA * (centerness * predicted IoU)^(1 - ALPHA)
    node.NMS_TH_TRAIN = 0.7  # within a level; 1.0 or more: none
    node.NMS_TH_TEST = 1.0
    node.PRE_NMS_TOPK_TRAIN = 2000  # per level
    node.PRE_NMS_TOPK_TEST = 2000
    node.POST_NMS_TOPK_TRAIN = 2000  # over all levels
    node.POST_NMS_TOPK_TEST = 2000
