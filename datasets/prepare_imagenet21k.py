"""Tables of words for ImageNet-21k (``python datasets/prepare_imagenet21k.py --lvis datasets/lvis/lvis_v1_val.json``).

Writes words.tsv, the vocabulary of all synsets (from the lists that timm carries), and with --lvis lvis_classes.tsv:
which synsets are words of LVIS. LVIS names the synsets of WordNet ("dog.n.01"); which number each has is read from
WordNet's file index.noun (version 3.0, as in Debian's wordnet-base or NLTK's data). Without it, synsets are compared by
definition and name.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import mvseg  # noqa: F401  (lets detectron2 resolve)
from mvseg.data.card import datasets_root
from mvseg.vocabulary.suggestions import normalize
from mvseg.vocabulary.word_match import tokens


def read_synsets() -> tuple[dict[str, list[str]], dict[str, str]]:
    """Read the lists of ImageNet-21k that timm carries.

    Returns:
        WordNet id such as n02084071 -> its names, and -> its definition, in the order of the ids.
    """
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-22k")
    keys = info.label_names()
    names = {key: [n.strip() for n in info.label_name_to_description(key, detailed=False).split(",")] for key in keys}
    return names, {key: info.label_name_to_description(key, detailed=True).partition(": ")[2] for key in keys}


def choose_names(synsets: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Give every synset a name that no other has.

    Args:
        synsets: WordNet id -> its names.

    Returns:
        WordNet id -> its first name, or where that is the first of several, a name that only it has, or its first name
        with the id ("crane (n01)").
    """
    owners = Counter(
        normalize(name) for names in synsets.values() for name in {normalize(n): n for n in names}.values()
    )
    firsts = Counter(normalize(names[0]) for names in synsets.values())
    chosen: dict[str, str] = {}
    for key, names in synsets.items():
        free = [name for name in names if owners[normalize(name)] == 1]
        chosen[key] = names[0] if firsts[normalize(names[0])] == 1 else (free[0] if free else f"{names[0]} ({key})")
    return chosen


def wordnet_numbers(path: Path) -> dict[str, str]:
    """Read which number every noun synset of WordNet has.

    Args:
        path: WordNet's file index.noun, or the folder that holds it.

    Returns:
        Name such as "dog.n.01" -> id such as "n02084071"; a synset has a name for each of its words.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if a line has another form.
    """
    path = path / "index.noun" if path.is_dir() else path
    numbers = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith(" "):  # the licence
            continue
        cells = line.split()
        try:
            count = int(cells[2])
            offsets = cells[-count:]
            if cells[1] != "n" or not all(len(o) == 8 and o.isdecimal() for o in offsets):
                raise ValueError("its last columns are no numbers of synsets")
        except (ValueError, IndexError) as error:
            raise ValueError(f"{path}, line {number} is not of WordNet's index.noun: {error}") from error
        numbers.update({f"{cells[0]}.n.{sense:02d}": f"n{offset}" for sense, offset in enumerate(offsets, start=1)})
    return numbers


def match_lvis(
    categories: Sequence[Mapping[str, str]],
    synsets: Mapping[str, Sequence[str]],
    definitions: Mapping[str, str],
    numbers: Mapping[str, str] | None,
) -> dict[str, str]:
    """Find the synsets of ImageNet that are words of LVIS.

    Args:
        categories: LVIS's categories, with ``name``, ``synset`` and ``def``.
        synsets: WordNet id -> its names.
        definitions: WordNet id -> its definition.
        numbers: name of a synset -> WordNet id; None: synsets are compared by definition and name, or where just one
            has the name, by that.

    Returns:
        WordNet id -> name of the category.
    """
    if numbers is not None:
        found = {numbers.get(str(c["synset"])): str(c["name"]) for c in categories}
        return {key: name for key, name in found.items() if key is not None and key in synsets}
    by_name, by_definition = defaultdict(set), defaultdict(set)
    for key, names in synsets.items():
        by_definition[" ".join(tokens(definitions[key]))].add(key)
        for name in names:
            by_name[normalize(name)].add(key)
    result = {}
    for category in categories:
        named = by_name.get(normalize(str(category["synset"]).split(".")[0]), set())
        defined = by_definition.get(" ".join(tokens(str(category["def"]))), set())
        for candidates in (named & defined, defined, named):
            if len(candidates) == 1:
                result.setdefault(next(iter(candidates)), str(category["name"]))
                break
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and write the tables.

    Args:
        arguments: the command line without the program's name; None: that of the process.

    Returns:
        Exit status.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default=None, help="folder; default: imagenet21k under $DETECTRON2_DATASETS")
    parser.add_argument("--lvis", help="an annotation file of LVIS v1, for its categories")
    parser.add_argument("--wordnet", help="WordNet 3.0's file index.noun or the folder that holds it")
    args = parser.parse_args(arguments)
    output = Path(args.output) if args.output else datasets_root() / "imagenet21k"
    output.mkdir(parents=True, exist_ok=True)
    try:
        synsets, definitions = read_synsets()
        chosen = choose_names(synsets)
        taken = {normalize(name) for name in chosen.values()}
        owners = Counter(normalize(name) for names in synsets.values() for name in names)
        lines = ["name\tkey\tsynonyms\tdefinition"]
        for key, names in synsets.items():
            others = [n for n in names if n != chosen[key] and owners[normalize(n)] == 1 and normalize(n) not in taken]
            lines.append(f"{chosen[key]}\t{key}\t{'|'.join(others)}\t{definitions[key]}")
        (output / "words.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{output / 'words.tsv'}: {len(chosen):,} words")
        if args.lvis:
            categories = json.loads(Path(args.lvis).read_text(encoding="utf-8"))["categories"]
            numbers = wordnet_numbers(Path(args.wordnet)) if args.wordnet else None
            found = match_lvis(categories, synsets, definitions, numbers)
            table = "".join(f"{key}\t{name}\n" for key, name in sorted(found.items()))
            (output / "lvis_classes.tsv").write_text(table, encoding="utf-8")
            how = (
                "by WordNet's numbers" if numbers else "by name and definition, some of them wrong: --wordnet is exact"
            )
            print(f"{output / 'lvis_classes.tsv'}: {len(found):,} synsets of {len(categories):,} words of LVIS, {how}")
    except (ValueError, OSError, KeyError) as error:
        print(f"prepare_imagenet21k: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
