"""The report: the answer first, a page for every name, one for every quantity that several have, numbers and curves."""

import csv
import json
import re
import shutil
from html import escape
from urllib.parse import unquote

import numpy as np
import pytest
import xarray as xr

from tests import runs
from tests.report_data import (
    CONFIG,
    IMAGES,
    T,
    analyse,
    brightness,
    collected,
    images,
    make_forks,
    make_run,
    make_sweep,
    pages,
    rows,
    text,
    toys,
    unbalanced,
    write,
    write_times,
)
from traj import stores
from traj.analysis._drawing import montages, panels
from traj.analysis._drawing import style as drawing
from traj.analysis._quantity import Landmark, Number
from traj.pipeline.process.in_words import sampler_name
from traj.pipeline.report import entries, markup, metrics
from traj.pipeline.report import pages as of_pages

BYTES = 2_000_000
"""Of a page, at most."""


@pytest.fixture(scope="module", autouse=True)
def _toys():
    with toys():
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Three runs, one of which has no result, forks and a sweep of the first one."""
    root = tmp_path_factory.mktemp("report")
    first = analyse(make_run(root / "data/trajectories/ddim50.zarr"), root)
    other = {**CONFIG, "model": {"name": "<b>mine</b>"}}
    analyse(make_run(root / "data/trajectories/ddim100.zarr", config=other, seed=1), root)
    make_run(root / "data/trajectories/raw.zarr", config=other, seed=2)
    analyse(make_forks(root / "data/forks/few.zarr", first), root, "likeness")
    make_sweep(root / "data/sweeps/edits.zarr", first)
    model = root / "models" / "digits"
    model.mkdir(parents=True)
    (model / "loss.csv").write_text("step,loss\n10,0.5\n20,0.25\n")
    (model / "metrics.json").write_text('{"final_loss": 0.123456, "steps": 20}')
    return root


@pytest.fixture(scope="module")
def written(place, tmp_path_factory):
    return write(place, tmp_path_factory.mktemp("out") / "report").parent


@pytest.fixture
def copy(place, tmp_path):
    return shutil.copytree(place, tmp_path / "copy")


def test_the_first_page_is_the_answer(written):
    index = text(written / "index.html")
    places = [index.index(part) for part in ("<figure>", "In words", "What was run", "In numbers", "Everything of one")]
    assert places == sorted(places)
    assert index.count("half of the steps are done") >= 2


def test_every_name_has_a_page_and_a_quantity_of_several_has_one(written):
    assert set(pages(written)) == {
        "index.html",
        "quantities/brightness.html",
        *(f"runs/{name}.html" for name in ("ddim50", "ddim100", "raw", "few", "edits")),
    }


def test_pages_need_nothing_but_one_another(written):
    for name, html in pages(written).items():
        assert unbalanced(html) == []
        assert "://" not in html
        assert "<script" not in html
        assert all(source.startswith("data:image/") for source in re.findall(r'src="([^"]*)"', html))
        for link in re.findall(r'href="([^"]*)"', html):
            assert (written / name).parent.joinpath(unquote(link)).is_file(), f"{name}: {link}"


def test_what_others_name_is_escaped(written):
    for html in pages(written).values():
        assert "<b>mine" not in html
        assert "<i>N" not in html
    page = text(written / "runs/ddim50.html")
    for said in (brightness.title, "Brightness & time", "<i>N</i> = 1 runs.", "The source & here", "a < b", "A note."):
        assert escape(said) in page


def test_a_quantity_is_drawn_for_one_name_and_for_all(written):
    for page, count in (("runs/ddim50.html", 1), ("quantities/brightness.html", 2)):
        html = text(written / page)
        assert f"= {count} runs." in html
        assert "Never drawn" not in html
    assert "How alike endings are" not in text(written / "runs/few.html")  # it has no figure


def test_runs_come_in_natural_order_before_what_was_made_of_them(place):
    assert list(collected(place)) == ["ddim50", "ddim100", "raw", "few", "edits"]


def test_a_fork_has_the_colour_of_its_run_and_a_marker(written):
    index = text(written / "index.html")
    colour = {name: colour for colour, name in re.findall(r'background:(#\w+)"></span>(\w+)<', index)}
    assert colour["few"] == colour["edits"] == colour["ddim50"]
    assert len({colour[name] for name in ("ddim50", "ddim100", "raw")}) == 3


def test_many_runs_still_have_colours_of_their_own():
    names = [f"run{i}" for i in range(20)]
    assert len(set(drawing.colours(names).values())) == 20
    assert drawing.colours(names[:3]) == {name: drawing.colours(names[:5])[name] for name in names[:3]}


@pytest.mark.parametrize(
    ("number", "written"),
    [
        ((22.631, 22.263, 23.0), "22.63 (22.26 to 23.00)"),
        ((0.0125, 0.0022, 0.0675), "0.013 (0.002 to 0.068)"),
        ((-1250.0, -1300.0, -1200.0), "−1250 (−1300 to −1200)"),
        ((1.0, 1.0, 1.0), "1 (1 to 1)"),
        ((1.0, np.nan, np.nan), "1"),
        ((1.0, 0.5, np.inf), "1 (0.5 to –)"),
    ],
)
def test_a_number_has_as_many_digits_as_its_interval_is_worth(number, written):
    assert of_pages._value(Number("name", "meaning", *number)) == written


def test_metrics_are_the_numbers_and_landmarks(place, written):
    ours = json.loads((written / "metrics.json").read_text())
    assert ours["training"] == {"digits": {"final_loss": 0.1235}}
    assert ours["runs"]["few"] == ours["runs"]["raw"] == {}
    first = ours["runs"]["ddim50"]
    assert first == json.loads((written / "metrics/ddim50.json").read_text())
    result = stores.open(place / "results/ddim50/brightness.zarr")
    end = float(result["brightness"].sel(on="pred_x0")[-1])
    assert first["bright_end"] == pytest.approx(end, abs=6e-4)
    assert first["bright_end_low"] == pytest.approx(end - 1, abs=6e-4)
    assert first["bright_never"] is None
    assert first["middle_timestep"] == result["timestep"][T // 2]
    assert first["middle_log_snr"] == pytest.approx(float(result["log_snr"][T // 2]), abs=6e-4)
    assert first["middle_low"] == pytest.approx(first["middle_log_snr"] - 0.5, abs=1e-3)
    assert "last_low" not in first
    assert first["never_timestep"] is first["never_log_snr"] is None


def test_landmarks_of_one_name_are_told_apart_by_what_they_are_of():
    marks = [Landmark("it", "it happens", 10.0, n, of=f"jump n = {n + 1}") for n in (1, 2)]
    two = metrics.Summary(landmarks={"q": marks})
    assert {key: value for key, value in two.metrics.items() if "snr" in key} == {
        "it_jump_n_2_log_snr": 1,
        "it_jump_n_3_log_snr": 2,
    }


def test_curves_are_tidy_and_equal_the_results(place, written):
    assert [path.name for path in (written / "plots").iterdir()] == ["brightness.csv"]
    found = rows(written / "plots/brightness.csv")
    assert list(found[0]) == ["run", "on", "timestep", "log_snr", "value", "low", "high"]
    ours = [row for row in found if row["run"] == "ddim50"]
    assert [int(row["timestep"]) for row in ours] == list(range(T))[::-1]
    expected = stores.open(place / "results/ddim50/brightness.zarr")["brightness"].sel(on="pred_x0")
    np.testing.assert_allclose([float(row["value"]) for row in ours], expected, atol=1e-5)
    assert {row["high"] for row in ours} == {""}


def test_long_curves_are_thinned_with_both_ends(place, tmp_path):
    result = stores.open(place / "results/ddim50/brightness.zarr").isel(timestep=np.repeat(np.arange(T), 100))
    long = entries.Entry("long", results={"brightness": result})
    metrics.write_curves(tmp_path, [long], {"brightness": brightness}, runs)
    found = list(csv.DictReader((tmp_path / "brightness.csv").open()))
    assert len(found) == 100
    assert [found[0]["timestep"], found[-1]["timestep"]] == ["39", "0"]


def test_same_inputs_give_the_same_bytes(place, written, tmp_path):
    again = write(place, tmp_path / "again").parent
    assert runs.digest(again) == runs.digest(written)


def test_no_page_grows_beyond_what_opens_at_once():
    """A run's page: a montage of noise in colour, and six figures of as many curves as figures have."""
    rng = np.random.default_rng(0)
    states = rng.uniform(-1, 1, (4, 20, 3, 32, 32)).astype("f4")
    montage = markup.figure(montages.of_run(_coloured(states)), "", "")
    x = np.linspace(-10, 10, 1000)
    palette = drawing.colours(list("abcde"))
    values = {name: np.tanh(x / k) + rng.normal(0, 0.02, 1000) for k, name in enumerate(palette, 1)}
    lines = [panels.Line(name, palette[name], x, y, y - 0.1, y + 0.1) for name, y in values.items()]
    drawn, _ = panels.panels([[("left", lines), ("right", lines)]] * 2, ["y", "y"])
    assert len(montage) + 6 * len(markup.figure(drawn, "", "")) < BYTES


