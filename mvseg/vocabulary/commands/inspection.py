"""``inspect``: counts of a vocabulary, nearest neighbours, duplicates, and words that an encoder confuses."""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Sequence

from ..encoders import TextEncoder
from ..prompts import embed_words, spoken, spoken_names
from ..similarity import similarity_range, unit_rows
from ..suggestions import normalize
from ..vocabulary import Vocabulary
from .common import SETS_HELP, add_encoder_arguments, chosen_prompts, make_encoder, read_vocabularies
from .neighbours import closest_pairs, count_pairs, nearest

SAME = 0.999  # cosine from which an encoder does not tell two words apart


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command.

    Args:
        commands: the subparsers of the program.
    """
    parser = commands.add_parser("inspect", help="counts, nearest neighbours, duplicates, words that are confused")
    parser.add_argument("words", help=SETS_HELP)
    add_encoder_arguments(parser, required=False)
    parser.add_argument("--near", metavar="WORDS", help="show the nearest neighbours of these words (commas between)")
    parser.add_argument("--top", type=int, default=10, help="length of the lists (10)")
    parser.add_argument(
        "--threshold", type=float, default=0.9, help="cosine from which words are near-duplicates (0.9)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run the command.

    Args:
        args: the parsed command line.
    """
    (vocabulary,) = read_vocabularies([args.words], args).values()
    encoder = make_encoder(args) if args.encoder else None
    print("\n".join(count_lines(vocabulary)))
    _print_list("names that mean two words", shared_names(vocabulary), args.top)
    if vocabulary.embeddings is None:
        print("no embeddings: add --encoder minilm, or WORDS@FILE, for neighbours and near-duplicates")
        return
    _print_similarity(vocabulary, args.top, args.threshold)
    if encoder is not None:
        prompts = chosen_prompts(args).templates
        _print_list("words that the encoder confuses", confusions(vocabulary, encoder, prompts), args.top)
    if args.near:
        _print_near(vocabulary, args.near, encoder, chosen_prompts(args).templates, args.top)


def count_lines(vocabulary: Vocabulary) -> list[str]:
    """Count what is known about the words.

    Args:
        vocabulary: the words.

    Returns:
        Lines of text.
    """
    lines = [f"{vocabulary.name}: {len(vocabulary)} words"]
    known = {
        "synonyms": sum(map(bool, vocabulary.synonyms)),
        "parents": sum(map(bool, vocabulary.parents)),
        "definitions": sum(map(bool, vocabulary.definitions or ())),
        "image counts": len(vocabulary.image_count or ()),
        "novel": sum(vocabulary.novel),
    }
    lines += [f"  with {what}: {count}" for what, count in known.items() if count]
    if vocabulary.frequency:
        counts = Counter(vocabulary.frequency)
        lines.append(f"  rare {counts['r']}, common {counts['c']}, frequent {counts['f']}")
    if vocabulary.is_thing:
        things = sum(vocabulary.is_thing)
        lines.append(f"  things {things}, stuff {len(vocabulary) - things}")
    foreign = [name for name in vocabulary.names if not name.isascii()]
    if foreign:
        lines.append(f"  not in ASCII letters: {len(foreign)}, such as {foreign[0]}")
    longest = max(vocabulary.names, key=len)
    lines.append(f"  longest: {longest} ({len(longest)} letters)")
    return lines


def shared_names(vocabulary: Vocabulary) -> list[str]:
    """Find names and synonyms that stand for more than one word of a vocabulary.

    Args:
        vocabulary: the words.

    Returns:
        Lines of text such as ``"remote: remote_control, remote"``.
    """
    owners: dict[str, list[str]] = defaultdict(list)
    for name, others in zip(vocabulary.names, vocabulary.synonyms, strict=True):
        for spelling in {normalize(text) for text in (*spoken_names(name, others), name)}:
            owners[spelling].append(name)
    return [f"{spelling}: {', '.join(names)}" for spelling, names in owners.items() if len(names) > 1]


def confusions(vocabulary: Vocabulary, encoder: TextEncoder, templates: Sequence[str]) -> list[str]:
    """Find words whose synonym is nearer to another word than to its own.

    Args:
        vocabulary: words with embeddings of this encoder.
        encoder: the encoder.
        templates: the prompts that the embeddings were made with.

    Returns:
        Lines of text, the worst first.
    """
    assert vocabulary.embeddings is not None  # the caller has checked
    said = [
        (row, text)
        for row, (name, others) in enumerate(zip(vocabulary.names, vocabulary.synonyms, strict=True))
        for text in spoken_names(name, others)[1:]
    ]
    if not said:
        return []
    rows = embed_words(encoder, [text for _, text in said], templates)
    own = (unit_rows(rows) * unit_rows(vocabulary.embeddings[[row for row, _ in said]])).sum(1).tolist()
    found = []
    for (row, text), cosine, ((other, value), *_) in zip(said, own, nearest(vocabulary, rows, 1), strict=True):
        name = vocabulary.names[row]
        if other != name and value > cosine:
            found.append((value - cosine, f"{text} (of {name}, {cosine:.2f}) is nearer to {other} ({value:.2f})"))
    return [line for _, line in sorted(found, reverse=True)]


def _print_similarity(vocabulary: Vocabulary, top: int, threshold: float) -> None:
    assert vocabulary.embeddings is not None  # the caller has checked
    units = unit_rows(vocabulary.embeddings)
    if len(vocabulary) < 2:
        print(f"embeddings of width {units.shape[1]}; one word has no neighbours")
        return
    limits = similarity_range(units)
    print(
        f"embeddings of width {units.shape[1]}; cosine of two words: smallest {limits.minimum:.2f}, "
        f"mean {limits.mean:.2f}, largest {limits.maximum:.2f}"
    )
    same, alike = count_pairs(vocabulary, SAME), count_pairs(vocabulary, threshold)
    pairs = closest_pairs(vocabulary, max(min(same, 10 * top) + top, 1))
    if same:
        _print_list("not told apart", [f"{a} = {b}" for a, b, value in pairs if value >= SAME], top, same)
    near = [f"{a} ~ {b} ({value:.2f})" for a, b, value in pairs if value < SAME]
    title = f"near-duplicates (cosine {threshold:g} and above)" if alike > same else "most alike"
    _print_list(title, near, top, alike - same if alike > same else min(top, len(near)))


def _print_near(
    vocabulary: Vocabulary, asked: str, encoder: TextEncoder | None, templates: Sequence[str], top: int
) -> None:
    assert vocabulary.embeddings is not None  # the caller has checked
    for word in (part.strip() for part in asked.split(",") if part.strip()):
        index = vocabulary.positions.get(normalize(word))
        if index is not None:
            rows, skip = vocabulary.embeddings[[index]], [index]
        elif encoder is not None:
            rows, skip = embed_words(encoder, [spoken(word)], templates), []
        else:
            vocabulary.index(word)  # raises, with the nearest spellings
            return
        (words,) = nearest(vocabulary, rows, top, skip)
        print(f"nearest to {word}: " + ", ".join(f"{name} ({value:.2f})" for name, value in words))


def _print_list(title: str, lines: Sequence[str], top: int, count: int | None = None) -> None:
    count = len(lines) if count is None else count
    shown = lines[: min(top, count)]
    if not shown:
        return
    print(f"{title}: {count}")
    print("\n".join(f"  {line}" for line in shown))
    if count > len(shown):
        print(f"  and {count - len(shown)} more (--top)")
