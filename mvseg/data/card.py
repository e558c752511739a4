"""A dataset card: one YAML file, or the same fields in Python, that says what a dataset is and where its files lie."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from mvseg.vocabulary import Vocabulary, builtin_tables, did_you_mean, read_table
from mvseg.vocabulary.embedding_files import read_embeddings
from mvseg.vocabulary.embeddings import check_embeddings

from .supervision import check_supervision

# What cards can name under ``evaluator``; mvseg.evaluation.register_evaluator adds to it.
EVALUATORS = ["coco", "lvis", "openimages", "voc", "proposals", "sem_seg", "coco_panoptic_seg", "none"]
# Evaluator -> keys that a card of any format may set under ``options`` for it, with what they mean.
EVALUATOR_OPTIONS: dict[str, dict[str, str]] = {
    "voc": {"measure": "2007: mean precision at 11 recalls; 2012: area under the curve; left out: 2012"},
    "lvis": {"fixed_ap": "detections of a class that count over the whole test set; adds fixed AP to the results"},
}
# Format -> supervision and evaluator of a card that names none; formats that are not listed: boxes, coco.
FORMAT_DEFAULTS = {
    "lvis": ("boxes", "lvis"),
    "openimages": ("boxes", "openimages"),
    "image_folder": ("tags", "none"),
    "semantic": ("semantic", "sem_seg"),
    "instance_maps": ("masks", "coco"),
    "coco_panoptic": ("panoptic", "coco_panoptic_seg"),
    "coco_captions": ("captions", "none"),
    "coco_image_labels": ("tags", "none"),
    "caption_table": ("captions", "none"),
    "tar_shards": ("tags", "none"),
    "phrases": ("phrases", "none"),
}
FORMATS_WITHOUT_FILE = ("image_folder", "tar_shards")  # the annotations may lie with the images
FILTER_FIELDS = ("frequency", "novel")


def datasets_root() -> Path:
    """Find the folder that relative paths of cards start from.

    Returns:
        ``$DETECTRON2_DATASETS``, or ``datasets`` in the working folder.
    """
    return Path(os.environ.get("DETECTRON2_DATASETS", "datasets"))


@dataclass(frozen=True)
class DatasetCard:
    """What a dataset is and where its files lie.

    Args:
        name: name in ``cfg.DATASETS``.
        format: format of the annotations, such as "coco"; see :data:`mvseg.data.sources.FORMATS`.
        image_root: folder of the images, absolute or relative to ``$DETECTRON2_DATASETS``.
        annotations: the main annotation file, or the folder of them (voc, semantic), absolute or relative likewise;
            empty where the format does without (image_folder, tar_shards).
        files: further files of formats that have several, role to path, such as ``{hierarchy: oid/hierarchy.json}``.
        options: settings of the format or the evaluator, such as ``{label_offset: 1}``.
        supervision: such as "boxes" or "masks"; see :mod:`mvseg.data.supervision`; empty: what the format usually has.
        vocabulary: name of a built-in table ("coco", "lvis_v1", "voc"), a file of names, a list of names, or
            ``{name: ..., names: [...]}``, or the things or the stuff of a table, ``{table: ade20k_150, kind: thing}``;
            None: the categories of the annotation file, in the order of their ids.
        embeddings: file of text embeddings in the order of the vocabulary, or ``{file: ..., rows: ...}`` with the
            built-in table or file of names that the rows follow; or a list of these, all of one text encoder: every
            word comes from the first table that has it.
        evaluator: "coco", "lvis", "openimages", "voc", "proposals", "sem_seg", "coco_panoptic_seg", or "none" for a set
            that is only trained on; empty: by the format.
        split: file that lists the images to use, one a line (name with or without ending); None: all.
        aliases: category name in the annotation file -> word of the vocabulary.
        ignore: category names whose annotations are left out.
        filter: keeps only annotations of some classes: ``{frequency: [c, f]}`` or ``{novel: false}``.
        prepare: how to get the files; shown when one is missing.
        proposals: folder of stored proposals, absolute or relative to ``$DETECTRON2_DATASETS``; empty: none.
        crop_embeddings: folder of a teacher's embeddings of crops, likewise; empty: none.
        source: the card's own file, if it has one.

    Raises:
        ValueError: if a field is missing or has a value that does not exist.
    """

    name: str
    format: str
    image_root: str
    annotations: str = ""
    supervision: str = ""
    vocabulary: str | list[str] | dict[str, Any] | None = None
    embeddings: str | dict[str, str] | list[dict[str, str]] | None = None
    evaluator: str = ""
    split: str | None = None
    aliases: dict[str, str] = field(default_factory=dict)
    ignore: list[str] = field(default_factory=list)
    filter: dict[str, Any] = field(default_factory=dict)
    prepare: str = ""
    proposals: str = ""
    crop_embeddings: str = ""
    files: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    source: Path | None = None

    def __post_init__(self) -> None:
        for key in ("name", "format", "image_root", "annotations"):
            value = getattr(self, key)
            if not isinstance(value, str | Path) or not (str(value) or key == "annotations"):
                raise ValueError(f"{self.where}: {key} must be a non-empty text, not {value!r}")
            object.__setattr__(self, key, str(value))
        supervision, evaluator = FORMAT_DEFAULTS.get(self.format, ("boxes", "coco"))
        if self.supervision in ("tags", "captions", "phrases"):
            evaluator = "none"  # whatever the format has for its boxes
        object.__setattr__(self, "supervision", self.supervision or supervision)
        object.__setattr__(self, "evaluator", self.evaluator or evaluator)
        check_supervision(self.supervision, self.where)
        if self.evaluator not in EVALUATORS:
            raise ValueError(
                f"{self.where}: unknown evaluator {self.evaluator!r}{did_you_mean(self.evaluator, EVALUATORS)}"
            )
        mappings = dict.fromkeys(("aliases", "filter", "files", "options"), Mapping)
        for key, kind in (*mappings.items(), ("ignore", list | tuple)):
            if not isinstance(getattr(self, key), kind):
                raise ValueError(f"{self.where}: {key} has the wrong form: {getattr(self, key)!r}")
        for key in self.filter:
            if key not in FILTER_FIELDS:
                raise ValueError(f"{self.where}: unknown filter {key!r}{did_you_mean(key, FILTER_FIELDS)}")

    @property
    def where(self) -> str:
        """How errors call this card.

        Returns:
            Name of the dataset, and the card's file if it has one.
        """
        return f"dataset {self.name!r}" + (f" (card {self.source})" if self.source else "")

    def resolve(self, path: str, near_card: bool = False) -> Path:
        """Turn a path of the card into one that can be opened.

        Args:
            path: absolute, or relative to ``$DETECTRON2_DATASETS``.
            near_card: look in the folder of the card's file first.

        Returns:
            The path; whether it exists is not checked.
        """
        if near_card and self.source is not None and (self.source.parent / path).exists():
            return self.source.parent / path
        return datasets_root() / Path(path).expanduser()

    def file(self, role: str) -> Path | None:
        """Turn one of the card's further files into a path that can be opened.

        Args:
            role: key of ``files``.

        Returns:
            The path, or None if the card does not name that file.

        Raises:
            FileNotFoundError: if the card names it, and it does not exist.
        """
        if not self.files.get(role):
            return None
        path = self.resolve(str(self.files[role]), near_card=True)
        if not path.exists():
            raise FileNotFoundError(missing_message(self, f"{role} (files.{role})", path))
        return path

    def read_vocabulary(self) -> Vocabulary | None:
        """Build the vocabulary that the card names, without embeddings.

        Returns:
            The vocabulary, or None if it is to be taken from the annotation file.

        Raises:
            ValueError: if the entry has the wrong form, or names neither a built-in table nor a file.
        """
        entry = self.vocabulary
        if entry is None:
            return None
        if isinstance(entry, Mapping) and set(entry) == {"table", "kind"}:
            return self._words_of_kind(str(entry["table"]), str(entry["kind"]))
        if isinstance(entry, Mapping):
            if set(entry) != {"name", "names"}:
                raise ValueError(
                    f"{self.where}: vocabulary takes name and names, or table and kind, found {sorted(entry)}"
                )
            return Vocabulary.from_names(entry["names"], str(entry["name"]))
        if isinstance(entry, list | tuple):
            return Vocabulary.from_names(entry, self.name)
        return self._named_vocabulary(str(entry), "vocabulary")

    def attach_embeddings(self, vocabulary: Vocabulary) -> Vocabulary:
        """Add the text embeddings that the card names.

        Args:
            vocabulary: the dataset's vocabulary of n words.

        Returns:
            The vocabulary with embeddings (n, D), float32; unchanged if the card names none.

        Raises:
            ValueError: if the entry has the wrong form, or the file does not fit the vocabulary.
            FileNotFoundError: if the file does not exist.
        """
        if self.embeddings is None:
            return vocabulary
        table: Path | Tensor
        rows: Vocabulary | Sequence[str] | None
        if isinstance(self.embeddings, list | tuple):
            table, rows = self._join_tables(self.embeddings)
        else:
            table, rows = self._embedding_table(self.embeddings)
        try:
            return vocabulary.with_embeddings(table, rows)
        except ValueError as error:
            raise ValueError(f"{self.where}: {error}") from error

    def embedding_files(self) -> list[Path]:
        """List the files of text embeddings that the card names.

        Returns:
            The files; whether they exist is not checked.
        """
        entries = self.embeddings if isinstance(self.embeddings, list | tuple) else [self.embeddings]
        names = [entry.get("file") if isinstance(entry, Mapping) else entry for entry in entries]
        return [self.resolve(str(name), near_card=True) for name in names if name]

    def _embedding_table(self, entry: Any) -> tuple[Path, Vocabulary | Sequence[str] | None]:
        entry = entry if isinstance(entry, Mapping) else {"file": str(entry)}
        if "file" not in entry or set(entry) - {"file", "rows"}:
            raise ValueError(f"{self.where}: embeddings takes file and rows, found {sorted(entry)}")
        rows = self._row_names(entry["rows"]) if entry.get("rows") else None
        path = self.resolve(entry["file"], near_card=True)
        if not path.is_file():
            made = " python -m mvseg.vocabulary embed makes such files (datasets/README.md)."
            raise FileNotFoundError(missing_message(self, "embedding file", path) + made)
        return path, rows

    def _row_names(self, entry: str) -> Vocabulary | Sequence[str]:
        """Names of a table's rows; a file of names may hold a name twice, a vocabulary may not."""
        if entry in builtin_tables():
            return Vocabulary.from_table(entry)
        return [str(name) for name in read_table(self._named_file(entry, "embeddings.rows"))["names"]]

    def _join_tables(self, entries: Sequence[Any]) -> tuple[Tensor, list[str]]:
        """Put several tables under each other; a word is then found in the first one that has it."""
        tables: list[Tensor] = []
        names: list[str] = []
        for entry in entries:
            path, rows = self._embedding_table(entry)
            if rows is None:
                raise ValueError(f"{self.where}: embeddings lists several tables, so {path} needs rows")
            row_names = rows.names if isinstance(rows, Vocabulary) else rows
            table, _ = read_embeddings(path)
            check_embeddings(table, len(row_names), str(path), tables[0].shape[1] if tables else None)
            tables.append(table)
            names += row_names
        return torch.cat(tables), names

    def _named_vocabulary(self, entry: str, key: str) -> Vocabulary:
        if entry in builtin_tables():
            return _read_builtin_table(entry)
        return Vocabulary.from_file(self._named_file(entry, key))

    def _words_of_kind(self, table: str, kind: str) -> Vocabulary:
        words = self._named_vocabulary(table, "vocabulary.table")
        if kind not in ("thing", "stuff"):
            raise ValueError(f"{self.where}: vocabulary.kind is thing or stuff, not {kind!r}")
        if words.is_thing is None:
            raise ValueError(f"{self.where}: vocabulary {table!r} does not say which of its words are things")
        kept = [word for word, thing in zip(words.names, words.is_thing, strict=True) if thing == (kind == "thing")]
        return words.subset(kept, f"{words.name} {'things' if kind == 'thing' else kind}")

    def _named_file(self, entry: str, key: str) -> Path:
        path = self.resolve(entry, near_card=True)
        if path.is_file():
            return path
        raise ValueError(
            f"{self.where}: {key} {entry!r} is neither a built-in table ({', '.join(builtin_tables())}"
            f"{did_you_mean(entry, builtin_tables(), show_all=0)}) nor a file ({path} does not exist)"
        )


