"""Bytes: what a store looks like on disk, how it is written, read and verified."""

from traj.stores import levels
from traj.stores.blocks import BlockWriter
from traj.stores.claim import Stale, ranges
from traj.stores.creation import create, create_forks
from traj.stores.creation_blocks import create_dataset, create_decoded, create_readout
from traj.stores.description import ReadVariable
from traj.stores.errors import (
    DamagedStore,
    FailedRun,
    ForeignError,
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
from traj.stores.events import IMAGE_DIMS, USUAL_DIMS, checked_event, event_dims, valid_range
from traj.stores.kinds import KINDS, RESULTS, Kind, KindName, how_to_decode, stands_for
from traj.stores.layout import Layout, canonical_json, fingerprint, memory_free
from traj.stores.partials import making, write_file
from traj.stores.places import is_url, local, place, require_writable
from traj.stores.reader import attributes, describe, environment_of, identity, open, require_complete
from traj.stores.result import Kept, save, would_keep
from traj.stores.verify import reading, verify, way_out
from traj.stores.vocabulary import (
    COORDINATES,
    EDIT,
    FAMILY,
    LEARNED_FROM,
    ONCE,
    SAVED,
    SHORTCUT,
    STATES,
    TOLD,
    VARIABLES,
)
from traj.stores.writer import TrajectoryWriter, writer_bytes

__all__ = [
    "COORDINATES",
    "EDIT",
    "FAMILY",
    "IMAGE_DIMS",
    "KINDS",
    "LEARNED_FROM",
    "ONCE",
    "RESULTS",
    "SAVED",
    "SHORTCUT",
    "STATES",
    "TOLD",
    "USUAL_DIMS",
    "VARIABLES",
    "BlockWriter",
    "DamagedStore",
    "FailedRun",
    "ForeignError",
    "IncompleteStore",
    "InputError",
    "Kept",
    "Kind",
    "KindName",
    "Layout",
    "LockedStore",
    "MissingFile",
    "NotAStore",
    "NotFinite",
    "OutOfMemory",
    "ReadVariable",
    "Stale",
    "StaleStore",
    "StoreError",
    "TrajError",
    "TrajectoryWriter",
    "attributes",
    "canonical_json",
    "checked_event",
    "create",
    "create_dataset",
    "create_decoded",
    "create_forks",
    "create_readout",
    "describe",
    "environment_of",
    "event_dims",
    "fingerprint",
    "how_to_decode",
    "identity",
    "is_damage",
    "is_known",
    "is_url",
    "levels",
    "local",
    "making",
    "memory_free",
    "open",
    "place",
    "ranges",
    "reading",
    "require_complete",
    "require_writable",
    "save",
    "stands_for",
    "valid_range",
    "verify",
    "way_out",
    "would_keep",
    "write_file",
    "writer_bytes",
]
