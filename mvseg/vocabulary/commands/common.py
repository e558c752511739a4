"""What the commands share: words from the command line, the encoder with its cache and its progress."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..encoders import TextEncoder, build_text_encoder, cache_folder
from ..encoders.base import batches
from ..encoders.build import FORMS
from ..prompts import PROMPTS, PromptSet, get_prompts
from ..suggestions import did_you_mean
from ..tables import builtin_tables
from ..vocabulary import Vocabulary

WORD_FILES = (".txt", ".tsv", ".json", ".yaml", ".yml")
WORDS_HELP = "built-in table, file of names (.txt, .tsv, .json, .yaml), or words separated by commas"
STEP = 2048  # sentences between two lines of progress


def read_words(text: str) -> Vocabulary:
    """Read the words of the command line.

    Args:
        text: a built-in table, a file of names, or words separated by commas.

    Returns:
        The vocabulary.

    Raises:
        FileNotFoundError: if the text looks like a file that does not exist.
        ValueError: if a word is empty or there twice.
    """
    if text in builtin_tables():
        return Vocabulary.from_table(text)
    if Path(text).suffix in WORD_FILES:
        return Vocabulary.from_file(text)
    words = [word.strip() for word in text.split(",")]
    if words[-1] == "" and len(words) > 1:
        words.pop()  # a comma at the end
    empty = [number for number, word in enumerate(words, start=1) if not word]
    if empty:
        raise ValueError(f"word {empty[0]} of {len(words)} is empty in {text!r}")
    if len(words) == 1 and ("_" in text or "/" in text):
        hint = did_you_mean(text, builtin_tables())
        print(f"note: {text!r} is no built-in table or file of names{hint}; taken as one word", file=sys.stderr)
    return Vocabulary.from_names(words)


def add_encoder_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Add the arguments that choose an encoder and its prompts.

    Args:
        parser: the parser of a command.
        required: the command cannot do without an encoder.
    """
    parser.add_argument("--encoder", required=required, help=FORMS)
    parser.add_argument(
        "--prompts",
        "--template",
        dest="prompts",
        action="append",
        metavar="SET_OR_TEMPLATE",
        help=f'prompt set ({", ".join(PROMPTS)}) or template with one {{}}, such as "a photo of a {{}}"; several '
        "are averaged: repeat the option or separate them by ; (default single)",
    )
    parser.add_argument(
        "--average",
        choices=("normalized", "raw"),
        default="normalized",
        help="bring the embedding of every prompt to length 1 before they are averaged, or average them as they are",
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cache", help="folder that keeps embeddings for the next time ($MVSEG_CACHE, ~/.cache/mvseg)")
    parser.add_argument("--no-cache", action="store_true", help="keep nothing")


def chosen_prompts(args: argparse.Namespace) -> PromptSet:
    """Find the prompts that the command line asks for.

    Args:
        args: the parsed arguments of :func:`add_encoder_arguments`.

    Returns:
        The prompts; "single" if none are asked for.
    """
    return get_prompts(";".join(args.prompts or ("single",)))


def make_encoder(args: argparse.Namespace) -> TextEncoder:
    """Build the encoder that the command line asks for.

    Args:
        args: the parsed arguments of :func:`add_encoder_arguments`.

    Returns:
        The encoder, with a cache if one is wanted.
    """
    cache = None if args.no_cache else args.cache or cache_folder()
    return ReportingEncoder(build_text_encoder(args.encoder, args.device, cache))


class ReportingEncoder:
    """Say on the error stream how far a long list of sentences is.

    Args:
        encoder: the encoder that does the work.
        patience: seconds before a line and between two.
    """

    def __init__(self, encoder: TextEncoder, patience: float = 2.0) -> None:
        self.encoder = encoder
        self._patience = patience

    @property
    def fingerprint(self) -> str:
        """Say which encoder this is by its content.

        Returns:
            The fingerprint of the encoder that does the work.
        """
        return self.encoder.fingerprint

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Embed sentences.

        Args:
            texts: n sentences.

        Returns:
            Embeddings (n, D), float32, on the CPU.
        """
        rows, done, since = [], 0, time.monotonic()
        for batch in batches(texts, STEP):
            rows.append(self.encoder.encode(batch))
            done += len(batch)
            if done < len(texts) and time.monotonic() - since > self._patience:
                print(f"{done:,} of {len(texts):,} sentences embedded", file=sys.stderr, flush=True)
                since = time.monotonic()
        return torch.cat(rows)
