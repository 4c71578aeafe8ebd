"""How a run goes down, said for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from traj.pipeline.process.plan import Plan, Treatment
from traj.stores import InputError


def plan_of(config: Mapping[str, Any]) -> Plan | None:
    """Read the plan in a store's config, None where it has none of ours: other people's configs may say anything."""
    plan = config.get("plan")
    try:
        return Plan.from_json(plan) if isinstance(plan, dict) else None
    except InputError:
        return None


def sampler_name(config: Mapping[str, Any]) -> str:
    """Say by which rules a run's plan goes down, each once, and with which guidance; a dash where it has no plan."""
    if (plan := plan_of(config)) is None:
        return "–"
    rules = dict.fromkeys(map(_rule, dict.fromkeys(step.treatment for step in plan.steps)))
    return "; ".join([*rules, *([f"guidance {config['guidance']}"] if "guidance" in config else [])])


def _rule(treatment: Treatment) -> str:
    rule, variance, noise, *_ = treatment
    if rule == "heun":
        name = "Heun"
    elif rule == "ddim":
        name = "DDIM" if variance == 0 else f"DDIM, eta {variance:g}"
    else:
        name = "IDDPM, learned variance" if variance == "learned" else f"DDPM, {variance} variance"
    return name if noise == "shared" else f"{name}, noise {noise}"
