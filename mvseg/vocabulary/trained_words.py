"""Which words of a test a model has learnt from annotation, by name or alias."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from .label_space import LabelSpace
from .suggestions import normalize
from .vocabulary import Vocabulary


class TrainedWords:
    """Tells the words that were annotated in training from all others.

    Args:
        space: the label space of training.
        annotated: (n,) bool, columns that some training annotation can show; a vocabulary may have words, such as the
            rare ones of an open-vocabulary benchmark, that the annotation leaves out.
    """

    def __init__(self, space: LabelSpace, annotated: Tensor) -> None:
        self.space, self.annotated = space, annotated.bool().cpu()
        self._names: dict[str, bool] = {}
        self._aliases: set[str] = set()
        for dataset in space.representatives:
            words, known = space.vocabularies[dataset], self.annotated[space.columns(dataset)].tolist()
            for row, word in enumerate(words.names):
                for name in (word, *words.spellings[row]):
                    self._names[normalize(name)] = known[row] or self._names.get(normalize(name), False)
                self._aliases.update(map(normalize, words.synonyms[row]) if known[row] else ())

    def of(self, vocabulary: Vocabulary | None) -> Tensor:
        """Find the words that training annotated.

        A vocabulary of the training is known by its columns. A word of another one is known if its name is that of an
        annotated word; where no word of the training has its name, if one of its synonyms is, or if an annotated word
        has it as a synonym.

        Args:
            vocabulary: the m words of a test; None: the n columns of training.

        Returns:
            (m,) bool.
        """
        if vocabulary is None:
            return self.annotated.clone()
        for dataset, known in self.space.vocabularies.items():
            if (known.name, known.names) == (vocabulary.name, vocabulary.names):
                return self.annotated[self.space.columns(dataset)]
        rows = zip(vocabulary.names, vocabulary.spellings, vocabulary.synonyms, strict=True)
        return torch.tensor([self._knows((w, *spelt), said) for w, spelt, said in rows], dtype=torch.bool)

    def _knows(self, names: Iterable[str], synonyms: Iterable[str]) -> bool:
        spelled = [normalize(name) for name in names]
        found = [self._names[name] for name in spelled if name in self._names]
        if found:
            return any(found)
        others = [normalize(name) for name in synonyms]
        return any(self._names.get(name, False) for name in others) or bool(self._aliases & {*spelled, *others})
