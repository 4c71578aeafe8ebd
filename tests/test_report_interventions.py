"""The report's section on interventions, on a sweep whose endings are known."""

import csv
import json
import shutil

import numpy as np
import pytest
import xarray as xr
from skimage.metrics import structural_similarity

from tests import runs
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
    make_forks,
    make_run,
    make_sweep,
    rows,
    section,
    svgs,
    unbalanced,
    verdicts,
    write,
)
from traj.pipeline.report import edits, findings
from traj.pipeline.report.sections import interventions

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run with its similarity, a sweep of it with all results, and replicas without."""
    root = tmp_path_factory.mktemp("report")
    run = make_run(root / "trajectories/ddim.zarr")
    analyse(run, root / "results", ("ssim",))
    sweep = make_sweep(root / "sweeps/ddim_edits.zarr", run)
    analyse_sweep(sweep, run, root / "results")
    make_forks(root / "forks/ddim_forks.zarr", run)
    return root


written, html, found, copy = fixtures()


@pytest.fixture(scope="module")
def sweep(found):
    return found["sweep", "ddim_edits"]


def test_a_sweep_is_no_replicas(found, html):
    assert list(found) == [("trajectories", "ddim"), ("fork", "ddim_forks"), ("sweep", "ddim_edits")]
    assert found["sweep", "ddim_edits"].remarks == []
    assert "ddim_edits" not in section(html, "replicas")
    assert "ddim_forks" not in section(html, "interventions")
    forks, sweeps = section(html, "runs").split("<h3>Sweeps</h3>")
    assert "ddim_edits" not in forks
    assert "ddim_edits" in sweeps


def test_missing_results_of_a_sweep_say_what_makes_them(copy):
    shutil.rmtree(copy / "results/ddim_edits")
    (remark,) = collected(copy)["sweep", "ddim_edits"].remarks
    store, run = copy / "sweeps/ddim_edits.zarr", copy / "trajectories/ddim.zarr"
    assert remark.endswith(f"run `traj analyze intervention,phases,redundancy {store} --baseline {run}`")
    page = write(copy, copy / "report", only=["interventions"]).read_text(encoding="utf-8")
    assert len(svgs(section(page, "interventions"))) == 2  # endings and schedules need no result


def test_page_with_a_sweep_is_well_formed(html):
    assert unbalanced(html) == []
    assert len(svgs(section(html, "interventions"))) == 3
    assert "blocks nb = 2 (1 here), n = 5" in section(html, "interventions")


def test_families_are_in_order_of_falling_start(sweep):
    among = edits.families(sweep.results["intervention"])
    assert [family.name for family in among] == ["jump n = 5", "skips ns = 2, n = 5", "blocks nb = 2 (1 here), n = 5"]
    for family in among:
        assert sweep.store["at"].to_numpy()[family.variants].tolist() == AT
        assert set(sweep.store["edit"].to_numpy()[family.variants]) == {family.edit}


def test_numbers_equal_what_was_put_in(written, sweep):
    numbers = json.loads((written / "metrics.json").read_text())["sweeps"]["ddim_edits"]
    assert numbers == json.loads((written / "metrics/ddim_edits.json").read_text())
    for by in ("", "_sure", "_possible"):
        assert [numbers[f"{edit}_safe_from{by}"] for edit in ("jump", "skips", "blocks")] == [20, 30, 30]
    plain = sweep.parent.store.x_0.to_numpy()[:SAMPLES, 0]
    worst = 0.1 * plain + 0.9 * IMAGES[100 : 100 + SAMPLES, 0]
    ssim = [
        structural_similarity((a + 1) / 2, (b + 1) / 2, data_range=1, win_size=5)
        for a, b in zip(worst.astype(float), plain.astype(float), strict=True)
    ]
    assert numbers["edits_lowest_ssim"] == pytest.approx(np.mean(ssim), abs=1e-3)
    # the difference to the run is share times that of two images: PSNR differs by 20 log10 of the shares
    shares = np.array(SHARE[SKIPS]) / np.array(SHARE[BLOCKS])
    assert numbers["blocks_above_skips_psnr"] == pytest.approx(20 * np.log10(shares).mean(), abs=0.01)


def test_no_edit_that_keeps_ssim_is_never(copy):
    run, always = copy / "trajectories/ddim.zarr", {JUMP: [0.1, 0.1, 0.95]}
    analyse_sweep(make_sweep(copy / "sweeps/bad.zarr", run, always), run, copy / "results")
    assert interventions.numbers(collected(copy)["sweep", "bad"])["jump_safe_from"] is None


def test_curves_are_tidy_and_leave_out_what_changes_nothing(written, sweep):
    compared = sweep.results["intervention"]
    for name in ("ssim", "psnr"):
        rows = list(csv.DictReader((written / f"plots/intervention_{name}.csv").open(encoding="utf-8")))
        jumps = {int(row["timestep"]): float(row["value"]) for row in rows if row["on"] == "jump n = 5"}
        assert list(jumps) == (AT if name == "ssim" else AT[:2])
        expected = compared[f"{name}_mean"].to_numpy()[[0, 3, 6]][: len(jumps)]
        np.testing.assert_allclose(list(jumps.values()), expected, rtol=1e-4)


def test_findings_follow_from_the_data(sweep, copy):
    here = verdicts(findings.table(sweep.results["intervention"], sweep.results["phases"]))
    assert [verdict for verdict, _ in here] == ["seen in some", "cannot tell", "seen"]
    assert "jump n = 5: 0.511 from t = 30, below" in here[0][1]
    assert "jump n = 5: phase 1 seen (t = 30 to 30), phase 2 cannot tell, phase 3 cannot tell; skips" in here[1][1]
    assert (
        "skips ns = 2, n = 5: phase 1 not seen, phase 2 seen (t = 30 to 20), phase 3 seen (t = 10 to 10)" in here[1][1]
    )
    assert "seen to be lower at 3 of 3" in here[2][1]
    run = copy / "trajectories/ddim.zarr"
    other = {SKIPS: SHARE[BLOCKS], BLOCKS: SHARE[SKIPS], ("blocks", 5, 0, 8, 2, -1): [0.9, 0.1, 0.0]}
    analyse_sweep(make_sweep(copy / "sweeps/other.zarr", run, other), run, copy / "results")
    results = collected(copy)["sweep", "other"].results
    swapped = verdicts(findings.table(results["intervention"], results["phases"]))
    assert [swapped[row][0] for row in (0, 2, 3)] == ["seen in some", "not seen", "seen"]
    assert "seen to be lower at 0 of 3, higher at 3" in swapped[2][1]
    mild = results["intervention"].isel(variant=np.flatnonzero(results["intervention"]["nb"] < 8))
    assert verdicts(findings.table(mild, None))[0][0] == "not seen"


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
            "at": ("variant", [30, 20, 10] * 2),
            "edit": ("variant", ["skips"] * 3 + ["blocks"] * 3),
            **{name: ("variant", [a] * 3 + [b] * 3) for name, a, b in (("ns", 2, 0), ("nb", 0, 2))},
            **{name: ("variant", [value] * 6) for name, value in (("n", 5), ("r", -1))},
        },
    )


def test_only_starts_after_phase_1_are_compared():
    ssim, psnr = np.array([0.5, 0.9, 0.9, 0.9, 0.9, 0.9]), np.array([1.0, 20, 25, 50, 40, 30])
    compared = made_up(*(np.repeat(values[:, None], 3, axis=1) for values in (ssim, psnr)))
    ((skips, blocks, starts, difference),) = findings.late_pairs(compared)
    assert (skips.edit, blocks.edit) == ("skips", "blocks")
    assert starts.tolist() == [20, 10]
    np.testing.assert_allclose(difference, [[20] * 3, [5] * 3])


def test_edits_of_the_same_samples_are_compared_in_pairs():
    # samples differ by 10 dB, and what is cut makes 1 dB in every one of them
    rng = np.random.default_rng(0)
    level, ssim = 30 + 10 * rng.standard_normal(12), np.full((6, 12), 0.9)
    psnr = level + np.repeat([0.0, 1.0], 3)[:, None] + 0.1 * rng.standard_normal((6, 12))
    assert verdicts(findings.table(made_up(ssim, psnr), None))[1][0] == "seen"
    psnr += np.where(np.arange(6) < 3, 0, 10)[:, None] * rng.standard_normal(12)  # now it does not
    assert verdicts(findings.table(made_up(ssim, psnr), None))[1][0] == "cannot tell"


def test_a_mean_that_is_near_the_threshold_is_no_finding():
    rng = np.random.default_rng(0)
    noise = 0.1 * rng.standard_normal((6, 12))
    about = 0.8 + noise - noise.mean(axis=1, keepdims=True)
    table = verdicts(findings.table(made_up(about - 0.01, about), None))
    assert table[0][0] == "cannot tell"
    assert table[0][1].count("too near to tell") == 2


def test_bands_are_one_sd_and_phases_lie_between_starts(sweep):
    compared, phases = sweep.results["intervention"], sweep.results["phases"]
    figure = edits.similarity(compared, phases)
    family = edits.families(compared)[1]
    band = figure.axes[1].collections[1].get_paths()[0].vertices
    mean, sd = (compared[f"psnr_{part}"].to_numpy()[family.variants] for part in ("mean", "sd"))
    for at, low, high in zip(AT, mean - sd, mean + sd, strict=True):
        np.testing.assert_allclose(np.ptp(band[band[:, 0] == at, 1]), high - low)
    strip = figure.axes[2]
    assert strip.get_yticklabels()[0].get_text() == "jump n = 5"
    bars = [(round(patch.get_y() + 0.43), patch.get_x(), patch.get_width()) for patch in strip.patches]
    # of the jumps the first changes what is seen, the last nothing at all, and a single one can neither fall nor rise
    assert bars[:3] == [(0, 30, -5), (1, 30, -15), (1, 15, -5)]
    assert [text.get_text() for text in strip.texts][:3] == ["1", "2", "3"]
    assert len(edits.similarity(compared, None).axes) == 2


def test_a_montage_has_the_run_and_the_endings(sweep):
    axis = edits.montage(sweep).axes[1]
    assert axis.get_title(loc="left") == "skips ns = 2, n = 5"
    assert [label.get_text() for label in axis.get_xticklabels()] == ["$x_0$", "30", "20", "10"]
    canvas = axis.images[0].get_array()
    cell = canvas.shape[0] // edits.SAMPLES
    plain = sweep.parent.store.x_0.to_numpy()[1, 0]
    for x, share in zip(axis.get_xticks(), [0, *SHARE[SKIPS]], strict=True):
        y, x = cell + cell // 2, int(x)
        shown = canvas[y - 32 : y + 32 : 8, x - 32 : x + 32 : 8, 0]
        np.testing.assert_allclose(shown, ((1 - share) * plain + share * IMAGES[101, 0] + 1) / 2, atol=1e-6)


def test_a_sweep_without_its_run_is_shown_without_it(copy):
    shutil.rmtree(copy / "trajectories/ddim.zarr")
    orphan = collected(copy)["sweep", "ddim_edits"]
    assert [label.get_text() for label in edits.montage(orphan).axes[0].get_xticklabels()] == ["30", "20", "10"]
    page = write(copy, copy / "report", only=["interventions"]).read_text(encoding="utf-8")
    assert len(svgs(section(page, "interventions"))) == 2  # no schedule


def test_runs_of_a_project_beside_are_shown_too_and_its_sweeps_are_not(copy):
    root = copy / "elsewhere"
    shutil.copytree(copy / "forks", root / "data/forks")
    shutil.copytree(copy / "sweeps", root / "data/sweeps")
    shutil.copytree(copy / "results", root / "results")
    shutil.move(copy / "trajectories", root / "data")
    shutil.rmtree(copy / "results/ddim")
    (copy / "sweeps/ddim_edits.zarr").rename(copy / "sweeps/mine.zarr")
    (copy / "results/ddim_edits").rename(copy / "results/mine")
    page = write(copy, copy / "report", only=["runs", "interventions"], beside=root).read_text(encoding="utf-8")
    assert len(svgs(section(page, "interventions"))) == 3  # the schedule of the run too
    assert "no pictures" not in page
    numbers = json.loads((copy / "report/metrics.json").read_text())
    assert list(numbers["runs"]) == ["ddim"]
    assert numbers["runs"]["ddim"]
    assert list(numbers["sweeps"]) == ["mine"]
    assert {row["run"] for row in rows(copy / "report/plots/ssim.csv")} == {"ddim"}


def test_a_run_here_hides_one_of_its_name_beside(copy):
    root = copy / "elsewhere"
    shutil.copytree(copy / "trajectories", root / "data/trajectories")
    write(copy, copy / "report", only=["runs"], beside=root)
    numbers = json.loads((copy / "report/metrics.json").read_text())
    assert numbers["runs"]["ddim"]  # those of results/, which are not in root
    assert list(numbers["sweeps"]) == ["ddim_edits"]


def test_betas_are_those_of_the_schedule():
    beta = np.linspace(0.02, 1e-4, 50)  # of falling timesteps
    alpha_bar = np.cumprod(1 - beta[::-1])[::-1]
    run = xr.Dataset(coords={name: ("timestep", values) for name, values in runs.preserving(alpha_bar).items()})
    np.testing.assert_allclose(edits.betas(run), beta, rtol=1e-10)


def test_same_inputs_give_the_same_bytes(place, html, tmp_path):
    again = write(place, tmp_path / "again", only=["interventions"]).read_text(encoding="utf-8")
    assert section(again, "interventions") == section(html, "interventions")
