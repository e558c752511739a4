"""Training of the aggregator: our own design, because the authors never released theirs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .aggregator import ExampleAggregator
from .rows import average_embeddings


@dataclass(frozen=True)
class AggregatorTraining:
    """Settings of the training.

    Args:
        steps: number of steps.
        classes: classes of a step, which are one another's negatives.
        examples: embeddings of a class in a step, drawn anew (views of examples).
        rate: largest learning rate of AdamW; a warm-up of a twentieth of the steps, then a cosine to 0.
        weight_decay: of AdamW.
        temperature: what cosines are divided by.
        target: what a row must tell its class from others by: "text" (the rows of text), "examples" (the mean of the
            class's other examples) or "both".
        layers: number of transformer layers.
        heads: number of attention heads.
        average: whether embeddings are read as they are ("raw") or at length 1 ("normalized").
        seed: of the weights and of all draws.
    """

    steps: int = 2000
    classes: int = 256
    examples: int = 5
    rate: float = 3e-4
    weight_decay: float = 0.01
    temperature: float = 0.05
    target: str = "both"
    layers: int = 4
    heads: int = 8
    average: str = "raw"
    seed: int = 42

    def __post_init__(self) -> None:
        if self.target not in ("text", "examples", "both"):
            raise ValueError(f"target {self.target!r}: choose 'text', 'examples' or 'both'")
        if min(self.steps, self.classes - 1, self.examples, self.layers, self.heads) < 1:
            raise ValueError("steps, examples, layers and heads are at least 1, classes of a step at least 2")


def contrast(rows: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Tell every row's own target from those of the other classes, and every target's own row from the others.

    Source: the symmetric contrastive loss of CLIP, Radford et al. 2021, arXiv 2103.00020, section 2.3. That the
    aggregator is trained with it is our own choice.

    Args:
        rows: (B, D) rows of B different classes.
        targets: (B, D) what they are compared with.
        temperature: what cosines are divided by.

    Returns:
        The loss, a scalar.
    """
    logits = F.normalize(rows, dim=1) @ F.normalize(targets, dim=1).T / temperature
    own = torch.arange(len(rows), device=rows.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def train_aggregator(
    embeddings: Sequence[Tensor],
    text: Tensor | None,
    settings: AggregatorTraining | None = None,
    report: Callable[[int, float], None] | None = None,
) -> tuple[ExampleAggregator, list[float]]:
    """Train an aggregator on classes with several examples each.

    In every step some classes give some of their embeddings, and the row made of them must be nearest to its own
    target: the class's row of text, or the mean of those of its embeddings that were not given.

    Args:
        embeddings: for every class the embeddings of its examples (m, D), m at least 2 for the target "examples"; or
            (m, views, D), of which one view of an example is drawn, so that no example is on both sides.
        text: rows of text (n, D); None only for the target "examples".
        settings: settings; None: the usual ones.
        report: called with the step and its loss.

    Returns:
        The aggregator in evaluation mode, and the loss of every step.

    Raises:
        ValueError: if there are too few classes or examples, or a target is missing.
    """
    settings = settings or AggregatorTraining()
    _check(embeddings, text, settings)
    generator = torch.Generator().manual_seed(settings.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = ExampleAggregator(embeddings[0].shape[-1], settings.layers, settings.heads)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.rate, weight_decay=settings.weight_decay)
    losses: list[float] = []
    for step in range(settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.rate * _schedule(step, settings.steps)
        chosen = torch.randperm(len(embeddings), generator=generator)[: settings.classes].tolist()
        given, others = _draw([embeddings[c] for c in chosen], settings, generator)
        rows = model(F.normalize(given, dim=2) if settings.average == "normalized" else given)
        targets = [] if text is None or settings.target == "examples" else [text[chosen].float()]
        targets += [others] if others is not None else []
        loss = torch.stack([contrast(rows, target, settings.temperature) for target in targets]).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        if report is not None:
            report(step, losses[-1])
    return model.eval(), losses


def _check(embeddings: Sequence[Tensor], text: Tensor | None, settings: AggregatorTraining) -> None:
    if len(embeddings) < 2:
        raise ValueError(f"an aggregator learns to tell classes apart: it needs at least 2, found {len(embeddings)}")
    if settings.target != "examples" and (text is None or len(text) != len(embeddings)):
        raise ValueError(f"target {settings.target!r} needs a row of text for each of the {len(embeddings)} classes")
    least = 1 if settings.target == "text" else 2
    few = [number for number, rows in enumerate(embeddings) if len(rows) < least]
    if few:
        raise ValueError(
            f"target {settings.target!r} needs at least {least} examples of every class, {len(few)} classes have fewer "
            f"(such as class {few[0]})"
        )


def _draw(
    embeddings: Sequence[Tensor], settings: AggregatorTraining, generator: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """Embeddings of each class to be given, (B, k, D), and the mean of its others (B, D); with few, some twice."""
    given, others = [], []
    for views in embeddings:
        rows = views if views.ndim == 3 else views[:, None]
        order = torch.randperm(len(rows), generator=generator)
        count = settings.examples
        if settings.target != "text":
            count = max(1, min(settings.examples, len(rows) // 2))
            others.append(average_embeddings(rows[order[count:]].flatten(0, 1), settings.average))
        picks = order[torch.arange(settings.examples) % min(count, len(rows))]
        view = torch.randint(rows.shape[1], (settings.examples,), generator=generator)
        given.append(rows[picks, view].float())
    return torch.stack(given), torch.stack(others) if others else None


def _schedule(step: int, steps: int) -> float:
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
