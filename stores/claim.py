"""Bring a store to the state a writer asked for, under locks: make, extend, set aside or refuse."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import zarr

from traj.stores.description import Description
from traj.stores.errors import LockedStore, NotAStore, StaleStore, StoreError, naming
from traj.stores.layout import (
    canonical_json,
    metadata_text,
    read_root,
    replace_file,
    sealed_text,
    sync,
)
from traj.stores.locks import BlockLocks
from traj.stores.manifest import digests_of, flag_file, is_finished
from traj.stores.reader import arrays_of, require_metadata
from traj.stores.vocabulary import TOLD

Stale = Literal["refuse", "set-aside"]
LOCK_PATIENCE_S = 20.0
VERBS = {"absent": "make it", "short": "extend it", "stale": "set it aside", "fits": "go on with it", "torn": "mend it"}


class Claim(NamedTuple):
    """The blocks of a store that are `wanted` here, held by `locks`.

    `store` describes it as it is now, `set_aside` is where a stale one was moved to, if one was.
    """

    path: Path
    store: Description
    wanted: Sequence[int]
    locks: BlockLocks
    set_aside: Path | None


def claim(path: Path, asked: Description, stale: Stale, wanted: Sequence[int], locks: BlockLocks) -> Claim:
    """Bring the store to the asked state under locks, and hold only the wanted blocks."""
    deadline = time.monotonic() + LOCK_PATIENCE_S
    set_aside: Path | None = None
    while True:
        state, stored = _compare(path, asked)
        if state == "stale" and stale == "refuse":
            raise StaleStore(_stale_message(path, asked))
        if state == "fits":
            now = asked.resized(stored)
            if all(is_finished(path, now.fingerprint, block, now.layout.samples_in(block)) for block in wanted):
                return Claim(path, now, wanted, locks, set_aside)  # nothing to write, so nothing to lock
            if held := locks.take(wanted):
                raise LockedStore(
                    f"another process is writing block(s) {ranges(held)} of {path}; wait for it, or ask for "
                    "other blocks"
                )
            # Between the look and the lock, another process may have moved or extended the store.
            again, stored = _compare(path, asked)
            if again == "fits":
                return Claim(path, asked.resized(stored), wanted, locks, set_aside)
            locks.keep_only([])
        elif locks.try_all():
            again, stored = _compare(path, asked)
            if again == state:
                if state == "torn":
                    _shorten(path)
                elif state == "short":
                    _extend(path, asked)
                    if stored % asked.layout.block:
                        flag_file(path, stored // asked.layout.block).unlink(missing_ok=True)
                else:
                    set_aside = _make(path, asked, over=state == "stale")
                locks.keep_only(wanted)
                now = asked.resized(stored) if state == "torn" else asked
                return Claim(path, now, wanted, locks, set_aside)
            locks.keep_only([])
        if time.monotonic() > deadline:
            raise LockedStore(
                f"another process is writing {path}; to {VERBS[state]}, wait until that one is done and run the "
                "same command again"
            )
        time.sleep(0.05)


def _compare(target: Path, asked: Description) -> tuple[Literal["absent", "fits", "short", "stale", "torn"], int]:
    """Say how the store on disk stands to what is asked, and how many samples it has."""
    try:
        if not target.exists() or (target.is_dir() and not any(target.iterdir())):
            return "absent", 0
        root = read_root(target)
        require_metadata(target, root)
    except (NotAStore, FileNotFoundError):
        if target.exists():
            raise
        return "absent", 0  # another process has just set it aside
    attrs = root["attributes"]
    if attrs["kind"] != asked.kind:
        raise NotAStore(f"{target} holds a store of kind {attrs['kind']}, not {asked.kind}; choose another path")
    stored = int(root["consolidated_metadata"]["metadata"]["sample"]["shape"][0])
    if attrs["fingerprint"] != asked.fingerprint or _told_otherwise(target, root, asked):
        return "stale", stored
    if stored < asked.layout.samples:
        return "short", stored
    return ("torn" if any(_longer(target, root)) else "fits"), stored


def _told_otherwise(target: Path, root: dict[str, Any], asked: Description) -> list[str]:
    """Name the coordinates whose values for the stored samples differ from those asked for."""
    arrays = arrays_of(root)

    def stored(name: str) -> list[Any]:
        samples: int = arrays["sample"]["shape"][0]
        values: list[Any] = np.asarray(zarr.open_array(target / name, mode="r")[:samples]).tolist()
        return values

    there = {name: stored(name) for name in TOLD if name in arrays}
    told = {name: coord.values.tolist() for name, coord in asked.told.items()}
    return [
        name
        for name in TOLD
        if (name in there) != (name in told)
        or any(old != new for old, new in zip(there.get(name, ()), told.get(name, ()), strict=False))
    ]


def _stale_message(target: Path, asked: Description) -> str:
    root = read_root(target)
    stored = json.loads(root["attributes"]["config"])
    differing = sorted(_differences(stored, dict(asked.config)))
    if not differing:
        differing = [f"{name}: another was asked for" for name in _told_otherwise(target, root, asked)]
    return (
        f"{target} was made from other inputs:\n  " + "\n  ".join(differing) + "\n"
        "Choose another path, delete the store, or have it set aside as stale, which renames it and starts afresh."
    )


def _differences(old: Any, new: Any, key: str = "") -> Iterable[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in old.keys() | new.keys():
            yield from _differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)
    elif old != new:
        texts = [json.dumps(value, ensure_ascii=False, sort_keys=True) for value in (old, new)]
        shown = [text if len(text) <= 60 else text[:57] + "..." for text in texts]
        yield f"{key}: {shown[0]} in the store, {shown[1]} asked for"


def _move_aside(target: Path) -> Path:
    mark = read_root(target)["attributes"]["fingerprint"][:12]
    stem = target.name.removesuffix(".zarr")
    for count in range(1, 1000):
        tail = "" if count == 1 else f"-{count}"
        aside = target.with_name(f"{stem}.stale-{mark}{tail}.zarr")
        if not aside.exists():
            target.rename(aside)
            return aside
    raise StoreError(f"{target.parent} holds a thousand stores set aside for {target.name}; move some away")


def _make(target: Path, asked: Description, over: bool) -> Path | None:
    """Create the store under a partial name, then rename it into place; return where one in its place was moved."""
    partial = target.with_name(target.name + ".partial")
    aside: Path | None = None
    try:
        with naming(target):
            asked.build(partial)
            aside = _move_aside(target) if over else None
            partial.rename(target)
            sync(target.parent)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if aside is not None:
            error.add_note(f"{target} was made from other inputs; it is kept as {aside}")
        raise
    return aside


def _extend(target: Path, asked: Description) -> None:
    """Give the store room for more samples. Killed half way, doing it again completes it.

    The root metadata, which readers go by, comes last; until then nothing is changed that it speaks of. Arrays' own
    metadata may be longer than it says, and so may coordinates. A short last block is unfinished from then on, flagged
    or not: its manifest has fewer samples than it should.
    """
    partial = target.with_name(target.name + ".partial")
    try:
        with naming(target):
            asked.build(partial)
            longer = _longer_root(read_root(target), read_root(partial))
            replace_file(partial / "zarr.json", sealed_text(longer).encode())
            for name, meta in arrays_of(longer).items():
                if any(dim in ("sample", "block") for dim in meta["dimension_names"]):
                    for file in sorted(file for file in (partial / name).rglob("*") if file.is_file()):
                        file.replace(target / file.relative_to(partial))
                    for folder in {target / name, *(target / name).glob("c")}:
                        sync(folder)
            (partial / "zarr.json").replace(target / "zarr.json")
            sync(target)
    except BaseException:
        with contextlib.suppress(OSError, StoreError):
            _shorten(target)
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _longer_root(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Give a store's root metadata the lengths of another; all that does not go along the samples is kept.

    (The last bits of a cosine or a logarithm differ between machines.)
    """
    digests, longer = digests_of(old), digests_of(new)
    for name, meta in arrays_of(old).items():
        meta["shape"] = arrays_of(new)[name]["shape"]
        if "sample" in meta["dimension_names"] and name in digests:
            digests[name] = longer[name]
    old["attributes"]["digests"] = canonical_json(digests)
    return old


def _shorten(target: Path) -> None:
    """Undo an extension that was interrupted: shorten arrays that are longer than the root metadata says."""
    root = read_root(target)
    for name in list(_longer(target, root)):
        replace_file(target / name / "zarr.json", metadata_text(arrays_of(root)[name]).encode())
        sync(target / name)


def _longer(target: Path, root: dict[str, Any]) -> Iterator[str]:
    """Name the arrays whose own metadata is not that of the root."""
    for name, meta in arrays_of(root).items():
        if (target / name / "zarr.json").read_text() != metadata_text(meta):
            yield name


def ranges(blocks: Sequence[int]) -> str:
    """Write block numbers for a message."""
    return ", ".join(map(str, blocks)) if len(blocks) < 8 else f"{blocks[0]} to {blocks[-1]}"
