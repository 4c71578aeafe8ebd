"""Where phases begin and edits do no harm: intervals against known answers; what is saved at what loss."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tests.analysis_data import CUT, JUMP, SHORTCUT, baseline, sweep_dataset
from traj.analysis._edits import savings
from traj.analysis.phases import begins_of_curve, phases
from traj.analysis.redundancy import redundancy
from traj.stores import ONCE

POINTS = 16


def curves(rng, noise, samples=12):
    """SSIM that reaches .8 at point 4, and PSNR that falls to point 9 and rises: (point, sample) each."""
    point = np.arange(POINTS)
    ssim = np.where(point < 4, 0.78, 0.82)
    psnr = np.where(point < 4, 15.0, 25 + 0.1 * (point - 9.0) ** 2)
    level = 3 * rng.standard_normal(samples)
    return (
        ssim[:, None] + 0.03 * noise * rng.standard_normal((POINTS, samples)),
        psnr[:, None] + level + noise * rng.standard_normal((POINTS, samples)),
    )


def test_phases_begin_within_their_interval_in_95_per_cent_of_cases():
    rng, known, missed, repetitions = np.random.default_rng(0), np.zeros(3), np.zeros(3), 200
    for _ in range(repetitions):
        begins = begins_of_curve(*curves(rng, 0.5), 0.8)
        there = np.isfinite(begins[:, 0])
        known += there
        missed += there & ((begins[:, 0] > [0, 4, 10]) | (begins[:, 1] < [0, 4, 10]))
    assert known[0] == 0  # phase 1 begins with the process
    for phase in (1, 2):
        assert known[phase] > repetitions / 2
        assert stats.binomtest(int(missed[phase]), int(known[phase]), 0.05, "greater").pvalue > 0.01


def test_where_samples_agree_phases_begin_at_one_point():
    begins = begins_of_curve(*curves(np.random.default_rng(0), 1e-3), 0.8)
    np.testing.assert_array_equal(begins, [[np.nan] * 2, [4, 4], [10, 10]])


def test_where_a_phase_begins_cannot_be_told_of_few_samples_or_at_the_first_start():
    rng = np.random.default_rng(0)
    few = begins_of_curve(*curves(rng, 1e-3, samples=5), 0.8)
    assert np.isnan(few[2]).all()
    ssim, psnr = curves(rng, 1e-3)
    np.testing.assert_array_equal(begins_of_curve(ssim[4:], psnr[4:], 0.8), [[np.nan] * 2, [np.nan] * 2, [6, 6]])


def test_landmarks_of_phases_are_log_snrs_of_their_first_starts():
    at, share = [70, 60, 50, 40, 30, 20, 10, 0], [0.9, 0.7, 0.05, 0.1, 0.2, 0.1, 0.02, 0.01]
    table = [(t, *edit) for edit in (JUMP, CUT) for t in at]
    result = phases(sweep_dataset(table, [*share, *[0.001] * 8], 20), baseline=baseline()).compute()
    second, third, *of_cut = phases.landmarks(result)
    assert (second.name, second.timestep, second.log_snr, second.of) == ("phase_2_from", 50, -5, "jump n=5")
    assert (third.name, third.timestep, third.log_snr, third.of) == ("phase_3_from", 20, -2, "jump n=5")
    assert (second.low, second.high, third.low, third.high) == (-5, -5, -2, -2)
    assert np.isnan([of_cut[0].timestep, of_cut[0].low]).all()
    (table,) = phases.tables({"sweep": result})
    assert table.rows[0][:2] == ["sweep", "jump n=5"]
    assert table.rows[0][2:] == ["seen, t = 70 to 60", "seen, t = 50 to 30", "seen, t = 20 to 0", "seen"]


def test_a_sweep_is_safe_from_a_landmark_between_the_sure_and_the_possible_start():
    table = [(at, *edit) for edit in (JUMP, CUT) for at in (120, 80, 40, 0)]
    result = redundancy(
        sweep_dataset(table, [0.9, 0.05, 0.05, 0.05, 0.9, 0.9, 0.9, 0.9]), baseline=baseline()
    ).compute()
    jump, cut = redundancy.landmarks(result)
    assert (jump.name, jump.of, jump.timestep, jump.log_snr) == ("safe_from", "jump n=5", 80, -8)
    assert (jump.low, jump.high) == (-8, -8)
    assert np.isnan([cut.timestep, cut.log_snr, cut.low, cut.high]).all()
    numbers = {number.name: number for number in redundancy.numbers(result)}
    assert (numbers["jump_safe_from"].value, numbers["jump_safe_from"].low) == (80, 80)
    assert np.isnan(numbers["blocks_safe_from"].value)
    result["safe_from_possible"][0], result["safe_from_sure"][0] = 120, 40
    jump = redundancy.landmarks(result)[0]
    assert (jump.low, jump.log_snr, jump.high) == (-12, -8, -4)
    assert redundancy.tables({"sweep": result})[0].rows[0][2:5] == ["80", "40 to 120", "−8.0"]


def test_longest_edits_are_drawn_where_several_starts_were_tried():
    share = {3: [0.1] * 3, 5: [0.9, 0.1, 0.0], 8: [0.95] * 3}
    table = [(at, "jump", n, 0, 0, ONCE) for n in share for at in (30, 20, 10)]
    result = redundancy(sweep_dataset(table, np.concatenate([*share.values()])), baseline=baseline()).compute()
    (axis,) = redundancy.plot(result, "longest_edits").axes
    np.testing.assert_array_equal(axis.lines[0].get_xydata(), [[30, 3], [20, 5], [10, 5]])
    two_starts = result.isel(variant=np.flatnonzero(result["at"] > 10))
    assert redundancy.plot(two_starts, "longest_edits") is None


# --- what is saved ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results():
    """Two sweeps of one run, the second with times."""
    rng = np.random.default_rng(0)
    edits = [(at, *edit) for edit in (JUMP, CUT, ("blocks", 3, 0, 2, ONCE)) for at in (120, 80, 40)]
    tables = {"edits": edits, "shortcut": [(190, *SHORTCUT)]}
    swept = {name: sweep_dataset(table, rng.uniform(0.01, 0.4, len(table)), 6) for name, table in tables.items()}
    found = {name: redundancy(ds, baseline=baseline()).compute() for name, ds in swept.items()}
    return found | {"shortcut": found["shortcut"].assign_coords(time_removed=("variant", [0.2]))}


def test_the_front_is_what_no_edit_of_any_sweep_of_the_run_beats(results):
    ((name, tried),) = savings.pooled(results).items()
    assert name == "edits, shortcut"
    removed, ssim = tried["multiply_adds_removed"].to_numpy(), tried["ssim_mean"].to_numpy()
    expected = [
        k
        for k, (a, b) in enumerate(zip(removed, ssim, strict=True))
        if a > 0 and not ((removed >= a) & (ssim >= b) & ((removed > a) | (ssim > b))).any()
    ]
    best = savings.best(tried)
    assert sorted(best) == expected
    assert 0 < len(best) < len(removed)
    assert (np.diff(removed[best]) >= 0).all()
    axis, time = redundancy.plot(results, "savings").axes
    points = np.stack([100 * removed, 1 - ssim], axis=1)[best]
    np.testing.assert_allclose(axis.lines[0].get_xydata(), points)
    np.testing.assert_allclose(time.lines[0].get_xydata(), [[20, 1 - ssim[-1]]])
    rings = np.concatenate([ring.get_offsets() for ring in axis.collections[1::2]])
    np.testing.assert_allclose(rings[np.argsort(rings[:, 0], kind="stable")], points)


def test_equal_cuts_are_listed_once_and_what_saves_nothing_not_at_all(results):
    same = results["edits"].assign_coords(nb=results["edits"]["nb"] * 2)
    ((_, twice),) = savings.pooled({"edits": results["edits"], "same": same}).items()
    ((_, once),) = savings.pooled({"edits": results["edits"]}).items()
    np.testing.assert_array_equal(savings.best(twice), savings.best(once))
    assert savings.pooled({"shortcut": results["shortcut"]}) == {}
    nothing = once.assign_coords(multiply_adds_removed=("variant", np.zeros(once.sizes["variant"])))
    assert not savings.best(nothing).size


def test_runs_and_windows_that_do_not_compare_have_fronts_of_their_own(results):
    for other in ({"baseline": "other"}, {"preset": "skimage"}, {"samples": 7}):
        apart = {"edits": results["edits"], "others": results["edits"].assign_attrs(other)}
        assert list(savings.pooled(apart)) == ["edits", "others"]
        assert len(redundancy.plot(apart, "savings").axes) == 2


def test_the_table_says_what_is_saved_and_lost(results):
    table = redundancy.tables(results)[-1]
    ((_, tried),) = savings.pooled(results).items()
    for row, variant in zip(table.rows, savings.best(tried), strict=True):
        edit = tried.isel(variant=variant)
        assert row[1:4] == [str(int(edit[name])) for name in ("at", "evaluations_saved", "evaluations_cut")]
        assert row[4] == f"{100 * float(edit['multiply_adds_removed']):.1f} %"
        assert row[5] == ("20.0 %" if row[0] == "shortcut" else "–")
        assert float(row[6]) == pytest.approx(float(edit["ssim_mean"]), abs=1e-4)
        assert float(row[7]) == pytest.approx(1 - float(edit["ssim_mean"]), rel=0.05, abs=1e-12)
    assert "time was not measured" in table.note
