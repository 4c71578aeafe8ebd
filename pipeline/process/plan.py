"""A reverse process as data: timesteps visited, where each step lands, by which rule, with which noise and cut."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from traj.pipeline.process.cut import WHOLE, Cut
from traj.pipeline.process.spacing import nearest, shown
from traj.stores import InputError

VARIANCES = ("large", "small", "learned")
NOISES = ("shared", "independent", "zero")
ENDS = ("x_0", "pred_x0")
EPS = ("kept", "rederived")
MOST_ETA = 1_000_000_000
"""More is refused at any step, and its square is a number."""


class Treatment(NamedTuple):
    """How a step moves the state: its rule, its variance (a name, or eta for ddim), its noise, its cut and its jump."""

    rule: str
    variance: str | float
    noise: str = "shared"
    cut: Cut = WHOLE
    planned: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Write it as JSON values: rule, variance and noise always, cut and jump only if there are any."""
        cut = {} if self.cut == WHOLE else {"cut": asdict(self.cut)}
        planned = {} if self.planned is None else {"planned": self.planned}
        return {"rule": self.rule, "variance": self.variance, "noise": self.noise, **cut, **planned}

    @classmethod
    def from_json(cls, run: Mapping[str, Any]) -> Treatment:
        """Read the form that ``to_json`` writes."""
        return cls(run["rule"], run["variance"], run["noise"], Cut(**run.get("cut", {})), run.get("planned"))


@dataclass(frozen=True)
class Step:
    """One evaluation of the network at ``timestep``, after which the state is the one of ``lands_on``.

    ``lands_on`` -1 is x_0. ``variance`` depends on ``rule``: "posterior" has "large" (beta), "small" (beta tilde) or
    "learned"; "ddim" has a number, eta; "heun", which evaluates the network again at ``lands_on``, has 0. ``noise`` is
    "shared" (the run's own addressed noise), "independent" (another replica's) or "zero". ``cut`` says what of the
    U-Net is left out. ``planned`` is where a step that jumps would have landed: its sigma stays the one of that step
    (002 eq. 4).
    """

    timestep: int
    lands_on: int
    rule: str
    variance: str | float
    noise: str = "shared"
    cut: Cut = WHOLE
    planned: int | None = None

    def __post_init__(self) -> None:
        """Check the words, and that the step goes down."""
        if not -1 <= self.lands_on < self.timestep:
            raise InputError(
                f"a step at timestep {self.timestep} lands on {self.lands_on}; expected -1 to {self.timestep - 1}"
            )
        if self.rule == "posterior":
            if self.variance not in VARIANCES:
                raise InputError(f"variance {self.variance!r} of a posterior step; expected one of {VARIANCES}")
        elif self.rule == "ddim":
            if isinstance(self.variance, str) or not 0 <= self.variance <= MOST_ETA:
                raise InputError(f"variance {self.variance!r} of a ddim step; expected a number eta, 0 to {MOST_ETA:,}")
            object.__setattr__(self, "variance", float(self.variance))
        elif self.rule == "heun":
            if self.variance != 0:
                raise InputError(f"variance {self.variance!r} of a heun step; expected 0, it adds no noise")
            object.__setattr__(self, "variance", 0.0)
        else:
            raise InputError(f"rule {self.rule!r}; expected posterior, ddim or heun")
        if self.noise not in NOISES:
            raise InputError(f"noise {self.noise!r}; expected one of {NOISES}")
        if self.planned is not None and not (self.rule == "ddim" and self.lands_on < self.planned < self.timestep):
            raise InputError(
                f"a {self.rule} step from timestep {self.timestep} to {self.lands_on} was planned to land on "
                f"{self.planned}; expected a ddim step, planned to land between"
            )

    @property
    def evaluations(self) -> int:
        """How often the network is evaluated: twice by heun, except on the way to x_0."""
        return 2 if self.rule == "heun" and self.lands_on != -1 else 1

    @property
    def treatment(self) -> Treatment:
        """What two steps of one run have in common."""
        return Treatment(self.rule, self.variance, self.noise, self.cut, self.planned)


