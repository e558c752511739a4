"""Reading of config files with helpful errors."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode as CN

from mvseg.config.tree import get_cfg


def load_config(config_file: str | Path | None = None, opts: Sequence[str] = ()) -> CN:
    """Read a config file over the defaults, then command-line overrides.

    Args:
        config_file: YAML file, with ``_BASE_`` if wanted; None keeps the defaults.
        opts: alternating KEY VALUE strings.

    Returns:
        The resolved, unfrozen config: DATASETS.TRAIN follows DATASETS.MIX; relative paths of DATASETS.CARDS, of a
        mapping file in DATASETS.LABEL_SPACE, MODEL.CLASSIFIER.TEST_MERGE and TEST_WORDS, and of MODEL.WEIGHTS that do
        not exist in the working folder are those beside the config file, or beside one of the folders above it.

    Raises:
        FileNotFoundError: if the file does not exist.
        KeyError: if the file or the overrides name an unknown key; the message lists the nearest keys.
        ValueError: if DATASETS.MIX and DATASETS.TRAIN contradict each other, an override lacks a value, or a value has
            another type than its key.
    """
    cfg = get_cfg()
    if config_file is not None:
        if not Path(config_file).is_file():
            raise FileNotFoundError(f"config file {config_file} does not exist")
        _check_file_keys(cfg, Path(config_file))
        with _clear_mismatch(str(config_file)):
            cfg.merge_from_file(str(config_file))
    if len(opts) % 2:
        raise ValueError(f"overrides must be KEY VALUE pairs, the last one has no value: {' '.join(opts[-3:])}")
    for key in opts[0::2]:
        _check_key(cfg, key, "command line")
    with _clear_mismatch("command line"):
        cfg.merge_from_list(list(opts))
    resolve_mixture(cfg)
    if config_file is not None:
        cfg.DATASETS.CARDS = [_find_cards(str(place), Path(config_file)) for place in cfg.DATASETS.CARDS]
        cfg.DATASETS.LABEL_SPACE = _find_cards(cfg.DATASETS.LABEL_SPACE, Path(config_file))
        for key in ("TEST_MERGE", "TEST_WORDS"):
            cfg.MODEL.CLASSIFIER[key] = _find_cards(cfg.MODEL.CLASSIFIER[key], Path(config_file))
        cfg.MODEL.WEIGHTS = _find_cards(cfg.MODEL.WEIGHTS, Path(config_file))
        if cfg.MODEL.CALIBRATION.PRIOR.endswith(".json"):
            cfg.MODEL.CALIBRATION.PRIOR = _find_cards(cfg.MODEL.CALIBRATION.PRIOR, Path(config_file))
    return cfg


def _find_cards(place: str, config_file: Path) -> str:
    if Path(place).exists():
        return place
    found = (folder / place for folder in config_file.resolve().parents if (folder / place).exists())
    return str(next(found, place))


def resolve_mixture(cfg: CN) -> None:
    """Let DATASETS.TRAIN follow DATASETS.MIX, in place.

    Args:
        cfg: the config; untouched if DATASETS.MIX is empty.

    Raises:
        ValueError: if an entry of DATASETS.MIX is no struct with a name, or DATASETS.TRAIN is set and names other
            datasets.
    """
    for entry in cfg.DATASETS.MIX:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise ValueError(
                "DATASETS.MIX: every entry is a struct with the name of its dataset, such as "
                f"{{name: coco_2017_train, ratio: 1.0}}; got {entry!r}"
            )
    names = tuple(entry["name"] for entry in cfg.DATASETS.MIX)
    if not names:
        return
    if cfg.DATASETS.TRAIN and tuple(cfg.DATASETS.TRAIN) != names:
        raise ValueError(
            f"DATASETS.TRAIN {tuple(cfg.DATASETS.TRAIN)} contradicts DATASETS.MIX {names}: set only DATASETS.MIX"
        )
    cfg.DATASETS.TRAIN = names


_MISMATCH = re.compile(
    r"Type mismatch \(<class '(?P<want>.+?)'> vs\. <class '(?P<got>.+?)'>\) "
    r"with values \((?P<old>.*) vs\. (?P<new>.*)\) for config key: (?P<key>.*)",
    re.DOTALL,
)


@contextmanager
def _clear_mismatch(where: str) -> Iterator[None]:
    """Say of a value of the wrong type where it stands, what its key expects, and how to write it."""
    try:
        yield
    except ValueError as error:
        found = _MISMATCH.search(str(error))
        if found is None:
            raise
        want, got, old, new, key = found.group("want", "got", "old", "new", "key")
        hint = ""
        if (want, got) == ("float", "int"):
            hint = f": write {new}.0"
        elif want in ("tuple", "list"):
            hint = f": write a list, such as [{repr(new) if got == 'str' else new}]"
        expected = f"{'an' if want == 'int' else 'a'} {want} such as {old}"
        if want.endswith("CfgNode"):
            expected = "a section of keys"
        raise ValueError(f"{where}: {key} is {expected}, not the {got} {new}{hint}") from None


def _check_file_keys(cfg: CN, path: Path) -> None:
    """Walk the keys of a YAML file and of its bases before merging, so that the error can name file and nearest key."""
    try:
        tree = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(tree, dict):
        found = "is empty" if tree is None else f"holds a {type(tree).__name__}"
        raise ValueError(f"{path}: a config file is a mapping of keys, this one {found}")
    base = tree.pop("_BASE_", None)
    if base:
        base_path = Path(base) if Path(base).is_absolute() else path.parent / base
        if not base_path.is_file():
            raise FileNotFoundError(f"{path}: its _BASE_ {base_path} does not exist")
        _check_file_keys(cfg, base_path)
    for key in _leaves(tree):
        _check_key(cfg, key, str(path))


def _leaves(tree: dict[str, Any], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, value in tree.items():
        keys += _leaves(value, f"{prefix}{name}.") if isinstance(value, dict) and value else [f"{prefix}{name}"]
    return keys


def _check_key(cfg: CN, key: str, where: str) -> None:
    node: Any = cfg
    for part in key.split("."):
        if not isinstance(node, CN) or part not in node:
            known = _leaves(cfg)
            near = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
            near += [k for k in known if k.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1] and k not in near]
            hint = f"; nearest: {', '.join(near[:3])}" if near else ""
            raise KeyError(f"{where}: unknown config key {key}{hint}")
        node = node[part]
