"""Keys of solver and test."""

from __future__ import annotations

from detectron2.config import CfgNode as CN


def add_training_config(cfg: CN) -> None:
    """Add the keys of solver and test.

    Args:
        cfg: the tree, changed in place.
    """
    cfg.SOLVER.OPTIMIZER = "SGD"  # SGD or ADAMW
    cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0  # learning rate of parameters below "backbone."
    # Factors on the learning rate of parameters by the beginning of their names, such as [["roi_heads.", 0.1]]; the
    # longest beginning decides, also over BACKBONE_MULTIPLIER.
    cfg.SOLVER.MULTIPLIERS = []
    cfg.SOLVER.AMP.DTYPE = "bfloat16"  # bfloat16 or float16; used if SOLVER.AMP.ENABLED, on CUDA and CPU
    node = cfg.SOLVER.EMA = CN()
    node.ENABLED = False
    node.DECAY = 0.999
    # What all test sets are evaluated with, such as "proposals" (average recall of boxes of any class); "": what the
    # card of each says.
    cfg.TEST.EVALUATOR = ""
    # Further rows of the summary: mean and median of the results of several test sets, each with the same weight. A
    # list of structs {name: odinw, datasets: [odinw_*_test]}; datasets are names in DATASETS.TEST or patterns of such
    # names.
    cfg.TEST.AVERAGES = []
    cfg.TEST.BEST_METRIC = ""  # e.g. "coco_2017_val/bbox/AP": keeps model_best.pth by it
    cfg.TEST.VALIDATION_LOSS = False  # also compute the training losses on the test sets at every evaluation
    cfg.TEST.NUM_PICTURES = 8  # predictions drawn per test set at every evaluation; 0: none
    cfg.TEST.REPORT = True  # write report.html, one page about the run, after training (python -m mvseg.report)
