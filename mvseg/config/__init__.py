"""Every config key that mvseg adds to Detectron2's tree, a file for each subject, and the reading of config files."""

from __future__ import annotations

from .reading import load_config, resolve_mixture
from .tree import add_mvseg_config, get_cfg

__all__ = ["add_mvseg_config", "get_cfg", "load_config", "resolve_mixture"]
