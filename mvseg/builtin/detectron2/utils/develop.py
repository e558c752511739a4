"""Stand-ins for classes and functions whose optional dependency is missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def _error(what: str, dependency: str | Sequence[str], message: str) -> ImportError:
    names = dependency if isinstance(dependency, str) else ", ".join(dependency)
    return ImportError(f"{what} needs {names}, which cannot be imported. {message}".rstrip())


def create_dummy_class(klass: str, dependency: str | Sequence[str], message: str = "") -> type:
    """Make a class that raises ImportError when it is constructed or an attribute of it is looked up."""

    class _DummyMeta(type):
        def __getattr__(cls, name: str) -> Any:
            raise _error(klass, dependency, message)

        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            raise _error(klass, dependency, message)

    return _DummyMeta(klass, (), {})


def create_dummy_func(func: str, dependency: str | Sequence[str], message: str = "") -> Callable:
    """Make a function that raises ImportError when it is called."""

    def unavailable(*args: Any, **kwargs: Any) -> Any:
        raise _error(func, dependency, message)

    return unavailable
