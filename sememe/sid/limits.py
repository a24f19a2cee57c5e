"""Limits that semantic IDs must keep to before anything is trained on them.

A limit that is None demands nothing, and that is how recipes come: how good codes must be depends on the catalogue.
Limits stop what is broken (collapsed, colliding, blind codes); they do not rank good codes.  Entropy, for one, does not
tell which of two healthy sets of codes gives the better recommendations.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields

from sememe.core.errors import ConfigError
from sememe.sid.report import LevelUse, SidReport

WAYS_OUT = {
    "distinct_share": "give items a finer signal (more text, collaborative vectors), or leave out copies: no tokenizer "
    "tells equal vectors apart",
    "unique_share": "give items a finer signal (more text, collaborative vectors), more levels or larger codebooks",
    "largest_group": "look for items without content or with the same content, or give more levels or larger codebooks",
    "used_share": "see first that items differ (limits.distinct_share), then use fewer codes per level, or a tokenizer "
    "that fills them all (ResidualKMeans, BalancedKMeans)",
    "perplexity_share": "see first that items differ (limits.distinct_share; evenly dealt codes hide it if not), "
    "then use fewer codes per level, or a tokenizer that spreads items over them (BalancedKMeans)",
    "reconstruction_error": "give more levels or larger codebooks, or fit the tokenizer for longer",
    "neighbour_lift": "fit the tokenizer for longer, or choose one that gives similar items the same codes",
}
"""What usually mends each limit."""


@dataclass(frozen=True)
class CodeLimits:
    """What the semantic codes of a catalogue must keep to; None demands nothing.  The collision level does not count.

    Changing a limit makes no stage anew.
    """

    distinct_share: float | None = None
    """Different vectors per item, at least this many.  Says what codes could tell apart; the other limits judge what
    was made of it, and codes that are dealt out evenly look well used on equal vectors, too."""
    unique_share: float | None = None
    """Different code tuples per item, at least this many."""
    largest_group: int | None = None
    """Items that share all their codes, at most this many."""
    used_share: float | None = None
    """On every level: codes used, of those that could be (the codebook, or the items where they are fewer), at least
    this share."""
    perplexity_share: float | None = None
    """On every level: perplexity, of the most that it could be (as above), at least this share."""
    reconstruction_error: float | None = None
    """Lost share of the vectors' variance, at most this."""
    neighbour_lift: float | None = None
    """How much more often than by chance the 10 nearest neighbours share the first code, at least this factor."""

    def check(self) -> None:
        """Raise ConfigError for a limit that nothing or everything would keep to."""
        for name in self.demanded():
            value = getattr(self, name)
            is_share = name.endswith("_share")
            if not (0 < value <= 1 if is_share else value > 0):
                raise ConfigError(
                    f"limits.{name} is {value}",
                    fix="give a share above 0, at most 1" if is_share else "give more than 0",
                )

    def demanded(self) -> list[str]:
        """Names of the limits that are not None."""
        return [field.name for field in fields(self) if getattr(self, field.name) is not None]

    def broken(self, report: SidReport) -> list["BrokenLimit"]:
        """Every limit that the codes of `report` break, level by level; empty where they keep to all."""
        return [
            BrokenLimit(name, text) for name in self.demanded() for text in _broken(name, getattr(self, name), report)
        ]


@dataclass(frozen=True)
class BrokenLimit:
    """A limit that codes break."""

    name: str
    """Of the field."""
    text: str
    """What was found where, and what was demanded."""

    @property
    def way_out(self) -> str:
        """What usually mends it."""
        return WAYS_OUT[self.name]


def reachable(use: LevelUse, *, items: int) -> int:
    """The most codes that a level could use: the codebook, or the items where they are fewer.

    Different vectors are not asked for: a catalogue whose vectors are all equal has not used its codes well.
    """
    return min(use.size, items)


def _broken(name: str, limit: float, report: SidReport) -> Iterator[str]:
    if name == "distinct_share":
        share = report.distinct_contents / report.items
        if share < limit:
            yield (
                f"{report.distinct_contents:,} different vectors for {report.items:,} items are a share of "
                f"{_number(share)}, at least {limit} demanded"
            )
    elif name == "unique_share":
        if report.unique_share < limit:
            yield (
                f"{report.distinct_tuples:,} different tuples for {report.items:,} items are a share of "
                f"{_number(report.unique_share)}, at least {limit} demanded"
            )
    elif name == "largest_group":
        if report.largest_group > limit:
            yield f"{report.largest_group:,} items share all their codes, at most {limit:,} demanded"
    elif name == "reconstruction_error":
        yield from _broken_error(limit, report.reconstruction_error)
    elif name == "neighbour_lift":
        yield from _broken_lift(limit, report)
    else:
        yield from _broken_levels(name, limit, report)


def _broken_error(limit: float, error: float | None) -> Iterator[str]:
    if error is None:
        yield "there is no reconstruction to measure it on"
    elif error > limit:
        yield f"{_number(error)} of the variance is lost, at most {limit} demanded"


def _broken_lift(limit: float, report: SidReport) -> Iterator[str]:
    if not report.neighbours:
        yield "there are no two items with content to measure it on"
        return
    first = report.neighbours[0]
    # Where all items share the first code, so do all neighbours: no better than chance.
    lift = first.share / first.by_chance if first.by_chance else (1.0 if not first.share else float("inf"))
    if lift < limit:
        yield (
            f"level 1: {_number(first.share)} of the nearest neighbours share the code, {_number(first.by_chance)} by "
            f"chance, a factor of {lift:.2f}, at least {limit} demanded"
        )


def _broken_levels(name: str, limit: float, report: SidReport) -> Iterator[str]:
    for level, use in enumerate(report.levels, start=1):
        most = reachable(use, items=report.items)
        if name == "used_share":
            share, what = use.used / most, f"{use.used:,} of {most:,} possible codes are used"
        else:
            share, what = use.perplexity / most, f"the perplexity is {use.perplexity:.1f} of {most:,} possible"
        if share < limit:
            yield f"level {level}: {what}, a share of {_number(share)}, at least {limit} demanded"


def _number(value: float) -> str:
    return f"{value:.4g}"
