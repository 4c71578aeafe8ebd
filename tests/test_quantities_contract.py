"""What every quantity promises, found by listing the folder."""

from __future__ import annotations

import inspect
import subprocess
import sys
import typing

import dask
import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import analysis
from tests.analysis_data import trajectories

mpl.use("agg")

QUANTITIES = pytest.mark.parametrize("name", analysis.quantities())
SAMPLES, STEPS = 11, 9
TASKS_PER_SHARD, TASKS_AT_LEAST = 25, 400


def refuse(*_, **__):
    raise AssertionError("computed while the result was only being laid out")


@pytest.fixture(scope="module")
def whole():
    """Every quantity of one dataset in memory, by name."""
    ds = trajectories(SAMPLES, STEPS)
    return {name: analysis.load(name)(ds).compute() for name in analysis.quantities()}


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
        with pytest.raises(ValueError, match=r"unknown quantity 'entrpy'; expected one of entropy, .*ssim"):
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


@QUANTITIES
def test_nothing_is_computed_before_it_is_asked_for(name):
    ds = trajectories(SAMPLES, STEPS, chunks=(4, 3))
    with dask.config.set(scheduler=refuse):
        result = analysis.load(name)(ds)
    assert any(variable.chunks is not None for variable in result.data_vars.values())


@QUANTITIES
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_bits_do_not_depend_on_chunks_or_workers(name, whole, data):
    def cut(total):
        inner = data.draw(st.lists(st.integers(1, total - 1), unique=True, max_size=4).map(sorted))
        return tuple(np.diff([0, *inner, total]).tolist())

    ds = trajectories(SAMPLES, STEPS, chunks=(cut(SAMPLES), cut(STEPS)))
    workers = data.draw(st.sampled_from([1, 4]))
    result = analysis.load(name)(ds).compute(scheduler="threads", num_workers=workers)
    assert_bits_equal(result, whole[name])


@QUANTITIES
def test_images_cut_into_pieces_are_put_together(name, whole):
    ds = trajectories(SAMPLES, STEPS).chunk({"sample": 5, "y": 3, "x": 5})
    assert_bits_equal(analysis.load(name)(ds).compute(), whole[name])


@QUANTITIES
def test_float16_stores_give_nearly_the_same(name):
    # Coarse bins, and not the state equal to x_0: rounding to another code counts in full there.
    options = {"bins": 16} if name == "entropy" else {}
    exact, rounded = (
        analysis.load(name)(trajectories(SAMPLES, STEPS, dtype=dtype), **options).compute().isel(timestep=slice(-1))
        for dtype in ("float32", "float16")
    )
    for variable in exact.data_vars:
        if exact[variable].dtype.kind == "f" and "at" not in exact[variable].dims:
            tolerance = 0.1 if "per_sample" in str(variable) or exact[variable].attrs["units"] == "dB" else 0.01
            np.testing.assert_allclose(rounded[variable], exact[variable], atol=tolerance, err_msg=str(variable))
    assert any(not np.array_equal(rounded[v], exact[v], equal_nan=True) for v in exact.data_vars)


@QUANTITIES
@pytest.mark.parametrize("chunks", [(4, 6), (96, 1), (1, 24), (8, 2)])
def test_tasks_stay_in_proportion_to_shards(name, chunks):
    ds = trajectories(96, 24, side=5, chunks=chunks)
    shards = ds["x_t"].data.npartitions + ds["pred_x0"].data.npartitions
    assert len(dict(analysis.load(name)(ds).__dask_graph__())) <= TASKS_PER_SHARD * shards + TASKS_AT_LEAST


@QUANTITIES
def test_each_shard_is_loaded_once(name):
    loaded = []

    def load(block, block_info=None):
        loaded.append(block_info[0]["chunk-location"])
        return block

    ds = trajectories(SAMPLES, STEPS, chunks=(4, 3))
    ds["x_t"].data = ds["x_t"].data.map_blocks(load, dtype=np.float32, meta=np.empty((0,) * 5, np.float32))
    analysis.load(name)(ds).compute()
    assert sorted(loaded) == sorted(set(loaded))
    assert len(loaded) == 9


@QUANTITIES
def test_every_variable_says_what_it_is_and_in_which_unit(name, whole):
    result = whole[name]
    assert result.attrs["quantity"] == name
    assert result.attrs["samples"] == SAMPLES
    for variable in [*result.data_vars, "on"]:
        assert result[variable].attrs["long_name"], variable
        assert result[variable].attrs["units"], variable
    assert {"step", "alpha_bar", "label"} <= set(result.coords)


@QUANTITIES
def test_the_figure_has_a_line_and_a_band_for_each_variable(name, whole):
    module = sys.modules[analysis.load(name).__module__]
    ax = module.plot(whole[name])
    assert len(ax.lines) == len(ax.collections) == 2
    assert ax.get_xlabel()
    assert ax.get_ylabel()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["x_t", "pred_x0"]
    assert module.plot(whole[name], ax) is ax
    mpl.pyplot.close("all")


@QUANTITIES
def test_states_that_were_never_written_give_no_number(name):
    ds = trajectories(3, 4)
    ds["x_t"][1] = np.nan
    result = analysis.load(name)(ds, on=("x_t",))
    if name == "entropy":
        with pytest.raises(ValueError, match="not a number"):
            result.compute()
        return
    assert np.isnan(result[name].isel(sample=1)).all()
    assert np.isfinite(result[name].isel(sample=0)).all()
