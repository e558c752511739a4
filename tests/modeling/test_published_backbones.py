"""The backbones of Detic's published models: names, shapes and sizes that its checkpoints have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone, build_model
from whole_models import detic_cfg

import mvseg.modeling  # noqa: F401  (registers the backbones)
from mvseg.config import get_cfg
from mvseg.data.catalog import register_dataset, unregister_card
from mvseg.modeling.backbones import TimmBackbone
from mvseg.modeling.backbones.swin_fpn import SWIN_SIZES

CHANNELS = {"T": 96, "S": 96, "B": 128, "L": 192}


def swin_cfg(size: str = "T", **changes: Any) -> Any:
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_swin_fpn_backbone"
    cfg.MODEL.SWIN.SIZE = size
    for key, value in changes.items():
        cfg.MODEL.SWIN[key] = value
    return cfg


def build(cfg: Any) -> Any:
    return build_backbone(cfg, ShapeSpec(channels=3))


def test_swin_has_levels_p3_to_p7_at_any_size():
    backbone = build(swin_cfg())
    assert backbone.size_divisibility == 32
    features = backbone(torch.randn(2, 3, 64, 96))
    assert {k: tuple(v.shape) for k, v in features.items()} == {
        f"p{level}": (2, 256, -(-64 // 2**level), -(-96 // 2**level)) for level in range(3, 8)
    }
    sum(f.square().mean() for f in features.values()).backward()
    assert [n for n, p in backbone.named_parameters() if p.grad is None] == []


def test_swin_names_are_those_of_the_checkpoints():
    """What facebookresearch/Detic's SwinTransformer with out_indices (1, 2, 3) has in its state_dict."""
    block = (
        r"norm1\.(weight|bias)|norm2\.(weight|bias)|attn\.(qkv|proj)\.(weight|bias)|mlp\.fc[12]\.(weight|bias)|"
        r"attn\.relative_position_(bias_table|index)"
    )
    known = re.compile(
        r"patch_embed\.(proj|norm)\.(weight|bias)|norm[123]\.(weight|bias)|"
        rf"layers\.[0-3]\.blocks\.\d+\.({block})|layers\.[012]\.downsample\.(norm\.(weight|bias)|reduction\.weight)"
    )
    names = build(swin_cfg()).bottom_up.state_dict()
    assert [name for name in names if not known.fullmatch(name)] == []
    assert len(names) == 4 + 6 + 3 * 3 + 12 * (2 + 2 + 6 + 2 + 2)
    assert names["layers.1.downsample.reduction.weight"].shape == (384, 768)
    assert names["layers.2.blocks.5.attn.relative_position_bias_table"].shape == (13 * 13, 12)


@pytest.mark.parametrize("size", SWIN_SIZES)
def test_swin_sizes(size: str):
    settings = SWIN_SIZES[size]
    assert settings.width == CHANNELS[size[0]] and settings.heads[0] == settings.width // 32
    assert settings.window == (12 if size.endswith("384") else 7)
    if size in ("T", "B-22k-384"):
        shapes = build(swin_cfg(size)).bottom_up.output_shape()
        assert [(s.channels, s.stride) for s in shapes.values()] == [
            (settings.width * 2**k, 4 * 2**k) for k in (1, 2, 3)
        ]


def test_swin_settings():
    def rates(**changes: Any) -> list[float]:
        blocks = [block.drop_path for layer in build(swin_cfg(**changes)).bottom_up.layers for block in layer.blocks]
        # torchvision's StochasticDepth here, timm's DropPath in an installed Detectron2
        return [float(getattr(block, "p", getattr(block, "drop_prob", 0.0))) for block in blocks]

    assert rates() == pytest.approx([0.2 * k / 11 for k in range(12)])
    assert rates(DROP_PATH=0.0) == [0.0] * 12
    frozen = build(swin_cfg(FREEZE_AT=2)).bottom_up
    still = {name.split(".blocks")[0] for name, p in frozen.named_parameters() if not p.requires_grad}
    assert {"patch_embed.proj.weight", "layers.0"} <= still and "layers.1" not in still
    with pytest.raises(ValueError, match=r"MODEL.SWIN.SIZE 'B-21k' does not exist; nearest: B-22k"):
        build(swin_cfg("B-21k"))


