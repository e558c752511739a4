"""The datasets that exist: cards are registered in Detectron2's catalogs, read lazily and once, and looked up here."""

from __future__ import annotations

import dataclasses
import gc
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from mvseg.vocabulary import Vocabulary, builtin_tables, did_you_mean, made_at_run_time

from .card import DatasetCard, load_card, make_card
from .card_sets import load_cards
from .checks import LoadReport
from .foreign import card_from_metadata, vocabulary_from_metadata
from .label_maps import ignore_label
from .sources import LoadedDataset, find_source

__all__ = [
    "DatasetCard",
    "dataset_report",
    "get_card",
    "get_records",
    "get_vocabulary",
    "load_card",
    "load_cards",
    "register_builtin_cards",
    "register_card",
    "register_cards",
    "register_dataset",
    "release_records",
    "unregister_card",
]

logger = logging.getLogger(__name__)

BUILTIN_CARDS = Path(__file__).parent / "cards"


class _Entry:
    """A registered card with what has been read of it so far."""

    def __init__(self, card: DatasetCard, builtin: bool) -> None:
        self.card = card
        self.builtin = builtin
        self._loaded: LoadedDataset | None = None
        self._released = False  # the records are gone, vocabulary and report are not
        self._words: Vocabulary | None = None  # with embeddings

    def loaded(self) -> LoadedDataset:
        if self._loaded is None:
            with _no_collection():
                self._loaded = find_source(self.card)(self.card, self.card.read_vocabulary())
            logger.info("Read %s\n%s", self.card.where, self._loaded.report.table())
            self._publish(self._loaded)
        return self._loaded

    def records(self) -> Sequence[dict[str, Any]]:
        if self._released:
            self._loaded, self._released = None, False
        records = self.loaded().records
        return list(records) if isinstance(records, list) else records

    def release(self) -> None:
        if self._loaded is not None:
            self._loaded = dataclasses.replace(self._loaded, records=[])
            self._released = True

    def vocabulary(self, embeddings: bool) -> Vocabulary:
        if self._words is not None:
            return self._words if embeddings else dataclasses.replace(self._words, embeddings=None)
        words = self.card.read_vocabulary() or self.loaded().vocabulary
        if words is None:
            raise ValueError(
                f"{self.card.where}: supervision {self.card.supervision} has sentences instead of classes, so there is "
                "no vocabulary; name one in the card if the dataset is to have words (vocabulary: lvis_v1)"
            )
        if not embeddings:
            return words
        self._words = self.card.attach_embeddings(words)
        return self._words

    def announce(self) -> None:
        """Fill the metadata with what is known before the annotation file is read."""
        card, metadata = self.card, MetadataCatalog.get(self.card.name)
        metadata.set(
            evaluator_type=card.evaluator,
            image_root=str(card.resolve(card.image_root)),
            supervision=card.supervision,
        )
        if _evaluates_on_file(card):
            metadata.set(json_file=str(card.resolve(card.annotations)))
        words = _words_at_hand(card)
        if words is not None:
            _publish_words(card, words)

    def _publish(self, loaded: LoadedDataset) -> None:
        metadata = MetadataCatalog.get(self.card.name)
        if loaded.vocabulary is not None:
            _publish_words(self.card, loaded.vocabulary)
        metadata.set(**loaded.metadata)
        file = str(self.card.resolve(self.card.annotations))
        if loaded.file_is_ground_truth:
            if not metadata.get("json_file"):  # an evaluator may already have put its own file there
                metadata.set(json_file=file)
        elif metadata.get("json_file") == file:
            if self.card.evaluator == "lvis" and loaded.vocabulary is not None:
                raise ValueError(
                    f"{self.card.where}: LVIS evaluation reads {file} itself, but its categories are not vocabulary "
                    f"{loaded.vocabulary.name!r} with the same ids; leave the vocabulary out of the card"
                )
            # Metadata is write-once. Without a file, COCOEvaluator writes one from the records, with the right ids.
            del metadata.json_file


_entries: dict[str, _Entry] = {}


def register_card(card: DatasetCard, builtin: bool = False) -> None:
    """Register a dataset in DatasetCatalog and MetadataCatalog; its annotations are read when first asked for.

    A card replaces a dataset of the same name that came with Detectron2 or with mvseg.

    Args:
        card: the card.
        builtin: the card came with mvseg; a later card may replace it.

    Raises:
        ValueError: if another card of the user's has the same name, or the format or the vocabulary does not exist.
    """
    find_source(card)
    known = _entries.get(card.name)
    if known is not None and not known.builtin and not builtin:
        if known.card == card:
            return
        raise ValueError(f"{card.where}: the name is taken by {known.card.where}; choose another")
    if known is not None and builtin and not known.builtin:
        return  # the user's card of this name stays
    entry = _Entry(card, builtin)
    _words_at_hand(card)  # fail before anything of the old registration is gone
    if card.name in DatasetCatalog:
        logger.debug("%s replaces the registered dataset of that name", card.where)
        DatasetCatalog.remove(card.name)
    if card.name in MetadataCatalog:
        MetadataCatalog.remove(card.name)
    DatasetCatalog.register(card.name, entry.records)
    entry.announce()
    _entries[card.name] = entry


def unregister_card(name: str) -> None:
    """Forget a dataset that was registered with a card, and what has been read of it.

    Args:
        name: name of the dataset.

    Raises:
        KeyError: if no card of that name is registered.
    """
    if name not in _entries:
        raise KeyError(f"no dataset card {name!r}{did_you_mean(name, _entries)}")
    del _entries[name]
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def register_dataset(**fields: Any) -> DatasetCard:
    """Register a dataset from Python, without a YAML file.

    Args:
        **fields: the fields of :class:`DatasetCard`; name, format, image_root and annotations are needed.

    Returns:
        The registered card.

    Raises:
        ValueError: if a field is unknown (the nearest names are listed), missing or wrong.
    """
    card = make_card(fields)
    register_card(card)
    return card


