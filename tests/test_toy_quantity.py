"""A quantity is one file: command, figure, curve, number, landmark and notebook come from what that file declares."""

import csv
import json
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure

from tests import offered, runs
from traj import analysis, stores
from traj.pipeline.cli import main

TOY = '''
"""How large the values of a state are."""

import numpy as np
import xarray as xr

from traj.analysis import Landmark, Number, Series, quantity


@quantity(reads="trajectories", numerics=1, title="How large a state is", source="a book, Fig. 7")
def toy(ds: xr.Dataset, *, power: int = 2) -> xr.Dataset:
    """Take the mean of a power of x_t over samples and pixels.

    Gives `toy` (timestep), without units.

    Parameters
    ----------
    power
        The power.
    """
    mean = (ds["x_t"] ** power).mean([dim for dim in ds["x_t"].dims if dim != "timestep"])
    return xr.Dataset({"toy": mean.assign_attrs(long_name="mean power of x_t", units="1")})


@toy.figure("toy", title="The size of a state", caption=lambda results: f"Drawn for {' & '.join(results)}.")
def draw(results, look):
    from matplotlib.figure import Figure

    figure = Figure()
    axis = figure.add_subplot()
    for name, result in results.items():
        axis.plot(result["log_snr"], result["toy"], color=look.colours[name])
    return figure


@toy.curve("toy", title="The size of a state", y_label="mean power")
def curve(result):
    value = result["toy"].to_numpy()
    return [Series("x_t", result["timestep"].to_numpy(), result["log_snr"].to_numpy(), value, value - 1, value + 1)]


@toy.gives_landmarks
def landmarks(result):
    step = int(result["toy"].to_numpy().argmax())
    log_snr = float(result["log_snr"][step])
    return [Landmark("toy_peak", "a state is largest", float(result["timestep"][step]), log_snr, log_snr, log_snr)]


@toy.gives_numbers
def numbers(result):
    return [Number("toy_first", "size of the first state", float(result["toy"][0]))]
'''

NOTEBOOK = """
import traj.analysis

toy = traj.analysis.load("toy")
result = toy(stores.open("data/trajectories/a.zarr"), power=4).compute()
figure = toy.plot(result)
"""


def traj(*arguments):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project in which the toy was analysed and reported; another quantity of its package is broken."""
    folder = tmp_path_factory.mktemp("project")
    entries = {"toy": "toy_quantity:toy", "broken": "nowhere:broken"}
    site = offered.install(folder / "site", "toybox", entries, toy_quantity=TOY)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(site)
        for name, seed in (("a", 0), ("b", 1)):
            runs.make(f"data/trajectories/{name}.zarr", seed=seed)
        traj("analyze", "toy", "--power", 4)
        traj("report")
        yield folder
    sys.modules.pop("toy_quantity", None)


def saved(project):
    return stores.open(project / "results" / "a" / "toy.zarr")


def test_its_command_has_its_options_and_saves_its_result(project):
    x_t = stores.open(project / "data" / "trajectories" / "a.zarr")["x_t"].to_numpy()
    np.testing.assert_allclose(saved(project)["toy"], (x_t**4).mean(axis=(0, 2, 3, 4)), rtol=1e-5)
    assert json.loads(saved(project).attrs["config"])["options"] == {"power": 4}


def test_its_figure_stands_on_the_page_of_each_run_and_on_that_of_both(project):
    for page in ("runs/a.html", "runs/b.html", "quantities/toy.html"):
        html = (project / "report" / page).read_text()
        assert "The size of a state" in html
        assert "How large a state is" in html
        assert "a book, Fig. 7" in html
    assert "Drawn for a." in (project / "report" / "runs" / "a.html").read_text()
    assert html.count("data:image/svg+xml") == 1
    assert "Drawn for a &amp; b." in (project / "report" / "quantities" / "toy.html").read_text()


def test_its_landmark_stands_on_the_answer_page(project):
    assert "a state is largest" in (project / "report" / "index.html").read_text()


def test_its_number_and_its_landmark_are_metrics(project):
    numbers = json.loads((project / "report" / "metrics" / "a.json").read_text())
    result = saved(project)
    step = int(result["toy"].to_numpy().argmax())
    assert numbers["toy_first"] == pytest.approx(float(result["toy"][0]), rel=1e-3)
    assert numbers["toy_peak_timestep"] == int(result["timestep"][step])
    for end in ("log_snr", "low", "high"):
        assert numbers[f"toy_peak_{end}"] == pytest.approx(float(result["log_snr"][step]), abs=1e-3)


def test_its_curve_is_a_plot(project):
    with (project / "report" / "plots" / "toy.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["run"] == "a"]
    assert {row["on"] for row in rows} == {"x_t"}
    np.testing.assert_allclose([float(row["value"]) for row in rows], saved(project)["toy"], rtol=1e-4)


def test_a_notebook_draws_it(project):
    names = {"stores": stores}
    exec(NOTEBOOK, names)
    assert isinstance(names["figure"], Figure)
    assert isinstance(analysis.load("toy").plot({"a": saved(project), "b": names["result"]}, "toy"), Figure)


def test_what_it_does_not_declare_is_refused_by_name(project):
    with pytest.raises(stores.InputError, match="toy has no figure 'map'; expected one of toy"):
        analysis.load("toy").plot(saved(project), "map")


@pytest.mark.parametrize("name", ["store", "quantity", "numerics", "options"])
def test_an_option_with_the_name_of_what_every_result_keeps_is_refused(name):
    names = {}
    exec(f"def toy(ds, *, {name}=None): ...", names)
    with pytest.raises(stores.InputError, match=f"quantity toy has an option '{name}'; rename it"):
        analysis.quantity(reads="trajectories", numerics=1, title="A toy")(names["toy"])
