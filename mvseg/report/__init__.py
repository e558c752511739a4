"""One self-contained HTML page about a run: results, curves, classes, pictures, words, and what was run."""

from mvseg.report.facts import record_session
from mvseg.report.run import Run, read_run
from mvseg.report.write import write_report

__all__ = ["Run", "read_run", "record_session", "write_report"]
