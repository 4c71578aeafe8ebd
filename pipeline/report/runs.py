"""What was run: a table of runs, and one of what was made of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from traj.pipeline.computing.project import Stored
from traj.pipeline.estimate import size
from traj.pipeline.process.in_words import plan_of, sampler_name
from traj.pipeline.report import markup
from traj.pipeline.report.entries import Entry
from traj.stores import KINDS, TOLD

_LISTED = 5
"""Texts or labels of a list that are written out."""

RUNS = (
    "<p>Labels are the classes asked for: none, all in turn (cycle), or one; samples take prompts in turn. Evaluations "
    "are calls of the network: for each image one in a step, or two by samplers such as Heun. Runs with the same "
    "fingerprint have the same inputs, and so the same trajectories.</p>"
)
MADE = (
    "<p>A fork starts again from a stored x_t of a run: its replicas share that state and have noise of their own from "
    "there on. A sweep starts again from stored x_t, each time with one edit of the process, and keeps the noise of "
    "the run. What was made of a run has its colour.</p>"
)
READ = (
    "<p>A readout is what a network, such as a classifier, makes of stored states or images; decoded images are what "
    "the autoencoder of a latent model makes of latents, with the same samples and steps. Results of decoded images "
    "are under the name of their own store.</p>"
)


class How(NamedTuple):
    """How a run was made: by which sampler, under what, in how many steps, with how many evaluations of the network."""

    sampler: str
    condition: str
    steps: int | None
    evaluations: int | None


def tables(entries: Sequence[Entry], colours: Mapping[str, str], folder: str) -> str:
    """Show a table of runs and one of what was made of them; folder is where the pages of the names are."""
    runs = [stored for entry in entries for stored in entry.stored.values() if stored.kind == "trajectories"]
    made = [stored for entry in entries for stored in entry.stored.values() if stored.kind in ("fork", "sweep")]
    read = [stored for entry in entries for stored in entry.stored.values() if stored.kind in ("readout", "decoded")]
    shown = ""
    head: tuple[str, ...]
    if runs:
        head = ("run", "model", "sampler", "condition", "steps", "samples", "evaluations", "store", "fingerprint")
        rows = [[markup.link(run.name, folder, colours), *_run(run)] for run in runs]
        shown += markup.table(head, rows, numbers=range(4, 8)) + RUNS
    if made:
        head = ("name", "what", "of", "sampler then on", "variants", "replicas", "samples", "store", "fingerprint")
        rows = [[markup.link(one.name, folder, colours), one.kind, *_made(one, colours, folder)] for one in made]
        shown += markup.table(head, rows, numbers=range(4, 8)) + MADE
    if read:
        head = ("name", "what", "of", "network", "samples", "store", "fingerprint")
        rows = [
            [markup.link(one.name, folder, colours), KINDS[one.kind].contents, *_read(one, colours, folder)]
            for one in read
        ]
        shown += markup.table(head, rows, numbers=range(4, 6)) + READ
    return shown


def condition(config: Mapping[str, Any]) -> str:
    """Say what samples were made under; the config of a store of one's own may hold anything."""
    asked = config.get("condition")
    return ", ".join(f"{name} {_said(value)}" for name, value in asked.items()) if isinstance(asked, dict) else "–"


def _said(value: Any) -> str:
    """Write a value as people do: a list without brackets, a text of it in quotes."""
    if not isinstance(value, list):
        return str(value)
    more = [f"and {len(value) - _LISTED} more"] if len(value) > _LISTED else []
    return ", ".join([*(json.dumps(item, ensure_ascii=False) for item in value[:_LISTED]), *more])


def _run(run: Stored) -> list[str]:
    how, samples = _recorded(run) or _generated(run), run.lengths.get("sample")
    return [
        markup.breakable(model_name(run)) if run.config else "–",
        escape(how.sampler),
        escape(how.condition),
        markup.count(how.steps),
        markup.count(samples),
        markup.count(how.evaluations and samples and how.evaluations * samples),
        *_size(run),
    ]


def _generated(run: Stored) -> How:
    """Say how a run of ours was made, and of one from elsewhere what its config and its states say."""
    config, plan = run.config, plan_of(run.config)
    stored = run.lengths.get("timestep")
    steps, evaluations = (len(plan.steps), plan.evaluations) if plan else (stored, stored)
    return How(sampler_name(config), condition(config), steps, evaluations)


def _recorded(run: Stored) -> How | None:
    """Say how `traj record` made a run, as its config notes; the coordinate `step` counts evaluations."""
    noted = run.config.get("record")
    if not isinstance(noted, dict) or not all(isinstance(noted.get(part), dict) for part in ("scheduler", "call")):
        return None
    sampler, guidance = str(noted["scheduler"].get("class", "–")), noted["call"].get("guidance_scale")
    sampler += "" if guidance is None else f"; guidance {guidance}"
    if run.ds is None:
        return How(sampler, _told(run), None, None)
    asked = noted["call"].get("num_inference_steps")
    steps = asked if isinstance(asked, int) else run.ds.sizes["timestep"]
    return How(sampler, _told(run), steps, int(run.ds["step"][-1]) + 1)


def _told(run: Stored) -> str:
    """Say what the samples of a recorded run were made under, as its coordinates say."""
    found = {}
    for name in TOLD:
        values = [] if run.ds is None or name not in run.ds.coords else run.ds[name].to_numpy().tolist()
        if told := [value for value in dict.fromkeys(values) if value != -1]:
            found[f"{name}s"] = told
    return ", ".join(f"{name} {_said(values)}" for name, values in found.items()) or "–"


def _made(one: Stored, colours: Mapping[str, str], folder: str) -> list[str]:
    shape = one.lengths
    return [
        _parent(one, colours, folder),
        escape(sampler_name(one.config)),
        *(markup.count(shape.get(dim)) for dim in ("variant", "replica", "sample")),
        *_size(one),
    ]


def _read(one: Stored, colours: Mapping[str, str], folder: str) -> list[str]:
    return [
        _parent(one, colours, folder),
        markup.breakable(one.network("classifier") or one.network("model") or "–"),
        markup.count(one.lengths.get("sample")),
        *_size(one),
    ]


def _parent(one: Stored, colours: Mapping[str, str], folder: str) -> str:
    return markup.link(one.of.name, folder, colours) if one.of and one.of.name in colours else "–"


def _size(one: Stored) -> list[str]:
    described = one.described
    return [
        size(described["bytes"]) if described else "–",
        f"<code>{described['fingerprint'][:8]}</code>" if described.get("fingerprint") else "–",
    ]


def model_name(run: Stored) -> str:
    """Name the model of a run, as it was asked for."""
    if name := run.network("model"):
        return name
    model = run.config.get("model", "unknown")
    return str(model.get("name", "unknown")) if isinstance(model, dict) else str(model)
