"""``python -m mvseg.report OUTPUT_DIR``: write the report of a run, finished or not."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import mvseg  # noqa: F401  (first: it makes detectron2 importable)
from mvseg.report import write_report


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: what stands behind the command; None takes it from the process.

    Returns:
        Exit code: 0, or 2 if a folder holds no run.
    """
    parser = argparse.ArgumentParser(prog="python -m mvseg.report", description=__doc__)
    parser.add_argument("output_dir", nargs="+", help="OUTPUT_DIR of a run")
    parser.add_argument("--output", help="file to write; default: report.html in the run's folder")
    args = parser.parse_args(arguments)
    if args.output and len(args.output_dir) > 1:
        parser.error("--output takes one run")
    code = 0
    for folder in args.output_dir:
        try:
            path = write_report(folder, args.output)
        except OSError as error:
            print(f"mvseg.report: {error}", file=sys.stderr)
            code = 2
            continue
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    return code


if __name__ == "__main__":
    sys.exit(main())
