"""Any timm model that gives feature maps, with a feature pyramid (``MODEL.BACKBONE.NAME: build_timm_fpn_backbone``)."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import timm
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from timm.layers import BatchNormAct2d, FrozenBatchNormAct2d, GroupNormAct, convert_sync_batchnorm
from torch import Tensor, nn

from mvseg.modeling.backbones.adapters import add_adapters
from mvseg.modeling.backbones.resnet_fpn import build_p67_fpn
from mvseg.modeling.norms import num_groups

NORMS = ("", "FrozenBN", "BN", "SyncBN", "GN")
# What models are asked for if they know it. Transformers with windows are built for one image size unless told
# otherwise, and where a map is small in that size, Swin would not shift its windows in any other.
WISHES: tuple[dict[str, Any], ...] = (
    {"strict_img_size": False, "always_partition": True},
    {"strict_img_size": False},
    {},
)


class TimmBackbone(Backbone):
    """Feature maps of a timm model, named by their stride: ``stride8``, ``stride16`` ..."""

    def __init__(
        self,
        name: str,
        out_indices: Sequence[int],
        *,
        pretrained: bool = False,
        norm: str = "",
        freeze_at: int = 0,
        in_channels: int = 3,
        drop_path: float = 0.0,
    ) -> None:
        """Build the network.

        Args:
            name: name of the timm model.
            out_indices: which of its feature levels to give, from fine to coarse.
            pretrained: download timm's weights.
            norm: replaces batch normalisation: "FrozenBN", "BN", "SyncBN", "GN"; "" leaves the model as it is.
            freeze_at: this many feature levels, counted from the image, do not train.
            in_channels: channels of the image.
            drop_path: largest probability that a block is left out in training; 0: the model is not asked for it.

        Raises:
            ValueError: if the model, a level or the normalisation does not exist, or the strides do not grow.
        """
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"MODEL.TIMM.NORM {norm!r}: choose one of {', '.join(map(repr, NORMS))}")
        model = _create(name, out_indices, pretrained, in_channels, drop_path)
        self.base = replace_norms(model, norm)
        _freeze(self.base, freeze_at, name)
        strides, channels = model.feature_info.reduction(), model.feature_info.channels()
        if list(strides) != sorted(set(strides)):
            raise ValueError(f"MODEL.TIMM.OUT_INDICES {list(out_indices)} of {name}: strides {strides} must grow")
        self._out_features = [f"stride{s}" for s in strides]
        self._out_feature_strides = dict(zip(self._out_features, strides, strict=True))
        self._out_feature_channels = dict(zip(self._out_features, channels, strict=True))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Compute the feature maps.

        Args:
            x: (B, 3, H, W) float images, normalised.

        Returns:
            Level name to (B, C, H / stride, W / stride) float.
        """
        maps = {}
        for name, feature in zip(self._out_features, self.base(x), strict=True):
            if feature.shape[1] != self._out_feature_channels[name]:  # Swin keeps channels last
                feature = feature.permute(0, 3, 1, 2).contiguous()
            maps[name] = feature
        return maps


def _create(name: str, out_indices: Sequence[int], pretrained: bool, in_channels: int, drop_path: float = 0.0) -> Any:
    if not timm.is_model(name.partition(".")[0]):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        raise ValueError(f"MODEL.TIMM.NAME {name!r}: timm {timm.__version__} has no such model{hint}")
    arguments: dict[str, Any] = {
        "features_only": True,
        "out_indices": tuple(out_indices),
        "pretrained": pretrained,
        "in_chans": in_channels,
    }
    if drop_path > 0:
        arguments["drop_path_rate"] = drop_path
    for wish in WISHES:
        try:
            return timm.create_model(name, **arguments, **wish)
        except TypeError as error:
            if drop_path > 0 and "drop_path_rate" in str(error):
                raise ValueError(
                    f"MODEL.TIMM.DROP_PATH {drop_path}: {name} leaves no blocks out; set it to 0"
                ) from error
            if not any(key in str(error) for key in wish):
                raise
        except (IndexError, AssertionError) as error:
            raise ValueError(
                f"MODEL.TIMM.OUT_INDICES {list(out_indices)}: {name} lacks such a feature level"
            ) from error
    raise AssertionError("the last wish is empty")


