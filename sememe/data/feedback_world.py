"""Users who watch, like, get bored and leave: what a list is worth to them, and which list is worth most.

An item has a topic, a quality and a length; a user has a taste for each topic.  With z items of the topic that have not
been forgotten, the user's appeal is

    m = taste[topic] * quality * (length / 5 s) ** -impatience * boredom ** z,     in [0, 1]

and 0 for an item that was shown before.  z grows by 1 with each item of the topic that is shown, and by a session's
start only `memory` of it is left.  An item of appeal m is watched to a share x ~ Beta with mean m, and is liked,
followed or disliked with chances proportional to x, x and 1 - x; its watch time is x * length, so that long items have
more of it whatever their appeal (duration bias).  The user goes on to the next item with chance stay + stay_watched x.
The value of an item is a weighted sum of share, like, follow and (negative) dislike.

All this is linear in x, so that the expected value of a list has a closed form.  With A m - B the expected value of an
item, sigma(m) = stay + stay_watched m, and m_s the appeal at place s after the boredom of the places above:

    V(m) = sum over s of (A m_s - B) * product of sigma(m_r) over r < s

The best list of at most k items takes, up to k times, the item that now has the greatest appeal, and ends where an item
would be worth less than 0.  Proof, for appeals as a vector:

1. Exchanging neighbours a < b raises V by a multiple of (b - a) (A (1 - stay) - stay_watched B) >= 0, as A >= B and
   stay + stay_watched <= 1.  So V of a list is at most V of its appeals in descending order.
2. Any j appeals of any list add up to at most the greatest j of the greedy list: in each topic by the rearrangement
   inequality, and greedy takes the greatest over all topics.  The greedy list is in descending order.
3. V does not fall when an appeal rises: the derivative is a multiple of A + stay_watched * (value of the rest), and the
   rest is worth -B / (1 - stay) or more.  So appeals below B / A may be raised to B / A, where an item is worth 0.
4. On descending appeals of at least B / A, moving appeal from a place (b) to the one before it (a) does not lower V:
   the derivative is a multiple of (1 - t) (A (1 - stay) - stay_watched B) or more, with
   t = stay_watched (a - b) / (1 - sigma(b)) <= 1.
5. Raise the greedy list's appeals to B / A as well, which does not change V, since items worth 0 end it.  Then 2 still
   holds, and a straight path from any raised list to the raised greedy one consists of such moves and of rises.

Shape legend: U users, I items, C topics, N lists, S places.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from sememe.core.errors import ConfigError, DataError
from sememe.core.schema import PAD, BoolArray, Int32Array, Interactions
from sememe.data.sessions import find_sessions

Float64Array = npt.NDArray[np.float64]

SHORTEST = 5.0
"""Seconds; no item is shorter."""
CHUNK_ROWS = 4096
"""Lists or users looked at together: bounds memory at about 100 MB for 1,000 items."""


@dataclass(frozen=True)
class FeedbackRules:
    """How appeal becomes feedback, and feedback value."""

    boredom: float = 0.8
    """What one more item of the same topic multiplies appeal by."""
    memory: float = 0.4
    """Share of satiation that is left when the next session begins."""
    impatience: float = 0.1
    """Exponent by which appeal falls with length."""
    concentration: float = 6.0
    """Of the watched share: the two parameters of its Beta distribution add up to this."""
    stay_watched: float = 0.15
    """Added to a user's chance of staying by an item that was watched to the end."""
    like_rate: float = 0.4
    """Chance of a like for an item that was watched to the end."""
    follow_rate: float = 0.08
    dislike_rate: float = 0.1
    """Chance of a dislike for an item that was not watched at all."""
    watch_value: float = 1.0
    """Of an item that was watched to the end."""
    like_value: float = 1.0
    follow_value: float = 2.0
    dislike_cost: float = 2.0

    def check(self) -> None:
        """Raise ConfigError for values that cannot be."""
        shares = (self.boredom, self.memory, self.stay_watched, self.like_rate, self.follow_rate, self.dislike_rate)
        values = (self.impatience, self.watch_value, self.like_value, self.follow_value, self.dislike_cost)
        if not (min(shares) >= 0 and max(shares) <= 1 and min(values) >= 0 and self.concentration > 0):
            raise ConfigError(
                f"{self}: shares, rates and boredom lie in [0, 1], values and impatience are not negative, and the "
                "concentration is above 0",
                fix="change the value that breaks this rule",
            )

    @property
    def gain(self) -> float:
        """A: what full appeal adds to the expected value of an item."""
        done = self.like_rate * self.like_value + self.follow_rate * self.follow_value
        return self.watch_value + done + self.loss

    @property
    def loss(self) -> float:
        """B: what an item without any appeal is expected to cost."""
        return self.dislike_rate * self.dislike_cost


