"""One store, result or file that is odd or damaged never costs the page."""

import shutil
from xml.dom import minidom

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

from tests import runs
from tests.report_data import (
    TOYS,
    analyse,
    brightness,
    collected,
    images,
    make_forks,
    make_run,
    make_sweep,
    pages,
    svgs,
    toys,
    unbalanced,
    write,
)
from traj import stores
from traj.analysis._drawing.style import displayed, legible
from traj.analysis._quantity import Figure
from traj.pipeline.cli import main
from traj.pipeline.process.in_words import plan_of, sampler_name
from traj.pipeline.report import runs as table_of_runs
from traj.pipeline.report import training

NAMES = ("$x^$ <b>a_b%\x07", "_half\udcff日本語", "x" * 200)
ODD_PLANS = (
    *("my plan", None, [1], {"runs": "x"}, {"runs": None}, {"runs": [1]}, {"runs": [{"first": 1}]}),
    {"runs": [{"first": "a", "last": None, "stride": 1, "rule": "ddim", "variance": 0, "noise": "shared"}]},
    {"runs": [{"first": 9, "last": 0, "stride": 1, "rule": "ddim", "variance": None, "noise": "shared"}]},
)


@pytest.fixture(scope="module", autouse=True)
def _toys():
    with toys():
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run that is in order."""
    root = tmp_path_factory.mktemp("report")
    analyse(make_run(root / "data/trajectories/good.zarr", samples=8), root)
    return root


@pytest.fixture
def copy(place, tmp_path):
    return shutil.copytree(place, tmp_path / "copy")


def drawn(place, count=0):
    """The pages of a place, all of which have what is in order, and what was left out of them."""
    failures = []
    written = pages(write(place, place / "out", failed=lambda *failure: failures.append(failure)).parent)
    assert all(unbalanced(html) == [] for html in written.values())
    assert len(images(written["runs/good.html"])) == 2
    assert len(failures) == count, failures
    return written, failures


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)


@pytest.mark.parametrize("plan", ODD_PLANS, ids=str)
def test_a_config_may_say_anything_of_a_plan(plan):
    assert sampler_name({"plan": plan}) == "–"
    assert plan_of({"plan": plan}) is None


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"labels": "cycle"}, "labels cycle"),
        ({"prompts": ["a cat", "ö"]}, 'prompts "a cat", "ö"'),
        ({"labels": [3] * 7}, "labels 3, 3, 3, 3, 3, and 2 more"),
        ([1], "–"),
        ("none", "–"),
        (None, "–"),
    ],
)
def test_a_config_may_say_anything_of_a_condition(asked, said):
    assert table_of_runs.condition({"condition": asked}) == said


def test_stores_of_ones_own_may_have_any_config_and_any_name(copy):
    odd = {"plan": "my plan", "model": None, "condition": [1], "parent": {"fingerprint": [1]}}
    good = copy / "data/trajectories/good.zarr"
    for name in NAMES:
        analyse(runs.make(copy / f"data/trajectories/{name}.zarr", 4, config=odd), copy)
    analyse(make_forks(copy / "data/forks/$x^$.zarr", good), copy, "likeness")
    make_sweep(copy / "data/sweeps/_$x^$.zarr", good)
    written, _ = drawn(copy)
    assert len(written) == 1 + 1 + 6
    for html in written.values():
        assert "<b>a" not in html
        for svg in svgs(html):
            minidom.parseString(svg)


def test_stores_of_one_name_that_are_of_two_runs_are_told_apart(copy):
    other = analyse(make_run(copy / "data/trajectories/other.zarr", samples=8, seed=1), copy)
    analyse(make_forks(copy / "data/forks/good.zarr", other), copy, "likeness")
    found = collected(copy)
    assert {name: (entry.origin, [*entry.stored], [*entry.results]) for name, entry in found.items()} == {
        "good": ("good", ["trajectories"], ["brightness"]),
        "other": ("other", ["trajectories"], ["brightness"]),
        "good (forks)": ("other", ["fork"], ["likeness"]),
    }
    assert found["good (forks)"].stored["fork"].name == "good (forks)"


def test_names_are_no_formulas_and_are_in_every_legend():
    assert legible("$x^$") == r"\$x^\$"
    assert legible("_half") == " _half"
    assert len(legible("x" * 200)) < 80


def test_what_is_damaged_is_named_and_the_rest_is_drawn(copy):
    trajectories, results = copy / "data/trajectories", copy / "results"
    for name in ("shard", "root", "coordinate"):
        shutil.copytree(trajectories / "good.zarr", trajectories / f"{name}.zarr")
        shutil.copytree(results / "good", results / name)
    flip(next((trajectories / "shard.zarr/x_t").glob("c*")))
    (trajectories / "root.zarr/zarr.json").write_text("{")
    flip(next(file for file in (trajectories / "coordinate.zarr/log_snr/c").iterdir()))
    (copy / "data/forks/root.zarr").mkdir(parents=True)
    (copy / "data/forks/root.zarr/zarr.json").write_text("[]")
    shutil.copytree(results / "good", results / "values")
    flip(next((results / "values/brightness.zarr/brightness").glob("c*")))
    (results / "values/likeness.zarr").mkdir()
    written, failures = drawn(copy, count=5)
    left_out = " ".join(where for where, _ in failures)
    for name in ("shard", "root.zarr", "coordinate.zarr", "values/brightness.zarr", "values/likeness.zarr"):
        assert name in left_out
    for name in ("shard", "coordinate", "values"):
        assert 'class="remarks"' in written[f"runs/{name}.html"]
    assert len(images(written["quantities/brightness.html"])) == 1


def test_what_is_no_run_and_no_result_is_said(copy):
    make_forks(copy / "data/trajectories/forks.zarr", copy / "data/trajectories/good.zarr")
    shutil.copytree(copy / "data/trajectories/good.zarr", copy / "data/forks/run.zarr")
    (copy / "data/trajectories/file.zarr").write_text("x")
    (copy / "data/trajectories/link.zarr").symlink_to(copy / "nowhere")
    remarks = {name: " ".join(entry.remarks) for name, entry in collected(copy).items()}
    for name in ("forks", "run", "file", "link"):
        assert "no pictures: " in remarks[name]
    shutil.copytree(copy / "data/trajectories/good.zarr", copy / "results/good/likeness.zarr")
    _, failures = drawn(copy, count=1)
    assert "is a store of kind trajectories; expected a result" in str(failures[0][1])


def test_a_result_that_is_not_what_its_name_says_is_left_out_alone(copy):
    bare = xr.Dataset({"mine": ("timestep", [1.0])}, {"timestep": [3], "on": ["x_t"]})
    configs = {}, {"quantity": "brightness"}, {"quantity": ["brightness"]}, {"quantity": "brightness", "store": "x"}
    for number, config in enumerate(configs):
        stores.save(bare, copy / f"results/mine{number}/brightness.zarr", config)
    # numbers, landmarks and curves of each, and its figure: on its own page and on that of all
    written, failures = drawn(copy, count=5 * len(configs))
    assert {type(error) for _, error in failures} <= {KeyError, IndexError}
    shared = written["quantities/brightness.html"]
    assert shared.count("is not in “Brightness &amp; time”: KeyError") == len(configs)
    assert len(images(shared)) == 1


def test_runs_without_a_number_or_with_one_only_are_drawn(copy):
    for value in (np.nan, np.inf, 0.5):
        run = copy / f"data/trajectories/{value}.zarr"
        with runs.create(run, 4, alpha_bar=np.linspace(0, 0.999, 6), config={"model": "digits"}) as store:
            for step in range(6):
                store.put(0, step, *(2 * [np.full((4, *runs.SHAPE), value, "f4")]))
            store.finish(0, np.full((4, *runs.SHAPE), value, "f4"))
    written, _ = drawn(copy)
    assert len(written) == 5


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
    read = training.losses if name == "loss.csv" else training.final_losses
    assert read(tmp_path, lambda *failure: failures.append(failure), remarks) == {}
    assert len(failures) == len(remarks) == 1
    assert isinstance(failures[0][1], stores.InputError)
    assert str(tmp_path / "mine" / name) in remarks[0]


def test_a_failing_figure_fails_a_test_and_costs_a_person_that_figure_only(copy, monkeypatch):
    def bad(results, look):
        raise RuntimeError("a fault of ours")

    failing = Figure("bad", "Faulty", bad, lambda results: "")
    monkeypatch.setattr(TOYS["brightness"], "figures", [failing, *brightness.figures])
    with pytest.raises(RuntimeError, match="a fault of ours"):
        write(copy, copy / "out")
    monkeypatch.chdir(copy)
    result = CliRunner().invoke(main, ["report"])
    assert result.exit_code == 1
    assert "Traceback" in result.output
    assert "please report this" in result.output
    html = pages(copy / "report")["runs/good.html"]
    assert "good is not in “Faulty”: RuntimeError: a fault of ours" in html
    assert len(images(html)) == 2


def test_losses_of_many_models_stand_in_several_lines():
    curve = (["step", "loss"], np.array([[1.0, 1.0], [2.0, 0.5]]))
    axes = training.training_losses(dict.fromkeys("abcdef", curve)).axes
    assert [axis.get_title(loc="left") for axis in axes if axis.get_visible()] == list("abcdef")
    assert {axis.get_subplotspec().rowspan.start for axis in axes} == {0, 1}