def replace_norms(module: nn.Module, norm: str) -> nn.Module:
    """Exchange every batch normalisation below a module; affine weights and, if possible, statistics are kept.

    Args:
        module: the network, changed in place.
        norm: "FrozenBN", "SyncBN" or "GN"; "" or "BN" leaves it as it is.

    Returns:
        The network.
    """
    if norm in ("", "BN"):
        return module
    if norm == "SyncBN":
        return convert_sync_batchnorm(module)
    for name, child in module.named_children():
        if isinstance(child, BatchNormAct2d):
            setattr(module, name, _replace_norm_act(child, norm))
        elif isinstance(child, nn.BatchNorm2d):
            setattr(module, name, _replace_norm(child, norm))
        else:
            replace_norms(child, norm)
    return module


def _replace_norm(old: nn.BatchNorm2d, norm: str) -> nn.Module:
    if norm == "FrozenBN":
        return FrozenBatchNorm2d.convert_frozen_batchnorm(old)
    return _with_affine(nn.GroupNorm(num_groups(old.num_features), old.num_features), old)


def _replace_norm_act(old: BatchNormAct2d, norm: str) -> nn.Module:
    """The same for timm's normalisation that contains its activation."""
    new: Any
    if norm == "FrozenBN":
        new = FrozenBatchNormAct2d(old.num_features, eps=old.eps)
        new.load_state_dict({k: v for k, v in old.state_dict().items() if k in new.state_dict()})
    else:
        new = _with_affine(GroupNormAct(old.num_features, num_groups=num_groups(old.num_features)), old)
    new.act, new.drop = old.act, old.drop
    return new


def _with_affine(new: Any, old: nn.BatchNorm2d) -> Any:
    if old.affine:
        new.load_state_dict({"weight": old.weight, "bias": old.bias})
    return new


def _freeze(model: Any, levels: int, name: str) -> None:
    """Stop the training of all parameters up to the end of the given number of feature levels."""
    if levels <= 0:
        return
    info = model.feature_info.info
    if levels > len(info):
        raise ValueError(f"MODEL.TIMM.FREEZE_AT {levels}: {name} has {len(info)} feature levels")
    modules = list(model.named_modules())
    ends = tuple(f"{level['module']}.".replace("_", ".") for level in info[:levels])  # stages.0 may be called stages_0
    last = max(i for i, (key, _) in enumerate(modules) if f"{key}.".replace("_", ".").startswith(ends))
    for _, module in modules[: last + 1]:
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg: Any, input_shape: ShapeSpec) -> FPN:
    """Build a timm model with a feature pyramid, with two further levels above it if a part reads one of them.

    Args:
        cfg: the config tree; reads ``MODEL.TIMM``, ``MODEL.ADAPTERS``, ``MODEL.FPN``, and which levels the parts read
            (IN_FEATURES).
        input_shape: channels of the image.

    Returns:
        The backbone; with feature levels of strides 8, 16, 32 its outputs are p3 to p7.
    """
    node = cfg.MODEL.TIMM
    bottom_up = TimmBackbone(
        node.NAME,
        node.OUT_INDICES,
        pretrained=node.PRETRAINED,
        norm=node.NORM,
        freeze_at=node.FREEZE_AT,
        in_channels=input_shape.channels,
        drop_path=node.DROP_PATH,
    )
    adapters = cfg.MODEL.ADAPTERS
    add_adapters(
        bottom_up.base,
        adapters.NAME,
        adapters.NUM,
        reduction=adapters.REDUCTION,
        stages=adapters.STAGES,
        every=adapters.EVERY,
        initial_gate=adapters.INITIAL_GATE,
    )
    levels = [f"p{shape.stride.bit_length() - 1}" for shape in bottom_up.output_shape().values()]
    generator = cfg.MODEL.PROPOSAL_GENERATOR.NAME
    readers = {"LocalizationRPN": cfg.MODEL.LOCALIZATION, "PrecomputedProposals": cfg.MODEL.ROI_HEADS}
    reader = readers.get(generator, cfg.MODEL.RPN if generator.endswith("RPN") else cfg.MODEL.CENTERNET)
    wanted = {name for node in (reader, cfg.MODEL.ROI_HEADS) for name in node.IN_FEATURES if name.startswith("p")}
    return build_p67_fpn(cfg, bottom_up, list(bottom_up.output_shape()), further_levels=not wanted <= set(levels))
