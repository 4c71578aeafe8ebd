import json
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

from tests import runs
from traj import stores


def test_a_bare_environment_opens_a_store_without_a_warning(tmp_path):
    path = runs.make(tmp_path / "run.zarr")
    stores.save(result(), tmp_path / "entropy.zarr", {"quantity": "entropy"})
    code = f"""
import sys
sys.path = [p for p in sys.path if p not in ("", {str(runs.__file__)!r})]
import xarray as xr
ds = xr.open_zarr({str(path)!r})
assert ds.x_t.sel(timestep=50).compute().shape == (16, 1, 8, 8)
assert ds.label.dims == ("sample",) and "alpha_bar" in ds.coords and ds.x_t.attrs["valid_range"] == [-1, 1]
assert list(xr.open_zarr("entropy.zarr").on.values) == ["x_t", "pred_x0"]
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


@pytest.mark.parametrize("file", ["timestep/c/0", "alpha_bar/c/0", "label/c/0", "x_t/c.1.0.0.0.0", "x_0/c.3.0.0.0"])
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


def flips(content):
    """Every byte of a file with one bit of it changed, but for changes of white space that JSON does not see."""
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 7
        yield bytes(flipped)


def longer(flipped, content):
    try:
        found, written = json.loads(flipped), json.loads(content)
        return found | {"shape": 0} == written | {"shape": 0} and found["shape"] > written["shape"]
    except (ValueError, KeyError, TypeError):
        return False


@pytest.mark.parametrize("name", ["done", "manifest", "label"])
def test_no_changed_byte_of_an_arrays_metadata_is_read_as_something_else(tmp_path, name):
    path = runs.make(tmp_path / "run.zarr", 8, dtype="float16")
    expected, file = stores.open(path).compute(), path / name / "zarr.json"
    content = file.read_bytes()
    for flipped in flips(content):
        file.write_bytes(flipped)
        if longer(flipped, content):  # as an extension that was killed leaves it
            assert stores.open(path).compute().equals(expected)
            continue
        for read in (stores.open, stores.describe):
            with pytest.raises(stores.DamagedStore, match=re.escape(str(file))):
                read(path)


@pytest.mark.parametrize("place", ["zarr.json", "done/zarr.json"])
def test_metadata_that_is_damaged_and_still_json_is_named_by_every_verb(tmp_path, place):
    from click.testing import CliRunner

    from traj.pipeline.cli import main

    path = runs.make(tmp_path / "run.zarr", 8)
    (path / place).write_text((path / place).read_text().replace('"attributes"', '"attributer"', 1))
    for arguments in (["info", path], ["verify", path], ["analyze", "psnr", path, "-o", tmp_path / "out"]):
        result = CliRunner().invoke(main, list(map(str, arguments)))
        assert result.exit_code == 1
        assert place in result.output


@pytest.mark.parametrize("name", ["done", "manifest"])
def test_a_damaged_flag_is_named(tmp_path, name):
    path = runs.make(tmp_path / "run.zarr", 8, dtype="float16")
    file = path / name / "c" / "1"
    file.write_bytes(b"\x05" + file.read_bytes()[1:])
    with pytest.raises(stores.DamagedStore, match=re.escape(str(file))):
        stores.describe(path)


def test_a_folder_in_the_place_of_a_shard_is_refused(tmp_path):
    path = runs.make(tmp_path / "run.zarr")
    (path / "x_t" / "c.1.0.0.0.0").unlink()
    (path / "x_t" / "c.1.0.0.0.0").mkdir()
    with pytest.raises(stores.DamagedStore, match=r"x_t/c\.1\.0\.0\.0\.0 is a folder"):
        stores.open(path)
    assert stores.verify(path) == ["x_t/c.1.0.0.0.0 (block 1): a folder"]


@pytest.mark.parametrize("finished", [True, False])
def test_an_extension_between_the_check_and_the_reading_is_seen(tmp_path, monkeypatch, finished):
    from traj.stores import reader

    path = runs.make(tmp_path / "run.zarr", 8)
    check = reader.require_complete

    def extended_meanwhile(*arguments):
        check(*arguments)
        monkeypatch.setattr(reader, "require_complete", check)
        with runs.create(path, 16) as store:
            if finished:
                runs.fill(store)

    monkeypatch.setattr(reader, "require_complete", extended_meanwhile)
    if finished:
        assert np.isfinite(stores.open(path).x_t.compute()).all()
        assert stores.open(path).sizes["sample"] == 16
    else:
        with pytest.raises(stores.IncompleteStore, match="2 of 4 blocks were not finished"):
            stores.open(path)


def test_a_slice_of_timesteps_selects_the_same_from_either_end(tmp_path):
    path = runs.make(tmp_path / "run.zarr")
    ds = stores.open(path)
    expected = [40, 30, 20]
    for one in (ds, ds.isel(sample=[0]), pickle.loads(pickle.dumps(ds)), xr.Dataset({"a": ds.x_t}, ds.coords)):
        for ends in (slice(20, 40), slice(40, 20), slice(15, 45), slice(45, 15)):
            assert one.sel(timestep=ends).timestep.values.tolist() == expected
    assert ds.sel(timestep=slice(None, 30)).timestep.values.tolist() == [50, 40, 30]
    assert ds.sel(timestep=slice(20, None)).timestep.values.tolist() == [20, 10, 0]
    assert ds.sortby("timestep").sel(timestep=slice(20, 40)).timestep.values.tolist() == [20, 30, 40]
    for part in (ds.isel(timestep=slice(1, None)), ds.isel(timestep=[0, 1, 2, 3, 4])):
        assert part.sel(timestep=slice(20, 40)).timestep.values.tolist() == expected
    joined = xr.concat(
        [ds.isel(timestep=slice(0, 2)), ds.isel(timestep=slice(2, None))], "timestep", data_vars="minimal"
    )
    assert joined.sel(timestep=slice(20, 40)).timestep.values.tolist() == expected


def test_timesteps_of_a_store_align_with_those_of_any_dataset(tmp_path):
    path = runs.make(tmp_path / "run.zarr")
    ds, plain = stores.open(path), xr.open_zarr(path, chunks=None)
    assert ds.timestep.attrs == plain.timestep.attrs
    assert (ds.x_t - plain.x_t.isel(timestep=[1, 2])).sizes["timestep"] == 2
    assert (plain.x_t - ds.x_t.isel(timestep=[1, 2])).sizes["timestep"] == 2
    assert xr.align(ds.isel(timestep=[0, 1]), plain.isel(timestep=[1, 2]), join="outer")[0].sizes["timestep"] == 3
    xr.testing.assert_identical(ds.x_0.compute(), plain.x_0.compute())
    xr.testing.assert_identical(ds.timestep, plain.timestep)


def test_done_tells_a_reader_with_xarray_alone_which_blocks_are_there(tmp_path):
    path = runs.make(tmp_path / "run.zarr", 10, environment={"torch": "a"})
    with runs.create(path, 16, environment={"torch": "b"}) as store:
        assert xr.open_zarr(path).done.values.tolist() == [1, 1, 0, 0]
        runs.fill(store, [3])
    ds = xr.open_zarr(path)
    assert ds.done.values.tolist() == [1, 1, 0, 1]
    assert np.isfinite(ds.x_t.isel(sample=slice(12, 16))).all()
    texts = ds.manifest.values[ds.done.values == 1].tolist()
    assert [json.loads(text)["environment"]["torch"] for text in texts] == ["a", "a", "b"]
