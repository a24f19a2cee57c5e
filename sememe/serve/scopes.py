"""What a key may be good for; no scope but `admin` holds another."""

from typing import Literal, get_args

Scope = Literal["read", "write", "admin"]
"""read: lists and what answers; write: events and stock; admin: all, among it what is held of a user."""

SCOPES: tuple[Scope, ...] = get_args(Scope)
