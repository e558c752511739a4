"""Objectives by name and by the kind of supervision that they can use."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

from mvseg.modeling.objectives.targets import RegionTargets

DEFAULT_KEY = "MODEL.CLASSIFIER.LOSS"
T = TypeVar("T", bound="type[RegionObjective]")


class RegionObjective(nn.Module):
    """Turns class logits of regions into losses; a subclass is one way to learn from an annotation.

    The detector first asks which label columns the loss needs, computes only their logits, then asks for the losses.
    """

    needs_background = False  # the classifier shall append a background column
    multi_label = False  # it learns the further positive columns of a region (RegionTargets.positives_of)
    grouped = False  # it learns from columns that are one answer (RegionTargets.groups_of)
    draws_columns = False  # it draws the negative columns itself, by the image counts of the classes
    counts_images = False  # it needs the image counts of the classes, from the vocabulary or the training records
    one_background = False  # it decides for all columns at once whether a region shows an object
    # Name to two losses, of all stages: how large the first is beside the second is worth watching in TensorBoard.
    watched_ratios: ClassVar[Mapping[str, tuple[str, str]]] = {}

    def __init__(self, num_classes: int) -> None:
        """Build the objective.

        Args:
            num_classes: number n of label columns.
        """
        super().__init__()
        self.num_classes = num_classes

    @classmethod
    def from_config(cls, cfg: Any, num_classes: int, image_count: Tensor | None) -> RegionObjective:
        """Build the objective that a config describes.

        Args:
            cfg: the config tree.
            num_classes: number n of label columns.
            image_count: (n,) training images of every class, or None where they are not known.

        Returns:
            The objective.

        Source: our own derivation.
        """
        return cls(num_classes)

    @classmethod
    def further_columns(cls, cfg: Any) -> int:
        """Say how many columns of logits the loss needs behind those of the labels.

        Args:
            cfg: the config tree.

        Returns:
            0, or 1 for the background, or more: the background is the first of them.

        Source: our own derivation.
        """
        return int(cls.needs_background)

    def set_test_columns(self, columns: Tensor | Sequence[Tensor] | None) -> None:
        """Hear which label columns the logits of the evaluation mode belong to, where the classifier is a closed set.

        Args:
            columns: (m,) int64 label columns, or those (k,) of each of m words; None: all n.

        Source: our own derivation.
        """

    def columns(self, targets: RegionTargets) -> Tensor | None:
        """Choose the label columns whose logits the loss needs; called once per cascade stage.

        Args:
            targets: the regions.

        Returns:
            (k,) int64 label columns, or None for all n.

        Source: our own derivation.
        """
        if targets.scope is None or bool(targets.scope.all()):
            return None
        wanted = targets.relevant_columns()
        return None if wanted is None else wanted.nonzero()[:, 0]

    def losses(self, logits: Tensor, targets: RegionTargets, columns: Tensor | None) -> dict[str, Tensor]:
        """Compute the losses.

        Args:
            logits: (R, k) float logits of the columns; (R, k + 1) with ``needs_background``, background last.
            targets: the regions.
            columns: (k,) int64, what ``columns`` returned.

        Returns:
            Loss name to scalar tensor; the detector appends the cascade stage to the names.

        Raises:
            NotImplementedError: always, in this base class.

        Source: our own derivation.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define losses()")

    def losses_of_features(
        self, classifier: Callable[..., Tensor], features: Tensor, targets: RegionTargets, columns: Tensor | None
    ) -> dict[str, Tensor]:
        """Compute the losses with the classifier of a stage, for objectives that need more of it than logits.

        Args:
            classifier: gives the logits (R, k) of features and columns.
            features: (R, input_size) float region features.
            targets: the regions.
            columns: (k,) int64, what ``columns`` returned.

        Returns:
            Loss name to scalar tensor.

        Source: our own derivation.
        """
        return self.losses(classifier(features, columns), targets, columns)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Turn test logits into class probabilities.

        Args:
            logits: (R, n) float logits; (R, n + 1) with ``needs_background``.

        Returns:
            (R, n) float probabilities.

        Source: our own derivation.
        """
        return logits.float().sigmoid()


class ObjectiveRegistry:
    """Objective classes by name, each with the kinds of supervision that it can use."""

    def __init__(self) -> None:
        self._classes: dict[str, type[RegionObjective]] = {}
        self._kinds: dict[str, tuple[str, ...]] = {}

    def register(self, name: str, supervision: tuple[str, ...] = ("boxes", "masks")) -> Callable[[T], T]:
        """Register an objective class; use as a decorator.

        Args:
            name: value of ``MODEL.CLASSIFIER.LOSS`` (of ``MODEL.IMAGE_LABELS.LOSS`` for tags) that picks it.
            supervision: kinds of annotation that it can use.

        Returns:
            The decorator.

        Raises:
            ValueError: if another class has the name.
        """

        def add(cls: T) -> T:
            known = self._classes.get(name)
            if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
                raise ValueError(
                    f"objective {name!r} is already {known.__module__}.{known.__qualname__}; "
                    f"give {cls.__module__}.{cls.__qualname__} another name"
                )
            self._classes[name] = cls
            self._kinds[name] = tuple(supervision)
            return cls

        return add

    def names(self, supervision: str | None = None) -> list[str]:
        """List what is registered.

        Args:
            supervision: only objectives that can use this kind; None lists all.

        Returns:
            Names, sorted.
        """
        return sorted(n for n, kinds in self._kinds.items() if supervision is None or supervision in kinds)

    def kinds(self) -> list[str]:
        """List the kinds of supervision that some objective can use.

        Returns:
            Kinds, sorted.
        """
        return sorted({kind for kinds in self._kinds.values() for kind in kinds})

    def get(self, name: str, supervision: str | None = None, key: str = DEFAULT_KEY) -> type[RegionObjective]:
        """Look up an objective class.

        Args:
            name: its name.
            supervision: kind of annotation that it must be able to use; None does not check.
            key: config key that named it, for the error.

        Returns:
            The class.

        Raises:
            KeyError: if there is none of that name, or it cannot use the supervision.
        """
        if name not in self._classes:
            near = difflib.get_close_matches(name, self.names(supervision), n=1)
            hint = f"; nearest: {near[0]}" if near else ""
            raise KeyError(f"{key} {name!r} is no objective; there are {', '.join(self.names(supervision))}{hint}")
        if supervision is not None and supervision not in self._kinds[name]:
            able = ", ".join(self.names(supervision)) or "none"
            raise KeyError(
                f"objective {name!r} cannot learn from {supervision!r} annotation (it uses "
                f"{', '.join(self._kinds[name])}); objectives that can: {able}"
            )
        return self._classes[name]


OBJECTIVES = ObjectiveRegistry()
LOSS_KEYS = {
    "tags": "MODEL.IMAGE_LABELS.LOSS",
    "captions": "MODEL.CAPTIONS.LOSS",
}  # kinds of supervision whose objective another key picks


def chosen_objectives(cfg: Any) -> dict[str, str]:
    """Read which objective learns from which kind of supervision.

    Args:
        cfg: the config tree; ``MODEL.CLASSIFIER.LOSS`` names the objective of regions with known places,
            ``MODEL.IMAGE_LABELS.LOSS`` that of image tags, ``MODEL.CAPTIONS.LOSS`` that of captions.

    Returns:
        Kind of supervision to name of its objective; kinds that share one are together, those with places first.

    Raises:
        KeyError: if a key names an objective that does not exist, or one for another kind of supervision.

    Source: our own derivation.
    """
    own_keys = {"tags": cfg.MODEL.IMAGE_LABELS.LOSS, "captions": cfg.MODEL.CAPTIONS.LOSS}
    chosen = {}
    for kind in sorted(OBJECTIVES.kinds(), key=lambda kind: (kind in LOSS_KEYS, kind)):
        name = own_keys.get(kind, cfg.MODEL.CLASSIFIER.LOSS)
        OBJECTIVES.get(name, kind if kind in LOSS_KEYS else None, LOSS_KEYS.get(kind, DEFAULT_KEY))
        if name in OBJECTIVES.names(kind):
            chosen[kind] = name
    if not set(chosen) - set(LOSS_KEYS):
        OBJECTIVES.get(cfg.MODEL.CLASSIFIER.LOSS, "boxes")
    return chosen


def build_objectives(cfg: Any, num_classes: int, image_count: Tensor | None) -> dict[str, RegionObjective]:
    """Build the objective of every kind of supervision that the chosen losses can use.

    Args:
        cfg: the config tree; see ``chosen_objectives``.
        num_classes: number n of label columns.
        image_count: (n,) training images of every class, or None where they are not known.

    Returns:
        Kind of supervision to objective; kinds that share an objective share the object.

    Raises:
        ValueError: if averages over images are wanted of a loss that does not make them.

    Source: our own derivation.
    """
    chosen = chosen_objectives(cfg)
    built = {name: OBJECTIVES.get(name).from_config(cfg, num_classes, image_count) for name in set(chosen.values())}
    loss, average = cfg.MODEL.CLASSIFIER.LOSS, cfg.MODEL.CLASSIFIER.AVERAGE
    if loss in built and average != getattr(built[loss], "average", "regions"):
        raise ValueError(
            f"MODEL.CLASSIFIER.AVERAGE {average!r}: the loss {loss} is divided in its own way; set AVERAGE regions, or "
            "LOSS to one that averages over images, such as sigmoid"
        )
    return {kind: built[name] for kind, name in chosen.items()}
