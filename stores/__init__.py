"""Bytes: what a store looks like on disk, how it is written, read and verified."""

from stores.blocks import BlockWriter
from stores.creation import create, create_forks, create_readout
from stores.errors import DamagedStore, IncompleteStore, LockedStore, NotAStore, StaleStore, StoreError
from stores.layout import canonical_json, fingerprint
from stores.reader import describe, open
from stores.result import Kept, save, would_keep
from stores.verify import verify
from stores.writer import TrajectoryWriter

__all__ = [
    "BlockWriter",
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
    "create_forks",
    "create_readout",
    "describe",
    "fingerprint",
    "open",
    "save",
    "verify",
    "would_keep",
]
