"""Matching of parameter names between a model and a file that was saved from a part of such a model."""

import logging
from collections.abc import Iterator

from detectron2._missing import INSTALL_HINT
from torch import Tensor


def align_and_update_state_dicts(
    model_state_dict: dict[str, Tensor], ckpt_state_dict: dict[str, Tensor], c2_conversion: bool = True
) -> dict[str, Tensor]:
    """Rename the file's entries to the model's.

    A model's entry takes the file's entry with the longest name that ends its own name at a dot:
    ``backbone.res2.conv1.weight`` takes ``res2.conv1.weight`` and, failing that, ``conv1.weight``. Entries that nobody
    takes, or of another shape, keep their names. Files with Caffe2's names (``res2_0_branch2a_w``) are refused.
    """
    if c2_conversion:
        _refuse_caffe2_names(ckpt_state_dict)
    logger = logging.getLogger(__name__)
    source: dict[str, str] = {}  # model's name -> file's name
    taken: dict[str, str] = {}
    for name, value in model_state_dict.items():
        match = next((ending for ending in _endings(name) if ending in ckpt_state_dict), None)
        if match is None:
            continue
        if ckpt_state_dict[match].shape != value.shape:
            shapes = (match, tuple(ckpt_state_dict[match].shape), name, tuple(value.shape))
            logger.warning("%s of the checkpoint has shape %s, but %s of the model has %s: not loaded", *shapes)
            continue
        if match in taken:
            raise ValueError(f"the checkpoint's {match} fits both {taken[match]} and {name} of the model; rename it")
        source[name], taken[match] = match, name
    if not source:
        logger.warning("no parameter name of the checkpoint fits the model")
    renamed = {name: ckpt_state_dict[match] for name, match in source.items()}
    lines = [f"\n  {name} <- {match}" for name, match in source.items() if name != match]
    logger.info("matched %d entries of the checkpoint by name%s", len(source), "".join(lines))
    return renamed | {name: value for name, value in ckpt_state_dict.items() if name not in taken}


def _endings(name: str) -> Iterator[str]:
    """The name itself, then without its first part, and so on."""
    while name:
        yield name
        name = name.partition(".")[2]


def _refuse_caffe2_names(state_dict: dict[str, Tensor]) -> None:
    foreign = [name for name in state_dict if "." not in name and name.endswith(("_w", "_b", "_bn_s", "_bn_beta"))]
    if foreign:
        raise ValueError(
            f"the checkpoint has Caffe2's parameter names ({', '.join(foreign[:3])}, ...), which mvseg's built-in "
            f"provider does not translate: convert the file with mvseg.checkpoints, or {INSTALL_HINT}"
        )
