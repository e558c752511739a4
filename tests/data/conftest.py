"""Small datasets for the tests of the loading, registered and forgotten again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from drawn_records import Record


@pytest.fixture
def register() -> Iterator[Callable[..., list[Record]]]:
    """Function that registers records under a name for the length of a test."""
    names = []

    def register_records(name: str, records: list[Record], num_classes: int = 3, **metadata: Any) -> list[Record]:
        DatasetCatalog.register(name, lambda: records)
        names.append(name)
        MetadataCatalog.get(name).set(thing_classes=[f"{name} {i}" for i in range(num_classes)], **metadata)
        return records

    yield register_records
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def card() -> Iterator[Callable[..., Any]]:
    """Function that registers a dataset card from its fields for the length of a test."""
    from mvseg.data.catalog import register_dataset, unregister_card

    names: list[str] = []

    def register_fields(**fields: Any) -> Any:
        made = register_dataset(**fields)
        names.append(made.name)
        return made

    yield register_fields
    for name in dict.fromkeys(names):
        unregister_card(name)
