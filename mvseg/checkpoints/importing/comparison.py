"""The entries of a foreign file beside those of the model that its names tell: mapped, left over, missing."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.modeling import build_model
from tabulate import tabulate
from torch import Tensor

import mvseg.modeling  # noqa: F401  (registers the parts)
from mvseg.checkpoints.checkpointer import atomic_file
from mvseg.checkpoints.foreign import ForeignFile
from mvseg.checkpoints.readers.registry import Translation, some
from mvseg.config import get_cfg
from mvseg.data.catalog import register_dataset, unregister_card
from mvseg.vocabulary.embedding_files import save_embeddings

STATES = ("mapped", "left over", "missing")
STAND_IN = "words_of_an_import"  # dataset whose one word builds the model that names are compared with
# Entries of a model that are computed or counted: files may have or lack them.
COMPUTED = re.compile(r".*\.(num_batches_tracked|relative_position_index)|pixel_mean|pixel_std")


@dataclass(frozen=True)
class Row:
    """One line of the table: an entry of the file or of the model.

    Attributes:
        state: "mapped", "left over" or "missing".
        source: name in the file; empty if missing there.
        target: name in the model; empty if it does without.
        shape: shape of the entry.
        why: why it was left over.
    """

    state: str
    source: str
    target: str
    shape: tuple[int, ...]
    why: str = ""


def expected_state(translation: Translation) -> dict[str, Tensor]:
    """Build the model that a translation's config describes.

    Args:
        translation: what the reader found.

    Returns:
        Name to initial value of every entry that a checkpoint of the model has; any shapes, such as (N, 4).
    """
    cfg = get_cfg()
    cfg.merge_from_list([part for item in translation.config.items() for part in item])
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    node = cfg.MODEL.CLASSIFIER
    node.TEXT_ENCODER = ""
    if node.NAME != "text":
        node.LOSS = "sigmoid" if node.LOSS == "federated" else node.LOSS
        return build_model(cfg).state_dict()
    node.LOSS = "sigmoid"  # whether image counts are known does not change what a checkpoint holds
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "word.npz"
        save_embeddings(table, torch.ones(1, translation.text_width), ["word"])
        register_dataset(
            name=STAND_IN, format="coco", image_root=folder, annotations="", vocabulary=["word"], embeddings=str(table)
        )
        try:
            cfg.DATASETS.TRAIN = (STAND_IN,)
            return build_model(cfg).state_dict()
        finally:
            unregister_card(STAND_IN)


def compare(
    translation: Translation, file: ForeignFile, expected: Mapping[str, Tensor], partial: bool = False
) -> tuple[tuple[Row, ...], dict[str, Tensor]]:
    """Lay the translated entries of a file beside those of the model.

    Args:
        translation: what the reader found.
        file: the file.
        expected: name to value of every entry of the model; any shapes, such as (N, 4).
        partial: allow entries that are missing in the file, and entries of the file without a place in the model.

    Returns:
        The rows of the table, and model name to tensor of the checkpoint, in the order of the model.

    Raises:
        ValueError: if they do not fit; the message lists every kind of misfit.
    """
    mapped = {source: target for source, target in translation.names.items() if target in expected}
    homeless = [source for source in translation.names if source not in mapped]
    found: dict[str, Tensor] = {}
    wrong = []
    for source, target in mapped.items():
        value, own = file.weights[source], expected[target]
        if value.shape != own.shape:
            wrong.append(f"{source} {tuple(value.shape)}, the model's {target} is {tuple(own.shape)}")
        elif target.endswith("relative_position_index") and not torch.equal(value, own):
            wrong.append(f"{source}, whose places in a window are numbered otherwise")
        factor, _ = translation.scales.get(source, (1.0, ""))
        found[target] = value.to(own.dtype) if factor == 1.0 else (value.double() * factor).to(own.dtype)
    for join in translation.joins:
        value = joined_rows([file.weights[source] for source in join.sources])
        there = expected.get(join.target)
        if there is None or value.shape != there.shape:
            model = "the model has no such entry" if there is None else f"the model's is {tuple(there.shape)}"
            wrong.append(f"{', '.join(join.sources)}, joined {join.target} {tuple(value.shape)}, {model}")
        else:
            found[join.target] = value.to(there.dtype)
    missing = [name for name in expected if name not in found and not COMPUTED.fullmatch(name)]
    complaints = {
        f"{len(wrong)} have another shape or order": wrong,
        f"{len(missing)} of the model are missing in the file": [] if partial else missing,
        f"{len(homeless)} have no place in the model": [] if partial else homeless,
        f"{len(translation.unknown)} are of no known kind": [] if partial else list(translation.unknown),
    }
    listed = [f"\n  {what}: {some(names)}" for what, names in complaints.items() if names]
    if listed:
        advice = "" if wrong else "\nWith --partial the entries that fit are written, and the others stay out."
        raise ValueError(
            f"{file.path} looks like {'; '.join(translation.what)}. Its entries do not fit that:"
            f"{''.join(listed)}{advice}"
        )
    rows = [Row("mapped", s, t, tuple(file.weights[s].shape), _scaled(translation, s)) for s, t in mapped.items()]
    for join in translation.joins:
        first = 0
        for source in join.sources:
            shape = tuple(file.weights[source].shape)
            why = f"rows {first} to {first + shape[0] - 2}; its last row goes into the mean at the end"
            rows.append(Row("mapped", source, join.target, shape, why))
            first += shape[0] - 1
    left = {**translation.left_over, **dict.fromkeys([*homeless, *translation.unknown], "the model has no such entry")}
    rows += [Row("left over", source, "", tuple(file.weights[source].shape), why) for source, why in left.items()]
    rows += [Row("missing", "", name, tuple(expected[name].shape), "keeps its initial value") for name in missing]
    computed = {name: value for name, value in expected.items() if COMPUTED.fullmatch(name)}
    found = {**computed, **found}
    return tuple(rows), {name: found[name].contiguous() for name in expected if name in found}


def joined_rows(entries: Sequence[Tensor]) -> Tensor:
    """Put classifiers of several datasets one after the other.

    Args:
        entries: for every dataset (n_d + 1,) or (n_d + 1, D), a row for each class and a last one for the background.

    Returns:
        The n rows of all classes, and at the end the mean of the last rows, (n + 1,) or (n + 1, D).
    """
    background = torch.stack([entry[-1] for entry in entries]).mean(0, keepdim=True)
    return torch.cat([*(entry[:-1] for entry in entries), background])


def _scaled(translation: Translation, source: str) -> str:
    factor, why = translation.scales.get(source, (1.0, ""))
    return f"times {factor:.6f}: {why}" if factor != 1.0 else ""


def write_table(path: str | Path, rows: Sequence[Row]) -> None:
    """Write one line for every entry, separated by tabs.

    Args:
        path: the file to write.
        rows: the entries.
    """
    with atomic_file(path) as file:
        file.write(b"state\tfile\tmodel\tshape\twhy\n")
        for row in rows:
            shape = "x".join(map(str, row.shape)) or "scalar"
            file.write(f"{row.state}\t{row.source}\t{row.target}\t{shape}\t{row.why}\n".encode())


def count_table(rows: Sequence[Row]) -> str:
    """Count the entries of every part of the model.

    Args:
        rows: the entries.

    Returns:
        A table with one line for each part, state and reason, and the totals.
    """
    counts = Counter((_part_of(row.target or row.source), STATES.index(row.state), row.why) for row in rows)
    lines = [[part, STATES[state], count, why] for (part, state, why), count in sorted(counts.items())]
    table = tabulate(lines, headers=["part", "state", "entries", "why"], tablefmt="simple", disable_numparse=True)
    totals = Counter(row.state for row in rows)
    return table + "\n" + ", ".join(f"{totals[state]} {state}" for state in STATES)


def _part_of(name: str) -> str:
    """Two components of a name, such as "roi_heads.mask_head"; the pyramid's levels are one part."""
    first, _, rest = name.partition(".")
    second = rest.partition(".")[0]
    return f"{first}.{'pyramid' if second.startswith(('fpn_', 'top_block')) else second}"
