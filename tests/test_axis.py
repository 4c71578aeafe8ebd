"""Figures lie over log SNR, timesteps or bits; what is marked on them moves along."""

import re
from functools import partial

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

from tests.analysis_data import dataset, forks, state_readout, trajectories
from tests.report_data import fail, text
from tests.test_information import noised, of_normal
from traj.analysis._drawing import axis as _axis
from traj.analysis._drawing import timeline
from traj.analysis._quantity import Landmark, Look
from traj.analysis.consistency import consistency
from traj.analysis.entropy import entropy
from traj.analysis.information import information
from traj.analysis.label_variance import label_variance
from traj.analysis.psnr import psnr
from traj.pipeline.cli import main
from traj.pipeline.report import report
from traj.stores import InputError, save

STEPS = 9


@pytest.fixture(scope="module")
def measured():
    """Information of normal values of variance 1, over the log SNR of `trajectories`."""
    x_0 = np.random.default_rng(0).standard_normal((40, 2))
    log_snr = trajectories(3, STEPS)["log_snr"].to_numpy()
    return information(noised(x_0, of_normal(np.ones(2)), log_snr=log_snr)).compute()


@pytest.fixture(scope="module")
def run():
    return trajectories(12, STEPS)


@pytest.fixture(scope="module")
def values(run):
    return psnr(run).compute()


@pytest.fixture(scope="module")
def endings():
    return consistency(forks(12, 8)).compute()


def over(axis, run):
    return axis.places(run["timestep"].to_numpy(), run["log_snr"].to_numpy())


def diamonds(axis):
    """Where landmarks stand, and the ends of their intervals."""
    points = [float(line.get_xdata()[0]) for line in axis.lines if line.get_marker() == "D"]
    return points, [[*line.get_xdata()] for line in axis.lines if line.get_linewidth() == 3.5]


def test_places_of_timesteps_are_minus_these_and_rise(run):
    places = over(_axis.TIMESTEP, run)
    np.testing.assert_array_equal(places(run["log_snr"]), -run["timestep"])
    middle = float(run["log_snr"][3:5].mean())
    assert places(middle) == pytest.approx(-float(run["timestep"][3:5].mean()))
    assert (np.diff(places(np.linspace(-9, 9, 99))) >= 0).all()


def test_places_of_bits_are_the_information_and_rise(measured, run):
    places = over(_axis.of_information(measured), run)
    np.testing.assert_allclose(places(measured["log_snr"]), measured["information_mean"][0], rtol=1e-12)
    between = measured["log_snr"][3:5].mean(), measured["information_mean"][0, 3:5].mean()
    assert places(float(between[0])) == pytest.approx(float(between[1]))
    assert (np.diff(places(np.linspace(-9, 9, 99))) >= 0).all()


@pytest.mark.parametrize("axis", ["timestep", "information"])
def test_what_is_infinite_or_beyond_lies_at_the_ends_and_what_is_no_number_nowhere(axis, measured, run):
    places = over(_axis.of_information(measured) if axis == "information" else _axis.TIMESTEP, run)
    first, last = (float(places(run["log_snr"][k])) for k in (0, -1))
    assert places([-np.inf, -99, 99, np.inf]).tolist() == [first, first, last, last]
    assert np.isnan(places(np.nan))


def test_a_process_that_begins_with_nothing_but_noise_is_drawn_over_any_axis(run, measured):
    # c = 0 at the first timestep
    from_nothing = run.assign_coords(log_snr=run["log_snr"].where(run["step"] > 0, -np.inf))
    result = psnr(from_nothing).compute()
    for axis, first in (
        ("timestep", -float(run["timestep"][0])),
        (measured, float(measured["information_mean"][0, 0])),
    ):
        x = psnr.plot(result, axis=axis).axes[0].lines[0].get_xdata()
        assert x[0] == first
        assert (np.diff(x) > 0).all()
    assert np.isfinite(psnr.plot(result).axes[0].lines[0].get_xdata()[1:]).all()


def test_curves_of_states_lie_over_the_axis_and_still_over_the_process(values, measured):
    for axis, x, label in (
        ("timestep", -values["timestep"], "timestep of $x_t$   (denoising →)"),
        (measured, measured["information_mean"][0], "information of $x_t$ on $x_0$, bit   (denoising →)"),
        ("log_snr", values["log_snr"], "log SNR of $x_t$   (denoising →)"),
    ):
        left, right, *_, last, _ = psnr.plot(values, axis=axis).axes
        np.testing.assert_allclose(left.lines[0].get_xdata(), x, rtol=1e-12)
        np.testing.assert_allclose(right.lines[0].get_xdata(), np.linspace(0, 100, STEPS))
        assert last.get_xlabel() == label


