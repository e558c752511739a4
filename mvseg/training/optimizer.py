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

    Learning rate (BACKBONE_MULTIPLIER, MULTIPLIERS) and weight decay (normalisation layers: WEIGHT_DECAY_NORM, biases:
    WEIGHT_DECAY_BIAS) are set per parameter group; the optimizer's own weight decay is never added on top.

    Args:
        cfg: the config.
        model: the model; parameters without ``requires_grad`` are left out.

    Returns:
        SGD or AdamW.

    Raises:
        ValueError: if SOLVER.OPTIMIZER is unknown, or SOLVER.MULTIPLIERS names no parameter.
    """
    solver = cfg.SOLVER
    groups = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        lr_factor_func=_learning_rate_factor(cfg, model),
    )
    kind = solver.OPTIMIZER.upper()
    if kind == "SGD":
        return torch.optim.SGD(groups, lr=solver.BASE_LR, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV)
    if kind == "ADAMW":
        fused = all(p.device.type in ("cpu", "cuda") for group in groups for p in group["params"])  # one pass over all
        return torch.optim.AdamW(groups, lr=solver.BASE_LR, weight_decay=0.0, fused=fused)
    raise ValueError(f"SOLVER.OPTIMIZER {solver.OPTIMIZER!r}: choose one of {', '.join(OPTIMIZERS)}")


def _learning_rate_factor(cfg: CfgNode, model: nn.Module) -> Callable[[str], float]:
    """Factor on the learning rate by the name of a parameter: the longest beginning in MULTIPLIERS decides."""
    names = [name for name, _ in model.named_parameters()]
    factors: dict[str, float] = {}
    for entry in cfg.SOLVER.MULTIPLIERS:
        if not isinstance(entry, list | tuple) or len(entry) != 2 or not isinstance(entry[0], str):
            raise ValueError(
                f'SOLVER.MULTIPLIERS: an entry is [beginning, factor], such as ["roi_heads.", 0.1]: {entry!r}'
            )
        if not any(name.startswith(entry[0]) for name in names):
            parts = sorted({f"{name.partition('.')[0]}." for name in names})
            raise ValueError(
                f"SOLVER.MULTIPLIERS: no parameter begins with {entry[0]!r}; the parts are {', '.join(parts)}"
            )
        factors[entry[0]] = float(entry[1])

    def factor(name: str) -> float:
        begins = max((b for b in factors if name.startswith(b)), key=len, default=None)
        if begins is not None:
            return factors[begins]
        return cfg.SOLVER.BACKBONE_MULTIPLIER if "backbone." in name else 1.0

    return factor


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
