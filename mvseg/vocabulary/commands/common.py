"""What the commands share: words from the command line, the encoder with its cache and its progress."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..embedding_files import ENDINGS, read_embeddings, read_provenance
from ..encoders import TextEncoder, build_text_encoder, cache_folder
from ..encoders.base import batches
from ..encoders.build import FORMS
from ..prompts import PROMPTS, PromptSet, embed_vocabulary, get_prompts
from ..suggestions import did_you_mean
from ..tables import builtin_tables
from ..vocabulary import Vocabulary

WORD_FILES = (".txt", ".tsv", ".json", ".yaml", ".yml")
WORDS_HELP = "built-in table, file of names (.txt, .tsv, .json, .yaml), or words separated by commas"
SETS_HELP = WORDS_HELP + "; WORDS@FILE adds embeddings from a file; a .npz file with words is words and embeddings"
STEP = 2048  # sentences between two lines of progress
PATIENCE = 2.0  # seconds before a line and between two


def read_words(text: str) -> Vocabulary:
    """Read the words of the command line.

    Args:
        text: a built-in table, a file of names, an embedding file that carries its words, or words separated by
            commas; ``WORDS@FILE`` takes the words' embeddings from an embedding file.

    Returns:
        The vocabulary.

    Raises:
        FileNotFoundError: if the text looks like a file that does not exist.
        ValueError: if a word is empty or there twice, or an embedding file does not carry its words.
    """
    words, at, file = text.rpartition("@")
    if at and words and Path(file).suffix in ENDINGS:
        vocabulary = read_words(words)
        return vocabulary.with_embeddings(file)
    if text in builtin_tables():
        return Vocabulary.from_table(text)
    if Path(text).suffix in WORD_FILES:
        return Vocabulary.from_file(text)
    if Path(text).suffix in ENDINGS:
        table, names = read_embeddings(text)
        if names is None:
            raise ValueError(f"embedding file {text} does not carry its words: write WORDS@{text}")
        return Vocabulary.from_names(names, Path(text).stem).with_embeddings(table)
    return Vocabulary.from_names(_split_words(text))


def _split_words(text: str) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    if words[-1] == "" and len(words) > 1:
        words.pop()  # a comma at the end
    empty = [number for number, word in enumerate(words, start=1) if not word]
    if empty:
        raise ValueError(f"word {empty[0]} of {len(words)} is empty in {text!r}")
    hint = did_you_mean(text, builtin_tables()) if len(words) == 1 else ""
    if len(words) == 1 and ("_" in text or "/" in text or hint):
        print(f"note: {text!r} is no built-in table or file of names{hint}; taken as one word", file=sys.stderr)
    return words


def read_vocabularies(texts: Sequence[str], args: argparse.Namespace) -> dict[str, Vocabulary]:
    """Read several vocabularies of the command line and embed them if an encoder is given.

    Args:
        texts: as for :func:`read_words`.
        args: the parsed arguments of :func:`add_encoder_arguments`.

    Returns:
        Label to vocabulary, which is named so too; all different.

    Raises:
        ValueError: if only some vocabularies have embeddings, or they have different widths or encoders.
    """
    found: dict[str, Vocabulary] = {}
    for number, text in enumerate(texts, start=1):
        vocabulary = read_words(text)
        label = vocabulary.name if vocabulary.name != "words" else f"words {number}"
        label = label if label not in found else f"{label} ({number})"
        found[label] = dataclasses.replace(vocabulary, name=label)
    if args.encoder:
        encoder, prompts = make_encoder(args), chosen_prompts(args)
        for label, vocabulary in found.items():
            if vocabulary.embeddings is None:
                found[label] = embed_vocabulary(
                    encoder, vocabulary, prompts, args.synonyms, args.average, args.parentheses
                )
    _check_same_encoder(texts)
    without = [label for label, vocabulary in found.items() if vocabulary.embeddings is None]
    if without and len(without) < len(found):
        raise ValueError(f"{', '.join(without)} has no embeddings and the others have: add --encoder, or WORDS@FILE")
    widths = {label: v.embeddings.shape[1] for label, v in found.items() if v.embeddings is not None}
    if len(set(widths.values())) > 1:
        listed = ", ".join(f"{label}: {width}" for label, width in widths.items())
        raise ValueError(f"embeddings of different width cannot be compared, they are of different encoders: {listed}")
    return found


def _check_same_encoder(texts: Sequence[str]) -> None:
    files = [file for file in (text.rpartition("@")[2] for text in texts) if Path(file).suffix in ENDINGS]
    made = {provenance.fingerprint: (file, provenance) for file in files if (provenance := read_provenance(file))}
    if len(made) > 1:
        listed = ", ".join(f"{file}: {provenance.encoder}" for file, provenance in made.values())
        raise ValueError(f"embeddings of different encoders cannot be compared: {listed}")


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
    """

    def __init__(self, encoder: TextEncoder) -> None:
        self.encoder = encoder

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
            if done < len(texts) and time.monotonic() - since > PATIENCE:
                print(f"{done:,} of {len(texts):,} sentences embedded", file=sys.stderr, flush=True)
                since = time.monotonic()
        return torch.cat(rows)
