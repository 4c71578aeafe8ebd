"""What can be wrong with a store, each with a message that says what to do."""


class StoreError(RuntimeError):
    """A store cannot be used as asked."""


class NotAStore(StoreError):
    """The path holds no store of ours."""


class IncompleteStore(StoreError):
    """Some blocks were never finished, or a finished block lost a file."""


class DamagedStore(StoreError):
    """Bytes on disk are not the bytes that were written."""


class StaleStore(StoreError):
    """The store was made from other inputs."""


class LockedStore(StoreError):
    """Another process is writing the same blocks."""
