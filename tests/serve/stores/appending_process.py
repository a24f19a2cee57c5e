"""A process that appends without end and prints the number of each call that was acknowledged: `... URL NAME`."""

import sys
from itertools import count

from sememe.serve.stores.open import open_store
from sememe.serve.stores.protocol import StoredEvent

EVENTS = 3


def call(name: str, number: int) -> list[StoredEvent]:
    """The events of one call, which must be there all or not at all."""
    return [
        StoredEvent(f"{name}-{number}-{part}", f"{name} {number % 5}", f"b{part}", timestamp=number)
        for part in range(EVENTS)
    ]


if __name__ == "__main__":
    store = open_store(sys.argv[1])
    for number in count():
        store.append(call(sys.argv[2], number))
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()
