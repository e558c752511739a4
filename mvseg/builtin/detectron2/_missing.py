"""What the built-in provider leaves out: one kind of ImportError that says how to get the real thing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

INSTALL_HINT = "install Detectron2: python -m pip install 'git+https://github.com/facebookresearch/detectron2.git'"


def missing(name: str) -> ImportError:
    """Return (not raise) the error for a name such as ``detectron2.export`` or ``config.LazyConfig``."""
    full_name = name if name.startswith("detectron2") else f"detectron2.{name}"
    return ImportError(f"{full_name} is not in mvseg's built-in provider; {INSTALL_HINT}", name=full_name)


def missing_attribute(module: str, name: str, known: Iterable[str] = ()) -> AttributeError:
    """Body of a module-level ``__getattr__``.

    A name in ``known`` is one that Detectron2 has and the provider leaves out: that raises the ImportError at once.
    For every other name the ordinary AttributeError is returned; use as ``raise missing_attribute(...)``.
    """
    if name in known:
        raise missing(f"{module}.{name}")
    return AttributeError(f"module {module!r} has no attribute {name!r}")


def placeholder(name: str) -> type:
    """Make a class that can be imported and subclassed, and raises the ImportError when it is called or looked into."""

    class _Meta(type):
        def __getattr__(cls, attribute: str) -> Any:
            if attribute.startswith("__"):
                raise AttributeError(attribute)
            raise missing(name)

        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            raise missing(name)

    module, _, class_name = name.rpartition(".")
    return _Meta(class_name, (), {"__module__": module, "__doc__": f"Placeholder: {missing(name)}"})
