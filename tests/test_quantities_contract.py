"""What every quantity promises, found by listing the folder."""

from __future__ import annotations

import inspect
import io
import subprocess
import sys
import typing
from functools import cache

import dask
import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import analysis_data
from tests.fork_states import fork_state_readout
from traj import analysis, stores
from traj.analysis._drawing import look_of

mpl.use("agg")

MAKERS = {
    "trajectories": [analysis_data.trajectories],
    "fork": [analysis_data.forks],
    "readout": [analysis_data.fork_readout, analysis_data.state_readout, fork_state_readout],
    "sweep": [analysis_data.sweeps],
}


CASES = [(name, make) for name in analysis.quantities() for make in MAKERS[analysis.load(name).reads]]
QUANTITIES = pytest.mark.parametrize("name", analysis.quantities())
EVERY = pytest.mark.parametrize(("name", "make"), CASES, ids=[f"{name} of {make.__name__}" for name, make in CASES])
SAMPLES, STEPS = 11, 9
TASKS_PER_BLOCK_READ, TASKS_PER_BLOCK_OF_RESULTS, TASKS_AT_LEAST = 6, 1.3, 200
"""At most 1.9 times what any quantity needs with one of the chunkings tried, so that twice as many are noticed."""


def refuse(*_, **__):
    raise AssertionError("computed while the result was only being laid out")


def lay_out(name, ds, **options):
    """Call a quantity, with the run its dataset is compared with where it needs one."""
    quantity = analysis.load(name)
    if quantity.reads == "sweep":
        run = analysis_data.baseline(*ds["x_0"].shape[3:5])
        options["baseline"] = stores.open(run) if "baseline" in quantity.stores else run
    return quantity(ds, **options)


@cache
def whole(name, make):
    """Compute a quantity of a dataset in memory."""
    return lay_out(name, make(SAMPLES, STEPS)).compute()


def largest(ds):
    """Name the variable that most of a store's bytes are in."""
    return max(ds.data_vars, key=lambda name: ds[name].nbytes)


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
    assert analysis.summary(name).endswith(".")


@EVERY
def test_nothing_is_computed_before_it_is_asked_for(name, make):
    ds = make(SAMPLES, STEPS, chunks=(4, 3))
    with dask.config.set(scheduler=refuse):
        result = lay_out(name, ds)
    assert any(variable.chunks is not None for variable in result.data_vars.values())


@pytest.mark.slow
@EVERY
@settings(max_examples=12, deadline=None, derandomize=True)
@given(data=st.data())
def test_bits_do_not_depend_on_chunks_or_workers(name, make, data):
    def cut(total):
        inner = data.draw(st.lists(st.integers(1, total - 1), unique=True, max_size=4).map(sorted))
        return tuple(np.diff([0, *inner, total]).tolist())

    ds = make(SAMPLES, STEPS, chunks=(cut(SAMPLES), cut(STEPS)))
    workers = data.draw(st.sampled_from([1, 4]))
    result = lay_out(name, ds).compute(scheduler="threads", num_workers=workers)
    assert_bits_equal(result, whole(name, make))


@EVERY
def test_what_belongs_together_may_be_cut_into_pieces(name, make):
    ds = make(SAMPLES, STEPS)
    pieces = {"sample": 5, "y": 3, "x": 5, "replica": 3, "class": 2}
    ds = analysis_data.cut(ds, pieces)
    assert_bits_equal(lay_out(name, ds).compute(), whole(name, make))


def off(name, variable):
    """How far a variable may be off: counts move by whole pixels, of which an image has 64."""
    if name != "entropy":
        return 1e-3
    if variable.endswith("_per_sample"):
        return 0.06
    if variable.endswith(("_debiased", "_bias", "_half_width")):
        return 0.04  # eight times a difference
    return 0.015 if variable.endswith("_grassberger") else 0.01  # its terms turn on whether a count is odd


