"""The answer to a claim: mean and spread of every arm, differences by seed, as text, Markdown and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from mvseg.checkpoints import atomic_file

from .claim import START, Claim
from .runs import Outcome


def values_by_seed(outcomes: Sequence[Outcome], arm: str, metric: str) -> dict[int, float]:
    """Collect a number of an arm; of an arm with several trainings, the one that has it gives it.

    Args:
        outcomes: of all runs.
        arm: name of the arm.
        metric: "test set/task/metric".

    Returns:
        Seed to value; seeds without the number are left out.
    """
    found: dict[int, float] = {}
    for outcome in outcomes:
        value = outcome.value(metric)
        if outcome.run.arm == arm and value is not None:
            found[outcome.run.seed] = value
    return dict(sorted(found.items()))


def sign_test(wins: int, losses: int) -> float:
    """Give the two-sided p-value of the sign test: how surprising so uneven a split would be by chance alone.

    Args:
        wins: pairs in which the one is higher.
        losses: pairs in which the other is higher; ties are left out.

    Returns:
        Probability, 1 if there are no pairs.
    """
    n = wins + losses
    tail = sum(math.comb(n, k) for k in range(max(wins, losses), n + 1)) / 2**n
    return min(1.0, 2 * tail)


def spread(values: Sequence[float]) -> str:
    """Write mean and range.

    Args:
        values: the values of the seeds.

    Returns:
        Such as "41.3 (40.1 to 42.6)".
    """
    if not values:
        return "-"
    mean = sum(values) / len(values)
    return f"{mean:.1f}" if len(values) == 1 else f"{mean:.1f} ({min(values):.1f} to {max(values):.1f})"


def arm_table(claim: Claim, outcomes: Sequence[Outcome], style: str = "simple") -> str:
    """Write mean and range of every arm.

    Args:
        claim: the claim.
        outcomes: of all runs.
        style: of the package tabulate.

    Returns:
        A table.
    """
    rows = []
    for arm in _arms(claim, outcomes):
        seeds = {outcome.run.seed for outcome in outcomes if outcome.run.arm == arm and outcome.done}
        seconds = [o.done["seconds"] for o in outcomes if o.run.arm == arm and o.done]
        cells = [spread(list(values_by_seed(outcomes, arm, metric).values())) for metric in claim.metrics]
        rows.append([arm, str(len(seeds)), *cells, f"{sum(seconds) / max(len(seeds), 1):.0f}"])
    return tabulate(rows, ["arm", "seeds", *claim.metrics, "s a seed"], style, disable_numparse=True)


def difference_table(claim: Claim, outcomes: Sequence[Outcome], style: str = "simple") -> str:
    """Write how every arm differs from the baseline, seed by seed.

    Args:
        claim: the claim.
        outcomes: of all runs.
        style: of the package tabulate.

    Returns:
        A table; an empty text if there is nothing to compare.
    """
    rows = []
    for arm in _arms(claim, outcomes):
        for metric in claim.metrics:
            base = values_by_seed(outcomes, claim.baseline, metric)
            own = values_by_seed(outcomes, arm, metric)
            pairs = [own[seed] - base[seed] for seed in own if seed in base]
            if arm in (claim.baseline, START) or not pairs:
                continue
            wins, losses = sum(d > 0 for d in pairs), sum(d < 0 for d in pairs)
            mean = sum(pairs) / len(pairs)
            higher = f"{wins} of {len(pairs)}"
            rows.append([f"{arm} - {claim.baseline}", metric, f"{mean:+.1f}", higher, f"{sign_test(wins, losses):.2f}"])
    headers = ["difference", "metric", "mean", "seeds higher", "sign test p"]
    return tabulate(rows, headers, style, disable_numparse=True) if rows else ""


def hint(outcomes: Sequence[Outcome]) -> str:
    """Say what the p-values can show at all.

    Args:
        outcomes: of all runs.

    Returns:
        One sentence.
    """
    seeds = len({outcome.run.seed for outcome in outcomes if outcome.done and outcome.run.arm != START})
    if not seeds:
        return "No run is done."
    least = sign_test(seeds, 0)
    return f"With {seeds} seed{'s' if seeds != 1 else ''} the sign test cannot fall below p = {least:.2f}: " + (
        "look at the ranges, and add seeds (--seeds) for a firmer answer." if least > 0.05 else "small p counts."
    )


def _arms(claim: Claim, outcomes: Sequence[Outcome]) -> list[str]:
    tried = {outcome.run.arm for outcome in outcomes}
    return [arm for arm in (START, *claim.arms) if arm in tried]


def write_tables(claim: Claim, outcomes: Sequence[Outcome], folder: Path) -> tuple[Path, Path]:
    """Write the answer as Markdown and every number as CSV.

    Args:
        claim: the claim.
        outcomes: of all runs.
        folder: where to.

    Returns:
        The two files.
    """
    markdown, table = folder / f"{claim.name}.md", folder / f"{claim.name}.csv"
    done = [outcome for outcome in outcomes if outcome.done]
    facts = {key: sorted({str(o.done[key]) for o in done if o.done}) for key in ("code", "machine")}
    dates = sorted(str(o.done["date"])[:10] for o in done if o.done)
    lines = [
        f"# {claim.name}", "", claim.question, "", arm_table(claim, outcomes, "pipe"), "",
        difference_table(claim, outcomes, "pipe"), "", "Mean and range over the seeds. " + hint(outcomes), "",
        f"- config: `{claim.config}`" + (f" with `{claim.overrides}`" if claim.overrides else ""),
        *(f"- arm {arm}: `{overrides}`" for arm, overrides in claim.arms.items() if arm in _arms(claim, outcomes)),
        *([f"- all arms go on from the training start: `{claim.start}`"] if claim.start is not None else []),
        f"- code: {', '.join(facts['code'])}", f"- machine: {', '.join(facts['machine'])}",
        f"- date: {dates[0]} to {dates[-1]}" if dates else "- no run is done",
        *(f"- {o.run.title}: {o.error.splitlines()[0]}" for o in outcomes if o.error), "",
    ]  # fmt: skip
    with atomic_file(markdown) as file:
        file.write("\n".join(lines).encode())
    with atomic_file(table) as file:
        file.write(_csv(claim, done).encode())
    return markdown, table


def _csv(claim: Claim, done: Sequence[Outcome]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["arm", "part", "seed", "metric", "value", "seconds", "key", "code", "date"])
    for outcome in done:
        run, facts = outcome.run, outcome.done or {}
        for metric in claim.metrics:
            value = outcome.value(metric)
            if value is not None:
                row = [run.arm, run.part, run.seed, metric, f"{value:.4f}", facts["seconds"], run.key, facts["code"]]
                writer.writerow([*row, facts["date"]])
    return text.getvalue()
