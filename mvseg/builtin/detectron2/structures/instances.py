"""What is known about the objects of one image: fields of equal length, each readable as an attribute."""

from __future__ import annotations

import itertools
from typing import Any

import torch


class Instances:
    """Fields (`gt_boxes`, `scores`, ...) of equal length N that are indexed and moved together, plus the image size."""

    def __init__(self, image_size: tuple[int, int], **kwargs: Any):
        """Start with the image size (height, width) and any fields."""
        self._image_size = image_size
        self._fields: dict[str, Any] = {}
        for name, value in kwargs.items():
            self.set(name, value)

    @property
    def image_size(self) -> tuple[int, int]:
        return self._image_size

    def __setattr__(self, name: str, val: Any) -> None:
        if name[:1] == "_":
            object.__setattr__(self, name, val)
        else:
            self.set(name, val)

    def __getattr__(self, name: str) -> Any:
        # Only asked for names that are no real attributes; copies are asked before they have `_fields`.
        fields = self.__dict__.get("_fields", {})
        if name not in fields:
            raise AttributeError(f"Instances has no field '{name}'; its fields are {sorted(fields) or 'none yet'}")
        return fields[name]

    def set(self, name: str, value: Any) -> None:
        """Set a field; its length must be that of the others."""
        length = len(value)
        if self._fields and length != len(self):
            raise AssertionError(f"Field '{name}' has {length} entries, the Instances have {len(self)}")
        self._fields[name] = value

    def has(self, name: str) -> bool:
        return name in self._fields

    def remove(self, name: str) -> None:
        del self._fields[name]

    def get(self, name: str) -> Any:
        return self._fields[name]

    def get_fields(self) -> dict[str, Any]:
        """The fields themselves: changing the dict changes the Instances."""
        return self._fields

    def to(self, *args: Any, **kwargs: Any) -> Instances:
        """Copy in which every field that has `.to` was moved."""
        return self._map(lambda value: value.to(*args, **kwargs) if hasattr(value, "to") else value)

    def __getitem__(self, item: int | slice | torch.BoolTensor) -> Instances:
        """Index every field; an integer gives Instances of length 1."""
        if type(item) is int:
            start = range(len(self))[item]  # IndexError if there are not so many
            item = slice(start, start + 1)
        return self._map(lambda value: value[item])

    def _map(self, function) -> Instances:
        result = Instances(self._image_size)
        for name, value in self._fields.items():
            result.set(name, function(value))
        return result

    def __len__(self) -> int:
        for value in self._fields.values():
            return len(value)
        raise NotImplementedError("Instances without fields have no length")

    def __iter__(self):
        raise NotImplementedError("Instances cannot be iterated; index them or iterate over one field")

    @staticmethod
    def cat(instance_lists: list[Instances]) -> Instances:
        """Join Instances of one image size field by field (tensors, lists and types with a `cat` class method)."""
        if not instance_lists or not all(isinstance(part, Instances) for part in instance_lists):
            raise AssertionError("Instances.cat joins a list of at least one Instances")
        first = instance_lists[0]
        if len(instance_lists) == 1:
            return first
        if any(part.image_size != first.image_size for part in instance_lists[1:]):
            raise AssertionError(f"Instances of different images: sizes {[part.image_size for part in instance_lists]}")
        joined = Instances(first.image_size)
        for name in first.get_fields():
            joined.set(name, _join(name, [part.get(name) for part in instance_lists]))
        return joined

    def __str__(self) -> str:
        fields = ", ".join(f"{name}: {value}" for name, value in self._fields.items())
        number, (height, width) = len(self) if self._fields else 0, self._image_size
        return f"Instances(num_instances={number}, image_height={height}, image_width={width}, fields=[{fields}])"

    __repr__ = __str__


def _join(name: str, values: list[Any]) -> Any:
    kind = type(values[0])
    if isinstance(values[0], torch.Tensor):
        return torch.cat(values, dim=0)
    if isinstance(values[0], list):
        return list(itertools.chain.from_iterable(values))
    if hasattr(kind, "cat"):
        return kind.cat(values)
    raise ValueError(f"Field '{name}' is a {kind.__name__}: no way to join several of them")
