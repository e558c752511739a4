"""The config tree: Detectron2's with the keys of mvseg."""

from __future__ import annotations

from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg as _detectron2_cfg

from mvseg.config.backbones import add_clip_config, add_trunk_config
from mvseg.config.data import add_data_config
from mvseg.config.heads import add_calibration_config, add_classifier_config, add_dataset_config, add_scope_config
from mvseg.config.losses import (
    add_caption_config,
    add_distillation_config,
    add_image_label_config,
    add_long_tail_config,
    add_scaledet_config,
)
from mvseg.config.proposals import add_centernet_config, add_localization_config
from mvseg.config.training import add_training_config


def add_mvseg_config(cfg: CN) -> None:
    """Add mvseg's keys with their defaults to a Detectron2 config tree, in place.

    Args:
        cfg: a tree from ``detectron2.config.get_cfg()``.
    """
    add_data_config(cfg)
    add_trunk_config(cfg)
    add_clip_config(cfg)
    add_centernet_config(cfg)
    add_localization_config(cfg)
    add_scope_config(cfg)
    add_classifier_config(cfg)
    add_calibration_config(cfg)
    add_dataset_config(cfg)
    add_scaledet_config(cfg)
    add_long_tail_config(cfg)
    add_distillation_config(cfg)
    add_image_label_config(cfg)
    add_caption_config(cfg)
    add_training_config(cfg)


def get_cfg() -> CN:
    """Build Detectron2's default config with mvseg's keys added.

    Returns:
        A fresh, unfrozen config tree.
    """
    cfg = _detectron2_cfg()
    add_mvseg_config(cfg)
    return cfg
