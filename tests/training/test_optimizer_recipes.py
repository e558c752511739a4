"""Optimizer groups, clipping with missing gradients, and the moving average, against numbers computed by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mvseg.config import get_cfg
from mvseg.training import ModelEma, build_clipping, build_optimizer, clip_gradients


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, 2)
        self.frozen = nn.Linear(4, 2).requires_grad_(False)


def settings(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, tuple[float, float]]:
    names = {id(p): n for n, p in model.named_parameters()}
    found: dict[str, tuple[float, float]] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            assert name not in found, f"{name} is in two groups"
            found[name] = (group["lr"], group["weight_decay"])
    return found


@pytest.mark.parametrize("kind", ["SGD", "adamw"])
def test_every_parameter_has_its_rate_and_decay_once(kind):
    cfg = get_cfg()
    cfg.SOLVER.OPTIMIZER, cfg.SOLVER.BASE_LR, cfg.SOLVER.BACKBONE_MULTIPLIER = kind, 0.1, 0.01
    cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.WEIGHT_DECAY_NORM, cfg.SOLVER.WEIGHT_DECAY_BIAS = 0.05, 0.0, 0.02
    model = Net()
    optimizer = build_optimizer(cfg, model)
    assert type(optimizer).__name__.lower() == kind.lower()
    found = {name: (pytest.approx(lr), decay) for name, (lr, decay) in settings(optimizer, model).items()}
    assert found == {
        "backbone.0.weight": (0.001, 0.05),
        "backbone.0.bias": (0.001, 0.02),
        "backbone.1.weight": (0.001, 0.0),
        "backbone.1.bias": (0.001, 0.02),  # as in Detectron2: WEIGHT_DECAY_BIAS counts for all biases
        "head.weight": (0.1, 0.05),
        "head.bias": (0.1, 0.02),
    }


def test_longest_beginning_of_a_name_decides_its_rate():
    cfg = get_cfg()
    cfg.SOLVER.BASE_LR, cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0, 0.5
    cfg.SOLVER.MULTIPLIERS = [["backbone.", 0.25], ["backbone.1.", 0.125], ["head.", 2]]
    model = Net()
    rates = {name: rate for name, (rate, _) in settings(build_optimizer(cfg, model), model).items()}
    assert rates == {
        "backbone.0.weight": 0.25,
        "backbone.0.bias": 0.25,
        "backbone.1.weight": 0.125,
        "backbone.1.bias": 0.125,
        "head.weight": 2.0,
        "head.bias": 2.0,
    }
    cfg.SOLVER.MULTIPLIERS = [["backbone.1.", 0.125]]
    rates = {name: rate for name, (rate, _) in settings(build_optimizer(cfg, model), model).items()}
    assert (rates["backbone.0.weight"], rates["backbone.1.weight"], rates["head.bias"]) == (0.5, 0.125, 1.0)


@pytest.mark.parametrize("entry", ["head.", ["head."], [0.1, "head."]])
def test_multiplier_that_is_no_pair_says_how_to_write_it(entry):
    cfg = get_cfg()
    cfg.SOLVER.MULTIPLIERS = [entry]
    with pytest.raises(ValueError, match=r"SOLVER.MULTIPLIERS: an entry is \[beginning, factor\]"):
        build_optimizer(cfg, Net())


def test_multiplier_of_no_parameter_lists_the_parts():
    cfg = get_cfg()
    cfg.SOLVER.MULTIPLIERS = [["roi_heads.", 0.1]]
    with pytest.raises(ValueError, match=r"no parameter begins with 'roi_heads.'; the parts are backbone., frozen."):
        build_optimizer(cfg, Net())


def test_adamw_shrinks_a_parameter_without_gradient_signal_by_its_decay_only():
    cfg = get_cfg()
    cfg.SOLVER.OPTIMIZER, cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY = "ADAMW", 0.1, 0.5
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(2.0)
    optimizer = build_optimizer(cfg, model)
    model.weight.grad = torch.zeros(1, 1)
    optimizer.step()
    assert model.weight.item() == pytest.approx(2.0 * (1 - 0.1 * 0.5))


def test_unknown_names_are_refused():
    cfg = get_cfg()
    cfg.SOLVER.OPTIMIZER = "ADAM"
    with pytest.raises(ValueError, match=r"SOLVER.OPTIMIZER 'ADAM'.*SGD, ADAMW"):
        build_optimizer(cfg, Net())
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED, cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = True, "values"
    with pytest.raises(ValueError, match="CLIP_TYPE 'values'"):
        build_clipping(cfg)
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = False
    assert build_clipping(cfg) is None


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("value", ([1.0, -1.0], [0.5])),
        ("norm", ([0.6, -0.8], [0.5])),  # each by itself: |(3, -4)| = 5
        ("full_model", ([3 / 5.024938, -4 / 5.024938], [0.5 / 5.024938])),  # |(3, -4, 0.5)|
    ],
)
def test_clipping_passes_over_parameters_without_gradient(kind, expected):
    cfg = get_cfg()
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED, cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = True, kind
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(1))]
    parameters[0].grad, parameters[2].grad = torch.tensor([3.0, -4.0]), torch.tensor([0.5])
    clip = build_clipping(cfg)
    clip(iter(parameters))
    assert parameters[0].grad.tolist() == pytest.approx(expected[0], abs=1e-5)
    assert parameters[1].grad is None
    assert parameters[2].grad.tolist() == pytest.approx(expected[1], abs=1e-5)
    for name in ("value", "norm", "full_model"):
        clip_gradients([nn.Parameter(torch.zeros(2))], name, 1.0)  # no gradient at all


def test_average_follows_the_formula_and_counts():
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    model[0].weight.data.fill_(0.0)
    ema = ModelEma(model, decay=0.15)
    expected = 0.0
    for step, value in enumerate([1.0, 5.0, -3.0]):
        model[0].weight.data.fill_(value)
        model[1].num_batches_tracked.fill_(step + 1)
        ema.update(model)
        decay = min(0.15, (1 + step) / (10 + step))  # 0.1, then 0.15
        expected = decay * expected + (1 - decay) * value
    assert ema.shadow["0.weight"].item() == pytest.approx(expected)
    assert ema.shadow["1.num_batches_tracked"].item() == 3
    with ema.applied(model):
        assert model[0].weight.item() == pytest.approx(expected)
    assert model[0].weight.item() == -3.0


def test_average_of_another_model_is_refused():
    with pytest.raises(ValueError, match=r"EMA is of another model.*bias"):
        ModelEma(nn.Linear(1, 1), 0.9).load_state_dict(ModelEma(nn.Linear(1, 1, bias=False), 0.9).state_dict())
