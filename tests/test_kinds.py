"""Kinds of stores and their vocabulary: what is on disk is what is said there, and nowhere else."""

import pytest

from tests import runs
from traj import stores
from traj.stores.vocabulary import COORDINATES, FORK_DIMS, VARIABLES


@pytest.fixture(params=["dataset", "trajectories", "fork", "sweep", "decoded"])
def store(request, tmp_path):
    """A store of a kind, all its variables and coordinates there and no block made."""
    path, common = tmp_path / "a.zarr", {"timestep": [40, 20], **runs.preserving([0.2, 0.8]), "shape": runs.SHAPE}
    common |= {"samples": 4, "block": 4, "config": {}}
    if request.param == "dataset":
        stores.create_dataset(path, shape=runs.SHAPE, samples=4, block=4, config={}).close()
    elif request.param == "trajectories":
        stores.create(path, log_variance=True, **common).close()
    elif request.param == "decoded":
        stores.create(tmp_path / "latents.zarr", **common).close()
        described = {"variables": ("x_t", "pred_x0", "x_0"), "shape": (3, 8, 8), "dtype": "uint8", "samples": 4}
        coords = {
            name: (str(coord.dims[0]), coord.values, coord.attrs["units"], coord.attrs["long_name"])
            for name, coord in stores.open(tmp_path / "latents.zarr", partial=True).coords.items()
        }
        stores.create_decoded(path, of="trajectories", coords=coords, block=4, config={}, **described).close()
    else:
        edits = {name: [0, 0] for name in stores.KINDS[request.param].edits} | {"at": [40, 20], "edit": ["a", "b"]}
        stores.create_forks(path, kind=request.param, variant=edits, replicas=1, states=True, **common).close()
    return stores.open(path, partial=True)


def test_a_store_has_the_variables_of_its_kind_described_as_everywhere(store):
    assert set(store.data_vars) == set(stores.KINDS[store.attrs["kind"]].variables)
    lead = () if store.attrs["kind"] in ("dataset", "trajectories", "decoded") else FORK_DIMS
    for name, array in store.data_vars.items():
        said = VARIABLES[name]
        assert array.dims == (*lead, *said.dims, *stores.IMAGE_DIMS)
        assert (array.attrs["long_name"], array.attrs["units"]) == (said.long_name, said.units)


def test_a_store_has_its_coordinates_described_as_everywhere(store):
    assert set(stores.KINDS[store.attrs["kind"]].edits) <= set(store.coords)
    for name, coord in store.coords.items():
        said = COORDINATES[name]
        assert coord.dims == said.dims
        assert (coord.attrs["long_name"], coord.attrs["units"]) == (said.long_name, said.units)


def test_every_kind_has_a_folder_of_its_own():
    assert len({kind.folder for kind in stores.KINDS.values()}) == len(stores.KINDS)
