"""How many groups a group normalisation has in networks that may be narrow."""

from __future__ import annotations

import math

MAX_GROUPS = 32
MIN_CHANNELS = 4  # per group, so that a map of one cell still has something to normalise


def num_groups(channels: int) -> int:
    """Choose the number of groups: 32, or fewer where that leaves less than 4 channels in a group or does not divide.

    Args:
        channels: number of channels.

    Returns:
        Number of groups, a divisor of the channels.
    """
    groups = math.gcd(MAX_GROUPS, channels)
    while groups > 1 and channels // groups < MIN_CHANNELS:
        groups //= 2
    return groups
