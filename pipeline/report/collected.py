"""Find the stores and the results of a report, and which belongs to which."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from traj import analysis, stores
from traj.pipeline.computing.analyze import kind_of
from traj.pipeline.report.contents import Kind, Run, Section
from traj.pipeline.report.failures import Failed, attempt, printable, sentence, warn
from traj.stores import EDIT, RESULTS, SAVED, MissingFile
from traj.stores.layout import read_root

KINDS: tuple[Kind, ...] = ("trajectories", "fork", "sweep")
PAIRED = {("sweep", "ssim"), ("sweep", "psnr")}
"""Values of every sample that are compared with others of the same samples."""


def collect(
    results: Path,
    folders: Mapping[str, Path],
    sections: Sequence[Section],
    beside: Path | None = None,
    failed: Failed = warn,
) -> list[Run]:
    """Open every run and every fork store that is there or has results, in the order of their names.

    folders are those of the kinds trajectories, fork, sweep and readout; numbers in names are read as numbers. Forks,
    sweeps and further readouts follow all runs. After the runs come those of the project in the folder beside, but for
    names that are taken here; its forks and sweeps are left out. What is damaged is left out, said in the run's
    remarks, and told to `failed`.

    Raises MissingFile where there is no result.
    """
    if not any(results.glob("*/*.zarr")):
        raise MissingFile(
            f"there is no result under {results}; run `traj analyze entropy,ssim,psnr` first, or `dvc repro`"
        )
    found: dict[str, Run] = {}
    others = [] if beside is None else _project(beside, sections, found, failed)
    runs = _runs(results, folders, KINDS, sections, found, failed)
    names = {run.name for run in runs}
    together = runs + [run for run in others if run.name not in names]
    return sorted(together, key=lambda run: KINDS.index(run.kind))


def _project(root: Path, sections: Sequence[Section], found: dict[str, Run], failed: Failed) -> list[Run]:
    """Open the runs of a project by its root, no forks and no sweeps."""
    folders = {name: root / kind.folder for name, kind in stores.KINDS.items()}
    return _runs(root / RESULTS, folders, ("trajectories",), sections, found, failed)


def _runs(
    results: Path,
    folders: Mapping[str, Path],
    kinds: Sequence[Kind],
    sections: Sequence[Section],
    found: dict[str, Run],
    failed: Failed,
) -> list[Run]:
    """Open what is of some kinds in one project; found, by fingerprint, has what may be a parent, and grows."""
    by_name: dict[tuple[Kind, str], list[tuple[Path, xr.Dataset]]] = {
        (kind, path.name.removesuffix(".zarr")): []
        for kind in KINDS
        for path in folders[kind].glob("*.zarr")
        if ".stale-" not in path.name
    }
    damaged: dict[tuple[Kind, str], list[str]] = {}
    for file in sorted(results.glob("*/*.zarr")):
        remarks: list[str] = []
        result = attempt(partial(_result, file), str(file), failed, remarks)
        if result is None:
            names = [key for key in by_name if key[1] == file.parent.name]
            key = names[0] if names else ("trajectories", file.parent.name)
            by_name.setdefault(key, [])
            damaged.setdefault(key, []).extend(remarks)
        else:
            by_name.setdefault((_kind(result), file.parent.name), []).append((file, result))
    runs = []
    # Runs before forks, and what has a store before what is but a readout: each finds its parent among those before.
    for kind, name in sorted((key for key in by_name if key[0] in kinds), key=lambda key: _order(key, folders)):
        run = _open(kind, name, by_name[kind, name], folders, sections, found, failed)
        run.remarks.extend(damaged.get((kind, name), []))
        if run.described.get("fingerprint"):
            found.setdefault(run.described["fingerprint"], run)
        runs.append(run)
    return runs


def _result(file: Path) -> xr.Dataset:
    """Open a result. Raises NotAStore where it is none, besides what `stores.open` raises."""
    result = stores.open(file)
    if result.attrs["kind"] != "result":
        raise stores.NotAStore(f"{file} is a store of kind {result.attrs['kind']}; expected a result of `traj analyze`")
    return result


def _kind(result: xr.Dataset) -> Kind:
    """Say what a result is of; what `traj analyze` did not save is taken for that of a run."""
    of = result.attrs.get("of")
    return of if of in KINDS else "trajectories"


def _order(key: tuple[Kind, str], folders: Mapping[str, Path]) -> tuple[int, bool, list[tuple[int, str]]]:
    kind, name = key
    return KINDS.index(kind), _is_readout(key, folders), _natural(name)


def _is_readout(key: tuple[Kind, str], folders: Mapping[str, Path]) -> bool:
    """Say whether a name stands for a readout alone, one of a store of another name."""
    kind, name = key
    return not (folders[kind] / f"{name}.zarr").exists() and (folders["readout"] / f"{name}.zarr").exists()


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort ddim50 before ddim100."""
    digits = "".join(c if c.isdecimal() else f" {c} " for c in name).split()
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in digits]


