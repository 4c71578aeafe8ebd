"""Matrix products of one thread each: tasks run side by side already, as many as there are cores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

from threadpoolctl import threadpool_limits

_lock = Lock()
_tasks: list[Any] = []
"""What the first of the tasks at work set, once for each of them."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep BLAS to one thread while any task is within; the number is one of the whole process.

    On two cores with other work, products of two threads each took ten times as long: they wait for one another.
    """
    with _lock:
        _tasks.append(_tasks[0] if _tasks else threadpool_limits(1, "blas"))
    try:
        yield
    finally:
        with _lock:
            limits = _tasks.pop()
            if not _tasks:
                limits.restore_original_limits()
