"""A table of precomputed embeddings in the place of an encoder: it knows only the words of its file."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ..embedding_files import read_embeddings, read_provenance
from ..suggestions import nearest_names, normalize
from ..wording import spoken
from .base import hash_tensors


class TableTextEncoder:
    """Look words up in a file of precomputed embeddings.

    Args:
        file: ``.npz`` or ``.safetensors`` that carries its words, as ``python -m mvseg.vocabulary embed`` writes them.
        names: the words of the rows, if the file does not carry them.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file cannot be read, or nobody says what its rows mean.
    """

    def __init__(self, file: str | Path, names: Sequence[str] | None = None) -> None:
        self._file = Path(file)
        self._rows, own_names = read_embeddings(file)
        found = own_names if names is None else tuple(names)
        if found is None:
            raise ValueError(
                f"embedding file {file} does not say which words its rows are: write table:{file}:WORDS with a "
                "built-in table or a file of names"
            )
        if len(found) != len(self._rows):
            raise ValueError(f"embedding file {file} has {len(self._rows)} rows, but {len(found)} words were given")
        self._names = found
        self._position: dict[str, int] = {}
        for row, name in enumerate(found):
            self._position.setdefault(normalize(name), row)
        for row, name in enumerate(found):  # texts come as they are spoken: "cabinet or shelf" for cabinet/shelf
            self._position.setdefault(normalize(spoken(name)), row)

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of the encoder that made the table if the file says it, else a hash of the table.

        Returns:
            Hexadecimal digits.
        """
        made = read_provenance(self._file)
        return made.fingerprint if made else hash_tensors({"rows": self._rows}, {"names": list(self._names)})

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Look up words; upper and lower case, underscores and spaces are not told apart.

        Args:
            texts: n words of the table.

        Returns:
            Embeddings (n, D), float32, on the CPU, as in the file.

        Raises:
            ValueError: if a word is not in the table; the message lists the nearest words.
        """
        missing = [text for text in texts if normalize(text) not in self._position]
        if missing:
            near = nearest_names(missing[0], self._names)
            raise ValueError(
                f"embedding table {self._file} has no row for {len(missing)} of {len(texts)} texts, such as "
                f"{missing[0]!r}" + (f" (nearest: {', '.join(near)})" if near else "") + ". A table knows only its own "
                "words, without prompts (prompts 'name'); other words need an encoder, such as minilm"
            )
        return self._rows[torch.tensor([self._position[normalize(text)] for text in texts])]
