"""The sections of the report, each made from a run and its words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mvseg.evaluation.summary import PER_CLASS
from mvseg.report.charts import bar_rows, color_of, line_chart, number
from mvseg.report.html import NONE, escape, note, section, table
from mvseg.report.run import Metrics, Run, Series
from mvseg.report.similarity import similarity_figure
from mvseg.report.words import Words, closest_pairs, shared_words

SHOWN_PER_CLASS = ("AP-", "IoU-")  # of the metrics of single classes, those that are shown class by class
# Task of an evaluator -> heading, and the metrics that stand for it, the first that exists.
TASKS: dict[str, tuple[str, tuple[str, ...]]] = {
    "bbox": ("Boxes", ("AP", "AP50", "mAP")),
    "segm": ("Masks", ("AP", "AP50")),
    "sem_seg": ("Semantic maps", ("mIoU",)),
    "panoptic_seg": ("Panoptic maps", ("PQ",)),
    "loss": ("Validation loss", ("total",)),
}
LISTED = 15  # best and worst classes
OPENED = 3  # pictures shown at once; the others unfold
GROUPS = {"base": 0, "novel": 1, "f": 0, "c": 2, "r": 1, "": 0}
GROUP_NAMES = {"f": "frequent", "c": "common", "r": "rare"}


def main_metric(metrics: Metrics) -> tuple[str, str, float] | None:
    """Choose the one number that stands for the results of a test set.

    Args:
        metrics: task to metric to value.

    Returns:
        (heading of the task, metric, value); None if there is none.
    """
    for task in [*TASKS, *(t for t in metrics if t not in TASKS)]:
        title, preferred = TASKS.get(task, (task, ()))
        values = metrics.get(task) or {}
        for name in (*preferred, *(n for n in values if not n.startswith(PER_CLASS))):
            value = values.get(name)
            if task != "loss" and value is not None:
                return title, name, value
    return None


def results_section(run: Run, words: Words) -> str:
    """Write the results: one tile for each test set, then a table for each task.

    Args:
        run: the run.
        words: its words.

    Returns:
        HTML.
    """
    if not run.results:
        return section("results", "Results", note("No evaluation has been written yet: results.json is missing."))
    tiles = "".join(_tile(name, metrics, words) for name, metrics in run.results.items())
    tables = []
    order = [*TASKS, *dict.fromkeys(t for m in run.results.values() for t in m if t not in TASKS)]
    for task in order:
        rows = {name: _overall(metrics[task]) for name, metrics in run.results.items() if metrics.get(task)}
        columns = list(dict.fromkeys(metric for values in rows.values() for metric in values))
        if columns:
            tables.append(f"<h3>{escape(TASKS.get(task, (task,))[0])}</h3>" + _metric_table(task, rows, columns, words))
    when = "" if run.evaluated_at is None else f" after iteration {run.evaluated_at + 1}"
    lead = f"Each test set with its own words and its own metric{when}; in percent, higher is better."
    return section("results", "Results", f'<div class="tiles">{tiles}</div>', *tables, lead=lead)


def _overall(values: Mapping[str, float | None]) -> dict[str, float | None]:
    return {name: value for name, value in values.items() if not name.startswith(PER_CLASS)}


def _tile(name: str, metrics: Metrics, words: Words) -> str:
    chosen = main_metric(metrics)
    value, label = (NONE, "no result") if chosen is None else (f"{chosen[2]:.1f}", f"{chosen[0]}, {chosen[1]}")
    second = ""
    for task, title in (("bbox", "boxes"), ("segm", "masks")):
        other = (metrics.get(task) or {}).get("AP50")
        if other is not None and chosen is not None and (title, chosen[1]) != ("boxes", "AP50"):
            second += f"<span>{title} AP50 {other:.1f}</span>"
    new = words.new_words(name)
    if new:
        second += f'<span class="new">{len(new)} of {len(words.test[name])} words new</span>'
    return (
        f'<div class="tile"><div class="name">{escape(name)}</div><div class="big">{value}</div>'
        f'<div class="metric">{escape(label)}</div><div class="more">{second}</div></div>'
    )


def _metric_table(
    task: str, rows: Mapping[str, Mapping[str, float | None]], columns: Sequence[str], words: Words
) -> str:
    preferred = next((metric for metric in TASKS.get(task, ("", ()))[1] if metric in columns), columns[0])
    body = []
    for name, values in rows.items():
        cells = [escape(name), _words_cell(name, words)]
        for metric in columns:
            value = values.get(metric)
            text = NONE if value is None else (number(value) if task == "loss" else f"{value:.1f}")
            cells.append(f"<b>{text}</b>" if metric == preferred else text)
        body.append(cells)
    return table(["test set", "words", *columns], body)


def _words_cell(name: str, words: Words) -> str:
    plain = name.removesuffix(" (EMA)")
    if plain not in words.test:
        return NONE
    new = words.new_words(plain)
    return str(len(words.test[plain])) + (f" ({len(new)} new)" if new else "")


def curves_section(run: Run) -> str:
    """Draw the losses, the learning rate and the metrics of every evaluation.

    Args:
        run: the run.

    Returns:
        HTML.
    """
    if not run.scalars:
        return section("curves", "Training", note("No curves: metrics.json is missing or empty."))
    figures = [line_chart({"total loss": run.scalars.get("total_loss", [])}, "Total loss")]
    figures += _metric_charts(run)
    figures += [line_chart(series, title) for title, series in _loss_parts(run.scalars).items()]
    figures.append(line_chart({"learning rate": run.scalars.get("lr", [])}, "Learning rate"))
    figures.append(line_chart({"seconds": run.scalars.get("time", [])}, "Time of an iteration", unit="s"))
    lead = "Medians over 20 iterations; hover over a curve for its values."
    return section("curves", "Training", f'<div class="grid2">{"".join(figures)}</div>', lead=lead)


def _loss_parts(scalars: Mapping[str, Series]) -> dict[str, dict[str, Series]]:
    """Group losses by what they are about: the word behind ``loss_``."""
    groups: dict[str, dict[str, Series]] = {}
    for name in sorted(scalars):
        if name.startswith("loss_"):
            part = name.removeprefix("loss_")
            groups.setdefault(f"Loss: {part.split('_')[0]}", {})[part.replace("_", " ")] = scalars[name]
    alone = {title: series for title, series in groups.items() if len(series) == 1}
    if len(alone) > 1:  # single losses share one figure
        merged = {name: curve for series in alone.values() for name, curve in series.items()}
        groups = {title: series for title, series in groups.items() if title not in alone}
        groups["Loss: other parts"] = merged
    return groups


def _metric_charts(run: Run) -> list[str]:
    charts = []
    for task, (title, preferred) in TASKS.items():
        series: dict[str, Series] = {}
        for name in [*run.test_sets, *(f"ema/{n}" for n in run.test_sets)]:
            metric = next((m for m in preferred if f"{name}/{task}/{m}" in run.scalars), None)
            if metric is not None:
                label = f"{name.removeprefix('ema/')} (EMA)" if name.startswith("ema/") else name
                series[f"{label} {metric}"] = run.scalars[f"{name}/{task}/{metric}"]
        if any(len(curve) > 1 for curve in series.values()):  # one evaluation is no curve; the tables have it
            charts.append(line_chart(series, f"Evaluation: {title.lower()}", points=True))
    return charts


def classes_section(run: Run, words: Words) -> str:
    """Draw the AP of every class, or of the best and the worst of many.

    Args:
        run: the run.
        words: its words.

    Returns:
        HTML; an empty text if no evaluator gave values for classes.
    """
    parts = []
    for name, metrics in run.results.items():
        for task, values in metrics.items():
            classes = [(key.split("-", 1)[1], v) for key, v in values.items() if key.startswith(SHOWN_PER_CLASS)]
            if classes and (task == "bbox" or "bbox" not in metrics):
                title = f"{escape(name)} <span class='unit'>{escape(TASKS.get(task, (task,))[0])}</span>"
                parts.append(f'<div class="card"><h3>{title}</h3>{_class_bars(name, classes, words)}</div>')
    if not parts:
        return ""
    lead = "AP (IoU of semantic maps) in percent; classes without an object in the test set are at the end."
    return section("classes", "Every class", f'<div class="grid2">{"".join(parts)}</div>', lead=lead)


def _class_bars(dataset: str, classes: list[tuple[str, float | None]], words: Words) -> str:
    groups = class_groups(dataset, words)
    found = sorted(((w, v) for w, v in classes if v is not None), key=lambda pair: -pair[1])
    empty = [(w, v) for w, v in classes if v is None]
    rows = [(w, v, color_of(GROUPS.get(groups.get(w, ""), 0))) for w, v in [*found, *empty]]
    if len(rows) > 2 * LISTED + 4:
        tested = rows[: len(found)]
        shown = (
            f"<h4>best {LISTED}</h4>{bar_rows(tested[:LISTED])}<h4>worst {LISTED} of {len(tested)} with objects</h4>"
            f"{bar_rows(tested[-LISTED:])}"
        )
    else:
        shown = bar_rows(rows)
    return _group_line(found, groups) + shown


def class_groups(dataset: str, words: Words) -> dict[str, str]:
    """Say of every word of a test set whether it is base or novel, or how frequent it is in training.

    Args:
        dataset: name of the test set.
        words: the run's words.

    Returns:
        Word to "r", "c", "f", "base" or "novel"; empty if nothing of that is known.
    """
    vocabulary = words.test.get(dataset.removesuffix(" (EMA)"))
    if vocabulary is None:
        return {}
    if vocabulary.frequency is not None:
        return dict(zip(vocabulary.names, vocabulary.frequency))
    if any(vocabulary.novel):
        return {word: "novel" if novel else "base" for word, novel in zip(vocabulary.names, vocabulary.novel)}
    new = set(words.new_words(dataset.removesuffix(" (EMA)")) or ())
    return {word: "novel" if word in new else "base" for word in vocabulary.names} if new else {}


def _group_line(found: Sequence[tuple[str, float | None]], groups: Mapping[str, str]) -> str:
    parts = []
    for group in dict.fromkeys(groups.values()):
        values = [v for w, v in found if groups.get(w) == group and v is not None]
        mean = f"mean {sum(values) / len(values):.1f}" if values else "no object"
        swatch = f'<i style="background:{color_of(GROUPS.get(group, 0))}"></i>'
        parts.append(f"<span>{swatch}{GROUP_NAMES.get(group, group)}: {mean} ({len(values)} classes)</span>")
    return f'<div class="legend">{"".join(parts)}</div>' if parts else ""


def pictures_section(run: Run, uris: Mapping[Path, str]) -> str:
    """Show the pictures of predictions and of training data.

    Args:
        run: the run.
        uris: picture file to its data URI.

    Returns:
        HTML.
    """
    parts = []
    for title, names in (
        ("Predictions", {name: name for name in run.test_sets}),
        ("Training data as the model sees it", {name: f"train_{name}" for name in run.train_sets}),
    ):
        figures: list[str] = []
        for name, stem in names.items():
            path = run.picture(stem)
            if path is not None and path in uris:
                opened = " open" if len(figures) < OPENED else ""
                figures.append(
                    f'<details class="picture"{opened}><summary>{escape(name)}</summary>'
                    f'<img src="{uris[path]}" alt="{escape(title)}: {escape(name)}" loading="lazy"></details>'
                )
        parts.append(f"<h3>{title}</h3>" + ("".join(figures) or note("No pictures were written.")))
    lead = "Left of each pair the annotations, right the predictions; the same word has the same colour everywhere."
    return section("pictures", "Pictures", *parts, lead=lead)


def words_section(run: Run, words: Words) -> str:
    """Show the label space: how alike the words are, which are shared, and which are new at test time.

    Args:
        run: the run.
        words: its words.

    Returns:
        HTML.
    """
    groups = words.groups
    if not groups:
        return section("words", "Words", note("The vocabularies of the training sets could not be looked up."))
    total = sum(len(vocabulary) for vocabulary in groups.values())
    parts = [similarity_figure(groups) or note("The words have no text embeddings, so there is no similarity map.")]
    shared = shared_words(groups)
    right = []
    if shared:
        rows = [[escape(word), escape("; ".join(owners))] for word, owners in shared[:LISTED]]
        more = f"<p class='unit'>and {len(shared) - LISTED} more</p>" if len(shared) > LISTED else ""
        right.append(f"<h3>Words of several datasets ({len(shared)})</h3>" + table(["word", "in"], rows, 9) + more)
    elif len(groups) > 1:
        right.append("<h3>Words of several datasets</h3>" + "<p>No word is in two training sets.</p>")
    pairs = closest_pairs(groups)
    if pairs:
        rows = [[f"{escape(a)} / {escape(b)}", f"{value:.2f}"] for value, _, a, _, b in pairs]
        right.append("<h3>Most alike across datasets</h3>" + table(["two words, spelt differently", "cosine"], rows))
    right += [
        f"<h3>New at test time: {escape(name)} ({len(new)})</h3><p>{escape(', '.join(new[:60]))}"
        f"{f' and {len(new) - 60} more' if len(new) > 60 else ''}</p>"
        for name in words.test
        if (new := words.new_words(name))
    ]
    lead = f"{total} words of {len(groups)} training {'vocabularies' if len(groups) > 1 else 'vocabulary'}."
    for key, text in (("DATASETS.LABEL_SPACE", "Label space"), ("MODEL.ANNOTATION_SCOPE", "Annotation scope")):
        value = run.setting(key)
        lead += f" {text}: {value}." if value else ""
    body = f'<div class="split"><div>{"".join(parts)}</div><div>{"".join(right)}</div></div>'
    return section("words", "Words", body, lead=lead)


def run_section(run: Run, changed: Mapping[str, Any], missing: Sequence[str]) -> str:
    """Say what was run: command, versions, the config; and what this report lacks.

    Args:
        run: the run.
        changed: config keys that differ from their defaults, with their values.
        missing: what could not be shown.

    Returns:
        HTML.
    """
    parts = []
    for session in run.sessions:
        versions = ", ".join(f"{k} {v}" for k, v in (session.get("versions") or {}).items())
        rows = [
            ("started", session.get("started")), ("command", _command(session)), ("code", session.get("code")),
            ("machine", session.get("machine")), ("python", session.get("python")),
            ("detectron2", session.get("detectron2")), ("packages", versions),
        ]  # fmt: skip
        cells = [[escape(k), f"<code>{escape(v)}</code>" if k == "command" else escape(v)] for k, v in rows if v]
        parts.append(table(["", ""], cells, 9, "facts"))
    if not run.sessions:
        parts.append(note("When and how the run was started is not recorded (run.json is missing)."))
    if changed:
        settings = [[f"<code>{escape(key)}</code>", f"<code>{escape(value)}</code>"] for key, value in changed.items()]
        title = f"{len(changed)} settings that differ from the defaults"
        parts.append(f"<details><summary>{title}</summary>{table(['key', 'value'], settings, 9)}</details>")
    if run.config_text:
        parts.append(f"<details><summary>The whole config</summary><pre>{escape(run.config_text)}</pre></details>")
    if missing:
        items = "".join(f"<li>{escape(text)}</li>" for text in missing)
        parts.append(f"<h3>Not in this report</h3><ul>{items}</ul>")
    return section("run", "The run", *parts)


def _command(session: Mapping[str, Any]) -> str:
    return " ".join(str(part) for part in session.get("command") or ())
