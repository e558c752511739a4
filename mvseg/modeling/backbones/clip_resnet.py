"""The image side of a CLIP model with a ResNet, cut at stride 16 (``MODEL.BACKBONE.NAME: build_clip_resnet_backbone``).

The network is open_clip's ModifiedResNet. Stem and first three stages are the backbone ("res4"), the last stage and the
attention pooling belong to the region heads (``MODEL.ROI_HEADS.NAME: ClipRes5ROIHeads``), the C4 layout of RegionCLIP
and UniDetector. Names of the backbone's parameters are CLIP's: ``conv1``, ``bn1``, ..., ``layer3.5.conv3.weight``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from mvseg.modeling.backbones.timm_fpn import NORMS, replace_norms
from mvseg.vocabulary import did_you_mean

STAGES = ("layer1", "layer2", "layer3")  # of strides 4, 8, 16


def clip_resnet(architecture: str, pretrained: str = "", norm: str = "FrozenBN") -> Any:
    """Build the image side of a CLIP model.

    Args:
        architecture: name that open_clip knows, such as "RN50", or a JSON file with such a model's config.
        pretrained: tag of open_clip, which downloads, or a checkpoint file; "": random weights.
        norm: replaces batch normalisation: "FrozenBN", "SyncBN" or "GN"; "BN" leaves it.

    Returns:
        open_clip's ModifiedResNet: (B, 3, S, S) images of its ``image_size`` S to (B, ``output_dim``) embeddings.

    Raises:
        ValueError: if there is no such architecture, weights or normalisation, or the architecture is no ResNet.
    """
    from open_clip import add_model_config, get_model_config, list_models
    from open_clip.modified_resnet import ModifiedResNet

    if norm not in NORMS or not norm:
        raise ValueError(f"MODEL.CLIP.NORM {norm!r}: choose one of {', '.join(name for name in NORMS if name)}")
    name = architecture
    if Path(architecture).suffix == ".json":
        if not Path(architecture).is_file():
            raise ValueError(f"MODEL.CLIP.ARCHITECTURE: file {architecture} does not exist")
        add_model_config(Path(architecture))
        name = Path(architecture).stem
    settings = get_model_config(name)
    resnets = [known for known in list_models() if known.startswith("RN")]
    if settings is None or not isinstance(settings["vision_cfg"].get("layers"), list | tuple):
        raise ValueError(
            f"MODEL.CLIP.ARCHITECTURE {architecture!r} is no CLIP model with a ResNet{did_you_mean(name, resnets)}"
        )
    if pretrained:
        from mvseg.vocabulary.encoders.clip import load_open_clip

        return replace_norms(load_open_clip(architecture, pretrained)[0].visual.requires_grad_(True), norm)
    vision = settings["vision_cfg"]
    network = ModifiedResNet(
        layers=vision["layers"],
        output_dim=settings["embed_dim"],
        heads=vision["width"] * 32 // vision.get("head_width", 64),
        image_size=vision["image_size"],
        width=vision["width"],
    )
    return replace_norms(network, norm)


class ClipResNet(Backbone):
    """Stem and first three stages of a CLIP ResNet; one feature map, "res4", of stride 16."""

    def __init__(self, network: Any, freeze_at: int = 0) -> None:
        """Take the stages from a whole network.

        Args:
            network: from :func:`clip_resnet`; its last stage and pooling are left where they are.
            freeze_at: 1: the stem does not train, 2: neither does the first stage, up to 4.

        Raises:
            ValueError: if ``freeze_at`` is not from 0 to 4.
        """
        super().__init__()
        if not 0 <= freeze_at <= 1 + len(STAGES):
            raise ValueError(f"MODEL.BACKBONE.FREEZE_AT {freeze_at}: a C4 backbone has a stem and three stages, 0 to 4")
        for number in (1, 2, 3):
            setattr(self, f"conv{number}", getattr(network, f"conv{number}"))
            setattr(self, f"bn{number}", getattr(network, f"bn{number}"))
            setattr(self, f"act{number}", getattr(network, f"act{number}"))
        self.avgpool = network.avgpool
        for stage in STAGES:
            setattr(self, stage, getattr(network, stage))
        last = network.layer3[-1].conv3.out_channels
        self._out_features = ["res4"]
        self._out_feature_strides, self._out_feature_channels = {"res4": 16}, {"res4": last}
        self._freeze(freeze_at)

    def _freeze(self, freeze_at: int) -> None:
        stem = [getattr(self, f"{kind}{number}") for number in (1, 2, 3) for kind in ("conv", "bn")]
        stages: list[list[nn.Module]] = [stem, *([getattr(self, name)] for name in STAGES)]
        for module in (module for stage in stages[:freeze_at] for module in stage):
            module.requires_grad_(False)

    @property
    def size_divisibility(self) -> int:
        """What height and width of a batch must be multiples of, so that its maps fit each other."""
        return 16

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Compute the feature map.

        Args:
            x: (B, 3, H, W) float RGB images, normalised as CLIP's.

        Returns:
            "res4" (B, C, H / 16, W / 16) float.
        """
        for number in (1, 2, 3):
            x = getattr(self, f"conv{number}")(x)
            x = getattr(self, f"act{number}")(getattr(self, f"bn{number}")(x))
        x = self.avgpool(x)
        for stage in STAGES:
            x = getattr(self, stage)(x)
        return {"res4": x}


@BACKBONE_REGISTRY.register()
def build_clip_resnet_backbone(cfg: Any, input_shape: ShapeSpec) -> ClipResNet:
    """Build the part of a CLIP ResNet that comes before the regions.

    Args:
        cfg: the config tree; reads ``MODEL.CLIP`` and ``MODEL.BACKBONE.FREEZE_AT``.
        input_shape: channels of the image.

    Returns:
        The backbone.

    Raises:
        ValueError: if images do not have three channels.
    """
    if input_shape.channels != 3:
        raise ValueError(f"CLIP looks at RGB images, not at {input_shape.channels} channels")
    node = cfg.MODEL.CLIP
    return ClipResNet(clip_resnet(node.ARCHITECTURE, node.PRETRAINED, node.NORM), cfg.MODEL.BACKBONE.FREEZE_AT)
