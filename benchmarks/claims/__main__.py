"""``python -m benchmarks.claims [NAME]``: list the claims, or do the trainings of one and print its table.

Runs that are done are not repeated, a broken run goes on from its last checkpoint. Tables, Markdown, CSV and the runs
lie in ``output/claims/NAME``.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

from .claim import ROOT, Claim, claim_names, load_claim
from .runs import Outcome, Workshop
from .tables import arm_table, difference_table, hint, write_tables


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Args:
        arguments: what stands behind the command; None takes it from the process.

    Returns:
        The arguments.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.claims", description=__doc__)
    parser.add_argument("name", nargs="?", help="a claim, or a YAML file of your own; left out: list the claims")
    parser.add_argument("--seeds", type=_numbers, help="seeds instead of the claim's own, such as 1,2,3,4,5")
    parser.add_argument("--only", action="append", default=[], metavar="ARM", help="only this arm; may be repeated")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at the same time; they share the cores (1)")
    parser.add_argument("--output", default="output/claims", help="folder of all claims' results (output/claims)")
    parser.add_argument("--table", action="store_true", help="train nothing: the table of what is done")
    return parser.parse_args(arguments)


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def list_claims() -> str:
    """Describe the claims that come with mvseg.

    Returns:
        Several lines.
    """
    lines = []
    for name in claim_names():
        claim = load_claim(name)
        runs = len(claim.seeds) * (
            sum(len(arm.get("runs", [""])) for arm in claim.arms.values()) + (claim.start is not None)
        )
        lines += [f"{name}: {claim.question}", f"    arms {', '.join(claim.arms)}; {runs} trainings of {claim.config}"]
    return "\n".join(lines)


def answer(claim: Claim, args: argparse.Namespace) -> list[Outcome]:
    """Do the trainings of a claim, print its tables and write them.

    Args:
        claim: the claim.
        args: the command line.

    Returns:
        What became of every run.
    """
    folder = (ROOT / args.output / claim.name).resolve()
    workshop = Workshop(claim, folder, args.jobs, say=lambda line: print(line, flush=True))
    runs = claim.runs(args.seeds, args.only)
    if args.table:
        outcomes = [workshop.known(run) or Outcome(run, None, "not done") for run in runs]
    else:
        outcomes = workshop.work(runs)
    print(
        f"\n{claim.question}\n\n{arm_table(claim, outcomes)}\n\n{difference_table(claim, outcomes)}\n\n{hint(outcomes)}"
    )
    markdown, table = write_tables(claim, outcomes, folder)
    print(f"{markdown}\n{table}")
    return outcomes


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: what stands behind the command; None takes it from the process.

    Returns:
        Exit code: 0; 1 if a training failed; 2 if the claim is wrong; 130 if it was interrupted.
    """
    args = parse(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    if args.name is None:
        print(list_claims())
        return 0
    try:
        claim = load_claim(args.name)
        outcomes = answer(claim, args)
    except (ValueError, KeyError, FileNotFoundError) as error:
        print(f"benchmarks.claims: {error.args[0] if isinstance(error, KeyError) else error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted: the same command goes on from here", file=sys.stderr)
        return 130
    return 0 if args.table else int(any(outcome.error for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
