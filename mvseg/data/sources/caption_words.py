"""What sentences say is in their image: the words of the vocabulary found in them, as tags."""

from __future__ import annotations

from mvseg.vocabulary import Vocabulary
from mvseg.vocabulary.word_match import WordMatcher

from ..card import DatasetCard
from ..checks import LoadReport
from .base import class_indices

MATCH_OPTIONS = {
    "synonyms": "find the synonyms of a word too (true)",
    "plurals": "find plurals too (true)",
    "overlaps": "find a word inside a longer one: the dog of a hot dog (false)",
    "ambiguous": "a spelling that several words share names all of them instead of none (false)",
}


class CaptionWords:
    """Finds the classes that sentences name, as a card's options say, and counts what was found.

    Args:
        card: the dataset's card.
        vocabulary: its words.
        report: gets the counts.

    Raises:
        ValueError: if an option is neither true nor false, or the card ignores a word that is not in the vocabulary.
    """

    def __init__(self, card: DatasetCard, vocabulary: Vocabulary, report: LoadReport) -> None:
        for key in MATCH_OPTIONS:
            if not isinstance(card.options.get(key, True), bool):
                raise ValueError(f"{card.where}: options.{key} must be true or false, not {card.options[key]!r}")
        self._matcher = WordMatcher(
            vocabulary, **{key: card.options[key] for key in MATCH_OPTIONS if key in card.options}
        )
        self._classes = class_indices(card, vocabulary.names, vocabulary, {}, f"vocabulary {vocabulary.name!r}")
        self._names, self._report = vocabulary.names, report
        report.add("shared_spellings", len(self._matcher.shared))

    def find(self, text: str) -> list[int]:
        """Find the classes that one image's sentences name.

        Args:
            text: the sentences, divided by line breaks.

        Returns:
            Class indices, ascending, without those that the card ignores or filters.
        """
        words = sorted({word for line in text.split("\n") for word in self._matcher.find(line)})
        kept = [word for word in words if self._classes[self._names[word]] >= 0]
        self._report.counts["words_found"] += bool(words)
        self._report.counts["tags"] += len(kept)
        self._report.counts["filtered"] += len(words) - len(kept)
        return kept
