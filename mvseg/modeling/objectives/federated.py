"""Which label columns the federated loss compares: the classes at hand and a few drawn ones."""

from __future__ import annotations

import torch
from torch import Tensor


def federated_draw_weights(classes: Tensor, image_count: Tensor, power: float, scope: Tensor | None = None) -> Tensor:
    """Compute with which relative probability every further class is drawn.

    Args:
        classes: (R,) int64 classes of the regions; n means background.
        image_count: (n,) number of training images of every class.
        power: exponent of the image count.
        scope: (n,) bool, columns that may be drawn; None means all.

    Returns:
        (n,) float32, image_count ** power; 0 for classes that occur among the regions or lie outside the scope.

    Source: Zhou et al. 2021 (arXiv 2103.07461), section 5.1: negatives drawn by the root of the frequency.
    """
    weights = image_count.float() ** power
    weights = torch.where(image_count > 0, weights, torch.zeros_like(weights))
    if scope is not None:
        weights = weights * scope
    weights[classes[classes < len(image_count)]] = 0
    return weights


def federated_columns(
    classes: Tensor, image_count: Tensor, *, num_columns: int, power: float = 0.5, scope: Tensor | None = None
) -> Tensor:
    """Choose the columns of one federated loss: the classes at hand, filled up with drawn ones.

    The background counts as one class of the set if there is a background region, as in the original.

    Args:
        classes: (R,) int64 classes of the regions; n means background.
        image_count: (n,) number of training images of every class.
        num_columns: wanted size of the set; classes at hand are kept even if there are more.
        power: exponent of the image count in the draw.
        scope: (n,) bool, columns that may be drawn; None means all.

    Returns:
        (k,) int64 label columns, ascending, without the background.

    Source: Zhou et al. 2021 (arXiv 2103.07461), section 5.1.
    """
    present = classes.unique()
    foreground = present[present < len(image_count)]
    weights = federated_draw_weights(classes, image_count, power, scope)
    wanted = min(num_columns - len(present), int((weights > 0).sum()))
    if wanted > 0:
        foreground = torch.cat([foreground, torch.multinomial(weights, wanted, replacement=False)])
    return foreground.sort().values