@dataclass(frozen=True, eq=False)
class UserState:
    """What users remember when a session begins."""

    satiation: Float64Array
    """(U, C) items of each topic, as far as they are not forgotten."""
    seen: BoolArray
    """(U, I)"""


@dataclass(frozen=True, eq=False)
class Reaction:
    """What users did with lists, (N, S) each.  False and 0 where an item was not reached, or the place is PAD."""

    shown: BoolArray
    """Whether the user got as far as this."""
    watch_share: Float64Array
    watch_time: Float64Array
    """Seconds."""
    like: BoolArray
    follow: BoolArray
    dislike: BoolArray
    exit: BoolArray
    """Whether the user left after this item; nobody is said to leave after the last item of a list."""
    value: Float64Array


@dataclass(frozen=True, eq=False)
class FeedbackWorld:
    """The truth: users, items, how one reacts to the other, and what users remember.  Users and items are indices."""

    rules: FeedbackRules
    taste: Float64Array
    """(U, C) in [0, 1]."""
    stay: Float64Array
    """(U,) chance of staying after an item of which nothing was watched."""
    topics: Int32Array
    """(I,)"""
    quality: Float64Array
    """(I,) in [0, 1]."""
    lengths: Float64Array
    """(I,) seconds, at least SHORTEST."""
    state: UserState
    user_ids: pl.Series
    item_ids: pl.Series

    @property
    def num_users(self) -> int:
        return len(self.stay)

    @property
    def num_items(self) -> int:
        return len(self.topics)

    def appeals(self, users: npt.ArrayLike) -> Float64Array:
        """(N, I) appeal of each item as the first of a session of `users` (N,); 0 for those shown before."""
        rows = np.asarray(users)
        satiation = self.state.satiation[rows][:, self.topics]
        fresh: Float64Array = self.taste[rows][:, self.topics] * self._pull() * self.rules.boredom**satiation
        fresh[self.state.seen[rows]] = 0.0
        return fresh

    def list_appeals(self, users: npt.ArrayLike, lists: Int32Array) -> Float64Array:
        """(N, S) appeal at each place of `lists` (N, S) after the places above; 0 for PAD and for repeats."""
        rows, (count, places) = np.asarray(users), lists.shape
        there, topics = lists != PAD, self.topics[lists]
        above = np.zeros((count, places))
        repeated = self.state.seen[rows[:, None], lists]
        for place in range(1, places):
            before = there[:, :place]
            above[:, place] = ((topics[:, :place] == topics[:, place, None]) & before).sum(axis=1)
            repeated[:, place] |= ((lists[:, :place] == lists[:, place, None]) & before).any(axis=1)
        satiation = self.state.satiation[rows[:, None], topics] + above
        plain = self.taste[rows[:, None], topics] * self._pull()[lists] * self.rules.boredom**satiation
        appeals: Float64Array = np.where(there & ~repeated, plain, 0.0)
        return appeals

    def _pull(self) -> Float64Array:
        """(I,) appeal to a user who likes nothing better than the topic."""
        pull: Float64Array = self.quality * (self.lengths / SHORTEST) ** -self.rules.impatience
        return pull

    def place_values(self, users: npt.ArrayLike, lists: Int32Array) -> Float64Array:
        """(N, S) what each place of `lists` is expected to add to their value; 0 at PAD."""
        appeals, there = self.list_appeals(users, lists), lists != PAD
        stays = self.stay[np.asarray(users)][:, None] + self.rules.stay_watched * appeals
        reached = np.cumprod(np.where(there, stays, 1.0), axis=1)
        reached = np.concatenate([np.ones((len(lists), 1)), reached[:, :-1]], axis=1)
        values: Float64Array = np.where(there, reached * (self.rules.gain * appeals - self.rules.loss), 0.0)
        return values

    def expected_value(self, users: npt.ArrayLike, lists: Int32Array) -> Float64Array:
        """(N,) the expected value of showing `lists` (N, S) to `users` (N,) as their next session; exact."""
        rows = np.asarray(users)
        parts = range(0, len(lists), CHUNK_ROWS)
        found = [self.place_values(rows[at : at + CHUNK_ROWS], lists[at : at + CHUNK_ROWS]).sum(axis=1) for at in parts]
        return np.concatenate(found) if found else np.zeros(0)

    def optimal_lists(self, users: npt.ArrayLike, k: int) -> Int32Array:
        """(N, k) the lists of at most k items with the greatest expected value, by the greedy rule that the module
        proves; PAD after the last item that is worth showing."""
        rows = np.asarray(users)
        parts = range(0, len(rows), CHUNK_ROWS)
        return np.concatenate([self._optimal(rows[at : at + CHUNK_ROWS], k) for at in parts])

    def _optimal(self, rows: npt.NDArray[Any], k: int) -> Int32Array:
        appeals, row = self.appeals(rows), np.arange(len(rows))
        lists: Int32Array = np.full((len(rows), k), PAD, np.int32)
        for place in range(min(k, self.num_items)):
            best = appeals.argmax(axis=1)
            # Appeals fall from place to place: where one is too small, all after it are.
            worth = self.rules.gain * appeals[row, best] >= self.rules.loss
            lists[:, place] = np.where(worth, best, PAD)
            appeals *= np.where(self.topics == self.topics[best][:, None], self.rules.boredom, 1.0)
            # Below every appeal, 0 as well, so that nothing is taken twice.
            appeals[row, best] = -1.0
        return lists

    def react(self, users: npt.ArrayLike, lists: Int32Array, *, random: np.random.Generator) -> Reaction:
        """Draw what `users` (N,) do with `lists` (N, S); the state stays as it is."""
        appeals, there, rules = self.list_appeals(users, lists), lists != PAD, self.rules
        tiny = 1e-9
        share = random.beta(rules.concentration * appeals + tiny, rules.concentration * (1 - appeals) + tiny)
        draws = random.random((4, *lists.shape))
        leaves = draws[3] >= self.stay[np.asarray(users)][:, None] + rules.stay_watched * share
        gone = np.cumsum(leaves & there, axis=1) - (leaves & there) > 0
        shown = there & ~gone
        last = there & ~np.flip(np.cumsum(np.flip(there, axis=1), axis=1) > 1, axis=1)
        share = np.where(shown, share, 0.0)
        like, follow = shown & (draws[0] < rules.like_rate * share), shown & (draws[1] < rules.follow_rate * share)
        dislike = shown & (draws[2] < rules.dislike_rate * (1 - share))
        value = rules.watch_value * share + rules.like_value * like + rules.follow_value * follow
        return Reaction(
            shown=shown,
            watch_share=share,
            watch_time=share * self.lengths[lists],
            like=like,
            follow=follow,
            dislike=dislike,
            exit=shown & leaves & ~last,
            value=value - rules.dislike_cost * dislike,
        )

    def remember(self, users: npt.ArrayLike, lists: Int32Array, *, shown: BoolArray) -> "FeedbackWorld":
        """The world after a session of `users` (N,), each at most once, in which the `shown` (N, S) items were."""
        rows = np.asarray(users)
        satiation, seen = self.state.satiation.copy(), self.state.seen.copy()
        row, place = np.nonzero(shown)
        items = lists[row, place]
        np.add.at(satiation, (rows[row], self.topics[items]), 1.0)
        satiation[rows] *= self.rules.memory
        seen[rows[row], items] = True
        return replace(self, state=UserState(satiation, seen))

    def after(self, log: Interactions) -> "FeedbackWorld":
        """The same world with the users and items of `log`, under its indices, remembering what `log` says they saw.

        log: a part of what the world made (a training part, say), with sessions; the next list begins a session.

        Raises:
            DataError: an id that the world does not have, or no column "session".
        """
        users = _places(self.user_ids, log.user_ids, what="user")
        items = _places(self.item_ids, log.item_ids, what="item")
        satiation, seen = np.zeros((len(users), self.taste.shape[1])), np.zeros((len(users), len(items)), np.bool_)
        sessions = find_sessions(log)
        of_user = np.bincount(sessions.users, minlength=len(users))
        number = np.arange(len(sessions)) - np.repeat(np.cumsum(of_user) - of_user, of_user)
        # Every session's start after an event leaves a share of it, that of the session to come as well.
        left = self.rules.memory ** (of_user[sessions.users] - number)
        rows, topics = log.users(), self.topics[items]
        np.add.at(satiation, (rows, topics[log.items]), np.repeat(left, sessions.ends - sessions.starts))
        seen[rows, log.items] = True
        return replace(
            self,
            taste=self.taste[users],
            stay=self.stay[users],
            topics=topics,
            quality=self.quality[items],
            lengths=self.lengths[items],
            state=UserState(satiation, seen),
            user_ids=log.user_ids,
            item_ids=log.item_ids,
        )


def _places(known: pl.Series, wanted: pl.Series, *, what: str) -> npt.NDArray[np.int64]:
    """(wanted,) where each id stands in `known`."""
    table = pl.DataFrame({"id": known.cast(pl.String), "place": np.arange(len(known))})
    found = pl.DataFrame({"id": wanted.cast(pl.String)}).join(table, on="id", how="left", maintain_order="left")[
        "place"
    ]
    if found.null_count():
        raise DataError(
            f"{found.null_count()} {what}s are not of this world, e.g. {wanted.filter(found.is_null())[0]!r}",
            fix="compare a world with data that was made from it, and by the same plan and seed",
        )
    return found.to_numpy().astype(np.int64)