def _coloured(states):
    dims = ("sample", "timestep", "channel", "y", "x")
    steps = states.shape[1]
    return xr.Dataset(
        {
            "x_t": (dims, states),
            "pred_x0": (dims, states),
            "x_0": (("sample", *dims[2:]), states[:, 0], {"valid_range": [-1, 1]}),
        },
        {"timestep": np.arange(steps)[::-1], "log_snr": ("timestep", np.linspace(-9, 9, steps))},
    )


def test_montage_shows_first_and_last_timestep_and_x_0(place):
    axis = montages.of_run(stores.open(place / "data/trajectories/ddim50.zarr")).axes[0]
    labels = [label.get_text() for label in axis.get_xticklabels()]
    assert len(labels) == 11
    assert labels[0].startswith("t = 39\nlog SNR −")
    assert labels[-2].startswith("t = 0\n")
    cell = axis.images[0].get_array()[2:66, -66:-2]
    np.testing.assert_allclose(cell[::8, ::8, 0], (IMAGES[0, 0] + 1) / 2, atol=1e-6)


def test_montage_of_colour_and_of_large_images():
    states = np.random.default_rng(0).uniform(-1, 1, (2, 3, 3, 96, 130)).astype("f4")
    canvas = montages.of_run(_coloured(states)).axes[0].images[0].get_array()
    assert canvas.shape[1] < 400
    np.testing.assert_allclose(canvas[2, 2], (states[0, 0, :, 0, 0] + 1) / 2, atol=1e-6)