def test_timesteps_are_written_without_a_sign_and_fall_to_the_right(values, endings):
    states, starts = psnr.plot(values, axis="timestep"), consistency.plot(endings, axis="timestep")
    for figure, axes in ((states, states.axes[::2]), (starts, starts.axes)):
        figure.canvas.draw()
        for axis in axes:
            shown = [tick.get_text() for tick in axis.get_xticklabels()]
            numbers = [float(one) for one in shown if one]
            assert numbers == sorted(numbers, reverse=True)
            assert not any(one.startswith(("-", "−")) for one in shown)
            assert {0.0, 20.0} <= set(numbers)


def test_landmarks_of_states_and_their_intervals_move_along(run, measured):
    result = entropy(run, bins=16).compute()
    marks = {mark.name: mark for mark in entropy.landmarks(result)}
    for name, figure in (("entropy_half", "stepwise_entropy"), ("entropy_peak", "stepwise_entropy_per_image")):
        for axis in ("timestep", measured):
            (point,), (interval,) = diamonds(entropy.plot(result, figure, axis=axis).axes[0])
            places = over(_axis.named(axis), run)
            ends = np.clip([marks[name].low, marks[name].high], *run["log_snr"].to_numpy()[[0, -1]])
            assert point == pytest.approx(float(places(marks[name].log_snr)))
            assert interval == pytest.approx(places(ends).tolist())
    assert -diamonds(entropy.plot(result, axis="timestep").axes[0])[0][0] == marks["entropy_half"].timestep


def test_forks_lie_over_where_they_start(endings, measured):
    axes = consistency.plot(endings, axis="timestep").axes
    np.testing.assert_array_equal(axes[0].lines[0].get_xdata(), -endings["at"])
    assert axes[-1].get_xlabel() == "timestep of the start   (denoising →)"
    marks = {mark.name: mark for mark in consistency.landmarks(endings)}
    assert diamonds(axes[0])[0] == [-marks["replica_pearson_05"].timestep]
    assert np.isfinite(consistency.plot(endings, axis=measured).axes[0].lines[0].get_xdata()).all()


def test_what_is_settled_is_counted_over_the_axis(measured):
    ds = state_readout(24, STEPS)
    result = label_variance(ds).compute()
    where = result["commit_log_snr"].sel(on="pred_x0").to_numpy()
    for axis in ("timestep", measured):
        places = over(_axis.named(axis), ds)
        histogram, so_far = label_variance.plot(result, "commit", axis=axis).axes
        assert histogram.patches[0].get_xy()[:, 1].sum() / 2 == pytest.approx(np.isfinite(where).mean())
        steps = so_far.lines[0].get_xdata()
        np.testing.assert_allclose(steps[1:-1], np.sort(places(where[np.isfinite(where)])))
        assert (np.diff(steps) >= 0).all()
        (mark,) = label_variance.landmarks(result)
        assert diamonds(so_far)[0] == pytest.approx([float(places(mark.log_snr))])


def test_runs_of_other_schedules_do_not_lie_together_over_timesteps(run, values):
    other = psnr(run.assign_coords(log_snr=run["log_snr"] + 0.1)).compute()
    with pytest.raises(InputError, match=r"timestep \d+ has log SNR .* in a and .* in b; .*expected log_snr or inform"):
        psnr.plot({"a": values, "b": other}, axis="timestep")
    assert psnr.plot({"a": values, "b": other}) is not None
    part = psnr(run.isel(timestep=slice(None, None, 2))).compute()
    assert psnr.plot({"a": values, "b": part}, axis="timestep") is not None


def test_an_axis_there_is_not_is_refused(values, measured):
    with pytest.raises(InputError, match="unknown axis 'sigma'; expected log_snr, timestep, or a result of"):
        psnr.plot(values, axis="sigma")
    with pytest.raises(InputError, match="a result of psnr was given as axis"):
        psnr.plot(values, axis=values)
    with pytest.raises(InputError, match="is of a run whose errors are no measure of information"):
        psnr.plot(values, axis=measured.assign_attrs(flaw="noise"))
    with pytest.raises(InputError, match="holds no information that grows"):
        psnr.plot(values, axis=measured * 0)


