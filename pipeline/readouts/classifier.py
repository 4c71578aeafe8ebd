"""Class logits of every stored image."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from traj.pipeline.readouts import Events, Output, Pass, Readout, Source

if TYPE_CHECKING:
    from torch import Tensor

# Raised by hand when the logits change for equal inputs.
NUMERICS = 1


def classifier(source: Source, *, model: str, on: tuple[str, ...] | None = None, batch: int | None = None) -> Readout:
    """Write the class logits of the images of STORE into OUT.

    STORE holds trajectories, a dataset, forks or a sweep. Values outside the model's valid range are clipped to
    it first.

    Most classifiers have learned from finished images alone, and what they say of a noisy x_t tells of the noise.
    guided-diffusion's, converted by `traj convert`, has learned from noisy images. It is told the timestep of x_t,
    which must be as noisy there as in its own training, and reads pred_x0 and x_0 as images of timestep 0; nothing is
    clipped.

    \b
    traj readout classifier data/trajectories/ddpm.zarr data/readouts/ddpm.zarr --model digits-classifier
    traj readout classifier data/forks/ddpm_forks.zarr data/readouts/ddpm_forks.zarr --model digits-classifier
    traj readout classifier data/trajectories/cat.zarr data/readouts/cat.zarr --model microsoft/resnet-18 --batch 256
    traj readout classifier data/trajectories/dog.zarr data/readouts/dog.zarr --model models/noisy-classifier

    Parameters
    ----------
    model :
        digits-classifier, the folder or hub id of a Hugging Face image classifier, or the folder of a converted one.
    on :
        Variables to classify besides x_0: x_t, pred_x0 or both.  [default: all that STORE has]
    batch :
        Images in one network call. Other batches give other last bits, so it is part of OUT.  [default: 4096, and 64 of
        a classifier of noisy images]

    Raises
    ------
    InputError
        When STORE holds no images, or not the variables ``on`` names, or when the model does not classify such images.
    MissingFile
        When the model is not there.
    """
    import numpy as np

    from traj.pipeline.models import classifiers
    from traj.stores import IMAGE_DIMS, LEARNED_FROM, STATES, InputError, event_dims, valid_range

    store, ds = source.path, source.ds
    if (dims := event_dims(ds.x_0.dims)) != IMAGE_DIMS:
        raise InputError(
            f"{store} holds events of dims {', '.join(dims)}; a classifier reads images, expected "
            f"{', '.join(IMAGE_DIMS)}"
        )
    there = [name for name in STATES if name in ds]
    if unknown := [name for name in on or () if name not in there]:
        raise InputError(
            f"{store} has no {' and no '.join(map(repr, unknown))} to read; expected "
            + (
                f"some of {', '.join(there)}"
                if there
                else "none, as it has x_0 alone: it is a dataset, or was made without --states"
            )
        )
    states = tuple(name for name in there if on is None or name in on)
    if (bounds := valid_range(ds)) is None:
        raise InputError(
            f"{store} holds latents; a classifier reads images: decode them first (traj readout decode), and classify "
            "those"
        )
    network = classifiers.load(model, str(source.device))
    classify = network.fitted(store, ds, states, bounds, source.device)

    def logits(events: Events) -> tuple[Tensor]:
        ((name, images),) = events.values.items()
        incomplete = images.flatten(1).isnan().any(dim=1)
        found = classify(images, events.timestep if name == "x_t" else None)
        return (found.masked_fill(incomplete[:, None], math.nan),)

    learned_from = {} if network.learned_from is None else {LEARNED_FROM: network.learned_from}
    final = Output("x_0_logits", ("class",), "logits of the final sample")
    of_states = Output("logits", ("class",), "logits of the state or prediction", attributes=learned_from)
    passes = [Pass(("x_0",), (final,), logits)]
    if states:
        passes.append(Pass(states, (of_states,), logits, on=True))
    names = network.class_names
    return Readout(
        passes=tuple(passes),
        coords={
            "class": ("class", np.arange(len(names)), "1", "number of the class"),
            "class_name": ("class", np.array(names), "1", "what the classifier calls the class"),
        },
        identity={"classifier": network.identity, "on": list(states)},
        batch=network.batch if batch is None else batch,
        numerics=NUMERICS,
        environment=network.environment,
        cautions=network.cautions(ds),
        smaller="--on pred_x0",
        following="traj analyze label_variance",
    )
