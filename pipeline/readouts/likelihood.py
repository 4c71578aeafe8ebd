"""How likely each class makes every step of a trajectory, by a class-conditional denoiser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from traj.pipeline.readouts import Events, Output, Pass, Readout, Source

if TYPE_CHECKING:
    from torch import Tensor

    from traj.pipeline.process.denoiser import Denoiser

# Raised by hand when the distances or products change for equal inputs.
NUMERICS = 1


def likelihood(
    source: Source,
    *,
    model: str | None = None,
    classes: tuple[int, ...] | None = None,
    products: bool = True,
    batch: int = 1024,
) -> Readout:
    """Write how likely each class makes every step of STORE into OUT.

    A step leads from a state x_t to the next one that is stored, x_s. If x_0 is of class c, x_s is normal around mu_c
    = (c_s var_ts pred_x0_c + a d_s^2 x_t) / d_t^2, where x_t = c_t x_0 + d_t eps, a = c_t / c_s and var_ts = d_t^2 -
    a^2 d_s^2. So log p(x_s | x_t, c) is -squared_distance / (2 s^2) + const, and s^2 is chosen when it is analyzed.
    Guidance is never applied.

    \b
    squared_distance       |x_s - mu_c|^2 for each class; NaN at the last timestep
    squared_distance_null  the same for the prediction without a class; NaN if the model makes none
    eps_difference         |eps_c - eps_r|^2; eps_r is the prediction without a class, else the mean over classes
    eps_product            (eps_c - eps_r) . (eps_c' - eps_r), of which those of any groups of classes follow

    STORE holds trajectories, or forks with states.

    \b
    traj readout likelihood data/trajectories/ddpm.zarr data/readouts/ddpm_classes.zarr
    traj readout likelihood data/trajectories/ddpm.zarr data/readouts/ddpm_exact.zarr --model dataset:digits

    Parameters
    ----------
    model :
        A class-conditional model for the events and the noise levels of STORE.  [default: the model STORE was made
        with]
    classes :
        Numbers of the classes.  [default: all that the model has]
    products :
        Whether to keep eps_product, which takes 8 bytes x classes x classes for each state.
    batch :
        Evaluations in one network call; a state takes one for each class and one without. Other batches give other last
        bits, so it is part of OUT.

    Raises
    ------
    InputError
        When STORE has no states, or the model has no such classes, is not the one STORE was made with though no other
        was asked for, or is one of other events or noise levels.
    MissingFile
        When the model is not there.

    References
    ----------
    003, section 4; the mean is eq. 7 of DDPM for any signal and noise.
    """
    from functools import cache

    import numpy as np
    import torch

    from traj.pipeline.models import stored
    from traj.pipeline.process.denoiser import dtype_of
    from traj.pipeline.process.plan import Step
    from traj.pipeline.process.sampler import posterior_mean
    from traj.stores import InputError

    if "x_t" not in source.ds:
        raise InputError(f"{source.path} has no states x_t; expected trajectories, or forks made with --states")
    denoiser = stored.load_to_read(source.path, source.ds, model, str(source.device))
    chosen = _classes(denoiser, classes)
    null = bool(getattr(denoiser, "unconditional", False))
    conditions = denoiser.conditions({"labels": chosen}, null)  # sample k is of the k-th class
    told = [*range(len(chosen)), *([None] if null else [])]
    if batch < len(told):
        raise InputError(f"batch {batch} was given; a state takes {len(told)} evaluations, expected as many or more")

    @cache
    def condition(states: int) -> Any:
        return conditions.of([sample for sample in told for _ in range(states)], source.device)

    def read(events: Events) -> tuple[Tensor, ...]:
        x_t, x_s = events.values["x_t"], events.next_x_t
        assert events.timestep is not None
        assert events.next_timestep is not None
        assert x_s is not None
        step = Step(int(events.timestep[0]), int(events.next_timestep[0]), "posterior", "small")
        states = x_t.to(dtype_of(denoiser)).repeat(len(told), *[1] * (x_t.ndim - 1))
        prediction = denoiser(states, step.timestep, condition(len(x_t)))
        # (told, event, *event dims)
        pred_x0, eps = (found.double().reshape(len(told), *x_t.shape) for found in (prediction.pred_x0, prediction.eps))
        mean = posterior_mean(denoiser.schedule, step, pred_x0, x_t.double())
        distance = (x_s.double() - mean).square().flatten(2).sum(2).T
        of_class, of_null = distance[:, : len(chosen)], distance[:, len(chosen) :]
        if not null:
            of_null = torch.full_like(distance[:, :1], torch.nan)
        reference = eps[-1] if null else eps.mean(0)
        difference = (eps[: len(chosen)] - reference).transpose(0, 1).flatten(2)
        found = of_class, of_null[:, 0], difference.square().sum(2)
        return (*found, difference @ difference.mT) if products else found

    guidance = stored.origin(source.path, source.ds).get("guidance", 1)
    against = {"reference": "null" if null else "mean"}
    outputs = [
        Output("squared_distance", ("class",), "|x_s - mu_c|^2 to the next stored state", dtype="float64"),
        Output("squared_distance_null", (), "|x_s - mu|^2 without a class", dtype="float64"),
        Output("eps_difference", ("class",), "|eps_c - eps_r|^2", dtype="float64", attributes=against),
    ]
    if products:
        both = ("class", "other_class")
        outputs.append(
            Output("eps_product", both, "(eps_c - eps_r) . (eps_c' - eps_r)", dtype="float64", attributes=against)
        )
    number = np.array(chosen, np.int64)
    return Readout(
        passes=(Pass(("x_t",), tuple(outputs), read, next_state=True, same_timestep=True),),
        coords={
            "class": ("class", number, "1", "number of the class"),
            **({"other_class": ("other_class", number, "1", "number of the other class")} if products else {}),
        },
        identity={
            "model": denoiser.identity,
            "schedule": denoiser.schedule.identity,
            "classes": chosen,
            **({"parent_guidance": guidance} if guidance != 1 else {}),
        },
        batch=batch // len(told),
        numerics=NUMERICS,
        environment={"model": denoiser.name},
        smaller="--products false",
        following="traj analyze label_entropy",
    )


def _classes(denoiser: Denoiser, asked: tuple[int, ...] | None) -> list[int]:
    """List the classes to read, all that the model has by default.

    Raises InputError for a model without classes, and for classes it doesn't have or that are named twice.
    """
    from traj.pipeline.models.labels import NUMBERS
    from traj.stores import InputError

    count = int(getattr(denoiser, "num_classes", 0))
    if not count:
        has = "reads texts and has no classes" if getattr(denoiser, "reads_texts", False) else "has no classes"
        raise InputError(f"model {denoiser.name} {has}; expected a class-conditional model")
    if asked is None and count == NUMBERS:
        raise InputError(
            f"labels of model {denoiser.name} are any whole numbers; expected those to read: --classes 0,1"
        )
    chosen = list(range(count)) if asked is None else list(asked)
    if len(set(chosen)) < len(chosen) or not all(0 <= label < count for label in chosen):
        raise InputError(
            f"classes {','.join(map(str, chosen))} were given; expected different numbers from 0 to {count - 1}"
        )
    return chosen
