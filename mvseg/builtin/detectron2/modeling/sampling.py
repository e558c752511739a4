"""Random choice of positives and negatives with a fixed share."""

import torch
from torch import Tensor

from ..layers import nonzero_tuple


def subsample_labels(
    labels: Tensor, num_samples: int, positive_fraction: float, bg_label: int
) -> tuple[Tensor, Tensor]:
    """Draw foreground and background without replacement.

    Args:
        labels: (N,) classes; -1 is ignored, `bg_label` is background, all else foreground.
        num_samples: how many to draw in all, if there are enough.
        positive_fraction: the largest share of foreground; background fills the rest.
        bg_label: class of the background.

    Returns:
        int64 indices of the foreground and of the background drawn.
    """
    positive = nonzero_tuple((labels != -1) & (labels != bg_label))[0]
    negative = nonzero_tuple(labels == bg_label)[0]
    positive_count = min(len(positive), int(num_samples * positive_fraction))
    negative_count = min(len(negative), num_samples - positive_count)
    # Foreground is drawn first: part of the reproducible order of random numbers.
    chosen_positive = torch.randperm(len(positive), device=positive.device)[:positive_count]
    chosen_negative = torch.randperm(len(negative), device=negative.device)[:negative_count]
    return positive[chosen_positive], negative[chosen_negative]
