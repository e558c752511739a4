"""train_net.py with the tiny model registered; TINY_SLEEP slows every step down so that a test can interrupt it."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import tiny

import train_net

if os.environ.get("TINY_SLEEP"):
    forward = tiny.TinyDetector.forward

    def slow(self, batch):
        time.sleep(float(os.environ["TINY_SLEEP"]))
        return forward(self, batch)

    tiny.TinyDetector.forward = slow

if __name__ == "__main__":
    train_net.run(train_net.parse())
