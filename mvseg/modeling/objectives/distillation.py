"""Learning region embeddings from a teacher that saw the image in the region (knowledge distillation).

The teacher is the image side of a model whose text side makes the text rows: a region that lies where the teacher puts
it can be named with any words. Nobody has to say what the region shows, so it may show what no annotation names.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from mvseg.modeling.precision import at_least_float32

Distance = Literal["l1", "cosine"]


def distillation_loss(
    found: Tensor, teacher: Tensor, *, distance: Distance = "l1", weights: Tensor | None = None
) -> Tensor:
    """Average the distance between the directions of region embeddings and of what the teacher says of the regions.

    Args:
        found: (R, D) float region embeddings of any length.
        teacher: (R, D) float embeddings of any length; they get no gradient.
        distance: "l1": the sum of the D absolute differences; "cosine": 1 - cosine, half the squared distance.
        weights: (R,) float weight of every region, which does not enter the divisor; None means 1.

    Returns:
        Sum over the regions divided by R, a scalar tensor; 0, still connected to ``found``, without regions.

    Raises:
        ValueError: if there is no such distance, or the widths differ.

    Source: Gu et al. 2022, ViLD (arXiv 2104.13921), section 3.2: the L1 distance; its released code takes the mean over
    the 512 numbers times 512, which is their sum. The cosine is the variant that later papers compare.
    """
    if distance not in get_args(Distance):
        raise ValueError(f"MODEL.DISTILLATION.LOSS {distance!r}: choose {' or '.join(get_args(Distance))}")
    if found.shape != teacher.shape:
        raise ValueError(f"region embeddings of shape {tuple(found.shape)}, the teacher's {tuple(teacher.shape)}")
    with torch.autocast(found.device.type, enabled=False):
        found = F.normalize(at_least_float32(found), dim=1)
        teacher = F.normalize(teacher.detach().to(found.dtype), dim=1)
        losses = (found - teacher).abs().sum(1) if distance == "l1" else 1 - (found * teacher).sum(1)
    if weights is not None:
        losses = losses * weights
    return losses.sum() / max(len(losses), 1)
