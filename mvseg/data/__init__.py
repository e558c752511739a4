"""Datasets: cards, sources, checks, mixing, mappers and loaders. Importing this registers the built-in cards."""

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
