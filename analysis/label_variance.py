"""Label variance: what a classifier makes of one sample's completions (000; METHODS 1.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from traj.analysis import _chunks, _labels, _replicas, _verdicts
from traj.analysis._spread import Named, with_spread
from traj.stores import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KIND = "readout"

OF_FORKS = {
    "total": Named("label_variance", "label variance"),
    "within": Named("label_variance_within", "label variance within replicas"),
    "between": Named("label_variance_between", "label variance between replicas"),
    "pairwise": Named("label_variance_pairwise", "label variance, unbiased, from pairs of hard labels"),
    "entropy": Named("label_entropy", "entropy of the replicas' mean label distribution", "bit"),
    "entropy_within": Named("label_entropy_within", "mean entropy of each replica's label distribution", "bit"),
    "agreement": Named("label_agreement", "share of pairs of replicas with equal labels"),
    "corrected": Named("label_entropy_corrected", "label entropy, corrected for few replicas", "bit"),
}
OF_STATES = {
    "variance": Named("label_variance", "label variance"),
    "entropy": Named("label_entropy", "entropy of the label distribution", "bit"),
    "flip": Named("flips", "label differs from that of x_0"),
}
"""What the kernels' columns become."""


def label_variance(ds: xr.Dataset, *, hard: bool = False) -> xr.Dataset:
    """Measure how undecided a classifier is about the images that come of a state.

    With p_r the class probabilities of replica r (softmax of its logits, in float64) and pbar their mean over R
    replicas, `label_variance` = 1 - sum_k pbar_k^2, from 0 to 1 - 1/K. It is the sum of `label_variance_within`,
    mean_r(1 - sum_k p_rk^2), and `label_variance_between`, sum_k Var_r(p_rk) with divisor R.

    A readout of forks gives these three for their x_0 (variant, sample), with `label_entropy`, -sum pbar log2 pbar,
    and `label_entropy_within`, the mean of the replicas' own, in bits. `label_agreement` is the share of pairs of
    replicas with equal labels (largest logit), and `label_variance_pairwise` the rest, 1 - sum_k n_k (n_k - 1) /
    (R (R - 1)), which is without bias for any R and NaN for R = 1. Where the forks were made with --states, all of
    this is given of them, too: `state_label_variance` and so on (on, variant, sample, timestep) tell how replicas part
    that have one state in common, and are NaN before it.

    From few replicas the label variance comes out low, its part between them by 1/R of what very many would show, and
    so does `label_entropy`, by far: at most log2 R, and of ten equally likely labels 2.38 bit for 3.32 with R = 8.
    `label_entropy_corrected` is of the same distribution: with `hard` Grassberger's estimate (2003) from the counts n_k
    of labels, (ln R - sum_k n_k G(n_k) / R) / ln 2, which is 3.30 bit in that case and off by less than 0.1 bit where
    some labels are likelier (of Miller-Madow, Chao-Shen, the jackknife and this the one that is off least at R = 8);
    of probabilities, which have no counts, the jackknife's over replicas, R H - (R - 1) mean_r H_without_r, which
    leaves at most a sixth of the bias at R = 8. It may lie a little below 0 or above log2 K in one cell, is for means
    over samples, and NaN for R = 1.

    A readout of trajectories has one image per state, so R = 1, nothing between, and the total is what is within. It
    gives `label_variance` and `label_entropy` (on, sample, timestep); `flips`, 1 where the label differs from that
    of x_0; `flip_fraction` over samples; and `commit_timestep`, `commit_step` and `commit_log_snr` (on, sample): where
    the last run of states with x_0's label begins. Labels that differ to the last stored state commit at x_0 itself:
    timestep -1, one step after the last stored, log SNR infinite.

    All but flips and commitments come with mean, sd and standard error over samples; shares, which are
    `label_agreement` and `flip_fraction`, with an interval of 95 % (Wilson 1927), `_low` and `_high`, which has a width
    at 0 and 1, too. Logits that are NaN give NaN.

    Parameters
    ----------
    hard
        Take one-hot labels in place of probabilities.

    Raises
    ------
    InputError
        A dataset without logits.
    """
    if "x_0_logits" not in ds or ("replica" not in ds["x_0_logits"].dims and "logits" not in ds):
        here = ", ".join(map(str, ds.data_vars)) or "nothing"
        raise InputError(
            f"label variance needs the logits of final samples and of states, or of forks; this dataset of kind "
            f"{ds.attrs.get('kind', '?')} has {here}; run `traj readout classifier STORE OUT` first"
        )
    attrs = {
        "quantity": "label_variance",
        "hard": int(hard),
        "samples": ds.sizes["sample"],
        "replicas": ds.sizes.get("replica", 1),
        "classes": ds.sizes["class"],
    }
    replicas = "replica" in ds["x_0_logits"].dims
    variables = _of_forks(ds, hard) if replicas else _of_states(ds, hard)
    coords = _replicas.coordinates(ds) if replicas else {}
    if "logits" in ds:
        along = {"on", "sample", "timestep"}
        coords |= {str(name): coord for name, coord in ds.coords.items() if set(coord.dims) <= along}
        coords["on"] = ds["on"].assign_attrs(long_name="images read", units="1")
    return xr.Dataset(variables, coords, attrs)


