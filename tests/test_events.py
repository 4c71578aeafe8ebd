"""Events of any number of dims: films, sounds and vectors are stored, read, made and analysed like images."""

import numpy as np
import pytest
import xarray as xr

from tests import runs
from traj import stores

DIMS = {
    (6,): ("feature",),
    (2, 5): ("channel", "position"),
    (1, 4, 3): ("channel", "y", "x"),
    (1, 3, 4, 2): ("channel", "frame", "y", "x"),
}
shapes = pytest.mark.parametrize("shape", DIMS)


@shapes
def test_events_of_every_shape_come_back_as_written(tmp_path, shape):
    path = runs.make(tmp_path / "run.zarr", 6, shape=shape, keepbits=None)
    ds = stores.open(path)
    assert ds.x_0.dims == ("sample", *DIMS[shape])
    assert ds.x_t.dims == ds.pred_x0.dims == ("sample", "timestep", *DIMS[shape])
    for step in range(6):
        blocks = [runs.states(block, step, shape=shape)[1] for block in range(2)]
        np.testing.assert_array_equal(ds.pred_x0[:, step], np.concatenate(blocks)[:6])
    assert stores.verify(path, deep=True) == []
    with runs.create(path, 10, shape=shape) as store:
        runs.fill(store)
    assert stores.open(path).sizes["sample"] == 10
    assert stores.verify(path, deep=True) == []


@shapes
def test_a_lost_file_of_any_shape_is_named(tmp_path, shape):
    path = runs.make(tmp_path / "run.zarr", 8, shape=shape)
    file = f"x_t/c.1.0{'.0' * len(shape)}"
    (path / file).unlink()
    assert [problem.split(" ")[0] for problem in stores.verify(path)] == [file]


@shapes
def test_states_that_forks_never_had_are_not_counted_in_any_shape(tmp_path, shape):
    timestep = [20, 10]
    with stores.create_forks(
        tmp_path / "fork.zarr",
        variant={"at": [20, 10]},
        replicas=1,
        timestep=timestep,
        **runs.preserving([0.1, 0.5]),
        shape=shape,
        samples=4,
        block=4,
        config={},
        states=True,
    ) as store:
        for step in range(2):
            x_t = np.zeros((2, 1, 4, *shape), "f4")
            x_t[1, :, :, ...] = 0 if step else np.nan
            store.put(0, step, x_t, x_t)
        store.finish(0, np.zeros((2, 1, 4, *shape), "f4"))
    assert stores.verify(tmp_path / "fork.zarr", deep=True) == []
    assert stores.describe(tmp_path / "fork.zarr")["not_finite"] == {}


def test_dims_named_by_the_store_are_part_of_what_it_is(tmp_path):
    path = runs.make(tmp_path / "run.zarr", 4, shape=(2, 3, 4), dims=("lead", "electrode", "time"))
    assert xr.open_zarr(path).x_t.dims == ("sample", "timestep", "lead", "electrode", "time")
    assert stores.verify(path, deep=True) == []
    with pytest.raises(stores.StaleStore, match="dims"):
        runs.create(path, 4, shape=(2, 3, 4))
    image = runs.make(tmp_path / "image.zarr", 4, shape=(2, 3, 4), dims=("channel", "y", "x"))
    assert runs.digest(image) == runs.digest(runs.make(tmp_path / "usual.zarr", 4, shape=(2, 3, 4)))


@pytest.mark.parametrize(
    ("shape", "dims", "message"),
    [
        ((), None, "one or more lengths"),
        ((1, 0, 8), None, "each at least 1"),
        ((1, 2, 3, 4, 5), None, "name its 5 dims in `dims`"),
        ((2, 3), ("channel",), "a different name for each"),
        ((2, 3), ("x", "x"), "a different name for each"),
        ((2,), "feature", "a different name for each"),
        ((2,), ("sample",), "cannot name an event's"),
        ((2,), ("sigma",), "cannot name an event's"),
        ((2,), ("a b",), "cannot name an event's"),
    ],
)
def test_shapes_and_dims_that_no_event_has_are_refused(tmp_path, shape, dims, message):
    with pytest.raises(ValueError, match=message):
        runs.create(tmp_path / "run.zarr", shape=shape, dims=dims)
    assert not list(tmp_path.iterdir())
