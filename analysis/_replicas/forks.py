"""What quantities of forks share: what goes with forks, the coordinates they keep, and the kinds there are."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import xarray as xr

from traj.analysis._blocks import chunking
from traj.stores import IMAGE_DIMS, InputError, event_dims


def endings(ds: xr.Dataset, otherwise: str = "") -> xr.DataArray:
    """Check that these are forks, and give their x_0; otherwise ends what an error says was expected.

    Raises InputError naming the dims that are there.
    """
    event = event_dims(ds["x_0"].dims) if "x_0" in ds else ()
    dims = ("variant", "replica", "sample", *(event or IMAGE_DIMS))
    if "x_0" not in ds or ds["x_0"].dims != dims:
        here = ", ".join(map(str, ds["x_0"].dims)) if "x_0" in ds else "missing"
        raise InputError(
            f"x_0 has dims {here} in this dataset of kind {ds.attrs.get('kind', '?')}; expected {', '.join(dims)}, "
            f"which `traj fork` makes{otherwise}"
        )
    return ds["x_0"]


def parent_of(ds: xr.Dataset, run: xr.Dataset | None) -> xr.Dataset:
    """Take the run these forks started from at the forks' samples; decoded, where the forks are.

    Raises InputError where none is given, or it is another one, decoded otherwise, or has not all of the samples.
    """
    if run is None:
        raise InputError(
            "these forks are compared with the run that was forked and none was given; expected its store as `baseline`"
        )
    chunking.require(run, ("x_0",))
    chunking.require_one_space(ds, run)
    decoded = ds.attrs.get("kind") == run.attrs.get("kind") == "decoded"
    given, recorded = (_parent(run), _config(ds).get("run")) if decoded else (run.attrs.get("fingerprint"), _parent(ds))
    if given != recorded:
        raise InputError(
            f"the baseline is not the run these forks started from: its fingerprint is {given}, theirs {recorded}; "
            "give that run as `baseline`"
        )
    if decoded and _config(ds).get("autoencoder") != _config(run).get("autoencoder"):
        raise InputError("the forks and the baseline were decoded by different autoencoders; decode both with one")
    if (missing := np.setdiff1d(ds["sample"], run["sample"])).size:
        raise InputError(
            f"the baseline lacks {missing.size} of the forks' samples, the first is {missing[0]}; extend it with the "
            "command that made it and more samples"
        )
    return run if np.array_equal(ds["sample"], run["sample"]) else run.sel(sample=ds["sample"].to_numpy())


def logits(ds: xr.Dataset, readout: xr.Dataset) -> xr.DataArray:
    """Take the logits of these forks' x_0 (variant, replica, sample, class) off a classifier's readout.

    Raises InputError where there are none, or they are of other forks.
    """
    if "x_0_logits" not in readout or "replica" not in readout["x_0_logits"].dims:
        raise InputError(
            "the readout has no x_0_logits of forks; expected the readout of these forks that `traj readout "
            "classifier` makes"
        )
    same = all(np.array_equal(readout[dim], ds[dim]) for dim in ("variant", "replica", "sample"))
    if not same or _parent(readout) not in (None, ds.attrs["fingerprint"]):
        raise InputError(
            "the readout is one of other forks, or of a part of these; run `traj readout classifier` on this store"
        )
    return readout["x_0_logits"]


def _parent(ds: xr.Dataset) -> str | None:
    """Read which store a store was made from."""
    found: str | None = _config(ds).get("parent", {}).get("fingerprint")
    return found


def _config(ds: xr.Dataset) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(ds.attrs.get("config", "{}"))
    return config


def coordinates(ds: xr.Dataset) -> dict[str, xr.DataArray]:
    """Keep what lies along variant and sample, and add the log SNR of the states that forks start at."""
    kept = {str(name): coord for name, coord in ds.coords.items() if set(coord.dims) <= {"variant", "sample"}}
    if {"at", "log_snr"} <= set(ds.coords):
        log_snr = ds["log_snr"].sel(timestep=ds["at"]).to_numpy()
        attrs = {"units": ds["log_snr"].attrs.get("units", "nat"), "long_name": "log SNR of the x_t a fork starts from"}
        kept["at_log_snr"] = xr.DataArray(log_snr, dims="variant", attrs=attrs)
    return kept


def kinds(result: xr.Dataset) -> dict[str, list[int]]:
    """Group variants by all that was edited beside where they start: words for a legend -> positions.

    Those that start from the most noise come first.
    """
    along = [name for name, coord in result.coords.items() if coord.dims == ("variant",)]
    edited = [n for n in along if n not in ("variant", "at", "at_log_snr") and len(np.unique(result[n])) > 1]
    found: dict[str, list[int]] = {}
    for position in range(result.sizes["variant"]):
        values: list[Any] = [f"{name} {result[name].to_numpy()[position]}" for name in edited]
        found.setdefault(", ".join(values), []).append(position)
    at = result["at"].to_numpy()
    return {
        kind: [variants[k] for k in np.argsort(at[variants], kind="stable")[::-1]] for kind, variants in found.items()
    }
