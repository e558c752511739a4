"""Optimizers from SOLVER, with every parameter in exactly one group, and gradient clipping."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from detectron2.config import CfgNode
from detectron2.solver import get_default_optimizer_params
from torch import nn

OPTIMIZERS = ("SGD", "ADAMW")
CLIP_KINDS = ("value", "norm", "full_model")

Clip = Callable[[Iterable[nn.Parameter]], None]


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer that SOLVER describes.

    Learning rate, weight decay (normalisation layers: WEIGHT_DECAY_NORM, biases: WEIGHT_DECAY_BIAS) and the backbone's
    multiplier are set per parameter group; the optimizer's own weight decay is never added on top.

    Args:
        cfg: the config.
        model: the model; parameters without ``requires_grad`` are left out.

    Returns:
        SGD or AdamW.

    Raises:
        ValueError: if SOLVER.OPTIMIZER is unknown.
    """
    solver = cfg.SOLVER
    groups = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        lr_factor_func=lambda name: solver.BACKBONE_MULTIPLIER if "backbone." in name else 1.0,
    )
    kind = solver.OPTIMIZER.upper()
    if kind == "SGD":
        return torch.optim.SGD(groups, lr=solver.BASE_LR, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV)
    if kind == "ADAMW":
        fused = all(p.device.type in ("cpu", "cuda") for group in groups for p in group["params"])  # one pass over all
        return torch.optim.AdamW(groups, lr=solver.BASE_LR, weight_decay=0.0, fused=fused)
    raise ValueError(f"SOLVER.OPTIMIZER {solver.OPTIMIZER!r}: choose one of {', '.join(OPTIMIZERS)}")


def build_clipping(cfg: CfgNode) -> Clip | None:
    """Build the gradient clipping that SOLVER.CLIP_GRADIENTS describes.

    Args:
        cfg: the config. CLIP_TYPE is "value" (every element), "norm" (every parameter by itself, as in Detectron2) or
            "full_model" (the norm over all parameters).

    Returns:
        A function that clips the gradients of parameters in place, or None if clipping is off.

    Raises:
        ValueError: if CLIP_TYPE is unknown.
    """
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not clip.ENABLED:
        return None
    if clip.CLIP_TYPE not in CLIP_KINDS:
        raise ValueError(f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE {clip.CLIP_TYPE!r}: choose one of {', '.join(CLIP_KINDS)}")
    return lambda parameters: clip_gradients(parameters, clip.CLIP_TYPE, clip.CLIP_VALUE, clip.NORM_TYPE)


def clip_gradients(parameters: Iterable[nn.Parameter], kind: str, limit: float, norm_type: float = 2.0) -> None:
    """Clip gradients in place; parameters that got no gradient in this step are passed over.

    Args:
        parameters: parameters of any shape.
        kind: "value", "norm" or "full_model", see :func:`build_clipping`.
        limit: largest absolute value, or largest norm.
        norm_type: order of the norm.
    """
    with_gradient = [p for p in parameters if p.grad is not None]
    if not with_gradient:
        return
    if kind == "value":
        nn.utils.clip_grad_value_(with_gradient, limit)
    elif kind == "norm":
        for parameter in with_gradient:
            nn.utils.clip_grad_norm_(parameter, limit, norm_type)
    else:
        nn.utils.clip_grad_norm_(with_gradient, limit, norm_type)
