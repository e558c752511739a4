"""Configuration: a yacs tree with defaults, and the bridge from the tree to explicit arguments."""

from typing import Any

from detectron2._missing import missing_attribute
from detectron2.config.compat import downgrade_config, upgrade_config
from detectron2.config.config import CfgNode, configurable, get_cfg, global_cfg, set_global_cfg

__all__ = [
    "CfgNode",
    "configurable",
    "downgrade_config",
    "get_cfg",
    "global_cfg",
    "set_global_cfg",
    "upgrade_config",
]


def __getattr__(name: str) -> Any:
    raise missing_attribute(__name__, name, known=("LazyCall", "LazyConfig", "instantiate"))
