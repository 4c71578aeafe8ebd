"""Signal to noise of features: how much of them lies along the directions of their class (004, Definition 1)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import dask.array as da
import numpy as np
import xarray as xr
from dask.delayed import delayed
from numpy.typing import NDArray

from traj.analysis._drawing import by_part, captions
from traj.analysis._features import shape, stored, subspaces
from traj.analysis._molrg.model import Molrg, of_model
from traj.analysis._quantity import Landmark, Look, Number, Results, Series, quantity
from traj.analysis._statistics import landmarks, verdicts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[Any]

PRINCIPAL, EXACT = "principal", "exact"
"""Where the directions of classes are from: samples, or the model."""


class Basis(NamedTuple):
    """Orthonormal columns (feature, column) that a model's classes lie along, and the class of each."""

    columns: Array
    class_of: Array


@quantity(
    reads="readout",
    reads_also=("trajectories",),
    needs=("features_*",),
    numerics=2,
    title="Signal to noise of features",
    source="004 Definition 1, Figs 2, 3, 5 and 14",
)
def snr(
    ds: xr.Dataset,
    *,
    folds: int = 5,
    directions: int = 5,
    held_out: bool = True,
    measured: Literal["raw", "unit"] = "raw",
) -> xr.Dataset:
    """Measure how much of a feature lies along the directions of its class, beside what does not.

    Of what `traj readout features` read of labelled samples, or of trajectories, whose pred_x0 are the features. The
    ratio of class k is E |P_k h|^2 / E |h - P_k h|^2 over its samples, P_k the projection on its directions; `snr` is
    the mean over classes (004, Definition 1), and `snr_pooled` the ratio of the sums over all samples, (subspaces,
    part, timestep). `class_snr` (subspaces, part, timestep, class) are the ratios themselves. All that lies along these
    directions counts as signal, also what all classes share: a high ratio alone does not say that classes can be told
    apart, `probe` does. Features that are the same for all samples have no ratio, NaN.

    Directions, the coordinate `subspaces`, are `principal`: features are divided by their lengths, their mean over all
    samples is taken off, and the first right singular vectors of each class are its directions (METHODS 5.4). They are
    `exact` where the model is a mixture of low-rank Gaussians, MoLRG, for its features h and its pred_x0, whose
    subspaces are known; `snr_theory` and `snr_pooled_theory` (part, timestep) are then those of its exact denoiser,
    where its subspaces are orthogonal and it was not told the classes. A network that was told them, as in a run that
    was generated with labels, gives them away in its features, whatever the noise.

    Directions fit the samples that they are found in, and would make the ratio too large where these are few: samples
    are dealt out to folds, and those of each fold are measured by directions found in all others.

    `energy_along` and `energy_beside` (subspaces, part, sample, timestep) are |P_k h|^2 and |h - P_k h|^2. `_se` are
    standard errors by the jackknife, whose pseudo-values are taken to first order, `_low` and `_high` the ends of an
    interval of 95 % of the logarithm, Student's. Errors along principal directions are larger by the attribute
    `error_factor`, since other samples would also have had other directions (as those of probes; Nadeau and Bengio
    2003). It is 1 where samples are not held out: how far these ratios are too large, no interval of them tells.

    Parameters
    ----------
    folds
        Groups that samples are dealt out to; directions of each are found in all others.
    directions
        Principal directions of each class.
    held_out
        Measure samples by directions that were found without them; without, all find them and are measured, as the
        source does.
    measured
        raw measures features as they are; unit measures them as directions are found, divided by their lengths and less
        their mean, so that what all classes have in common is no noise.

    Raises
    ------
    InputError
        A dataset without features; samples without labels; one class only; a class with fewer samples than folds, or
        than directions; as many directions as features, or more; folds below 2; when computed, features that are not a
        number.
    """
    parts = stored.parts(ds)
    names, positions = stored.classes(ds)
    stored.require_room(parts, directions)
    dealt = stored.deal(names, positions, folds, directions)
    factor = stored.error_factor(folds) if held_out else 1.0
    config = json.loads(ds.attrs.get("config", "{}"))
    molrg = of_model(config.get("model") or {})
    bases = {part: _basis(molrg, part, features.shape[-1]) for part, features in parts.items()}
    kinds = [PRINCIPAL, EXACT] if any(bases.values()) else [PRINCIPAL]
    energies = xr.DataArray(
        da.stack(
            [
                stored.of_level(
                    _energies,
                    features,
                    2 * len(kinds),
                    classes=positions,
                    dealt=dealt if held_out else np.full(len(dealt), -1),
                    among=directions,
                    unit=measured == "unit",
                    basis=bases[part],
                    labels=names[positions],
                    kinds=len(kinds),
                )
                for part, features in parts.items()
            ],
            axis=1,
        ),
        dims=("column", "part", "sample", "timestep"),
    )
    along, beside = (
        xr.concat([energies.isel(column=2 * kind + k) for kind in range(len(kinds))], dim="subspaces") for k in (0, 1)
    )
    variables = {
        "energy_along": along.assign_attrs(long_name="energy of the feature along its class", units="1"),
        "energy_beside": beside.assign_attrs(long_name="energy of the feature beside its class", units="1"),
        **_ratios(along, beside, xr.DataArray([factor, 1.0][: len(kinds)], dims="subspaces"), positions),
    }
    if molrg is not None and molrg.orthogonal and EXACT in kinds and not _told(config):
        variables |= _theory(molrg, ds, parts, bases)
    coords = {str(name): coord for name, coord in ds.coords.items() if set(coord.dims) <= {"sample", "timestep"}}
    coords["subspaces"] = xr.DataArray(kinds, dims="subspaces", attrs={"long_name": "where directions are from"})
    coords["part"] = xr.DataArray(list(parts), dims="part", attrs={"long_name": "part of the network"})
    coords["class"] = xr.DataArray(names, dims="class", attrs={"long_name": "label of the class", "units": "1"})
    attrs = {
        "quantity": "snr",
        "samples": ds.sizes["sample"],
        "folds": folds,
        "directions": directions,
        "held_out": int(held_out),
        "error_factor": factor,
        "measured": measured,
    }
    return xr.Dataset(variables, coords, attrs)