def _open(
    kind: Kind,
    name: str,
    files: Sequence[tuple[Path, xr.Dataset]],
    folders: Mapping[str, Path],
    sections: Sequence[Section],
    found: Mapping[str, Run],
    failed: Failed,
) -> Run:
    """Open one name of a kind: its store, if it is there and whole, its results, and what it was made from."""
    path, readout = (folders[of] / f"{name}.zarr" for of in (kind, "readout"))
    of_readout = found.get(_parent(readout) or "") if _is_readout((kind, name), folders) else None
    store, described = None, {}
    remarks: list[str] = []
    if of_readout is None:
        try:
            described = stores.describe(path)
            store = _with_pictures(path, kind)
        except (stores.NotAStore, stores.IncompleteStore) as error:
            remarks.append(f"no pictures: {error}")
        except Exception as error:
            failed(str(path), error)
            remarks.append(f"no pictures: {sentence(error)}")
    drawn = {quantity for section in sections if section.kind == kind for quantity in section.quantities}
    results: dict[str, xr.Dataset] = {}
    others: dict[str, xr.Dataset] = {}
    for file, result in files:
        fits = file.stem in drawn and _has_places(result, kind)
        read = attempt((_without_samples(result, kind) if fits else result).load, str(file), failed, remarks)
        if read is not None:
            (results if fits else others)[file.stem] = read
            remarks += _out_of_step(file, result, folders)
    if described and "label_variance" in results and _parent(readout) not in (None, described["fingerprint"]):
        remarks.append(f"{readout} was read from other images than {path} holds now; read them again")
    replicas = described.get("arrays", {}).get("x_0", {"dims": {}})["dims"].get("replica")
    parent = found.get(_parent(path) or "") if of_readout is None else of_readout
    if of_readout is None and (kind == "sweep" or replicas != 1):  # one replica has nothing to be compared with
        baseline = folders["trajectories"] / f"{parent.name if parent else 'RUN'}.zarr"
        remarks += _missing(
            kind, name, results, folders, sections, f" --baseline {baseline}" if kind == "sweep" else ""
        )
    time_removed = None
    if kind == "sweep" and results:
        times = files[0][0].parent / "times.csv"
        time_removed = _time_removed(times, next(iter(results.values())))
        if time_removed is None and times.exists():
            remarks.append(
                f"{times} does not fit the results beside it; measure with `traj fork ... --sweep ... --times {times}`"
            )
    return Run(printable(name), kind, store, described, results, others, remarks, parent, time_removed)


def _with_pictures(path: Path, kind: Kind) -> xr.Dataset:
    """Open a store of a kind whose images can be shown.

    Raises NotAStore where it is of another kind, or where its forks start from, or its edits, are not what they are in
    stores of `traj fork`, besides what `stores.open` raises.
    """
    store = stores.open(path)
    if store.attrs["kind"] != kind:
        raise stores.NotAStore(f"{path} is a store of kind {store.attrs['kind']}; expected one of kind {kind} here")
    if kind != "trajectories" and not np.isin(store["at"], store["timestep"]).all():
        raise stores.NotAStore(
            f"{path} has forks that start where it has no timestep; expected `at` among its timesteps"
        )
    if kind == "sweep" and (odd := [n for n in EDIT[1:] if n not in store.coords or store[n].dtype.kind != "i"]):
        raise stores.NotAStore(f"{path} has edits without whole numbers {', '.join(odd)}; expected them on `variant`")
    return store


