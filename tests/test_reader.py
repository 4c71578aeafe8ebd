import re
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

import stores
from tests import runs


def test_a_bare_environment_opens_a_store_without_a_warning(tmp_path):
    path = runs.make(tmp_path / "run.zarr")
    code = f"""
import sys
sys.path = [p for p in sys.path if p not in ("", {str(runs.__file__)!r})]
import xarray as xr
ds = xr.open_zarr({str(path)!r})
assert ds.x_t.sel(timestep=50).compute().shape == (16, 1, 8, 8)
assert ds.label.dims == ("sample",) and "alpha_bar" in ds.coords and ds.x_t.attrs["valid_range"] == [-1, 1]
assert not {{"stores", "torch", "numba"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=tmp_path)


def test_one_dask_chunk_per_shard(tmp_path):
    ds = stores.open(runs.make(tmp_path / "run.zarr", 10))
    assert ds.x_t.chunks == ((4, 4, 2), (6,), (1,), (8,), (8,))
    assert ds.x_0.chunks == ((4, 4, 2), (1,), (8,), (8,))
    assert len(ds.x_t.data.dask) <= 2 * 3 + 2


def test_coordinates_say_where_each_state_stands(tmp_path):
    ds = stores.open(runs.make(tmp_path / "run.zarr"))
    np.testing.assert_allclose(ds.sigma, np.sqrt((1 - ds.alpha_bar) / ds.alpha_bar))
    np.testing.assert_allclose(ds.log_snr, -2 * np.log(ds.sigma))
    assert ds.timestep.values.tolist() == [50, 40, 30, 20, 10, 0]
    assert (ds.label == -1).all()


def test_an_incomplete_store_is_refused_by_count(tmp_path):
    with runs.create(tmp_path / "run.zarr") as store:
        runs.fill(store, [0, 2])
    with pytest.raises(stores.IncompleteStore, match=r"2 of 4 blocks were not finished \(block 1, 3\)"):
        stores.open(tmp_path / "run.zarr")
    partial = stores.open(tmp_path / "run.zarr", partial=True).x_t.compute()
    assert np.isfinite(partial.isel(sample=slice(0, 4))).all()
    assert np.isnan(partial.isel(sample=slice(4, 8))).all()


def test_a_deleted_shard_is_refused_by_name(tmp_path):
    path = runs.make(tmp_path / "run.zarr")
    (path / "pred_x0" / "c.2.0.0.0.0").unlink()
    with pytest.raises(stores.IncompleteStore, match=r"block 2 is flagged as done but pred_x0/c\.2\.0\.0\.0\.0"):
        stores.open(path)


@pytest.mark.parametrize("file", ["timestep/c/0", "alpha_bar/c/0", "label/c/1", "x_t/c.1.0.0.0.0", "x_0/c.3.0.0.0"])
@pytest.mark.parametrize("how", ["missing", "empty"])
def test_no_missing_or_empty_file_passes_for_fill_values(tmp_path, file, how):
    path = runs.make(tmp_path / "run.zarr")
    (path / file).unlink()
    if how == "empty":
        (path / file).touch()
    with pytest.raises(stores.IncompleteStore, match=re.escape(file)):
        stores.open(path)


def test_a_result_with_a_missing_file_is_refused(tmp_path):
    stores.save(result(), tmp_path / "a.zarr", {"quantity": "entropy"})
    (tmp_path / "a.zarr" / "entropy" / "c.0.0").unlink()
    with pytest.raises(stores.IncompleteStore, match=r"entropy/c\.0\.0"):
        stores.open(tmp_path / "a.zarr")


def test_no_changed_bit_of_the_metadata_passes_or_ends_in_another_error(tmp_path):
    path = runs.make(tmp_path / "run.zarr")
    content = (path / "zarr.json").read_bytes()
    for place in range(0, len(content), 97):
        flipped = bytearray(content)
        flipped[place] ^= 2
        (path / "zarr.json").write_bytes(flipped)
        if flipped[place] in b" \n\t" or content[place] in b" \n\t":
            continue  # whitespace is for `verify` to find
        with pytest.raises((stores.DamagedStore, stores.NotAStore)):
            stores.open(path)


@pytest.mark.parametrize("path", ["nowhere", "empty", "other.zarr"])
def test_what_is_no_store_is_named(tmp_path, path):
    (tmp_path / "empty").mkdir()
    xr.Dataset({"a": ("b", [1.0])}).to_zarr(tmp_path / "other.zarr", consolidated=False)
    with pytest.raises(stores.NotAStore, match=path):
        stores.open(tmp_path / path)


def test_a_damaged_coordinate_is_a_clear_error(tmp_path):
    path = runs.make(tmp_path / "run.zarr")
    file = path / "alpha_bar" / "c" / "0"
    file.write_bytes(b"\xff" + file.read_bytes()[1:])
    with pytest.raises(stores.DamagedStore, match="traj verify"):
        stores.open(path)


def result():
    return xr.Dataset(
        {"entropy": (("on", "timestep"), [[1.0, np.nan], [3.0, 4.0]], {"units": "bit"}), "total": 3},
        {"on": ["x_t", "pred_x0"], "timestep": [10, 0]},
    )


def test_a_result_comes_back_as_it_was_and_verifies(tmp_path):
    path = tmp_path / "entropy.zarr"
    stores.save(result(), path, {"quantity": "entropy"})
    xr.testing.assert_equal(stores.open(path), result())
    assert stores.verify(path) == []
    code = f"import xarray as xr; assert list(xr.open_zarr({str(path)!r}).on.values) == ['x_t', 'pred_x0']"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=tmp_path)


def test_saving_the_same_result_again_changes_nothing(tmp_path):
    for name in ("a.zarr", "b.zarr"):
        stores.save(result(), tmp_path / name, {"quantity": "entropy"})
    assert runs.digest(tmp_path / "a.zarr") == runs.digest(tmp_path / "b.zarr")
    stores.save(result() * 2, tmp_path / "a.zarr", {"quantity": "entropy"})
    assert runs.digest(tmp_path / "a.zarr") == runs.digest(tmp_path / "b.zarr")


def test_a_result_with_other_options_is_refused(tmp_path):
    stores.save(result(), tmp_path / "a.zarr", {"bins": 16})
    with pytest.raises(stores.StaleStore, match="-o"):
        stores.save(result(), tmp_path / "a.zarr", {"bins": 256})
    assert stores.would_keep(tmp_path / "a.zarr", {"bins": 16}) is stores.Kept.SAME
    assert stores.would_keep(tmp_path / "b.zarr", {"bins": 16}) is stores.Kept.ABSENT
