"""The registry of readers, and what a reader says about a file: parts, each with rules for names and config keys.

A reader for another project is a function from shapes to a list of parts, registered under the name of the command::

    @register_reader("unidet", "UniDet (Zhou et al. 2022): one detector for several label spaces")
    def read_unidet(shapes: Shapes) -> list[Part]:
        return [resnet_fpn(shapes), ...]

Parts are shared: ``backbones.py`` and ``heads.py`` recognise what several projects have in common.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mvseg.vocabulary import did_you_mean

Shapes = Mapping[str, tuple[int, ...]]  # parameter name in the file -> shape
SHOWN = 12  # names listed in an error, of each kind


class Unrecognised(ValueError):
    """A file that no rule fits: it is of another architecture than the reader knows, or damaged."""


@dataclass(frozen=True)
class Rule:
    """What happens to the entries whose whole name matches a pattern.

    Args:
        pattern: regular expression of the name in the file.
        name: what the name becomes, with groups as in ``re.Match.expand``; None: the model does without the entry.
        why: why the model does without the entry, or why its values change.
        scale: shape of the entry to the factor on its values; None: they stay as they are.
    """

    pattern: str
    name: str | None = r"\g<0>"
    why: str = ""
    scale: Callable[[tuple[int, ...]], float] | None = None


@dataclass(frozen=True)
class Join:
    """Layers of a file, one for each of its datasets, that are one layer of the model.

    Args:
        target: name of the model's entry.
        sources: names in the file; each entry has a row for each of its classes and a last one for the background.
            Their rows come one after the other, and at the end the mean of the last ones.
    """

    target: str
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """One recognised part of a model.

    Args:
        what: in words, such as "ResNet-50 (timm)".
        config: config keys with dots to their values, as far as the file or the published recipe tells.
        rules: tried in order; the first that matches decides.
        assumed: what no entry of the file tells and the published recipe was asked for, in words.
        text_width: length D of a text embedding; 0: no text classifier.
        text_rows: name of the entry with the text embeddings, (D, n + 1) with a column of zeros for the background.
        num_columns: number of classes of the file, without background; None: this part has none.
        image_weights: name of the entry with one number for each class that grows with its images; empty: none.
        joins: entries of the file that become one of the model.
        heads: number of classes of each classifier in the file, where there are several; their sum is num_columns.
    """

    what: str
    config: Mapping[str, Any] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    assumed: tuple[str, ...] = ()
    text_width: int = 0
    text_rows: str = ""
    num_columns: int | None = None
    image_weights: str = ""
    joins: tuple[Join, ...] = ()
    heads: tuple[int, ...] = ()


@dataclass(frozen=True)
class Translation:
    """What a reader made of a file.

    Attributes:
        what: the recognised parts in words.
        config: config keys with dots to their values.
        names: name in the file to the name of the model.
        scales: name in the file to the factor on its values and why, where they change.
        left_over: name in the file to why the model does without it.
        unknown: names in the file that no rule knows.
        assumed: what no entry of the file tells, in words.
        text_width: length of a text embedding; 0: no text classifier.
        text_rows: name of the entry with the text embeddings; empty: none.
        num_columns: number of classes, without background.
        image_weights: name of the entry with one number for each class that grows with its images; empty: none.
        joins: entries of the file that become one of the model.
        heads: number of classes of each classifier in the file, where there are several.
    """

    what: tuple[str, ...]
    config: Mapping[str, Any]
    names: Mapping[str, str]
    scales: Mapping[str, tuple[float, str]]
    left_over: Mapping[str, str]
    unknown: tuple[str, ...]
    assumed: tuple[str, ...]
    text_width: int
    text_rows: str
    num_columns: int
    image_weights: str
    joins: tuple[Join, ...] = ()
    heads: tuple[int, ...] = ()


ReadParts = Callable[[Shapes], list[Part]]


@dataclass(frozen=True)
class Reader:
    """Knows the files of one project.

    Args:
        name: name of the command.
        help: one line about the files.
        parts: recognises the parts of a file from names and shapes; raises :class:`Unrecognised` where it cannot.
    """

    name: str
    help: str
    parts: ReadParts

    def read(self, shapes: Shapes) -> Translation:
        """Translate the names of a file.

        Args:
            shapes: parameter name to shape.

        Returns:
            The translation.

        Raises:
            Unrecognised: if a part of the file is not known, or two entries would get one name.
        """
        parts = self.parts(shapes)
        rules = [(re.compile(rule.pattern), rule) for part in parts for rule in part.rules]
        names: dict[str, str] = {}
        left_over: dict[str, str] = {}
        scales: dict[str, tuple[float, str]] = {}
        unknown = []
        joins = tuple(join for part in parts for join in part.joins)
        joined = {name for join in joins for name in join.sources}
        for name, shape in shapes.items():
            if name in joined:
                continue
            match, rule = next(((m, rule) for pattern, rule in rules if (m := pattern.fullmatch(name))), (None, None))
            if match is None or rule is None:
                unknown.append(name)
            elif rule.name is None:
                left_over[name] = rule.why
            else:
                names[name] = match.expand(rule.name)
                if rule.scale is not None:
                    scales[name] = rule.scale(shape), rule.why
        _check_different({**names, **{join.sources[0]: join.target for join in joins}})
        config: dict[str, Any] = {}
        for part in parts:
            config.update(part.config)
        return Translation(
            what=tuple(part.what for part in parts),
            config=config,
            names=names,
            scales=scales,
            left_over=left_over,
            unknown=tuple(unknown),
            assumed=tuple(text for part in parts for text in part.assumed),
            text_width=max(part.text_width for part in parts),
            text_rows=next((part.text_rows for part in parts if part.text_rows), ""),
            num_columns=next((part.num_columns for part in parts if part.num_columns is not None), 0),
            image_weights=next((part.image_weights for part in parts if part.image_weights), ""),
            joins=joins,
            heads=next((part.heads for part in parts if part.heads), ()),
        )


READERS: dict[str, Reader] = {}


def register_reader(name: str, help: str) -> Callable[[ReadParts], ReadParts]:
    """Register a function as the reader of a project's files.

    Args:
        name: name of the command.
        help: one line about the files.

    Returns:
        A decorator that leaves the function as it is.

    Raises:
        ValueError: if there is a reader of that name.
    """

    def register(parts: ReadParts) -> ReadParts:
        if name in READERS:
            raise ValueError(f"there is a reader {name!r} already")
        READERS[name] = Reader(name, help, parts)
        return parts

    return register


def get_reader(name: str) -> Reader:
    """Look up a reader.

    Args:
        name: such as "detic".

    Returns:
        The reader.

    Raises:
        ValueError: if there is none; the message lists those that exist.
    """
    if name not in READERS:
        raise ValueError(f"no reader {name!r}{did_you_mean(name, READERS)}")
    return READERS[name]


def some(names: Sequence[str], count: int = SHOWN) -> str:
    """List names, the first few in full.

    Args:
        names: the names.
        count: how many to show.

    Returns:
        The names separated by commas, then how many more there are.
    """
    rest = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(list(names)[:count]) + rest


def _check_different(names: Mapping[str, str]) -> None:
    taken: dict[str, str] = {}
    for source, target in names.items():
        if target in taken:
            raise Unrecognised(f"two entries of the file, {taken[target]} and {source}, would both become {target}")
        taken[target] = source
