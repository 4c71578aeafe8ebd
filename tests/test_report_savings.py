"""The report's sections on what edits save, how long they may last, and the shortcut, on a sweep of known endings."""

import json
import re
import shutil

import numpy as np
import pytest
import xarray as xr
from scipy import stats
from skimage.metrics import structural_similarity

from tests.report_data import (
    AT,
    BLOCKS,
    IMAGES,
    JUMP,
    SAMPLES,
    SHARE,
    SKIPS,
    analyse,
    analyse_sweep,
    collected,
    fixtures,
    make_run,
    make_sweep,
    section,
    svgs,
    unbalanced,
    verdicts,
    write,
    write_times,
)
from traj import stores
from traj.pipeline.report import edits, findings
from traj.pipeline.report.sections import interventions, lengths, savings, shortcut

pytestmark = pytest.mark.slow

SHORT, MIXED = 0.3, 0.25
"""Of another image in the endings of the shortcut, alone and in a sweep of other edits."""

LENGTHS = {("blocks", n, 0, 2, 1, -1): [share] * 2 for n, share in ((1, 0.0), (3, 0.1), (5, 0.2), (7, 0.95))}
PAUSES = {("blocks", 7, 0, 8, 2, r): [share] * 2 for r, share in ((0, 0.95), (5, 0.2), (10, 0.1))}
ALWAYS = {("jump", n, 0, 0, 0, -1): shares for n, shares in ((3, [0.1] * 3), (5, [0.9, 0.1, 0.0]), (8, [0.95] * 3))}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run, and four sweeps of it: edits and the shortcut, the shortcut alone, other lengths, jumps of each length."""
    root = tmp_path_factory.mktemp("report")
    run = make_run(root / "trajectories/ddim.zarr")
    analyse(run, root / "results", ("ssim",))
    for name, options in {
        "mixed": {"shortcut": MIXED},
        "short": {"share": {}, "shortcut": SHORT},
        "long": {"share": LENGTHS | PAUSES, "at": AT[:2]},
        "jumps": {"share": ALWAYS},
    }.items():
        sweep = make_sweep(root / f"sweeps/{name}.zarr", run, **options)
        analyse_sweep(sweep, run, root / "results")
    write_times(root / "results/short/times.csv", root / "sweeps/short.zarr", [0.27])
    write_times(root / "results/mixed/times.csv", root / "sweeps/mixed.zarr", np.arange(10) / 100 - 0.01)
    return root


written, html, found, copy = fixtures()


def part(html, name, sweep):
    """What a section shows of one sweep."""
    return next(text for text in section(html, name).split("<h3>") if f"</span>{sweep}<" in text.split("</h3>")[0])


def mixed_ssim(sweep, share):
    plain = sweep.parent.store.x_0.to_numpy()[:SAMPLES, 0].astype(float)
    ends = (1 - share) * plain + share * IMAGES[100 : 100 + SAMPLES, 0]
    return np.array(
        [
            structural_similarity((a + 1) / 2, (b + 1) / 2, data_range=1, win_size=5)
            for a, b in zip(ends, plain, strict=True)
        ]
    )


def cells(shown):
    return [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in shown.split("<tr>")[2:]]


# --- what is saved ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tried(found):
    """All edits of the run, as the report shows them."""
    return savings.pooled([found["sweep", name] for name in ("jumps", "long", "mixed", "short")])


def test_the_front_is_what_no_edit_of_any_sweep_of_the_run_beats(tried):
    removed, ssim = tried["multiply_adds_removed"].to_numpy(), tried["ssim_mean"].to_numpy()
    edit = list(zip(*(tried[name].to_numpy().tolist() for name in stores.EDIT), strict=True))
    expected = {
        edit[k]
        for k, (a, b) in enumerate(zip(removed, ssim, strict=True))
        if a > 0 and not ((removed >= a) & (ssim >= b) & ((removed > a) | (ssim > b))).any()
    }
    front = savings.front(tried)
    assert len(front) == len(expected) < tried["pareto"].sum()
    assert {edit[k] for k in front} == expected
    assert (np.diff(removed[front]) >= 0).all()
    assert tried["edit"].to_numpy()[front[-1]] == "shortcut"


def test_equal_cuts_are_listed_once_and_what_saves_nothing_not_at_all(tried):
    both = xr.concat([tried, tried.assign_coords(nb=tried["nb"] * 2)], "variant")
    assert savings.front(both).tolist() == savings.front(tried).tolist()
    assert savings.front(tried.assign_coords(multiply_adds_removed=0 * tried["n"])).size == 0


def test_rings_and_the_line_mark_the_front(tried):
    axis = savings.pareto(tried).axes[0]
    expected = np.stack([100 * tried["multiply_adds_removed"], 1 - tried["ssim_mean"]], axis=1)[savings.front(tried)]
    np.testing.assert_allclose(axis.lines[0].get_xydata(), expected)
    rings = np.concatenate([ring.get_offsets() for ring in axis.collections[1::2]])
    np.testing.assert_allclose(rings[np.argsort(rings[:, 0], kind="stable")], expected)


def test_the_table_says_what_is_saved_and_lost(tried, html):
    assert section(html, "savings").count("<h3>") == 1
    shown = part(html, "savings", "ddim")
    table, front = cells(shown), savings.front(tried)
    assert len(table) == len(front)
    assert table[-1][0] == "the shortcut"
    for row, variant in zip(table, front, strict=True):
        edit = tried.isel(variant=variant)
        assert row[1:4] == [str(int(edit[name])) for name in ("at", "evaluations_saved", "evaluations_cut")]
        assert row[4] == f"{100 * float(edit['multiply_adds_removed']):.1f} %"
        time = float(edit["time_removed"])
        assert row[5] == ("–" if np.isnan(time) else f"{100 * time:.1f} %".replace("-", "−"))
        assert float(row[6]) == pytest.approx(float(edit["ssim_mean"]), abs=1e-4)
        assert float(row[7]) == pytest.approx(1 - float(edit["ssim_mean"]), rel=0.05, abs=1e-12)
    assert {row[5] == "–" for row in table} == {True, False}
    assert "time was not measured" in shown


def test_times_that_fit_are_read_and_no_metric(found, written):
    np.testing.assert_allclose(found["sweep", "mixed"].time_removed, np.arange(10) / 100 - 0.01)
    assert found["sweep", "long"].time_removed is None
    assert found["sweep", "long"].remarks == []
    assert "0.27" not in (written / "metrics/short.json").read_text()


def test_a_run_whose_edits_save_nothing_has_no_front(copy):
    run = make_run(copy / "trajectories/other.zarr", seed=1)
    analyse_sweep(make_sweep(copy / "sweeps/skips.zarr", run, {SKIPS: SHARE[SKIPS]}), run, copy / "results")
    page = write(copy, copy / "report", only=["interventions", "savings"]).read_text(encoding="utf-8")
    assert "skips</span></h3>" in section(page, "interventions")
    assert "ddim</span></h3>" in section(page, "savings")
    assert "other</span></h3>" not in section(page, "savings")


@pytest.mark.parametrize("changes", [{"n": [4] * 10}, {"time_removed": ["fast"] * 10}, {"at": [30]}])
def test_times_that_do_not_fit_are_left_out_and_said(changes, copy):
    times = copy / "results/mixed/times.csv"
    write_times(times, copy / "sweeps/mixed.zarr", [0.1] * 10, **changes)
    sweep = collected(copy)["sweep", "mixed"]
    assert sweep.time_removed is None
    (remark,) = sweep.remarks
    assert remark.startswith(f"{times} does not fit")


# --- lengths ----------------------------------------------------------------------------------------------------


def test_lines_over_lengths_are_means_with_two_sd(found):
    compared = found["sweep", "long"].results["intervention"]
    over_n, over_r = lengths.over_lengths(compared).axes
    assert [line.get_label() for line in over_n.lines[:2]] == [f"blocks nb = 2 (1 here) from t = {at}" for at in AT[:2]]
    assert over_r.lines[0].get_label() == "blocks nb = 8 (2 here), n = 7 from t = 30"
    assert over_n.lines[0].get_xdata().tolist() == [1, 3, 5, 7]
    assert over_r.lines[0].get_xdata().tolist() == [0, 5, 10]
    there = (compared["at"] == 30).to_numpy() & (compared["r"] < 0).to_numpy()
    expected = compared.isel(variant=np.flatnonzero(there)).sortby("n")
    np.testing.assert_allclose(over_n.lines[0].get_ydata(), expected["ssim_mean"])
    band = over_n.collections[0].get_paths()[0].vertices
    last = expected.isel(variant=-1)
    assert band[band[:, 0] == 7, 1].min() == pytest.approx(float(last["ssim_mean"] - 2 * last["ssim_sd"]))


def test_edits_of_one_length_have_no_such_lines(found):
    assert lengths.over_lengths(found["sweep", "mixed"].results["intervention"]) is None
    assert lengths.longest(found["sweep", "mixed"].results["redundancy"]) is None
    assert lengths.longest(found["sweep", "long"].results["redundancy"]) is None  # of two starts


def test_longest_edits_are_drawn_where_several_starts_were_tried(found):
    (axis,) = lengths.longest(found["sweep", "jumps"].results["redundancy"]).axes
    (line,) = axis.lines
    np.testing.assert_array_equal(line.get_xdata(), AT)
    np.testing.assert_array_equal(line.get_ydata(), [3, 5, 5])


def test_findings_of_lengths_follow_from_the_data(found):
    compared = found["sweep", "long"].results["intervention"]
    (up_to, n), (pauses, r) = verdicts(findings.of_lengths(compared))
    assert (up_to, pauses) == ("seen", "seen")
    assert n.count("to n = 5") == r.count("to r = 5") == 2
    mild = compared.isel(variant=np.flatnonzero((compared["n"] < 7) | (compared["r"] > 0)))
    ((up_to, n),) = verdicts(findings.of_lengths(mild))
    assert up_to == "not seen"
    assert "to n = 5, the last that was tried" in n
    ((most, starts),) = verdicts(findings.of_lengths(found["sweep", "jumps"].results["intervention"]))
    assert most == "not seen"
    assert "jump n = 5: 1 of 3 starts; jump n = 8: 3 of 3 starts" in starts


# --- the shortcut -----------------------------------------------------------------------------------------------


def test_a_sweep_that_is_but_a_shortcut_shows_only_its_own_figures(html):
    assert unbalanced(html) == []
    shown = [
        name for name in ("interventions", "lengths", "savings", "shortcut") if "</span>short<" in section(html, name)
    ]
    assert shown == ["shortcut"]
    assert len(svgs(part(html, "shortcut", "short"))) == 3
    assert "</span>jumps<" not in section(html, "shortcut")


def test_a_shortcut_among_edits_is_in_no_curve_over_starts(found):
    sweep = found["sweep", "mixed"]
    figure = edits.similarity(sweep.results["intervention"], sweep.results["phases"])
    assert len(figure.axes[0].lines) == len(figure.axes[2].get_yticks()) == len(SHARE)
    assert len([axis for axis in edits.montage(sweep).axes if axis.images]) == len(SHARE)
    assert {series.on for series in interventions.curves(sweep)["intervention_ssim"]} == {
        family.name for family in edits.families(sweep.store) if family.edit != "shortcut"
    }


def test_numbers_of_a_shortcut_equal_what_was_put_in(found, written):
    numbers = json.loads((written / "metrics.json").read_text())["sweeps"]
    ssim = mixed_ssim(found["sweep", "short"], SHORT)
    assert numbers["short"] == {
        "shortcut_ssim": pytest.approx(ssim.mean(), abs=1e-3),
        "shortcut_ssim_deviation": pytest.approx(np.abs(ssim - ssim.mean()).mean(), abs=1e-3),
        "shortcut_multiply_adds_removed": 0.25,
    }
    # of the other edits the lowest is a jump's, not the shortcut's
    assert numbers["mixed"]["edits_lowest_ssim"] == pytest.approx(
        mixed_ssim(found["sweep", "mixed"], 0.9).mean(), abs=1e-3
    )
    assert "shortcut_ssim" not in numbers["jumps"]


def test_a_histogram_has_every_sample_and_the_mean(found):
    ssim = shortcut.of_samples(found["sweep", "short"])
    np.testing.assert_allclose(ssim, mixed_ssim(found["sweep", "short"], SHORT), atol=1e-6)
    axis = shortcut.histogram(ssim).axes[0]
    *bars, band = axis.patches
    assert sum(bar.get_height() for bar in bars) == pytest.approx(1)
    assert band.get_width() == pytest.approx(2 * np.abs(ssim - ssim.mean()).mean())
    assert axis.lines[0].get_xdata()[0] == pytest.approx(ssim.mean())


def test_a_montage_sets_each_run_above_its_shortcut(found):
    sweep = found["sweep", "short"]
    axis = shortcut.montage(sweep).axes[0]
    canvas = axis.images[0].get_array()
    plain = sweep.parent.store.x_0.to_numpy()[:SAMPLES, 0]
    ends = (1 - SHORT) * plain + SHORT * IMAGES[100 : 100 + SAMPLES, 0]
    for y, images in zip(axis.get_yticks(), (plain, ends), strict=True):
        for k, image in enumerate(images):
            x = canvas.shape[1] // SAMPLES * k + canvas.shape[1] // SAMPLES // 2
            shown = canvas[int(y) - 32 : int(y) + 32 : 8, x - 32 : x + 32 : 8, 0]
            np.testing.assert_allclose(shown, (image + 1) / 2, atol=1e-6)


def test_what_is_saved_is_split_into_cuts_and_steps(found):
    adds, time = shortcut.saved(found["sweep", "short"])
    assert adds == ("multiply-adds", pytest.approx(0.08), 0.17)
    assert time == ("network time", pytest.approx(0.10), 0.17)
    widths = [bar.get_width() for bar in shortcut.bars([adds, time]).axes[0].patches]
    assert widths == pytest.approx([17, 8, 17, 10, 22, 5])


def test_findings_of_the_shortcut_follow_from_the_data(found, html):
    ssim = mixed_ssim(found["sweep", "short"], SHORT)
    rows = verdicts(part(html, "shortcut", "short"))
    half = stats.t(SAMPLES - 1).ppf(0.975) * ssim.std(ddof=1) / np.sqrt(SAMPLES)
    verdict, said = rows[0]
    assert verdict == rows[2][0] == "cannot tell"  # images of 8 pixels have another window
    assert said.startswith(f"{ssim.mean():.3f} ± {half:.3f}; 100.0 % (68 to 100) at 0.8 or above; SSIM by window:5")
    above = 100 * (ssim > 0.9).mean()
    assert f"{100 - above:.1f} % (" in rows[2][1]
    assert rows[2][1].endswith("above")
    same_window = verdicts(shortcut._findings(ssim, [], "wang2004"))
    assert same_window[0][0] == "higher"
    low, high = stats.binomtest(int((ssim <= 0.9).sum()), SAMPLES).proportion_ci(method="wilson")
    assert same_window[2][0] == ("seen" if low > 0.5 else "not seen" if high < 0.5 else "cannot tell")
    assert rows[4][1] == "network time 27.0 %: 10.0 % by the cuts, 17.0 % by the steps"


def test_a_shortcut_without_its_run_has_no_montage(copy):
    shutil.rmtree(copy / "trajectories/ddim.zarr")
    page = write(copy, copy / "report", only=["shortcut"]).read_text(encoding="utf-8")
    assert len(svgs(part(page, "shortcut", "short"))) == 2


# --- what else is said ------------------------------------------------------------------------------------------


def test_the_mapping_of_blocks_is_printed(copy):
    run, share = copy / "trajectories/ddim.zarr", {BLOCKS: SHARE[BLOCKS], ("blocks", 5, 0, 8, 2, -1): [0.1] * 3}
    analyse_sweep(make_sweep(copy / "sweeps/cuts.zarr", run, share), run, copy / "results")
    page = write(copy, copy / "report", only=["interventions"]).read_text(encoding="utf-8")
    assert "Here nb = 2 is 1, nb = 8 is 2;" in part(page, "interventions", "cuts")
    assert "Here nb" not in part(page, "interventions", "jumps")


def test_equal_cuts_are_not_compared(copy):
    run, same = copy / "trajectories/ddim.zarr", {BLOCKS: SHARE[BLOCKS], ("blocks", 5, 0, 3, 1, -1): SHARE[BLOCKS]}
    analyse_sweep(make_sweep(copy / "sweeps/same.zarr", run, same), run, copy / "results")
    table = findings.table(collected(copy)["sweep", "same"].results["intervention"], None)
    assert "the later SSIM" not in table


def test_a_run_without_new_noise_is_compared_with_one_that_has_it(copy):
    run = make_run(copy / "trajectories/still.zarr", seed=1)
    share = {JUMP: [0.0, 0.0, 0.1], SKIPS: [0.9, 0.2, 0.1]}
    analyse_sweep(make_sweep(copy / "sweeps/still.zarr", run, share, eta="0"), run, copy / "results")
    sweeps = {name: sweep.results["intervention"] for (kind, name), sweep in collected(copy).items() if kind == "sweep"}
    shown = findings.noise(sweeps)
    assert "With and without new noise: mixed and still" in shown
    assert shown.count("<h3>") == 1
    assert "in 1 of 2 families with new noise, in 1 of 2 families without" in shown
    skips = next(row for row in cells(shown) if row[0].startswith("skips"))
    lowest = [sweeps[name]["ssim_mean"].to_numpy() for name in ("mixed", "still")]
    assert skips[1:4] == ["30", f"{lowest[0][1]:.3f}", f"{lowest[1][1]:.3f}"]
    assert skips[5].endswith("(t = 30)")
    assert findings.noise({name: sweep for name, sweep in sweeps.items() if name != "still"}) == ""
