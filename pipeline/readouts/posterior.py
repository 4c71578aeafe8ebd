"""The posterior over a dataset, by torch: for datasets so large that it takes a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from traj.pipeline.readouts import Events, Output, Pass, Readout, Source

if TYPE_CHECKING:
    from torch import Tensor

# Raised by hand when the weights change for equal inputs.
NUMERICS = 1


def posterior(source: Source, *, dataset: str, top: int = 5, batch: int = 1024) -> Readout:
    """Write which images of a dataset the states of STORE may come from into OUT.

    What `traj analyze posterior` gives of each state, on a GPU: the weights of the likeliest images, which these are,
    and the entropy over all. The dataset lies on the device as float32; sums are in float64.

    \b
    weight, log_weight    of the likeliest images, falling; log_weight is the natural logarithm
    index                 their positions in the dataset
    entropy               in bits, of the weights of all images

    STORE holds trajectories, or forks with states.

    \b
    traj readout posterior data/trajectories/cifar.zarr data/readouts/cifar.zarr --dataset data/datasets/cifar.zarr

    Parameters
    ----------
    dataset :
        Path of the images: a store that `traj dataset` makes, or any with x_0.
    top :
        How many of the largest weights are kept.
    batch :
        States in one product of matrices. Other batches give other last bits, so it is part of OUT.

    Raises
    ------
    InputError
        When STORE has no states, or the dataset is empty, holds other events or values that are not numbers, has fewer
        than ``top`` images, or is more than the device has memory for.
    MissingFile
        When the dataset is not there.
    DamagedStore
        When its bytes are wrong.

    References
    ----------
    001; the posterior is that of `traj.analysis.posterior`.
    """
    import math

    import numpy as np
    import torch

    from traj import stores
    from traj.analysis._blocks.datasets import opened
    from traj.analysis._posterior.one_pass import SMALLEST
    from traj.pipeline.estimate import size
    from traj.pipeline.process.device import memory_free, within_memory
    from traj.stores import InputError

    if "x_t" not in source.ds:
        raise InputError(f"{source.path} has no states x_t; expected trajectories, or forks made with --states")
    images = opened(source.ds, stores.open(dataset), "posterior")
    if not 1 <= top <= images.count:
        raise InputError(f"top {top}; expected 1 to {images.count}, the number of images in the dataset")
    needed, there = 4 * images.count * images.values, memory_free(source.device)
    if needed > there:
        raise InputError(
            f"{dataset} takes {size(needed)} of memory, and device {source.device} has {size(there)} free; make a "
            "dataset of fewer --samples"
        )
    with stores.reading(dataset), within_memory():
        blocks = [torch.as_tensor(block, dtype=torch.float32, device=source.device) for _, block in images.blocks()]
    timesteps = torch.tensor(source.ds["timestep"].to_numpy(), device=source.device)
    levels = np.stack([source.ds[name].to_numpy() for name in ("signal", "noise_scale")], axis=-1)
    table = torch.as_tensor(levels, dtype=torch.float64, device=source.device)

    def read(events: Events) -> tuple[Tensor, ...]:
        assert events.timestep is not None
        states = events.values["x_t"].flatten(1).double()
        places = (timesteps == events.timestep[:, None]).int().argmax(1)
        c, d = table[places].T[:, :, None]
        scale = 2 * d.clamp(min=SMALLEST) ** 2
        total = states.new_full((len(states),), -math.inf)
        mean = torch.zeros_like(total)
        largest, index = states.new_empty((len(states), 0)), places.new_empty((len(states), 0))
        first = 0
        for block in blocks:
            points = block.double()
            # |x_t|^2 is the same for every image and left out of |x_t - c x_i|^2
            exponents = (2 * c * states @ points.T - c**2 * points.square().sum(1)) / scale
            sum_before, total = total, torch.logaddexp(total, exponents.logsumexp(1))
            mean = mean * (sum_before - total).exp() + ((exponents - total[:, None]).exp() * exponents).sum(1)
            numbers = torch.arange(first, first + len(block), device=index.device).expand(len(states), -1)
            largest, which = torch.cat([largest, exponents], 1).topk(min(top, first + len(block)), 1)
            index = torch.cat([index, numbers], 1).gather(1, which)
            first += len(block)
        log_weight = largest - total[:, None]
        return log_weight.exp(), log_weight, index.double(), (total - mean).clamp(min=0) / math.log(2)

    return Readout(
        passes=(
            Pass(
                ("x_t",),
                (
                    Output("weight", ("rank",), "posterior weight of the image", dtype="float64"),
                    Output("log_weight", ("rank",), "natural logarithm of the weight", "nat", "float64"),
                    Output("index", ("rank",), "position of the image in the dataset", dtype="float64"),
                    Output("entropy", (), "entropy of the posterior over the dataset", "bit", "float64"),
                ),
                read,
            ),
        ),
        coords={"rank": ("rank", np.arange(top), "1", "place among the largest weights")},
        identity={"dataset": stores.identity(stores.local(dataset)), "top": top},
        batch=batch,
        numerics=NUMERICS,
        smaller="--top 1",
    )
