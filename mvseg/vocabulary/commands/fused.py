"""Rows out of descriptions and image examples for the commands; like every entry point it may use every room."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..embedding_files import Provenance
from ..encoders import ImageEncoder, TextEncoder
from ..encoders.pair import build_paired_image_encoder
from ..fusion import ClassifierRows, combine_rows, embed_descriptions, find_descriptions, load_aggregator
from ..fusion.aggregator import check_aggregator
from ..fusion.descriptions import FORMS, read_descriptions
from ..prompts import PromptSet, embed_vocabulary
from ..vocabulary import Vocabulary

CONTEXT, CONTEXT_OF_AGGREGATOR = 0.4, 0.2
SHOWN = 10


@dataclass(frozen=True)
class _Text:
    rows: Mapping[str, Tensor]
    made_of: Mapping[str, str]


def add_example_arguments(parser: argparse.ArgumentParser, per_word: int) -> None:
    """Add the arguments that say where example pictures are and how they are seen.

    Args:
        parser: the parser of a command.
        per_word: usual number of examples of a word.
    """
    add = parser.add_argument
    add("--descriptions", metavar="FILE", help=FORMS)
    add(
        "--examples", metavar="PLACE", help="folder FOLDER/WORD/IMAGE, .csv of boxes (word,image,x,y,w,h), or a dataset"
    )
    add("--cards", action="append", default=[], metavar="PLACE", help="cards of datasets of your own")
    add("--examples-per-word", type=int, default=per_word, metavar="K", help=f"drawn by area ({per_word}); 0: all")
    add("--views", type=int, default=5, metavar="N", help="random views of each example (5); 0: the picture as it is")
    add("--context", type=float, help=f"share by which the square around a box is larger ({CONTEXT}; for an aggregator "
        f"{CONTEXT_OF_AGGREGATOR})")  # fmt: skip
    add("--seed", type=int, default=42, help="of the draws (42)")
    add("--image-encoder", default="", metavar="ENCODER", help="open_clip:ARCHITECTURE:CHECKPOINT_OR_TAG, the other "
        "side of the text encoder's model; needed only where --encoder does not name that model")  # fmt: skip


def add_fusion_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say what rows are made of.

    Args:
        parser: the parser of a command.
    """
    add_example_arguments(parser, per_word=5)
    add = parser.add_argument
    add("--text", choices=("descriptions", "prompts", "none"), help="what text goes into rows (descriptions if there "
        "are some, prompts if there are no examples either, else none)")  # fmt: skip
    add("--missing", choices=("error", "prompt"), default="error", help="a word with no description and no example: "
        "an error, or its prompt; with prompt, words with only examples have their prompt as text too")  # fmt: skip
    add("--fusion-weight", type=float, default=1.0, metavar="A", help="weight of images beside text (1)")
    add("--aggregator", metavar="FILE", help="what makes a row of examples (.safetensors of aggregate-train); else "
        "their average")  # fmt: skip


def wants_fusion(args: argparse.Namespace) -> bool:
    """Say whether rows are made of more than prompts.

    Args:
        args: the parsed arguments of :func:`add_fusion_arguments`.

    Returns:
        True if there are descriptions or examples.

    Raises:
        ValueError: if an option needs another one that is not given.
    """
    if args.aggregator and not args.examples:
        raise ValueError("--aggregator makes rows of image examples: add --examples PLACE")
    if args.text == "descriptions" and not args.descriptions:
        raise ValueError("--text descriptions needs --descriptions FILE")
    if args.descriptions and args.text not in (None, "descriptions"):
        raise ValueError(f"--text {args.text} does not use --descriptions: leave one of them out")
    if args.text == "none" and not args.examples:
        raise ValueError("--text none leaves nothing to make rows of: add --examples PLACE")
    return bool(args.descriptions or args.examples)


def fused_rows(
    args: argparse.Namespace, vocabulary: Vocabulary, encoder: TextEncoder, prompts: PromptSet
) -> tuple[ClassifierRows, Provenance]:
    """Make the rows that the command line asks for, and print what single words are made of.

    Args:
        args: the parsed arguments.
        vocabulary: the n words.
        encoder: the text encoder.
        prompts: the prompts of words without a description.

    Returns:
        The rows (n, D), and how they were made.
    """
    images: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    image_encoder = None
    if args.examples:
        image_encoder = build_paired_image_encoder(args.encoder, encoder.fingerprint, args.image_encoder, args.device)
        images, counts = _image_rows(args, vocabulary, image_encoder)
    text = _text_rows(args, vocabulary, encoder, prompts, images)
    rows = combine_rows(vocabulary.names, text.rows, images, args.fusion_weight)
    both = bool(args.examples) and args.text_used != "none"
    for kind in ("text", "images") if both else ():
        _list(f"words with {kind} alone", rows.of(kind))
    made_of = tuple(
        " + ".join(
            [text.made_of.get(w, "")] * (w in text.rows) + [_plural(counts.get(w, 0), "example")] * (w in images)
        )
        for w in vocabulary.names
    )
    return rows, _provenance(args, encoder, prompts, image_encoder, made_of, text)


