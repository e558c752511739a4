"""Normalisation layers, and the names by which configs ask for them."""

from collections.abc import Callable

import torch
import torch.distributed as dist
from fvcore.nn.distributed import differentiable_all_reduce
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.convnext import LayerNorm2d

from .._missing import missing


class FrozenBatchNorm2d(nn.Module):
    """Batch norm whose statistics and affine parameters are buffers: y = (x - mean) / sqrt(var + eps) * weight + bias.

    State dicts carry version 3. Those below 2 may lack the statistics, which were folded into the affine part.
    """

    _version = 3

    def __init__(self, num_features, eps=1e-5):
        super().__init__()
        self.num_features, self.eps = num_features, eps
        # With this variance a fresh layer is the identity.
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0 - eps)):
            self.register_buffer(name, torch.full((num_features,), value))
        self.register_buffer("num_batches_tracked", None)

    def forward(self, x: Tensor) -> Tensor:
        if not x.requires_grad:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        # F.batch_norm would keep what gradients of the affine part need; a scale and a shift keep less.
        scale = self.weight / (self.running_var + self.eps).sqrt()
        shift = self.bias - self.running_mean * scale
        scale, shift = (value.to(x.dtype).view(1, -1, 1, 1) for value in (scale, shift))
        return (x * scale).add_(shift)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args):
        if (local_metadata.get("version") or 1) < 2:
            state_dict.setdefault(prefix + "running_mean", torch.zeros_like(self.running_mean))
            state_dict.setdefault(prefix + "running_var", torch.ones_like(self.running_var))
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def __repr__(self):
        return f"FrozenBatchNorm2d(num_features={self.num_features}, eps={self.eps})"

    @classmethod
    def convert_frozen_batchnorm(cls, module: nn.Module) -> nn.Module:
        """Replace every batch norm in a module by a frozen one; return the module, or its own replacement."""
        if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)):
            frozen = cls(module.num_features, module.eps)
            frozen.num_batches_tracked = module.num_batches_tracked
            frozen.load_state_dict(module.state_dict(), strict=module.affine)
            return frozen.to(module.running_mean.device)
        for name, child in module.named_children():
            setattr(module, name, cls.convert_frozen_batchnorm(child))
        return module


class NaiveSyncBatchNorm(nn.BatchNorm2d):
    """Batch norm over all processes, each of which has equal weight in the statistics whatever its batch."""

    def __init__(self, *args, stats_mode="", **kwargs):
        super().__init__(*args, **kwargs)
        if stats_mode:
            raise missing(f"layers.NaiveSyncBatchNorm with stats_mode={stats_mode!r}")

    def forward(self, input: Tensor) -> Tensor:
        world_size = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        if world_size == 1 or not self.training:
            return super().forward(input)
        x = input.float()
        local = torch.cat((x.mean(dim=(0, 2, 3)), x.square().mean(dim=(0, 2, 3))))
        mean, square = (differentiable_all_reduce(local) / world_size).chunk(2)
        var = square - mean * mean
        scale = self.weight * torch.rsqrt(var + self.eps)
        shift = self.bias - mean * scale
        self.running_mean.lerp_(mean.detach(), self.momentum)
        self.running_var.lerp_(var.detach(), self.momentum)
        return (x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)).to(input.dtype)


class LayerNorm(LayerNorm2d):
    """Layer norm over the channels of (N, C, H, W)."""

    def __init__(self, normalized_shape, eps=1e-6):
        super().__init__(normalized_shape, eps=eps)


_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "BN": nn.BatchNorm2d,
    "SyncBN": nn.SyncBatchNorm,
    "nnSyncBN": nn.SyncBatchNorm,
    "naiveSyncBN": NaiveSyncBatchNorm,
    "FrozenBN": FrozenBatchNorm2d,
    "GN": lambda channels: nn.GroupNorm(32, channels),
    "LN": LayerNorm,
}


def get_norm(norm, out_channels):
    """Build a norm layer by its name in a config ("BN", "FrozenBN", ...) or by a callable; None for "" or None."""
    if isinstance(norm, str) and norm and norm not in _NORMS:
        raise KeyError(f"No norm is called {norm!r}; there are {', '.join(_NORMS)}")
    return _NORMS.get(norm, norm)(out_channels) if norm else None
