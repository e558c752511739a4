"""Base of the blocks that a backbone is made of."""

from torch import nn

from .batch_norm import FrozenBatchNorm2d


class CNNBlockBase(nn.Module):
    """A block with `in_channels`, `out_channels` and `stride` that can be frozen as a whole."""

    def __init__(self, in_channels, out_channels, stride):
        super().__init__()
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, stride

    def freeze(self):
        """Stop learning: no gradients, and batch norms with fixed statistics; returns the block."""
        self.requires_grad_(False)
        FrozenBatchNorm2d.convert_frozen_batchnorm(self)
        return self
