"""What figures of states and forks show is what the results say."""

import numpy as np
import pytest
import xarray as xr

from tests.analysis_data import dataset, fork_readout, forks, state_readout_dataset, trajectories
from traj.analysis._drawing.series import of_forks
from traj.analysis._drawing.style import look_of
from traj.analysis.consistency import ALIKE, consistency
from traj.analysis.entropy import entropy
from traj.analysis.label_variance import label_variance
from traj.analysis.psnr import psnr
from traj.analysis.ssim import ssim

STEPS = 9


@pytest.fixture(scope="module")
def run():
    return trajectories(12, STEPS)


@pytest.fixture(scope="module")
def entropies(run):
    return entropy(run, bins=16).compute()


@pytest.mark.parametrize("quantity", [ssim, psnr])
def test_a_line_is_the_mean_with_its_interval_and_runs_from_left_to_right(quantity, run):
    result = quantity(run).compute()
    over_log_snr, over_process, *_ = quantity.plot(result).axes
    values = result[quantity.name].sel(on="pred_x0")
    shown = values.mean("sample").where(values.mean("sample") < 100)
    for axis in (over_log_snr, over_process):
        np.testing.assert_allclose(axis.lines[0].get_ydata(), shown, rtol=1e-12)
        assert (np.diff(axis.lines[0].get_xdata()) > 0).all()
        assert not axis.xaxis_inverted()
    half = 2.2010 * values.std("sample", ddof=1) / np.sqrt(12)  # Student, eleven degrees of freedom
    band = over_log_snr.collections[0].get_paths()[0].vertices[:, 1]
    assert band.max() == pytest.approx(float((shown + half).max()), rel=1e-4)


def test_an_infinite_psnr_is_in_no_curve(run):
    exact = run.assign(pred_x0=run["pred_x0"].copy())
    exact["pred_x0"][:, -1] = exact["x_0"]
    result = psnr(exact).compute()
    (curve,) = (one for one in psnr.curves[0].of(result) if one.on == "pred_x0")
    assert np.isnan([curve.value, curve.low, curve.high]).all(axis=0).tolist() == [False] * (STEPS - 1) + [True]


def test_two_runs_are_drawn_as_a_histogram_and_have_no_curve(run):
    result = ssim(run, against=trajectories(12, STEPS, seed=1)).compute()
    assert ssim.plot(result, "ssim") is None
    assert ssim.curves[0].of(result) == ssim.landmarks(result) == ssim.numbers(result) == []
    (counts,) = (axis.patches[0].get_xy()[:, 1] for axis in ssim.plot(result).axes[:1])
    assert counts.max() >= 1


def test_what_is_not_reliable_is_dashed(entropies):
    kinds = []
    for flag in (True, False, entropies["timestep"] < 30):
        result = entropies.assign(reliable=flag & xr.ones_like(entropies["reliable"]))
        axes = entropy.plot(result).axes[:1]
        kinds.append([line.get_linestyle() for axis in axes for line in axis.lines if len(line.get_xdata()) == STEPS])
        said = "Dashed: too few pixels for so many grey levels (run)" in entropy.figures[0].caption({"run": result})
        assert said == (flag is not True)
    assert kinds == [["-"], ["--"], ["--", "-"]]


