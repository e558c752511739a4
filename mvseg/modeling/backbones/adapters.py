"""Squeeze-and-excitation adapters in residual blocks, and banks of them that the image itself chooses from.

One detector for very different domains: every block has N adapters, and a routing that reads the same pooled features
mixes them, so that nobody has to tell the trunk which dataset an image is from.

The gate of an image is computed from its mean features. That mean does not depend on where in the image something is,
nor on the other images of the batch, but it does include the padding of images that are smaller than the largest of
their batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

from mvseg.modeling.precision import at_least_float32
from mvseg.vocabulary import did_you_mean

KINDS = ("", "se", "domain_attention")


class Adapter(nn.Module):
    """Two linear layers with a ReLU between; without the sigmoid of a squeeze-and-excitation block."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        """Build the adapter.

        Args:
            channels: channels C of the block.
            reduction: how many times narrower the layer between is; at least one number stays.

        Source: Wang et al. 2019, Domain Attention (arXiv 1904.04402), universal SE adapters.
        """
        super().__init__()
        width = max(channels // reduction, 1)
        self.fc1, self.fc2 = nn.Linear(channels, width), nn.Linear(width, channels)

    def forward(self, pooled: Tensor) -> Tensor:
        """Compute what the adapter adds to the gate, before the sigmoid.

        Args:
            pooled: (B, C) float mean features.

        Returns:
            (B, C) float.

        Source: Wang et al. 2019 (arXiv 1904.04402): W2 ReLU(W1 g + b1) + b2.
        """
        return self.fc2(torch.relu(self.fc1(pooled)))


class DomainAttention(nn.Module):
    """A bank of adapters in a residual block, mixed by what the image shows; of one adapter a plain SE block."""

    def __init__(self, channels: int, num_adapters: int, reduction: int = 16, *, initial_gate: float = 0.5) -> None:
        """Build the bank.

        Args:
            channels: channels C of the block.
            num_adapters: number N of adapters; they need not be as many as datasets.
            reduction: how many times narrower the layers between are.
            initial_gate: where the gates begin, 0 to 1: the last biases begin at its logit higher than usual. 0.5
                changes nothing; near 1 the block begins nearly as one without adapters.

        Raises:
            ValueError: if there is no adapter, or a number is out of its range.

        Source: Wang et al. 2019, Domain Attention (arXiv 1904.04402); ``initial_gate`` is our own.
        """
        super().__init__()
        if num_adapters < 1 or reduction < 1:
            raise ValueError(f"MODEL.ADAPTERS: NUM {num_adapters} and REDUCTION {reduction} must be at least 1")
        if not 0 < initial_gate < 1:
            raise ValueError(f"MODEL.ADAPTERS.INITIAL_GATE must be between 0 and 1, not {initial_gate}")
        self.adapters: Any = nn.ModuleList(Adapter(channels, reduction) for _ in range(num_adapters))
        self.routing = nn.Linear(channels, num_adapters) if num_adapters > 1 else None
        with torch.no_grad():
            for adapter in self.adapters:
                last: Any = adapter.fc2
                last.bias += math.log(initial_gate / (1 - initial_gate))

    def gate(self, x: Tensor) -> Tensor:
        """Compute the factor of every channel, in float32 also under autocast.

        Args:
            x: (B, C, H, W) float features of the block.

        Returns:
            (B, C) float, between 0 and 1.

        Source: Wang et al. 2019 (arXiv 1904.04402): sigmoid(sum_i a_i u_i(g)), a = softmax(F g), g the mean of x.
        """
        with torch.autocast(x.device.type, enabled=False):
            pooled = at_least_float32(x).mean((2, 3))
            each = torch.stack([adapter(pooled) for adapter in self.adapters], 1)  # (B, N, C)
            if self.routing is None:
                return each[:, 0].sigmoid()
            shares = self.routing(pooled).softmax(1)
            return (shares[:, :, None] * each).sum(1).sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Scale the channels.

        Args:
            x: (B, C, H, W) float features of the block.

        Returns:
            (B, C, H, W), of the same type.

        Source: Wang et al. 2019 (arXiv 1904.04402): x * gate.
        """
        return x * self.gate(x)[:, :, None, None].to(x.dtype)


def add_adapters(
    model: nn.Module,
    kind: str,
    num_adapters: int = 3,
    *,
    reduction: int = 16,
    stages: Sequence[int] = (1, 2, 3, 4),
    every: int = 1,
    initial_gate: float = 0.5,
) -> int:
    """Give the residual blocks of a ResNet of timm adapters, in place: at the end of the branch, before the sum.

    Parameters are named ``layer<stage>.<block>.se.adapters.<i>.fc1.weight`` and so on, ``...se.routing.weight``. They
    train even where the stage around them is frozen.

    Args:
        model: the network, with or without timm's wrapper that gives feature maps.
        kind: "domain_attention": banks; "se": one adapter in every block; "": nothing is done.
        num_adapters: adapters of a bank.
        reduction: how many times narrower the layers between are.
        stages: which stages, from 1; those that the network does not have (it ends before) are passed over.
        every: of every so many blocks of a stage, counted back from its last, one has a bank, the others one adapter.
        initial_gate: where the gates begin; see :class:`DomainAttention`.

    Returns:
        Number of blocks that have adapters now.

    Raises:
        ValueError: if there is no such kind or stage, a number is wrong, or the network has no block that could take
            adapters or has adapters of its own.

    Source: Wang et al. 2019, Domain Attention (arXiv 1904.04402).
    """
    if kind not in KINDS:
        raise ValueError(f"MODEL.ADAPTERS.NAME {kind!r} does not exist{did_you_mean(kind, KINDS[1:])}")
    if not kind:
        return 0
    wrong = [stage for stage in stages if stage not in (1, 2, 3, 4)]
    if wrong or not stages or every < 1:
        raise ValueError(f"MODEL.ADAPTERS: STAGES {list(stages)} are of 1, 2, 3, 4, and EVERY {every} is at least 1")
    device = next(model.parameters()).device
    count = 0
    for stage in stages:
        blocks = list(_blocks(model, stage))
        for place, block in enumerate(reversed(blocks)):
            if block.se is not None:
                raise ValueError(
                    f"MODEL.ADAPTERS.NAME {kind}: the blocks of {type(model).__name__} have squeeze-and-excitation "
                    "already; name the same model without it in MODEL.TIMM.NAME"
                )
            size = num_adapters if kind == "domain_attention" and place % every == 0 else 1
            block.se = DomainAttention(_channels(block), size, reduction, initial_gate=initial_gate).to(device)
        count += len(blocks)
    if not count:
        raise ValueError(
            f"MODEL.ADAPTERS.NAME {kind}: this network has no residual blocks that take adapters in stages "
            f"{list(stages)}; the ResNets of timm do (MODEL.TIMM.NAME resnet18, resnet50, resnext50_32x4d)"
        )
    return count


def _blocks(model: nn.Module, stage: int) -> Iterator[Any]:
    """Residual blocks of a stage, from the image on."""
    for name, module in model.named_children():
        if name == f"layer{stage}":
            yield from (block for block in module.modules() if isinstance(block, BasicBlock | Bottleneck))


def _channels(block: Any) -> int:
    last = block.conv3 if isinstance(block, Bottleneck) else block.conv2
    return last.out_channels