def test_forks_are_shown_between_their_state_and_the_end_of_their_run(place):
    few = collected(place)["few"].stored["fork"]
    _, figure, _ = montages.montage(few.ds, "fork", few.of.ds)
    axis = figure.axes[0]
    titles = [label.get_text() for label in axis.get_xticklabels()]
    assert titles == ["start $x_t$", "replica 1", "replica 2", "replica 3", "replica 4", "the run’s $x_0$"]
    canvas = axis.images[0].get_array()
    start = few.of.ds["x_t"].sel(timestep=30)[0, 0].to_numpy()
    np.testing.assert_allclose(canvas[2:66, 2:66][::8, ::8, 0], (start.clip(-1, 1) + 1) / 2, atol=1e-6)
    np.testing.assert_allclose(canvas[2:66, -66:-2][::8, ::8, 0], (IMAGES[0, 0] + 1) / 2, atol=1e-6)
    assert len(montages.montage(few.ds, "fork", None)[1].axes[0].get_xticklabels()) == 4


def test_edits_are_shown_by_family_beside_the_unedited_image(place):
    edits = collected(place)["edits"].stored["sweep"]
    _, figure, _ = montages.montage(edits.ds, "sweep", edits.of.ds)
    drawn = [axis for axis in figure.axes if axis.images]
    assert [axis.get_title(loc="left") for axis in drawn] == [
        "jump, n = 5",
        "skips, n = 5, ns = 2",
        "blocks, n = 5, nb = 2",
    ]
    assert [label.get_text() for label in drawn[0].get_xticklabels()] == ["$x_0$", "30", "20", "10"]
    canvas = drawn[0].images[0].get_array()
    assert np.abs(canvas[2:66, 2:66] - canvas[2:66, -66:-2]).max() == 0  # the last jump changes nothing
    first = canvas[2:66, 2 + 85 : 66 + 85]
    assert np.abs(canvas[2:66, 2:66] - first).max() > 0.1


