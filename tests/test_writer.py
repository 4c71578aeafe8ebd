"""What is written is what was put, whatever the block, the sample count and the number format."""

import contextlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from numcodecs.bitround import BitRound

from tests import runs
from tests.test_forks_and_readouts_on_disk import create_readout, logits, make_forks
from traj import stores
from traj.stores import arrays, layout, shards


def test_what_is_read_is_what_was_put(tmp_path):
    ds = stores.open(runs.make(tmp_path / "run.zarr", 10))
    assert ds.sizes == {"sample": 10, "timestep": 6, "channel": 1, "y": 8, "x": 8}
    for step in range(6):
        expected = np.concatenate([runs.states(block, step)[0] for block in range(3)])[:10]
        np.testing.assert_array_equal(ds.x_t.isel(timestep=step), expected)
        np.testing.assert_array_equal(ds.pred_x0.isel(timestep=step), np.tanh(expected))


def test_our_shards_are_byte_for_byte_those_of_zarr_python(tmp_path):
    path = runs.make(tmp_path / "run.zarr", 10, block=6, timesteps=np.arange(300)[::-1], shape=(1, 16, 16))
    for name in ("x_t", "x_0"):
        ours = zarr.open_array(path / name, mode="r")
        theirs = zarr.create_array(
            tmp_path / f"{name}.zarr",
            shape=ours.shape,
            chunks=ours.chunks,
            shards=ours.shards,
            dtype=ours.dtype,
            fill_value=ours.fill_value,
            compressors=ours.compressors,
            chunk_key_encoding={"name": "default", "separator": "."},
        )
        theirs[:] = ours[:]
        for file in (tmp_path / f"{name}.zarr").glob("c.*"):
            mine, other = (path / name / file.name).read_bytes(), file.read_bytes()
            # zarr-python orders chunks within the file by Morton code, so compare chunk by chunk.
            count = int(np.prod([s // c for s, c in zip(ours.shards, ours.chunks, strict=True)]))
            for a, b in zip(shards.read_index(mine, count), shards.read_index(other, count), strict=True):
                assert mine[a[0] : sum(a)] == other[b[0] : sum(b)]


def files(folder):
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("chunk", [4, arrays.SAMPLES_PER_CHUNK])
@pytest.mark.parametrize(
    "values", [[2, 1, 0, 5], [0.5, np.nan, 1.0, 2.0], ["a", "", "\u00e9t\u00e9", "b"], [True, False] * 2]
)
def test_our_coordinates_are_byte_for_byte_those_of_zarr_python(tmp_path, values, chunk):
    values = np.array(values)
    arrays.write_coordinate(tmp_path / "ours", layout.Coord("sample", values, "nat", "what it is"), chunk)
    text = values.dtype.kind == "U"
    crc32c = zarr.codecs.Crc32cCodec()
    blosc = layout.bitshuffle_lz4(1 if text else values.dtype.itemsize)
    theirs = zarr.create_array(
        tmp_path / "theirs",
        shape=values.shape,
        chunks=(chunk,),
        dtype=str if text else values.dtype,
        fill_value=arrays.fill_of("string" if text else values.dtype.name),
        compressors=[crc32c] if chunk == 4 else [blosc, crc32c],
        dimension_names=["sample"],
        attributes={"long_name": "what it is", "units": "nat"},
        config={"write_empty_chunks": True},
    )
    theirs[:] = values.astype(object) if text else values
    ours, expected = files(tmp_path / "ours"), files(tmp_path / "theirs")
    metadata = Path("zarr.json")
    assert json.loads(ours.pop(metadata)) == json.loads(expected.pop(metadata))
    assert ours == expected


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
@pytest.mark.parametrize("shards", [None, (8, 6)])
def test_our_metadata_are_those_of_zarr_python(tmp_path, dtype, shards):
    arrays.create_array(
        tmp_path / "ours",
        dtype=dtype,
        dims=("sample", "timestep"),
        shape=(16, 6),
        chunks=(4, 3),
        attributes={"units": "1", "valid_range": (-1.0, 1.0)},
        compressed=True,
        shards=shards,
        separator=".",
    )
    zarr.create_array(
        tmp_path / "theirs",
        shape=(16, 6),
        chunks=(4, 3),
        shards=shards,
        dtype=dtype,
        fill_value=arrays.fill_of(dtype),
        compressors=[layout.bitshuffle_lz4(np.dtype(dtype).itemsize), zarr.codecs.Crc32cCodec()],
        chunk_key_encoding=layout.FLAT_KEYS,
        dimension_names=("sample", "timestep"),
        attributes={"units": "1", "valid_range": (-1.0, 1.0)},
    )
    ours, theirs = (json.loads((tmp_path / name / "zarr.json").read_text()) for name in ("ours", "theirs"))
    assert ours == theirs


def test_each_shard_is_written_once(tmp_path, monkeypatch):
    written = []
    original = shards.ShardFile
    monkeypatch.setattr("traj.stores.writer.ShardFile", lambda path, *a: written.append(path) or original(path, *a))
    path = runs.make(tmp_path / "run.zarr", 10)
    on_disk = sorted(file for name in ("x_t", "pred_x0", "x_0") for file in (path / name).glob("c.*"))
    assert sorted(written) == on_disk
    assert len(on_disk) == 9


def test_shards_their_folders_and_the_manifest_are_on_disk_before_a_block_is_flagged(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    path = runs.make(tmp_path / "run.zarr", 4)
    last = {inode: place for place, inode in enumerate(synced)}

    def place(file):
        return last[file.stat().st_ino]

    shards = [file for name in ("x_t", "pred_x0", "x_0") for file in (path / name).glob("c.*")]
    flag = path / "done" / "c" / "0"
    assert len(shards) == 3
    for file in (*shards, path / "manifest" / "c" / "0"):
        assert place(file) < place(file.parent) < place(flag), file
    assert place(flag) < place(flag.parent)


def test_the_callers_buffer_is_not_aliased(tmp_path):
    with runs.create(tmp_path / "run.zarr", 4) as store:
        buffer = np.empty((4, *runs.SHAPE), np.float32)
        for step in range(6):
            buffer[:] = step
            store.put(0, step, buffer, buffer)
            buffer[:] = -1
        store.finish(0, buffer)
    ds = stores.open(tmp_path / "run.zarr")
    np.testing.assert_array_equal(ds.x_t.isel(channel=0, y=0, x=0), np.tile(np.arange(6.0), (4, 1)))


def test_an_error_on_the_thread_surfaces_and_the_finished_blocks_stay(tmp_path, monkeypatch):
    original = shards.ShardFile.append

    def full_disk(self, *arguments):
        if self.path.name.startswith("c.1."):
            raise OSError(28, "No space left on device")
        original(self, *arguments)

    monkeypatch.setattr(shards.ShardFile, "append", full_disk)
    store = runs.create(tmp_path / "run.zarr")
    with pytest.raises(stores.StoreError, match="No space left on device"), store:
        runs.fill(store)
    monkeypatch.undo()
    done = stores.describe(tmp_path / "run.zarr")
    assert (done["blocks_done"], done["blocks"]) == (1, 4)
    assert not list((tmp_path / "run.zarr").rglob("*.partial"))
    runs.make(tmp_path / "run.zarr")
    assert runs.digest(tmp_path / "run.zarr") == runs.digest(runs.make(tmp_path / "straight.zarr"))


def test_close_raises_what_went_wrong_after_the_last_call(tmp_path, monkeypatch):
    def broken(*arguments):
        raise OSError("gone")

    store = runs.create(tmp_path / "run.zarr", 4)
    monkeypatch.setattr(shards.ShardFile, "complete", broken)
    with contextlib.suppress(stores.StoreError):
        runs.fill(store)
    with pytest.raises(stores.StoreError, match="gone"):
        store.close()


def test_steps_out_of_order_and_wrong_shapes_are_refused(tmp_path):
    with runs.create(tmp_path / "run.zarr") as store:
        x_t, pred_x0 = runs.states(0, 0)
        with pytest.raises(ValueError, match="expected block None"):
            store.put(0, 1, x_t, pred_x0)
        store.put(0, 0, x_t, pred_x0)
        with pytest.raises(ValueError, match="step 1"):
            store.put(0, 2, x_t, pred_x0)
        with pytest.raises(ValueError, match="a whole block of events"):
            store.put(0, 1, x_t[:2], pred_x0[:2])
        with pytest.raises(ValueError, match="after 1 of 6"):
            store.finish(0, x_t)


def test_a_short_last_block_equals_the_head_of_a_full_one(tmp_path):
    short = stores.open(runs.make(tmp_path / "short.zarr", 10)).compute()
    full = stores.open(runs.make(tmp_path / "full.zarr", 12)).compute()
    xr.testing.assert_identical(short.drop_attrs(), full.isel(sample=slice(10)).drop_attrs())


@pytest.mark.parametrize(("few", "many"), [(8, 16), (10, 16), (6, 7), (1, 9)])
def test_extending_equals_asking_for_more_at_once(tmp_path, few, many):
    runs.make(tmp_path / "run.zarr", few)
    runs.make(tmp_path / "run.zarr", many)
    assert runs.digest(tmp_path / "run.zarr") == runs.digest(runs.make(tmp_path / "straight.zarr", many))


@pytest.mark.parametrize(("few", "many"), [(8, 16), (6, 7)])
def test_prompts_grow_with_a_run(tmp_path, few, many):
    prompts = [f"picture {k}, {'very ' * k}large" for k in range(many)]
    runs.make(tmp_path / "run.zarr", few, prompt=prompts[:few])
    runs.make(tmp_path / "run.zarr", many, prompt=prompts)
    assert runs.digest(tmp_path / "run.zarr") == runs.digest(
        runs.make(tmp_path / "straight.zarr", many, prompt=prompts)
    )
    prompt = stores.open(tmp_path / "run.zarr").prompt
    assert (prompt.dims, prompt.values.tolist()) == (("sample",), prompts)
    assert stores.verify(tmp_path / "run.zarr", deep=True) == []


def test_asking_for_fewer_changes_nothing(tmp_path):
    before = runs.digest(runs.make(tmp_path / "run.zarr", 16))
    assert runs.digest(runs.make(tmp_path / "run.zarr", 5)) == before


def test_block_order_does_not_matter(tmp_path):
    with runs.create(tmp_path / "run.zarr") as store:
        runs.fill(store, [2, 0, 3, 1])
    assert runs.digest(tmp_path / "run.zarr") == runs.digest(runs.make(tmp_path / "straight.zarr"))


def test_a_changed_seed_is_refused_by_name(tmp_path):
    before = runs.digest(runs.make(tmp_path / "run.zarr"))
    with pytest.raises(stores.StaleStore, match=r"seed: 0 in the store, 1 asked for"):
        runs.make(tmp_path / "run.zarr", seed=1)
    assert runs.digest(tmp_path / "run.zarr") == before


def test_set_aside_keeps_the_old_store(tmp_path):
    before = runs.digest(runs.make(tmp_path / "run.zarr"))
    for seed in (1, 0, 2):
        with runs.create(tmp_path / "run.zarr", seed=seed, stale="set-aside") as store:
            assert store.set_aside is not None
            runs.fill(store)
    asides = sorted(tmp_path.glob("run.stale-*.zarr"))
    assert len(asides) == 3
    assert sum(runs.digest(aside) == before for aside in asides) == 2


def test_other_labels_are_another_run(tmp_path):
    runs.make(tmp_path / "run.zarr", 8, label=np.arange(8) % 2)
    runs.make(tmp_path / "run.zarr", 12, label=np.arange(12) % 2)
    with pytest.raises(stores.StaleStore, match="label"):
        runs.make(tmp_path / "run.zarr", 12, label=np.arange(12) % 3)


@pytest.mark.parametrize("other", [["a", "b", "c", "d", "e"], None])
def test_other_prompts_or_none_are_another_run(tmp_path, other):
    runs.make(tmp_path / "run.zarr", 4, prompt=["a", "b", "a", "b"])
    with pytest.raises(stores.StaleStore, match="prompt: another was asked for"):
        runs.make(tmp_path / "run.zarr", 5, prompt=other)
    assert "prompt" not in stores.open(runs.make(tmp_path / "plain.zarr", 4)).coords


def test_a_prompt_for_every_sample_is_asked_for(tmp_path):
    with pytest.raises(stores.InputError, match=r"prompt has shape \(3,\), expected \(4,\)"):
        runs.make(tmp_path / "run.zarr", 4, prompt=["a", "b", "c"])


def test_float16_saturates_and_counts(tmp_path):
    with runs.create(tmp_path / "run.zarr", 6, dtype="float16") as store:
        for block in store.pending:
            for step in range(6):
                x_t = np.full((4, *runs.SHAPE), 1e9 if step == 2 else 1.0, np.float32)
                store.put(block, step, x_t, -x_t)
            store.finish(block, x_t)
    ds = stores.open(tmp_path / "run.zarr").compute()
    assert ds.x_t.dtype == np.float16
    assert ds.x_0.dtype == np.float32
    assert ds.x_t.max() == 65504
    assert ds.pred_x0.min() == -65504
    manifests = zarr.open_array(tmp_path / "run.zarr" / "manifest", mode="r")[:]
    assert [json.loads(text)["saturated"] for text in manifests] == [2 * 4 * 64, 2 * 2 * 64]
    assert stores.verify(tmp_path / "run.zarr", deep=True) == []


def test_rounded_bits_stay_within_half_a_step_and_compress(tmp_path):
    exact, rounded = runs.make(tmp_path / "exact.zarr"), runs.make(tmp_path / "rounded.zarr", keepbits=7)
    a, b = stores.open(exact).x_t.compute(), stores.open(rounded).x_t.compute()
    assert float(abs((a - b) / a).max()) <= 2.0**-8
    assert stores.describe(rounded)["bytes"] < 0.8 * stores.describe(exact)["bytes"]
    np.testing.assert_array_equal(stores.open(exact).x_0, stores.open(rounded).x_0)


@pytest.mark.parametrize("keepbits", [1, 7, 10, 22])
def test_rounding_keeps_what_is_not_finite_and_makes_nothing_infinite(keepbits):
    largest = np.finfo(np.float32).max
    special = np.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0x7FC00000, 0x7F800000, 0xFF800000], np.uint32)
    np.testing.assert_array_equal(shards.rounded(special.view(np.float32), keepbits).view(np.uint32), special)
    ends = np.array([largest, -largest, np.nextafter(largest, np.float32(0)), 1e-45, 0.0, -0.0], np.float32)
    kept = shards.rounded(ends, keepbits)
    assert np.isfinite(kept).all()
    np.testing.assert_allclose(kept[:3], ends[:3], rtol=2.0**-keepbits)
    ordinary = np.random.default_rng(0).standard_normal(10_000).astype(np.float32)
    np.testing.assert_array_equal(
        shards.rounded(ordinary, keepbits), BitRound(keepbits).encode(ordinary).view(np.float32)
    )


def test_float16_keeps_infinities_and_counts_only_what_it_clips(tmp_path):
    with runs.create(tmp_path / "run.zarr", 4, dtype="float16") as store:
        for step in range(6):
            x_t, pred_x0 = np.ones((2, 4, *runs.SHAPE), np.float32)
            x_t[0, 0, 0, :3] = [np.inf, -np.inf, 1e9]
            store.put(0, step, x_t, pred_x0)
        store.finish(0, pred_x0)
    ds = stores.open(tmp_path / "run.zarr").x_t.compute()
    assert ds[0, 0, 0, 0, :3].values.tolist() == [np.inf, -np.inf, 65504]
    assert stores.describe(tmp_path / "run.zarr")["saturated"] == 6


def test_wrong_shapes_never_use_up_the_buffers(tmp_path):
    with runs.create(tmp_path / "run.zarr", 4) as store:
        for step in range(6):
            store.put(0, step, *runs.states(0, step))
        for _ in range(4):
            with pytest.raises(ValueError, match="a whole block"):
                store.finish(0, np.zeros((1, 8, 8)))
        store.finish(0, runs.states(0, 99)[1])
    assert runs.digest(tmp_path / "run.zarr") == runs.digest(runs.make(tmp_path / "straight.zarr", 4))


def test_a_block_begun_again_replaces_what_was_put(tmp_path):
    with runs.create(tmp_path / "run.zarr", 4, timesteps=np.arange(40)[::-1]) as store:
        for step in range(39):
            store.put(0, step, *runs.states(1, step))
        runs.fill(store)
        with pytest.raises(ValueError, match="blocks are none"):
            store.put(0, 0, *runs.states(0, 0))
    straight = runs.make(tmp_path / "straight.zarr", 4, timesteps=np.arange(40)[::-1])
    assert runs.digest(tmp_path / "run.zarr") == runs.digest(straight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": 0}, "at least 1"),
        ({"block": 0}, "at least 1"),
        ({"timesteps": np.array([0, 10])}, "descending"),
        ({"dtype": "int8"}, "float32 or float16"),
        ({"keepbits": 40}, "1 to 22"),
        ({"blocks": [9]}, "0 to 3"),
        ({"label": [1, 2]}, "label has shape"),
    ],
)
def test_bad_arguments_say_what_was_expected(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        runs.create(tmp_path / "run.zarr", **change)
    assert not (tmp_path / "run.zarr").exists()


def test_a_folder_that_is_no_store_is_not_touched(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"precious")
    with pytest.raises(stores.NotAStore, match="is not a store"):
        runs.create(tmp_path, stale="set-aside")
    assert (tmp_path / "holiday.jpg").read_bytes() == b"precious"


def test_what_is_not_finite_is_counted_in_every_variable(tmp_path):
    with runs.create(tmp_path / "run.zarr", 6, keepbits=7) as store:
        for block in store.pending:
            for step in range(6):
                x_t, pred_x0 = runs.states(block, step)
                x_t[0, 0, 0, : 2 * (step == 3)] = np.nan
                pred_x0[3] = np.inf  # the short last block does not keep this sample
                store.put(block, step, x_t, pred_x0)
            x_0 = runs.states(block, 99)[1]
            x_0[1, 0, 0, 0] = -np.inf
            store.finish(block, x_0)
    found = stores.describe(tmp_path / "run.zarr")
    assert found["not_finite"] == {"x_t": 4, "pred_x0": 6 * 64, "x_0": 2}
    assert stores.verify(tmp_path / "run.zarr") == []
    assert stores.verify(tmp_path / "run.zarr", deep=True) == [
        "pred_x0 (block 0): 384 value(s) not finite",
        "x_0 (block 0): 1 value(s) not finite",
        "x_t (block 0): 2 value(s) not finite",
        "x_0 (block 1): 1 value(s) not finite",
        "x_t (block 1): 2 value(s) not finite",
    ]


def test_states_that_were_never_made_are_not_counted(tmp_path):
    forks = make_forks(tmp_path / "f.zarr", states=True)
    assert stores.describe(forks)["not_finite"] == {}
    assert stores.verify(forks, deep=True) == []
    with create_readout(tmp_path / "r.zarr", 4) as store:
        read = logits(0, 4)
        read[0, 0, 0], read[0, 1, 0, 1] = np.nan, np.nan
        store.write(0, {"logits": read, "x_0_logits": read[0, :, -1]})
    assert stores.describe(tmp_path / "r.zarr")["not_finite"] == {"logits": 1}
