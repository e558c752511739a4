"""The two global tables of datasets: name -> function that loads the records, and name -> metadata."""

from __future__ import annotations

import difflib
import logging
import types
from collections import UserDict
from collections.abc import Callable
from typing import Any

logger = logging.getLogger(__name__)

# Older projects still use the left-hand names.
_RENAMED = {
    "class_names": "thing_classes",
    "dataset_id_to_contiguous_id": "thing_dataset_id_to_contiguous_id",
    "stuff_class_names": "stuff_classes",
}


class CatalogConflictError(AssertionError, ValueError):
    """A name is registered twice, or a metadata attribute gets a second, different value.

    Detectron2 raises AssertionError in both cases, so handlers written for it keep working.
    """


def _hint(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(str(name), known, n=3)
    nearest = f" Did you mean {', '.join(near)}?" if near else ""
    return f"{nearest} Known: {', '.join(known) or 'none'}."


class Metadata(types.SimpleNamespace):
    """Facts about one dataset (class names, colours, files): each attribute can be written once."""

    name: str = "N/A"

    def __getattr__(self, key: str) -> Any:
        # Reached only when ordinary lookup has failed.
        if key in _RENAMED and _RENAMED[key] in vars(self):
            logger.warning("metadata key %r is now called %r", key, _RENAMED[key])
            return vars(self)[_RENAMED[key]]
        if key.startswith("__"):
            raise AttributeError(key)
        raise AttributeError(f"the metadata of dataset {self.name!r} has no {key!r}.{_hint(key, sorted(vars(self)))}")

    def __setattr__(self, key: str, val: Any) -> None:
        if key in _RENAMED:
            logger.warning("metadata key %r is now called %r", key, _RENAMED[key])
            key = _RENAMED[key]
        if key in vars(self) and vars(self)[key] != val:
            raise CatalogConflictError(
                f"metadata {key!r} of dataset {self.name!r} is already {vars(self)[key]!r} and cannot become {val!r}; "
                "register the dataset under another name, or remove it from MetadataCatalog first"
            )
        super().__setattr__(key, val)

    def as_dict(self) -> dict[str, Any]:
        """Return a copy of all attributes."""
        return dict(vars(self))

    def set(self, **kwargs: Any) -> Metadata:
        """Write several attributes and return the object itself."""
        for key, value in kwargs.items():
            setattr(self, key, value)
        return self

    def get(self, key: str, default: Any = None) -> Any:
        """Return one attribute, or the default where it is absent."""
        return getattr(self, key, default)


class _Catalog(UserDict):
    """What both tables share: listing and printing."""

    def list(self) -> list[str]:
        """Return the names."""
        return list(self.data)

    def remove(self, name: str) -> None:
        """Forget an entry (KeyError if unknown)."""
        del self.data[name]

    def __str__(self) -> str:
        return f"{type(self).__name__[1:]}({', '.join(self.data)})"

    __repr__ = __str__


class _DatasetCatalog(_Catalog):
    """Name -> function without arguments that returns the list of records."""

    def register(self, name: str, func: Callable[[], list[dict]]) -> None:
        """Add a dataset; it is loaded only when somebody asks for it."""
        if not callable(func):
            raise CatalogConflictError(f"dataset {name!r}: register() needs a function, not {type(func).__name__}")
        if name in self.data:
            raise CatalogConflictError(f"dataset {name!r} is registered already; call DatasetCatalog.remove() first")
        self.data[name] = func

    def get(self, name: str) -> list[dict]:
        """Load the records of a dataset."""
        if name not in self.data:
            raise KeyError(f"no dataset is registered as {name!r}.{_hint(name, self.list())}")
        return self.data[name]()


class _MetadataCatalog(_Catalog):
    """Name -> Metadata; an unknown name gets an empty one."""

    def get(self, name: str) -> Metadata:
        """Return the metadata of a dataset, created on first use."""
        if not name:
            raise CatalogConflictError("MetadataCatalog.get() needs a dataset name")
        if name not in self.data:
            self.data[name] = Metadata(name=name)
        return self.data[name]


DatasetCatalog = _DatasetCatalog()
MetadataCatalog = _MetadataCatalog()