@dataclass(frozen=True)
class Plan:
    """Steps from high to low timesteps, each landing on the next one and the last on x_0.

    ``clip`` is the range pred_x0 is clipped to inside the update, None for no clipping. ``came_from`` is the timestep
    of the step that led to the first state, None where the plan starts from noise. ``end`` is what comes out: "x_0", or
    "pred_x0" for the last prediction, clipped as in the update. ``eps`` says which eps a ddim or heun step uses once
    pred_x0 is clipped: "kept" is the predicted one, as in diffusers; "rederived" is computed from the clipped pred_x0,
    as in improved-diffusion, guided-diffusion and GLIDE.
    """

    steps: tuple[Step, ...]
    clip: float | None = None
    came_from: int | None = None
    end: str = "x_0"
    eps: str = "kept"

    def __post_init__(self) -> None:
        """Check that every step lands on the one after it."""
        if not self.steps:
            raise InputError("a plan without steps; expected at least one")
        if self.clip is not None:
            if not self.clip > 0:
                raise InputError(f"clip {self.clip}; expected a number above 0, or none")
            object.__setattr__(self, "clip", float(self.clip))
        if self.came_from is not None and self.came_from <= self.steps[0].timestep:
            raise InputError(f"a plan that came from timestep {self.came_from} starts at {self.steps[0].timestep}")
        if self.end not in ENDS:
            raise InputError(f"end {self.end!r}; expected one of {ENDS}")
        if self.eps not in EPS:
            raise InputError(f"eps {self.eps!r}; expected one of {EPS}")
        if self.eps == "rederived" and self.clip is None:
            raise InputError(
                "eps is rederived from a clipped pred_x0, but the plan does not clip; expected a clip range"
            )
        for step, lands_on in zip(self.steps, [*self.timesteps[1:], -1], strict=True):
            if step.lands_on != lands_on:
                raise InputError(
                    f"the step at timestep {step.timestep} lands on {step.lands_on}, but the plan goes on at {lands_on}"
                )

    @property
    def timesteps(self) -> list[int]:
        """Timesteps of the states the steps start from, from high to low."""
        return [step.timestep for step in self.steps]

    @property
    def evaluations(self) -> int:
        """How often the network is evaluated for a sample."""
        return sum(step.evaluations for step in self.steps)

    def valid_range(self, model: tuple[float, float] | None) -> tuple[float, float] | None:
        """Range of x_0: what the plan clips at, or else the model's; latents have none, clipped or not."""
        return model if self.clip is None or model is None else (-self.clip, self.clip)

    def after(self, timestep: int) -> Plan:
        """Keep the steps from a timestep on, to start from the x_t stored there.

        Raises
        ------
        InputError
            When the plan does not visit the timestep.
        """
        first = self._position(timestep)
        came_from = self.timesteps[first - 1] if first else self.came_from
        return replace(self, steps=self.steps[first:], came_from=came_from)

    def jump(self, timestep: int, n: int) -> Plan:
        """Let the step at a timestep land n steps further down, or on x_0 where the plan ends before (002 eq. 4).

        n counts what the state moves by: 5 goes from a timestep to the fifth after it, so n-1 evaluations are removed;
        0 and 1 leave the plan as it is. sigma stays that of the step at this timestep; on the way to x_0 no noise is
        added. If sigma exceeds the noise of the state it lands on, no part of eps is left and that state gets too much
        noise.

        Raises
        ------
        InputError
            When the plan does not visit the timestep, n is negative, or the step's rule is not ddim.
        """
        first = self._window(timestep, n).start
        last = min(first + n, len(self.steps)) - 1
        if last <= first:
            return self
        step = self.steps[first]
        if step.rule != "ddim":
            raise InputError(
                f"a jump needs rule ddim; the step at timestep {timestep} has rule {step.rule}: make a run that it "
                "fits with `traj generate ... --sampler ddim --eta 1`"
            )
        planned = step.lands_on if step.planned is None else step.planned
        jumped = replace(step, lands_on=self.steps[last].lands_on, planned=planned)
        return replace(self, steps=(*self.steps[:first], jumped, *self.steps[last + 1 :]))

    def with_cut(self, cut: Cut, timestep: int, n: int) -> Plan:
        """Leave parts of the U-Net out of n steps, or of as many as are left, from a timestep on (002).

        Raises
        ------
        InputError
            When the plan does not visit the timestep, or n is negative.
        """
        window = self._window(timestep, n)
        steps = enumerate(self.steps)
        return replace(self, steps=tuple(replace(step, cut=cut) if k in window else step for k, step in steps))

    def cut_relax_cut(self, cut: Cut, timestep: int, n: int, r: int) -> Plan:
        """Leave parts out of n steps, let r steps be, and leave the same out of n steps again (002 fig. 10).

        Raises InputError as ``with_cut`` does, and for a negative r.
        """
        if r < 0:
            raise InputError(f"r is {r} steps; expected 0 or more")
        once, again = self.with_cut(cut, timestep, n), self._window(timestep, n + r).stop
        return once.with_cut(cut, self.timesteps[again], n) if again < len(self.steps) else once

    def stop(self, timestep: int) -> Plan:
        """Make the evaluation at a timestep the last, and its pred_x0 what comes out (002's shortcut).

        Raises
        ------
        InputError
            When the plan does not visit the timestep.
        """
        last = self._position(timestep)
        step = replace(self.steps[last], lands_on=-1, planned=None)
        return replace(self, steps=(*self.steps[:last], step), end="pred_x0")

    def with_noise(self, noise: str, first: int, last: int) -> Plan:
        """Change the noise of the steps with first >= timestep >= last (000 section on consistency).

        Raises
        ------
        InputError
            When the plan has no step there, or the noise is none of NOISES.
        """
        return self._change(first, last, noise=noise)

    def with_eta(self, eta: float, first: int, last: int) -> Plan:
        """Change eta of the ddim steps with first >= timestep >= last; this keeps the marginals.

        Above the largest eta that fits (``variance.refuse_overfull``) it would not; the sampling loop refuses that.

        Raises
        ------
        InputError
            When the plan has no step there, a step there is not ddim, or eta is negative.
        """
        for step in self.steps:
            if first >= step.timestep >= last and step.rule != "ddim":
                raise InputError(f"eta needs rule ddim; the step at timestep {step.timestep} has rule {step.rule}")
        return self._change(first, last, variance=eta)

    def to_json(self) -> dict[str, Any]:
        """Write the plan as runs of equally spaced, equally treated steps; one plan has one such form.

        ``came_from``, ``end``, ``eps``, ``cut`` and ``planned`` are left out where they have their default values.
        """
        runs: list[list[Step]] = []
        for step in self.steps:
            if runs and _continues(runs[-1], step):
                runs[-1].append(step)
            else:
                runs.append([step])
        start = {} if self.came_from is None else {"came_from": self.came_from}
        end = {} if self.end == "x_0" else {"end": self.end}
        eps = {} if self.eps == "kept" else {"eps": self.eps}
        return {"runs": [_run_to_json(run) for run in runs], "clip": self.clip, **start, **end, **eps}

    @classmethod
    def from_json(cls, plan: Mapping[str, Any]) -> Plan:
        """Read the form that ``to_json`` writes.

        Raises
        ------
        InputError
            When it is not exactly what ``to_json`` writes for some plan.
        """
        try:
            visits = [
                (timestep, Treatment.from_json(run))
                for run in plan["runs"]
                for timestep in range(run["first"], run["last"] - 1, -max(run["stride"], 1))
            ]
            read = replace(
                chain(visits, plan["clip"]),
                came_from=plan.get("came_from"),
                end=plan.get("end", "x_0"),
                eps=plan.get("eps", "kept"),
            )
        except (KeyError, TypeError) as error:
            raise InputError(f"not a plan: {error!r}; expected the form Plan.to_json writes") from None
        if read.to_json() != plan:
            raise InputError(f"not the form Plan.to_json writes: {plan}; expected {read.to_json()}")
        return read

    def _change(self, first: int, last: int, **changes: Any) -> Plan:
        if first < last:
            raise InputError(f"timesteps {first} to {last}; expected from high to low")
        there = [first >= timestep >= last for timestep in self.timesteps]
        if not any(there):
            raise InputError(f"no step at timesteps {first} to {last}; the plan visits {shown(self.timesteps)}")
        steps = zip(self.steps, there, strict=True)
        return replace(self, steps=tuple(replace(step, **changes) if here else step for step, here in steps))

    def _window(self, timestep: int, n: int) -> range:
        """Positions of n steps from a timestep on, some of them perhaps beyond the end."""
        if n < 0:
            raise InputError(f"n is {n} steps; expected 0 or more")
        first = self._position(timestep)
        return range(first, first + n)

    def _position(self, timestep: int) -> int:
        if timestep not in self.timesteps:
            raise InputError(
                f"the plan does not visit timestep {timestep}; it visits {shown(self.timesteps)}, the nearest are "
                f"{nearest(self.timesteps, timestep)}"
            )
        return self.timesteps.index(timestep)


def chain(visits: Iterable[tuple[int, Treatment]], clip: float | None) -> Plan:
    """Make the plan of visits, (timestep, treatment) from high to low, each of which lands on the next one."""
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
        **run[0].treatment.to_json(),
    }
