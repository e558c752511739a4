"""Claims: questions answered by a few small trainings with several seeds (``python -m benchmarks.claims NAME``)."""
