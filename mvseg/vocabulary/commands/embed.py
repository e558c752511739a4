"""``embed``: make a file of embeddings for a list of words, of prompts, descriptions and image examples."""

from __future__ import annotations

import argparse
import sys

import torch

from ..embedding_files import CARRYING, Provenance, check_ending, save_embeddings
from ..encoders.base import unread_texts
from ..prompts import embed_vocabulary
from ..vocabulary import Vocabulary
from .common import WORDS_HELP, add_encoder_arguments, chosen_prompts, make_encoder, read_words
from .fused import add_fusion_arguments, fused_rows, wants_fusion
from .neighbours import closest_pairs


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command.

    Args:
        commands: the subparsers of the program.
    """
    parser = commands.add_parser("embed", help="make a file of text embeddings for a list of words")
    parser.add_argument("--words", required=True, help=WORDS_HELP)
    add_encoder_arguments(parser)
    add_fusion_arguments(parser)
    parser.add_argument("--out", required=True, help="file to write: .npy, .npz or .safetensors")
    parser.add_argument("--dtype", choices=("float16", "float32"), default="float16")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run the command.

    Args:
        args: the parsed command line.
    """
    check_ending(args.out)
    words = read_words(args.words)
    prompts = chosen_prompts(args)
    fused = wants_fusion(args)
    encoder = make_encoder(args)
    if fused:
        rows, made = fused_rows(args, words, encoder, prompts)
        embedded = words.with_embeddings(rows.embeddings)
    else:
        embedded = embed_vocabulary(encoder, words, prompts, args.synonyms, args.average, args.parentheses)
        made = Provenance(args.encoder, encoder.fingerprint, prompts.name, args.average, args.synonyms)
    embeddings = embedded.embeddings
    assert embeddings is not None  # both ways gave them
    save_embeddings(args.out, embeddings.to(getattr(torch, args.dtype)), words.names, made)
    print(f"{args.out}: {len(words)} words, width {embeddings.shape[1]}, {args.dtype}{_closest(embedded)}")
    if not fused and (unread := unread_texts(encoder, words.names)):
        some = f"{len(unread)} of the words ({', '.join(unread[:5])})"
        why = "its tokenizer does not know their symbols, so their rows mean nothing"
        print(f"warning: {args.encoder} cannot read {some}: {why}", file=sys.stderr)
    if not args.out.endswith(CARRYING):
        print("A .npy file holds no words: keep the list with it, its order is that of the rows.")


def _closest(vocabulary: Vocabulary) -> str:
    if len(vocabulary) < 2:
        return ""
    first, second, cosine = closest_pairs(vocabulary, 1)[0]
    return f"; most alike: {first} and {second} (cosine {cosine:.2f})"
