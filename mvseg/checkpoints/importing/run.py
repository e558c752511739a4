"""From a foreign weight file to a checkpoint, a config and a card with the words; nothing is half written."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mvseg.checkpoints.foreign import ForeignFile, read_foreign_file
from mvseg.checkpoints.importing.comparison import Row, compare, count_table, expected_state
from mvseg.checkpoints.importing.files import files_of, make_passport, write_import
from mvseg.checkpoints.importing.words import find_vocabularies, find_words, fit_to_words, text_rows
from mvseg.checkpoints.readers.registry import Reader, Translation, Unrecognised, get_reader
from mvseg.vocabulary import Vocabulary


@dataclass(frozen=True)
class ImportResult:
    """What an import made of a file.

    Attributes:
        rows: one for each entry of the file, and for each entry of the model that the file lacks.
        what: the recognised parts in words.
        assumed: what no entry of the file tells and the published recipe was asked for.
        notes: what else the user should know.
        files: what was written.
    """

    rows: tuple[Row, ...]
    what: tuple[str, ...]
    assumed: tuple[str, ...]
    notes: tuple[str, ...]
    files: tuple[Path, ...]

    def describe(self) -> str:
        """Write the result as text.

        Returns:
            What was recognised, a table with one line for each part of the model and each reason, notes and files.
        """
        recognised = [f"recognised: {text}" for text in self.what]
        assumed = [f"assumed, as published: {text}" for text in self.assumed]
        written = [f"written: {path}" for path in self.files]
        return "\n".join([*recognised, *assumed, "", count_table(self.rows), "", *self.notes, *written])


def import_weights(
    reader: str,
    source: str | Path,
    target: str | Path,
    *,
    vocabulary: str | Sequence[str] = (),
    label_space: str | Path | None = None,
    allow_pickle: bool = False,
    partial: bool = False,
    overwrite: bool = False,
) -> ImportResult:
    """Turn a foreign weight file into a checkpoint, a config file and, where the words are known, a card with them.

    Args:
        reader: whose file it is, such as "detic"; see :mod:`mvseg.checkpoints.readers`.
        source: the file.
        target: checkpoint to write, ending in .pth; the config lies beside it (.yaml), and so do the words
            (_words.yaml, _words.npz).
        vocabulary: the words of the file's classes, a built-in table or a file of names, or one for each of several
            datasets; empty: by their number where that tells it (80: coco, 1203: lvis_v1).
        label_space: file that says which words of several vocabularies share a column: with one classifier in the file
            those of training, with a classifier for each dataset those that are merged at test time.
        allow_pickle: also read pickles of numpy arrays.
        partial: write also where entries of the model are missing in the file (they keep their initial values when the
            checkpoint is loaded) or entries of the file have no place in the model (they are left out).
        overwrite: replace files that exist.

    Returns:
        What was mapped, left over and missing.

    Raises:
        FileExistsError: if a file exists that would be written.
        ValueError: if the target is no .pth file, or the file's weights do not fit the architecture that its names
            tell; nothing is written then.
    """
    source, target = Path(source), Path(target)
    if target.suffix != ".pth":
        raise ValueError(f"{target}: the checkpoint to write must end in .pth")
    files = files_of(target)
    there = [path for path in files if path.exists()]
    if there and not overwrite:
        raise FileExistsError(f"{there[0]} exists: choose another name, or add --overwrite")
    if target.exists() and source.exists() and target.samefile(source):
        raise ValueError(f"{target} is the file to read: choose another name")
    known = get_reader(reader)
    file = read_foreign_file(source, allow_pickle)
    translation = _translate(known, file)
    asked = [vocabulary] if isinstance(vocabulary, str) else list(vocabulary)
    asked = [name for name in asked if name]
    words: tuple[Vocabulary, ...]
    if translation.heads or len(asked) > 1:
        words, notes = find_vocabularies(translation, file, asked, label_space)
    elif label_space is not None:
        raise ValueError("a label space joins several vocabularies: say them with --vocabulary, once for each")
    else:
        one, notes = find_words(translation, file, asked[0] if asked else "")
        words = () if one is None else (one,)
    config = fit_to_words(translation.config, words[0] if len(words) == 1 else None)
    translation = dataclasses.replace(translation, config=config)
    rows, weights = compare(translation, file, expected_state(translation), partial)
    passport = make_passport(known, file, translation, words)
    rows_of_words = text_rows(translation, file)
    written = write_import(target, weights, passport, translation, words, rows_of_words, label_space)
    for stale in set(files) - set(written):
        stale.unlink(missing_ok=True)
    return ImportResult(rows, translation.what, translation.assumed, notes, written)


def _translate(reader: Reader, file: ForeignFile) -> Translation:
    try:
        return reader.read({name: tuple(value.shape) for name, value in file.weights.items()})
    except Unrecognised as error:
        raise Unrecognised(f"{file.path} is no file that the reader {reader.name!r} knows: {error}") from error
