"""Bytes: what a store looks like on disk, how it is written, read and verified."""

from traj.stores.blocks import BlockWriter
from traj.stores.creation import create, create_forks, create_readout
from traj.stores.errors import (
    DamagedStore,
    FailedRun,
    IncompleteStore,
    InputError,
    LockedStore,
    MissingFile,
    NotAStore,
    NotFinite,
    OutOfMemory,
    StaleStore,
    StoreError,
    TrajError,
    is_damage,
    is_known,
)
from traj.stores.events import IMAGE_DIMS, event_dims
from traj.stores.kinds import KINDS, RESULTS, Kind, KindName
from traj.stores.layout import canonical_json, fingerprint
from traj.stores.reader import describe, identity, open
from traj.stores.result import Kept, save, would_keep
from traj.stores.verify import verify
from traj.stores.vocabulary import COORDINATES, EDIT, FAMILY, ONCE, SAVED, SHORTCUT, STATES, VARIABLES
from traj.stores.writer import TrajectoryWriter

__all__ = [
    "COORDINATES",
    "EDIT",
    "FAMILY",
    "IMAGE_DIMS",
    "KINDS",
    "ONCE",
    "RESULTS",
    "SAVED",
    "SHORTCUT",
    "STATES",
    "VARIABLES",
    "BlockWriter",
    "DamagedStore",
    "FailedRun",
    "IncompleteStore",
    "InputError",
    "Kept",
    "Kind",
    "KindName",
    "LockedStore",
    "MissingFile",
    "NotAStore",
    "NotFinite",
    "OutOfMemory",
    "StaleStore",
    "StoreError",
    "TrajError",
    "TrajectoryWriter",
    "canonical_json",
    "create",
    "create_forks",
    "create_readout",
    "describe",
    "event_dims",
    "fingerprint",
    "identity",
    "is_damage",
    "is_known",
    "open",
    "save",
    "verify",
    "would_keep",
]
