"""Losses of image labels: which region of an image answers for a label, and what its scores should be.

Pure functions of tensors, batched over images. Rows of logits are the R regions of all images, image by image; terms
are the T pairs of an image and one of its labels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mvseg.modeling.precision import at_least_float32

PROBABILITY_FLOOR = 1e-10  # of the probabilities that are summed over regions


def region_table(counts: Tensor) -> Tensor:
    """List the rows of every image.

    Args:
        counts: (I,) int64 number of regions of every image.

    Returns:
        (I, P) int64 rows of its regions, filled up with -1; P is the largest count.

    Source: our own derivation.
    """
    place = torch.arange(int(counts.max()) if len(counts) else 0, device=counts.device)
    rows = (counts.cumsum(0) - counts)[:, None] + place
    return rows.where(place < counts[:, None], -1)


def largest_regions(areas: Tensor, table: Tensor) -> Tensor:
    """Choose the largest region of every image, never the last one unless it is the only one.

    Detic appends the whole image as the last region and passes over it here; it does so too where nothing is appended,
    and so the region of the lowest proposal score is never chosen.

    Args:
        areas: (R,) float areas.
        table: (I, P) int64 rows of every image (``region_table``).

    Returns:
        (I,) int64 rows, -1 for images without regions.

    Source: Zhou et al. 2022 (arXiv 2201.02605), section 4.2, max-size loss.
    """
    following = F.pad(table, (0, 1), value=-1)[:, 1:]
    return _best(areas, table.where(following >= 0, -1), table)


def best_scoring_regions(scores: Tensor, table: Tensor) -> Tensor:
    """Choose the region with the highest score of every term.

    Args:
        scores: (T, P) float, score of every region of a term's image.
        table: (T, P) int64 rows of the term's image (``region_table``).

    Returns:
        (T,) int64 rows, -1 for terms whose image has no regions.

    Source: Zhou et al. 2022 (arXiv 2201.02605), section 4.2, max-object-score loss.
    """
    if table.shape[1] == 0:
        return table.new_full((len(table),), -1)
    place = scores.detach().masked_fill(table < 0, -torch.inf).argmax(1)
    return table.gather(1, place[:, None])[:, 0]


def _best(values: Tensor, table: Tensor, fallback: Tensor) -> Tensor:
    """Row of the largest value among those of the table; of rows with none the first of the fallback."""
    if table.shape[1] == 0:
        return table.new_full((len(table),), -1)
    of_rows = values.detach()[table.clamp(min=0)] if len(values) else table.new_zeros(table.shape, dtype=torch.float32)
    found = best_scoring_regions(of_rows, table)
    return found.where(found >= 0, fallback[:, 0])


def label_rows(
    positions: Tensor,
    columns: int,
    positives: Tensor | None = None,
    background: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Make the targets of the terms.

    Args:
        positions: (T,) int64 position of the label among the computed columns.
        columns: number k of computed columns.
        positives: (T, k) bool, further true columns; None means none.
        background: append a column for the background, never true.
        dtype: of the result.

    Returns:
        (T, k) float of zeros and ones, (T, k + 1) with background.

    Source: our own derivation.
    """
    targets = torch.zeros((len(positions), columns), dtype=dtype, device=positions.device)
    targets = targets.scatter_(1, positions[:, None], 1.0)
    if positives is not None:
        targets = torch.maximum(targets, positives.to(targets.dtype))
    return F.pad(targets, (0, 1)) if background else targets


def region_costs(logits: Tensor, targets: Tensor, table: Tensor, scope: Tensor | None = None) -> Tensor:
    """Compute the binary cross-entropy that every region would give to a term.

    Args:
        logits: (R, k) float.
        targets: (T, k) float of zeros and ones.
        table: (T, P) int64 rows of the term's image.
        scope: (T, k) bool, the columns that count; None means all.

    Returns:
        (T, P) float32; what stands where the table has -1 means nothing.

    Source: Zhou et al. 2022 (arXiv 2201.02605), section 4.2, min-loss; summed over columns it is
    sum_c softplus(z_c) - sum_c y_c z_c.
    """
    logits, place = at_least_float32(logits), table.clamp(min=0)
    count = logits.new_ones(targets.shape) if scope is None else scope.to(logits.dtype)
    rest = F.softplus(logits) @ count.t() - logits @ (targets * count).to(logits.dtype).t()  # (R, T)
    return rest.t().gather(1, place)


def sigmoid_terms(logits: Tensor, targets: Tensor, scope: Tensor | None = None, background: bool = False) -> Tensor:
    """Compute the binary cross-entropy of the chosen region of every term.

    Args:
        logits: (T, k) float logits of the chosen regions.
        targets: (T, k) float of zeros and ones.
        scope: (T, k) bool, the columns that count; None means all.
        background: the last column is that of the background. If not, its logit is 0 as in Detic, whose background text
            row is zero: it adds ln 2 to every term and no gradient.

    Returns:
        (T,) float32, sums over the columns.

    Source: Zhou et al. 2022 (arXiv 2201.02605), equation 4.
    """
    loss = F.binary_cross_entropy_with_logits(at_least_float32(logits), targets, reduction="none")
    loss = (loss if scope is None else loss * scope).sum(1)
    return loss if background else loss + math.log(2)


