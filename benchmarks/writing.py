"""Writing whole shards, against the limits of the machine and against other ways to keep the states."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import zarr

from benchmarks.made_up import Trajectories, create
from benchmarks.timing import Row, Target, interleave, per_round, rate_text
from traj.stores.layout import Layout
from traj.stores.shards import Column, encode
from traj.stores.writer import ENCODERS

TITLE = "Writing float32 trajectories, every arm on disk with fsync, MB of images before encoding"

AHEAD = 16
"""Encoded chunks that are kept at a time."""

STATES = 64
"""Different states in memory; a run cycles through them, too far apart for the codec to notice."""


def rows(tiny: bool) -> list[Row]:
    """Measure the writer end to end, its two limits, and its peers."""
    timesteps, blocks, block, rounds = (12, 2, 4, 2) if tiny else (1000, 2, 32, 11)
    shape = (3, 32, 32)
    made = Trajectories(block, shape, timesteps)
    states = [made.state(step) for step in range(0, timesteps, max(1, timesteps // STATES))]
    layout = Layout.of(samples=blocks * block, block=block, timesteps=timesteps, shape=shape, dtype="float32")
    few = min(timesteps, 24)
    step_mb = 2 * states[0][0].nbytes / 1e6
    run_mb = step_mb * timesteps * blocks

    def through_the_writer(folder: Path) -> None:
        with create(folder / "run.zarr", made, blocks) as store:
            for number in range(blocks):
                for step in range(timesteps):
                    store.put(number, step, *states[step % len(states)])
                store.finish(number, made.x_0)

    shards = [_filled(layout, [pair[variable] for pair in states]) for variable in (0, 1)]
    with ThreadPoolExecutor(ENCODERS) as pool:
        encoded = [b"".join(part for chunk in shard for part in encode(chunk, None)) for shard in shards]
        whole = layout.shards * blocks

        def encode_alone(folder: Path) -> None:
            for _ in range(whole):
                for shard in shards:
                    for begin in range(0, len(shard), AHEAD):
                        list(pool.map(encode, shard[begin : begin + AHEAD], [None] * AHEAD))

        def write_and_rename(folder: Path) -> None:
            for number in range(blocks):
                files = [folder / f"{variable}.{number}.{i}" for i in range(layout.shards) for variable in (0, 1)]
                for file, content in zip(files, encoded * layout.shards, strict=True):
                    partial = file.with_suffix(".partial")
                    partial.write_bytes(content)
                    partial.rename(file)
                _sync(files)

        limits = interleave(
            {"ours": through_the_writer, "encoding": encode_alone, "raw": write_and_rename},
            rounds,
        )

    def save_a_list(folder: Path) -> None:
        for number in range(blocks):
            kept = [[], []]
            for step in range(timesteps):
                for variable, state in zip(kept, states[step % len(states)], strict=True):
                    variable.append(state)
            files = [folder / f"{variable}.{number}.npy" for variable in (0, 1)]
            for file, variable in zip(files, kept, strict=True):
                np.save(file, np.stack(variable))
            _sync(files)

    def whole_shards_by_zarr(folder: Path) -> None:
        create(folder / "run.zarr", made, blocks).close()
        group = zarr.open_group(folder / "run.zarr", mode="r+")
        arrays = [group["x_t"], group["pred_x0"]]
        length = layout.shard_timesteps
        for number in range(blocks):
            samples = slice(number * block, (number + 1) * block)
            for begin in range(0, timesteps, length):
                run = [states[step % len(states)] for step in range(begin, min(begin + length, timesteps))]
                for variable, array in enumerate(arrays):
                    array[samples, begin : begin + length] = np.stack([pair[variable] for pair in run], axis=1)
        _sync((folder / "run.zarr").glob("*/c.*"))

    def steps_by_zarr(folder: Path) -> None:
        create(folder / "run.zarr", made, blocks).close()
        group = zarr.open_group(folder / "run.zarr", mode="r+")
        for step in range(few):
            for variable, name in enumerate(("x_t", "pred_x0")):
                group[name][:block, step] = states[step % len(states)][variable]
        _sync((folder / "run.zarr").glob("*/c.*"))

    peers = interleave(
        {
            "ours": through_the_writer,
            "list": save_a_list,
            "shards": whole_shards_by_zarr,
            "steps": steps_by_zarr,
        },
        max(1, rounds // 4),
    )
    # the last shard along time is shorter than the full ones the limits work on
    limit_mb = whole * layout.shard_bytes * 2 / 1e6
    size = f"{run_mb / 1e3:.1f} GB, shards of {layout.shard_bytes / 2**20:.0f} MiB"
    per_mb = {
        "ours": [s / run_mb for s in limits["ours"]],
        "encoding": [s / limit_mb for s in limits["encoding"]],
        "raw": [s / limit_mb for s in limits["raw"]],
    }
    per_mb["slower"] = [max(pair) for pair in zip(per_mb["encoding"], per_mb["raw"], strict=True)]

    def limit(name: str, label: str, target: Target | None = None) -> Row:
        return Row(
            f"whole shards, {size}",
            rate_text(1, per_mb["ours"], "MB"),
            label,
            rate_text(1, per_mb[name], "MB"),
            per_round(per_mb["ours"], per_mb[name]),
            target,
        )

    def peer(name: str, label: str, megabytes: float) -> Row:
        return Row(
            "times faster than",
            rate_text(run_mb, peers["ours"], "MB"),
            label,
            rate_text(megabytes, peers[name], "MB"),
            per_round(peers[name], peers["ours"], run_mb / megabytes),
        )

    return [
        limit("slower", "the slower of the next two", Target("at most", 1.3)),
        limit("encoding", "encoding alone, same pool"),
        limit("raw", "write() and rename of the encoded bytes"),
        peer("list", "np.save of a list of states (no compression)", run_mb),
        peer("shards", "zarr-python, whole shards", run_mb),
        peer("steps", f"zarr-python, step by step (first {few} steps)", step_mb * few),
    ]


def _filled(layout: Layout, states: list[np.ndarray]) -> list[np.ndarray]:
    """Lay the chunks of one shard out as the writer does."""
    chunks = []
    for begin in range(0, layout.shard_timesteps, layout.chunk_timesteps):
        column = Column(layout, layout.chunk_timesteps, layout.dtype)
        for step in range(layout.chunk_timesteps):
            column.put(step, states[(begin + step) % len(states)], layout.block)
        chunks += [chunk for _, chunk in column.inside(layout.block)]
    return chunks


def _sync(files: Iterable[Path]) -> None:
    for file in files:
        with file.open("rb+") as opened:
            os.fsync(opened.fileno())
