"""Scores of detections in the light of how often a detector reports every class at all (probability calibration).

A detector that was trained with a long tail reports frequent classes too readily. Dividing the probability of a class
by a power of its prior undoes part of that, for any detector that gives probabilities and a score of its proposals.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mvseg.modeling.priors import read_prior

logger = logging.getLogger(__name__)

PRIORS = ("none", "test", "running")  # and a file


def smoothed_prior(counts: Tensor) -> Tensor:
    """Turn numbers of detections into a prior in which no class has probability 0.

    Args:
        counts: (m,) float, detections of every class, not negative.

    Returns:
        (m,) float64 that adds up to 1: (count + 1) / (sum + m).

    Source: Laplace's rule; without it a class that was never detected would take all factors to infinity.
    """
    counts = counts.double()
    return (counts + 1) / (counts.sum() + len(counts)) if len(counts) else counts


def prior_factors(prior: Tensor, gamma: float = 0.6) -> Tensor:
    """Compute what the probability of every class is multiplied by.

    Args:
        prior: (m,) float, positive.
        gamma: exponent; 0 leaves the probabilities as they are.

    Returns:
        (m,) float64, prior ** -gamma divided by its mean, which is one constant for all classes and so changes no
        ranking: only the scale on which thresholds lie.

    Raises:
        ValueError: if an entry is not positive.

    Source: Wang et al. 2023, UniDetector (arXiv 2303.11749), section 3.3; the mean is that of its released code.
    """
    prior = prior.double()
    if len(prior) and not bool((prior > 0).all()):
        raise ValueError("a prior must be positive for every class: see smoothed_prior")
    factors = prior**-gamma
    return factors / factors.mean() if len(factors) else factors


def calibrate(probabilities: Tensor, objectness: Tensor, factors: Tensor | None = None, *, beta: float = 0.3) -> Tensor:
    """Join class probability, prior and proposal score.

    Args:
        probabilities: (R, m) float class probabilities.
        objectness: (R,) float proposal scores, 0 to 1.
        factors: (m,) float, from ``prior_factors``; None: 1 for all classes.
        beta: exponent of the class probability, 0 to 1; the proposal score has 1 - beta.

    Returns:
        (R, m) float scores: (p * factor) ** beta * objectness ** (1 - beta). Of a rare class they can exceed 1.

    Source: Wang et al. 2023, UniDetector (arXiv 2303.11749), section 3.3.
    """
    if factors is not None:
        probabilities = probabilities * factors.to(probabilities)
    scores = probabilities if beta == 1 else probabilities**beta
    return scores if beta == 1 else scores * (objectness ** (1 - beta))[:, None]


def count_classes(classes: Tensor, num_words: int) -> Tensor:
    """Count detections.

    Args:
        classes: (N,) int64 positions in the vocabulary.
        num_words: m, words of the vocabulary.

    Returns:
        (m,) float64 on the CPU.
    """
    return torch.bincount(classes.cpu(), minlength=num_words).double()


class Calibration:
    """The calibration of one detector: settings, words, and what is known of their prior.

    Args:
        prior: where the prior comes from: "none" (nowhere: only the exponent ``beta`` acts), "test" (somebody makes a
            first pass and calls ``set_counts``), "running" (the images before, one after the other).
        counts: known counts by word, from a file; then ``prior`` says what to call their source.
        gamma: exponent of the prior.
        beta: exponent of the class probability.
        decay: "running": factor on the counts before every image; 1: all images count alike.
        count_threshold: score that a detection must exceed to be counted, without the prior.
    """

    def __init__(
        self,
        prior: str = "none",
        counts: Mapping[str, float] | None = None,
        *,
        gamma: float = 0.6,
        beta: float = 0.3,
        decay: float = 1.0,
        count_threshold: float = 1e-4,
    ) -> None:
        if counts is None and prior not in PRIORS:
            raise ValueError(f"MODEL.CALIBRATION.PRIOR {prior!r}: choose {', '.join(PRIORS)}, or a file with counts")
        if not 0 <= beta <= 1 or gamma < 0 or not 0 < decay <= 1:
            raise ValueError(
                f"MODEL.CALIBRATION: BETA {beta} must be from 0 to 1, GAMMA {gamma} not negative, DECAY {decay} above "
                "0 and at most 1"
            )
        self.prior, self.known = prior, None if counts is None else dict(counts)
        self.gamma, self.beta, self.decay, self.count_threshold = gamma, beta, decay, count_threshold
        self.words: tuple[str, ...] = ()
        self.counts: Tensor | None = None  # (m,) float64
        self.factors: Tensor | None = None  # (m,)
        self.counting = False

    @property
    def waits(self) -> bool:
        """Whether somebody has to make a first pass before the scores are calibrated."""
        return self.prior == "test" and self.counts is None

    @property
    def watches(self) -> bool:
        """Whether detections of every image are to be counted."""
        return self.counting or (self.prior == "running" and self.known is None)

    def describe(self) -> str:
        """Say in words where the prior comes from.

        Returns:
            One line.
        """
        sources = {
            "none": "no prior",
            "test": "prior from a first pass over the test images",
            "running": f"prior from the test images before, decay {self.decay:g}",
        }
        source = sources[self.prior] if self.known is None else f"prior from {self.prior}"
        return f"{source}; gamma {self.gamma:g}, beta {self.beta:g}"

    def set_words(self, words: Sequence[str]) -> list[str]:
        """Forget the prior, or look it up where counts of words are known, because the words are others.

        Args:
            words: the m words.

        Returns:
            Words of which a file of counts says nothing; they count as never detected.
        """
        self.words, self.counts, self.factors = tuple(words), None, None
        if self.known is not None:
            self.set_counts(torch.tensor([float(self.known.get(word, 0.0)) for word in words], dtype=torch.float64))
            return [word for word in words if word not in self.known]
        return []

    def set_counts(self, counts: Tensor | None) -> None:
        """Set the prior.

        Args:
            counts: (m,) float, detections of every word; None: no prior.

        Raises:
            ValueError: if there are not as many as words.

        Source: our own derivation.
        """
        if counts is not None and self.words and len(counts) != len(self.words):
            raise ValueError(f"counts of {len(counts)} words for a vocabulary of {len(self.words)}")
        self.counts = None if counts is None else counts.double().cpu()
        self.factors = None if counts is None else prior_factors(smoothed_prior(counts), self.gamma)

    def scores(self, probabilities: Tensor, objectness: Tensor, *, with_prior: bool = True) -> Tensor:
        """Compute the scores of an image's regions.

        Args:
            probabilities: (R, m) float class probabilities.
            objectness: (R,) float proposal scores.
            with_prior: False leaves the prior out, as for counting.

        Returns:
            (R, m) float.

        Source: Wang et al. 2023, UniDetector (arXiv 2303.11749), section 3.3.
        """
        factors = self.factors if with_prior and self.gamma > 0 else None
        if factors is not None and factors.device != probabilities.device:
            self.factors = factors = factors.to(probabilities.device)
        return calibrate(probabilities, objectness, factors, beta=self.beta)

    def observe(self, classes: Tensor, num_words: int) -> None:
        """Count the detections of one image that were found without the prior.

        Args:
            classes: (N,) int64 positions in the vocabulary.
            num_words: m, words of the vocabulary.

        Source: our own derivation: a mean over the images before, so that no image knows those behind it.
        """
        before = torch.zeros(num_words, dtype=torch.float64) if self.counts is None else self.counts
        counts = (1.0 if self.counting else self.decay) * before + count_classes(classes, num_words)
        if self.counting:
            self.counts = counts
        else:
            self.set_counts(counts)

    @contextmanager
    def count(self) -> Iterator[None]:
        """Count inside a ``with`` block, without a prior; the detector reports nothing there.

        Yields:
            Nothing; afterwards ``counts`` (m,) is what was counted, and not yet the prior.
        """
        self.counts, self.factors, self.counting = None, None, True
        try:
            yield
        finally:
            self.counting = False


def calibration_from_config(cfg: Any) -> Calibration | None:
    """Build what ``MODEL.CALIBRATION`` describes.

    Args:
        cfg: the config tree.

    Returns:
        The calibration; None where it is off.
    """
    node = cfg.MODEL.CALIBRATION
    if not node.ENABLED:
        return None
    known = None if node.PRIOR in PRIORS else read_prior(node.PRIOR)
    return Calibration(
        node.PRIOR if known is None else f"{node.PRIOR} ({known.source or 'of unknown source'})",
        None if known is None else known.counts,
        gamma=node.GAMMA,
        beta=node.BETA,
        decay=node.DECAY,
        count_threshold=node.COUNT_THRESHOLD,
    )


def calibration_of(model: Any) -> Calibration | None:
    """Find the calibration of a detector.

    Args:
        model: any model, not wrapped.

    Returns:
        What its region heads calibrate with; None if they do not.
    """
    return getattr(getattr(model, "roi_heads", None), "calibration", None)


def tell_calibration(roi_heads: Any, words: Any) -> None:
    """Tell the calibration of region heads, if there is one, which words they speak now.

    Args:
        roi_heads: the region heads.
        words: a vocabulary or label space, with ``names``; None: nobody knows.
    """
    calibration = getattr(roi_heads, "calibration", None)
    if calibration is None or words is None:
        return
    unknown = calibration.set_words(words.names)
    if unknown:
        logger.warning(
            "MODEL.CALIBRATION: of %d of %d words nobody has counted detections, so they pass for rare: %s%s",
            len(unknown),
            len(words.names),
            ", ".join(unknown[:5]),
            " ..." if len(unknown) > 5 else "",
        )
