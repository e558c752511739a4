"""ResNet and Swin against torchvision's, FPN against what its arithmetic must give."""

from __future__ import annotations

import re

import pytest
import torch
import torchvision
from detectron2.config import get_cfg
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, build_backbone
from detectron2.modeling.backbone import FPN, Backbone, BasicStem, BottleneckBlock, ResNet, SwinTransformer
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from detectron2.modeling.backbone.resnet import BasicBlock
from torch import nn


def resnet_config(*options):
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"], *options])
    return cfg


def torchvision_name(name: str) -> str:
    """Rename a parameter of ours to torchvision's name."""
    name = name.replace("stem.", "").replace("shortcut.norm", "downsample.1").replace("shortcut", "downsample.0")
    name = re.sub(r"conv(\d)\.norm", r"bn\1", name)
    return re.sub(r"^res(\d)", lambda found: f"layer{int(found[1]) - 1}", name)


@pytest.mark.parametrize("depth", [18, 50])
def test_resnet_computes_what_torchvision_does(depth):
    reference = getattr(torchvision.models, f"resnet{depth}")(weights=None)
    for name, tensor in reference.state_dict().items():
        if "running" in name:
            tensor.uniform_(0.5, 1.5)
        elif name.endswith(("weight", "bias")) and tensor.dim() == 1:
            tensor.uniform_(0.2, 0.6)
    width = {18: 64, 50: 256}[depth]
    cfg = resnet_config(
        "MODEL.RESNETS.DEPTH", depth, "MODEL.RESNETS.STRIDE_IN_1X1", False, "MODEL.RESNETS.RES2_OUT_CHANNELS", width
    )
    model = build_backbone(cfg)
    weights = reference.state_dict()
    model.load_state_dict({name: weights[torchvision_name(name)] for name in model.state_dict()})
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        features = model.eval()(image)
        x = reference.eval().maxpool(reference.relu(reference.bn1(reference.conv1(image))))
        for index in range(1, 5):
            x = getattr(reference, f"layer{index}")(x)
            torch.testing.assert_close(features[f"res{index + 1}"], x, rtol=1e-3, atol=1e-3)
    assert list(features) == ["res2", "res3", "res4", "res5"]
    for name, shape in model.output_shape().items():
        assert features[name].shape == (1, shape.channels, 64 // shape.stride, 96 // shape.stride)


def test_resnet_freezes_from_the_stem():
    model = build_backbone(resnet_config("MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.FREEZE_AT", 2))
    trained = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"res3", "res4", "res5"}
    frozen = {name.split(".")[0] for name, module in model.named_modules() if isinstance(module, FrozenBatchNorm2d)}
    assert frozen == {"stem", "res2"}
    unfrozen = build_backbone(resnet_config("MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.FREEZE_AT", 0))
    assert all(parameter.requires_grad for parameter in unfrozen.parameters())


def test_resnet_builds_no_stage_behind_the_last_output():
    cfg = get_cfg()
    model = build_backbone(cfg)
    assert list(model.output_shape()) == ["res4"]
    assert not hasattr(model, "res5")
    assert model.output_shape()["res4"] == ShapeSpec(channels=1024, stride=16)
    with pytest.raises(AssertionError):
        ResNet(BasicStem(3, 8, "BN"), [[BasicBlock(8, 8)]], out_features=["res3"])


def test_resnet_dilation_keeps_the_resolution():
    model = build_backbone(resnet_config("MODEL.RESNETS.RES5_DILATION", 2))
    assert model.output_shape()["res5"].stride == 16
    assert model.res5[0].conv2.dilation == (2, 2)
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 32, 32))["res5"].shape[-2:] == (2, 2)


def test_make_stage_spreads_arguments_over_blocks():
    blocks = ResNet.make_stage(
        BottleneckBlock, 3, stride_per_block=[2, 1, 1], in_channels=8, out_channels=16, bottleneck_channels=4
    )
    assert [(b.in_channels, b.out_channels, b.stride) for b in blocks] == [(8, 16, 2), (16, 16, 1), (16, 16, 1)]
    assert [b.shortcut is None for b in blocks] == [False, True, True]
    stages = ResNet.make_default_stages(50, norm="FrozenBN")
    assert [len(stage) for stage in stages] == [3, 4, 6, 3]
    assert [stage[-1].out_channels for stage in stages] == [256, 512, 1024, 2048]


def test_block_without_branch_is_its_shortcut():
    block = BasicBlock(4, 4, norm="BN").eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(1, 4, 5, 5)
    torch.testing.assert_close(block(x), x.relu())