def register_cards(paths: str | Path | Iterable[str | Path], builtin: bool = False) -> list[str]:
    """Register cards from files and folders.

    Args:
        paths: one or several YAML files, or folders whose ``*.yaml`` files are cards or collections of cards.
        builtin: the cards came with mvseg.

    Returns:
        Names of the datasets, in the order of the files.

    Raises:
        FileNotFoundError: if a path does not exist, or a folder has no card.
        ValueError: if a card is wrong.
    """
    if isinstance(paths, str | Path):
        paths = [paths]
    names = []
    for path in map(Path, paths):
        files = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
        if not files:
            raise FileNotFoundError(f"folder {path} holds no dataset card (*.yaml)")
        for card in (card for file in files for card in load_cards(file)):
            register_card(card, builtin)
            names.append(card.name)
    return names


def register_builtin_cards() -> list[str]:
    """Register the cards that come with mvseg; done on ``import mvseg.data``.

    Call it again after ``$DETECTRON2_DATASETS`` has changed.

    Returns:
        Names of the datasets.
    """
    return register_cards(BUILTIN_CARDS, builtin=True)


def get_card(name: str) -> DatasetCard:
    """Look up the card of a dataset.

    Args:
        name: name of a registered dataset. For one that was registered with Detectron2's own functions a card is made
            from its metadata.

    Returns:
        The card.

    Raises:
        KeyError: if there is no such dataset; the message lists the nearest names.
    """
    if name in _entries:
        return _entries[name].card
    if name not in DatasetCatalog.list():
        raise KeyError(f"no dataset {name!r}{did_you_mean(name, DatasetCatalog.list())}")
    return card_from_metadata(name, MetadataCatalog.get(name))


def get_records(name: str) -> Sequence[dict[str, Any]]:
    """Read a dataset, once; every record says its dataset and its supervision.

    Args:
        name: name of a registered dataset, with or without a card.

    Returns:
        Records in Detectron2's standard form, as a list or, of formats for millions of images, as a sequence that makes
        each when it is asked for; do not change them, later calls return the same dicts until :func:`release_records`.

    Raises:
        KeyError: if there is no such dataset.
    """
    card = get_card(name)
    if name in _entries:
        return _entries[name].records()
    extra = {"dataset": name, "supervision": card.supervision}
    return [{**extra, **record} for record in DatasetCatalog.get(name)]


def release_records(name: str) -> None:
    """Free the memory of a dataset's records (LVIS: gigabytes per process); later calls read the file again.

    Args:
        name: name of a dataset; without a card nothing is kept and nothing happens.
    """
    if name in _entries:
        _entries[name].release()


def get_vocabulary(name: str, embeddings: bool = True) -> Vocabulary:
    """Give the words of a dataset.

    Args:
        name: name of a registered dataset; without a card, the words are those of its metadata.
        embeddings: attach the text embeddings that the card names.

    Returns:
        The vocabulary; its order is that of the records' ``category_id``.

    Raises:
        KeyError: if there is no such dataset.
        ValueError: if a dataset without a card has no words in its metadata, or the embeddings do not fit.
    """
    card = get_card(name)
    if name in _entries:
        return _entries[name].vocabulary(embeddings)
    return vocabulary_from_metadata(card, MetadataCatalog.get(name))


def dataset_report(name: str) -> LoadReport:
    """Read a dataset and give the counts of what was found.

    Args:
        name: name of a dataset that has a card.

    Returns:
        The report.

    Raises:
        KeyError: if no card of that name is registered.
    """
    if name not in _entries:
        raise KeyError(f"no dataset card {name!r}{did_you_mean(name, _entries)}")
    return _entries[name].loaded().report


def _words_at_hand(card: DatasetCard) -> Vocabulary | None:
    """The card's vocabulary, unless large packages would have to be imported for it: then when the dataset is read."""
    return None if made_at_run_time(card.vocabulary) else card.read_vocabulary()


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep Python from looking for garbage among millions of new records: a third of the time (Objects365)."""
    active = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if active:
            gc.enable()


def _evaluates_on_file(card: DatasetCard) -> bool:
    """Whether the card alone tells that the annotation file can be the evaluator's ground truth.

    For other cards it is found out when the file is read; COCOEvaluator makes a file of its own until then.
    """
    changed = card.aliases or card.ignore or card.filter or card.split
    standard = card.format == "coco" and card.vocabulary in builtin_tables()
    return not changed and (standard or card.format == "lvis")


def _publish_words(card: DatasetCard, words: Vocabulary) -> None:
    """Set the words under the names that Detectron2's evaluators and drawing expect for the kind of supervision."""
    metadata = MetadataCatalog.get(card.name)
    ids = {id_: index for index, id_ in enumerate(words.ids)}
    if card.supervision == "semantic":
        metadata.set(
            stuff_classes=list(words.names),
            stuff_dataset_id_to_contiguous_id=ids,
            ignore_label=ignore_label(len(words)),
        )
        return
    metadata.set(thing_classes=list(words.names))
    if card.supervision == "panoptic":  # which of them are things is known when the file is read
        metadata.set(stuff_classes=list(words.names), ignore_label=ignore_label(len(words)))
        return
    metadata.set(thing_dataset_id_to_contiguous_id=ids)
    if words.image_count is not None:
        counts = zip(words.ids, words.image_count, strict=True)
        metadata.set(class_image_count=[{"id": id_, "image_count": count} for id_, count in counts])
