"""The seesaw loss: a softmax in which frequent classes push rare ones down less, unless these are taken for them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mvseg.modeling.objectives.processes import summed_over_processes
from mvseg.modeling.objectives.region import column_targets, softmax_classification_loss
from mvseg.modeling.objectives.registry import OBJECTIVES, RegionObjective
from mvseg.modeling.objectives.targets import RegionTargets
from mvseg.modeling.precision import at_least_float32


def seesaw_logits(
    logits: Tensor,
    positions: Tensor,
    counts: Tensor,
    *,
    p: float = 0.8,
    q: float = 2.0,
    eps: float = 0.01,
    scope: Tensor | None = None,
) -> Tensor:
    """Add to the logit of every wrong column the logarithm of its two factors.

    A region of class i and another column j have the mitigation factor (N_j / N_i)^p where j is rarer, else 1, and the
    compensation factor (p_j / p_i)^q where j is more probable, else 1. The background, if there is one, is neither
    rarer nor more frequent than any class: only the compensation concerns it. That is our choice.

    Args:
        logits: (R, k) float logits, or (R, k + 1) with the background last.
        positions: (R,) int64 position of the true column, k for the background.
        counts: (k,) regions of every class so far; 0 counts as 1.
        p: exponent of the mitigation; 0: off.
        q: exponent of the compensation; 0: off.
        eps: least probability of the true column as a divisor.
        scope: (R, k) or (R, k + 1) bool, the columns that compete; None means all. The true column must be among them.

    Returns:
        Logits of the same shape, -inf out of scope; the factors have no gradient.

    Source: Wang et al. 2021 (arXiv 2008.10032), as in MMDetection.
    """
    logits = at_least_float32(logits)
    if scope is not None:
        logits = logits.masked_fill(~scope, -torch.inf)
    true = positions[:, None]
    logs = counts.clamp(min=1).to(logits.dtype).log()
    factors = torch.zeros_like(logits)
    if p > 0:
        objects = positions < len(counts)
        own = F.pad(logs, (0, 1)).gather(0, positions)[:, None]
        factors[:, : len(counts)] += p * (logs - own).clamp(max=0) * objects[:, None]
    if q > 0:
        with torch.no_grad():
            found = logits.softmax(1)
            own = found.gather(1, true).clamp(min=eps)
            factors += q * (found / own).clamp(min=1).log()
    return logits + factors.scatter(1, true, 0.0)


@OBJECTIVES.register("seesaw")
class SeesawObjective(RegionObjective):
    """Softmax over the classes in scope with mitigation and compensation.

    Whether a region shows an object is a decision of its own, and the classes learn from objects alone; or the
    background is one more class. The numbers of regions of every class are stored in checkpoints, and are those of all
    processes and of all cascade stages together.
    """

    needs_background = True
    counts: Tensor

    def __init__(
        self, num_classes: int, *, p: float = 0.8, q: float = 2.0, eps: float = 0.01, objectness: bool = True
    ) -> None:
        """Build the objective.

        Args:
            num_classes: number n of label columns.
            p: exponent of the mitigation; 0: off.
            q: exponent of the compensation; 0: off.
            eps: least probability of the true class as a divisor.
            objectness: two further columns, background and object, are a softmax of their own; False: the background is
                one more class.

        Raises:
            ValueError: if a number is out of its range.

        Source: Wang et al. 2021 (arXiv 2008.10032).
        """
        super().__init__(num_classes)
        if min(p, q) < 0 or not 0 < eps <= 1:
            raise ValueError(
                f"MODEL.LONG_TAIL: SEESAW_P {p} and SEESAW_Q {q} must not be negative, SEESAW_EPS {eps} above 0 and at "
                "most 1"
            )
        self.p, self.q, self.eps = p, q, eps
        self.objectness = self.one_background = objectness
        self.register_buffer("counts", torch.zeros(num_classes, dtype=torch.long))

    @classmethod
    def from_config(cls, cfg: Any, num_classes: int, image_count: Tensor | None) -> SeesawObjective:
        """Read ``MODEL.LONG_TAIL``.

        Args:
            cfg: the config tree.
            num_classes: number n of label columns.
            image_count: (n,) training images of every class, or None; not used.

        Returns:
            The objective.

        Raises:
            ValueError: if classes without images shall be ignored.

        Source: Wang et al. 2021 (arXiv 2008.10032).
        """
        refuse_ignored(cfg, "seesaw")
        node = cfg.MODEL.LONG_TAIL
        return cls(num_classes, p=node.SEESAW_P, q=node.SEESAW_Q, eps=node.SEESAW_EPS, objectness=node.OBJECTNESS)

    @classmethod
    def further_columns(cls, cfg: Any) -> int:
        """Say how many columns of logits the loss needs behind those of the labels.

        Args:
            cfg: the config tree.

        Returns:
            2, background and object, with ``MODEL.LONG_TAIL.OBJECTNESS``; else 1, the background.

        Source: Wang et al. 2021 (arXiv 2008.10032), as in MMDetection.
        """
        return 2 if cfg.MODEL.LONG_TAIL.OBJECTNESS else 1

    def losses(self, logits: Tensor, targets: RegionTargets, columns: Tensor | None) -> dict[str, Tensor]:
        """Count the regions, then compute ``loss_cls`` and, with objectness, ``loss_objectness``.

        Args:
            logits: (R, k + 1) float logits, background last; (R, k + 2) with objectness, background and object last.
            targets: the regions.
            columns: (k,) int64 label columns of the logits, or None for all n.

        Returns:
            Scalar tensors; each is a sum divided by R.

        Source: Wang et al. 2021 (arXiv 2008.10032).
        """
        if self.training and torch.is_grad_enabled():
            found = targets.classes.bincount(minlength=self.num_classes + 1)[: self.num_classes]
            self.counts += summed_over_processes(found)
        counts = self.counts if columns is None else self.counts[columns]
        known, weights = len(counts), targets.region_weights()
        positions = column_targets(targets.classes, columns, self.num_classes)
        scope = targets.scope_of(columns)
        if not self.objectness:
            allowed = None if scope is None else F.pad(scope, (0, 1), value=True)
            moved = self._moved(logits, positions, counts, allowed)
            return {"loss_cls": softmax_classification_loss(moved, positions, weights=weights)}
        rows = (targets.classes < self.num_classes).nonzero()[:, 0]
        moved = self._moved(logits[rows, :known], positions[rows], counts, None if scope is None else scope[rows])
        of_objects = softmax_classification_loss(
            moved, positions[rows], weights=None if weights is None else weights[rows]
        )
        shows = (targets.classes < self.num_classes).long()
        return {
            "loss_cls": of_objects * (len(rows) / max(len(logits), 1)),
            "loss_objectness": softmax_classification_loss(logits[:, known:], shows, weights=weights),
        }

    def _moved(self, logits: Tensor, positions: Tensor, counts: Tensor, scope: Tensor | None) -> Tensor:
        return seesaw_logits(logits, positions, counts, p=self.p, q=self.q, eps=self.eps, scope=scope)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Turn test logits into class probabilities.

        Args:
            logits: (R, n + 1) float logits, background last; (R, n + 2) with objectness.

        Returns:
            (R, n) float probabilities.

        Source: Wang et al. 2021 (arXiv 2008.10032), as in MMDetection.
        """
        logits = logits.float()
        if not self.objectness:
            return logits.softmax(1)[:, :-1]
        return logits[:, :-2].softmax(1) * logits[:, -2:].softmax(1)[:, 1:]


def refuse_ignored(cfg: Any, loss: str) -> None:
    """Refuse ``MODEL.CLASSIFIER.IGNORE_ZERO_CATS``, which a loss does not know.

    Args:
        cfg: the config tree.
        loss: name of the loss, for the error.

    Raises:
        ValueError: if classes without images shall be ignored.
    """
    if cfg.MODEL.CLASSIFIER.IGNORE_ZERO_CATS:
        raise ValueError(
            f"MODEL.CLASSIFIER.IGNORE_ZERO_CATS True: the loss {loss} has no classes to leave out; set it to False, or "
            "LOSS to sigmoid, federated or softmax"
        )