def _text_rows(
    args: argparse.Namespace,
    vocabulary: Vocabulary,
    encoder: TextEncoder,
    prompts: PromptSet,
    images: Mapping[str, Tensor],
) -> _Text:
    args.text_used = args.text or ("descriptions" if args.descriptions else "none")
    found: dict[str, tuple[str, ...]] = {}
    if args.text_used == "descriptions":
        given = read_descriptions(args.descriptions)
        found = find_descriptions(vocabulary, given)
        if len(given) > len(found):
            print(f"{args.descriptions}: {len(given) - len(found)} of its {len(given)} words are not asked for")
    rows = embed_descriptions(encoder, found, args.average)
    made_of = {word: _plural(len(sentences), "description") for word, sentences in found.items()}
    wanting = [word for word in vocabulary.names if word not in found]
    if args.text_used == "prompts":
        said = wanting
    elif args.missing == "prompt":
        said = wanting if args.text_used == "descriptions" else [word for word in wanting if word not in images]
        _list("words whose text is their prompt", said)
    else:
        said = []
    if said:
        some = vocabulary.subset(said)
        embedded = embed_vocabulary(encoder, some, prompts, args.synonyms, args.average, args.parentheses)
        assert embedded.embeddings is not None  # embed_vocabulary gave them
        rows.update(zip(said, embedded.embeddings, strict=True))
        made_of.update(dict.fromkeys(said, "prompt"))
    return _Text(rows, made_of)


def _image_rows(
    args: argparse.Namespace, vocabulary: Vocabulary, encoder: ImageEncoder
) -> tuple[dict[str, Tensor], dict[str, int]]:
    from mvseg.data.example_views import image_rows

    aggregator = load_aggregator(args.aggregator) if args.aggregator else None
    embedded = embedded_examples(args, vocabulary, encoder)
    if aggregator is not None and embedded:
        width = next(iter(embedded.values())).shape[-1]
        check_aggregator(aggregator[1], width, encoder.fingerprint, args.aggregator)
    return image_rows(embedded, args.average, aggregator), {word: len(rows) for word, rows in embedded.items()}


def embedded_examples(args: argparse.Namespace, vocabulary: Vocabulary, encoder: ImageEncoder) -> dict[str, Tensor]:
    """Draw and embed the examples that the command line asks for.

    Args:
        args: the parsed arguments of :func:`add_example_arguments`.
        vocabulary: the words.
        encoder: the image encoder.

    Returns:
        Word to the embeddings of its examples, (m, views, D) float32; words without examples are left out.
    """
    import mvseg.data  # noqa: F401  (registers the datasets)
    from mvseg.data.catalog import register_cards
    from mvseg.data.example_views import ViewSettings, embed_examples
    from mvseg.data.examples import choose_examples, read_examples

    register_cards(args.cards)
    if args.context is None:
        args.context = CONTEXT_OF_AGGREGATOR if getattr(args, "aggregator", "train") else CONTEXT
    settings = ViewSettings(args.context, args.views, args.seed)
    chosen = choose_examples(read_examples(args.examples, vocabulary), args.examples_per_word, args.seed)
    few = [f"{word} ({len(found)})" for word, found in chosen.items() if len(found) < args.examples_per_word]
    _list(f"words with fewer than {args.examples_per_word} examples", few)
    return embed_examples(encoder, chosen, settings)


def _provenance(
    args: argparse.Namespace,
    encoder: TextEncoder,
    prompts: PromptSet,
    image_encoder: ImageEncoder | None,
    made_of: tuple[str, ...],
    text: _Text,
) -> Provenance:
    facts: dict[str, Any] = {}
    if image_encoder is not None:
        facts = {
            "image_encoder": args.image_encoder or args.encoder,
            "image_fingerprint": image_encoder.fingerprint,
            "examples": f"{args.examples}: {args.examples_per_word or 'all'} of each word, {args.views} views, context "
            f"{args.context:g}, seed {args.seed}",
            "aggregator": args.aggregator or "",
            "fusion_weight": f"{args.fusion_weight:g}",
        }
    return Provenance(
        args.encoder,
        encoder.fingerprint,
        prompts.name if "prompt" in text.made_of.values() else "",
        args.average,
        args.synonyms,
        descriptions=args.descriptions or "",
        rows=made_of,
        **facts,
    )


def _list(what: str, words: Sequence[str]) -> None:
    if words:
        more = f" and {len(words) - SHOWN} more" if len(words) > SHOWN else ""
        print(f"{what}: {len(words)}: {', '.join(words[:SHOWN])}{more}", file=sys.stderr)


def _plural(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"
