"""From a detector to stored proposals: ``python -m mvseg.inference.proposals``."""

from mvseg.inference.proposals.proposing import Proposer, weights_fingerprint
from mvseg.inference.proposals.storing import store_proposals

__all__ = ["Proposer", "store_proposals", "weights_fingerprint"]