def softmax_terms(logits: Tensor, targets: Tensor, scope: Tensor | None = None, background: bool = False) -> Tensor:
    """Compute the cross-entropy of the chosen region of every term over the columns and the background.

    Args:
        logits: (T, k) float logits of the chosen regions.
        targets: (T, k) float of zeros and ones; of several true columns the probabilities are added up.
        scope: (T, k) bool, the columns that compete; None means all. True columns must be among them.
        background: the last column is that of the background; if not, one of logit 0 competes too.

    Returns:
        (T,) float32.

    Source: Zhou et al. 2022 (arXiv 2201.02605), section 4.2, with cross-entropy in the place of equation 4.
    """
    logits = at_least_float32(logits)
    if scope is not None:
        logits = logits.masked_fill(~scope.bool(), -torch.inf)
    everything = logits if background else F.pad(logits, (0, 1))
    return everything.logsumexp(1) - logits.masked_fill(targets == 0, -torch.inf).logsumexp(1)


def summed_scores(logits: Tensor, proposal_logits: Tensor, table: Tensor) -> Tensor:
    """Weigh the class probabilities of an image's regions by a softmax over the regions, and add them up.

    Args:
        logits: (R, k) float class logits.
        proposal_logits: (R, k) float logits of the branch that compares regions.
        table: (I, P) int64 rows of every image.

    Returns:
        (I, k) float32 probabilities of the classes in the image; 0 for images without regions.

    Source: Bilen and Vedaldi 2016, WSDDN (arXiv 1511.02853), equations 2 to 4, with a sigmoid in the place of the
    softmax over classes as in Zhou et al. 2022 (arXiv 2201.02605), section 5.5.
    """
    logits, proposal_logits = at_least_float32(logits), at_least_float32(proposal_logits)
    if table.numel() == 0 or len(logits) == 0:
        return logits.new_zeros((len(table), logits.shape[1])) + (logits.sum() + proposal_logits.sum()) * 0
    place, outside = table.clamp(min=0), (table < 0)[..., None]
    # A finite filler: a softmax over nothing but -inf would be NaN in the gradient.
    share = proposal_logits[place].masked_fill(outside, torch.finfo(logits.dtype).min).softmax(1)
    return (logits[place].sigmoid() * share).masked_fill(outside, 0.0).sum(1)


def image_probability_terms(
    probabilities: Tensor, targets: Tensor, scope: Tensor | None = None, background: bool = False
) -> Tensor:
    """Compute the mean binary cross-entropy of the class probabilities of every term's image.

    Args:
        probabilities: (T, k) float.
        targets: (T, k) float of zeros and ones.
        scope: (T, k) bool, the columns that count; None means all.
        background: the last column is that of the background. If not, its probability is 1/2: it adds ln 2 to the sum.

    Returns:
        (T,) float32, means over the columns that count and the background.

    Source: Bilen and Vedaldi 2016, WSDDN (arXiv 1511.02853), equation 5.
    """
    probabilities = probabilities.clamp(PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
    loss = F.binary_cross_entropy(probabilities, targets, reduction="none")
    counted = loss.new_full((len(loss),), float(loss.shape[1])) if scope is None else scope.sum(1).to(loss.dtype)
    loss = (loss if scope is None else loss * scope).sum(1)
    return loss / counted.clamp(min=1) if background else (loss + math.log(2)) / (counted + 1)


def mean_of_images(terms: Tensor, images: Tensor, num_images: int) -> Tensor:
    """Average the terms of every image over its labels.

    Args:
        terms: (T,) float.
        images: (T,) int64 image of every term.
        num_images: number I of images.

    Returns:
        (I,) float loss of every image; 0 for images without labels.

    Source: our own derivation.
    """
    counts = torch.bincount(images, minlength=num_images).clamp(min=1)
    return terms.new_zeros(num_images).index_add(0, images, terms / counts[images])


def sampled_columns(classes: Tensor, num_classes: int, num_columns: int, allowed: Tensor | None = None) -> Tensor:
    """Choose the columns of a batch: the labels at hand, filled up with drawn ones, all equally likely.

    Args:
        classes: (T,) int64 labels at hand.
        num_classes: number n of label columns.
        num_columns: wanted number of columns; labels at hand are kept even if there are more.
        allowed: (n,) bool, columns that may be drawn; None means all.

    Returns:
        (k,) int64 label columns, ascending.

    Source: Zhou et al. 2022 (arXiv 2201.02605), section 5.1: 50 classes per step with 21 thousand.
    """
    present = classes.unique()
    weights = torch.ones(num_classes, device=classes.device) if allowed is None else allowed.float()
    weights[present] = 0
    wanted = min(num_columns - len(present), int(weights.count_nonzero()))
    if wanted > 0:
        present = torch.cat([present, torch.multinomial(weights, wanted, replacement=False)])
    return present.sort().values
