"""Optimizers, parameter groups, gradient clipping and schedules."""

from __future__ import annotations

import math

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.solver import (
    LRMultiplier,
    WarmupParamScheduler,
    build_lr_scheduler,
    build_optimizer,
    get_default_optimizer_params,
)
from detectron2.solver.build import maybe_add_gradient_clipping, reduce_param_groups
from fvcore.common.param_scheduler import CosineParamScheduler, MultiStepParamScheduler
from torch import nn

from mvseg.provider import detectron2_provider

only_builtin = pytest.mark.skipif(detectron2_provider() != "builtin", reason="fails upstream on current torch")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 1)
        self.norm = nn.BatchNorm2d(3)
        self.group_norm = nn.GroupNorm(1, 3)
        self.head = nn.Linear(3, 4)
        self.shared = self.head  # counted once
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def named_groups(model, groups):
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [
        ({key: value for key, value in group.items() if key != "params"}, [names[p] for p in group["params"]])
        for group in groups
    ]


def test_param_groups_without_settings_are_one():
    model = Net()
    ((settings, names),) = named_groups(model, get_default_optimizer_params(model))
    assert settings == {}
    assert names == [name for name, p in model.named_parameters() if p.requires_grad]


def test_param_groups():
    model = Net()
    groups = get_default_optimizer_params(
        model,
        base_lr=1.0,
        weight_decay=0.5,
        weight_decay_norm=0.0,
        bias_lr_factor=2.0,
        weight_decay_bias=0.25,
        overrides={"weight_nobody_has": {"lr": 9.0}},
    )
    assert named_groups(model, groups) == [
        ({"lr": 1.0, "weight_decay": 0.5}, ["conv.weight", "head.weight"]),
        ({"lr": 2.0, "weight_decay": 0.25}, ["conv.bias", "norm.bias", "group_norm.bias", "head.bias"]),
        ({"lr": 1.0, "weight_decay": 0.0}, ["norm.weight", "group_norm.weight"]),
    ]


def test_param_groups_with_factor_and_overrides():
    model = Net()
    groups = get_default_optimizer_params(
        model,
        base_lr=1.0,
        lr_factor_func=lambda name: 0.1 if name.startswith("conv.") else 1.0,
        overrides={"bias": {"weight_decay": 0.125}},
    )
    assert named_groups(model, groups) == [
        ({"lr": 0.1}, ["conv.weight"]),
        ({"lr": 0.1, "weight_decay": 0.125}, ["conv.bias"]),
        ({"lr": 1.0}, ["norm.weight", "group_norm.weight", "head.weight"]),
        ({"lr": 1.0, "weight_decay": 0.125}, ["norm.bias", "group_norm.bias", "head.bias"]),
    ]


@pytest.mark.parametrize(
    "wrong",
    [{"bias_lr_factor": 2.0}, {"base_lr": 1.0, "bias_lr_factor": 2.0, "overrides": {"bias": {"lr": 1.0}}}],
)
def test_param_groups_refuse_contradictions(wrong):
    with pytest.raises(ValueError):
        get_default_optimizer_params(Net(), **wrong)


def test_reduce_param_groups():
    groups = [
        {"params": ["a"], "lr": 1.0, "weight_decay": 4.0},
        {"params": ["b", "f"], "lr": 2.0, "momentum": 2.0},
        {"params": ["c"], "lr": 2.0, "momentum": 2.0},
        {"params": ["a"], "weight_decay": 5.0},
    ]
    assert reduce_param_groups(groups) == [
        {"lr": 1.0, "weight_decay": 5.0, "params": ["a"]},
        {"lr": 2.0, "momentum": 2.0, "params": ["b", "f", "c"]},
    ]


def test_build_optimizer():
    cfg = get_cfg()
    cfg.SOLVER.BASE_LR = 0.5
    cfg.SOLVER.MOMENTUM = 0.75
    cfg.SOLVER.NESTEROV = True
    cfg.SOLVER.WEIGHT_DECAY = 0.25
    optimizer = build_optimizer(cfg, Net())
    assert type(optimizer) is torch.optim.SGD
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.25, 0.0]
    assert all((g["lr"], g["momentum"], g["nesterov"]) == (0.5, 0.75, True) for g in optimizer.param_groups)


def clipped_step(clip_type, limit, gradients, optimizer_type=torch.optim.SGD):
    cfg = get_cfg()
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = clip_type
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = limit
    parameters = [nn.Parameter(torch.zeros(2)) for _ in gradients]
    optimizer = maybe_add_gradient_clipping(cfg, optimizer_type)(parameters, lr=1.0)
    for parameter, gradient in zip(parameters, gradients):
        parameter.grad = None if gradient is None else torch.tensor(gradient)
    optimizer.step()
    assert isinstance(optimizer, optimizer_type)
    return [parameter.detach() for parameter in parameters]


def test_clipping_is_off_by_default():
    assert maybe_add_gradient_clipping(get_cfg(), torch.optim.SGD) is torch.optim.SGD


def test_clipping_by_value():
    first, second = clipped_step("value", 1.0, [[3.0, -0.5], [-2.0, 0.0]])
    assert first.tolist() == [-1.0, 0.5] and second.tolist() == [1.0, 0.0]


def test_clipping_by_norm_is_per_parameter():
    first, second = clipped_step("norm", 1.0, [[3.0, 4.0], [0.3, 0.4]])
    torch.testing.assert_close(first, torch.tensor([-0.6, -0.8]))
    torch.testing.assert_close(second, torch.tensor([-0.3, -0.4]))


