"""Interface of all backbones."""

from abc import ABCMeta, abstractmethod

from torch import nn

from ...layers import ShapeSpec


class Backbone(nn.Module, metaclass=ABCMeta):
    """Turns images (N, C, H, W) into a dict of named feature maps.

    A subclass sets `_out_features` (names), `_out_feature_channels` and `_out_feature_strides` (by name), or overrides
    `output_shape`.
    """

    @abstractmethod
    def forward(self):
        """Map images to {name: features}."""

    @property
    def size_divisibility(self) -> int:
        """Image sides must be multiples of this; 0 when any size will do."""
        return 0

    @property
    def padding_constraints(self) -> dict[str, int]:
        """What `ImageList.from_tensors` should observe: "size_divisibility", "square_size"."""
        return {}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of every feature map."""
        return {
            name: ShapeSpec(channels=self._out_feature_channels[name], stride=self._out_feature_strides[name])
            for name in self._out_features
        }