@snr.takes_memory
def _held(ds: xr.Dataset, **_: Any) -> int:
    """Bound the features of all samples, among which the directions of each noise level are found."""
    return sum(features.nbytes for features in stored.parts(ds).values())


def _told(config: Mapping[str, Any]) -> bool:
    """Say whether the network of a readout, or of a run, was told classes."""
    return any(one.get("labels", "none") != "none" for one in (config, config.get("condition", {})))


def _basis(molrg: Molrg | None, part: str, width: int) -> Basis | None:
    """Say where the classes of a mixture lie in the features of a part; None where that is not known."""
    if molrg is None:
        return None
    if part.split(".")[-1] == "hidden" and width == len(molrg.class_of):
        return Basis(np.eye(width) if molrg.orthogonal else molrg.mixing, molrg.class_of)
    return Basis(molrg.U, molrg.class_of) if part == "pred_x0" and width == molrg.features else None


def _energies(
    features: Array,
    *,
    classes: Array,
    dealt: Array,
    among: int,
    unit: bool,
    basis: Basis | None,
    labels: Array,
    kinds: int,
) -> Array:
    """Give the energy of features (sample, feature) along and beside their class (column, sample), for each kind.

    Samples of each fold are measured by directions found in all others; those of fold -1 by those of all samples.
    """
    found = np.full((2 * kinds, len(features)), np.nan)
    if subspaces.are_still(features):
        return found  # their directions would be those of rounding
    everyone = np.arange(len(features))
    for fold in np.unique(dealt):
        tested = dealt == fold
        seen = ~tested if fold >= 0 else tested
        principal = subspaces.principal(features[seen], classes[seen], int(classes.max()) + 1, among)
        rows = subspaces.unit(features[tested]) - principal.mean if unit else features[tested]
        along = subspaces.energies(rows, principal.vectors)[everyone[: len(rows)], classes[tested]]
        found[:2, tested] = along, (rows**2).sum(axis=1) - along
    if basis is not None:
        rows = subspaces.unit(features) if unit else features
        own = basis.class_of == labels[:, None]
        along = ((rows @ basis.columns) ** 2 * own).sum(axis=1)
        found[2:] = along, (rows**2).sum(axis=1) - along
    return found


RATIOS = ("snr", "snr_pooled")
TITLES = {"snr": "signal to noise of features, mean over classes", "snr_pooled": "signal to noise of features, pooled"}


