"""What every quantity promises, found by listing the folder."""

from __future__ import annotations

import fnmatch
import inspect
import re
import subprocess
import sys
import typing
from functools import cache

import dask
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

from tests import analysis_data, bayes_data, features_data
from tests.fork_states import fork_state_readout
from traj import analysis
from traj.analysis._drawing.axis import LOG_SNR, of_information
from traj.analysis._drawing.style import look_of
from traj.stores import InputError

MAKERS = {
    "trajectories": [analysis_data.trajectories],
    "fork": [analysis_data.forks],
    "readout": [
        analysis_data.fork_readout,
        analysis_data.state_readout,
        fork_state_readout,
        bayes_data.mixture,
        features_data.readout,
    ],
    "sweep": [analysis_data.sweeps],
}


def made_for(quantity):
    """List what makes the stores that a quantity takes."""
    return [make for make in MAKERS[quantity.reads] if quantity.fits(make(2, 2).data_vars)]


CASES = [(name, make) for name in analysis.quantities() for make in made_for(analysis.load(name))]
QUANTITIES = pytest.mark.parametrize("name", analysis.quantities())
EVERY = pytest.mark.parametrize(("name", "make"), CASES, ids=[f"{name} of {make.__name__}" for name, make in CASES])
SAMPLES, STEPS = 11, 9
FEW = {"folds": 2, "directions": 2}
"""Options whose defaults need more samples of a class than these stores have."""

TASKS_PER_BLOCK_READ, TASKS_PER_BLOCK_OF_RESULTS, TASKS_AT_LEAST = 6, 1.3, 200
"""At most 1.9 times what any quantity needs with one of the chunkings tried, so that twice as many are noticed."""


def refuse(*_, **__):
    raise AssertionError("computed while the result was only being laid out")


def lay_out(name, ds, **options):
    """Call a quantity, with the other stores that it needs."""
    quantity = analysis.load(name)
    if "dataset" in quantity.stores:
        options["dataset"] = analysis_data.images(side=ds["x_0"].sizes["y"])
    if "held_out" in quantity.stores:
        options["held_out"] = analysis_data.images(side=ds["x_0"].sizes["y"], seed=3)
    if "baseline" in quantity.stores and ds.attrs["kind"] in ("fork", "sweep"):
        options["baseline"] = analysis_data.parent(ds)
    options |= {name: few for name, few in FEW.items() if name in quantity.options}
    return quantity(ds, **options)


@cache
def whole(name, make):
    """Compute a quantity of a dataset in memory."""
    return lay_out(name, make(SAMPLES, STEPS)).compute()


def largest(name, ds):
    """Name the variable that most of a store's bytes are in, of those that a quantity needs where it says which."""
    needs = analysis.load(name).needs
    needed = [one for one in ds.data_vars if any(fnmatch.fnmatch(one, need) for need in needs)]
    return max(needed or ds.data_vars, key=lambda variable: ds[variable].nbytes)


def blocks(ds):
    """Count the Dask blocks of a dataset's variables."""
    return sum(variable.data.npartitions for variable in ds.data_vars.values() if variable.chunks is not None)


def assert_bits_equal(result, expected):
    xr.testing.assert_identical(result, expected)
    for name in expected.variables:
        assert result[name].to_numpy().tobytes() == expected[name].to_numpy().tobytes(), name