class Pyramid(Backbone):
    """Features that are given."""

    def __init__(self, features: dict[str, torch.Tensor]):
        super().__init__()
        self.features = features
        self._out_features = list(features)
        self._out_feature_channels = {name: f.shape[1] for name, f in features.items()}
        self._out_feature_strides = {name: 32 // f.shape[-1] for name, f in features.items()}

    def forward(self, x):
        return self.features


@pytest.mark.parametrize("fuse", ["sum", "avg"])
def test_fpn_adds_the_upsampled_upper_level(fuse):
    bottom_up = Pyramid({"fine": torch.randn(1, 3, 8, 8), "coarse": torch.randn(1, 5, 4, 4)})
    fpn = FPN(bottom_up, ["fine", "coarse"], 6, top_block=LastLevelMaxPool(), fuse_type=fuse)
    fpn.top_block.in_feature = "p3"
    out = fpn(None)
    assert list(out) == ["p2", "p3", "p4"]
    lateral3 = fpn.fpn_lateral3(bottom_up.features["coarse"])
    repeated = lateral3.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    merged = fpn.fpn_lateral2(bottom_up.features["fine"]) + repeated
    torch.testing.assert_close(out["p3"], fpn.fpn_output3(lateral3))
    torch.testing.assert_close(out["p2"], fpn.fpn_output2(merged / (2 if fuse == "avg" else 1)))
    assert torch.equal(out["p4"], out["p3"][..., ::2, ::2])
    assert {n: (s.channels, s.stride) for n, s in fpn.output_shape().items()} == {
        "p2": (6, 4),
        "p3": (6, 8),
        "p4": (6, 16),
    }
    assert fpn.size_divisibility == 8
    assert fpn.padding_constraints == {"square_size": 0}


def test_fpn_of_configs():
    cfg = resnet_config(
        "MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res5"]
    )
    cfg.merge_from_list(["MODEL.FPN.NORM", "GN", "MODEL.FPN.OUT_CHANNELS", 32])
    model = build_backbone(cfg)
    names = set(model.state_dict())
    assert {"fpn_lateral2.weight", "fpn_output5.norm.weight", "bottom_up.res2.0.conv1.norm.running_var"} <= names
    assert "fpn_lateral2.bias" not in names
    cfg.MODEL.BACKBONE.NAME = "build_retinanet_resnet_fpn_backbone"
    cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.FPN.NORM = ""
    model = build_backbone(cfg)
    with torch.no_grad():
        out = model(torch.zeros(1, 3, 128, 128))
    assert {name: f.shape[-1] for name, f in out.items()} == {"p3": 16, "p4": 8, "p5": 4, "p6": 2, "p7": 1}
    assert {"fpn_lateral3.bias", "top_block.p6.weight", "top_block.p7.bias"} <= set(model.state_dict())


def test_p6_p7_apply_relu_between():
    block = LastLevelP6P7(4, 4)
    p6, p7 = block(torch.randn(1, 4, 8, 8))
    torch.testing.assert_close(p7, block.p7(p6.relu()))
    assert (p6.shape[-1], p7.shape[-1]) == (4, 2)


def test_registered_backbones_are_checked():
    @BACKBONE_REGISTRY.register()
    def contract_not_a_backbone(cfg, input_shape):
        assert input_shape.channels == 3
        return nn.Identity()

    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "contract_not_a_backbone"
    with pytest.raises(AssertionError):
        build_backbone(cfg)


def swin_torchvision_name(name: str) -> str:
    name = name.replace("patch_embed.proj", "features.0.0").replace("patch_embed.norm", "features.0.2")
    name = re.sub(r"layers\.(\d)\.blocks", lambda found: f"features.{2 * int(found[1]) + 1}", name)
    name = re.sub(r"layers\.(\d)\.downsample", lambda found: f"features.{2 * int(found[1]) + 2}", name)
    return name.replace("mlp.fc1", "mlp.0").replace("mlp.fc2", "mlp.3")


def test_swin_computes_what_torchvision_does():
    reference = torchvision.models.swin_transformer.SwinTransformer(
        [4, 4], 12, [2, 2], [1, 2], [4, 4], stochastic_depth_prob=0.0
    )
    model = SwinTransformer(
        embed_dim=12, depths=(2, 2), num_heads=(1, 2), window_size=4, drop_path_rate=0.0, out_indices=(0, 1)
    )
    weights = reference.state_dict()
    own = model.state_dict()
    renamed = {}
    for name in own:
        if re.match(r"norm\d", name):
            renamed[name] = weights["norm." + name.split(".")[1]] if name[4] == "1" else own[name]
        else:
            renamed[name] = weights[swin_torchvision_name(name)].view(own[name].shape)
    for name, tensor in renamed.items():
        if tensor.is_floating_point() and not name.startswith("norm"):
            tensor.normal_(std=0.3)
    reference.load_state_dict(weights)
    model.load_state_dict(renamed)
    # 15 x 22 patches: padded to windows, and odd for the merging.
    image = torch.randn(2, 3, 60, 88)
    with torch.no_grad():
        features = model.eval()(image)
        expected = reference.norm(reference.eval().features(image)).permute(0, 3, 1, 2)
    assert features["p0"].shape == (2, 12, 15, 22)
    torch.testing.assert_close(features["p1"], expected, rtol=1e-3, atol=1e-3)
    assert model.output_shape() == {"p0": ShapeSpec(12, stride=4), "p1": ShapeSpec(24, stride=8)}


def test_swin_freezes_and_checkpoints():
    model = SwinTransformer(embed_dim=6, depths=(2, 2), num_heads=(1, 1), out_indices=(1,), frozen_stages=2)
    trained = {name.split(".")[0] + name.split(".")[1] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"layers1", "norm1weight", "norm1bias"}
    plain = SwinTransformer(embed_dim=6, depths=(2,), num_heads=(1,), out_indices=(0,), drop_path_rate=0.0)
    thrifty = SwinTransformer(
        embed_dim=6, depths=(2,), num_heads=(1,), out_indices=(0,), drop_path_rate=0.0, use_checkpoint=True
    )
    thrifty.load_state_dict(plain.state_dict())
    image = torch.randn(1, 3, 32, 32)
    for model in (plain, thrifty):
        model(image)["p0"].square().sum().backward()
    for own, other in zip(plain.parameters(), thrifty.parameters()):
        torch.testing.assert_close(own.grad, other.grad)