def test_half_of_the_entropy_is_settled_where_half_of_the_grey_levels_are():
    # 16 grey levels are 4 bit: the state tells none of them, then three, then all
    levels = np.random.default_rng(0).integers(0, 16, (64, 1, 8, 8))
    x_0 = (levels + 0.5) / 8 - 1
    steps = np.stack([0 * x_0] * 3 + [(levels // 2 * 2 + 0.5) / 8 - 1] * 3 + [x_0] * 3, axis=1)
    result = entropy(dataset(steps, steps, x_0), bins=16).compute()
    half, _ = entropy.landmarks(result)
    assert half.name == "entropy_half"
    assert half.timestep == 50
    assert (half.low, half.high) == (result["log_snr"].sel(timestep=60), result["log_snr"].sel(timestep=50))


def test_an_images_own_entropy_is_highest_where_its_mean_is(entropies):
    _, peak = entropy.landmarks(entropies)
    alone = entropies["stepwise_entropy_per_sample"].sel(on="pred_x0").mean("sample")
    assert peak.timestep == int(alone["timestep"][int(alone.argmax("timestep"))])
    start, highest = entropy.numbers(entropies)
    assert start.value == pytest.approx(float(alone[0]))
    assert highest.value == pytest.approx(float(alone.max()))


def test_joint_maps_have_x_0_horizontal_and_the_state_vertical(entropies):
    counts = np.zeros_like(entropies["joint_counts"])
    counts[..., 3, 11] = 5
    one = entropies.assign(joint_counts=entropies["joint_counts"].copy(data=counts))
    figure = entropy.plot({"one": one, "other": entropies}, "joint_maps")
    assert [text.get_text() for text in figure.texts] == ["one", "other"]
    image = figure.axes[0].images[0]
    assert np.argwhere(np.isfinite(image.get_array().filled(np.nan))).tolist() == [[11, 3]]
    assert image.origin == "lower"


def labels_of(settled, steps=20):
    """Logits of samples whose pred_x0 has another label before a timestep, and x_t to the end."""
    timesteps = np.arange(steps)[::-1] * 10
    predicted = np.where(timesteps <= np.asarray(settled)[:, None], 0, 1)
    logits = [20.0 * (labels[..., None] == np.arange(3)) for labels in (np.full_like(predicted, 2), predicted)]
    return state_readout_dataset(np.stack(logits), 20.0 * (np.zeros(len(settled), int)[:, None] == np.arange(3)))


def test_labels_settle_where_they_were_made_to():
    settled = np.array([190, 150, 120, 120, 100, 100, 70, 50, 20, 0, -1, -1])
    ds = labels_of(settled)
    result = label_variance(ds).compute()
    (mark,) = label_variance.landmarks(result)
    log_snr = np.where(settled < 0, np.inf, ds["log_snr"].sel(timestep=settled.clip(0)))
    assert (mark.name, mark.timestep) == ("commit", np.median(settled))
    assert mark.log_snr == pytest.approx(np.median(log_snr))
    assert (mark.low, mark.high) == (np.sort(log_snr)[2], np.sort(log_snr)[9])  # of 12, the third and the tenth
    (flips,) = label_variance.numbers(result)
    share = (settled[:, None] < ds["timestep"].to_numpy()).mean(axis=0)
    assert flips.value == pytest.approx(np.interp(0, ds["log_snr"], share))
    assert 0 < flips.low < flips.value < flips.high < 1
    said = label_variance.figures[1].caption({"a": result})
    assert "a to the last step" in said

    histogram, so_far = label_variance.plot(result, "commit").axes
    heights = histogram.patches[0].get_xy()[:, 1]
    assert heights.sum() / 2 == pytest.approx((settled >= 0).mean())  # each interval has two corners at its height
    assert so_far.lines[0].get_ydata()[-1] == pytest.approx((settled >= 0).mean())
    never = label_variance(labels_of(np.full(12, -1))).compute()
    assert np.isnan(label_variance.landmarks(never)[0].timestep)
    assert label_variance.plot(never, "commit") is not None


def test_results_of_states_and_of_forks_each_have_figures_of_their_own():
    results = {
        "states": label_variance(labels_of([50] * 8)).compute(),
        "forks": label_variance(fork_readout()).compute(),
    }
    look = look_of(results)
    for figure in label_variance.figures:
        names = [text.get_text() for text in figure.draw(results, look).legends[0].get_texts()]
        assert names == ["forks" if figure.name == "fork_labels" else "states"]


def test_forks_run_from_left_to_right_with_the_marker_of_each():
    result = consistency(forks(6, 4)).compute()
    look = look_of({"a": result, "b": result})._replace(markers={"a": "o", "b": "s"})
    figure = consistency.figures[0].draw({"a": result.isel(variant=[1, 2, 0, 3]), "b": result}, look)
    for axis, name in zip(figure.axes, ALIKE.values(), strict=True):
        first, second = (line for line in axis.lines if len(line.get_xdata()) == 4)
        assert (first.get_marker(), second.get_marker()) == ("o", "s")
        assert (np.diff(first.get_xdata()) > 0).all()
        np.testing.assert_array_equal(first.get_ydata(), second.get_ydata())
        values = result[name if name == "replica_correlation" else f"{name}_mean"]
        np.testing.assert_allclose(first.get_ydata(), values, rtol=1e-12)


def test_replicas_are_alike_from_where_they_were_made_so():
    result = consistency(forks(24, 8)).compute()
    marks = {mark.name: mark for mark in consistency.landmarks(result)}
    assert set(marks) == {"replica_pearson_05", "replica_correlation_05", "replica_ssim_08"}
    shares = np.linspace(0.1, 0.9, 8)
    # half of the variance is in common where share^2 = (1 - share)^2, in the middle between two starts
    before, after = (int(result["at"][k]) for k in (3, 4))
    assert shares[3] < 0.5 < shares[4]
    for name in ("replica_pearson_05", "replica_correlation_05"):
        assert marks[name].timestep == after
        assert marks[name].low <= float(result["at_log_snr"][3])
        assert marks[name].high >= float(result["at_log_snr"][4])
    assert before > after > marks["replica_ssim_08"].timestep


def test_only_psnr_is_infinite_at_its_cap():
    result = consistency(forks(6, 4)).compute()
    high = result.assign({f"{name}_mean": result["pearson_mean"] * 0 + 100 for name in ("psnr", "pearson")})
    psnr_curve, pearson_curve = (of_forks(high, {"": name})[0] for name in ("psnr", "pearson"))
    assert np.isnan(psnr_curve.value).all()
    assert (pearson_curve.value == 100).all()
