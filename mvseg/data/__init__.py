"""Datasets, from the card to the batch. Importing this registers the built-in cards.

- A dataset: ``card`` (what it is, where it lies), ``supervision`` (what it can teach), ``sources/`` (one reader for
  each format; ``sources/world/`` draws datasets), ``checks`` (what a reader complains about and counts), ``catalog``
  (which datasets there are, read once), ``foreign`` (those of Detectron2's own functions), ``label_spaces`` (the words
  of several).
- Which image next: ``records`` (those that teach something), ``streams`` (the order within a dataset), ``mixing`` (the
  turns of the datasets), ``mixture_report``, ``loader`` (batches, resume).
- One image: ``mappers``, with ``reading`` and ``pixels`` (files), ``augmentation``, ``polygons``, ``label_maps`` and
  ``targets`` (annotations that move along).
- For people: ``python -m mvseg.data``, with ``inspection`` (check) and ``statistics`` (stats).
"""

from .catalog import (
    DatasetCard,
    get_card,
    get_records,
    get_vocabulary,
    load_card,
    register_builtin_cards,
    register_card,
    register_cards,
    register_dataset,
)
from .label_spaces import label_space

__all__ = [
    "DatasetCard",
    "get_card",
    "get_records",
    "get_vocabulary",
    "label_space",
    "load_card",
    "register_builtin_cards",
    "register_card",
    "register_cards",
    "register_dataset",
]

register_builtin_cards()
