"""Class probabilities that two branches of a detector agree on: one taught by annotation, one by a teacher."""

from __future__ import annotations

import torch
from torch import Tensor


def geometric_mean(text: Tensor, image: Tensor, text_share: Tensor | float) -> Tensor:
    """Join two probabilities of every class as a weighted geometric mean; it is not made to add up to 1 again.

    Args:
        text: (R, n) float probabilities of the branch that annotation taught.
        image: (R, n) float probabilities of the branch that a teacher taught.
        text_share: weight of the first from 0 to 1, (n,) float or one number for all classes; the second has the rest.

    Returns:
        (R, n) float, text ** share * image ** (1 - share).

    Source: Gu et al. 2022, ViLD (arXiv 2104.13921), section 3.3: the share is 2/3 for base and 1/3 for novel classes.
    """
    share = torch.as_tensor(text_share, dtype=text.dtype, device=text.device)
    return text.pow(share).mul_(image.pow(1 - share))


def text_shares(is_base: Tensor, share: float) -> Tensor:
    """Choose the weight of the branch that annotation taught.

    Args:
        is_base: (n,) bool, classes that annotation taught.
        share: their weight; the other classes have what is left to 1.

    Returns:
        (n,) float32.

    Source: Gu et al. 2022, ViLD (arXiv 2104.13921), section 3.3, with lambda = 2/3.
    """
    return torch.where(is_base, share, 1 - share).float()
