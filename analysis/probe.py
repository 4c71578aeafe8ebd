"""Probes: how well classes are told apart by a network's features, at every noise level (004; METHODS 5.4, 5.5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from traj.analysis._blocks import chunking
from traj.analysis._drawing import by_part, captions
from traj.analysis._features import logistic, shape, stored, subspaces
from traj.analysis._quantity import Landmark, Look, Number, Results, Series, Table, quantity
from traj.analysis._statistics import landmarks, verdicts
from traj.stores import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[Any]

PROBES = {"linear": "logistic regression", "projection": "projection on principal directions of classes"}
"""Classifiers of features, in the order of the results."""


@quantity(
    reads="readout",
    needs=("features_*",),
    numerics=1,
    title="How well features tell classes apart: probes",
    source="004 Figs 1, 3 and 5, Table 9",
)
def probe(
    ds: xr.Dataset,
    *,
    folds: int = 5,
    ridge: float = 1.0,
    directions: int = 5,
    tolerance: float = 0.01,
) -> xr.Dataset:
    """Train classifiers on a network's features, and count how often they are right, per part and noise level.

    Of what `traj readout features` read of labelled samples. Samples are dealt out to folds, those of each class
    evenly; the samples of each fold are told apart by classifiers that were trained on those of all others. A sample is
    in the same fold at all noise levels and for all parts: no classifier is tested on a sample it was trained on, and
    curves are compared in pairs.

    Two classifiers, the `probe` of every variable: `linear`, multinomial logistic regression on features divided by
    their standard deviations over the training samples, with a ridge; and `projection`, the class k with the largest
    |V_k h|^2, where h is the feature divided by its length, less the mean of these over the training samples, and V_k
    are the principal directions of class k among them (004 Table 9). Classes that lie on both sides of 0, as those of
    mixtures of subspaces, are told apart by the second only: data without means cap the first.

    `correct` (probe, part, sample, timestep) is 1 where a sample was told right, else 0; `accuracy` its mean over
    samples, `accuracy_se` the standard error, `accuracy_low` and `accuracy_high` the ends of Wilson's interval of 95 %;
    `class_accuracy` (probe, part, timestep, class) is the mean over samples of one class. Errors are larger than those
    of as many independent samples by the attribute `error_factor`, since other samples would also have trained other
    classifiers (Nadeau and Bengio 2003). The attribute `majority` is the accuracy of one who always names the
    largest class.

    `shape` (probe, part) says whether accuracy is unimodal over noise levels, monotone decreasing in noise, or whether
    that cannot be told; `rise` is how far the highest accuracy between the ends is above that at the least noise, with
    `rise_low` and `rise_high`, which pay for choosing it. Unimodal: accuracy is surely higher at some level than at
    both ends, and the best fit that rises and falls, `fit_unimodal`, is nearer than the best that falls with noise,
    `fit_decreasing`. Monotone: accuracy surely falls with noise, and rises by less than the tolerance if at all.

    Parameters
    ----------
    folds
        Groups that samples are dealt out to; each is tested by classifiers trained on all others.
    ridge
        Penalty on half the squared weights of the logistic regression, beside the sum over samples: scikit-learn's
        1 / C.
    directions
        Principal directions of each class, of the projection.
    tolerance
        A rise of accuracy that is surely smaller than this is none.

    Raises
    ------
    InputError
        A dataset without features; samples without labels; one class only; a class with fewer samples than folds, or
        than directions; as many directions as features, or more; folds below 2; a ridge that is not above 0, a
        tolerance below 0; when computed, features that are not a number.
    """
    parts = stored.parts(ds)
    names, positions = stored.classes(ds)
    stored.require_room(parts, directions)
    if not ridge > 0 or not tolerance >= 0:
        raise InputError(
            f"ridge is {ridge:g} and tolerance {tolerance:g}; expected a ridge above 0, without which classes that are "
            "told apart perfectly have no best weights, and a tolerance of 0 or more"
        )
    dealt = stored.deal(names, positions, folds, directions)
    factor = stored.error_factor(folds)
    told = [
        stored.of_level(_told, features, len(PROBES), classes=positions, dealt=dealt, ridge=ridge, among=directions)
        for features in parts.values()
    ]
    correct = xr.DataArray(da.stack(told, axis=1), dims=("probe", "part", "sample", "timestep"))
    variables = {
        "correct": correct.assign_attrs(long_name="1 where the sample was told right, else 0", units="1"),
        **_accuracies(correct, positions, factor),
        **_shapes(correct, tolerance, factor),
    }
    coords = {str(name): coord for name, coord in ds.coords.items() if set(coord.dims) <= {"sample", "timestep"}}
    coords["probe"] = xr.DataArray(list(PROBES), dims="probe", attrs={"long_name": "classifier of features"})
    coords["part"] = xr.DataArray(list(parts), dims="part", attrs={"long_name": "part of the network"})
    coords["class"] = xr.DataArray(names, dims="class", attrs={"long_name": "label of the class", "units": "1"})
    attrs = {
        "quantity": "probe",
        "samples": ds.sizes["sample"],
        "folds": folds,
        "ridge": ridge,
        "directions": directions,
        "tolerance": tolerance,
        "error_factor": factor,
        "majority": float(np.bincount(positions).max() / len(positions)),
    }
    return xr.Dataset(variables, coords, attrs)


@probe.takes_memory
def _held(ds: xr.Dataset, **_: Any) -> int:
    """Bound the features of all samples, which the classifiers of each noise level are trained on."""
    return sum(features.nbytes for features in stored.parts(ds).values())


def _told(features: Array, *, classes: Array, dealt: Array, ridge: float, among: int) -> Array:
    """Say which samples are told right (probe, sample) by classifiers trained on those of other folds."""
    count = int(classes.max()) + 1
    right = np.empty((len(PROBES), len(features)))
    fitted = None
    for fold in range(int(dealt.max()) + 1):
        tested = dealt == fold
        seen, labels = features[~tested], classes[~tested]
        fitted = logistic.fit(seen, labels, count, ridge, fitted)
        principal = subspaces.principal(seen, labels, count, among)
        for row, scores in zip(right, (fitted.scores, principal.along), strict=True):
            row[tested] = scores(features[tested]).argmax(axis=1) == classes[tested]
    return right


def _accuracies(correct: xr.DataArray, positions: Array, factor: float) -> dict[str, xr.DataArray]:
    """Name the share of samples told right, of all and of each class, its error and interval."""
    columns = 3 + int(positions.max())
    of_all = chunking.per_cell(_shares, correct, within=[["sample"]], width=columns, classes=positions)
    accuracy = of_all.isel(column=0)
    title = "share of samples told right"
    return {
        "accuracy": accuracy.assign_attrs(long_name=title, units="1"),
        "accuracy_se": (factor * of_all.isel(column=1)).assign_attrs(long_name=f"{title}, standard error", units="1"),
        **verdicts.interval("accuracy", title, _cases(len(positions), factor), accuracy),
        "class_accuracy": of_all.isel(column=slice(2, None))
        .rename(column="class")
        .assign_attrs(long_name=f"{title}, of one class", units="1"),
    }


def _cases(samples: int, factor: float) -> int:
    """Count the independent samples whose share would have the error of one that is larger by a factor."""
    return max(round(samples / factor**2), 1)


def _shares(correct: Array, classes: Array) -> Array:
    """Give the mean over samples of correct (..., sample), its standard error, and the mean of each class."""
    samples = correct.shape[-1]
    mean = correct.mean(axis=-1, dtype=np.float64)
    of_class = [correct[..., classes == k].mean(axis=-1, dtype=np.float64) for k in range(int(classes.max()) + 1)]
    return np.stack([mean, np.sqrt(mean * (1 - mean) / (samples - 1)), *of_class], axis=-1)


def _shapes(correct: xr.DataArray, tolerance: float, factor: float) -> dict[str, xr.DataArray]:
    """Name what shape the curve has, and the fits that speak for it."""
    found = chunking.per_cell(
        shape.of_samples,
        correct,
        within=[["sample", "timestep"]],
        width=len(shape.COLUMNS),
        tolerance=tolerance,
        factor=factor,
    )
    fits = chunking.per_cell(_fits, correct, within=[["sample", "timestep"]], width=2 * correct.sizes["timestep"])
    told, *rise = (found.isel(column=k) for k in range(len(shape.COLUMNS)))
    titles = ["highest accuracy between the ends, less that at the least noise"]
    titles += [f"{titles[0]}, {end} end of its interval" for end in ("low", "high")]
    steps = correct.sizes["timestep"]
    return {
        "shape": told.assign_attrs(long_name="shape of accuracy over noise", **shape.FLAGS),
        **{
            name: one.assign_attrs(long_name=title, units="1")
            for name, one, title in zip(shape.COLUMNS[1:], rise, titles, strict=True)
        },
        **{
            f"fit_{name}": fits.isel(column=slice(k * steps, (k + 1) * steps))
            .rename(column="timestep")
            .assign_attrs(long_name=f"best fit of accuracy that {words}", units="1")
            for k, (name, words) in enumerate((("decreasing", "falls with noise"), ("unimodal", "rises and falls")))
        },
    }


def _fits(correct: Array) -> Array:
    """Fit the mean over samples of correct (..., sample, timestep), twice: (..., timestep of both)."""
    curves = correct.mean(axis=-2, dtype=np.float64)
    return np.concatenate([np.apply_along_axis(fit, -1, curves) for fit in (shape.decreasing, shape.unimodal)], axis=-1)


def _name(probe: str, part: str) -> str:
    return part if probe == "linear" else f"{part}, {probe}"


def _series(result: xr.Dataset, probe: str) -> list[Series]:
    along = result["timestep"].to_numpy(), result["log_snr"].to_numpy()
    names = ("accuracy", "accuracy_low", "accuracy_high")
    return [
        Series(_name(probe, part), *along, *(result[name].sel(probe=probe, part=part).to_numpy() for name in names))
        for part in result["part"].to_numpy().tolist()
    ]


@probe.curve("probe_accuracy", title="Accuracy of probes of features", y_label="accuracy")
def _curves(result: xr.Dataset) -> list[Series]:
    return [series for probe in PROBES for series in _series(result, probe)]


@probe.gives_landmarks
def _peaks(result: xr.Dataset) -> list[Landmark]:
    """Say where accuracy is highest, if between the ends, with the bootstrap's interval over samples.

    A curve that is monotone has none.

    An end of the interval is infinite where it is that of the noise levels, beyond which it may as well lie.
    """
    found = []
    for probe, words in PROBES.items():
        for series in _series(result, probe):
            part = series.on.removesuffix(f", {probe}")
            values = result["correct"].sel(probe=probe, part=part).to_numpy().astype(np.float64)
            tilt = 1e-9 * np.arange(values.shape[1])  # of levels that are equal, the one of least noise
            peak = landmarks.highest_of(
                series._replace(on=part, value=series.value + tilt),
                shape.redrawn(values, float(result.attrs["error_factor"])) + tilt,
                f"probe_peak{'' if probe == 'linear' else f'_{probe}'}",
                f"accuracy of {words} on features of {part} is highest",
                shape.BEYOND,
            )
            monotone = int(result["shape"].sel(probe=probe, part=part)) == shape.MONOTONE
            found.append(shape.between_the_ends(peak, series.log_snr, monotone).called(f"{probe} probe peak"))
    return found


def _linear_peaks(result: xr.Dataset) -> list[Landmark]:
    return [mark for mark in _peaks(result) if mark.name == "probe_peak"]


@probe.gives_numbers
def _numbers(result: xr.Dataset) -> list[Number]:
    found = []
    for probe, words in PROBES.items():
        of_probe = result.sel(probe=probe)
        best = of_probe["accuracy"].to_numpy()
        part, level = np.unravel_index(best.argmax(), best.shape)
        value = float(best[part, level])
        low, high = verdicts.wilson(value, _cases(result.sizes["sample"], result.attrs["error_factor"]), best.size)
        meaning = f"highest accuracy of {words}, of any part at any noise level; the interval pays for this choice"
        found.append(Number(f"probe_best_{probe}", meaning, value, low, high))
    return found


@probe.gives_tables
def _tables(results: Results) -> list[Table]:
    rows = []
    for run, result in results.items():
        for probe in PROBES:
            for part in result["part"].to_numpy().tolist():
                one = result.sel(probe=probe, part=part)
                best = int(one["accuracy"].argmax("timestep"))
                rise = [float(one[name]) * 100 for name in shape.COLUMNS[1:]]
                rows.append(
                    (
                        run,
                        part,
                        probe,
                        f"{float(one['accuracy'][best]):.3f}",
                        f"{float(one['log_snr'][best]):.1f}",
                        f"{rise[0]:.1f} ({rise[1]:.1f} to {rise[2]:.1f})",
                        shape.WORDS[int(one["shape"])],
                    )
                )
    head = ("run", "part", "probe", "highest accuracy", "at log SNR", "rise (points of percent)", "shape")
    tolerance = captions.either(f"{100 * float(one.attrs['tolerance']):g}" for one in results.values())
    note = (
        "The rise is that of accuracy from the least noise to the highest between the ends. Unimodal: accuracy is "
        "surely higher at some noise level than at both ends. Monotone decreasing: it surely falls with noise, and "
        f"surely rises by less than {tolerance} points. "
        "Intervals are of 95 % and pay for the choice of the highest."
    )
    return [Table("Unimodal or monotone: accuracy over noise", head, rows, note, numbers=(3, 4))]


def _caption(results: Results) -> str:
    return (
        "How often classifiers of a network's features name the class of a sample they were not trained on, over the "
        "noise level of the input: solid, logistic regression; dashed, the class along whose principal directions the "
        "feature is longest; dotted, always the largest class. "
        f"{captions.BAND} {captions.PLACE.format('the highest accuracy of logistic regression between the ends')} "
        f"{captions.samples(results)} After 004 Figs 1, 3 and 5."
    )


@probe.figure("probe_accuracy", title="Accuracy over noise levels, by part of the network", caption=_caption)
def _figure(results: Results, look: Look) -> Figure:
    figure, axes = by_part.over_levels(
        results,
        look,
        (lambda result: _series(result, "linear"), lambda result: _series(result, "projection")),
        "accuracy",
    )
    by_part.mark(axes, results, look, lambda result: _series(result, "linear"), _linear_peaks)
    for run, result in results.items():
        for part in result["part"].to_numpy().tolist():
            axes[part].axhline(float(result.attrs["majority"]), color=look.colours[run], lw=0.9, ls=":")
    for axis in axes.values():
        axis.set_ylim(0, 1.02)
    return figure


def _shape_caption(results: Results) -> str:
    return (
        "Does accuracy have a peak between the noise levels, or does it fall with noise from the least on? Dots are "
        "the accuracy of logistic regression with its 95 % interval; solid, the nearest curve that rises and falls; "
        "dashed, the nearest that only falls with noise. Where the two lie on each other, there is no peak. The table "
        "says what can be told of each."
    )


@probe.figure("probe_shape", title="Unimodal or monotone", caption=_shape_caption)
def _shape_figure(results: Results, look: Look) -> Figure:
    def fitted(name: str) -> Callable[[xr.Dataset], list[Series]]:
        return lambda result: [
            series._replace(value=fit, low=fit, high=fit)
            for series, fit in zip(_series(result, "linear"), result[name].sel(probe="linear").to_numpy(), strict=True)
        ]

    figure, axes = by_part.over_levels(results, look, [fitted("fit_unimodal"), fitted("fit_decreasing")], "accuracy")
    for run, result in results.items():
        for part, series in zip(result["part"].to_numpy().tolist(), _series(result, "linear"), strict=True):
            x = look.axis.places(series.timestep, series.log_snr)(series.log_snr)
            ends = [series.value - series.low, series.high - series.value]
            axes[part].errorbar(x, series.value, ends, fmt="o", ms=4, lw=1, color=look.colours[run], alpha=0.6)
    return figure
