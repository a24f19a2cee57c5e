"""What was left out, and why: nothing leaves the data without one of these."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Dropped:
    """One reason for which rows were left out, and how many."""

    reason: str
    """What was dropped and which rule dropped it, e.g. "events of users with fewer than 5 events"."""
    count: int
