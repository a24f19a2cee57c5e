"""Withheld items: items that training and validation never ask for, so that the test shows how new items fare.

Items that are cold by chance are few and odd: they are the rarest of the log.  So some warm ones are taken away.  They
stay in the catalogue, with their content and the codes made from it, and stay targets of the test; what is learned from
events, by gradients or by counting, never meets them.  A model that recommends them has read their content.

What is drawn from: items that are a target of the test (others would give no row to look at) and that have training
events (others are cold already).  Both kinds of item are more popular than the average item, so these rows say how a
model treats items of ordinary popularity while they are new, not how it treats items nobody wants.  The draw has one
fixed seed and is nested: the items of a smaller share are among those of a larger one.

Known histories keep withheld items, in validation as in the test: the user did take them, and a system in use would see
that.  A model may read such an event by the item's content; it has no statistics of it.

Shape legend: I items, n examples, W withheld items.
"""

import numpy as np

from sememe.core.errors import ConfigError, DataError
from sememe.core.schema import BoolArray, Int32Array
from sememe.core.seeding import generator
from sememe.data.ranges import count_items
from sememe.data.splits import Examples, Split, part_counts, target_items, trained_items

NOTE = (
    "withheld items never occur in the training part and are no validation target; they stay in the catalogue, in "
    "known histories and among the test targets, where they are cold"
)


def withhold_items(split: Split, *, share: float) -> Split:
    """`split` without the training events of some items, and without the validation examples that ask for them.

    Args:
        split: any split that withholds nothing yet.
        share: of the items that have an event, how many are withheld, at least one; 0 gives `split` back as it is.

    Raises:
        ConfigError: `share` is no share.
        DataError: fewer items can be withheld, or nothing would be left to learn from or to select on.
    """
    if not 0 <= share < 1:
        raise ConfigError(
            f"withhold_items is a share of the items, got {share}", fix="set data.split.withhold_items to 0.05, say"
        )
    if share == 0:
        return split
    assert len(split.withheld) == 0, "the split withholds items already"
    withheld = _draw(split, share=share)
    gone = np.zeros(split.interactions.num_items, np.bool_)
    gone[withheld] = True
    asks = _asks_for(split, split.valid, gone)
    valid = split.valid
    kept = Examples(valid.users[~asks], valid.starts[~asks], valid.ends[~asks])
    left = Split(split.interactions, split.train_ends, kept, split.test, withheld=withheld)
    counts = part_counts(left)
    _refuse_empty(counts, share=share)
    tested = target_items(split.interactions, split.test)
    protocol = dict(split.protocol) | {
        "parameters": {**split.protocol["parameters"], "withhold_items": share},
        "counts": counts | {"withheld_items": len(withheld), "test_withheld_targets": int(gone[tested].sum())},
        "left_out": {
            **split.protocol["left_out"],
            "training events of withheld items": int(split.train_ends.sum()) - counts["train_events"],
            "validation examples that ask for a withheld item": int(asks.sum()),
        },
        "notes": [*split.protocol["notes"], NOTE],
    }
    return Split(left.interactions, left.train_ends, left.valid, left.test, protocol, withheld)


def _draw(split: Split, *, share: float) -> Int32Array:
    """(W,) the withheld items, ascending."""
    log = split.interactions
    wanted = max(1, round(share * int(np.sum(count_items(log.items, num_items=log.num_items) > 0))))
    tested = np.zeros(log.num_items, np.bool_)
    tested[target_items(log, split.test)] = True
    candidates = np.flatnonzero(tested & trained_items(split))
    if wanted > len(candidates):
        raise DataError(
            f"withhold_items={share} asks for {wanted} items, and {len(candidates)} items are both a test target and "
            "in the training part",
            fix="set a smaller share, or use a split with more test targets",
        )
    # The first ones of one shuffle, so that a larger share adds items and exchanges none.
    return np.sort(generator(0, "withhold-items").permutation(candidates)[:wanted]).astype(np.int32)


def _asks_for(split: Split, examples: Examples, gone: BoolArray) -> BoolArray:
    """(n,) whether any target of each example is among the items with `gone` (I,)."""
    rows = np.repeat(np.arange(len(examples)), examples.ends - examples.starts)
    asks = np.zeros(len(examples), np.bool_)
    asks[rows[gone[target_items(split.interactions, examples)]]] = True
    return asks


def _refuse_empty(counts: dict[str, int], *, share: float) -> None:
    for key, what in (("train_events", "event to learn from"), ("valid_users", "validation example")):
        if counts[key] == 0:
            raise DataError(f"withhold_items={share} leaves no {what}", fix="set a smaller share, or give more data")