def _ratios(
    along: xr.DataArray, beside: xr.DataArray, factor: xr.DataArray, positions: Array
) -> dict[str, xr.DataArray]:
    """Name both ratios with their errors, larger by a factor, and intervals, and those of classes."""
    found = xr.apply_ufunc(
        _of_samples,
        along,
        beside,
        factor,
        kwargs={"classes": positions},
        input_core_dims=[["sample"], ["sample"], []],
        output_core_dims=[["column"]],
        dask="parallelized",
        output_dtypes=[np.float64],
        dask_gufunc_kwargs={"output_sizes": {"column": 8 + int(positions.max()) + 1}},
    )
    variables = {}
    for k, name in enumerate(RATIOS):
        for column, (suffix, words) in enumerate(
            {"": "", "_se": ", standard error", "_low": ", low end", "_high": ", high end"}.items()
        ):
            one = found.isel(column=4 * k + column)
            variables[name + suffix] = one.assign_attrs(long_name=TITLES[name] + words, units="1")
    of_class = found.isel(column=slice(8, None)).rename(column="class")
    variables["class_snr"] = of_class.assign_attrs(long_name="signal to noise of features, of one class", units="1")
    return variables


def _of_samples(along: Array, beside: Array, factor: Array | float, classes: Array) -> Array:
    """Give ratios of energies (..., sample), each with its error and interval, and those of classes: (..., column).

    Errors are larger by a factor (...) than those of as many samples measured along given directions.
    """
    columns = []
    samples = along.shape[-1]
    for ratio, pseudo in _pseudo_values(along, beside, classes):
        error = factor * pseudo.std(axis=-1, ddof=1) / np.sqrt(samples)
        columns += [ratio, error, *_interval(ratio, error, samples)]
    columns += [along[..., own].sum(axis=-1) / beside[..., own].sum(axis=-1) for own in _members(classes)]
    return np.stack(columns, axis=-1)


def _interval(ratio: Any, error: Any, samples: int, among: int = 1) -> tuple[Any, Any]:
    """Give the ends of the interval of a ratio, by its logarithm. Of `among` intervals, all hold together."""
    times = np.exp(verdicts.student(samples, among) * error / ratio)
    return ratio / times, ratio * times


def _pseudo_values(along: Array, beside: Array, classes: Array) -> list[tuple[Array, Array]]:
    """Give the mean ratio over classes and the pooled one, each with the jackknife's pseudo-values (..., sample).

    To first order: the ratio, and what a sample adds to it. Their mean is the ratio.
    """
    members = _members(classes)
    samples = along.shape[-1]
    mean, of_mean = np.zeros(along.shape[:-1]), np.zeros(along.shape)
    for own in members:
        a, b = along[..., own], beside[..., own]
        ratio = (a.sum(axis=-1) / b.sum(axis=-1))[..., None]
        mean += ratio[..., 0] / len(members)
        of_mean[..., own] = samples / len(members) * (a - ratio * b) / b.sum(axis=-1, keepdims=True)
    pooled = along.sum(axis=-1) / beside.sum(axis=-1)
    of_pooled = (along - pooled[..., None] * beside) / beside.mean(axis=-1, keepdims=True)
    return [(mean, mean[..., None] + of_mean), (pooled, pooled[..., None] + of_pooled)]


def _members(classes: Array) -> list[Array]:
    return [np.flatnonzero(classes == k) for k in range(int(classes.max()) + 1)]


def _theory(
    molrg: Molrg, ds: xr.Dataset, parts: Mapping[str, xr.DataArray], bases: Mapping[str, Basis | None]
) -> dict[str, xr.DataArray]:
    """Name the ratios of a mixture's exact denoiser, of noisy or clean states, as parts are of; NaN of other parts."""
    from traj.analysis._molrg.snr import snr as of_denoiser

    sigma = ds["noise_scale"].to_numpy() / ds["signal"].to_numpy()

    def both(clean: bool, known: bool) -> Array:
        if not known:
            return np.full((2, len(sigma)), np.nan)
        found = of_denoiser(molrg, sigma, clean)
        return np.stack([found.mean, found.pooled])

    of_parts = [
        da.from_delayed(
            delayed(both, pure=False)(features.attrs.get("input") == "clean", bases[part] is not None),
            (2, len(sigma)),
            np.float64,
        )
        for part, features in parts.items()
    ]
    found = xr.DataArray(da.stack(of_parts, axis=1), dims=("ratio", "part", "timestep"))
    return {
        f"{name}_theory": found.isel(ratio=k).assign_attrs(long_name=f"{TITLES[name]}, exact denoiser", units="1")
        for k, name in enumerate(RATIOS)
    }


