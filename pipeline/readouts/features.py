"""What named parts of a network give for every stored state, or for x_0 at every noise level."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, Literal

from traj.pipeline.readouts import Events, Output, Pass, Readout, Source

if TYPE_CHECKING:
    from collections.abc import Callable

    import xarray as xr
    from torch import Tensor

    from traj.pipeline.process.denoiser import Conditions, Denoiser

# Raised by hand when the features change for equal inputs.
NUMERICS = 1


def features(
    source: Source,
    *,
    parts: tuple[str, ...],
    model: str | None = None,
    pool: Literal["mean", "flat"] = "mean",
    input: Literal["noisy", "clean"] = "noisy",
    labels: Literal["none", "stored"] = "none",
    batch: int = 256,
) -> Readout:
    """Write what parts of a network give for the states of STORE into OUT.

    Parts are named as `traj info MODEL` names them; any module of the network has a name, as in
    up_blocks.1.attentions.0. All of them are read in one pass. Of a part that gives several tensors, the first is read.

    STORE holds trajectories, or forks with states; `traj noise` makes some of a labelled dataset. Each part becomes a
    variable of its own, float32 (sample, timestep, feature): features_up_blocks_1 of part up_blocks.1, and so on.
    Guidance is never applied.

    \b
    traj readout features data/trajectories/digits.zarr data/readouts/digits_features.zarr --parts mid_block,up_blocks.1
    traj readout features data/trajectories/digits.zarr data/readouts/flat.zarr --parts mid_block --pool flat --every 10
    traj readout features data/trajectories/mine.zarr data/readouts/mine.zarr --model mine.py:edm --parts model.dec.8x8

    Parameters
    ----------
    parts :
        Names of the parts.
    model :
        A model for the events and the noise levels of STORE.  [default: the model STORE was made with]
    pool :
        mean averages over all positions, so that a part has a feature for each channel: over the axes behind the
        channel, or over the tokens of a transformer, whose outputs are (event, token, channel). flat keeps every value.
    input :
        noisy gives the network the stored x_t, clean the x_0 without noise at each timestep, as signal * x_0.
    labels :
        Which condition the network is told. none is the null label or the empty text, as what is to be found in
        features must not be given to them; stored is the label or the text of each sample.
    batch :
        States in one network call, at most: those of one block and timestep, so that a STORE made with a larger
        --block is read faster. Other batches give other last bits, so it is part of OUT.

    Raises
    ------
    InputError
        When STORE has no states, or the model has no such parts, a part is not run once in a pass, the model needs
        a label and none was asked for, or the model is not for the events or noise levels of STORE.
    MissingFile
        When the model is not there.

    References
    ----------
    004, section 4: features of a denoiser at every noise level.
    """
    import numpy as np
    import torch
    from dask.array import PerformanceWarning

    from traj.pipeline.models import parts as network_parts
    from traj.pipeline.models import stored
    from traj.pipeline.process.denoiser import dtype_of
    from traj.pipeline.process.device import inference
    from traj.stores import InputError, event_dims

    ds = source.ds
    if "x_t" not in ds:
        raise InputError(
            f"{source.path} has no states x_t; expected trajectories, as `traj noise` makes of a dataset, or forks "
            "made with --states"
        )
    denoiser = stored.load_to_read(source.path, ds, model, str(source.device))
    modules = network_parts.find(denoiser, parts)
    suffixes = _suffixes(parts)
    conditions = _conditions(denoiser, labels, ds)
    axes = 1 + len(denoiser.shape)

    def outputs(x: Tensor, timestep: int, samples: list[int], kept: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        told = conditions.of(samples if labels == "stored" else [None] * len(samples), source.device)
        return network_parts.outputs(denoiser, modules, kept, x.to(dtype_of(denoiser)), timestep, told)

    def pooled(output: Tensor) -> Tensor:
        values = output.float()
        return _averaged(values, axes) if pool == "mean" else values.reshape(len(values), -1).clone()

    def read(events: Events) -> tuple[Tensor, ...]:
        (x,) = events.values.values()
        assert events.timestep is not None
        return tuple(outputs(x, int(events.timestep[0]), events.condition["sample"].tolist(), pooled).values())

    trial = torch.zeros(2, *denoiser.shape, device=source.device)
    with inference():
        whole = outputs(trial, int(ds.timestep[0]), 2 * [int(ds["sample"][0])], torch.clone)
    lengths = {part: pooled(output).shape[1] for part, output in whole.items()}
    shapes = {part: tuple(output.shape[1:]) for part, output in whole.items()}

    reads = {"noisy": "x_t", "clean": "clean_x_t"}[input]
    lead = ds.x_t.dims[: ds.x_t.ndim - len(denoiser.shape)]
    with warnings.catch_warnings():  # of many chunks: as many are meant, one for each state
        warnings.simplefilter("ignore", PerformanceWarning)
        clean = (ds.signal.chunk(timestep=1) * ds.x_0).transpose(*lead, *event_dims(ds.x_0.dims))
    said = {"pool": pool, "input": input}
    return Readout(
        passes=(
            Pass(
                (reads,),
                tuple(
                    Output(
                        f"features_{suffix}",
                        (f"feature_{suffix}",),
                        f"output of {part}" + (", averaged over positions" if pool == "mean" else ""),
                        attributes={"part": part, **said, "shape": ", ".join(map(str, shapes[part]))},
                    )
                    for part, suffix in zip(parts, suffixes, strict=True)
                ),
                read,
                same_timestep=True,
            ),
        ),
        coords={
            f"feature_{suffix}": (f"feature_{suffix}", np.arange(lengths[part]), "1", f"feature of {part}")
            for part, suffix in zip(parts, suffixes, strict=True)
        },
        identity={
            "model": denoiser.identity,
            "schedule": denoiser.schedule.identity,
            "parts": list(parts),
            **said,
            "labels": labels,
        },
        batch=batch,
        numerics=NUMERICS,
        environment={"model": denoiser.name},
        cautions=tuple(f"{part}: {lengths[part]:,} features of {' x '.join(map(str, shapes[part]))}" for part in parts),
        smaller="--pool mean, --timesteps or fewer --parts",
        derived={"clean_x_t": clean},
        fills_disk=True,
        following="traj analyze probe" if ds.attrs["kind"] == "trajectories" else "traj info",
    )


def _averaged(output: Tensor, axes: int) -> Tensor:
    """Average the output of a part over positions: (event, feature). ``axes`` is how many a batch of states has.

    Axes of an output are event, channel and positions. Where states have more or fewer than three axes, three are
    those of a transformer: event, token, channel.
    """
    if output.ndim == 3 and axes != 3:
        return output.mean(1)
    return output.reshape(*output.shape[:2], -1).mean(-1)


def _suffixes(parts: tuple[str, ...]) -> list[str]:
    """Name the variables of parts.

    Raises InputError where two have the same name.
    """
    from traj.stores import InputError

    suffixes = [re.sub(r"\W", "_", part, flags=re.ASCII) for part in parts]
    for k, suffix in enumerate(suffixes):
        if suffix in suffixes[:k]:
            raise InputError(
                f"parts {parts[suffixes.index(suffix)]} and {parts[k]} would both be called features_{suffix}; "
                "expected one of them: read the other into a store of its own"
            )
    return suffixes


def _conditions(denoiser: Denoiser, labels: str, ds: xr.Dataset) -> Conditions:
    """Have the model read which labels or texts its samples are told; no text is the empty one.

    Raises InputError where it is told none and needs one, or a text and none is stored.
    """
    from traj.stores import InputError

    if getattr(denoiser, "reads_texts", False):
        if labels == "stored" and "prompt" not in ds.coords:
            raise InputError(f"model {denoiser.name} reads texts, and none are stored; expected --labels none")
        return denoiser.conditions(
            {"labels": "none", "prompts": ds.prompt.values.tolist() if labels == "stored" else [""]}
        )
    stored = ds.label.values.tolist()
    classes = getattr(denoiser, "num_classes", 0)
    if labels == "stored":
        return denoiser.conditions({"labels": stored if classes else "none"})
    if classes and not getattr(denoiser, "unconditional", True):
        raise InputError(
            f"model {denoiser.name} was trained with labels only, and features of a network that is told the label "
            "give that label away, whatever is found in them; expected a model with a null label, or --labels stored "
            "if this is what you want"
        )
    return denoiser.conditions({"labels": "none"})
