"""Optimizer, parameter groups, gradient clipping and schedule from a config."""

import logging
import math
from collections.abc import Callable
from enum import Enum
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver.lr_scheduler import LRMultiplier, LRScheduler, WarmupParamScheduler
from fvcore.common.param_scheduler import CosineParamScheduler, MultiStepParamScheduler, ParamScheduler
from torch import nn
from torch.optim.optimizer import Optimizer

# _NormBase: batch, sync and instance norm.
_NORM_TYPES = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm)


class GradientClipType(Enum):
    """Values of SOLVER.CLIP_GRADIENTS.CLIP_TYPE."""

    VALUE = "value"
    NORM = "norm"


def maybe_add_gradient_clipping(cfg: CfgNode, optimizer: type[Optimizer]) -> type[Optimizer]:
    """Return the optimizer class, or a subclass that clips every parameter's gradient before each step.

    An optimizer object is also taken: then the object gets such a class. Parameters without a gradient are left alone.
    """
    settings = cfg.SOLVER.CLIP_GRADIENTS
    if not settings.ENABLED:
        return optimizer
    base = type(optimizer) if isinstance(optimizer, Optimizer) else optimizer
    by_value = GradientClipType(settings.CLIP_TYPE) is GradientClipType.VALUE

    def step(self: Optimizer, closure: Callable | None = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and by_value:
                    nn.utils.clip_grad_value_(parameter, settings.CLIP_VALUE)
                elif parameter.grad is not None:
                    nn.utils.clip_grad_norm_(parameter, settings.CLIP_VALUE, settings.NORM_TYPE)
        return base.step(self, closure)

    clipping = type(f"{base.__name__}WithGradientClip", (base,), {"step": step})
    if isinstance(optimizer, Optimizer):
        optimizer.__class__ = clipping
        return optimizer
    return clipping


def build_optimizer(cfg: CfgNode, model: nn.Module) -> Optimizer:
    """SGD with the settings of SOLVER."""
    solver = cfg.SOLVER
    special = ("weight_decay_norm", "bias_lr_factor", "weight_decay_bias")
    groups = get_default_optimizer_params(model, solver.BASE_LR, **{name: solver[name.upper()] for name in special})
    options = {name: solver[name.upper()] for name in ("momentum", "nesterov", "weight_decay")}
    return maybe_add_gradient_clipping(cfg, torch.optim.SGD)(groups, lr=solver.BASE_LR, foreach=True, **options)


def get_default_optimizer_params(
    model: nn.Module,
    base_lr: float | None = None,
    weight_decay: float | None = None,
    weight_decay_norm: float | None = None,
    bias_lr_factor: float | None = 1.0,
    weight_decay_bias: float | None = None,
    lr_factor_func: Callable[[str], float] | None = None,
    overrides: dict[str, dict[str, float]] | None = None,
) -> list[dict[str, Any]]:
    """Sort the trainable parameters into groups of equal settings.

    A setting that is None is left to the optimizer. In order, later ones win: ``base_lr`` and ``weight_decay``,
    ``weight_decay_norm`` in normalisation layers, ``lr_factor_func(full parameter name)`` as a factor of ``base_lr``,
    and ``overrides[own name of the parameter]``, to which the two bias settings add an entry "bias".
    """
    if base_lr is None and (lr_factor_func is not None or bias_lr_factor not in (None, 1.0)):
        raise ValueError("bias_lr_factor and lr_factor_func need base_lr")
    by_name = {name: dict(values) for name, values in (overrides or {}).items()}
    bias: dict[str, float] = {}
    if bias_lr_factor not in (None, 1.0):
        bias["lr"] = base_lr * bias_lr_factor
    if weight_decay_bias is not None:
        bias["weight_decay"] = weight_decay_bias
    if bias:
        if "bias" in by_name:
            raise ValueError("overrides for 'bias' conflict with bias_lr_factor and weight_decay_bias")
        by_name["bias"] = bias

    params, seen = [], set()
    for module_name, module in model.named_modules():
        decay = weight_decay_norm if isinstance(module, _NORM_TYPES) and weight_decay_norm is not None else weight_decay
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            settings = {"lr": base_lr, "weight_decay": decay}
            if lr_factor_func is not None:
                settings["lr"] = base_lr * lr_factor_func(f"{module_name}.{name}")
            settings = {key: value for key, value in settings.items() if value is not None}
            params.append({"params": [parameter], **settings, **by_name.get(name, {})})
    return reduce_param_groups(params)


def reduce_param_groups(params: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Join groups of equal settings, in order of appearance; of a parameter in several groups, later settings win."""
    settings_of: dict[Any, dict[str, Any]] = {}
    for group in params:
        settings = {key: value for key, value in group.items() if key != "params"}
        for parameter in group["params"]:
            settings_of.setdefault(parameter, {}).update(settings)
    joined: dict[tuple, dict[str, Any]] = {}
    for parameter, settings in settings_of.items():
        key = tuple(sorted(settings.items()))
        joined.setdefault(key, {**settings, "params": []})["params"].append(parameter)
    return list(joined.values())


def build_lr_scheduler(cfg: CfgNode, optimizer: Optimizer) -> LRScheduler:
    """The schedule that SOLVER.LR_SCHEDULER_NAME names, with warmup in front."""
    solver = cfg.SOLVER
    length = min(solver.WARMUP_ITERS / solver.MAX_ITER, 1.0)
    warmup = (solver.WARMUP_FACTOR, length, solver.WARMUP_METHOD, solver.RESCALE_INTERVAL)
    schedule = WarmupParamScheduler(_schedule(solver), *warmup)
    return LRMultiplier(optimizer, multiplier=schedule, max_iter=solver.MAX_ITER)


def _schedule(solver: CfgNode) -> ParamScheduler:
    """Multiplier of the learning rate over the share of the training that is done."""
    name, end = solver.LR_SCHEDULER_NAME, solver.MAX_ITER
    if name == "WarmupCosineLR":
        end_value = solver.BASE_LR_END / solver.BASE_LR
        if not 0.0 <= end_value <= 1.0:
            raise ValueError(f"SOLVER.BASE_LR_END {solver.BASE_LR_END} must lie in [0, BASE_LR {solver.BASE_LR}]")
        return CosineParamScheduler(1.0, end_value)
    if name == "WarmupMultiStepLR":
        steps = [step for step in solver.STEPS if step <= end]
        if len(steps) != len(solver.STEPS):
            logger = logging.getLogger(__name__)
            logger.warning("SOLVER.STEPS %s beyond MAX_ITER %d are ignored", tuple(solver.STEPS), end)
    elif name == "WarmupStepWithFixedGammaLR":
        # Parts of equal length. fvcore's own schedule of this name has no value for the end of the training,
        # which the scheduler asks for after the last iteration.
        parts = solver.NUM_DECAYS + 1
        steps = [math.ceil(part * end / parts) for part in range(1, parts)]
    else:
        known = "WarmupMultiStepLR, WarmupCosineLR and WarmupStepWithFixedGammaLR"
        raise ValueError(f"SOLVER.LR_SCHEDULER_NAME {name!r}: there are {known}")
    return MultiStepParamScheduler([solver.GAMMA**part for part in range(len(steps) + 1)], end, milestones=steps)