@EVERY
def test_float16_stores_give_nearly_the_same(name, make):
    # Coarse bins, and not the state equal to x_0: rounding to another code counts in full there.
    options = {"bins": 16} if name == "entropy" else {}
    exact, rounded = (
        lay_out(name, make(SAMPLES, STEPS, dtype=dtype), **options)
        .compute()
        .isel(timestep=slice(-1), missing_dims="ignore")
        for dtype in ("float32", "float16")
    )
    for variable in exact.data_vars:
        if exact[variable].dtype.kind == "f" and "at" not in exact[variable].dims:
            np.testing.assert_allclose(
                rounded[variable], exact[variable], rtol=2e-4, atol=off(name, variable), err_msg=str(variable)
            )
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
    loaded = []

    def load(block, block_info=None):
        loaded.append(block_info[0]["chunk-location"])
        return block

    ds = make(SAMPLES, STEPS, chunks=(4, 3))
    states = ds[largest(ds)]
    states.data = states.data.map_blocks(load, dtype=np.float32, meta=np.empty((0,) * states.ndim, np.float32))
    lay_out(name, ds).compute()
    assert sorted(loaded) == sorted(set(loaded))
    assert len(loaded) == states.data.npartitions


@EVERY
def test_every_variable_says_what_it_is_and_in_which_unit(name, make):
    result = whole(name, make)
    assert result.attrs["quantity"] == name
    assert result.attrs["samples"] == SAMPLES
    for variable in [*result.data_vars, *({"on", "at_log_snr"} & set(result.coords))]:
        assert result[variable].attrs["long_name"], variable
        assert result[variable].attrs["units"], variable
    along = {"step", "alpha_bar"} if "timestep" in result.dims else {"at", "noise", "at_log_snr"}
    if "sample" in result.dims:
        along |= {"label"}
    assert along <= set(result.coords)


@EVERY
def test_figures_draw_what_they_have_and_say_in_plain_text_what_it_is(name, make):
    quantity, results = analysis.load(name), {"a": whole(name, make), "$b_": whole(name, make)}
    look = look_of(results)
    drawn = {figure.name: figure.draw(results, look) for figure in quantity.figures}
    assert any(figure is not None for figure in drawn.values())
    for figure in quantity.figures:
        if drawn[figure.name] is not None:
            drawn[figure.name].savefig(io.BytesIO(), format="svg")
            axes = [axis for axis in drawn[figure.name].axes if axis.get_visible()]
            assert any(axis.get_xlabel() for axis in axes)
            caption = figure.caption(results)
            assert len(caption) > 40
            assert not set("<>&") & set(caption)


@EVERY
def test_curves_landmarks_and_numbers_fit_one_another(name, make):
    quantity, result = analysis.load(name), whole(name, make)
    series = [one for curve in quantity.curves for one in curve.of(result)]
    for one in series:
        assert len({len(part) for part in one[1:]}) == 1
        known = ~np.isnan([one.low, one.high]).any(axis=0)
        assert ((one.low <= one.value) & (one.value <= one.high))[known].all()
    for mark in quantity.landmarks(result):
        assert mark.meaning
        assert np.isnan(mark.log_snr) == np.isnan(mark.timestep)
        assert np.isnan([mark.low, mark.high]).all() or mark.low <= mark.log_snr <= mark.high
    names = [number.name for number in quantity.numbers(result)]
    assert len(set(names)) == len(names)


@EVERY
def test_states_that_were_never_written_give_no_number(name, make):
    ds = make(3, 4)
    never = ds[largest(ds)]
    never[{"sample": 1}] = np.nan
    options = {"on": ("x_t",)} if "on" in inspect.signature(analysis.load(name)).parameters else {}
    result = lay_out(name, ds, **options)
    if name == "entropy":
        with pytest.raises(ValueError, match="not a number"):
            result.compute()
        return
    if name in ("phases", "redundancy"):
        assert np.isnan(result[{"phases": "phase", "redundancy": "safe_from"}[name]]).all()
        return
    measured = {"consistency": "pearson", "intervention": "ssim"}.get(name, name)
    value = result[f"state_{measured}" if make is fork_state_readout else measured]
    assert np.isnan(value.isel(sample=1)).all()
    assert np.isfinite(value.isel(sample=0)).all()
