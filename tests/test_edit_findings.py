"""What is said of sweeps: verdicts beside the source's, on made-up sweeps whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from tests.analysis_data import JUMP, SHORTCUT, baseline, sweep_dataset
from traj.analysis._edits import families, findings, shortcut
from traj.analysis.intervention import intervention
from traj.stores import ONCE

AT = (30, 20, 10)
SKIPS, BLOCKS, MORE = ("skips", 5, 2, 0, ONCE), ("blocks", 5, 0, 2, ONCE), ("blocks", 5, 0, 8, ONCE)
SHARE = {JUMP: [0.9, 0.1, 0.0], SKIPS: [0.02, 0.2, 0.1], BLOCKS: [0.01, 0.05, 0.02]}
"""Of another image in the endings of a family, over AT."""


def compared(shares, *, at=AT, samples=8, **coords):
    """The result of a sweep with shares of another image for each edit (edit, n, ns, nb, r), over starts."""
    table = [(start, *edit) for edit in shares for start in at]
    ds = sweep_dataset(table, np.concatenate([*shares.values()]), samples)
    ds = ds.assign_coords({name: ("variant", [value] * len(table)) for name, value in coords.items()})
    return intervention(ds, baseline=baseline()).compute()


def found(result):
    """Verdicts and numbers, by the figure of the source that is looked at."""
    return {said.split("Fig")[-1].strip("s. )"): (verdict, numbers) for said, verdict, numbers in findings.rows(result)}


def test_findings_follow_from_the_data():
    here = found(compared(SHARE))
    assert {figure: verdict for figure, (verdict, _) in here.items()} == {
        "4, 7": "seen in some",
        "7": "seen",
        "18": "not seen",
    }
    assert "from t = 30, below; skips ns=2 n=5" in here["4, 7"][1]
    assert "seen to be lower at 3 of 3" in here["7"][1]
    swapped = found(compared({SKIPS: SHARE[BLOCKS], BLOCKS: SHARE[SKIPS], MORE: [0.9, 0.1, 0.0]}))
    assert [swapped[figure][0] for figure in ("4, 7", "7", "8")] == ["seen in some", "not seen", "seen"]
    assert "seen to be lower at 0 of 3, higher at 3" in swapped["7"][1]
    assert found(compared({SKIPS: SHARE[BLOCKS], BLOCKS: SHARE[SKIPS]}))["4, 7"][0] == "not seen"


def made_up(ssim, psnr):
    """Skips and blocks cut at 30, 20 and 10: SSIM and PSNR (variant, sample)."""
    return xr.Dataset(
        {
            "ssim": (("variant", "sample"), ssim),
            "psnr": (("variant", "sample"), psnr),
            "ssim_mean": ("variant", ssim.mean(axis=1)),
            "psnr_mean": ("variant", psnr.mean(axis=1)),
        },
        {
            "at": ("variant", [*AT, *AT]),
            "edit": ("variant", ["skips"] * 3 + ["blocks"] * 3),
            **{
                name: ("variant", [a] * 3 + [b] * 3)
                for name, a, b in (("ns", 2, 0), ("nb", 0, 2), ("unet_blocks", 0, 2))
            },
            **{name: ("variant", [value] * 6) for name, value in (("n", 5), ("r", ONCE))},
        },
    )


def test_only_starts_after_phase_1_are_compared():
    ssim, psnr = np.array([0.5, 0.9, 0.9, 0.9, 0.9, 0.9]), np.array([1.0, 20, 25, 50, 40, 30])
    result = made_up(*(np.repeat(values[:, None], 3, axis=1) for values in (ssim, psnr)))
    ((skips, blocks, starts, difference),) = findings.late_pairs(result)
    assert (skips.name, blocks.name) == ("skips ns=2 n=5", "blocks nb=2 n=5")
    assert starts.tolist() == [20, 10]
    np.testing.assert_allclose(difference, [[20] * 3, [5] * 3])


def test_edits_of_the_same_samples_are_compared_in_pairs():
    # samples differ by 10 dB, and what is cut makes 1 dB in every one of them
    rng = np.random.default_rng(0)
    level, ssim = 30 + 10 * rng.standard_normal(12), np.full((6, 12), 0.9)
    psnr = level + np.repeat([0.0, 1.0], 3)[:, None] + 0.1 * rng.standard_normal((6, 12))
    assert found(made_up(ssim, psnr))["7"][0] == "seen"
    psnr += np.where(np.arange(6) < 3, 0, 10)[:, None] * rng.standard_normal(12)  # now it does not
    assert found(made_up(ssim, psnr))["7"][0] == "cannot tell"


def test_a_mean_that_is_near_the_threshold_is_no_finding():
    noise = 0.1 * np.random.default_rng(0).standard_normal((6, 12))
    about = 0.8 + noise - noise.mean(axis=1, keepdims=True)
    verdict, numbers = found(made_up(about - 0.01, about))["4, 7"]
    assert verdict == "cannot tell"
    assert numbers.count("too near to tell") == 2


def test_equal_cuts_of_a_small_network_are_not_compared():
    same = compared({BLOCKS: SHARE[BLOCKS], ("blocks", 5, 0, 3, ONCE): [0.9, 0.1, 0.0]})
    assert found(same)["8"][0] == "seen"
    assert "8" not in found(same.assign_coords(unet_blocks=("variant", [1] * 6)))


def test_limits_of_lengths_and_pauses_are_found():
    lengths = {("blocks", n, 0, 2, ONCE): [s] * 2 for n, s in ((1, 0.0), (3, 0.1), (5, 0.2), (7, 0.95))}
    pauses = {("blocks", 7, 0, 8, r): [s] * 2 for r, s in ((0, 0.95), (5, 0.2), (10, 0.1))}
    result = compared(lengths | pauses, at=AT[:2])
    here = found(result)
    assert here["9"] == ("seen", "blocks nb=2 at=30: to n = 5; blocks nb=2 at=20: to n = 5")
    assert here["10"] == ("seen", "blocks nb=8 n=7 at=30: to r = 5; blocks nb=8 n=7 at=20: to r = 5")
    mild = result.isel(variant=np.flatnonzero((result["n"] < 7) | (result["r"] > 0)))
    assert found(mild)["9"][0] == "not seen"
    assert "to n = 5, the last that was tried" in found(mild)["9"][1]
    over_n, over_r = intervention.plot(result, "edits_over_lengths").axes
    assert [line.get_label() for line in over_n.lines[:2]] == ["blocks nb=2 at=30", "blocks nb=2 at=20"]
    assert over_n.lines[0].get_xdata().tolist() == [1, 3, 5, 7]
    assert over_r.lines[0].get_xdata().tolist() == [0, 5, 10]
    band = over_n.collections[0].get_paths()[0].vertices
    last = result.isel(variant=6)
    assert (int(last["n"]), int(last["at"])) == (7, 30)
    assert band[band[:, 0] == 7, 1].min() == pytest.approx(float(last["ssim_mean"] - 2 * last["ssim_sd"]))
    assert intervention.plot(compared(SHARE), "edits_over_lengths") is None


def test_most_starts_are_counted_for_jumps_of_5_alone():
    jumps = {("jump", n, 0, 0, ONCE): share for n, share in ((3, [0.95] * 3), (5, [0.9, 0.1, 0.0]), (8, [0.95] * 3))}
    assert found(compared(jumps))["18"] == ("not seen", "mean SSIM below 0.8 from 1 of 3 starts")


def test_a_run_without_new_noise_is_compared_with_one_that_has_it():
    results = {
        "noisy": compared(SHARE, eta="1"),
        "still": compared({JUMP: [0.0, 0.0, 0.1], SKIPS: [0.9, 0.2, 0.1]}, eta="0"),
    }
    (table,) = findings.with_and_without_noise(results)
    assert table.title == "With and without new noise: noisy and still"
    assert "in 1 of 2 families with new noise, in 1 of 2 families without" in table.note
    skips = next(row for row in table.rows if row[0].startswith("skips"))
    first = [
        float(result["ssim_mean"][(result["edit"] == "skips") & (result["at"] == 30)].item())
        for result in results.values()
    ]
    assert skips[1:4] == ["30", *(f"{value:.3f}" for value in first)]
    assert skips[5].endswith("(t = 30)")
    assert findings.with_and_without_noise({"noisy": results["noisy"]}) == []


def test_numbers_are_of_edits_and_not_of_the_shortcut():
    ds = sweep_dataset(
        [(190, *SHORTCUT), *((at, *SKIPS) for at in AT), *((at, *BLOCKS) for at in AT)],
        [0.95, *SHARE[SKIPS], *SHARE[BLOCKS]],
        8,
    )
    result = intervention(ds, baseline=baseline()).compute()
    numbers = {number.name: number.value for number in intervention.numbers(result)}
    assert numbers["edits_lowest_ssim"] == float(result["ssim_mean"][1:].min()) > numbers["shortcut_ssim"]
    # endings are mixed with other images: PSNR differs by 20 log10 of the shares, but for what other images they are
    shares = np.array(SHARE[SKIPS]) / np.array(SHARE[BLOCKS])
    assert numbers["blocks_above_skips_psnr"] == pytest.approx(20 * np.log10(shares).mean(), abs=1)


# --- the shortcut -------------------------------------------------------------------------------------------------


def of_shortcut(ssim, preset="wang2004", **coords):
    coords = {"evaluations_saved": 17, "multiply_adds_removed": 0.25} | coords
    return xr.Dataset({"ssim": ("sample", ssim)}, coords, {"preset": preset, "samples": len(ssim)})


def test_findings_of_the_shortcut_follow_from_the_data():
    ssim = 0.85 + 0.04 * np.random.default_rng(0).standard_normal(12)
    higher, _, between, adds, time = shortcut.rows(of_shortcut(ssim, time_removed=0.27))
    half = stats.t(11).ppf(0.975) * ssim.std(ddof=1) / np.sqrt(12)
    low, high = stats.binomtest(int((ssim >= 0.8).sum()), 12).proportion_ci(method="wilson")
    assert higher[1] == "higher"
    share = f"{100 * (ssim >= 0.8).mean():.1f} % ({100 * low:.0f} to {100 * high:.0f})"
    assert higher[2] == f"{ssim.mean():.3f} ± {half:.3f}; {share} at 0.8 or above"
    low, high = stats.binomtest(int((ssim <= 0.9).sum()), 12).proportion_ci(method="wilson")
    assert between[1] == ("seen" if low > 0.5 else "not seen" if high < 0.5 else "cannot tell")
    assert adds[2] == "multiply-adds 25.0 %: 8.0 % by the cuts, 17.0 % by the steps"
    assert time[2] == "network time 27.0 %: 10.0 % by the cuts, 17.0 % by the steps"


def test_ssim_by_another_window_than_the_sources_is_not_compared():
    rows = shortcut.rows(of_shortcut(np.full(12, 0.99), "window:5"))
    assert rows[0][1] == rows[2][1] == "cannot tell"
    assert "SSIM by window:5, another window" in rows[0][2]


def test_a_histogram_has_every_sample_and_bars_what_is_saved():
    result = intervention(sweep_dataset([(190, *SHORTCUT), (40, *JUMP)], [0.3, 0.1], 8), baseline=baseline()).compute()
    ssim = result["ssim"].to_numpy()[0]
    histogram, bars = intervention.plot(result.assign_coords(time_removed=("variant", [0.2, 0.1])), "shortcut").axes
    *heights, band = histogram.patches
    assert sum(bar.get_height() for bar in heights) == pytest.approx(1)
    assert band.get_width() == pytest.approx(2 * np.abs(ssim - ssim.mean()).mean())
    assert histogram.lines[0].get_xdata()[0] == pytest.approx(ssim.mean())
    # three of a hundred steps are not made; of the rest of what is saved, cuts
    assert [bar.get_width() for bar in bars.patches] == pytest.approx([3, 22, 3, 17, 22, 5])
    assert {number.name for number in intervention.numbers(result)} >= {"shortcut_ssim", "shortcut_ssim_deviation"}
    assert intervention.plot(result.isel(variant=[1]), "shortcut") is None


def test_a_shortcut_is_in_no_line():
    ds = sweep_dataset([(190, *SHORTCUT), *((at, *JUMP) for at in AT)], [0.3, 0.1, 0.1, 0.1])
    assert [line.name for line in families.lines(ds, "at")] == ["jump n=5"]
