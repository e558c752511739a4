"""Keys of losses: ScaleDet, long tails, a teacher's embeddings, image labels, captions."""

from __future__ import annotations

from detectron2.config import CfgNode as CN


def add_scaledet_config(cfg: CN) -> None:
    """Add the keys of the loss "scaledet".

    Args:
        cfg: the tree, changed in place.
    """
    # MODEL.CLASSIFIER.LOSS scaledet: a hard loss (binary decisions, as "sigmoid") and a soft loss (squared distance of
    # a region's nearness to all labels from its label's similarity to them; objects only). No public source gives these
    # numbers and choices: see projects/ScaleDet. Temperature and bias are those of MODEL.CLASSIFIER.
    node = cfg.MODEL.SCALEDET = CN()
    node.HARD_WEIGHT = 1.0  # 0.0: the soft loss alone
    node.SOFT_WEIGHT = 0.1  # lambda; 0.0: the hard loss alone, the same as LOSS sigmoid
    # Label-to-label similarity: none (cosines), minmax (the smallest cosine of two labels becomes 0), centered (their
    # mean becomes 0, and all below it too; our own variant). 1 stays 1.
    node.SIMILARITY = "minmax"
    # What of a region is compared with it: cosine (to every label), or probability (of the sigmoid; SIMILARITY minmax
    # or centered). Logits against similarities divided by the temperature would only be another SOFT_WEIGHT.
    node.COMPARE = "cosine"
    node.REDUCTION = "sum"  # over the columns of a region: sum (as the hard loss) or mean; then both divide by regions
    node.SOFT_COLUMNS = "scope"  # columns of the soft loss: scope (those of the hard loss), or all


def add_long_tail_config(cfg: CN) -> None:
    """Add the keys of the losses for long tails.

    Args:
        cfg: the tree, changed in place.
    """
    # Losses for classes of very different frequency (projects/LongTail), picked by MODEL.CLASSIFIER.LOSS.
    node = cfg.MODEL.LONG_TAIL = CN()
    # "focal" (Lin et al. 2017, arXiv 1708.02002): weight of positives, negatives have 1 - it (negative: both 1); focus;
    # and what the sum is divided by: "objects" (regions that show one, at least 1; the paper's) or "regions".
    node.FOCAL_ALPHA = 0.25
    node.FOCAL_GAMMA = 2.0
    node.FOCAL_NORMALIZER = "objects"
    # "eql" (Tan et al., CVPR 2020): objects of other classes are no negatives for classes with fewer
    # training images than this. The released code: 0.00177 of all images, for LVIS v1 177 of 100,170.
    node.EQL_IMAGES = 177
    # "eqlv2" (Tan et al. 2021, arXiv 2012.08548), with g the positive over the negative gradients of a class so far:
    # weight f(g) = sigmoid(GAMMA (g - MU)) of negatives, 1 + ALPHA (1 - f(g)) of positives.
    node.EQLV2_GAMMA = 12.0
    node.EQLV2_MU = 0.8
    node.EQLV2_ALPHA = 4.0
    # "eqlv2" and "seesaw", as in their released code: whether a region shows an object is a decision of its own, which
    # test scores are multiplied by; needs MODEL.CLASSIFIER.NAME linear. False: without one (eqlv2), or with the
    # background among the classes of the softmax (seesaw).
    node.OBJECTNESS = True
    # "seesaw" (Wang et al. 2021, arXiv 2008.10032): exponents of the mitigation by the frequencies of two classes and
    # of the compensation of misclassified regions (0.0: off); least probability of the true class in the latter.
    node.SEESAW_P = 0.8
    node.SEESAW_Q = 2.0
    node.SEESAW_EPS = 0.01
    # "balanced_group_softmax" (Li et al., CVPR 2020): image counts at which a new group of classes begins;
    # and so many times the regions of a group's classes learn that they show none of them.
    node.BAGS_EDGES = [10, 100, 1000]
    node.BAGS_RATIO = 8.0


def add_distillation_config(cfg: CN) -> None:
    """Add the keys of learning from the embeddings of a teacher.

    Args:
        cfg: the tree, changed in place.
    """
    # Region embeddings learn from those that a teacher made of the same boxes (Gu et al. 2022, ViLD, arXiv 2104.13921):
    # MODEL.ROI_HEADS.NAME DistillingCascadeROIHeads.
    node = cfg.MODEL.DISTILLATION = CN()
    node.WEIGHT = 0.0  # factor on the loss; 0.0: off, and no embeddings of crops are read. ViLD: 0.5, 1.0 or 2.0
    # Distance of the directions: "l1" (sum of the absolute differences) or "cosine" (1 - cosine).
    node.LOSS = "l1"
    node.MAX_REGIONS = 300  # boxes of an image, the first of those that are stored
    # True: a box head and projection of its own learns from the teacher (ViLD-ensemble); False: the classifier's.
    node.SEPARATE_HEAD = False
    # Factor on the classification loss; 0.0: the teacher alone says what regions are (ViLD-image).
    node.CLASS_WEIGHT = 1.0
    # Class probabilities at test time: "text" (of the loss of annotation), "image" (of the teacher's embedding: softmax
    # over words without a background), or "ensemble": text^s * image^(1-s).
    node.SCORES = "text"
    node.LAMBDA = 2 / 3  # "ensemble": s of base words; novel words have 1 - LAMBDA
    # "ensemble": which words are base words. "words": those that training annotated, by name or alias; "similarity":
    # those with a cosine of at least BASE_SIMILARITY to one; "fixed": all, so that no base words need be known.
    node.BASE = "words"
    node.BASE_SIMILARITY = 0.9


def add_image_label_config(cfg: CN) -> None:
    """Add the keys of learning from image tags.

    Args:
        cfg: the tree, changed in place.
    """
    # What a detector learns from images of which only tags are known (Zhou et al. 2022, Detic, arXiv 2201.02605).
    node = cfg.MODEL.IMAGE_LABELS = CN()
    # The region that answers for a tag: max_size (the largest), max_score (the best for the tag), min_loss (the one of
    # the smallest loss), first (the best proposal), image (the whole image; needs ADD_IMAGE_BOX), or wsddn (also called
    # wsod): all regions together, compared by a branch of their own.
    node.LOSS = "max_size"
    node.WEIGHT = 0.1
    node.NUM_PROPOSALS = 128  # regions of a tagged image: the proposals with the highest scores
    node.ADD_IMAGE_BOX = False  # one more region: the image; one with a caption has it anyway
    node.IMAGE_BOX_SIZE = 1.0  # its height and width, as a share of the image's
    node.SOFTMAX_LOSS = False  # cross-entropy over the columns instead of a binary decision for each of them
    # Columns that a step compares: the tags at hand and drawn ones, so that tens of thousands of words cost no more
    # time than this many (50 in Detic with 21 thousand). 0: all columns in the annotation's scope.
    node.NUM_COLUMNS = 0


def add_caption_config(cfg: CN) -> None:
    """Add the keys of learning from captions.

    Args:
        cfg: the tree, changed in place.
    """
    # What a detector with text embeddings learns from captions: one of every image, drawn anew in every step and
    # embedded by MODEL.CLASSIFIER.TEXT_ENCODER, against the other captions of the batch.
    node = cfg.MODEL.CAPTIONS = CN()
    node.LOSS = "contrast"  # a binary decision for every pair of the whole image and a caption
    node.WEIGHT = 0.1
    node.NEGATIVE_WEIGHT = 0.125  # factor on captions of other images
    node.GATHER = True  # also compare with the captions of the other processes
