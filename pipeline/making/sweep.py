"""Sweeps: a table of interventions on a run, each of which becomes one variant of its forks (002; METHODS 3.2, 3.4)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from traj.pipeline.configs import shown
from traj.pipeline.making.shortcut import shortcut
from traj.pipeline.models import surgery
from traj.pipeline.models.surgery import scaled_unet_blocks
from traj.pipeline.process.cut import WHOLE, Cut
from traj.pipeline.process.denoiser import Denoiser, network_of
from traj.pipeline.process.plan import Plan, Step
from traj.stores import ONCE, SAVED, SHORTCUT, InputError

EXAMPLE = "{edit: jump, n: 5, t_start: {every: 4}}"
KEYS = {"jump": ("t_start", "n"), "skips": ("t_start", "n", "ns"), "blocks": ("t_start", "n", "nb"), "shortcut": ()}
OPTIONAL = {"jump": (), "skips": ("r",), "blocks": ("r",), "shortcut": ()}
MOST_STEPS = 1_000_000
MOST_VARIANTS = 100_000
MOST_VALUES = 1_000_000


@dataclass(frozen=True)
class Family:
    """An edit, and the values of what it is made with; all their combinations are meant.

    "jump" goes n steps further; "skips" leaves the ``ns`` top-most skips out of n steps, "blocks" the ``nb`` lowest
    of the source's 16 output blocks. ``r`` steps later the same is left out again; ONCE for once only. "shortcut"
    has a schedule of its own, from the first timestep on.
    """

    edit: str
    t_start: tuple[int, ...]
    n: tuple[int, ...] = (0,)
    ns: tuple[int, ...] = (0,)
    nb: tuple[int, ...] = (0,)
    r: tuple[int, ...] = (ONCE,)


def read(table: str, timesteps: Sequence[int]) -> list[Family]:
    """Read the families of a YAML file, FILE, or of a place in one, FILE:KEY.KEY.

    ``timesteps`` are those that {every: k} counts, the first of them where a shortcut starts.

    Raises
    ------
    InputError
        When there is no such file or place, or it holds anything but a list of families.
    """
    found = _find(table)
    if not isinstance(found, list) or not found:
        raise InputError(f"{table} holds {shown(found)}; expected a list of families of edits like {EXAMPLE}")
    families = [_family(f"{table}, family {count}", form, timesteps) for count, form in enumerate(found, 1)]
    asked = sum(math.prod(map(len, (each.t_start, each.n, each.ns, each.nb, each.r))) for each in families)
    if asked > MOST_VARIANTS:
        raise InputError(f"{table} asks for {asked:,} variants; expected at most {MOST_VARIANTS:,}, in several forks")
    return families


def variants(families: Sequence[Family], plan: Plan, denoiser: Denoiser) -> tuple[list[Plan], dict[str, list[Any]]]:
    """Edit a plan in every way of the families, each plan from its t_start on, and list what was edited and saved.

    The coordinates are edit, n, ns, nb as the source counts, ``unet_blocks`` of this network that nb comes to, and r.
    Of the network evaluations of a sample, from noise on, ``evaluations_saved`` are not made, ``evaluations_cut`` are
    made with a part of the network, and ``multiply_adds_removed`` is the share of their multiply-adds that is not done.

    Raises
    ------
    InputError
        When the plan does not visit a t_start, the network has no such parts, a jump is asked of another rule than
        ddim, or a shortcut of another number of steps than its own.
    """
    network = network_of(denoiser)
    plans: list[Plan] = []
    rows: list[dict[str, Any]] = []
    for family in families:
        for t_start, n, ns, nb, r in product(family.t_start, family.n, family.ns, family.nb, family.r):
            unet_blocks = scaled_unet_blocks(nb, network) if family.edit == "blocks" else 0
            cut, left = Cut(ns, unet_blocks), plan.after(t_start)
            surgery.check(network, cut)
            match family.edit:
                case "jump":
                    plans.append(left.jump(t_start, n))
                case _ if family.edit == SHORTCUT:
                    plans.append(shortcut(left, network))
                case _ if r == ONCE:
                    plans.append(left.with_cut(cut, t_start, n))
                case _:
                    plans.append(left.cut_relax_cut(cut, t_start, n, r))
            rows.append({"edit": family.edit, "n": n, "ns": ns, "nb": nb, "unet_blocks": unet_blocks, "r": r})
    edits = {name: [row[name] for row in rows] for name in rows[0]}
    return plans, edits | _saved(plan, plans, denoiser)


def removed(plan: Plan, edited: Plan, cost: Mapping[Cut, float]) -> float:
    """Give the share of a whole plan's cost that an edited one does not have; ``cost`` is an evaluation's, by cut."""
    whole, left = (
        sum(cost[step.cut] * step.evaluations for step in steps) for steps in (plan.steps, _from_noise(plan, edited))
    )
    return (whole - left) / whole


def cuts_of(plans: Iterable[Plan]) -> list[Cut]:
    """List the cuts of the steps of some plans, each once, that of nothing among them."""
    return list(dict.fromkeys(step.cut for plan in plans for step in plan.steps))


def _saved(plan: Plan, plans: Sequence[Plan], denoiser: Denoiser) -> dict[str, list[Any]]:
    """Count what each edited plan saves of the whole one."""
    multiply_adds = _multiply_adds([plan, *plans], denoiser)
    processes = [_from_noise(plan, edited) for edited in plans]
    saved = [plan.evaluations - sum(step.evaluations for step in steps) for steps in processes]
    cut = [sum(step.evaluations for step in steps if step.cut != WHOLE) for steps in processes]
    shares = [removed(plan, edited, multiply_adds) for edited in plans]
    return dict(zip(SAVED, (saved, cut, shares), strict=True))


def _from_noise(plan: Plan, edited: Plan) -> tuple[Step, ...]:
    """Put the steps of an edited plan after those of the whole one that come before it."""
    return *plan.steps[: plan.timesteps.index(edited.timesteps[0])], *edited.steps


def _multiply_adds(plans: Sequence[Plan], denoiser: Denoiser) -> dict[Cut, int]:
    """Count an evaluation's multiply-adds by cut; without cuts all count alike, and a model need not be a U-Net."""
    found = cuts_of(plans)
    if found == [WHOLE]:
        return {WHOLE: 1}
    count = surgery.count(network_of(denoiser), denoiser.shape[1:])
    return {cut: count.under(cut) for cut in found}


