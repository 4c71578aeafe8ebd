"""What was run: a table of runs, and one of what was made of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from traj.pipeline.estimate import size
from traj.pipeline.report import markup
from traj.pipeline.report.entries import Entry, Stored
from traj.stores import KINDS, TOLD

_LISTED = 5
"""Texts or labels of a list that are written out."""

RUNS = (
    "<p>Labels are the classes asked for: none, all in turn (cycle), or one; samples take prompts in turn. Evaluations "
    "are those of the network: for each image one per step, and a second one where the sampler makes it. The "
    "fingerprint stands for all inputs of a run: equal ones, equal trajectories.</p>"
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
    config, shape = run.config, run.described.get("arrays", {}).get("x_t", {}).get("dims", {})
    steps, samples = plan_steps(config) or shape.get("timestep"), shape.get("sample")
    evaluations = steps and steps + second_evaluations(config)
    sampler, under = sampler_name(config), condition(config)
    if recorded := _recorded(config):
        steps, evaluations = _recorded_steps(run, recorded)
        sampler, under = _scheduler_name(recorded), _told(run)
    return [
        markup.breakable(model_name(run)) if config else "–",
        escape(sampler),
        escape(under),
        markup.count(steps),
        markup.count(samples),
        markup.count(evaluations and samples and evaluations * samples),
        *_size(run),
    ]


def _recorded(config: Mapping[str, Any]) -> dict[str, Any]:
    """Read what `traj record` notes of a pipeline and its call, nothing where a config says no such thing."""
    found = config.get("record")
    if isinstance(found, dict) and all(isinstance(found.get(part), dict) for part in ("scheduler", "call")):
        return found
    return {}


def _recorded_steps(run: Stored, recorded: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Count the steps of a recorded call, and the evaluations of its network: the coordinate `step` counts these."""
    if run.ds is None:
        return None, None
    evaluations = int(run.ds["step"][-1]) + 1
    asked = recorded["call"].get("num_inference_steps")
    return asked if isinstance(asked, int) else run.ds.sizes["timestep"], evaluations


def _scheduler_name(recorded: Mapping[str, Any]) -> str:
    """Name the scheduler that a recorded pipeline ran, and the guidance that was asked for."""
    parts = [str(recorded["scheduler"].get("class", "–"))]
    if (guidance := recorded["call"].get("guidance_scale")) is not None:
        parts.append(f"guidance {guidance}")
    return "; ".join(parts)


def _told(run: Stored) -> str:
    """Say what the samples of a recorded run were made under, as its coordinates say."""
    found = {}
    for name in TOLD:
        values = [] if run.ds is None or name not in run.ds.coords else run.ds[name].to_numpy().tolist()
        if told := [value for value in dict.fromkeys(values) if value != -1]:
            found[f"{name}s"] = told
    return ", ".join(f"{name} {_said(values)}" for name, values in found.items()) or "–"


def _made(one: Stored, colours: Mapping[str, str], folder: str) -> list[str]:
    shape = _lengths(one)
    return [
        _parent(one, colours, folder),
        escape(sampler_name(one.config)),
        *(markup.count(shape.get(dim)) for dim in ("variant", "replica", "sample")),
        *_size(one),
    ]


def _read(one: Stored, colours: Mapping[str, str], folder: str) -> list[str]:
    return [
        _parent(one, colours, folder),
        markup.breakable(_named(one, "classifier") or _named(one, "model") or "–"),
        markup.count(_lengths(one).get("sample")),
        *_size(one),
    ]


def _parent(one: Stored, colours: Mapping[str, str], folder: str) -> str:
    return markup.link(one.of.name, folder, colours) if one.of and one.of.name in colours else "–"


def _lengths(one: Stored) -> dict[str, int]:
    arrays = one.described.get("arrays", {})
    return {dim: size for array in arrays.values() for dim, size in array["dims"].items()}


def _named(one: Stored, part: str) -> str | None:
    """Read how a network was called when a store was made."""
    for made_in in one.described.get("environments", []):
        if isinstance(name := made_in["environment"].get(part), str):
            return name
    return None


def _size(one: Stored) -> list[str]:
    described = one.described
    return [
        size(described["bytes"]) if described else "–",
        f"<code>{described['fingerprint'][:8]}</code>" if described.get("fingerprint") else "–",
    ]


def model_name(run: Stored) -> str:
    """Name the model of a run, as it was asked for."""
    if name := _named(run, "model"):
        return name
    model = run.config.get("model", "unknown")
    return str(model.get("name", "unknown")) if isinstance(model, dict) else str(model)


def sampler_name(config: Mapping[str, Any]) -> str:
    """Say in words by which rule a run's plan goes down, a dash where the config has no plan of ours."""
    parts = []
    for part in _plan(config):
        if part["rule"] == "heun":
            name = "Heun"
        elif part["rule"] == "ddim":
            name = "DDIM" if part["variance"] == 0 else f"DDIM, eta {part['variance']:g}"
        else:
            name = "IDDPM, learned variance" if part["variance"] == "learned" else f"DDPM, {part['variance']} variance"
        parts.append(name if part["noise"] == "shared" else f"{name}, noise {part['noise']}")
    if parts and "guidance" in config:
        parts.append(f"guidance {config['guidance']}")
    return "; ".join(dict.fromkeys(parts)) or "–"


def plan_steps(config: Mapping[str, Any]) -> int:
    """Count a plan's steps, 0 where the config has no plan of ours."""
    return sum(map(_steps, _plan(config)))


def second_evaluations(config: Mapping[str, Any]) -> int:
    """Count the steps of a plan that evaluate the network twice: those of heun, but for the one to x_0."""
    steps = [part["rule"] for part in _plan(config) for _ in range(_steps(part))]
    return steps[:-1].count("heun")


def _steps(part: Mapping[str, Any]) -> int:
    count: int = (part["first"] - part["last"]) // max(part["stride"], 1) + 1
    return count


def _plan(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Read the runs of a plan as `traj generate` writes it, none where the config of a store says something else."""
    plan = config.get("plan")
    parts = plan.get("runs") if isinstance(plan, dict) else None
    return parts if isinstance(parts, list) and all(map(_is_of_ours, parts)) else []


def _is_of_ours(part: Any) -> bool:
    if not isinstance(part, dict) or not {"rule", "variance", "noise"} <= set(part):
        return False
    whole = all(isinstance(part.get(name), int) for name in ("first", "last", "stride"))
    return whole and (part["rule"] != "ddim" or isinstance(part["variance"], int | float))
