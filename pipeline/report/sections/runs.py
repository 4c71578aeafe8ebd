"""What was run, what was forked, and what is missing of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from traj.pipeline.estimate import size
from traj.pipeline.report import markup
from traj.pipeline.report.contents import Material, Run, Section

RUNS = (
    "<p>Labels are the classes asked for: none, all in turn (cycle), or one. Evaluations are those of the network, "
    "one per image and step. The fingerprint stands for all inputs of a run: equal ones, equal trajectories.</p>"
)
FORKS = (
    "<h3>Forks</h3><p>A fork starts again from a stored x_t of a run. Its replicas share that state and, unless their "
    "sampler says otherwise, have noise of their own from there on; a fork has the colour of its run.</p>"
)
SWEEPS = (
    "<h3>Sweeps</h3><p>A sweep starts again from stored x_t of a run, each time with one edit of the process: a jump "
    "over steps, parts of the network left out for some steps, or the shortcut. What is not edited has the noise of "
    "the run.</p>"
)


def html(material: Material) -> str:
    """Show a table of runs, one of forks, and what is missing."""
    forks = "".join(
        about + _forks(group, material)
        for about, group in ((FORKS, material.forks), (SWEEPS, material.sweeps))
        if any(not fork.is_readout for fork in group)
    )
    return _runs(material) + forks + _remarks(material)


def _runs(material: Material) -> str:
    head = ("run", "model", "sampler", "labels", "steps", "samples", "evaluations", "store", "fingerprint")
    rows = []
    for run in material.runs:
        if run.is_readout:
            continue
        config, shape = run.config, run.described.get("arrays", {}).get("x_t", {}).get("dims", {})
        steps, samples = plan_steps(config) or shape.get("timestep"), shape.get("sample")
        rows.append(
            [
                markup.named(run.name, material.colours),
                escape(model_name(run)) if config else "–",
                escape(sampler_name(config)),
                escape(str(config.get("condition", {}).get("labels", "–"))),
                markup.count(steps),
                markup.count(samples),
                markup.count(steps and samples and (steps + second_evaluations(config)) * samples),
                *_stored(run),
            ]
        )
    return markup.table(head, rows, numbers=range(4, 8)) + RUNS if rows else ""


def _forks(forks: Sequence[Run], material: Material) -> str:
    head = ("name", "of", "sampler from there on", "variants", "replicas", "samples", "store", "fingerprint")
    rows = []
    for fork in forks:
        if fork.is_readout:
            continue
        shape = fork.described.get("arrays", {}).get("x_0", {}).get("dims", {})
        rows.append(
            [
                markup.named(fork.name, material.colours),
                markup.named(fork.parent.name, material.colours) if fork.parent else "–",
                escape(sampler_name(fork.config)),
                *(markup.count(shape.get(dim)) for dim in ("variant", "replica", "sample")),
                *_stored(fork),
            ]
        )
    return markup.table(head, rows, numbers=range(3, 7))


def _stored(run: Run) -> list[str]:
    described = run.described
    return [
        size(described["bytes"]) if described else "–",
        f"<code>{described['fingerprint'][:8]}</code>" if described.get("fingerprint") else "–",
    ]


def model_name(run: Run) -> str:
    """Name the model of a run, as it was asked for."""
    for made_in in run.described.get("environments", []):
        if isinstance(name := made_in["environment"].get("model"), str):
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
    return sum((part["first"] - part["last"]) // max(part["stride"], 1) + 1 for part in _plan(config))


def second_evaluations(config: Mapping[str, Any]) -> int:
    """Count the steps of a plan that evaluate the network twice: those of heun, but for the one to x_0."""
    parts = _plan(config)
    steps = [part["rule"] for part in parts for _ in range(plan_steps({"plan": {"runs": [part]}}))]
    return steps[:-1].count("heun")


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


def _remarks(material: Material) -> str:
    items = [f"<li><b>{escape(run.name)}</b>: {escape(remark)}</li>" for run in material.all for remark in run.remarks]
    items += [f"<li>{escape(remark)}</li>" for remark in material.remarks]
    return f'<div class="remarks">Missing or out of step:<ul>{"".join(items)}</ul></div>' if items else ""


SECTION = Section("runs", "What was run", html)
