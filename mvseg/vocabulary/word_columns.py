"""Which label columns of a closed set stand for the words of a test: its own, merged ones, or those a file names.

A word may stand for several columns, such as one of each dataset that annotates the thing; its logit is then the mean
of theirs. A closed set has no other words, so nothing is guessed: words that it does not spell alike need a file.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from .label_space import LabelSpace
from .merging import WordMapping, mapped_groups
from .suggestions import did_you_mean, normalize
from .vocabulary import Vocabulary

logger = logging.getLogger(__name__)


class WordColumns:
    """Finds the label columns of the words of a test.

    Args:
        space: the label space of training.
        merge: mapping of words of the training that are one word at test time, a file in the form of
            :func:`mvseg.vocabulary.read_mapping` or such a mapping; it holds for every test. None: nothing is merged.
        words: mapping of words of a test outside of training to words of the training, in the same form; a word of the
            training may be in several rows, and a word without any is never found. None: only equal spellings are
            known.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if a mapping names a word that a vocabulary of the training does not have.
    """

    def __init__(
        self,
        space: LabelSpace,
        merge: str | Path | WordMapping | None = None,
        words: str | Path | WordMapping | None = None,
    ) -> None:
        self.space = space
        self.source = str(words) if isinstance(words, str | Path) else "the mapping of test words"
        vocabularies = {dataset: space.vocabularies[dataset] for dataset in space.representatives}
        self._unified: dict[str, Tensor] = {}
        self._merged: dict[int, Tensor] = {}  # label column -> the columns that it is one word with
        for word, members in mapped_groups(vocabularies, merge) if merge is not None else ():
            columns = self._own([int(space.columns(dataset)[index]) for dataset, index in members])
            self._unified[normalize(word)] = columns
            self._merged.update(dict.fromkeys(columns.tolist(), columns))
        self._by_spelling: dict[str, list[int]] = {}
        for column, word in enumerate(space.names):
            self._by_spelling.setdefault(normalize(word), []).append(column)
        groups = mapped_groups(vocabularies, words, exclusive=False) if words is not None else ()
        self._listed = {
            normalize(word): self._joined([int(space.columns(dataset)[index]) for dataset, index in members])
            for word, members in groups
        }

    def of(self, vocabulary: Vocabulary) -> list[Tensor]:
        """Find the columns of the words of a test.

        Args:
            vocabulary: the m words. A vocabulary of the training has its own columns; another one those that the
                mapping of test words names, else those of the words that are spelled alike.

        Returns:
            For every word label columns (k,), int64, ascending, each once; k = 0 for a word that a mapping lists
            without a word of the training.

        Raises:
            ValueError: if the model knows nothing of a word; the message says how to map it.
        """
        for dataset, known in self.space.vocabularies.items():
            if (known.name, known.names) == (vocabulary.name, vocabulary.names):
                return [self._joined([column]) for column in self.space.columns(dataset).tolist()]
        found = [self._look_up(word) for word in vocabulary.names]
        unknown = [word for word, columns in zip(vocabulary.names, found, strict=True) if columns is None]
        if unknown:
            raise ValueError(self._what_to_do(vocabulary, unknown))
        columns = [c for c in found if c is not None]
        self._report(vocabulary, columns)
        return columns

    def _look_up(self, word: str) -> Tensor | None:
        spelling = normalize(word)
        for table in (self._listed, self._unified):
            if spelling in table:
                return table[spelling]
        alike = self._by_spelling.get(spelling)
        return None if alike is None else self._joined(alike)

    def _joined(self, columns: Sequence[int]) -> Tensor:
        """The columns and all that they are merged with."""
        return self._own([c for column in columns for c in self._merged.get(column, torch.tensor([column])).tolist()])

    @staticmethod
    def _own(columns: Sequence[int]) -> Tensor:
        return torch.tensor(sorted(set(columns)), dtype=torch.long)

    def _what_to_do(self, vocabulary: Vocabulary, unknown: Sequence[str]) -> str:
        hint = did_you_mean(unknown[0], self.space.names)
        return (
            f"this closed-set model was not trained with {len(unknown)} of the {len(vocabulary)} words of vocabulary "
            f"{vocabulary.name!r}: {', '.join(unknown[:5])}{hint}. To say which of its words they stand for, let "
            "python -m mvseg.vocabulary match propose a file, and name it in MODEL.CLASSIFIER.TEST_WORDS"
        )

    def _report(self, vocabulary: Vocabulary, columns: Sequence[Tensor]) -> None:
        """Never silently: what words outside of training are taken for."""
        listed = sum(normalize(word) in self._listed for word in vocabulary.names)
        logger.info(
            "%d words of %r: %d as %s says, %d as the training spells them",
            len(vocabulary),
            vocabulary.name,
            listed,
            self.source,
            len(vocabulary) - listed,
        )
        several = [w for w, c in zip(vocabulary.names, columns, strict=True) if len(c) > 1]
        if several:
            some = ", ".join(several[:10]) + (f" and {len(several) - 10} more" if len(several) > 10 else "")
            logger.info("%d words are the mean of the logits of several columns: %s", len(several), some)
        lost = [w for w, c in zip(vocabulary.names, columns, strict=True) if not len(c)]
        if lost:
            logger.warning("%d words have no column and will not be found: %s", len(lost), ", ".join(lost[:10]))