def _has_places(result: xr.Dataset, kind: Kind) -> bool:
    """Say whether a result lies over timesteps, or over one timestep per fork to start from, or per edit."""
    if kind == "sweep":
        return {*EDIT, *SAVED, "at_log_snr"} <= set(result.coords)
    if kind == "fork":
        return "at_log_snr" in result.coords and result["at"].to_index().is_unique
    return {"timestep", "log_snr"} <= set(result.coords)


def _without_samples(result: xr.Dataset, kind: Kind) -> xr.Dataset:
    """Leave out values of every sample, but for when each commits itself to a label, and those that are PAIRED."""
    return result.drop_vars(
        [
            name
            for name, v in result.items()
            if "sample" in v.dims and not str(name).startswith("commit_") and (kind, name) not in PAIRED
        ]
    )


def _time_removed(times: Path, result: xr.Dataset) -> np.ndarray | None:
    """Read the share of network time that each variant of a sweep does not take, None where it is not there."""
    try:
        with times.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        edits = list(zip(*(map(str, result[name].to_numpy().tolist()) for name in EDIT), strict=True))
        if [tuple(row[name] for name in EDIT) for row in rows] != edits:
            return None
        return np.array([float(row["time_removed"]) for row in rows])
    except (OSError, KeyError, TypeError, ValueError, csv.Error):
        return None


def _parent(path: Path) -> str | None:
    """Read the fingerprint of what a store was made from, None where there is no store or it does not say."""
    parent = _config(path).get("parent")
    named = parent.get("fingerprint") if isinstance(parent, dict) else None
    return named if isinstance(named, str) else None


def _config(path: Path) -> dict[str, Any]:
    """Read the inputs a store was made from, empty where there is no store or none that can be read."""
    try:
        config: dict[str, Any] = json.loads(read_root(path)["attributes"].get("config", "{}"))
    except (stores.StoreError, OSError):
        return {}
    return config


def _out_of_step(file: Path, result: xr.Dataset, folders: Mapping[str, Path]) -> list[str]:
    """Say where a result was computed from something else than its store is now."""
    config: dict[str, Any] = json.loads(result.attrs["config"])
    quantity, made_of = config.get("quantity"), config.get("store")
    if not isinstance(made_of, dict) or not isinstance(quantity, str) or quantity not in analysis.quantities():
        return []  # not what `traj analyze` saves
    kind = kind_of({quantity: config})
    path = folders[kind] / f"{file.parent.name}.zarr"
    try:
        there = stores.identity(path)
    except (stores.StoreError, OSError):
        return []
    if all(made_of.get(key) == there[key] for key in there):
        return []
    return [f"{file} was computed from other {stores.KINDS[kind].contents} than {path} holds now; analyse it again"]


def _missing(
    kind: Kind,
    name: str,
    results: Mapping[str, Any],
    folders: Mapping[str, Path],
    sections: Sequence[Section],
    options: str,
) -> list[str]:
    """Say which results are not there, and what makes them, with options."""
    wanted = [q for section in sections if section.kind == kind and not section.optional for q in section.quantities]
    sources: dict[str, list[str]] = {}
    for quantity in dict.fromkeys(wanted):
        if quantity not in results:
            sources.setdefault(kind_of({quantity: {}}), []).append(quantity)
    remarks = []
    for source, missing in sources.items():
        path = folders[source] / f"{name}.zarr"
        command = f"`traj analyze {','.join(missing)} {path}{options}`"
        if source == "readout" and not path.exists():
            command = f"`traj readout classifier {folders[kind] / name}.zarr {path} --model NAME`, then {command}"
        remarks.append(f"no {', no '.join(missing)}: run {command}")
    return remarks
