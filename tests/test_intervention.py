"""Interventions and phases: what scikit-image and plain loops say, exact cases, made-up curves, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from tests import runs
from tests.analysis_data import (
    CUT,
    JUMP,
    SHORTCUT,
    baseline,
    baseline_images,
    forks,
    sweep_dataset,
    sweeps,
    trajectories,
)
from tests.test_cli import traj
from traj import stores
from traj.analysis.intervention import intervention
from traj.analysis.phases import of_curve, phases

GAUSSIAN = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}


def unit(image):
    return np.clip((image.astype(np.float64) + 1) / 2, 0, 1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("preset", "side"), [("wang2004", 12), ("skimage", 9), ("window:3", 3), ("auto", 8)])
def test_similarities_are_scikit_images_and_numpys(preset, side, channels):
    ds = sweeps(5, 10, channels, side)
    ds["x_0"] *= 1.3  # some values beyond the valid range
    windows = {"skimage": 7, "window:3": 3, "auto": 5}
    options = GAUSSIAN if preset == "wang2004" else {"win_size": windows[preset]}
    result = intervention(ds, baseline=baseline(channels, side), preset=preset).compute()
    plain = baseline_images(5, channels, side)
    for variant, images in enumerate(ds["x_0"].to_numpy()[:, 0]):
        for sample, (image, other) in enumerate(zip(images, plain, strict=True)):
            a, b = unit(image), unit(other)
            expected = {
                "ssim": structural_similarity(a, b, data_range=1.0, channel_axis=0, **options),
                "psnr": peak_signal_noise_ratio(b, a, data_range=1.0),
                "mad": np.abs(a - b).mean(),
            }
            for name, value in expected.items():
                np.testing.assert_allclose(result[name][variant, sample], value, rtol=0, atol=1e-9, err_msg=name)


def test_spread_over_samples_is_numpys():
    result = intervention(sweeps(7, 4), baseline=baseline()).compute()
    for name in ("ssim", "psnr", "mad"):
        values = result[name].to_numpy()
        np.testing.assert_allclose(result[f"{name}_mean"], values.mean(axis=1), rtol=1e-12)
        np.testing.assert_allclose(result[f"{name}_sd"], values.std(axis=1, ddof=1), rtol=1e-10)
        np.testing.assert_allclose(result[f"{name}_se"], values.std(axis=1, ddof=1) / np.sqrt(7), rtol=1e-10)


@pytest.mark.parametrize(("preset", "side"), [("wang2004", 12), ("skimage", 9), ("auto", 8)])
def test_an_edit_that_changes_nothing_is_exactly_the_run(preset, side):
    ds = sweep_dataset([(30, "jump", 0, 0, 0, -1), (30, *JUMP), (20, *JUMP)], [0, 0.5, 0], 9, 3, side)
    result = intervention(ds, baseline=baseline(3, side), preset=preset).compute()
    for name, exact in (("ssim", 1), ("psnr", 100), ("mad", 0)):
        assert (result[name][[0, 2]] == exact).all(), name
        assert (result[f"{name}_mean"][[0, 2]] == exact).all(), name
        assert (result[f"{name}_sd"][[0, 2]] == 0).all(), name
        assert (result[name][1] != exact).all(), name


def test_images_too_small_for_a_window_have_the_rest():
    result = intervention(sweeps(side=2), baseline=baseline(1, 2)).compute()
    assert np.isnan(result["ssim"]).all()
    assert np.isfinite(result["psnr"]).all()
    assert np.isfinite(result["mad"]).all()
    with pytest.raises(ValueError, match="the least is 3 pixels"):
        intervention(sweeps(side=2), baseline=baseline(1, 2), preset="window:3")


def test_samples_are_matched_by_number():
    ds = sweeps(6, 4)
    expected = intervention(ds, baseline=baseline()).compute()
    turned = intervention(ds.isel(sample=[5, 0, 3]), baseline=baseline()).compute()
    np.testing.assert_array_equal(turned["ssim"], expected["ssim"].isel(sample=[5, 0, 3]))


def test_coordinates_of_the_edits_are_kept():
    result = intervention(sweeps(), baseline=baseline())
    assert {"at", "edit", "n", "ns", "nb", "unet_blocks", "r", "at_log_snr", "label"} <= set(result.coords)
    np.testing.assert_array_equal(result["at_log_snr"], -0.1 * result["at"])


def test_curves_have_one_standard_deviation_about_the_mean_and_leave_out_what_changes_nothing():
    table = [(at, *edit) for at in (40, 30, 20, 10) for edit in (JUMP, CUT)]
    share = np.where(np.arange(8) == 6, 0, 0.1 + 0.05 * np.arange(8))  # the last jump changes nothing
    result = intervention(sweep_dataset(table, share, 6), baseline=baseline()).compute()
    jumps = result.isel(variant=result["edit"].to_numpy() == "jump")
    for axis, name, label in zip(intervention.plot(result).axes, ("ssim", "psnr"), ("SSIM", "PSNR (dB)"), strict=True):
        assert axis.get_ylabel() == label
        mean, sd = (jumps[f"{name}_{part}"].to_numpy().copy() for part in ("mean", "sd"))
        mean[mean >= 100] = np.nan
        np.testing.assert_array_equal(axis.lines[0].get_xydata(), np.stack([jumps["at"], mean], axis=-1))
        band = axis.collections[0].get_datalim(axis.transData)
        assert band.y1 == pytest.approx(np.nanmax(mean + sd))
    for curve, points in zip(intervention.curves, (4, 3), strict=True):
        series = curve.of(result)[0]
        assert series.on == "jump n=5"
        np.testing.assert_array_equal(series.timestep, [40, 30, 20, 10][:points])
        np.testing.assert_array_equal(series.log_snr, [-4, -3, -2, -1][:points])
        name = curve.name.removeprefix("intervention_")
        mean, error = (jumps[f"{name}_{part}"].to_numpy()[:points] for part in ("mean", "se"))
        np.testing.assert_allclose(series.value, mean)
        np.testing.assert_allclose(series.high, mean + 2 * error)


# --- phases -------------------------------------------------------------------------------------------------------


NONE = np.nan
CURVES = {
    # SSIM, PSNR, phases, and what is seen of 1, 2, 3
    "three phases": (
        [0.2, 0.5, 0.8, 0.9, 0.7, 0.9, 1.0],
        [12, 15, 24, 20, 18, 22, 30],
        [1, 1, 2, 2, 2, 3, 3],
        (1, 1, 1),
    ),
    "monotone": ([0.2, 0.5, 0.8, 0.9], [12, 15, 18, 22], [1, 1, 3, 3], (1, -1, 1)),
    "dip at once": ([0.9, 0.85, 0.9], [25, 20, 24], [2, 2, 3], (-1, 1, 1)),
    "never rises": ([0.5, 0.9, 0.9, 0.9], [15, 25, 22, 20], [1, 2, 2, 2], (1, 1, -1)),
    "falls to a floor": ([0.9, 0.9, 0.9, 0.9, 0.9], [25, 20, 20, 20, 26], [2, 2, 2, 2, 3], (-1, 1, 1)),
    "flat": ([0.9, 0.9, 0.9], [20, 20, 20], [NONE] * 3, (-1, -1, -1)),
    "flat then rising": ([0.9, 0.9, 0.9], [20, 20, 25], [3, 3, 3], (-1, -1, 1)),
    "never similar": ([0.2, 0.3, 0.5], [12, 10, 15], [1, 1, 1], (1, -1, -1)),
    "at the threshold": ([0.79, 0.8], [12, 15], [1, NONE], (1, 0, 0)),
    "not a number": ([0.2, NONE, 0.9], [12, 15, 20], [NONE] * 3, (0, 0, 0)),
    "no samples' PSNR": ([0.2, 0.9, 0.9], [12, NONE, 20], [NONE] * 3, (0, 0, 0)),
}


@pytest.mark.parametrize(("ssim", "psnr", "expected", "seen"), CURVES.values(), ids=CURVES)
def test_phases_of_made_up_curves(ssim, psnr, expected, seen):
    ssim, psnr = (np.repeat(np.array(curve, float)[:, None], 8, axis=1) for curve in (ssim, psnr))
    phase, here = of_curve(ssim, psnr, 0.8)
    np.testing.assert_array_equal(phase, expected)
    assert here == seen


def dependent(rng, points, samples):
    """Curves (point, sample), each with a level of its own, in which neighbours are alike, as those of digits are."""
    noise = rng.standard_normal((points, samples))
    curve = np.empty_like(noise)
    curve[0] = noise[0]
    for k in range(1, points):
        curve[k] = 0.7 * curve[k - 1] + np.sqrt(1 - 0.7**2) * noise[k]
    return 5 * rng.standard_normal(samples) + 2 * curve


@pytest.mark.parametrize("samples", [6, 32])
def test_flat_curves_have_a_phase_3_in_five_per_cent_of_cases_at_most(samples):
    repetitions, rng = 200, np.random.default_rng(samples)
    ssim = np.full((25, samples), 0.9)
    seen = np.array([of_curve(ssim, 25 + dependent(rng, 25, samples), 0.8)[1] for _ in range(repetitions)]) == 1
    assert not seen[:, 0].any()
    for either in (seen[:, 1], seen[:, 2]):
        assert stats.binomtest(int(either.sum()), repetitions, 0.05, "greater").pvalue > 0.01


def test_a_clear_dip_is_seen_through_the_spread_of_samples():
    rng = np.random.default_rng(0)
    ssim = np.where(np.arange(25) < 5, 0.5, 0.95)[:, None] + 0.05 * rng.standard_normal((25, 32))
    dip = 4 * np.cos(np.linspace(0, 2 * np.pi, 20))
    psnr = np.concatenate([np.full(5, 15.0), 25 + dip])[:, None] + dependent(rng, 25, 32)
    phase, seen = of_curve(ssim, psnr, 0.8)
    assert seen == (1, 1, 1)
    assert sorted(set(phase.tolist())) == [1, 2, 3]
    # of five samples every sign is the same once in sixteen times
    assert of_curve(ssim[:, :5], psnr[:, :5], 0.8)[1][1:] == (0, 0)


def test_what_no_interval_can_tell_is_no_phase():
    rng = np.random.default_rng(0)
    about = 0.8 + 0.2 * rng.standard_normal((3, 12))
    about[0] -= about[0].mean() - 0.79
    about[1:] = 0.9
    phase, seen = of_curve(about, np.repeat([[12.0], [20], [25]], 12, axis=1), 0.8)
    assert seen == (0, -1, 1)
    np.testing.assert_array_equal(phase, [NONE, 3, 3])


def test_phases_are_those_of_each_familys_own_curve():
    table = [(at, *edit) for at in (10, 40, 0, 30, 20) for edit in (CUT, JUMP)]
    ds = sweep_dataset(table, np.linspace(0.9, 0.1, len(table)), 20)
    compared = intervention(ds, baseline=baseline()).compute()
    result = phases(ds, baseline=baseline(), threshold=0.5).compute()
    assert result["family"].to_numpy().tolist() == ["blocks nb=6 n=5", "jump n=5"]
    for name, edit in (("blocks nb=6 n=5", "blocks"), ("jump n=5", "jump")):
        of = [k for k in np.argsort(-ds["at"].to_numpy()) if ds["edit"].to_numpy()[k] == edit]
        expected, seen = of_curve(*(compared[key].to_numpy()[of] for key in ("ssim", "psnr")), 0.5)
        np.testing.assert_array_equal(result["seen"].sel(family=name), seen)
        np.testing.assert_array_equal(result["phase"][of], expected)
        at = ds["at"].to_numpy()[of]
        for number in (1, 2, 3):
            there = at[expected == number].tolist() or [np.nan]
            ends = result.sel(family=name, phase_number=number)
            np.testing.assert_array_equal(ends["first_timestep"], max(there))
            np.testing.assert_array_equal(ends["last_timestep"], min(there))


def test_a_family_with_a_single_start_has_no_phase():
    table = [(190, *SHORTCUT), (40, *CUT), (50, *JUMP), (30, *JUMP)]
    result = phases(sweep_dataset(table, [0.9, 0.9, 0.9, 0.8]), baseline=baseline()).compute()
    assert result["family"].to_numpy().tolist() == ["shortcut", "blocks nb=6 n=5", "jump n=5"]
    np.testing.assert_array_equal(result["phase"], [NONE, NONE, 1, 1])
    assert np.isnan(result["first_timestep"].sel(family=["shortcut", "blocks nb=6 n=5"])).all()


def test_three_phases_are_found_in_images():
    at = [70, 60, 50, 40, 30, 20, 10, 0]
    share = [0.9, 0.7, 0.05, 0.1, 0.2, 0.1, 0.02, 0]
    result = phases(sweep_dataset([(t, *JUMP) for t in at], share, 20), baseline=baseline()).compute()
    # the last edit changes nothing, and belongs to no phase
    np.testing.assert_array_equal(result["phase"], [1, 1, 2, 2, 2, 3, 3, np.nan])
    np.testing.assert_array_equal(result["first_timestep"][0], [70, 50, 20])
    np.testing.assert_array_equal(result["last_timestep"][0], [60, 30, 10])
    assert result["seen"].to_numpy().tolist() == [[1, 1, 1]]
    assert result["sequence"].to_numpy().tolist() == [1]
    assert result["seen"].attrs["flag_meanings"].split() == ["not_seen", "cannot_tell", "seen"]
    axis = phases.plot(result).axes[0]
    assert [text.get_text() for text in axis.texts] == ["1", "2", "3"]
    # from halfway between two starts to halfway to the next
    bars = [(bar.get_x(), bar.get_width()) for bar in axis.patches]
    assert bars == [(70, -15), (55, -30), (25, -20)]


def test_a_dip_of_edits_that_never_change_what_is_seen_is_no_sequence_of_phases():
    # mean SSIM never below .98, PSNR falls and rises again: phases 2 and 3 without a first
    at, share = [40, 30, 20, 10, 0], [0.001, 0.01, 0.03, 0.01, 0.002]
    result = phases(sweep_dataset([(t, *JUMP) for t in at], share, 20), baseline=baseline()).compute()
    assert result["ssim_mean"].min() > 0.98
    assert result["seen"].to_numpy().tolist() == [[-1, 1, 1]]
    assert result["sequence"].to_numpy().tolist() == [-1]


def test_without_ssim_there_are_no_phases():
    result = phases(sweeps(side=2), baseline=baseline(1, 2)).compute()
    assert np.isnan(result["phase"]).all()
    assert np.isnan(result["first_timestep"]).all()


# --- what is refused ----------------------------------------------------------------------------------------------


def test_what_is_no_sweep_is_refused_with_the_command_that_makes_one():
    for ds in (forks(), trajectories()):
        with pytest.raises(ValueError, match=rf"kind {ds.attrs['kind']} was given; expected a sweep .*`traj fork`"):
            intervention(ds, baseline=baseline())
    with pytest.raises(ValueError, match=r"no coordinate r; expected a sweep that `traj fork` made"):
        intervention(sweeps().drop_vars("r"), baseline=baseline())


def test_several_replicas_are_refused():
    twice = sweeps().isel(replica=[0, 0])
    with pytest.raises(ValueError, match=r"has 2 replicas; .*expected 1"):
        intervention(twice, baseline=baseline())


def test_another_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"none was given; .*`baseline`"):
        intervention(sweeps())
    other = runs.make(tmp_path / "other.zarr", 8, seed=1)
    with pytest.raises(ValueError, match="the baseline is not the run these forks started from"):
        intervention(sweeps(), baseline=stores.open(other))
    few = runs.make(tmp_path / "few.zarr", 4, block=4)
    recorded = json.dumps({"parent": {"fingerprint": stores.open(few).attrs["fingerprint"]}})
    with pytest.raises(ValueError, match="lacks 1 of the forks' samples, the first is 4"):
        intervention(sweeps(5).assign_attrs(config=recorded), baseline=stores.open(few))


@pytest.mark.parametrize("threshold", [-0.1, 1.5, np.nan])
def test_a_threshold_no_ssim_can_have_is_refused(threshold):
    with pytest.raises(ValueError, match="expected a mean SSIM between 0 and 1"):
        phases(sweeps(), baseline=baseline(), threshold=threshold)


# --- on the command line ------------------------------------------------------------------------------------------


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """A sweep of four variants on disk, and the run it is of."""
    monkeypatch.chdir(tmp_path)
    run = runs.make("run.zarr", 8)
    fingerprint = stores.open(run).attrs["fingerprint"]
    edits = {
        "edit": ["jump"] * 4,
        "n": [2, 2, 5, 5],
        "ns": [0] * 4,
        "nb": [0] * 4,
        "unet_blocks": [0] * 4,
        "r": [-1] * 4,
    }
    edits |= {"evaluations_saved": [1, 1, 4, 2], "evaluations_cut": [0] * 4, "multiply_adds_removed": [1, 1, 4, 2]}
    with stores.create_forks(
        "sweep.zarr",
        kind="sweep",
        variant={"at": [50, 20, 50, 20], "noise": ["shared"] * 4, **edits},
        replicas=1,
        timestep=[50, 20],
        **runs.preserving([0.1, 0.6]),
        shape=runs.SHAPE,
        samples=8,
        block=4,
        config={"parent": {"fingerprint": fingerprint}},
    ) as store:
        for block in list(store.pending):
            x_0 = runs.states(block, 99)[1]
            store.finish(block, np.stack([(0.5 + 0.1 * k) * x_0 for k in range(4)])[:, None])
    return run


def test_one_command_computes_all_three_and_saves_them(stored):
    out = traj("analyze", "intervention,phases,redundancy", "sweep.zarr", "--baseline", "run.zarr")
    assert out.count("wrote") == 3
    result = stores.open("results/sweep/redundancy.zarr")
    assert result["pareto"].dtype == bool
    assert result["evaluations_saved"].dims == ("variant",)
    assert result["evaluations_saved"].to_numpy().tolist() == [1, 1, 4, 2]
    config = json.loads(result.attrs["config"])
    assert config["baseline"]["fingerprint"] == stores.open(stored).attrs["fingerprint"]
    phase = stores.open("results/sweep/phases.zarr")
    assert phase["family"].to_numpy().tolist() == ["jump n=2", "jump n=5"]
    ssim = stores.open("results/sweep/intervention.zarr")["ssim"].compute()
    np.testing.assert_array_equal(ssim, intervention(stores.open("sweep.zarr"), baseline=stores.open(stored))["ssim"])


def test_a_missing_baseline_is_told_without_a_traceback(stored):
    assert "none was given" in traj("analyze", "intervention", "sweep.zarr", code=2)
