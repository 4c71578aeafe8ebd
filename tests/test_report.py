import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from sklearn.model_selection import train_test_split

from tests import runs
from tests.report_data import CONFIG, DIGITS, IMAGES, T, analyse, collected, fixtures, make_run, svgs, unbalanced, write
from traj import stores
from traj.analysis import _drawing as drawing
from traj.pipeline.computing import analyze
from traj.pipeline.computing.engines import threads
from traj.pipeline.report import quality, sections
from traj.pipeline.report.sections import SECTIONS, montages
from traj.pipeline.report.sections.runs import plan_steps, sampler_name

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Three runs: one with everything, one on another time axis without psnr, one never analysed."""
    root = tmp_path_factory.mktemp("report")
    trajectories, results = root / "trajectories", root / "results"
    analyse(make_run(trajectories / "ddim50.zarr"), results)
    other = {**CONFIG, "model": {"name": "<b>mine</b>"}}
    slow = make_run(trajectories / "ddim100.zarr", config=other, time_scale=0.25, seed=1)
    analyse(slow, results, ("entropy", "ssim"))
    make_run(trajectories / "raw.zarr", config=other, seed=2)
    model = root / "models" / "digits"
    model.mkdir(parents=True)
    (model / "loss.csv").write_text("step,loss\n10,0.5\n20,0.25\n")
    (model / "metrics.json").write_text('{"final_loss": 0.123456, "steps": 20}')
    return root


written, html, found, copy = fixtures()


@pytest.fixture(scope="module")
def ssim(place):
    return stores.open(place / "results/ddim50/ssim.zarr")["ssim"].load()


def test_page_needs_nothing_but_itself(html):
    assert "://" not in html
    assert "<script" not in html
    sources = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert all(source.startswith(("data:image/", "#")) for source in sources)
    anchors = {source[1:] for source in sources if source.startswith("#")}
    assert anchors == set(re.findall(r'<h2 id="(\w+)"', html)) - {"sources"}
    for svg in svgs(html):
        assert not re.search(r'href="(?!#|data:)', svg)


def test_page_is_well_formed_and_escapes_names(html):
    assert unbalanced(html) == []
    assert "&lt;b&gt;mine&lt;/b&gt;" in html
    assert "<b>mine</b>" not in html


def test_a_page_without_forks_and_labels_has_no_word_of_them(html):
    assert not {"labels", "replicas", "forks"} & set(re.findall(r'<h2 id="(\w+)"', html))
    assert "<h3>Forks</h3>" not in html


def test_every_file_of_sections_is_on_the_page():
    files = {path.stem for path in Path(sections.__file__).parent.glob("*.py")} - {"__init__"}
    functions = [getattr(section.html, "func", section.html) for section in SECTIONS]
    assert files == {function.__module__.rpartition(".")[2] for function in functions}
    assert len({section.anchor for section in SECTIONS}) == len(SECTIONS)


def test_every_run_is_named_in_natural_order_with_one_colour(html):
    table = html[html.index('id="runs"') : html.index('id="numbers"')]
    assert re.findall(r"</span>(\w+)</span></td>", table) == ["ddim50", "ddim100", "raw"]
    swatches = re.findall(r'style="background:(#\w+)"></span>(\w+)<', html)
    assert len({run for _, run in swatches}) == len(set(swatches)) == 3
    colour = {run: colour.lower() for colour, run in swatches}
    drawn = svgs(html[html.index('id="ssim"') : html.index('id="training"')])
    assert [(colour["ddim50"] in svg.lower(), colour["ddim100"] in svg.lower()) for svg in drawn] == [
        (True, True),
        (True, False),
    ]


def test_many_runs_still_have_colours_of_their_own():
    names = [f"run{i}" for i in range(20)]
    assert len(set(drawing.colours(names).values())) == 20
    assert drawing.colours(names[:3]) == {name: drawing.colours(names[:5])[name] for name in names[:3]}


def test_missing_results_are_said(html):
    remarks = re.findall(r"<li>(.*?)</li>", html)
    assert len(remarks) == 2
    assert "ddim100" in remarks[0]
    assert "no psnr: run `traj analyze psnr " in remarks[0]
    assert "raw" in remarks[1]
    assert "no entropy, no ssim, no psnr" in remarks[1]


def test_too_few_pixels_are_said_to_be_unreliable(html):
    assert "Dashed: too few pixels for so many grey levels (ddim50, ddim100)" in html


def test_montage_shows_first_and_last_timestep_and_x_0(place):
    ds = stores.open(place / "trajectories/ddim50.zarr")
    axis = montages.montage(ds).axes[0]
    labels = [label.get_text() for label in axis.get_xticklabels()]
    assert len(labels) == 11
    assert labels[0].startswith("t = 39\nlog SNR −")
    assert labels[-2].startswith("t = 0\n")
    canvas = axis.images[0].get_array()
    cell = canvas[2:66, -66:-2]
    np.testing.assert_allclose(cell[::8, ::8, 0], (IMAGES[0, 0] + 1) / 2, atol=1e-6)


def test_montage_of_colour_and_of_large_images():
    states = np.random.default_rng(0).uniform(-1, 1, (2, 3, 3, 96, 130)).astype("f4")
    dims = ("sample", "timestep", "channel", "y", "x")
    ds = xr.Dataset(
        {"x_t": (dims, states), "pred_x0": (dims, states), "x_0": (("sample", *dims[2:]), states[:, 0])},
        {"timestep": [2, 1, 0], "log_snr": ("timestep", [-1.0, 0.0, 1.0])},
    )
    canvas = montages.montage(ds).axes[0].images[0].get_array()
    assert canvas.shape[1] < 400
    np.testing.assert_allclose(canvas[2, 2], (states[0, 0, :, 0, 0] + 1) / 2, atol=1e-6)


def test_metrics_equal_a_direct_computation(place, written, ssim):
    ours = json.loads((written / "metrics.json").read_text())["runs"]["ddim50"]
    assert ours == json.loads((written / "metrics/ddim50.json").read_text())
    mean = ssim.sel(on="pred_x0").mean("sample")
    first = next(int(t) for t in mean["timestep"] if mean.sel(timestep=t) > 0.8)
    assert 0 < first < T - 1
    assert ours["ssim_08_timestep"] == first
    assert ours["ssim_08_log_snr"] == round(float(mean["log_snr"].sel(timestep=first)), 2)
    below, above = mean[mean["log_snr"] < 0][-1], mean[mean["log_snr"] >= 0][0]
    part = float(below["log_snr"] / (below["log_snr"] - above["log_snr"]))
    assert ours["ssim_at_log_snr_0"] == pytest.approx(float(below + part * (above - below)), abs=6e-4)

    alone = stores.open(place / "results/ddim50/entropy.zarr")["stepwise_entropy_per_sample"]
    alone = alone.sel(on="pred_x0").mean("sample").compute()
    assert ours["entropy_start"] == round(float(alone[0]), 3)
    assert ours["entropy_peak"] == round(float(alone.max()), 3)
    assert alone.sel(timestep=ours["entropy_peak_timestep"]) == alone.max()

    ds = stores.open(place / "trajectories/ddim50.zarr")
    error = ((ds["x_t"][:, -1].clip(-1, 1) - ds["x_0"]) / 2) ** 2
    assert ours["psnr_x_t_end"] == round(float((-10 * np.log10(error.mean(("channel", "y", "x")))).mean()), 2)


def test_digits_are_judged_by_a_classifier(written):
    ours = json.loads((written / "metrics.json").read_text())["runs"]
    assert ours["ddim50"]["confidence"] > 0.9
    assert ours["ddim50"]["classes"] == 10
    assert ours["ddim50"]["label_agreement"] == round(10 / 12, 3)
    assert "confidence" not in ours["ddim100"]
    assert "confidence" not in ours["raw"]


def test_no_label_agreement_without_labels():
    found = quality.digit_quality(3 * IMAGES[:4], np.full(4, -1))
    assert sorted(found) == ["classes", "confidence"]


def test_classifier_is_sure_of_unseen_digits_only():
    seen, unseen, labels, truth = train_test_split(DIGITS.data / 8 - 1, DIGITS.target, test_size=0.3, random_state=0)
    model = quality.digit_model().fit(seen, labels)
    probability = model.predict_proba(unseen)
    assert (probability.argmax(axis=1) == truth).mean() > 0.95
    assert 0.9 < probability.max(axis=1).mean() < 0.99
    noise = np.random.default_rng(0).standard_normal((200, 64)).clip(-1, 1)
    assert model.predict_proba(noise).max(axis=1).mean() < 0.6
    between = (unseen[:200] + unseen[200:400]) / 2
    assert model.predict_proba(between).max(axis=1).mean() < 0.85


def test_final_losses_are_among_the_metrics(written):
    assert json.loads((written / "metrics.json").read_text())["training"] == {"digits": {"final_loss": 0.1235}}


def test_curves_are_tidy_and_equal_the_results(written, ssim):
    names = {path.name for path in (written / "plots").iterdir()}
    assert names == {"stepwise_entropy.csv", "stepwise_entropy_per_image.csv", "ssim.csv", "psnr.csv"}
    rows = list(csv.DictReader((written / "plots/ssim.csv").open(encoding="utf-8")))
    assert list(rows[0]) == ["run", "on", "timestep", "log_snr", "value", "low", "high"]
    ours = [row for row in rows if row["run"] == "ddim50" and row["on"] == "pred_x0"]
    assert [int(row["timestep"]) for row in ours] == list(range(T))[::-1]
    mean = ssim.sel(on="pred_x0").mean("sample")
    np.testing.assert_allclose([float(row["value"]) for row in ours], mean, atol=1e-5)
    assert all(float(row["low"]) <= float(row["value"]) <= float(row["high"]) for row in ours)


def test_same_inputs_give_the_same_bytes(place, written, tmp_path):
    again = write(place, tmp_path / "again").parent
    assert runs.digest(again) == runs.digest(written)


def test_no_results_is_a_clear_error(place, tmp_path):
    with pytest.raises(FileNotFoundError, match="run `traj analyze entropy,ssim,psnr` first"):
        write(place, tmp_path / "out", results=tmp_path)
    assert not (tmp_path / "out").exists()


def test_results_without_their_store_are_drawn(place, tmp_path):
    index = write(place, tmp_path / "out", trajectories=tmp_path / "gone", models=tmp_path / "gone")
    html = index.read_text(encoding="utf-8")
    assert "no pictures: " in html
    assert len(svgs(html)) == len(svgs(html[html.index('id="entropy"') :])) == 6
    assert "confidence" not in json.loads((tmp_path / "out/metrics/ddim50.json").read_text())


def test_an_unfinished_store_is_said_and_a_set_aside_one_is_no_run(place, tmp_path):
    trajectories = tmp_path / "trajectories"
    shutil.copytree(place / "trajectories/ddim50.zarr", trajectories / "ddim50.zarr")
    shutil.copytree(place / "trajectories/ddim50.zarr", trajectories / "ddim50.stale-1234.zarr")
    with runs.create(trajectories / "half.zarr"):
        pass
    found = {name: run for (_, name), run in collected(place, trajectories).items()}
    assert sorted(found) == ["ddim100", "ddim50", "half"]
    assert "is incomplete" in found["half"].remarks[0]


def test_results_of_other_trajectories_are_told_apart(place, tmp_path):
    make_run(tmp_path / "ddim50.zarr", seed=7)
    found = collected(place, tmp_path)
    assert (
        sum("was computed from other trajectories" in remark for remark in found["trajectories", "ddim50"].remarks) == 3
    )


def test_other_results_are_drawn_by_their_quantity_or_said(place, tmp_path):
    against = place / "trajectories/ddim100.zarr"
    results = tmp_path / "results"
    jobs = analyze.plan_jobs(
        [place / "trajectories/ddim50.zarr"], {"psnr": {"against": str(against)}}, results / "ddim50"
    )
    analyze.run(jobs[0].store, jobs, engine=threads(1), say=lambda message: None)
    unknown = xr.Dataset({"mystery": ("sample", [1.0])}, attrs={"quantity": "mystery"})
    stores.save(unknown, results / "ddim50/mystery.zarr", {"quantity": "mystery"})
    html = write(place, tmp_path / "out", only=["others"], results=results).read_text(encoding="utf-8")
    others = html[html.index('id="others"') :]
    assert len(svgs(others)) == 1
    assert others.count("Nothing here can draw this result") == 1


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
    plan = {"runs": [{"first": 9, "last": 1, "stride": 4, "rule": rule, "variance": variance, "noise": noise}]}
    assert sampler_name({"plan": plan}) == words
    assert plan_steps({"plan": plan}) == 3
