"""``python -m mvseg.checkpoints READER IN OUT``: read another project's weights; ``show``: where a file comes from.

An entry point, as train_net.py is: it may import from every room.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import mvseg  # noqa: F401  (first: it makes detectron2 importable)

# isort: split
from mvseg.checkpoints.importing import import_weights, read_passport, write_table
from mvseg.checkpoints.readers import READERS


def make_parser() -> argparse.ArgumentParser:
    """Describe the command line: one command for each reader, and ``show``.

    Returns:
        The parser.
    """
    parser = argparse.ArgumentParser(prog="python -m mvseg.checkpoints", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for reader in READERS.values():
        command = commands.add_parser(reader.name, help=reader.help, description=reader.help)
        command.add_argument("source", metavar="IN", help="weight file, .pth or .pkl")
        command.add_argument("target", metavar="OUT", help="checkpoint to write, .pth; its config is written beside it")
        command.add_argument(
            "--vocabulary",
            action="append",
            default=[],
            help="the words of the file's classes: built-in table or file of names, once for each dataset of the file; "
            "default: by their number where that tells it (80: coco, 1203: lvis_v1)",
        )
        command.add_argument(
            "--label-space",
            metavar="FILE",
            help="which words of several datasets share a column: mapping in the form of DATASETS.LABEL_SPACE",
        )
        command.add_argument("--allow-pickle", action="store_true", help="also read pickles of numpy arrays")
        command.add_argument(
            "--partial", action="store_true", help="write what fits although something is left or lacks"
        )
        command.add_argument("--overwrite", action="store_true", help="replace files that exist")
        command.add_argument("--table", metavar="FILE", help="also write one line for every entry, separated by tabs")
    show = commands.add_parser("show", help="say where an imported checkpoint comes from")
    show.add_argument("source", metavar="FILE", help="checkpoint written by this command")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: the command line without the program's name; None: that of the process.
    """
    args = make_parser().parse_args(arguments)
    if args.command == "show":
        for key, value in read_passport(args.source).items():
            print(f"{key}: {'; '.join(value) if isinstance(value, list) else value}")
        return
    result = import_weights(
        args.command,
        args.source,
        args.target,
        vocabulary=args.vocabulary,
        label_space=args.label_space,
        allow_pickle=args.allow_pickle,
        partial=args.partial,
        overwrite=args.overwrite,
    )
    if args.table:
        write_table(args.table, result.rows)
    print(result.describe())


if __name__ == "__main__":
    try:
        main()
    except (ValueError, KeyError, OSError, ImportError) as error:
        sys.exit(f"error: {error.args[0] if isinstance(error, KeyError) else error}")
