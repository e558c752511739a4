"""Configuration: a yacs tree with defaults, and the bridge from the tree to explicit arguments."""

# ruff: noqa: F401 (re-exports)

from .._missing import module_getattr
from .config import CfgNode, configurable, get_cfg, global_cfg, set_global_cfg

__getattr__ = module_getattr(__name__)
