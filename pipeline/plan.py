"""A reverse process as data: timesteps visited, where each step lands, by which rule, with which noise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from pipeline.schedule import Schedule

VARIANCES = ("large", "small", "learned")
NOISES = ("shared", "independent", "zero")


class Treatment(NamedTuple):
    """How a step moves the state: its rule, its variance (a name, or eta for ddim) and its noise."""

    rule: str
    variance: str | float
    noise: str


@dataclass(frozen=True)
class Step:
    """One evaluation of the network at ``timestep``, after which the state is the one of ``lands_on``.

    ``lands_on`` -1 is x_0. ``rule`` "posterior" goes with the variance "large" (beta), "small" (beta tilde)
    or "learned"; ``rule`` "ddim" with a number eta. ``noise`` is "shared" (the run's own addressed noise),
    "independent" (another replica's) or "zero".
    """

    timestep: int
    lands_on: int
    rule: str
    variance: str | float
    noise: str = "shared"

    def __post_init__(self) -> None:
        """Check the words, and that the step goes down."""
        if not -1 <= self.lands_on < self.timestep:
            raise ValueError(
                f"a step at timestep {self.timestep} lands on {self.lands_on}; expected -1 to {self.timestep - 1}"
            )
        if self.rule == "posterior":
            if self.variance not in VARIANCES:
                raise ValueError(f"variance {self.variance!r} of a posterior step; expected one of {VARIANCES}")
        elif self.rule == "ddim":
            if isinstance(self.variance, str) or not 0 <= self.variance < float("inf"):
                raise ValueError(f"variance {self.variance!r} of a ddim step; expected a number eta, 0 or more")
            object.__setattr__(self, "variance", float(self.variance))
        else:
            raise ValueError(f"rule {self.rule!r}; expected posterior or ddim")
        if self.noise not in NOISES:
            raise ValueError(f"noise {self.noise!r}; expected one of {NOISES}")

    @property
    def treatment(self) -> Treatment:
        """What two steps of one run have in common."""
        return Treatment(self.rule, self.variance, self.noise)


@dataclass(frozen=True)
class Plan:
    """Steps from high to low timesteps, each landing on the next one and the last on x_0.

    ``clip`` is the range pred_x0 is clipped to inside the update, None for no clipping.
    """

    steps: tuple[Step, ...]
    clip: float | None = None

    def __post_init__(self) -> None:
        """Check that every step lands on the one after it."""
        if not self.steps:
            raise ValueError("a plan without steps; expected at least one")
        if self.clip is not None:
            if not self.clip > 0:
                raise ValueError(f"clip {self.clip}; expected a number above 0, or none")
            object.__setattr__(self, "clip", float(self.clip))
        for step, lands_on in zip(self.steps, [*self.timesteps[1:], -1], strict=True):
            if step.lands_on != lands_on:
                raise ValueError(
                    f"the step at timestep {step.timestep} lands on {step.lands_on}, but the plan goes on at {lands_on}"
                )

    @property
    def timesteps(self) -> list[int]:
        """Timesteps at which the network is evaluated, from high to low."""
        return [step.timestep for step in self.steps]

    def after(self, timestep: int) -> Plan:
        """Keep the steps from a timestep on, to start from the x_t stored there.

        Raises
        ------
        ValueError
            When the plan does not visit the timestep.
        """
        return replace(self, steps=self.steps[self._position(timestep) :])

    def jump(self, timestep: int, n: int) -> Plan:
        """Let the step at a timestep land n steps further down, or on x_0 if the plan ends there (002 eq. 4).

        n is 1 for the plan as it is, so n-1 evaluations are removed. The noise of a step with eta above 0 is
        that of the longer step.

        Raises
        ------
        ValueError
            When the plan does not visit the timestep, n is negative, or the step's rule is not ddim.
        """
        if n < 0:
            raise ValueError(f"a jump over {n} steps; expected 0 or more")
        if n <= 1:
            return self
        first = self._position(timestep)
        last = min(first + n, len(self.steps)) - 1
        step = self.steps[first]
        if step.rule != "ddim":
            raise ValueError(f"a jump needs rule ddim; the step at timestep {timestep} has rule {step.rule}")
        jumped = replace(step, lands_on=self.steps[last].lands_on)
        return replace(self, steps=(*self.steps[:first], jumped, *self.steps[last + 1 :]))

    def with_noise(self, noise: str, first: int, last: int) -> Plan:
        """Change the noise of the steps with first >= timestep >= last (000 section on consistency)."""
        if first < last:
            raise ValueError(f"timesteps {first} to {last}; expected from high to low")
        return replace(
            self,
            steps=tuple(replace(s, noise=noise) if first >= s.timestep >= last else s for s in self.steps),
        )

    def to_json(self) -> dict[str, Any]:
        """Write the plan as runs of equally spaced, equally treated steps; one plan has one such form."""
        runs: list[list[Step]] = []
        for step in self.steps:
            if runs and _continues(runs[-1], step):
                runs[-1].append(step)
            else:
                runs.append([step])
        return {"runs": [_run_to_json(run) for run in runs], "clip": self.clip}

    @classmethod
    def from_json(cls, plan: Mapping[str, Any]) -> Plan:
        """Read the form that ``to_json`` writes.

        Raises
        ------
        ValueError
            When it is not exactly what ``to_json`` writes for some plan.
        """
        try:
            visits = [
                (timestep, Treatment(run["rule"], run["variance"], run["noise"]))
                for run in plan["runs"]
                for timestep in range(run["first"], run["last"] - 1, -max(run["stride"], 1))
            ]
            read = _chain(visits, plan["clip"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a plan: {error!r}; expected the form Plan.to_json writes") from None
        if read.to_json() != plan:
            raise ValueError(f"not the form Plan.to_json writes: {plan}; expected {read.to_json()}")
        return read

    def _position(self, timestep: int) -> int:
        if timestep not in self.timesteps:
            raise ValueError(f"the plan does not visit timestep {timestep}; it visits {_shown(self.timesteps)}")
        return self.timesteps.index(timestep)


def ddpm(
    schedule: Schedule,
    steps: int | None = None,
    variance: str = "large",
    clip: float | str | None = "schedule",
) -> Plan:
    """Ancestral sampling (DDPM algorithm 2): posterior mean, variance beta ("large") or beta tilde ("small").

    All training timesteps unless a number of steps is given. pred_x0 is clipped as the schedule says, or to
    ``clip``, None for no clipping.

    Raises
    ------
    ValueError
        When steps is 0 or above T, or variance is "learned" and the network has none.
    """
    if variance == "learned" and not schedule.learned_range:
        raise ValueError(
            "learned variance needs a network that predicts it (variance_type: learned_range); expected large or small"
        )
    treatment = Treatment("posterior", variance, "shared")
    timesteps = spaced_timesteps(schedule, steps)
    return _chain([(t, treatment) for t in timesteps], schedule.clip_sample if clip == "schedule" else clip)


def ddim(schedule: Schedule, steps: int | None, eta: float = 0.0, clip: float | None = None) -> Plan:
    """DDIM (DDIM eq. 12 and 16): deterministic at eta 0, DDPM's "small" variance at eta 1.

    pred_x0 is not clipped unless ``clip`` is given, as in the official code.

    Raises
    ------
    ValueError
        When steps is 0 or above T, or eta is negative.
    """
    treatment = Treatment("ddim", eta, "shared")
    return _chain([(t, treatment) for t in spaced_timesteps(schedule, steps)], clip)


def iddpm(schedule: Schedule, steps: int | None = None, clip: float | str | None = "schedule") -> Plan:
    """Ancestral sampling with the network's own variance (IDDPM eq. 15).

    Raises
    ------
    ValueError
        When steps is 0 or above T, or the network predicts no variance.
    """
    return ddpm(schedule, steps, "learned", clip)


def spaced_timesteps(schedule: Schedule, steps: int | None) -> list[int]:
    """Timesteps of a number of steps, from high to low, spaced as the schedule says.

    "leading", "linspace" and "trailing" mean what they do in diffusers; None or T steps are all timesteps.
    A step lands on the next timestep of this list, also where diffusers' DDIM steps a fixed T // steps down.

    Raises
    ------
    ValueError
        When steps is below 1 or above T, or the schedule's offset leads past T-1.
    """
    T = schedule.T
    if steps is None or steps == T:
        return list(range(T - 1, -1, -1))
    if not 1 <= steps <= T:
        raise ValueError(f"{steps} steps; expected 1 to {T}, the number of training timesteps")
    if schedule.spacing == "leading":
        ascending = np.arange(steps) * (T // steps) + schedule.steps_offset
    elif schedule.spacing == "linspace":
        ascending = np.linspace(0, T - 1, steps).round()
    else:
        # arange in floats may run one element too far
        ascending = np.arange(T, 0, -T / steps)[:steps][::-1].round() - 1
    if ascending[-1] >= T:
        raise ValueError(
            f"{steps} steps with steps_offset {schedule.steps_offset} start at {int(ascending[-1])}, "
            f"beyond {T - 1}; ask for fewer steps"
        )
    return [int(t) for t in ascending[::-1]]


def _chain(visits: Iterable[tuple[int, Treatment]], clip: float | None) -> Plan:
    """Let every visit land on the next one."""
    visits = list(visits)
    landings = [*[timestep for timestep, _ in visits], -1][1:]
    return Plan(
        tuple(Step(t, lands_on, *treatment) for (t, treatment), lands_on in zip(visits, landings, strict=True)),
        clip,
    )


def _continues(run: list[Step], step: Step) -> bool:
    """Whether a step has the run's treatment and the distance its first two steps set."""
    return step.treatment == run[-1].treatment and (
        len(run) == 1 or run[-1].timestep - step.timestep == run[0].timestep - run[1].timestep
    )


def _run_to_json(run: list[Step]) -> dict[str, Any]:
    stride = run[0].timestep - run[1].timestep if len(run) > 1 else 0
    return {
        "first": run[0].timestep,
        "last": run[-1].timestep,
        "stride": stride,
        **run[0].treatment._asdict(),
    }


def _shown(timesteps: list[int]) -> str:
    if len(timesteps) <= 6:
        return ", ".join(map(str, timesteps))
    return f"{timesteps[0]}, {timesteps[1]}, {timesteps[2]}, ..., {timesteps[-1]}"
