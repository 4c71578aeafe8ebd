"""Draw everything under results/ into one page, with its numbers as json and its curves as csv."""

from __future__ import annotations

from functools import partial
from itertools import cycle
from pathlib import Path

from traj.analysis._drawing import MARKERS, colours
from traj.pipeline.report import metrics, page
from traj.pipeline.report.collected import KINDS, collect
from traj.pipeline.report.contents import Material, Run
from traj.pipeline.report.failures import Failed, attempt, warn
from traj.pipeline.report.sections import SECTIONS
from traj.stores import KINDS as STORES
from traj.stores import RESULTS
from traj.stores.partials import write_file
from traj.stores.places import place, require_writable

__all__ = ["report"]


def report(
    out: Path,
    *,
    results: Path = RESULTS,
    trajectories: Path = STORES["trajectories"].folder,
    forks: Path = STORES["fork"].folder,
    sweeps: Path = STORES["sweep"].folder,
    readouts: Path = STORES["readout"].folder,
    models: Path = Path("models"),
    beside: Path | None = None,
    failed: Failed = warn,
) -> Path:
    """Write index.html, metrics.json, metrics/RUN.json and plots/*.csv into the folder out; return the page's path.

    Every run, fork store and sweep that is there or has results is shown with what it has; what is missing is said on
    the page. beside is the folder of another project, whose runs are shown too. Same inputs, same bytes.

    What is damaged or cannot be drawn is left out, said on the page, and told to `failed`: the place, and the error.

    Raises MissingFile where there is no result at all.
    """
    require_writable(place(out, folder=True) / "index.html")
    folders = {"trajectories": trajectories, "fork": forks, "sweep": sweeps, "readout": readouts}
    runs = collect(results, folders, SECTIONS, beside, failed)
    numbers = {
        kind: {run.name: metrics.numbers(run, SECTIONS, failed) for run in runs if run.kind == kind} for kind in KINDS
    }
    remarks: list[str] = []
    losses, training = metrics.losses(models, failed, remarks), metrics.training_metrics(models, failed, remarks)
    material = Material(
        runs=[run for run in runs if run.kind == "trajectories"],
        forks=[run for run in runs if run.kind == "fork"],
        sweeps=[run for run in runs if run.kind == "sweep"],
        numbers=numbers,
        losses=losses,
        colours=_colours(runs),
        markers=_markers(runs),
        sections=SECTIONS,
        remarks=remarks,
    )
    titles = {"trajectories": "runs", "fork": "forks", "sweep": "sweeps"}
    metrics.write_json(out / "metrics.json", {titles[kind]: numbers[kind] for kind in KINDS} | {"training": training})
    # One file per run: `dvc metrics show` makes a row of each.
    for run in runs:
        of_name = {key: value for kind in KINDS for key, value in numbers[kind].get(run.name, {}).items()}
        file = out / "metrics" / f"{run.name}.json"
        attempt(partial(metrics.write_json, file, of_name), "numbers of the run", failed, run.remarks)
    metrics.write_curves(out / "plots", runs, SECTIONS, failed)
    index = out / "index.html"
    # names may be no UTF-8
    write_file(index, page.html(material, failed).encode(errors="replace"))
    return index


def _colours(runs: list[Run]) -> dict[str, str]:
    """Give every run a colour, and what was made of it the same."""
    palette = colours(list(dict.fromkeys(run.origin.name for run in runs)))
    return palette | {run.name: palette[run.origin.name] for run in runs}


def _markers(runs: list[Run]) -> dict[str, str]:
    """Tell apart what was made of the same run."""
    markers = {run.origin.name: cycle(MARKERS) for run in runs}
    return {run.name: next(markers[run.origin.name]) if run.parent else "" for run in runs}
