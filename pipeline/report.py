"""Draw everything under results/ into one page, with its numbers as json and its curves as csv."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xarray as xr

import stores
from pipeline import metrics, page

DRAWN = ("entropy", "ssim", "psnr")


@dataclass(frozen=True)
class Run:
    """What is at hand of one run.

    described is what `stores.describe` says of its store, empty where there is none; store the opened one, None
    where it can't be. results are by quantity; others are those this report has no section for.
    """

    name: str
    store: xr.Dataset | None
    described: dict[str, Any]
    results: dict[str, xr.Dataset]
    others: dict[str, xr.Dataset]
    remarks: list[str] = field(default_factory=list)

    @property
    def config(self) -> dict[str, Any]:
        """The inputs the trajectories were made from, empty where they are not at hand."""
        return self.described.get("config", {})


def report(
    out: Path,
    *,
    results: Path = Path("results"),
    trajectories: Path = Path("data/trajectories"),
    models: Path = Path("models"),
) -> Path:
    """Write index.html, metrics.json, metrics/RUN.json and plots/*.csv into the folder out; return the page's path.

    Every run under results or trajectories is shown with what it has; what is missing is said on the page. Same
    inputs, same bytes.

    Raises FileNotFoundError where there is no result at all, and what `stores.open` raises for a damaged result.
    """
    runs = collect(results, trajectories)
    out.mkdir(parents=True, exist_ok=True)
    numbers = {run.name: metrics.run_metrics(run.store, run.results, run.config) for run in runs}
    training = metrics.training_metrics(models)
    _write_json(out / "metrics.json", {"runs": numbers, "training": training})
    # One file per run: `dvc metrics show` makes a row of each.
    (out / "metrics").mkdir(exist_ok=True)
    for run, of_run in numbers.items():
        _write_json(out / "metrics" / f"{run}.json", of_run)
    metrics.write_curves(out / "plots", {run.name: run.results for run in runs})
    index = out / "index.html"
    index.write_text(page.html(runs, numbers, metrics.losses(models)), encoding="utf-8")
    return index


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def collect(results: Path, trajectories: Path) -> list[Run]:
    """Open every run that has results or trajectories, in the order of their names, numbers read as numbers.

    Raises FileNotFoundError where there is no result.
    """
    if not any(results.glob("*/*.zarr")):
        raise FileNotFoundError(
            f"there is no result under {results}; run `traj analyze entropy,ssim,psnr` first, or `dvc repro`"
        )
    names = {path.parent.name for path in results.glob("*/*.zarr")}
    names |= {path.name.removesuffix(".zarr") for path in trajectories.glob("*.zarr") if ".stale-" not in path.name}
    return [_open(name, results / name, trajectories / f"{name}.zarr") for name in sorted(names, key=_natural)]


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort ddim50 before ddim100."""
    digits = "".join(c if c.isdecimal() else f" {c} " for c in name).split()
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in digits]


def _open(name: str, folder: Path, path: Path) -> Run:
    """Open one run: its store, if it is there and whole, and its results."""
    store, described, remarks = None, {}, []
    try:
        described = stores.describe(path)
        store = stores.open(path)
    except (stores.NotAStore, stores.IncompleteStore) as error:
        remarks.append(f"no pictures: {error}")
    found, others = {}, {}
    for file in sorted(folder.glob("*.zarr")):
        result = stores.open(file)
        if file.stem in DRAWN and "timestep" in result.dims:
            found[file.stem] = result.drop_dims("sample").load()
        else:
            others[file.stem] = result
        source = json.loads(result.attrs["config"]).get("store", {})
        there = {"fingerprint": described.get("fingerprint"), "samples": store and store.sizes["sample"]}
        if store is not None and any(source.get(key, there[key]) != there[key] for key in there):
            remarks.append(f"{file} was computed from other trajectories than {path} holds now; analyse it again")
    missing = [quantity for quantity in DRAWN if quantity not in found]
    if missing:
        remarks.append(f"no {', no '.join(missing)}: run `traj analyze {','.join(missing)} {path}`")
    return Run(name, store, described, found, others, remarks)
