"""Files of text embeddings, with the words of the rows and how they were made where the format can carry it."""

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
import torch
from safetensors import SafetensorError
from torch import Tensor

from .embeddings import check_embeddings

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
        descriptions: the file whose sentences went into rows.
        image_encoder: the encoder of the image examples that went into rows, as it was called.
        image_fingerprint: content hash of that encoder.
        examples: where the image examples are from, and how they were seen.
        aggregator: the file that made rows of them; "": their average.
        fusion_weight: weight of images beside text.
        rows: for every row what it is made of, such as "10 descriptions + 5 examples"; empty: prompts.
    """

    encoder: str
    fingerprint: str
    prompts: str = ""
    average: str = "normalized"
    synonyms: str = "ignore"
    descriptions: str = ""
    image_encoder: str = ""
    image_fingerprint: str = ""
    examples: str = ""
    aggregator: str = ""
    fusion_weight: str = ""
    rows: tuple[str, ...] = ()


def read_embeddings(path: str | Path) -> tuple[Tensor, tuple[str, ...] | None]:
    """Read a table of text embeddings.

    Args:
        path: ``.npy``, ``.npz`` (array ``embeddings``, or the only array; optional ``names``) or ``.safetensors``
            (tensor ``embeddings``, or the only tensor; optional metadata ``names``, a JSON list).

    Returns:
        Embeddings (n, D), float32, not normalised; and the n row names if the file carries them, else None.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file cannot be read as one table of finite numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"embedding file {path} does not exist")
    names = None
    try:
        if path.suffix == ".npy":
            table = torch.from_numpy(np.load(path, allow_pickle=False).astype(np.float32))
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                names = tuple(str(n) for n in archive["names"]) if "names" in archive else None
                key = _only_key([k for k in archive.files if k != "names"])
                table = torch.from_numpy(archive[key].astype(np.float32))
        elif path.suffix == ".safetensors":
            from safetensors.torch import load_file

            tensors = load_file(path)
            table = tensors[_only_key(list(tensors))].float()
            names = _safetensors_names(path)
        else:
            raise ValueError(f"an embedding file ends in {', '.join(ENDINGS)}")
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, SafetensorError) as error:
        raise ValueError(f"embedding file {path} cannot be read: {error}") from error
    check_embeddings(table, len(names) if names is not None else None, str(path))
    return table, names


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
        values: dict[str, Any] = {k: str(v) for k, v in fields.items() if k in known}
        values["rows"] = tuple(map(str, fields.get("rows", ())))
        return Provenance(**values) if fields else None
    except (OSError, ValueError, TypeError, zipfile.BadZipFile, SafetensorError):
        return None  # who reads the table itself says what is wrong with the file


def _safetensors_names(path: Path) -> tuple[str, ...] | None:
    text = _safetensors_facts(path).get("names")
    return tuple(str(name) for name in json.loads(text)) if text else None


def _safetensors_facts(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        return dict(file.metadata() or {})


def _only_key(keys: list[str]) -> str:
    if "embeddings" in keys:
        return "embeddings"
    if len(keys) != 1:
        raise ValueError(f"expected one array or one named 'embeddings', found {keys}")
    return keys[0]
