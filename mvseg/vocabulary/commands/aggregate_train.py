"""``aggregate-train``: train what makes one row of a class's example pictures."""

from __future__ import annotations

import argparse
import sys
import time

import torch
from torch import Tensor

from ..encoders import TextEncoder
from ..encoders.pair import build_paired_image_encoder
from ..fusion import AggregatorFacts, AggregatorTraining, save_aggregator, train_aggregator
from ..fusion.aggregator import check_aggregator_ending
from ..fusion.descriptions import embed_descriptions as embed_sentences
from ..fusion.descriptions import find_descriptions, read_descriptions
from ..prompts import embed_vocabulary
from ..vocabulary import Vocabulary
from .common import PATIENCE, WORDS_HELP, add_encoder_arguments, chosen_prompts, make_encoder, read_words
from .fused import add_example_arguments, embedded_examples

USUAL = AggregatorTraining()


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command.

    Args:
        commands: the subparsers of the program.
    """
    parser = commands.add_parser("aggregate-train", help="train an aggregator of example pictures")
    parser.add_argument("--words", required=True, help=WORDS_HELP)
    add_encoder_arguments(parser)
    add_example_arguments(parser, per_word=50)
    add = parser.add_argument
    add("--target", choices=("text", "examples", "both"), default=USUAL.target, help="what a row must be near to: the "
        "text of its class (descriptions, else the prompt), the mean of its other examples, or both")  # fmt: skip
    add("--steps", type=int, default=USUAL.steps)
    add("--classes", type=int, default=USUAL.classes, help=f"classes of a step ({USUAL.classes})")
    add("--given", type=int, default=USUAL.examples, help=f"examples of a class in a step ({USUAL.examples})")
    add("--rate", type=float, default=USUAL.rate, help=f"learning rate ({USUAL.rate:g})")
    add("--temperature", type=float, default=USUAL.temperature, help=f"({USUAL.temperature:g})")
    add("--layers", type=int, default=USUAL.layers)
    add("--heads", type=int, default=USUAL.heads)
    add("--out", required=True, help="file to write: .safetensors")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run the command.

    Args:
        args: the parsed command line.

    Raises:
        ValueError: if there are no examples, or a word has none.
    """
    check_aggregator_ending(args.out)
    if not args.examples:
        raise ValueError("an aggregator learns from example pictures: add --examples PLACE")
    vocabulary, encoder = read_words(args.words), make_encoder(args)
    settings = AggregatorTraining(
        args.steps, args.classes, args.given, args.rate, temperature=args.temperature, target=args.target,
        layers=args.layers, heads=args.heads, average=args.average, seed=args.seed,
    )  # fmt: skip
    images = build_paired_image_encoder(args.encoder, encoder.fingerprint, args.image_encoder, args.device)
    embedded = embedded_examples(args, vocabulary, images)
    usable = {word: rows for word, rows in embedded.items() if len(rows) > 1 or args.target == "text"}
    if left := [word for word in vocabulary.names if word not in usable]:
        print(f"{len(left)} words have too few examples and teach nothing: {', '.join(left[:10])}", file=sys.stderr)
    text = None if args.target == "examples" else _text(args, encoder, vocabulary.subset(usable))
    model, losses = train_aggregator(list(usable.values()), text, settings, _Progress(args.steps))
    facts = AggregatorFacts(
        model.width, args.layers, args.heads, args.image_encoder or args.encoder, images.fingerprint, args.average
    )
    save_aggregator(args.out, model, facts)
    begin, end = (sum(part) / len(part) for part in (losses[:10], losses[-10:]))
    print(f"{args.out}: {len(usable)} words, {args.steps} steps, loss {begin:.3f} -> {end:.3f}")


def _text(args: argparse.Namespace, encoder: TextEncoder, vocabulary: Vocabulary) -> Tensor:
    found = find_descriptions(vocabulary, read_descriptions(args.descriptions)) if args.descriptions else {}
    rows = embed_sentences(encoder, found, args.average)
    said = [word for word in vocabulary.names if word not in rows]
    if said:
        some = vocabulary.subset(said)
        embedded = embed_vocabulary(
            encoder, some, chosen_prompts(args), args.synonyms, args.average, args.parentheses
        ).embeddings
        assert embedded is not None  # embed_vocabulary gave them
        rows.update(zip(said, embedded, strict=True))
    return torch.stack([rows[word] for word in vocabulary.names])


class _Progress:
    def __init__(self, steps: int) -> None:
        self.steps, self.since = steps, time.monotonic()

    def __call__(self, step: int, loss: float) -> None:
        if time.monotonic() - self.since > PATIENCE:
            print(f"step {step + 1} of {self.steps}, loss {loss:.3f}", file=sys.stderr, flush=True)
            self.since = time.monotonic()