def test_swin_computed_again_has_the_same_gradients():
    torch.manual_seed(0)
    plain = build(swin_cfg(DROP_PATH=0.0))
    again = build(swin_cfg(DROP_PATH=0.0, USE_CHECKPOINT=True))
    again.load_state_dict(plain.state_dict())
    image = torch.randn(1, 3, 64, 64)
    for backbone in (plain, again):
        backbone(image)["p3"].square().mean().backward()
    name = "bottom_up.layers.0.blocks.0.attn.qkv.weight"
    torch.testing.assert_close(again.get_parameter(name).grad, plain.get_parameter(name).grad)


def test_timm_swin_shifts_its_windows_where_maps_are_large():
    """Built for 224 pixels its last stage is one window of 7 cells; a larger image must not be cut into strangers."""
    swin = TimmBackbone("swin_tiny_patch4_window7_224", (1, 2, 3)).base
    shifts = [[block.shift_size for block in swin[f"layers_{k}"].blocks] for k in range(4)]
    assert all(shift == [(0, 0), (3, 3)] * (len(shift) // 2) for shift in shifts)


def test_convnext_as_detic_has_it():
    model = TimmBackbone("convnext_tiny", (1, 2, 3), norm="FrozenBN", drop_path=0.2)
    assert [(s.channels, s.stride) for s in model.output_shape().values()] == [(192, 8), (384, 16), (768, 32)]
    names = set(model.state_dict())
    assert {"base.stem_0.weight", "base.stages_1.downsample.0.weight", "base.stages_3.blocks.2.gamma"} <= names
    assert not any(name.startswith(("base.head", "base.norm_pre")) for name in names)
    rates = [getattr(m, "drop_prob", 0.0) for n, m in model.named_modules() if n.endswith("drop_path")]
    assert len(rates) == 18 and max(rates) == pytest.approx(0.2)
    with pytest.raises(ValueError, match=r"DROP_PATH 0.2: vgg11 leaves no blocks out"):
        TimmBackbone("vgg11", (1, 2, 3), drop_path=0.2)


@pytest.fixture
def words(tmp_path: Path) -> Iterator[str]:
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).standard_normal((1203, 512)).astype(np.float32))
    files = {"image_root": str(tmp_path), "annotations": str(tmp_path / "none.json")}
    register_dataset(name="sizes", format="lvis", vocabulary="lvis_v1", embeddings=str(tmp_path / "rows.npy"), **files)
    yield "sizes"
    unregister_card("sizes")


@pytest.mark.parametrize(
    ("keys", "millions"),
    [
        ({"MODEL.BACKBONE.NAME": "build_swin_fpn_backbone"}, 141.57),
        ({"MODEL.TIMM.NAME": "convnext_tiny", "MODEL.TIMM.OUT_INDICES": [1, 2, 3]}, 82.53),
        ({"MODEL.TIMM.NAME": "resnet18"}, 65.77),
        ({"MODEL.TIMM.NAME": "resnet50"}, 101.73 - 22.99),  # without the classifier of 11,221 classes that nobody uses
    ],
    ids=["Swin-B", "ConvNeXt-T", "R18", "R50"],
)
def test_models_have_as_many_parameters_as_the_published_ones(words: str, keys: dict, millions: float):
    """Counted on the originals, with 512 wide text embeddings."""
    cfg = detic_cfg(words)
    for key, value in keys.items():
        cfg.merge_from_list([key, value])
    count = sum(p.numel() for p in build_model(cfg).parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.006)