def test_quantities_are_listed_and_summarised_without_being_imported():
    code = (
        "import sys, analysis; assert analysis.quantities(); "
        "assert all(analysis.summary(name) for name in analysis.quantities()); "
        "assert not {'numpy', 'numba', 'xarray'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_quantity_is_refused_with_the_names_there_are():
    for ask in (analysis.load, analysis.summary):
        with pytest.raises(ValueError, match=r"unknown quantity 'entrpy'; expected one of .*entropy, .*ssim"):
            ask("entrpy")


@QUANTITIES
def test_options_are_keyword_only_typed_documented_and_have_defaults(name):
    quantity = analysis.load(name)
    hints = typing.get_type_hints(quantity)
    ds, *options = inspect.signature(quantity).parameters.values()
    assert ds.name == "ds"
    assert hints["return"] is xr.Dataset
    for option in options:
        assert option.kind is option.KEYWORD_ONLY
        assert option.default is not option.empty
        parts = [hints[option.name], *typing.get_args(hints[option.name])]
        plain = {bool, int, float, str, type(None), ...}
        origins = {typing.get_origin(part) for part in parts} - {None}
        assert origins or parts[0] in plain
        assert f"\n{option.name}\n    " in inspect.getdoc(quantity)
    assert analysis.summary(name) == inspect.getdoc(quantity).split("\n")[0]
    bulleted = re.findall(r"(?m)^ *(?:[-*]|\d+\.) .*", inspect.getdoc(quantity))
    assert not bulleted, "the help of a command runs the lines of a list together: write paragraphs"
    assert analysis.summary(name).endswith(".")


@EVERY
def test_nothing_is_computed_before_it_is_asked_for(name, make):
    ds = make(SAMPLES, STEPS, chunks=(4, 3))
    with dask.config.set(scheduler=refuse):
        result = lay_out(name, ds)
    assert any(variable.chunks is not None for variable in result.data_vars.values())


@pytest.mark.slow
@EVERY
def test_bits_do_not_depend_on_chunks_or_workers(name, make):
    rng = np.random.default_rng(0)

    def cut(total):
        inner = np.flatnonzero(rng.random(total - 1) < 0.3) + 1
        return tuple(np.diff([0, *inner, total]).tolist())

    for workers in (4, 1):
        ds = make(SAMPLES, STEPS, chunks=(cut(SAMPLES), cut(STEPS)))
        result = lay_out(name, ds).compute(scheduler="threads", num_workers=workers)
        assert_bits_equal(result, whole(name, make))


@EVERY
def test_what_belongs_together_may_be_cut_into_pieces(name, make):
    ds = make(SAMPLES, STEPS)
    pieces = {"sample": 5, "y": 3, "x": 5, "replica": 3, "class": 2}
    ds = analysis_data.cut(ds, pieces)
    assert_bits_equal(lay_out(name, ds).compute(), whole(name, make))


def off(name, variable):
    """How far a variable may be off: entropies count whole pixels, of which an image has 64."""
    if "dataset" in analysis.load(name).stores:
        return 0.02  # weights are exponentials of sums over all values
    if variable.attrs["units"] == "degree":
        return 0.05
    if not variable.attrs["units"].startswith("bit"):
        return 1e-3
    if variable.name.endswith("_per_sample"):
        return 0.06
    if variable.name.endswith(("_debiased", "_bias", "_half_width")):
        return 0.04  # eight times a difference
    return 0.015 if variable.name.endswith("_grassberger") else 0.01  # its terms turn on whether a count is odd


@EVERY
def test_float16_stores_give_nearly_the_same(name, make):
    # Coarse bins, and not the state equal to x_0: rounding to another code counts in full there.
    options = {"bins": 16} if "bins" in analysis.load(name).options else {}
    exact, rounded = (
        lay_out(name, make(SAMPLES, STEPS, dtype=dtype), **options)
        .compute()
        .isel(timestep=slice(-1), missing_dims="ignore")
        for dtype in ("float32", "float16")
    )
    for variable in exact.data_vars.values():
        if variable.dtype.kind == "f" and "at" not in variable.dims:
            np.testing.assert_allclose(
                rounded[variable.name], variable, rtol=2e-4, atol=off(name, variable), err_msg=variable.name
            )
    stored = make(SAMPLES, STEPS, dtype="float16")
    if stored[largest(name, stored)].dtype == np.float16:
        assert any(not np.array_equal(rounded[v], exact[v], equal_nan=True) for v in exact.data_vars)


@EVERY
@pytest.mark.parametrize("chunks", [(4, 6), (96, 1), (1, 24), (8, 2)])
def test_tasks_stay_in_proportion_to_blocks(name, make, chunks):
    small = {"side": 5} if "side" in inspect.signature(make).parameters else {}
    ds = make(96, 24, chunks=chunks, **small)
    result = lay_out(name, ds)
    bound = TASKS_PER_BLOCK_READ * blocks(ds) + TASKS_PER_BLOCK_OF_RESULTS * blocks(result) + TASKS_AT_LEAST
    assert len(dict(result.__dask_graph__())) <= bound


@EVERY
def test_each_shard_is_loaded_once(name, make):
    def load(block, into, block_info=None):
        into.append(block_info[0]["chunk-location"])
        return block

    ds = make(SAMPLES, STEPS, chunks=(4, 3))
    loaded = {one: [] for one, variable in ds.data_vars.items() if variable.nbytes == ds[largest(name, ds)].nbytes}
    for variable, into in loaded.items():
        states = ds[variable]
        meta = np.empty((0,) * states.ndim, np.float32)
        states.data = states.data.map_blocks(load, into, dtype=np.float32, meta=meta)
    lay_out(name, ds).compute()
    assert any(loaded.values())
    for variable, blocks in loaded.items():
        assert len(blocks) == len(set(blocks))
        assert len(blocks) in (0, ds[variable].data.npartitions)


@EVERY
def test_every_variable_says_what_it_is_and_in_which_unit(name, make):
    result = whole(name, make)
    assert result.attrs["quantity"] == name
    assert result.attrs["samples"] == SAMPLES
    for variable in [*result.data_vars, *({"on", "at_log_snr"} & set(result.coords))]:
        assert result[variable].attrs["long_name"], variable
        assert result[variable].attrs["units"], variable
    along = {"step", "alpha_bar"} if "timestep" in result.dims else set()
    along |= {"at", "noise", "at_log_snr"} if "variant" in result.dims else set()
    if "sample" in result.dims:
        along |= {"label"}
    assert along <= set(result.coords)


def plain(text):
    """Text that a page may show as it is, after escaping it."""
    return isinstance(text, str) and text and "<" not in text and "&" not in text


@cache
def result_of(name, make, option):
    """A result as a report reads it: of a store alone, or compared with others by an option."""
    if not option:
        return whole(name, make)
    quantity = analysis.load(name)
    other = make(SAMPLES, STEPS, seed=1)
    return quantity(make(SAMPLES, STEPS), **{option: (other,) if quantity.stores[option] else other}).compute()


@cache
def axis_of_bits():
    return of_information(whole("information", analysis_data.trajectories))


COMPARED = [
    (name, make, option)
    for name in analysis.quantities()
    for option, kind in analysis.load(name).reads_with.items()
    for make in MAKERS[kind]
]
RESULTS = pytest.mark.parametrize(
    ("name", "make", "option"),
    [*((name, make, "") for name, make in CASES), *COMPARED],
    ids=lambda value: getattr(value, "__name__", value) or "alone",
)


@QUANTITIES
def test_a_quantity_says_what_it_is_and_what_it_reads(name):
    quantity = analysis.load(name)
    assert quantity.name == name
    assert plain(quantity.title)
    assert plain(quantity.source)
    assert quantity.numerics >= 1
    assert made_for(quantity)
    assert {quantity.reads, *quantity.reads_with.values()} <= set(MAKERS)
    assert set(quantity.reads_with) <= set(quantity.stores)
    assert quantity.figures
    documented = inspect.getdoc(quantity)
    for section in ("Parameters", "Raises"):
        assert f"\n\n{section}\n{'-' * len(section)}\n" in documented


@EVERY
def test_memory_is_told_before_anything_is_computed(name, make):
    quantity = analysis.load(name)
    defaults = {option: parameter.default for option, parameter in quantity.options.items()}
    with dask.config.set(scheduler=refuse):
        assert quantity.memory(make(SAMPLES, STEPS, chunks=(4, 3)), **defaults) >= 0


@RESULTS
def test_every_figure_is_drawn_of_every_result_or_has_nothing_for_it(name, make, option):
    result = result_of(name, make, option)
    figures = analysis.load(name).figures
    assert len({figure.name for figure in figures}) == len(figures)
    odd = {"$a & b_": result, "_<other>": result}
    for results, axis in (({"one": result}, axis_of_bits()), (odd, LOG_SNR)):
        look = look_of(results)._replace(axis=axis)
        drawn = {figure: figure.draw(results, look) for figure in figures}
        assert any(drawing is not None for drawing in drawn.values()) or option
        for figure, drawing in drawn.items():
            assert plain(figure.title)
            if drawing is not None:
                assert isinstance(drawing, Figure)
                if results is odd:  # to write it as SVG takes as long again, to lay it out four times as long
                    drawing.set_layout_engine("none")
                    drawing.draw_without_rendering()
                assert any(axis.get_xlabel() or axis.get_title() for axis in drawing.axes)
                caption = figure.caption(results)
                assert plain(caption.replace("$a & b_", "").replace("_<other>", ""))
                assert len(caption) > 40
                assert caption.endswith(".")
    assert not plt.get_fignums()  # a figure of pyplot stays in memory until it is closed


@RESULTS
def test_landmarks_lie_within_the_process_and_within_their_intervals(name, make, option):
    result = result_of(name, make, option)
    along = next((result[dim].to_numpy() for dim in ("timestep", "at") if dim in result.coords), np.array([np.nan]))
    for mark in analysis.load(name).landmarks(result):
        assert re.fullmatch(r"[a-z0-9_]+", mark.name)
        assert plain(mark.meaning)
        assert np.isnan(mark.timestep) or along.min() <= mark.timestep <= along.max()
        assert np.isnan(mark.timestep) == np.isnan(mark.log_snr)
        assert np.isnan(mark.low) == np.isnan(mark.high)
        assert np.isnan(mark.low) or mark.low <= mark.log_snr <= mark.high


@RESULTS
def test_numbers_are_numbers_or_never(name, make, option):
    numbers = analysis.load(name).numbers(result_of(name, make, option))
    for number in numbers:
        assert re.fullmatch(r"[a-z0-9_]+", number.name)
        assert plain(number.meaning)
        assert not np.isinf([number.value, number.low, number.high]).any()
        assert np.isnan(number.low) or number.low <= number.value <= number.high
    assert len({number.name for number in numbers}) == len(numbers)


@RESULTS
def test_curves_are_as_long_as_the_process_they_lie_over(name, make, option):
    for curve in analysis.load(name).curves:
        series = curve.of(result_of(name, make, option))
        for one in series:
            assert len({len(part) for part in one[1:]}) == 1
            band = ~np.isnan(one.low) & ~np.isnan(one.value)
            assert (one.low[band] <= one.value[band]).all()
            assert (one.value[band] <= one.high[band]).all()
        assert len({one.on for one in series}) == len(series)


@RESULTS
def test_tables_are_plain_text_with_a_cell_for_each_column(name, make, option):
    result = result_of(name, make, option)
    for table in analysis.load(name).tables({"one": result, "other": result}):
        assert plain(table.title)
        assert set(table.numbers) <= set(range(len(table.head)))
        for row in table.rows:
            assert len(row) == len(table.head)
        assert not any("<" in text for text in (*table.head, table.note, *(cell for row in table.rows for cell in row)))


@EVERY
def test_states_that_were_never_written_give_no_number(name, make):
    ds = make(8, 4)
    for variable in ds.data_vars.values():
        variable[{"sample": 1}] = np.nan
    try:
        result = lay_out(name, ds).compute()
    except InputError as error:
        refused = str(error)
    else:
        refused = ""
    if refused:
        assert "not a number" in refused
        return
    numbers = [variable for variable in result.data_vars.values() if variable.dtype.kind == "f"]
    of_samples = [variable for variable in numbers if "sample" in variable.dims]
    for variable in of_samples:
        assert np.isnan(variable.isel(sample=1)).all(), variable.name
    assert any(np.isfinite(variable.isel(sample=0)).any() for variable in of_samples) or not of_samples
    assert any(np.isnan(variable).all() for variable in numbers) or of_samples
