"""Name -> object registries, and looking an object up by its dotted name."""

from __future__ import annotations

import importlib
from typing import Any

from fvcore.common.registry import Registry

__all__ = ["Registry", "locate"]


def locate(name: str) -> Any:
    """Import ``package.module.Class.member`` and return it."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        module_name = ".".join(parts[:length])
        try:
            found: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            # An absent module further down belongs to the code that is imported: do not hide it.
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise
            continue
        try:
            for part in parts[length:]:
                found = getattr(found, part)
        except AttributeError:
            break
        return found
    raise ImportError(f"cannot locate {name!r}: no such module or attribute", name=name)
