"""``python -m mvseg.vocabulary``: embed and compare words, and join vocabularies in one label space."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .commands import aggregate_train, comparison, embed, inspection, learning, match, merging, unidet

COMMANDS = (embed, aggregate_train, inspection, comparison, merging, learning, match, unidet)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: the command line without the program's name; None: that of the process.
    """
    parser = argparse.ArgumentParser(prog="python -m mvseg.vocabulary", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    args = parser.parse_args(arguments)
    args.run(args)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, KeyError, OSError, ImportError) as error:
        sys.exit(f"error: {error.args[0] if isinstance(error, KeyError) else error}")
