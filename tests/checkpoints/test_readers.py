"""Weights of other projects' ResNets reach Detectron2's ResNet: compared with torchvision's own forward pass."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
import torchvision
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone

import mvseg.modeling  # noqa: F401  (registers the backbones)
from mvseg.checkpoints import AtomicCheckpointer
from mvseg.config import get_cfg as mvseg_cfg


def resnet(depth: int, stride_in_1x1: bool) -> torch.nn.Module:
    cfg = get_cfg()
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64 if depth < 50 else 256
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = stride_in_1x1
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res5"]
    return torch.nn.ModuleDict({"backbone": build_backbone(cfg)})


def torchvision_features(model: torchvision.models.ResNet, image: torch.Tensor) -> dict[str, torch.Tensor]:
    x = model.maxpool(model.relu(model.bn1(model.conv1(image))))
    res2 = model.layer1(x)
    return {"res2": res2, "res5": model.layer4(model.layer3(model.layer2(res2)))}


@pytest.mark.parametrize(("depth", "build"), [(18, torchvision.models.resnet18), (50, torchvision.models.resnet50)])
def test_torchvision_weights_give_torchvisions_features(depth, build, tmp_path):
    theirs = build(weights=None).eval()
    for name, buffer in theirs.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    torch.save(theirs.state_dict(), tmp_path / "resnet.pth")
    model = resnet(depth, stride_in_1x1=False).eval()
    checkpointer = AtomicCheckpointer(model)
    checkpointer.load(str(tmp_path / "resnet.pth"))
    assert checkpointer.report.complete
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        ours, expected = model["backbone"](image), torchvision_features(theirs, image)
    for level, value in expected.items():
        torch.testing.assert_close(ours[level], value, rtol=1e-4, atol=1e-4)


def test_pretrained_swin_reaches_the_detector(tmp_path):
    cfg = mvseg_cfg()
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.SWIN.SIZE = "build_swin_fpn_backbone", "T"
    cfg.MODEL.FPN.OUT_CHANNELS = 8
    model = torch.nn.ModuleDict({"backbone": build_backbone(cfg)})
    names = {n.removeprefix("backbone.bottom_up."): v for n, v in model.state_dict().items() if "bottom_up" in n}
    outputs = ("norm1.", "norm2.", "norm3.")  # of the detector alone
    weights = {n: torch.randn_like(v) if v.is_floating_point() else v for n, v in names.items() if n[:6] not in outputs}
    weights |= {"norm.weight": torch.zeros(768), "norm.bias": torch.zeros(768), "head.weight": torch.zeros(10, 768)}
    weights["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
    torch.save({"model": weights}, tmp_path / "swin.pth")
    checkpointer = AtomicCheckpointer(model)
    checkpointer.load(str(tmp_path / "swin.pth"))
    for name, value in model.state_dict().items():
        short = name.removeprefix("backbone.bottom_up.")
        assert (short in weights) == (name not in checkpointer.report.missing), name
        assert short not in weights or torch.equal(value, weights[short])
    missing = {name for name in checkpointer.report.missing if "bottom_up" in name}
    assert missing == {f"backbone.bottom_up.{norm}{kind}" for norm in outputs for kind in ("weight", "bias")}


def test_weights_may_lie_under_state_dict(tmp_path):
    theirs = torchvision.models.resnet18(weights=None)
    torch.save({"state_dict": theirs.state_dict(), "epoch": 3}, tmp_path / "resnet.pth")
    model = resnet(18, stride_in_1x1=False)
    checkpointer = AtomicCheckpointer(model)
    checkpointer.load(str(tmp_path / "resnet.pth"))
    assert checkpointer.report.complete
    assert torch.equal(model.state_dict()["backbone.stem.conv1.weight"], theirs.conv1.weight)


def test_caffe2_names(tmp_path):
    model = resnet(50, stride_in_1x1=True)
    generator = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return generator.normal(size=shape).astype(np.float32)

    blobs = {"conv1_w": draw(64, 3, 7, 7), "res_conv1_bn_s": draw(64), "res_conv1_bn_b": draw(64), "fc1000_w": draw(2)}
    inner, outer, before = 64, 256, 64
    for stage, blocks in ((2, 3), (3, 4), (4, 6), (5, 3)):
        for block in range(blocks):
            shapes = {"2a": (inner, before, 1, 1), "2b": (inner, inner, 3, 3), "2c": (outer, inner, 1, 1)}
            if block == 0:
                shapes["1"] = (outer, before, 1, 1)
            for branch, shape in shapes.items():
                name = f"res{stage}_{block}_branch{branch}"
                blobs |= {f"{name}_w": draw(*shape), f"{name}_bn_s": draw(shape[0]), f"{name}_bn_b": draw(shape[0])}
            before = outer
        inner, outer = inner * 2, outer * 2
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps({"blobs": blobs}))
    checkpointer = AtomicCheckpointer(model)
    checkpointer.load(str(tmp_path / "R-50.pkl"))
    state = model.state_dict()
    # Caffe2 folds the running statistics into scale and offset: nothing but these may be missing.
    assert all(name.endswith(("running_mean", "running_var")) for name in checkpointer.report.missing)
    assert "fc1000_w" in checkpointer.report.unexpected
    for ours, theirs in {
        "stem.conv1.weight": "conv1_w",
        "stem.conv1.norm.bias": "res_conv1_bn_b",
        "res2.0.shortcut.weight": "res2_0_branch1_w",
        "res3.1.conv2.weight": "res3_1_branch2b_w",
        "res5.2.conv3.norm.weight": "res5_2_branch2c_bn_s",
    }.items():
        assert np.array_equal(state[f"backbone.{ours}"].numpy(), blobs[theirs]), ours
