"""Writing files of text embeddings, with the words of the rows and how they were made where the format can carry it."""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from torch import Tensor

ENDINGS = (".npy", ".npz", ".safetensors")
CARRYING = (".npz", ".safetensors")  # formats that carry words and provenance
_KEY = "mvseg"  # under which the provenance lies, as JSON


@dataclass(frozen=True)
class Provenance:
    """How a table of text embeddings was made.

    Args:
        encoder: the encoder as it was called, such as "minilm".
        fingerprint: content hash of the encoder.
        prompts: name of the prompt set, or its templates separated by ";".
        average: how several prompts were averaged: "normalized" or "raw".
        synonyms: whether a word's synonyms went into its row: "ignore" or "average".
    """

    encoder: str
    fingerprint: str
    prompts: str = ""
    average: str = "normalized"
    synonyms: str = "ignore"


def save_embeddings(
    path: str | Path, embeddings: Tensor, names: Sequence[str], provenance: Provenance | None = None
) -> None:
    """Write text embeddings, whole or not at all; only ``.npz`` and ``.safetensors`` keep words and provenance.

    Args:
        path: file ending in .npy, .npz or .safetensors.
        embeddings: (n, D), float.
        names: the n words.
        provenance: how they were made, or None.

    Raises:
        ValueError: if the file has another ending, or words and rows differ in number.
    """
    path = Path(path)
    check_ending(path)
    if len(names) != len(embeddings):
        raise ValueError(f"{path}: {len(names)} words for {len(embeddings)} rows")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    made = json.dumps(dataclasses.asdict(provenance)) if provenance else None
    table = embeddings.detach().cpu().contiguous()
    try:
        if path.suffix == ".npy":
            np.save(temporary, table.numpy())
        elif path.suffix == ".npz":
            arrays: dict[str, Any] = {"embeddings": table.numpy(), "names": np.array(list(names))}
            if made is not None:
                arrays[_KEY] = np.array(made)
            np.savez(temporary, **arrays)
        else:
            from safetensors.torch import save_file

            facts = {"names": json.dumps(list(names))}
            save_file({"embeddings": table}, temporary, metadata=facts if made is None else {**facts, _KEY: made})
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_ending(path: str | Path) -> None:
    """Check that a file has the ending of an embedding file.

    Args:
        path: the file to write.

    Raises:
        ValueError: if it has another ending.
    """
    if Path(path).suffix not in ENDINGS:
        raise ValueError(f"{path}: an embedding file ends in {', '.join(ENDINGS)}")


def read_provenance(path: str | Path) -> Provenance | None:
    """Read how a file of text embeddings was made.

    Args:
        path: the file.

    Returns:
        The provenance; None if the file does not carry it.
    """
    path = Path(path)
    text = None
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                text = str(archive[_KEY]) if _KEY in archive else None
        elif path.suffix == ".safetensors":
            text = _safetensors_facts(path).get(_KEY)
        fields: dict[str, Any] = json.loads(text) if text else {}
        known = {f.name for f in dataclasses.fields(Provenance)}
        return Provenance(**{k: str(v) for k, v in fields.items() if k in known}) if fields else None
    except (OSError, ValueError, TypeError, zipfile.BadZipFile, SafetensorError):
        return None  # who reads the table itself says what is wrong with the file


def read_safetensors_names(path: Path) -> tuple[str, ...] | None:
    """Read the words that a safetensors file carries.

    Args:
        path: the file.

    Returns:
        The words of the rows; None if it carries none.
    """
    text = _safetensors_facts(path).get("names")
    return tuple(str(name) for name in json.loads(text)) if text else None


def _safetensors_facts(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        return dict(file.metadata() or {})
