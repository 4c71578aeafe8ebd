"""Images of stored latents."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from traj.pipeline.readouts import Events, Output, Pass, Readout, Source

if TYPE_CHECKING:
    from torch import Tensor

# Raised by hand when the images change for equal inputs.
NUMERICS = 1

BLOCK_BYTES = 1 << 29
"""Most of a block's images of one variable, as float32."""

FOLLOWING = {"trajectories": "traj analyze entropy,ssim,psnr", "fork": "traj analyze consistency"}
"""What may come next, by the kind of the store that is decoded."""


def decode(
    source: Source,
    *,
    model: str | None = None,
    dtype: Literal["uint8", "float16"] = "uint8",
    on: tuple[str, ...] | None = None,
    batch: int = 8,
) -> Readout:
    """Decode the latents of STORE to images, and write them into OUT.

    STORE holds trajectories, forks or a sweep of latents, and OUT the images with the same names and axes: x_t,
    pred_x0, x_0. What needs images takes OUT as it takes STORE: analyze, readout classifier, report. Images are
    decoded by the autoencoder of the model's pipeline. So is x_t, though the autoencoder was never trained on noisy
    latents: its images of them are a way to look at latents, and no states of a process on pixels. Give OUT another
    name than STORE: results are named after the store they are computed of.

    \b
    traj readout decode data/trajectories/cat.zarr data/decoded/cat_images.zarr
    traj readout decode data/trajectories/cat.zarr data/decoded/cat_few.zarr --on pred_x0 --every 5
    traj readout decode data/forks/cat_forks.zarr data/decoded/cat_forks_images.zarr --model ./stable-diffusion

    Parameters
    ----------
    model :
        The folder or hub id of a pipeline or an autoencoder, or FILE.py:NAME. A record needs one.  [default:
        the model STORE was made with]
    dtype :
        uint8 is round((x + 1) 127.5), clipped to 0 to 255 and read as numbers from -1 to 1. float16 takes twice the
        disk and keeps values beyond that range. Forks with states need it: some states are missing, which uint8
        cannot say.
    on :
        Variables to decode besides x_0: x_t, pred_x0 or both, or x_0 for that alone.  [default: all that STORE has]
    batch :
        Latents in one call of the autoencoder. Other batches give other last bits, so it is part of OUT.

    Raises
    ------
    InputError
        When STORE holds no latents, or not the variables ``on`` names, when the model has no autoencoder for them or is
        not the one STORE was made with though no other was asked for, or for uint8 where states may be missing.
    MissingFile
        When the model is not there.
    NotFinite
        When the autoencoder makes values that are infinite or NaN, for uint8.
    """
    import json

    import torch

    from traj.pipeline.models import decoders
    from traj.stores import IMAGE_DIMS, STATES, InputError, NotFinite, event_dims, valid_range

    store, ds = source.path, source.ds
    if bounds := valid_range(ds):
        low, high = bounds
        raise InputError(
            f"{store} holds no latents but values in {low:g} to {high:g}, as images are; expected a store of a latent "
            "model, which has no valid_range"
        )
    there = [name for name in STATES if name in ds]
    if unknown := [name for name in on or () if name not in (*there, "x_0")]:
        raise InputError(
            f"{store} has no {' and no '.join(map(repr, unknown))} to decode; expected some of "
            f"{', '.join((*there, 'x_0'))}"
        )
    states = [name for name in there if on is None or name in on]
    if states and dtype == "uint8" and "variant" in ds.dims:
        raise InputError(
            f"{store} has no states where its variants did not go, and uint8 cannot say so; expected --dtype float16, "
            "or --on x_0"
        )
    autoencoder = decoders.load(store, ds, model, str(source.device))
    shape = autoencoder.image_shape(tuple(ds.sizes[dim] for dim in event_dims(ds.x_0.dims)))

    def images(events: Events) -> tuple[Tensor]:
        (latents,) = events.values.values()
        decoded = autoencoder.decode(latents)
        if dtype == "float16":
            return (decoded,)
        if not decoded.isfinite().all():
            raise NotFinite(
                f"the autoencoder of {autoencoder.name} makes values of {', '.join(events.values)} that are not "
                "finite, which uint8 cannot hold; use --dtype float16"
            )
        return (((decoded + 1) * 127.5).round().clamp(0, 255).to(torch.uint8),)

    config = json.loads(ds.attrs["config"])
    parent = config.get("parent")
    forked = {"run": parent.get("fingerprint")} if "variant" in ds.dims and isinstance(parent, dict) else {}
    parent_block = int(config["store"]["block"])
    lead = max(math.prod(ds[name].shape[: ds[name].ndim - 3]) for name in (*states, "x_0")) // ds.sizes["sample"]
    sample_bytes = 4 * lead * math.prod(shape)
    fitting = (n for n in range(1, parent_block + 1) if parent_block % n == 0 and n * sample_bytes <= BLOCK_BYTES)
    return Readout(
        passes=tuple(
            Pass((name,), (Output(name, IMAGE_DIMS, name, dtype=dtype),), images) for name in (*states, "x_0")
        ),
        coords={},
        identity={"autoencoder": autoencoder.identity, "on": states, "dtype": dtype, **forked},
        batch=batch,
        numerics=NUMERICS,
        environment={"model": autoencoder.name},
        smaller="--on pred_x0 or --every 10",
        following=FOLLOWING.get(ds.attrs["kind"], "traj info"),
        fills_disk=True,
        images=shape,
        block=max(fitting, default=1),
    )
