"""Name -> object registries, and looking an object up by its dotted name."""

import pkgutil
from typing import Any

from fvcore.common.registry import Registry  # noqa: F401


def locate(name: str) -> Any:
    """Import ``package.module.Class.member`` and return it."""
    try:
        return pkgutil.resolve_name(name)
    except AttributeError as error:
        raise ImportError(f"cannot locate {name!r}: no such module or attribute", name=name) from error