@functools.cache
def _read_builtin_table(name: str) -> Vocabulary:
    """Read a table once for all cards that name it; importing mvseg.data registers some sixty."""
    return Vocabulary.from_table(name)


def missing_message(card: DatasetCard, what: str, path: Path) -> str:
    """Write the error for a file or folder of a card that is not there.

    Args:
        card: the card.
        what: such as "annotation file".
        path: where it was looked for.

    Returns:
        One text with the path, the folder that relative paths start from, the card, and how to get the files.
    """
    root = os.environ.get("DETECTRON2_DATASETS")
    setting = f"DETECTRON2_DATASETS={root}" if root else "DETECTRON2_DATASETS is not set, so paths start at ./datasets"
    advice = f" {card.prepare}" if card.prepare else ""
    return f"{card.where}: {what} {path} does not exist ({setting}).{advice}"


def make_card(fields: Mapping[str, Any], source: Path | None = None) -> DatasetCard:
    """Make a card from plain fields, with errors that name the field.

    Args:
        fields: field name to value, as in YAML.
        source: the card's file, if it has one.

    Returns:
        The card.

    Raises:
        ValueError: if a field is unknown (the nearest names are listed), missing or wrong.
    """
    where = f"card {source}" if source else f"dataset {fields.get('name', '?')!r}"
    known = [f.name for f in dataclasses.fields(DatasetCard) if f.name != "source"]
    for key in fields:
        if key not in known:
            raise ValueError(f"{where}: unknown field {key!r}{did_you_mean(str(key), known)}")
    without = fields.get("format") in FORMATS_WITHOUT_FILE
    needed = ("name", "format", "image_root") + (() if without else ("annotations",))
    lacking = [key for key in needed if key not in fields]
    if lacking:
        raise ValueError(f"{where}: missing field(s) {', '.join(lacking)}")
    return DatasetCard(**fields, source=source)


def load_card(path: str | Path) -> DatasetCard:
    """Read a dataset card.

    Args:
        path: YAML file with the fields of :class:`DatasetCard`.

    Returns:
        The card.
    """
    return make_card(read_card_file(path), Path(path).resolve())


def read_card_file(path: str | Path) -> dict[str, Any]:
    """Read the fields of a card file.

    Args:
        path: YAML file.

    Returns:
        Field name to value, not checked.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it is not YAML, or not a mapping.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"dataset card {path} does not exist (a relative path starts in the working folder {Path.cwd()}, or "
            "for DATASETS.CARDS in a folder above the config file)"
        )
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"card {path} is not valid YAML: {error}") from error
    if not isinstance(fields, Mapping):
        raise ValueError(f"card {path}: a card is a mapping of fields, found {type(fields).__name__}")
    return {str(key): value for key, value in fields.items()}
