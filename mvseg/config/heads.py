"""Keys of region heads: scopes, classifier, test scores and their calibration, adaptation to datasets."""

from __future__ import annotations

from detectron2.config import CfgNode as CN


def add_scope_config(cfg: CN) -> None:
    """Add the keys of annotation scopes.

    Args:
        cfg: the tree, changed in place.
    """
    # Which columns of the label space an image's annotation speaks about: all, own (its dataset's vocabulary), safe
    # (own, and for an object what surely is something else), federated (drawn classes), verified (checked classes),
    # hierarchy (broader words are positive, narrower ignored; own_hierarchy: of the dataset's own words alone), group
    # (with LOSS softmax: classes that the dataset does not tell apart are one answer); several joined by "+". See
    # docs/label_spaces.md.
    cfg.MODEL.ANNOTATION_SCOPE = "own"
    cfg.MODEL.SAFE_THRESHOLD = 0.95  # cosine from which another dataset's word may mean the same ("safe", "group")


def add_classifier_config(cfg: CN) -> None:
    """Add the keys of the classifier, and of the scores and the suppression of region heads.

    Args:
        cfg: the tree, changed in place.
    """
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
    # Losses "sigmoid", "federated", "scaledet", "eql" and "eqlv2": a sum over columns, averaged over all "regions" of a
    # batch, or over the regions of an image and then over "images", so that one with few regions weighs as much as the
    # others.
    node.AVERAGE = "regions"
    node.IGNORE_ZERO_CATS = False  # leave classes without training images out of the loss
    node.PRIOR_PROB = 0.01  # initial class probability of the linear classifier with sigmoid
    # False: region features are compared with text embeddings as they are (CLIP's own); True: after a linear layer.
    node.PROJECTION = True
    # A closed set ("linear") at test time, files in the form of DATASETS.LABEL_SPACE: which of its words become one
    # word, whose logit is the mean of theirs, without training anew (UniDet, Zhou et al. 2022, arXiv 2102.13086) ...
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


def add_calibration_config(cfg: CN) -> None:
    """Add the keys of calibrated test scores.

    Args:
        cfg: the tree, changed in place.
    """
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


def add_dataset_config(cfg: CN) -> None:
    """Add the keys of parts that behave differently for different datasets.

    Args:
        cfg: the tree, changed in place.
    """
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