def _series(result: xr.Dataset, name: str, kind: str) -> list[Series]:
    """Give the curve of each part: of principal or exact directions, or theory; NaN where there is none."""
    along = result["timestep"].to_numpy(), result["log_snr"].to_numpy()
    unknown = np.full(len(along[0]), np.nan)
    suffix = ", pooled" * (name != "snr") + f", {kind}" * (kind != PRINCIPAL)
    found = []
    for part in result["part"].to_numpy().tolist():
        values = [unknown] * 3
        if kind == "theory" and f"{name}_theory" in result:
            values = [result[f"{name}_theory"].sel(part=part).to_numpy(), unknown, unknown]
        elif kind in result["subspaces"]:
            one = result.sel(part=part, subspaces=kind)
            values = [one[name + end].to_numpy() for end in ("", "_low", "_high")]
        found.append(Series(part + suffix, *along, *values))
    return found


@snr.curve("snr", title="Signal to noise of features", y_label="SNR")
def _curves(result: xr.Dataset) -> list[Series]:
    every = [one for kind in (PRINCIPAL, EXACT, "theory") for name in RATIOS for one in _series(result, name, kind)]
    return [one for one in every if np.isfinite(one.value).any()]


@snr.gives_landmarks
def _peaks(result: xr.Dataset) -> list[Landmark]:
    """Say where the mean ratio along principal directions is highest, if between the ends, with an interval.

    It is that of the bootstrap over samples, of the ratio's pseudo-values. An end is infinite where it is that of the
    noise levels, beyond which it may as well lie.
    """
    found = []
    classes = np.searchsorted(result["class"].to_numpy(), result["label"].to_numpy())
    for part, series in zip(result["part"].to_numpy().tolist(), _series(result, "snr", PRINCIPAL), strict=True):
        one = result.sel(part=part, subspaces=PRINCIPAL)
        along, beside = (one[name].to_numpy().T for name in ("energy_along", "energy_beside"))
        (mean, pseudo), _ = _pseudo_values(along, beside, classes)
        pseudo = mean[..., None] + result.attrs["error_factor"] * (pseudo - mean[..., None])
        drawn = shape.redrawn(pseudo.T) if np.isfinite(pseudo).all() else None
        meaning = f"signal to noise of features of {part} is highest"
        peak = landmarks.highest_of(series, drawn, "snr_peak", meaning, shape.BEYOND)
        found.append(shape.between_the_ends(peak, series.log_snr).called("peak of features' SNR"))
    return found


@snr.gives_numbers
def _numbers(result: xr.Dataset) -> list[Number]:
    of_principal = result.sel(subspaces=PRINCIPAL)
    values = of_principal["snr"].to_numpy()
    part, level = np.unravel_index(np.where(np.isnan(values), -np.inf, values).argmax(), values.shape)
    value, error = values[part, level], float(of_principal["snr_se"][part, level])
    low, high = _interval(value, error, result.sizes["sample"], np.isfinite(values).sum())
    meaning = "highest signal to noise of features, of any part at any noise level; the interval pays for this choice"
    return [Number("snr_highest", meaning, float(value), float(low), float(high))]


def _caption(results: Results) -> str:
    theory = ""
    if any(EXACT in result["subspaces"] for result in results.values()):
        theory = "Dashed, along the directions that the model has; dotted, that of its exact denoiser in theory. "
    found = captions.either(
        "in the other samples" if result.attrs["held_out"] else "in the same samples" for result in results.values()
    )
    directions = captions.either(result.attrs["directions"] for result in results.values())
    return (
        "How much of a network's features lies along the directions of their class, divided by how much lies beside "
        f"them, mean over classes, over the noise level of the input: {directions} principal directions of each class, "
        f"found {found}. What all classes share along these directions counts too: a high ratio alone does not say "
        f"that classes can be told apart, probes do. {theory}Bands are 95 % intervals. "
        f"{captions.PLACE.format('the highest ratio between the ends')} {captions.samples(results)} "
        "After 004 Figs 2, 3 and 5."
    )


@snr.figure("snr", title="Signal to noise over noise levels, by part of the network", caption=_caption)
def _figure(results: Results, look: Look) -> Figure:
    def of(kind: str) -> Any:
        return lambda result: _series(result, "snr", kind)

    figure, axes = by_part.over_levels(results, look, [of(kind) for kind in (PRINCIPAL, EXACT, "theory")], "SNR")
    for axis in axes.values():
        axis.set_yscale("log")
    by_part.mark(axes, results, look, of(PRINCIPAL), snr.landmarks)
    return figure