def _of_forks(ds: xr.Dataset, hard: bool) -> dict[str, xr.DataArray]:
    """Measure the final samples of forks and, where they were read, their states."""
    columns = [OF_FORKS[column] for column in _labels.REPLICAS]
    variables = with_spread(_labels.of_replicas(ds["x_0_logits"], hard), columns)
    if "logits" in ds:
        named = [Named(f"state_{name}", f"{title}, of states", units) for name, title, units in columns]
        variables |= with_spread(_labels.of_replicas(ds["logits"], hard), named)
    for name in [name for name in variables if name.endswith("label_agreement")]:
        variables |= _labels.interval_of_share(variables, name, ds.sizes["sample"])
    return variables


def _of_states(ds: xr.Dataset, hard: bool) -> dict[str, xr.DataArray]:
    values = _labels.of_states(ds["logits"], ds["x_0_logits"], hard)
    variables = with_spread(values, [OF_STATES[column] for column in _labels.STATES])
    share = variables.pop("flips_mean")
    del variables["flips_sd"], variables["flips_se"]
    title = "share of samples whose label differs from that of x_0"
    return {
        **variables,
        "flip_fraction": share.assign_attrs(long_name=title),
        **_verdicts.interval("flip_fraction", title, ds.sizes["sample"], share),
        **_commitments(ds, variables["flips"]),
    }


def _commitments(ds: xr.Dataset, flips: xr.DataArray) -> dict[str, xr.DataArray]:
    """Find where the labels of each sample last turn to x_0's."""
    there = {name: ds[name].to_numpy() for name in ("timestep", "step", "log_snr") if name in ds.coords}
    at_x_0 = {"timestep": -1, "step": there["step"][-1] + 1 if "step" in there else -1, "log_snr": np.inf}
    places = np.stack([np.append(values, at_x_0[name]) for name, values in there.items()], axis=-1)
    commits = _chunks.per_cell(_labels.commitment, flips, within=[["timestep"]], width=len(there), places=places)
    return {
        f"commit_{name}": commits.isel(column=column).assign_attrs(
            long_name=f"{ds[name].attrs.get('long_name', name)}, where the label last becomes that of x_0",
            units=ds[name].attrs.get("units", "1"),
        )
        for column, name in enumerate(there)
    }


def plot(result: xr.Dataset, ax: Axes | None = None, of: str = "variance") -> Axes:
    """Draw label variance, of forks over where they start and in its two parts, else of states over timesteps.

    With `of` entropy, draws that, of forks as counted and corrected for few replicas. Bands are two standard errors.
    """
    import matplotlib.pyplot as plt

    name = f"label_{of}"
    if "variant" in result.dims:
        few = f"as counted, low with {result.attrs['replicas']} replicas"
        parts = {"variance": {"total": "", "within": "_within", "between": "_between"}}
        parts["entropy"] = {"corrected": "_corrected", few: ""}
        ax = _replicas.draw(result, {label: f"{name}{part}" for label, part in parts[of].items()}, ax)
    else:
        ax = plt.figure().add_subplot() if ax is None else ax
        for on in result["on"].to_numpy():
            mean, error = (result[f"{name}_{part}"].sel(on=on) for part in ("mean", "se"))
            (line,) = ax.plot(mean["timestep"], mean, label=str(on))
            band = mean - 2 * error, mean + 2 * error
            ax.fill_between(mean["timestep"], *band, color=line.get_color(), alpha=0.2, lw=0)
        ax.set(xlabel="timestep")
        ax.xaxis.set_inverted(True)
        ax.legend()
    units = result[f"{name}_mean"].attrs["units"]
    ax.set(ylabel=f"label {of}" + ("" if units == "1" else f" ({units})"))
    return ax