def _find(table: str) -> Any:
    """Load what a table's name stands for."""
    file, _, place = (table, "", "") if Path(table).is_file() else table.rpartition(":")
    if not Path(file or table).is_file():
        raise InputError(f"sweep {table}: no such file; expected a YAML file, or FILE:KEY for a place in one")
    try:
        found = _load(Path(file).read_text(encoding="utf-8"))
    except RecursionError:
        raise InputError(f"{file} is nested too deeply; expected families of edits like {EXAMPLE}") from None
    except (yaml.YAMLError, ValueError, LookupError, AttributeError) as error:  # all but the first are those of !!tags
        raise InputError(f"{file} is not YAML: {error}") from None
    for key in place.split(".") if place else ():
        if not isinstance(found, Mapping) or key not in found:
            known = ", ".join(map(str, found)) if isinstance(found, Mapping) else shown(found)
            raise InputError(f"{file} has no {place}: there is no {key!r} in {known}")
        found = found[key]
    return found


def _load(text: str) -> Any:
    """Read YAML; refuse a document whose aliases expand to too many values."""
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if _values(node, {}) > MOST_VALUES:
            raise InputError(f"it holds more than {MOST_VALUES:,} values, those counted that aliases repeat")
        return None if node is None else loader.construct_document(node)
    finally:
        loader.dispose()


def _values(node: Any, counted: dict[int, int]) -> int:
    """Count the values of a YAML document as if every alias were written out."""
    if id(node) not in counted:
        counted[id(node)] = 0
        below = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = (part for item in below for part in (item if isinstance(item, tuple) else (item,)))
        counted[id(node)] = 1 + sum(_values(part, counted) for part in parts)
    return counted[id(node)]


def _family(where: str, form: Any, timesteps: Sequence[int]) -> Family:
    if not isinstance(form, Mapping):
        raise InputError(f"{where} is {shown(form)}; expected a mapping like {EXAMPLE}")
    edit = form.get("edit")
    if not isinstance(edit, str) or edit not in KEYS:
        raise InputError(f"{where}: edit {shown(edit)} was given; expected one of {', '.join(KEYS)}")
    unknown, missing = set(form) - {"edit", *KEYS[edit], *OPTIONAL[edit]}, set(KEYS[edit]) - set(form)
    if unknown or missing:
        problem = f"unknown {', '.join(sorted(map(str, unknown)))}" if unknown else f"no {', '.join(sorted(missing))}"
        known = ", ".join((*KEYS[edit], *(f"{key} if wanted" for key in OPTIONAL[edit]))) or "nothing else"
        raise InputError(f"{where}: {problem}; edit {edit} takes {known}")
    values = {key: _numbers(f"{where}: {key}", value) for key, value in form.items() if key not in ("edit", "t_start")}
    t_start = _t_start(f"{where}: t_start", form["t_start"], timesteps) if "t_start" in form else (timesteps[0],)
    return Family(edit, t_start, **values)


def _t_start(where: str, value: Any, timesteps: Sequence[int]) -> tuple[int, ...]:
    if not isinstance(value, Mapping):
        return _numbers(where, value)
    every = value.get("every")
    if set(value) != {"every"} or type(every) is not int or every < 1:
        raise InputError(f"{where} {shown(value)} was given; expected timesteps, or {{every: k}} with k from 1 on")
    return tuple(timesteps[::every])


def _numbers(where: str, value: Any) -> tuple[int, ...]:
    numbers = value if isinstance(value, list) else [value]
    if not numbers or any(type(number) is not int or not 0 <= number <= MOST_STEPS for number in numbers):
        raise InputError(
            f"{where} {shown(value)} was given; expected a whole number from 0 to {MOST_STEPS}, or a list of them"
        )
    if len(set(numbers)) < len(numbers):
        raise InputError(f"{where} {shown(value)} was given; expected each number once")
    return tuple(numbers)
