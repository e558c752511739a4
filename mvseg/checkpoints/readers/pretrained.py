"""Parameter names of pre-trained backbones turned into those of a detector's backbone.

ResNets: Caffe2 (MSRA's ImageNet weights), torchvision and timm (such as MIIL's ResNet-50 for ImageNet-21k); Swin
Transformers by their authors; the image side of CLIP models with a ResNet, also as RegionCLIP's pre-training leaves it.

Every checkpoint is asked whether it has such names; whole detectors of other projects are read by the readers beside.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

# Caffe2: res2_0_branch2a_w, res2_0_branch2a_bn_s, res2_0_branch1_w, conv1_w, res_conv1_bn_b
_CAFFE2_BLOCK = re.compile(r"res(?P<stage>[2-5])_(?P<block>\d+)_branch(?P<branch>1|2a|2b|2c)_(?P<kind>w|b|bn_[a-z]+)")
_CAFFE2_STEM = re.compile(r"(?:res_)?conv1_(?P<kind>w|b|bn_[a-z]+)")
_CAFFE2_BRANCH = {"1": "shortcut", "2a": "conv1", "2b": "conv2", "2c": "conv3"}
_CAFFE2_KIND = {
    "w": "weight",
    "b": "bias",
    "bn_s": "norm.weight",
    "bn_b": "norm.bias",
    "bn_beta": "norm.bias",
    "bn_gamma": "norm.weight",
    "bn_rm": "norm.running_mean",
    "bn_riv": "norm.running_var",
}
# torchvision: layer1.0.conv1.weight, layer1.0.bn1.running_mean, layer1.0.downsample.0.weight, conv1.weight, bn1.bias
_TORCHVISION_BLOCK = re.compile(
    r"layer(?P<stage>[1-4])\.(?P<block>\d+)\.(?P<part>\w+)\.(?:(?P<index>[01])\.)?(?P<kind>\w+)"
)
_SWIN_BLOCK = re.compile(r"layers\.\d\.blocks\.\d+\.attn\.qkv\.weight")
# CLIP: visual.conv1.weight, visual.layer4.0.bn1.bias, visual.attnpool.c_proj.weight; RegionCLIP: backbone. for visual.
_CLIP_IMAGE_SIDE = re.compile(r"(?:visual|backbone)\.(?P<part>(?:conv|bn)[123]|layer[1-4]|attnpool)\.(?P<rest>.+)")
_TORCHVISION_STEM = re.compile(r"(?P<part>conv1|bn1)\.(?P<kind>\w+)")


def translate_weights(weights: Mapping[str, Any], model_names: Collection[str]) -> dict[str, Any] | None:
    """Rename the weights of a pre-trained ResNet or Swin Transformer.

    Args:
        weights: name to array or tensor, as in the file.
        model_names: names of the model's entries; torchvision's names stay where the model has them itself (timm).

    Returns:
        The weights under Detectron2's names, without the model's prefix ("backbone.bottom_up."), so that they are to be
        matched by endings; entries that are no part of a backbone keep their names. None if the file is not foreign.
    """
    if any(_CAFFE2_BLOCK.fullmatch(name) for name in weights):
        return {_from_caffe2(name): value for name, value in weights.items()}
    if any(f"{side}.attnpool.c_proj.weight" in weights for side in ("visual", "backbone")):
        return _from_clip(weights)
    if any(_TORCHVISION_BLOCK.fullmatch(name) for name in weights):
        if any(".layer1." in name for name in model_names):
            return dict(weights)
        return {_from_torchvision(name): value for name, value in weights.items()}
    if any(_SWIN_BLOCK.fullmatch(name) for name in weights):
        # The norm and the head of a classifier would be taken for others by their endings; masks are computed.
        return {n: v for n, v in weights.items() if not re.match(r"norm\.|head\.|.*attn_mask$", n)}
    return None


def _from_clip(weights: Mapping[str, Any]) -> dict[str, Any]:
    """The image side, and boxes that RegionCLIP has learnt; the text side and teachers belong to no detector."""
    found = {name: value for name, value in weights.items() if name.startswith("roi_heads.box_predictor.bbox_pred.")}
    for name, value in weights.items():
        if match := _CLIP_IMAGE_SIDE.fullmatch(name):
            place = "roi_heads.res5" if match["part"] in ("layer4", "attnpool") else "backbone"
            found[f"{place}.{match['part']}.{match['rest']}"] = value
    return found


def _from_caffe2(name: str) -> str:
    if match := _CAFFE2_BLOCK.fullmatch(name):
        layer = f"res{match['stage']}.{match['block']}.{_CAFFE2_BRANCH[match['branch']]}"
    elif match := _CAFFE2_STEM.fullmatch(name):
        layer = "stem.conv1"
    else:
        return name
    return f"{layer}.{_CAFFE2_KIND[match['kind']]}" if match["kind"] in _CAFFE2_KIND else name


def _from_torchvision(name: str) -> str:
    if match := _TORCHVISION_STEM.fullmatch(name):
        return f"stem.conv1.{'norm.' if match['part'] == 'bn1' else ''}{match['kind']}"
    if not (match := _TORCHVISION_BLOCK.fullmatch(name)):
        return name
    block = f"res{int(match['stage']) + 1}.{match['block']}"
    if match["part"] == "downsample":
        return f"{block}.shortcut.{'norm.' if match['index'] == '1' else ''}{match['kind']}"
    number = match["part"][-1]
    return f"{block}.conv{number}.{'norm.' if match['part'].startswith('bn') else ''}{match['kind']}"
