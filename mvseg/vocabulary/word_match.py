"""Finding the words of a vocabulary in sentences: whole words and phrases, their synonyms and plurals."""

from __future__ import annotations

import re
from collections.abc import Iterable

from .suggestions import normalize
from .vocabulary import Vocabulary

_TOKEN = re.compile(r"[^\W_]+")
_MEANING = re.compile(r"\([^)]*\)")  # "bow (weapon)": nobody writes the brackets
# Plurals without a rule; nouns that end in one of these behave like it ("fisherman", "toothbrush" does not).
_IRREGULAR = {
    "man": "men", "woman": "women", "child": "children", "person": "people", "mouse": "mice", "goose": "geese",
    "foot": "feet", "tooth": "teeth", "ox": "oxen", "knife": "knives", "wife": "wives", "life": "lives",
    "leaf": "leaves", "loaf": "loaves", "half": "halves", "calf": "calves", "shelf": "shelves", "wolf": "wolves",
    "scarf": "scarves", "elf": "elves", "potato": "potatoes", "tomato": "tomatoes", "hero": "heroes",
}  # fmt: skip


def tokens(text: str) -> list[str]:
    """Cut a text into its words.

    Args:
        text: a sentence or a name.

    Returns:
        Runs of letters and digits in lower case; everything else divides them ("T-shirt's" has three).
    """
    return _TOKEN.findall(normalize(text))


def plurals(word: str) -> tuple[str, ...]:
    """Write the plural of an English noun.

    Args:
        word: the noun in lower case.

    Returns:
        Its plural; nothing for one that already looks like a plural.
    """
    for ending, plural in _IRREGULAR.items():
        if word == ending or (
            len(ending) > 2 and word.endswith(ending) and ending in ("man", "child", "mouse", "foot")
        ):
            return (word[: len(word) - len(ending)] + plural,)
    if len(word) < 2 or not word[-1].isalpha():
        return ()
    if word.endswith(("ss", "sh", "ch", "x", "z", "us")):
        return (word + "es",)
    if word.endswith("s"):
        return ()
    if word[-1] == "y" and word[-2] not in "aeiou":
        return (word[:-1] + "ies",)
    return (word + "s",)


class WordMatcher:
    """Finds which words of a vocabulary a sentence names.

    A word is found where all its parts stand side by side as whole words: "dog" not in "hotdog". In "a hot dog" the
    longest is found and nothing in it, unless ``overlaps``. A spelling that several words share (in LVIS "bow" is a
    weapon and a ribbon) names none of them, unless ``ambiguous``; but a word's own name comes before another's synonym.

    Args:
        vocabulary: the words.
        synonyms: find the synonyms too.
        plurals: find the plurals too, unless they are another word.
        overlaps: find a word inside a longer one.
        ambiguous: a shared spelling names all that share it.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        synonyms: bool = True,
        plurals: bool = True,
        overlaps: bool = False,
        ambiguous: bool = False,
    ) -> None:
        self.overlaps = overlaps
        names = [[name] for name in vocabulary.names]
        others: list[Iterable[str]] = [
            (*spelt, *(said if synonyms else ()))
            for spelt, said in zip(vocabulary.spellings, vocabulary.synonyms, strict=True)
        ]
        found: dict[tuple[str, ...], set[int]] = {}
        shared: set[tuple[str, ...]] = set()
        for groups in (names, others):
            owners = _owners(groups)
            if ambiguous:
                for phrase, words in owners.items():
                    found.setdefault(phrase, set()).update(words)
                continue
            owners = {phrase: words for phrase, words in owners.items() if phrase not in found and phrase not in shared}
            shared |= {phrase for phrase, words in owners.items() if len(words) > 1}
            found.update({phrase: words for phrase, words in owners.items() if len(words) == 1})
        if plurals:
            self._add_plurals(found, shared)
        self.shared = frozenset(" ".join(phrase) for phrase in shared)
        self._phrases = {phrase: tuple(sorted(words)) for phrase, words in found.items()}
        lengths: dict[str, set[int]] = {}
        for phrase in self._phrases:
            lengths.setdefault(phrase[0], set()).add(len(phrase))
        self._lengths = {first: tuple(sorted(found, reverse=True)) for first, found in lengths.items()}

    @staticmethod
    def _add_plurals(found: dict[tuple[str, ...], set[int]], shared: set[tuple[str, ...]]) -> None:
        made: dict[tuple[str, ...], set[int]] = {}
        for phrase, words in found.items():
            for plural in plurals(phrase[-1]):
                made.setdefault((*phrase[:-1], plural), set()).update(words)
        for phrase, words in made.items():
            if phrase not in found and phrase not in shared:
                found[phrase] = words

    def find(self, text: str) -> list[int]:
        """Find the words that a sentence names.

        Args:
            text: the sentence.

        Returns:
            Their class indices, ascending, each once.
        """
        parts = tokens(text)
        found: set[int] = set()
        place = 0
        while place < len(parts):
            step = 1
            for length in self._lengths.get(parts[place], ()):
                words = self._phrases.get(tuple(parts[place : place + length]))
                if words is None:
                    continue
                found.update(words)
                if not self.overlaps:
                    step = length
                    break
            place += step
        return sorted(found)


def _owners(groups: Iterable[Iterable[str]]) -> dict[tuple[str, ...], set[int]]:
    """Phrase -> words that are written so; meanings in brackets are left out."""
    owners: dict[tuple[str, ...], set[int]] = {}
    for index, texts in enumerate(groups):
        for text in texts:
            phrase = tuple(tokens(_MEANING.sub(" ", text.replace("_", " ")))) or tuple(tokens(text))
            if phrase:
                owners.setdefault(phrase, set()).add(index)
    return owners
