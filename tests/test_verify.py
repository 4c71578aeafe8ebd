import numpy as np
import pytest

from tests import runs
from traj import stores


def test_a_whole_store_has_no_problems(tmp_path):
    assert stores.verify(runs.make(tmp_path / "run.zarr", 10), deep=True) == []


@pytest.mark.slow
def test_a_flipped_byte_in_any_file_is_found_and_named(tmp_path):
    path = runs.make(tmp_path / "run.zarr", 6)
    rng = np.random.default_rng(0)
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    assert len(files) > 30
    for file in files:
        content = file.read_bytes()
        for place in {0, len(content) - 1, *rng.integers(0, len(content), 3).tolist()}:
            flipped = bytearray(content)
            flipped[place] ^= 1 << int(rng.integers(8))
            file.write_bytes(flipped)
            problems = stores.verify(path)
            assert problems, f"{file} byte {place}"
            assert any(str(file.relative_to(path)).removesuffix("/zarr.json") in line for line in problems) or (
                file.parent.parent.name == "done"
            )
            file.write_bytes(content)
    assert stores.verify(path) == []


def test_a_missing_file_of_any_kind_is_named(tmp_path):
    path = runs.make(tmp_path / "run.zarr", 6)
    for file in sorted(path.rglob("*")):
        if file.is_file() and file != path / "zarr.json":
            content = file.read_bytes()
            file.unlink()
            assert stores.verify(path), file
            file.write_bytes(content)


def test_the_bad_block_is_named(tmp_path):
    path = runs.make(tmp_path / "run.zarr")
    file = path / "x_t" / "c.2.0.0.0.0"
    content = bytearray(file.read_bytes())
    content[100] ^= 4
    file.write_bytes(content)
    assert stores.verify(path) == ["x_t/c.2.0.0.0.0 (block 2): the checksum of chunk 0 does not hold"]


def test_unfinished_blocks_are_listed_without_false_alarms(tmp_path):
    with runs.create(tmp_path / "run.zarr") as store:
        runs.fill(store, [1])
    assert stores.verify(tmp_path / "run.zarr") == [f"block {block} is not done" for block in (0, 2, 3)]


def test_deep_finds_values_that_are_not_finite(tmp_path):
    with runs.create(tmp_path / "run.zarr", 6) as store:
        for block in store.pending:
            for step in range(6):
                x_t, pred_x0 = runs.states(block, step)
                if (block, step) == (1, 3):
                    pred_x0[0, 0, 0, 0] = np.inf
                store.put(block, step, x_t, pred_x0)
            store.finish(block, x_t)
    assert stores.verify(tmp_path / "run.zarr") == []
    assert stores.verify(tmp_path / "run.zarr", deep=True) == ["pred_x0 (block 1): 1 value(s) not finite"]


def test_a_changed_configuration_breaks_the_fingerprint(tmp_path):
    import json

    from traj.stores.layout import metadata_checksum, metadata_text

    path = runs.make(tmp_path / "run.zarr")
    root = json.loads((path / "zarr.json").read_text())
    root["attributes"]["config"] = root["attributes"]["config"].replace('"seed":0', '"seed":1')
    root["attributes"]["checksum"] = metadata_checksum(root)
    (path / "zarr.json").write_text(metadata_text(root))
    assert stores.verify(path) == ["zarr.json: the fingerprint is not the hash of the configuration"]


def test_no_store_is_an_error_not_a_clean_bill(tmp_path):
    with pytest.raises(stores.NotAStore):
        stores.verify(tmp_path)