def test_landmarks_of_all_runs_lie_over_the_axis(run, measured):
    mark = Landmark("it", "it happens", 40.0, float(run["log_snr"].sel(timestep=40)), -np.inf, 1.0)
    never = Landmark("it", "it happens", np.nan, np.nan)
    for axis in (_axis.TIMESTEP, _axis.of_information(measured)):
        places = over(axis, run)
        look = Look({"a": "#0072b2"}, {"a": ""}, axis)
        rows = [timeline.Row("it", "it happens", {"a": one}) for one in (mark, never)]
        axes = timeline.picture(rows, {"a": "a"}, look, {"a": places}, timeline.Strip("a", run)).axes
        point, bar = (next(line for line in axes[0].lines if key(line)) for key in (_is_point, _is_bar))
        assert point.get_xdata()[0] == pytest.approx(float(places(mark.log_snr)))
        assert bar.get_xdata() == pytest.approx([float(places(run["log_snr"][0])), float(places(1.0))])
        assert axis.label().startswith(axes[0].get_xlabel())
        along = places(run["log_snr"])
        for image in axes[1].images[len(axes[1].images) // 2 :]:
            left, right, *_ = image.get_extent()
            nearest = np.abs(along - (left + right) / 2).argmin()
            expected = run["pred_x0"][0, nearest, 0].to_numpy()
            np.testing.assert_allclose(image.get_array()[..., 0], (expected.clip(-1, 1) + 1) / 2, atol=1e-6)


def _is_point(line):
    return line.get_marker() == "o"


def _is_bar(line):
    return line.get_linewidth() == 5


@pytest.fixture(scope="module")
def project(tmp_path_factory, measured, values):
    root = tmp_path_factory.mktemp("project")
    for name, result in (("noised", measured), ("plain", values)):
        quantity = result.attrs["quantity"]
        config = {"quantity": quantity, "options": {}, "store": None}
        save(result.assign_attrs(of="trajectories"), root / f"results/{name}/{quantity}.zarr", config)
    return root


def test_a_report_says_what_its_figures_lie_over(project, tmp_path, without_figures):
    pages = {}
    for axis in ("log_snr", "information"):
        page = report(tmp_path / axis, root=project, axis=axis, failed=fail)
        pages[axis] = text(page), text(page.parent / "runs/plain.html")
    said = "Drawn over the bits of information that x_t holds on x_0, as measured in noised"
    assert [[said in html for html in both] for both in pages.values()] == [[False] * 2, [True] * 2]
    assert "Landmarks of all processes over information" in pages["information"][0]


def test_an_axis_of_a_report_that_there_is_not_is_refused(project, tmp_path, monkeypatch):
    monkeypatch.chdir(project)
    ask = partial(CliRunner().invoke, main)
    for axis, told in {
        "sigma": "unknown axis 'sigma'; expected log_snr, timestep, information or information:NAME",
        "information:plain": "axis 'information:plain' was given; expected information:NAME.*: noised",
    }.items():
        answer = ask(["report", "--axis", axis, "-o", str(tmp_path / "out")])
        assert answer.exit_code == 2
        assert re.search(told, re.sub(r"\s+", " ", answer.output))


def test_a_report_over_timesteps_needs_one_schedule(project, tmp_path):
    with pytest.raises(InputError, match="only runs of one schedule compare over timesteps"):
        report(tmp_path / "out", root=_with_another(project, tmp_path / "more"), axis="timestep", failed=fail)


def _with_another(project, root):
    ds = dataset(*(np.zeros((3, 4, 1, 4, 4)),) * 2, np.zeros((3, 1, 4, 4)))
    result = psnr(ds.assign_coords(log_snr=ds["log_snr"] + 5)).compute()
    for name, one in (("a", psnr(ds).compute()), ("b", result)):
        config = {"quantity": "psnr", "options": {}, "store": None}
        save(one.assign_attrs(of="trajectories"), root / f"results/{name}/psnr.zarr", config)
    return root


def test_the_table_of_forks_is_of_their_starts_each_once():
    result = xr.Dataset(coords={"at": ("variant", [5, 9, 5]), "at_log_snr": ("variant", [1.0, 0.0, 1.0])})
    timesteps, log_snr = _axis.table(result)
    assert (timesteps.tolist(), log_snr.tolist()) == ([9, 5], [0.0, 1.0])
    assert _axis.table(xr.Dataset())[0].size == 0
