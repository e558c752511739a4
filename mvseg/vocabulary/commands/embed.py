"""``embed``: make a file of text embeddings for a list of words."""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from ..embedding_files import CARRYING, Provenance, check_ending, save_embeddings
from ..prompts import embed_vocabulary
from ..vocabulary import Vocabulary
from .common import WORDS_HELP, add_encoder_arguments, chosen_prompts, make_encoder, read_words


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command.

    Args:
        commands: the subparsers of the program.
    """
    parser = commands.add_parser("embed", help="make a file of text embeddings for a list of words")
    parser.add_argument("--words", required=True, help=WORDS_HELP)
    add_encoder_arguments(parser)
    parser.add_argument(
        "--synonyms",
        choices=("ignore", "average"),
        default="ignore",
        help="average a word with its synonyms where the words have some",
    )
    parser.add_argument(
        "--parentheses",
        choices=("keep", "drop"),
        default="keep",
        help="what happens to an explanation in parentheses, as in mouse_(computer_equipment)",
    )
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
    encoder = make_encoder(args)
    embedded = embed_vocabulary(encoder, words, prompts, args.synonyms, args.average, args.parentheses)
    embeddings = embedded.embeddings
    assert embeddings is not None  # embed_vocabulary gave them
    made = Provenance(args.encoder, encoder.fingerprint, prompts.name, args.average, args.synonyms)
    save_embeddings(args.out, embeddings.to(getattr(torch, args.dtype)), words.names, made)
    print(f"{args.out}: {len(words)} words, width {embeddings.shape[1]}, {args.dtype}{_closest(embeddings, words)}")
    if not args.out.endswith(CARRYING):
        print("A .npy file holds no words: keep the list with it, its order is that of the rows.")


def _closest(embeddings: Tensor, words: Vocabulary) -> str:
    if len(words) < 2:
        return ""
    best, pair = -2.0, (0, 0)
    unit = torch.nn.functional.normalize(embeddings.float(), dim=1)
    for start in range(0, len(words), 1024):
        cosine = unit[start : start + 1024] @ unit.T
        cosine[torch.arange(len(cosine)), torch.arange(start, start + len(cosine))] = -2.0
        if float(cosine.max()) > best:
            row, column = divmod(int(cosine.argmax()), len(words))
            best, pair = float(cosine.max()), (start + row, column)
    return f"; most alike: {words.names[pair[0]]} and {words.names[pair[1]]} (cosine {best:.2f})"
