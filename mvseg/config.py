"""Every config key that mvseg adds to Detectron2's tree, and the reading of config files with helpful errors."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg as _detectron2_cfg


def add_mvseg_config(cfg: CN) -> None:
    """Add mvseg's keys with their defaults to a Detectron2 config tree, in place.

    Args:
        cfg: a tree from ``detectron2.config.get_cfg()``.
    """
    _add_data_config(cfg)
    _add_centernet_config(cfg)
    _add_localization_config(cfg)
    _add_classifier_config(cfg)
    _add_scaledet_config(cfg)
    _add_long_tail_config(cfg)
    _add_distillation_config(cfg)
    _add_clip_config(cfg)
    _add_dataset_config(cfg)
    _add_calibration_config(cfg)
    _add_image_label_config(cfg)
    _add_caption_config(cfg)
    _add_training_config(cfg)


def _add_data_config(cfg: CN) -> None:
    # Further dataset cards: YAML files or folders of them, registered before the datasets are looked up.
    cfg.DATASETS.CARDS = []
    # The training mixture, one struct per dataset; see mvseg.data.mixing.MixEntry for its fields and defaults:
    #   - {name: coco_2017_train, ratio: 1.0, sampler: uniform, image_size: 640, batch_size: 8,
    #      augmentation: resize_crop, loss_weight: 1.0, repeat_threshold: 0.001, scale_range: [0.1, 2.0],
    #      annotation_scope: verified+hierarchy, proposals: output/proposals/coco_2017_train,
    #      crop_embeddings: output/crop_embeddings/coco_2017_train, pseudo_boxes: output/pseudo/coco_2017_train.json}
    # Empty: DATASETS.TRAIN is used, every dataset in proportion to its size.
    cfg.DATASETS.MIX = []
    # A stored crop embedding (field crop_embeddings) whose box keeps less than this share of its area in the augmented
    # image is left out: the teacher saw something else than what is left of it.
    cfg.DATASETS.CROP_EMBEDDINGS_KEPT_AREA = 0.5
    # "concatenate": one column per (dataset, class); "merge_names": classes of the same name share a column;
    # "merge_similar": classes whose text embeddings are alike; "object": one column for everything (class-agnostic); or
    # a mapping by hand, a .csv, .tsv or .yaml file.
    cfg.DATASETS.LABEL_SPACE = "concatenate"
    cfg.DATASETS.MERGE_THRESHOLD = 0.98  # "merge_similar": smallest cosine of two words that share a column
    # "dataset": every batch comes from one dataset (and has its batch size); "mixed": a batch may hold several.
    cfg.DATALOADER.GROUPING = "mixed"
    # Share of unreadable images (0 to 1) above which training stops; below it they are replaced, counted, reported.
    cfg.DATALOADER.MAX_BAD_IMAGES = 0.01
    # Class-aware sampling and repeat factors per dataset are chosen in DATASETS.MIX (field "sampler").
    # Augmentation recipe where a mixture entry names none: resize_shortest_edge, resize_crop, fixed_size (also lsj).
    cfg.INPUT.AUGMENTATION = "resize_shortest_edge"
    # Recipes resize_crop and fixed_size: side of the crop in pixels, and range of the random scale relative to it.
    cfg.INPUT.TRAIN_SIZE = 640
    cfg.INPUT.SCALE_RANGE = [0.1, 2.0]


def _add_centernet_config(cfg: CN) -> None:
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


def _add_localization_config(cfg: CN) -> None:
    # Class-agnostic localisation (Kim et al. 2022, OLN, arXiv 2108.06753; first stage of UniDetector, arXiv 2303.11749):
    # MODEL.PROPOSAL_GENERATOR.NAME LocalizationRPN with MODEL.ROI_HEADS.NAME LocalizationROIHeads.
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


def _add_classifier_config(cfg: CN) -> None:
    # Any timm model with features_only (MODEL.BACKBONE.NAME build_timm_fpn_backbone).
    node = cfg.MODEL.TIMM = CN()
    node.NAME = "resnet50"
    node.OUT_INDICES = [2, 3, 4]  # features of strides 8, 16, 32 in a ResNet
    node.PRETRAINED = False  # True downloads timm's weights
    node.NORM = "FrozenBN"  # FrozenBN, BN, SyncBN, GN or "" (as the model has it)
    node.FREEZE_AT = 0
    node.DROP_PATH = 0.0  # largest probability that a block is left out in training; Detic: 0.2 for ConvNeXt-T
    # Swin Transformers for detection (MODEL.BACKBONE.NAME build_swin_fpn_backbone).
    node = cfg.MODEL.SWIN = CN()
    node.SIZE = "B-22k"  # T, S, B, B-22k, B-22k-384, L-22k, L-22k-384; 384: windows of 12 cells instead of 7
    node.OUT_INDICES = [1, 2, 3]  # stages of strides 8, 16, 32
    node.DROP_PATH = None  # None: that of the size, 0.2 for T and S, 0.3 for B and L
    node.FREEZE_AT = 0  # 1: the patch embedding does not train; k: neither do the first k - 1 stages
    node.USE_CHECKPOINT = False  # compute the blocks again in the backward pass: less memory, more time
    # Which columns of the label space an image's annotation speaks about: all, own (its dataset's vocabulary), safe
    # (own, and for an object what surely is something else), federated (drawn classes), verified (checked classes),
    # hierarchy (broader words are positive, narrower ignored; own_hierarchy: of the dataset's own words alone), group
    # (with LOSS softmax: classes that the dataset does not tell apart are one answer); several joined by "+". See
    # docs/label_spaces.md.
    cfg.MODEL.ANNOTATION_SCOPE = "own"
    cfg.MODEL.SAFE_THRESHOLD = 0.95  # cosine from which another dataset's word may mean the same ("safe", "group")
    node = cfg.MODEL.CLASSIFIER = CN()
    node.NAME = "text"  # "text": cosine to text embeddings; "linear": closed set
    node.TEMPERATURE = 50.0
    node.NORMALIZE = True  # L2-normalise features and text rows
    # The encoder of the text embeddings: minilm, open_clip:ARCHITECTURE:CHECKPOINT_OR_TAG, huggingface:FOLDER or
    # table:FILE. It embeds the words of vocabularies that bring no embeddings (datasets, free words at test time), and
    # files of embeddings that say who made them are checked against it. "": words need embeddings of their own.
    node.TEXT_ENCODER = ""
    # Its prompts: a set (name, single, photo, clip_80, vild_63) or templates separated by ";".
    node.PROMPTS = "single"
    # Tokens of a learnable context in front of every word, trained with the detector while TEXT_ENCODER is frozen
    # (CoOp, Zhou et al. 2022, arXiv 2109.01134; 16 there). 0: off, text embeddings stay as they are.
    node.CONTEXT_LENGTH = 0
    # How the context begins: the words before {} of a template such as "a photo of a {}." (must be CONTEXT_LENGTH
    # tokens), or drawn from N(0, 0.02) where there are none. What is behind {} stays behind the word.
    node.CONTEXT_PROMPT = ""  # (yacs reads a lone "{}" back as a dict)
    # The text row of the background, where the loss has one: "zero" (its logit is the bias or 0) or "learned" (ViLD).
    node.BACKGROUND = "zero"
    # At test time instead of TEMPERATURE; None: the same. Ports of ViLD train with 100 and test with 1 / 0.007 = 142.9.
    node.TEST_TEMPERATURE = None
    # Loss "softmax": what words do that no training annotation with boxes can show (of a card's filter, or without
    # images). "compete": they are wrong answers as all others; "masked": they are left out (logit -inf); "zero": their
    # logit counts as 0, as in ViLD's released code.
    node.UNSEEN_LOGITS = "compete"
    node.BIAS = None  # None: no bias; a number: one learnable scalar with this initial value
    # Region classification loss: "sigmoid" (all columns in scope), "federated" (sampled columns), "softmax", "scaledet"
    # (MODEL.SCALEDET), or one for long tails (MODEL.LONG_TAIL): "focal", "eql", "eqlv2", "seesaw",
    # "balanced_group_softmax".
    node.LOSS = "sigmoid"
    node.FED_LOSS_NUM_CLASSES = 50  # of the loss "federated", and for each dataset of the scope "federated"
    node.FED_LOSS_FREQ_POWER = 0.5  # exponent of the image count in the draw of negative classes; 0.0: all alike
    # Scope "federated": "batch" draws once for all images of a dataset in a batch, "image" for every image anew, beside
    # the classes that this image shows (UniDetector). The loss "federated" draws once for the batch.
    node.FED_LOSS_DRAW = "batch"
    # Losses "sigmoid" and "federated": a sum over columns, averaged over all "regions" of a batch, or over the regions
    # of an image and then over "images", so that one with few regions weighs as much as the others.
    node.AVERAGE = "regions"
    node.IGNORE_ZERO_CATS = False  # leave classes without training images out of the loss
    node.PRIOR_PROB = 0.01  # initial class probability of the linear classifier with sigmoid
    # False: region features are compared with text embeddings as they are (CLIP's own); True: after a linear layer.
    node.PROJECTION = True
    # A closed set ("linear") at test time, files in the form of DATASETS.LABEL_SPACE: which of its words become one word,
    # whose logit is the mean of theirs, without training anew (UniDet, Zhou et al. 2022, arXiv 2102.13086) ...
    node.TEST_MERGE = ""
    # ... and which of its words the words of test sets outside of training stand for (rows: words of the test). Without
    # it such a set must be spelled in words of the training. python -m mvseg.vocabulary match proposes one.
    node.TEST_WORDS = ""
    # Test score = sqrt(class probability * proposal score).
    cfg.MODEL.ROI_BOX_HEAD.MULT_PROPOSAL_SCORE = True
    cfg.MODEL.ROI_HEADS.ONE_CLASS_PER_PROPOSAL = False
    # True: at test time a box suppresses worse boxes of all classes (IoU above NMS_THRESH_TEST), not only of its own.
    cfg.MODEL.ROI_HEADS.NMS_CLASS_AGNOSTIC = False
    # "hard": worse boxes go (NMS_THRESH_TEST); "gaussian": their scores fall with their overlap to better ones, by the
    # factor exp(-IoU^2 / SOFT_NMS_SIGMA) (Bodla et al. 2017, arXiv 1704.04503), until they are below the threshold.
    cfg.MODEL.ROI_HEADS.NMS = "hard"
    cfg.MODEL.ROI_HEADS.SOFT_NMS_SIGMA = 0.5
    cfg.MODEL.ROI_HEADS.MASK_WEIGHT = 1.0


def _add_scaledet_config(cfg: CN) -> None:
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


def _add_long_tail_config(cfg: CN) -> None:
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


def _add_distillation_config(cfg: CN) -> None:
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


def _add_clip_config(cfg: CN) -> None:
    # The image side of a CLIP model with a ResNet: MODEL.BACKBONE.NAME build_clip_resnet_backbone up to stride 16, its
    # last stage and attention pooling in the region heads (MODEL.ROI_HEADS.NAME ClipRes5ROIHeads). How many stages do
    # not train: MODEL.BACKBONE.FREEZE_AT (1: the stem, 2: the first stage too).
    node = cfg.MODEL.CLIP = CN()
    node.ARCHITECTURE = "RN50"  # a name that open_clip knows, or a JSON file with such a model's config
    # Weights to begin with: a tag of open_clip such as "openai" (which downloads) or a checkpoint file of such a model.
    # "": none, MODEL.WEIGHTS brings them (also plain CLIP files).
    node.PRETRAINED = ""
    node.NORM = "FrozenBN"  # FrozenBN, BN, SyncBN or GN; without weights to begin with FrozenBN learns little


def _add_dataset_config(cfg: CN) -> None:
    # Parts that let one detector behave differently with the images of different datasets. Adapters in the residual
    # blocks of a timm ResNet (Wang et al. 2019, Domain Attention, arXiv 1904.04402): the image itself chooses among
    # them.
    node = cfg.MODEL.ADAPTERS = CN()
    node.NAME = ""  # "": none; "se": one in every block; "domain_attention": banks of NUM, mixed by a learned routing
    node.NUM = 3  # adapters of a bank; they need not be as many as datasets
    node.REDUCTION = 16  # width of a block / width of its adapters
    node.STAGES = [1, 2, 3, 4]
    # 2: of the blocks of a stage, counted back from its last, every second one has a bank, the others have one adapter.
    node.EVERY = 1
    # Where the gates begin, between 0 and 1. 0.5: usual initialisation, which halves every branch, so that a network
    # without adapters must first get used to them (the authors train theirs on ImageNet first); 0.98: nearly as before.
    node.INITIAL_GATE = 0.5
    # Region features adapted by an embedding of their image's dataset, made of the text embeddings of its words: our
    # own design after the idea of Detection Hub (Meng et al. 2023, arXiv 2206.03484); see projects/DetectionHub.
    node = cfg.MODEL.DATASET_EMBEDDING = CN()
    node.ENABLED = False
    node.WIDTH = 256  # length of the embedding of a dataset


def _add_calibration_config(cfg: CN) -> None:
    # Test scores in the light of how often a detector reports every class (Wang et al. 2023, UniDetector, arXiv
    # 2303.11749): (p * f / mean(f)) ** BETA * (proposal score) ** (1 - BETA), with f = prior ** -GAMMA.
    node = cfg.MODEL.CALIBRATION = CN()
    node.ENABLED = False  # False: MODEL.ROI_BOX_HEAD.MULT_PROPOSAL_SCORE says how scores are made
    # Where the prior comes from: "none" (f = 1), "test" (a first pass over each test set: it sees all of it before it
    # answers), "running" (the test images before), or a file made by python -m mvseg.inference.prior from a set that
    # is no test set. Counts are smoothed, so that a class that never occurs is no trouble.
    node.PRIOR = "test"
    node.GAMMA = 0.6
    node.BETA = 0.3
    node.DECAY = 1.0  # "running": factor on the counts before every image; 1.0: all images count alike
    node.COUNT_THRESHOLD = 1e-4  # score without the prior that a detection must exceed to be counted


def _add_image_label_config(cfg: CN) -> None:
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


def _add_caption_config(cfg: CN) -> None:
    # What a detector with text embeddings learns from captions: one of every image, drawn anew in every step and
    # embedded by MODEL.CLASSIFIER.TEXT_ENCODER, against the other captions of the batch.
    node = cfg.MODEL.CAPTIONS = CN()
    node.LOSS = "contrast"  # a binary decision for every pair of the whole image and a caption
    node.WEIGHT = 0.1
    node.NEGATIVE_WEIGHT = 0.125  # factor on captions of other images
    node.GATHER = True  # also compare with the captions of the other processes


def _add_training_config(cfg: CN) -> None:
    cfg.SOLVER.OPTIMIZER = "SGD"  # SGD or ADAMW
    cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0  # learning rate of parameters below "backbone."
    # Factors on the learning rate of parameters by the beginning of their names, such as [["roi_heads.", 0.1]]; the
    # longest beginning decides, also over BACKBONE_MULTIPLIER.
    cfg.SOLVER.MULTIPLIERS = []
    cfg.SOLVER.AMP.DTYPE = "bfloat16"  # bfloat16 or float16; used if SOLVER.AMP.ENABLED, on CUDA and CPU
    node = cfg.SOLVER.EMA = CN()
    node.ENABLED = False
    node.DECAY = 0.999
    # What all test sets are evaluated with, such as "proposals" (average recall of boxes of any class); "": what the card
    # of each says.
    cfg.TEST.EVALUATOR = ""
    # Further rows of the summary: mean and median of the results of several test sets, each with the same weight. A list
    # of structs {name: odinw, datasets: [odinw_*_test]}; datasets are names in DATASETS.TEST or patterns of such names.
    cfg.TEST.AVERAGES = []
    cfg.TEST.BEST_METRIC = ""  # e.g. "coco_2017_val/bbox/AP": keeps model_best.pth by it
    cfg.TEST.VALIDATION_LOSS = False  # also compute the training losses on the test sets at every evaluation
    cfg.TEST.NUM_PICTURES = 8  # predictions drawn per test set at every evaluation; 0: none
    cfg.TEST.REPORT = True  # write report.html, one page about the run, after training (python -m mvseg.report)


def get_cfg() -> CN:
    """Build Detectron2's default config with mvseg's keys added.

    Returns:
        A fresh, unfrozen config tree.
    """
    cfg = _detectron2_cfg()
    add_mvseg_config(cfg)
    return cfg


def load_config(config_file: str | Path | None = None, opts: Sequence[str] = ()) -> CN:
    """Read a config file over the defaults, then command-line overrides.

    Args:
        config_file: YAML file, with ``_BASE_`` if wanted; None keeps the defaults.
        opts: alternating KEY VALUE strings.

    Returns:
        The resolved, unfrozen config: DATASETS.TRAIN follows DATASETS.MIX; relative paths of DATASETS.CARDS, of a
        mapping file in DATASETS.LABEL_SPACE, MODEL.CLASSIFIER.TEST_MERGE and TEST_WORDS, and of MODEL.WEIGHTS that do
        not exist in the working folder are those beside the config file, or beside one of the folders above it.

    Raises:
        FileNotFoundError: if the file does not exist.
        KeyError: if the file or the overrides name an unknown key; the message lists the nearest keys.
        ValueError: if DATASETS.MIX and DATASETS.TRAIN contradict each other, an override lacks a value, or a value has
            another type than its key.
    """
    cfg = get_cfg()
    if config_file is not None:
        if not Path(config_file).is_file():
            raise FileNotFoundError(f"config file {config_file} does not exist")
        _check_file_keys(cfg, Path(config_file))
        with _clear_mismatch(str(config_file)):
            cfg.merge_from_file(str(config_file))
    if len(opts) % 2:
        raise ValueError(f"overrides must be KEY VALUE pairs, the last one has no value: {' '.join(opts[-3:])}")
    for key in opts[0::2]:
        _check_key(cfg, key, "command line")
    with _clear_mismatch("command line"):
        cfg.merge_from_list(list(opts))
    resolve_mixture(cfg)
    if config_file is not None:
        cfg.DATASETS.CARDS = [_find_cards(str(place), Path(config_file)) for place in cfg.DATASETS.CARDS]
        cfg.DATASETS.LABEL_SPACE = _find_cards(cfg.DATASETS.LABEL_SPACE, Path(config_file))
        for key in ("TEST_MERGE", "TEST_WORDS"):
            cfg.MODEL.CLASSIFIER[key] = _find_cards(cfg.MODEL.CLASSIFIER[key], Path(config_file))
        cfg.MODEL.WEIGHTS = _find_cards(cfg.MODEL.WEIGHTS, Path(config_file))
        if cfg.MODEL.CALIBRATION.PRIOR.endswith(".json"):
            cfg.MODEL.CALIBRATION.PRIOR = _find_cards(cfg.MODEL.CALIBRATION.PRIOR, Path(config_file))
    return cfg


def _find_cards(place: str, config_file: Path) -> str:
    if Path(place).exists():
        return place
    found = (folder / place for folder in config_file.resolve().parents if (folder / place).exists())
    return str(next(found, place))


def resolve_mixture(cfg: CN) -> None:
    """Let DATASETS.TRAIN follow DATASETS.MIX, in place.

    Args:
        cfg: the config; untouched if DATASETS.MIX is empty.

    Raises:
        ValueError: if an entry of DATASETS.MIX is no struct with a name, or DATASETS.TRAIN is set and names other
            datasets.
    """
    for entry in cfg.DATASETS.MIX:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise ValueError(
                "DATASETS.MIX: every entry is a struct with the name of its dataset, such as "
                f"{{name: coco_2017_train, ratio: 1.0}}; got {entry!r}"
            )
    names = tuple(entry["name"] for entry in cfg.DATASETS.MIX)
    if not names:
        return
    if cfg.DATASETS.TRAIN and tuple(cfg.DATASETS.TRAIN) != names:
        raise ValueError(
            f"DATASETS.TRAIN {tuple(cfg.DATASETS.TRAIN)} contradicts DATASETS.MIX {names}: set only DATASETS.MIX"
        )
    cfg.DATASETS.TRAIN = names


_MISMATCH = re.compile(
    r"Type mismatch \(<class '(?P<want>.+?)'> vs\. <class '(?P<got>.+?)'>\) "
    r"with values \((?P<old>.*) vs\. (?P<new>.*)\) for config key: (?P<key>.*)",
    re.DOTALL,
)


@contextmanager
def _clear_mismatch(where: str) -> Iterator[None]:
    """Say of a value of the wrong type where it stands, what its key expects, and how to write it."""
    try:
        yield
    except ValueError as error:
        found = _MISMATCH.search(str(error))
        if found is None:
            raise
        want, got, old, new, key = found.group("want", "got", "old", "new", "key")
        hint = ""
        if (want, got) == ("float", "int"):
            hint = f": write {new}.0"
        elif want in ("tuple", "list"):
            hint = f": write a list, such as [{repr(new) if got == 'str' else new}]"
        expected = f"{'an' if want == 'int' else 'a'} {want} such as {old}"
        if want.endswith("CfgNode"):
            expected = "a section of keys"
        raise ValueError(f"{where}: {key} is {expected}, not the {got} {new}{hint}") from None


def _check_file_keys(cfg: CN, path: Path) -> None:
    """Walk the keys of a YAML file and of its bases before merging, so that the error can name file and nearest key."""
    try:
        tree = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(tree, dict):
        found = "is empty" if tree is None else f"holds a {type(tree).__name__}"
        raise ValueError(f"{path}: a config file is a mapping of keys, this one {found}")
    base = tree.pop("_BASE_", None)
    if base:
        base_path = Path(base) if Path(base).is_absolute() else path.parent / base
        if not base_path.is_file():
            raise FileNotFoundError(f"{path}: its _BASE_ {base_path} does not exist")
        _check_file_keys(cfg, base_path)
    for key in _leaves(tree):
        _check_key(cfg, key, str(path))


def _leaves(tree: dict[str, Any], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, value in tree.items():
        keys += _leaves(value, f"{prefix}{name}.") if isinstance(value, dict) and value else [f"{prefix}{name}"]
    return keys


def _check_key(cfg: CN, key: str, where: str) -> None:
    node: Any = cfg
    for part in key.split("."):
        if not isinstance(node, CN) or part not in node:
            known = _leaves(cfg)
            near = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
            near += [k for k in known if k.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1] and k not in near]
            hint = f"; nearest: {', '.join(near[:3])}" if near else ""
            raise KeyError(f"{where}: unknown config key {key}{hint}")
        node = node[part]
