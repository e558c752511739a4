"""Backbones: levels, channels, normalisation and freezing of timm models, without any download."""

from __future__ import annotations

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import build_backbone
from timm.layers import BatchNormAct2d, FrozenBatchNormAct2d, GroupNormAct
from torch import nn

import mvseg.modeling  # noqa: F401  (registers the backbones)
from mvseg.config import get_cfg
from mvseg.modeling.backbones import TimmBackbone

MODELS = {
    "resnet18": (2, 3, 4),
    "mobilenetv3_small_050": (2, 3, 4),
    "convnext_atto": (1, 2, 3),
    "swin_tiny_patch4_window7_224": (1, 2, 3),
}


@pytest.mark.parametrize("name", MODELS)
def test_pyramid_on_any_model(name: str):
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.PROPOSAL_GENERATOR.NAME = "build_timm_fpn_backbone", "CenterNet"
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    cfg.MODEL.TIMM.NAME, cfg.MODEL.TIMM.OUT_INDICES = name, list(MODELS[name])
    backbone = build_backbone(cfg, ShapeSpec(channels=3))
    assert backbone.size_divisibility == 32
    features = backbone(torch.randn(2, 3, 64, 96))  # not the size that a transformer was made for
    assert {k: tuple(v.shape) for k, v in features.items()} == {
        f"p{level}": (2, 16, -(-64 // 2**level), -(-96 // 2**level)) for level in range(3, 8)
    }
    sum(f.square().mean() for f in features.values()).backward()
    without = [n for n, p in backbone.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


def test_further_levels_only_where_a_part_reads_them():
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.PROPOSAL_GENERATOR.NAME = "build_timm_fpn_backbone", "CenterNet"
    cfg.MODEL.TIMM.NAME, cfg.MODEL.TIMM.OUT_INDICES = "resnet18", [1, 2, 3]
    cfg.MODEL.CENTERNET.IN_FEATURES = cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4"]
    assert list(build_backbone(cfg, ShapeSpec(channels=3)).output_shape()) == ["p2", "p3", "p4"]
    cfg.MODEL.CENTERNET.IN_FEATURES = ["p3", "p4", "p5"]
    assert list(build_backbone(cfg, ShapeSpec(channels=3)).output_shape()) == ["p2", "p3", "p4", "p5", "p6"]


def test_levels_of_one_cell_have_gradients_in_half_precision():
    from mvseg.modeling.backbones.resnet_fpn import FurtherLevels

    for _ in range(30):  # without the care taken there one run in five gives NaN on a CPU
        levels = FurtherLevels(32, 32, "p5")
        with torch.autocast("cpu", torch.bfloat16):
            sum(level.float().sum() for level in levels(torch.randn(2, 32, 1, 1))).backward()
        assert all(torch.isfinite(p.grad).all() for p in levels.parameters())


def test_names_are_those_of_timm():
    names = set(TimmBackbone("resnet18", (2, 3, 4)).state_dict())
    assert {"base.conv1.weight", "base.layer4.1.conv2.weight", "base.bn1.running_mean"} <= names
    assert not any(".fc." in name for name in names)


def test_images_of_other_channels():
    assert TimmBackbone("resnet18", (2, 3, 4), in_channels=1)(torch.zeros(1, 1, 64, 64))["stride8"].shape[1] == 128


def randomized(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.bias, std=0.1)
    return model


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050"])
def test_frozen_norm_equals_evaluation_mode(name: str, monkeypatch: pytest.MonkeyPatch):
    from mvseg.modeling.backbones import timm_fpn

    create = timm_fpn._create
    monkeypatch.setattr(timm_fpn, "_create", lambda *args: (torch.manual_seed(3), randomized(create(*args)))[1])
    plain = TimmBackbone(name, (2, 3), norm="BN").eval()
    frozen = TimmBackbone(name, (2, 3), norm="FrozenBN").train()
    assert any(isinstance(m, BatchNormAct2d | nn.BatchNorm2d) for m in plain.modules())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in frozen.modules())
    assert any(isinstance(m, FrozenBatchNorm2d | FrozenBatchNormAct2d) for m in frozen.modules())
    image = torch.randn(1, 3, 64, 64)
    for level, feature in plain(image).items():
        torch.testing.assert_close(frozen(image)[level], feature, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050"])
def test_group_norm(name: str):
    model = TimmBackbone(name, (2, 3), norm="GN")
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert any(isinstance(m, nn.GroupNorm | GroupNormAct) for m in model.modules())
    alone = model(torch.ones(1, 3, 64, 64))["stride16"]
    together = model(torch.cat([torch.ones(1, 3, 64, 64), torch.randn(1, 3, 64, 64)]))["stride16"]
    torch.testing.assert_close(together[:1], alone, rtol=1e-3, atol=1e-3)  # images of a batch do not mix


def test_sync_norm():
    model = TimmBackbone("mobilenetv3_small_050", (2, 3), norm="SyncBN")
    assert all(isinstance(m, nn.SyncBatchNorm) for m in model.modules() if "BatchNorm" in type(m).__name__)


@pytest.mark.parametrize(
    ("name", "levels", "last_frozen", "first_free"),
    [
        ("resnet18", 1, "bn1.bias", "layer1.0.conv1.weight"),
        ("resnet18", 3, "layer2.1.bn2.bias", "layer3.0.conv1.weight"),
        ("convnext_atto", 1, "stages_0.blocks.1.mlp.fc2.bias", "stages_1.downsample.0.weight"),
        ("mobilenetv3_small_050", 2, "blocks.0.0.bn2.bias", "blocks.1.0.conv_pw.weight"),
    ],
)
def test_freezing(name: str, levels: int, last_frozen: str, first_free: str):
    parameters = dict(TimmBackbone(name, MODELS[name], freeze_at=levels).base.named_parameters())
    order = list(parameters)
    assert [n for n in order if not parameters[n].requires_grad] == order[: order.index(last_frozen) + 1]
    assert order.index(first_free) == order.index(last_frozen) + 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "resnet81"}, "nearest: .*resnet"),
        ({"norm": "LN"}, "choose one of"),
        ({"freeze_at": 9}, "5 feature levels"),
        ({"out_indices": (3, 7)}, "feature level"),
        ({"name": "vit_tiny_patch16_224", "out_indices": (3, 7)}, "must grow"),
    ],
)
def test_bad_settings(changes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        TimmBackbone(**{"name": "resnet18", "out_indices": (2, 3), **changes})