def test_missing_results_are_said_with_what_computes_them(place):
    (remark,) = collected(place)["raw"].remarks
    assert remark == f"no brightness: run `traj analyze brightness {place / 'data/trajectories/raw.zarr'}`"


def test_nothing_is_missing_of_a_name_with_a_result_nor_of_what_is_shown_beside(copy, tmp_path):
    shutil.copytree(copy / "results/ddim50", tmp_path / "results/ddim50")
    other = tmp_path / "studies/other"
    shutil.copytree(copy / "results/few", other / "results/ddim50")
    make_run(other / "data/trajectories/ddim50.zarr", seed=9)
    assert all(not entry.remarks for entry in entries.collect(tmp_path, copy))
    assert not collected(other)["ddim50"].remarks


def test_results_of_a_run_beside_have_its_store_and_its_results(copy, tmp_path):
    shutil.copytree(copy / "results/ddim50/brightness.zarr", tmp_path / "results/ddim50/more.zarr")
    found = {entry.name: entry for entry in entries.collect(tmp_path, copy)}["ddim50"]
    assert found.stored["trajectories"].path == copy / "data/trajectories/ddim50.zarr"
    assert set(found.results) == {"more", "brightness"}
    shutil.rmtree(copy / "data/trajectories/ddim50.zarr")
    make_run(copy / "data/trajectories/ddim50.zarr", seed=7)  # another run of that name
    found = {entry.name: entry for entry in entries.collect(tmp_path, copy)}["ddim50"]
    assert (found.stored, set(found.results)) == ({}, {"more"})


