"""Normalisation layers, and the names by which configs ask for them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from fvcore.nn.distributed import differentiable_all_reduce
from torch import Tensor, nn
from torch.nn import functional as F


class FrozenBatchNorm2d(nn.Module):
    """Batch norm whose statistics and affine parameters are buffers: y = (x - mean) / sqrt(var + eps) * weight + bias.

    State dicts carry version 3. Those below 2 may lack the statistics, which were folded into the affine part.
    """

    _version = 3

    def __init__(self, num_features, eps=1e-5):
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        # With this variance a fresh layer is the identity.
        self.register_buffer("running_var", torch.full((num_features,), 1.0 - eps))
        self.register_buffer("num_batches_tracked", None)

    def forward(self, x: Tensor) -> Tensor:
        if not x.requires_grad:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        # F.batch_norm would keep what gradients of the affine part need; a scale and a shift keep less.
        scale = self.weight / (self.running_var + self.eps).sqrt()
        shift = self.bias - self.running_mean * scale
        scale, shift = (value.to(x.dtype).view(1, -1, 1, 1) for value in (scale, shift))
        return x * scale + shift

    def _load_from_state_dict(
        self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
    ):
        if (local_metadata.get("version") or 1) < 2:
            state_dict.setdefault(prefix + "running_mean", torch.zeros_like(self.running_mean))
            state_dict.setdefault(prefix + "running_var", torch.ones_like(self.running_var))
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def __repr__(self):
        return f"FrozenBatchNorm2d(num_features={self.num_features}, eps={self.eps})"

    @classmethod
    def convert_frozen_batchnorm(cls, module: nn.Module) -> nn.Module:
        """Replace every BatchNorm2d and SyncBatchNorm in a module by a frozen one.

        Args:
            module: changed in place, unless it is a batch norm itself.

        Returns:
            The module, or its replacement.
        """
        if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)):
            frozen = cls(module.num_features, module.eps)
            for name in ("weight", "bias") if module.affine else ():
                getattr(frozen, name).copy_(getattr(module, name).detach())
            frozen.running_mean.copy_(module.running_mean)
            frozen.running_var.copy_(module.running_var)
            frozen.num_batches_tracked = module.num_batches_tracked
            return frozen.to(module.running_mean.device)
        for name, child in module.named_children():
            replacement = cls.convert_frozen_batchnorm(child)
            if replacement is not child:
                setattr(module, name, replacement)
        return module


class NaiveSyncBatchNorm(nn.BatchNorm2d):
    """Batch norm over all processes that allows them different (with stats_mode "N": also empty) batches.

    With `stats_mode=""` every process has equal weight in the statistics, with "N" every image position has.
    """

    def __init__(self, *args, stats_mode="", **kwargs):
        super().__init__(*args, **kwargs)
        if stats_mode not in ("", "N"):
            raise AssertionError(f'stats_mode is "" or "N", not {stats_mode!r}')
        self._stats_mode = stats_mode

    def forward(self, input: Tensor) -> Tensor:
        world_size = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        if world_size == 1 or not self.training:
            return super().forward(input)
        if self._stats_mode == "" and input.shape[0] == 0:
            raise AssertionError('NaiveSyncBatchNorm with stats_mode="" got an empty batch; use "N"')
        x = input.float()
        moments, total = self._shared_moments(x, world_size)
        mean, square = moments.split(x.shape[1])
        var = square - mean * mean
        scale = self.weight * torch.rsqrt(var + self.eps)
        shift = self.bias - mean * scale
        # Without any data there is nothing to learn from: total is 0 on all processes at once.
        momentum = self.momentum * total.detach().clamp(max=1)
        self.running_mean.lerp_(mean.detach(), momentum)
        self.running_var.lerp_(var.detach(), momentum)
        return (x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)).to(input.dtype)

    def _shared_moments(self, x: Tensor, world_size: int) -> tuple[Tensor, Tensor]:
        """Mean and mean square (2C,) over processes, and the number of positions behind them (or processes)."""
        if self._stats_mode == "":
            local = torch.cat((x.mean(dim=(0, 2, 3)), (x * x).mean(dim=(0, 2, 3))))
            return differentiable_all_reduce(local) / world_size, x.new_tensor(float(world_size))
        count = x.new_tensor([float(x.shape[0] * x.shape[2] * x.shape[3])])
        local = torch.cat((x.sum(dim=(0, 2, 3)), (x * x).sum(dim=(0, 2, 3)), count))
        summed = differentiable_all_reduce(local)
        total = summed[-1]
        return summed[:-1] / total.clamp(min=1), total


class LayerNorm(nn.Module):
    """Layer norm over the channels of (N, C, H, W)."""

    def __init__(self, normalized_shape, eps=1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(normalized_shape))
        self.bias = nn.Parameter(torch.zeros(normalized_shape))
        self.eps = eps
        self.normalized_shape = (normalized_shape,)

    def forward(self, x: Tensor) -> Tensor:
        last = x.permute(0, 2, 3, 1)
        return F.layer_norm(last, self.normalized_shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)


def _group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(32, channels)


def _naive_sync_n(channels: int) -> nn.Module:
    return NaiveSyncBatchNorm(channels, stats_mode="N")


_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "BN": nn.BatchNorm2d,
    "SyncBN": nn.SyncBatchNorm,
    "nnSyncBN": nn.SyncBatchNorm,
    "naiveSyncBN": NaiveSyncBatchNorm,
    "naiveSyncBN_N": _naive_sync_n,
    "FrozenBN": FrozenBatchNorm2d,
    "GN": _group_norm,
    "LN": LayerNorm,
}


def get_norm(norm, out_channels):
    """Build the norm layer of a config.

    Args:
        norm: "" or None (no norm), a name ("BN", "SyncBN", "FrozenBN", "GN", "LN", ...) or a callable.
        out_channels: channels to normalise.

    Returns:
        A module, or None.
    """
    if norm is None or norm == "":
        return None
    if isinstance(norm, str) and norm not in _NORMS:
        raise KeyError(f"No norm is called {norm!r}; there are {', '.join(_NORMS)}")
    return (_NORMS[norm] if isinstance(norm, str) else norm)(out_channels)
