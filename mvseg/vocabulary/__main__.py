"""``python -m mvseg.vocabulary embed``: make a file of text embeddings for a list of words."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import Vocabulary, builtin_tables
from .encoders import build_text_encoder
from .prompts import DEFAULT_TEMPLATE, embed_words

ENDINGS = (".npy", ".npz", ".safetensors")


def read_words(text: str) -> Vocabulary:
    """Read the words of the command line.

    Args:
        text: a built-in table, a file of names, or words separated by commas.

    Returns:
        The vocabulary.

    Raises:
        FileNotFoundError: if the text looks like a file that does not exist.
    """
    if text in builtin_tables():
        return Vocabulary.from_table(text)
    if Path(text).suffix in (".txt", ".tsv", ".json", ".yaml", ".yml"):
        return Vocabulary.from_file(text)
    return Vocabulary.from_names(word.strip() for word in text.split(",") if word.strip())


def save_embeddings(path: str | Path, embeddings: Tensor, names: Sequence[str]) -> None:
    """Write text embeddings; only ``.npz`` keeps the words with them.

    Args:
        path: file ending in .npy, .npz or .safetensors.
        embeddings: (n, D), float.
        names: the n words.

    Raises:
        ValueError: if the file has another ending.
    """
    path = Path(path)
    if path.suffix not in ENDINGS:
        raise ValueError(f"{path}: an embedding file ends in {', '.join(ENDINGS)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, embeddings.numpy())
    elif path.suffix == ".npz":
        np.savez(path, embeddings=embeddings.numpy(), names=np.array(list(names)))
    else:
        from safetensors.torch import save_file

        save_file({"embeddings": embeddings.contiguous()}, path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: the command line without the program's name; None: that of the process.
    """
    parser = argparse.ArgumentParser(prog="python -m mvseg.vocabulary", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    embed = commands.add_parser("embed", help="make a file of text embeddings for a list of words")
    embed.add_argument("--words", required=True, help="built-in table, file of names, or words separated by commas")
    embed.add_argument(
        "--encoder", required=True, help="open_clip:ARCHITECTURE:CHECKPOINT_OR_TAG or huggingface:FOLDER"
    )
    embed.add_argument(
        "--template", action="append", help=f'prompt with one {{}}; repeat to average ("{DEFAULT_TEMPLATE}")'
    )
    embed.add_argument("--out", required=True, help="file to write: .npy, .npz or .safetensors")
    embed.add_argument("--dtype", choices=("float16", "float32"), default="float16")
    embed.add_argument("--device", default="cpu")
    args = parser.parse_args(arguments)
    words = read_words(args.words)
    encoder = build_text_encoder(args.encoder, args.device)
    embeddings = embed_words(encoder, words.names, tuple(args.template or (DEFAULT_TEMPLATE,)))
    save_embeddings(args.out, embeddings.to(getattr(torch, args.dtype)), words.names)
    print(
        f"{args.out}: {len(words)} words, width {embeddings.shape[1]}, {args.dtype}{_closest(embeddings, words.names)}"
    )


def _closest(embeddings: Tensor, names: Sequence[str]) -> str:
    if len(names) < 2:
        return ""
    cosine = embeddings @ embeddings.T - 2 * torch.eye(len(names))
    row, column = divmod(int(cosine.argmax()), len(names))
    return f"; most alike: {names[row]} and {names[column]} (cosine {float(cosine.max()):.2f})"


if __name__ == "__main__":
    main()