def test_no_results_is_a_clear_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="run `traj analyze entropy,ssim,psnr` first"):
        write(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_results_without_their_store_are_drawn(copy):
    shutil.rmtree(copy / "data")
    index = write(copy, copy / "out")
    assert len(images(text(index))) == 3  # landmarks without a strip, on wide screens and narrow ones, and losses
    assert len(images(text(copy / "out/runs/ddim50.html"))) == 1
    assert list(collected(copy)) == ["ddim50", "ddim100", "few"]


def test_an_unfinished_store_is_said_and_a_set_aside_one_is_no_run(copy):
    trajectories = copy / "data/trajectories"
    shutil.copytree(trajectories / "raw.zarr", trajectories / "raw.stale-1234.zarr")
    with runs.create(trajectories / "half.zarr"):
        pass
    found = collected(copy)
    assert sorted(found) == ["ddim100", "ddim50", "edits", "few", "half", "raw"]
    assert "is incomplete" in found["half"].remarks[0]


def test_results_of_other_trajectories_are_told_apart(copy):
    shutil.rmtree(copy / "data/trajectories/ddim50.zarr")
    make_run(copy / "data/trajectories/ddim50.zarr", seed=7)
    (remark,) = collected(copy)["ddim50"].remarks
    assert "was computed from other trajectories than" in remark


def test_a_run_and_its_forks_may_have_one_name(copy):
    (copy / "data/forks/few.zarr").rename(copy / "data/forks/ddim50.zarr")
    (copy / "results/few/likeness.zarr").rename(copy / "results/ddim50/likeness.zarr")
    found = collected(copy)["ddim50"]
    assert list(found.stored) == ["trajectories", "fork"]
    assert set(found.results) == {"brightness", "likeness"}
    assert found.origin == "ddim50"


def test_a_result_nothing_here_knows_is_said(copy, without_figures):
    unknown = xr.Dataset({"mystery": ("sample", [1.0])}, attrs={"quantity": "mystery"})
    stores.save(unknown, copy / "results/ddim50/mystery.zarr", {"quantity": "mystery"})
    write(copy, copy / "out")
    assert "Nothing here can draw this result: mystery (sample)." in text(copy / "out/runs/ddim50.html")


def test_measured_times_are_a_coordinate_of_a_sweeps_results(copy):
    sweep = copy / "data/sweeps/edits.zarr"
    edits = xr.Dataset({"x": ("variant", np.arange(9.0))}, stores.open(sweep)["at"].coords)
    stores.save(edits, copy / "results/edits/x.zarr", {"quantity": "x"})
    removed = (np.arange(9) / 10).tolist()
    write_times(copy / "results/edits/times.csv", sweep, removed)
    found = collected(copy)["edits"]
    assert found.results["x"]["time_removed"].dims == ("variant",)
    assert found.results["x"]["time_removed"].values.tolist() == removed
    write_times(copy / "results/edits/times.csv", sweep, removed, n=[7] * 9)
    found = collected(copy)["edits"]
    assert "time_removed" not in found.results["x"].coords
    assert any("does not fit the results beside it" in remark for remark in found.remarks)


def test_the_measured_time_of_a_run_is_a_coordinate_of_its_results(copy):
    stores.save(xr.Dataset({"x": ((), 1.0)}), copy / "results/ddim50/x.zarr", {"quantity": "x"})
    (copy / "results/ddim50/times.csv").write_text("evaluations,network_seconds,start_seconds,seconds\n50,2,1,3\n")
    assert float(collected(copy)["ddim50"].results["x"]["seconds"]) == 3


def test_runs_of_the_project_beside_are_shown_but_for_names_that_are_taken(place, tmp_path):
    root = tmp_path / "studies/mine"
    make_run(root / "data/trajectories/raw.zarr", seed=9)
    other = analyse(make_run(root / "data/trajectories/own.zarr", seed=8), root)
    make_forks(root / "data/forks/forked.zarr", place / "data/trajectories/ddim50.zarr")
    found = entries.collect(root, place)
    assert [entry.name for entry in found] == ["own", "raw", "ddim50", "ddim100", "forked"]
    assert found[1].stored["trajectories"].path.is_relative_to(root)
    assert found[2].results
    assert found[4].origin == "ddim50"
    assert other.exists()


def test_other_reports_are_linked_where_they_are(copy, without_figures):
    page = copy / "studies/mine/report/index.html"
    page.parent.mkdir(parents=True)
    page.write_text("x")
    (copy / "studies/yours").mkdir()
    index = text(write(copy, copy / "report"))
    assert 'href="../studies/mine/report/index.html"' in index
    assert "yours" not in index
    back = text(write(copy, page.parent, beside=copy))
    assert 'href="../../../report/index.html"' in back


@pytest.mark.parametrize(
    ("rule", "variance", "noise", "words"),
    [
        ("ddim", 0.0, "shared", "DDIM"),
        ("ddim", 0.5, "shared", "DDIM, eta 0.5"),
        ("posterior", "large", "shared", "DDPM, large variance"),
        ("posterior", "learned", "shared", "IDDPM, learned variance"),
        ("posterior", "small", "zero", "DDPM, small variance, noise zero"),
    ],
)
def test_samplers_in_words(rule, variance, noise, words):
    part = {"first": 9, "last": 1, "stride": 4, "rule": rule, "variance": variance, "noise": noise}
    assert sampler_name({"plan": {"runs": [part], "clip": None}}) == words
