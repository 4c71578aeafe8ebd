"""Bytes: what a store looks like on disk, how it is written, read and verified."""

from stores.errors import DamagedStore, IncompleteStore, LockedStore, NotAStore, StaleStore, StoreError
from stores.layout import canonical_json, fingerprint
from stores.reader import describe, open
from stores.result import Kept, save, would_keep
from stores.verify import verify
from stores.writer import TrajectoryWriter, create

__all__ = [
    "DamagedStore",
    "IncompleteStore",
    "Kept",
    "LockedStore",
    "NotAStore",
    "StaleStore",
    "StoreError",
    "TrajectoryWriter",
    "canonical_json",
    "create",
    "describe",
    "fingerprint",
    "open",
    "save",
    "verify",
    "would_keep",
]
