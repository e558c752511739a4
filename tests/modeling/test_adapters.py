"""Adapters in residual blocks: the formula, their places and names, and what a gate depends on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from detectron2.modeling import build_backbone

from mvseg.checkpoints import AtomicCheckpointer
from mvseg.config import get_cfg
from mvseg.modeling.backbones.adapters import DomainAttention, add_adapters


def backbone_cfg(**adapters):
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.TIMM.NAME, cfg.MODEL.FPN.OUT_CHANNELS = "build_timm_fpn_backbone", "resnet18", 8
    cfg.MODEL.TIMM.OUT_INDICES = [1, 2]
    for key, value in adapters.items():
        cfg.MODEL.ADAPTERS[key] = value
    return cfg


def test_formula_against_numpy():
    torch.manual_seed(0)
    bank = DomainAttention(32, 3, 4).double()
    x = torch.randn(2, 32, 5, 3, dtype=torch.float64)
    p = {name: value.numpy() for name, value in bank.state_dict().items()}
    g = x.numpy().mean((2, 3))
    e = np.exp(g @ p["routing.weight"].T + p["routing.bias"])
    a = e / e.sum(1, keepdims=True)
    mixed = np.zeros((2, 32))
    for i in range(3):
        h = np.maximum(g @ p[f"adapters.{i}.fc1.weight"].T + p[f"adapters.{i}.fc1.bias"], 0)
        mixed += a[:, i : i + 1] * (h @ p[f"adapters.{i}.fc2.weight"].T + p[f"adapters.{i}.fc2.bias"])
    expected = x.numpy() / (1 + np.exp(-mixed))[:, :, None, None]
    np.testing.assert_allclose(bank(x).detach().numpy(), expected, rtol=1e-12)


def test_gradients_reach_all_adapters_and_the_routing():
    torch.manual_seed(1)
    bank = DomainAttention(16, 4, 4)
    x = torch.randn(3, 16, 4, 4, requires_grad=True)
    bank(x).square().sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
    assert all(parameter.grad.abs().sum() > 0 for parameter in bank.parameters())
    small = DomainAttention(4, 2, 2).double()
    assert torch.autograd.gradcheck(small, torch.randn(2, 4, 2, 3, dtype=torch.float64, requires_grad=True))


def test_a_bank_of_one_is_squeeze_and_excitation():
    from timm.layers import SEModule

    bank = DomainAttention(32, 1, 16)
    plain = SEModule(32, rd_channels=2)
    for layer, source in ((plain.fc1, bank.adapters[0].fc1), (plain.fc2, bank.adapters[0].fc2)):
        layer.load_state_dict({"weight": source.weight[:, :, None, None], "bias": source.bias})
    x = torch.randn(2, 32, 6, 5)
    torch.testing.assert_close(bank(x), plain(x))
    assert not [name for name in bank.state_dict() if "routing" in name]
    torch.manual_seed(2)
    several = DomainAttention(32, 3)
    for adapter in several.adapters:
        adapter.load_state_dict(bank.adapters[0].state_dict())
    torch.testing.assert_close(several(x), bank(x))  # whatever the routing says


def test_what_a_gate_depends_on():
    torch.manual_seed(3)
    bank = DomainAttention(16, 3, 4)
    x = torch.randn(2, 16, 4, 4)
    torch.testing.assert_close(bank(x)[:1], bank(x[:1]))  # not on the other images
    elsewhere = x.flatten(2)[..., torch.randperm(16)][..., None]
    torch.testing.assert_close(bank.gate(elsewhere), bank.gate(x))  # nor on places
    padded = torch.nn.functional.pad(x, (0, 4))  # but on the padding: the mean is over twice as many cells
    torch.testing.assert_close(bank.gate(padded), bank.gate(x / 2))
    assert (bank.gate(padded) - bank.gate(x)).abs().max() > 1e-4


def test_low_precision_does_not_change_the_gate():
    bank = DomainAttention(64, 3)
    x = torch.randn(2, 64, 8, 8).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = bank(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, x * bank.gate(x.float())[:, :, None, None].bfloat16())


@pytest.mark.parametrize(("every", "banks"), [(1, "111 1111 111111 111"), (2, "101 0101 010101 101"), (3, "001 1001")])
def test_places_of_the_banks(every: int, banks: str):
    model = timm.create_model("resnet50", features_only=True, out_indices=(3, 4) if every < 3 else (1, 2))
    count = add_adapters(model, "domain_attention", 5, every=every)
    layers = [getattr(model, f"layer{k + 1}") for k in range(len(banks.split()))]
    found = " ".join("".join(str(int(len(block.se.adapters) == 5)) for block in layer) for layer in layers)
    assert found == banks and count == len(banks.replace(" ", ""))
    assert {len(b.se.adapters) for layer in layers for b in layer} <= {1, 5}
    assert model.layer1[2].se.adapters[0].fc1.weight.shape == (16, 256)


def test_adapters_scale_the_branch_and_not_the_shortcut():
    torch.manual_seed(4)
    model = timm.create_model("resnet18", features_only=True, out_indices=(1,), zero_init_last=False).eval()
    block, x = model.layer1[0], torch.randn(1, 64, 6, 6).relu()
    branch = block.bn2(block.conv2(block.act1(block.bn1(block.conv1(x)))))
    add_adapters(model, "domain_attention", 3, stages=[1])
    expected = (branch * block.se.gate(branch)[:, :, None, None] + x).relu()
    torch.testing.assert_close(block(x), expected)


def test_a_high_initial_gate_begins_near_the_network_without_adapters():
    x = torch.randn(1, 3, 64, 64)
    outputs = {}
    for gate in (None, 0.5, 0.999):
        torch.manual_seed(5)
        model = timm.create_model("resnet18", features_only=True, out_indices=(1, 2), zero_init_last=False).eval()
        if gate is not None:
            add_adapters(model, "domain_attention", 3, stages=[1, 2], initial_gate=gate)
        outputs[gate] = model(x)[-1]
    near, usual = ((outputs[gate] - outputs[None]).norm() / outputs[None].norm() for gate in (0.999, 0.5))
    assert near < 0.01 < 0.1 < usual


def test_weights_of_a_network_without_adapters_load_and_the_adapters_are_reported(tmp_path: Path):
    plain = build_backbone(backbone_cfg())
    torch.save({"model": plain.state_dict()}, tmp_path / "plain.pth")
    model = build_backbone(backbone_cfg(NAME="domain_attention", NUM=2, STAGES=[2], EVERY=2))
    checkpointer = AtomicCheckpointer(model, save_to_disk=False)
    checkpointer.load(str(tmp_path / "plain.pth"))
    report = checkpointer.report
    assert report.loaded == len(plain.state_dict()) and not report.unexpected and not report.wrong_shape
    place = "bottom_up.base.layer2"
    layers = [f"{n}.fc{k}.{v}" for n in ("adapters.0", "adapters.1") for k in (1, 2) for v in ("weight", "bias")]
    bank = [f"{place}.1.se.{name}" for name in (*layers, "routing.weight", "routing.bias")]
    single = [f"{place}.0.se.{name}" for name in layers if "adapters.0" in name]
    assert set(report.missing) == {*bank, *single}


def test_adapters_of_frozen_stages_train():
    cfg = backbone_cfg(NAME="se")
    cfg.MODEL.TIMM.FREEZE_AT = 5
    cfg.MODEL.TIMM.OUT_INDICES = [1, 2, 3, 4]
    names = [n for n, p in build_backbone(cfg).bottom_up.named_parameters() if p.requires_grad]
    assert names and all(".se.adapters.0." in name for name in names)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"NAME": "domain_atention"}, "did you mean|domain_attention"),
        ({"NAME": "se", "STAGES": [0, 1]}, "STAGES"),
        ({"NAME": "se", "STAGES": [4]}, "no residual blocks"),
        ({"NAME": "domain_attention", "NUM": 0}, "NUM 0"),
        ({"NAME": "domain_attention", "EVERY": 0}, "EVERY 0"),
        ({"NAME": "se", "INITIAL_GATE": 1.0}, "INITIAL_GATE"),
    ],
)
def test_wrong_settings(settings: dict, said: str):
    with pytest.raises(ValueError, match=said):
        build_backbone(backbone_cfg(**settings))


@pytest.mark.parametrize(("name", "said"), [("seresnet18", "already"), ("convnext_atto", "no residual blocks")])
def test_networks_that_take_no_adapters(name: str, said: str):
    cfg = backbone_cfg(NAME="domain_attention")
    cfg.MODEL.TIMM.NAME = name
    cfg.MODEL.TIMM.NORM = ""
    with pytest.raises(ValueError, match=said):
        build_backbone(cfg)
