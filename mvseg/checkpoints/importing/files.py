"""What an import writes: the checkpoint with its passport, the config, and a card with the words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from mvseg.checkpoints.checkpointer import atomic_file
from mvseg.checkpoints.foreign import ForeignFile
from mvseg.checkpoints.readers.registry import Reader, Translation
from mvseg.vocabulary import Vocabulary, builtin_tables
from mvseg.vocabulary.embedding_files import save_embeddings
from mvseg.vocabulary.merging import MAPPING_FILES

PASSPORT = "imported"  # entry of the checkpoint that says where it comes from


def make_passport(
    reader: Reader, file: ForeignFile, translation: Translation, words: Sequence[Vocabulary]
) -> dict[str, Any]:
    """Write down where a checkpoint comes from.

    Args:
        reader: whose file it is.
        file: the file.
        translation: what the reader found.
        words: the words of its classes, as far as known: one vocabulary, or one for each dataset.

    Returns:
        Plain values.
    """
    return {
        "reader": reader.name,
        "source": file.path.name,
        "sha256": file.sha256,
        "bytes": file.size,
        "iteration": file.iteration,
        "recognised": list(translation.what),
        "words": ", ".join(vocabulary.name for vocabulary in words),
    }


def read_passport(path: str | Path) -> dict[str, Any]:
    """Read where an imported checkpoint comes from.

    Args:
        path: the checkpoint.

    Returns:
        Plain values: reader, source, sha256, bytes, iteration, recognised, words.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file is no imported checkpoint.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # the readers of zip, pickle and tensors each fail in their own ways
        raise ValueError(
            f"{path} cannot be read ({type(error).__name__}): it is damaged, or no PyTorch file"
        ) from error
    if not isinstance(content, dict) or PASSPORT not in content:
        raise ValueError(f"{path} does not say where it comes from: it was not written by python -m mvseg.checkpoints")
    return content[PASSPORT]


def files_of(target: Path) -> list[Path]:
    """Name the files that an import may write.

    Args:
        target: the checkpoint.

    Returns:
        Checkpoint, config, text embeddings, label space, cards with the words.
    """
    words = target.with_name(f"{target.stem}_words")
    spaces = [target.with_name(f"{target.stem}_label_space{ending}") for ending in MAPPING_FILES]
    several = sorted(target.parent.glob(f"{target.stem}_words_*.yaml"))
    return [
        target,
        target.with_suffix(".yaml"),
        words.with_suffix(".npz"),
        *spaces,
        words.with_suffix(".yaml"),
        *several,
    ]


def write_import(
    target: Path,
    weights: Mapping[str, Tensor],
    passport: Mapping[str, Any],
    translation: Translation,
    words: Sequence[Vocabulary],
    rows: Tensor | None,
    label_space: str | Path | None = None,
) -> tuple[Path, ...]:
    """Write the files of an import, each whole or not at all; the checkpoint comes last.

    Args:
        target: the checkpoint.
        weights: model name to tensor; any shapes, such as (N, 4).
        passport: where the weights come from.
        translation: what the reader found.
        words: the words of the classes, as far as known: one vocabulary, or one for each dataset.
        rows: (n, D) float text embeddings of the words, if the file has them.
        label_space: file that says which words of the datasets share a column, in training or (where the file has a
            classifier for each of them) at test time; it is copied.

    Returns:
        The files that were written.
    """
    config_file, table = target.with_suffix(".yaml"), target.with_name(f"{target.stem}_words.npz")
    target.parent.mkdir(parents=True, exist_ok=True)
    config = {"MODEL.WEIGHTS": target.name, **translation.config}
    written = [config_file]
    if rows is not None and words:
        save_embeddings(table, rows, words[0].names)
        written.append(table)
    if label_space is not None:
        copy = target.with_name(f"{target.stem}_label_space{Path(label_space).suffix}")
        _write_text(copy, Path(label_space).read_text(encoding="utf-8"))
        config["MODEL.CLASSIFIER.TEST_MERGE" if translation.heads else "DATASETS.LABEL_SPACE"] = copy.name
        written.append(copy)
    cards = {}
    about = f"# The words that {target.name} was trained with; no images belong to this card.\n"
    for number, vocabulary in enumerate(words, start=1):
        several = f"_{number}_{_plain(vocabulary.name)}" if len(words) > 1 else ""
        card_file = target.with_name(f"{target.stem}_words{several}.yaml")
        name = f"words_of_{target.stem}{several}_{passport['sha256'][:8]}"
        embeddings = table.name if rows is not None else ""
        _write_text(card_file, about + _card(name, vocabulary, embeddings, bool(config.get("MODEL.MASK_ON"))))
        cards[name] = card_file
    if cards:
        config |= {"DATASETS.CARDS": [file.name for file in cards.values()], "DATASETS.TRAIN": list(cards)}
        written += cards.values()
    head = [f"# {passport['source']}, read by: python -m mvseg.checkpoints {passport['reader']}"]
    head += [f"# sha256 {passport['sha256']}"]
    head += [f"# Recognised: {text}" for text in translation.what]
    head += [f"# Assumed, as published: {text}" for text in translation.assumed]
    tree = yaml.safe_dump(_nested(config), sort_keys=False, default_flow_style=None, width=100)
    _write_text(config_file, "\n".join([*head, tree]))
    with atomic_file(target) as file:
        torch.save({"model": dict(weights), PASSPORT: dict(passport)}, file)
    return (target, *written)


def _card(name: str, words: Vocabulary, embeddings: str, masks: bool) -> str:
    known = words.name in builtin_tables() and Vocabulary.from_table(words.name).names == words.names
    fields: dict[str, Any] = {
        "name": name,
        "format": "coco",
        "image_root": "none",
        "annotations": "none.json",
        "supervision": "masks" if masks else "boxes",
        "vocabulary": words.name if known else {"name": words.name, "names": list(words.names)},
    }
    if embeddings:
        fields["embeddings"] = embeddings
    fields["prepare"] = "This card only carries the words of an imported model: train with datasets of your own."
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name)


def _write_text(path: Path, text: str) -> None:
    with atomic_file(path) as file:
        file.write(text.encode())


def _nested(config: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in config.items():
        *sections, last = key.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[last] = value
    return tree