@only_builtin
@pytest.mark.parametrize("clip_type", ["value", "norm"])
def test_clipping_skips_parameters_without_gradient(clip_type):
    first, second = clipped_step(clip_type, 1.0, [None, [2.0, 0.0]])
    assert first.tolist() == [0.0, 0.0]
    torch.testing.assert_close(second, torch.tensor([-1.0, 0.0]))


@only_builtin
def test_clipping_class_can_be_subclassed():
    cfg = get_cfg()
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True

    class Sub(maybe_add_gradient_clipping(cfg, torch.optim.SGD)):
        pass

    parameter = nn.Parameter(torch.zeros(1))
    parameter.grad = torch.full((1,), 5.0)
    Sub([parameter], lr=1.0).step()
    assert parameter.item() == -1.0


def rates(scheduler, optimizer, steps):
    values = [optimizer.param_groups[0]["lr"]]
    for _ in range(steps):
        optimizer.step()
        scheduler.step()
        values.append(optimizer.param_groups[0]["lr"])
    return values


def sgd(lr=5.0):
    return torch.optim.SGD([nn.Parameter(torch.zeros(0))], lr=lr)


def test_warmup_multistep_with_multiplier():
    optimizer = sgd()
    steps = MultiStepParamScheduler([1, 0.1, 0.01, 0.001], milestones=[10, 15, 20], num_updates=30)
    got = rates(LRMultiplier(optimizer, WarmupParamScheduler(steps, 0.001, 5 / 30), 30), optimizer, 30)
    expected = [0.005, 1.004, 2.003, 3.002, 4.001] + [5.0] * 5 + [0.5] * 5 + [0.05] * 5 + [0.005] * 11
    assert got == pytest.approx(expected)


def test_warmup_cosine_meets_the_cosine():
    optimizer = sgd()
    got = rates(
        LRMultiplier(optimizer, WarmupParamScheduler(CosineParamScheduler(1, 0), 0.001, 5 / 30), 30), optimizer, 30
    )
    cosine = [2.5 * (1 + math.cos(math.pi * k / 30)) for k in range(31)]
    warmup = [0.005 + (cosine[5] - 0.005) * k / 5 for k in range(5)]
    assert got == pytest.approx(warmup + cosine[5:])


def test_warmup_with_rescaled_interval():
    schedule = WarmupParamScheduler(CosineParamScheduler(1, 0), 0.1, 0.2, "linear", rescale_interval=True)
    assert schedule(0.0) == pytest.approx(0.1)
    assert schedule(0.1) == pytest.approx(0.55)
    assert schedule(0.6) == pytest.approx(0.5)  # middle of what is left
    with pytest.raises(ValueError):
        WarmupParamScheduler(CosineParamScheduler(1, 0), 0.1, 0.2, "quadratic")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("WarmupMultiStepLR", {0: 0.1, 1: 0.55, 2: 1.0, 5: 1.0, 6: 0.1, 8: 0.01, 10: 0.01}),
        ("WarmupCosineLR", {0: 0.1, 5: 0.625, 10: 0.25}),
        ("WarmupStepWithFixedGammaLR", {0: 0.1, 2: 1.0, 3: 1.0, 4: 0.1, 6: 0.1, 7: 0.01, 9: 0.01}),
        pytest.param("WarmupStepWithFixedGammaLR", {10: 0.01}, marks=only_builtin),  # the end of the training
    ],
)
def test_build_lr_scheduler(name, expected):
    cfg = get_cfg()
    cfg.SOLVER.LR_SCHEDULER_NAME = name
    cfg.SOLVER.MAX_ITER = 10
    cfg.SOLVER.STEPS = (6, 8, 100)  # the last one never comes
    cfg.SOLVER.BASE_LR = 4.0
    cfg.SOLVER.BASE_LR_END = 1.0
    cfg.SOLVER.NUM_DECAYS = 2
    cfg.SOLVER.WARMUP_ITERS = 2
    cfg.SOLVER.WARMUP_FACTOR = 0.1
    optimizer = sgd(4.0)
    got = rates(build_lr_scheduler(cfg, optimizer), optimizer, max(expected))
    assert {k: got[k] / 4.0 for k in expected} == pytest.approx(expected)


def test_unknown_scheduler_is_refused():
    cfg = get_cfg()
    cfg.SOLVER.LR_SCHEDULER_NAME = "Nothing"
    with pytest.raises(ValueError, match="Nothing"):
        build_lr_scheduler(cfg, sgd())


def test_multiplier_keeps_ratios_and_resumes():
    first, second = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))

    def make():
        optimizer = torch.optim.SGD([{"params": [first], "lr": 1.0}, {"params": [second], "lr": 0.5}], lr=1.0)
        return optimizer, LRMultiplier(optimizer, CosineParamScheduler(1, 0), 10)

    optimizer, scheduler = make()
    for _ in range(4):
        optimizer.step()
        scheduler.step()
    a, b = (group["lr"] for group in optimizer.param_groups)
    assert a == pytest.approx(2 * b) == pytest.approx(0.5 * (1 + math.cos(0.4 * math.pi)))
    state = scheduler.state_dict()
    assert set(state) == {"base_lrs", "last_epoch"}
    optimizer, scheduler = make()
    scheduler.load_state_dict(state)
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * (1 + math.cos(0.5 * math.pi)))
    with pytest.raises(ValueError):
        LRMultiplier(optimizer, lambda where: 1.0, 10)
