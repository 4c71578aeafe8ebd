"""One store, result or file that is odd or damaged never costs the page."""

import shutil
from dataclasses import replace
from xml.dom import minidom

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

from tests import runs
from tests.report_data import (
    analyse,
    analyse_sweep,
    collected,
    make_forks,
    make_run,
    make_sweep,
    section,
    svgs,
    unbalanced,
    write,
)
from traj import stores
from traj.analysis._drawing import displayed, legible
from traj.pipeline.cli import main
from traj.pipeline.report import metrics
from traj.pipeline.report.sections import SECTIONS
from traj.pipeline.report.sections.runs import plan_steps, sampler_name

NAMES = ("$x^$ <b>a_b%\x07", "_half\udcff日本語", "x" * 200)
ODD_PLANS = (
    *("my plan", None, [1], {"runs": "x"}, {"runs": None}, {"runs": [1]}, {"runs": [{"first": 1}]}),
    {"runs": [{"first": "a", "last": None, "stride": 1, "rule": "ddim", "variance": 0, "noise": "shared"}]},
    {"runs": [{"first": 9, "last": 0, "stride": 1, "rule": "ddim", "variance": None, "noise": "shared"}]},
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run that is in order."""
    root = tmp_path_factory.mktemp("report")
    run = make_run(root / "trajectories/good.zarr", samples=8)
    analyse(run, root / "results", ("ssim",))
    return root


@pytest.fixture
def copy(place, tmp_path):
    return shutil.copytree(place, tmp_path / "copy")


def page(place, count=0):
    """The page of a place, and what was left out of it."""
    failures = []
    html = write(place, place / "out", failed=lambda *failure: failures.append(failure)).read_text(encoding="utf-8")
    assert unbalanced(html) == []
    assert "good" in section(html, "montages")
    assert svgs(section(html, "ssim"))
    assert len(failures) == count, failures
    return html, failures


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)


@pytest.mark.parametrize("plan", ODD_PLANS, ids=str)
def test_a_config_may_say_anything_of_a_plan(plan):
    assert sampler_name({"plan": plan}) == "–"
    assert plan_steps({"plan": plan}) == 0


@pytest.mark.slow
def test_stores_of_ones_own_may_have_any_config_and_any_name(copy):
    odd = {"plan": "my plan", "model": None, "labels": [1], "parent": {"fingerprint": [1]}}
    for name in NAMES:
        run = runs.make(copy / f"trajectories/{name}.zarr", 4, config=odd)
        analyse(run, copy / "results", ("ssim",))
    make_forks(copy / "forks/$x^$.zarr", copy / "trajectories/good.zarr")
    good = copy / "trajectories/good.zarr"
    analyse_sweep(make_sweep(copy / "sweeps/_$x^$.zarr", good), good, copy / "results")
    html, _ = page(copy)
    assert "<b></span>" not in html
    assert "&lt;b&gt;" in section(html, "numbers")
    for svg in svgs(html):
        minidom.parseString(svg)


def test_names_are_no_formulas_and_are_in_every_legend():
    assert legible("$x^$") == r"\$x^\$"
    assert legible("_half") == " _half"
    assert len(legible("x" * 200)) < 80


def test_what_is_damaged_is_named_and_the_rest_is_drawn(copy):
    for name in ("shard", "root", "coordinate"):
        shutil.copytree(copy / "trajectories/good.zarr", copy / f"trajectories/{name}.zarr")
    flip(next((copy / "trajectories/shard.zarr/x_t").glob("c*")))
    (copy / "trajectories/root.zarr/zarr.json").write_text("{")
    flip(next(file for file in (copy / "trajectories/coordinate.zarr/log_snr/c").iterdir()))
    (copy / "forks/root.zarr").mkdir(parents=True)
    (copy / "forks/root.zarr/zarr.json").write_text("[]")
    shutil.copytree(copy / "results/good", copy / "results/values")
    flip(next((copy / "results/values/ssim.zarr/ssim_mean").glob("c*")))
    (copy / "results/values/psnr.zarr").mkdir()
    html, failures = page(copy, count=5)
    left_out = " ".join(where for where, _ in failures)
    for name in ("shard", "root.zarr", "coordinate.zarr", "values/ssim.zarr", "values/psnr.zarr"):
        assert name in left_out
    assert "shard is not shown here: " in section(html, "montages")


def test_what_is_no_run_and_no_result_is_said(copy):
    make_forks(copy / "trajectories/forks.zarr", copy / "trajectories/good.zarr")
    shutil.copytree(copy / "trajectories/good.zarr", copy / "forks/run.zarr")
    (copy / "trajectories/file.zarr").write_text("x")
    (copy / "trajectories/link.zarr").symlink_to(copy / "nowhere")
    remarks = {name: " ".join(run.remarks) for (_, name), run in collected(copy).items()}
    for name in ("forks", "run", "file", "link"):
        assert "no pictures: " in remarks[name]
    shutil.copytree(copy / "trajectories/good.zarr", copy / "results/good/entropy.zarr")
    _, failures = page(copy, count=1)
    assert "is a store of kind trajectories; expected a result" in str(failures[0][1])


@pytest.mark.slow
def test_a_result_that_is_not_what_its_name_says_is_left_out_alone(copy):
    along = {"timestep": [3], "log_snr": ("timestep", [0.0])}
    bare = xr.Dataset({"mine": ("timestep", [1.0])}, {**along, "on": ["x_t"]})
    configs = {}, {"quantity": "ssim"}, {"quantity": ["ssim"]}, {"quantity": "ssim", "store": "x"}
    for number, config in enumerate(configs):
        stores.save(bare, copy / f"results/mine{number}/ssim.zarr", config)
    html, failures = page(copy, count=2 * len(configs))  # the curves of each, and its part of the section
    assert {where.rpartition("“")[2] for where, _ in failures} == {f"{_title('similarity')}”"}
    assert section(html, "ssim").count("is not shown here: KeyError") == len(configs)
    assert len(svgs(section(html, "ssim"))) == 1


def _title(anchor):
    return next(one.title for one in SECTIONS if one.anchor == anchor)


@pytest.mark.slow
def test_runs_without_a_number_or_with_one_only_are_drawn(copy):
    for value in (np.nan, np.inf, 0.5):
        run = copy / f"trajectories/{value}.zarr"
        with runs.create(run, 4, alpha_bar=np.linspace(0, 0.999, 6), config={"model": "digits"}) as store:
            images = np.full((4, *runs.SHAPE), value, "f4")
            for step in range(6):
                store.put(0, step, images, images)
            store.finish(0, images)
        analyse(run, copy / "results", ("ssim", "psnr"))
    page(copy)


def test_images_without_a_range_are_shown_in_their_own():
    images = np.array([2.0, np.nan, 4.0]).reshape(1, 1, 1, 1, 3)
    for low, high in ((0, 0), (1, -1), (np.nan, np.nan)):
        assert displayed(images, low, high)[0, 0, 0, :, 0].tolist() == [0, 1, 1]
    assert np.isfinite(displayed(np.full((1, 1, 1, 1, 3), 5.0), 0, 0)).all()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("loss.csv", b""),
        ("loss.csv", b"step,loss\n1,2\n3\n"),
        ("loss.csv", b"\xff\xfe\x00,"),
        ("metrics.json", b"{"),
        ("metrics.json", b"[1]"),
        ("metrics.json", b'{"final_loss": "x"}'),
    ],
)
def test_what_a_model_left_may_be_damaged(tmp_path, name, content):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_bytes(content)
    failures, remarks = [], []
    read = metrics.losses if name == "loss.csv" else metrics.training_metrics
    assert read(tmp_path, lambda *failure: failures.append(failure), remarks) == {}
    assert len(failures) == len(remarks) == 1
    assert isinstance(failures[0][1], stores.InputError)
    assert str(tmp_path / "mine" / name) in remarks[0]


def test_a_failing_section_fails_a_test_and_costs_a_person_that_section_only(copy, monkeypatch):
    def bad(material):
        raise RuntimeError("a fault of ours")

    changed = tuple(replace(one, html=bad) if one.anchor == "ssim" else one for one in SECTIONS)
    monkeypatch.setattr("traj.pipeline.report.SECTIONS", changed)
    monkeypatch.setattr("tests.report_data.SECTIONS", changed)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        write(copy, copy / "out")
    (copy / "data").mkdir()
    (copy / "trajectories").rename(copy / "data/trajectories")
    monkeypatch.chdir(copy)
    result = CliRunner().invoke(main, ["report"])
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert "please report this" in result.stderr
    assert "RuntimeError: a fault of ours" in (copy / "report/index.html").read_text(encoding="utf-8")
