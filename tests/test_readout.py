"""Readouts: logits against plain loops, resumed, extended, refused."""

import json
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from tests import runs, warm
from tests.runs import digest
from traj import stores
from traj.pipeline.cli import main
from traj.pipeline.making import readout
from traj.pipeline.making.passes import Passes
from traj.pipeline.models import classifiers, train
from traj.pipeline.models.digits import CLASSIFIERS, DigitsClassifier

AT = [50, 20]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Hardly trained, which is as good here."""
    folder = tmp_path_factory.mktemp("models") / "digits-classifier"
    train.train("digits-classifier", folder, steps=2, progress=False)
    return folder


def prepare(store, model, **options):
    return readout.prepare("classifier", store=store, model=str(model), device="cpu", **options)


def make(out, store, model, *, blocks=None, bar=False, **options):
    reading = prepare(Path(store), model, **{"batch": 7, **options})
    with reading.open(Path(out), blocks=blocks) as written:
        reading.run(written, bar=bar)
    return Path(out)


def forks(path, samples=6, *, states=False, block=4):
    """Two variants of three replicas; states are NaN above `at`."""
    rng = np.random.default_rng(0)
    shape = (2, 3, block, *runs.SHAPE)
    with stores.create_forks(
        path,
        variant={"at": AT, "noise": ["independent", "zero"]},
        replicas=3,
        timestep=runs.TIMESTEPS,
        **runs.preserving(np.linspace(0.01, 0.99, len(runs.TIMESTEPS))),
        shape=runs.SHAPE,
        samples=samples,
        block=block,
        label=np.arange(samples) % 10,
        config={"made": "up"},
        states=states,
    ) as store:
        for number in list(store.pending):
            for step, timestep in enumerate(runs.TIMESTEPS if states else ()):
                x_t = rng.standard_normal(shape).astype("f4")
                x_t[np.array(AT) < timestep] = np.nan
                store.put(number, step, x_t, np.tanh(x_t))
            store.finish(number, np.tanh(rng.standard_normal(shape)).astype("f4"))
    return path


def network_of(folder):
    network = DigitsClassifier(**CLASSIFIERS["digits-classifier"].network)
    network.load_state_dict(load_file(folder / "model.safetensors"))
    return network


def plain(network, images, batch, classes=10):
    """Classify images (..., channel, y, x) as one would in a notebook."""
    flat = torch.from_numpy(np.ascontiguousarray(images, np.float32)).flatten(0, -4)
    with torch.inference_mode():
        grey = (flat.clamp(-1, 1) + 1) / 2
        logits = [network((part - 0.5) / 0.5) for part in grey.split(batch)]
    return torch.cat(logits).numpy().reshape(*images.shape[:-3], classes)


# ---- the numbers


def test_logits_equal_a_plain_loop_over_the_stored_arrays_bit_for_bit(digits, tmp_path):
    store = runs.make(tmp_path / "a.zarr", 8, label=np.arange(8))
    ds, found = stores.open(store), stores.open(make(tmp_path / "r.zarr", store, digits))
    network = network_of(digits)
    assert found.logits.dims == ("on", "sample", "timestep", "class")
    assert found.x_0_logits.dims == ("sample", "class")
    assert found.logits.dtype == found.x_0_logits.dtype == np.float32
    for block in (slice(0, 4), slice(4, 8)):
        for name in ("x_t", "pred_x0"):
            expected = plain(network, ds[name][block].values, 7)
            np.testing.assert_array_equal(found.logits.sel(on=name)[block], expected)
        np.testing.assert_array_equal(found.x_0_logits[block], plain(network, ds.x_0[block].values, 7))


def test_coordinates_of_the_parent_come_along(digits, tmp_path):
    store = runs.make(tmp_path / "a.zarr", 8, label=np.arange(8))
    ds, found = stores.open(store), stores.open(make(tmp_path / "r.zarr", store, digits))
    for name, coord in ds.coords.items():
        np.testing.assert_array_equal(found[name], coord)
        assert found[name].attrs == coord.attrs
    assert found["on"].values.tolist() == ["x_t", "pred_x0"]
    assert found["class"].values.tolist() == list(range(10))
    assert found.class_name.values.tolist() == list("0123456789")
    assert found.attrs["kind"] == "readout"
    assert json.loads(found.attrs["config"])["parent"] == {"fingerprint": ds.attrs["fingerprint"]}
    assert stores.verify(tmp_path / "r.zarr", deep=True) == []


def test_on_chooses_what_is_read(digits, tmp_path):
    store = runs.make(tmp_path / "a.zarr", 4)
    both = stores.open(make(tmp_path / "both.zarr", store, digits))
    one = stores.open(make(tmp_path / "one.zarr", store, digits, on=["pred_x0"]))
    assert one["on"].values.tolist() == ["pred_x0"]
    np.testing.assert_array_equal(one.logits, both.logits.sel(on=["pred_x0"]))


def test_values_beyond_the_valid_range_are_clipped_to_it(digits):
    classifier = classifiers.load(str(digits))
    images = torch.tensor([[-3.0, -1.0], [1.0, 5.0]]).expand(1, 1, 2, 2).repeat(1, 1, 4, 4)
    with torch.inference_mode():
        torch.testing.assert_close(
            classifier(images, (-1.0, 1.0)), classifier(images.clamp(-1, 1), (-1.0, 1.0)), rtol=0, atol=0
        )
        # white is the end of the range, whatever its number
        torch.testing.assert_close(
            classifier(4 * images, (-4.0, 4.0)), classifier(images, (-1.0, 1.0)), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("tf32", [False, True])
def test_a_gpu_keeps_float32_unless_asked_for_less_which_is_an_input(tf32, digits, tmp_path, monkeypatch):
    reading = prepare(runs.make(tmp_path / "a.zarr", 4), digits)
    asked, found = replace(reading, tf32=tf32), []
    original = classifiers.Classifier.__call__
    monkeypatch.setattr(
        classifiers.Classifier,
        "__call__",
        lambda *given: found.append(torch.backends.cudnn.allow_tf32) or original(*given),
    )
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=True):
        with asked.open(tmp_path / "r.zarr") as written:
            asked.run(written, bar=False)
    assert set(found) == {tf32}
    assert asked.config == reading.config | ({"tf32": True} if tf32 else {})


def test_half_precision_stores_are_read(digits, tmp_path):
    single = runs.make(tmp_path / "a.zarr", 4)
    half = runs.make(tmp_path / "b.zarr", 4, dtype="float16")
    found = [stores.open(make(f"{store}.r", store, digits)) for store in (single, half)]
    np.testing.assert_allclose(found[1].logits, found[0].logits, atol=1e-2)
    np.testing.assert_array_equal(found[1].x_0_logits, found[0].x_0_logits)


# ---- forks


def test_final_samples_of_forks_are_read_replica_by_replica(digits, tmp_path):
    store = forks(tmp_path / "f.zarr", 8)
    ds, found = stores.open(store), stores.open(make(tmp_path / "r.zarr", store, digits))
    assert found.x_0_logits.dims == ("variant", "replica", "sample", "class")
    assert "logits" not in found
    for block in (slice(0, 4), slice(4, 8)):
        expected = plain(network_of(digits), ds.x_0[:, :, block].values, 7)
        np.testing.assert_array_equal(found.x_0_logits[:, :, block], expected)
    assert found["at"].values.tolist() == AT
    assert found.noise.values.tolist() == ["independent", "zero"]
    np.testing.assert_array_equal(found.log_snr.sel(timestep=found["at"]), ds.log_snr.sel(timestep=ds["at"]))


def test_states_a_fork_never_visited_have_no_logits(digits, tmp_path):
    store = forks(tmp_path / "f.zarr", states=True)
    ds, found = stores.open(store), stores.open(make(tmp_path / "r.zarr", store, digits))
    assert found.logits.dims == ("on", "variant", "replica", "sample", "timestep", "class")
    visited = (ds.timestep <= ds["at"]).broadcast_like(found.logits).transpose(*found.logits.dims)
    np.testing.assert_array_equal(~np.isnan(found.logits), visited)
    expected = plain(network_of(digits), ds.x_t.values, 512)
    seen = ~np.isnan(expected)
    np.testing.assert_allclose(found.logits.sel(on="x_t").values[seen], expected[seen], atol=1e-5)


def test_a_shard_nobody_visited_is_all_nan(digits, tmp_path):
    reading = prepare(forks(tmp_path / "f.zarr", states=True), digits)
    (logits,) = (one for one in reading.readout.passes if one.on)
    never = np.full((3, 1, 8, 8), np.nan, np.float32)
    (found,) = reading.passes.evaluate(logits, {"x_t": never}, np.zeros(3, int), {})
    assert np.isnan(found).all()


def test_an_image_with_a_nan_has_no_logits_and_the_others_have(digits, tmp_path):
    reading = prepare(runs.make(tmp_path / "a.zarr", 4), digits)
    images = np.zeros((3, 1, 8, 8), np.float32)
    images[1, 0, 4, 4] = np.nan
    (found,) = reading.passes.evaluate(reading.readout.passes[0], {"x_0": images}, None, {})
    np.testing.assert_array_equal(np.isnan(found).all(axis=1), [False, True, False])
    np.testing.assert_array_equal(np.isnan(found).any(axis=1), [False, True, False])


# ---- streaming


def test_one_shard_is_in_memory_at_a_time(digits, tmp_path, monkeypatch):
    whole = runs.make(tmp_path / "whole.zarr", 8, timesteps=np.arange(24)[::-1])
    expected = stores.open(make(tmp_path / "whole.r.zarr", whole, digits, batch=4096)).compute()
    monkeypatch.setattr("traj.stores.layout.SHARD_BYTES", 1)
    monkeypatch.setattr("traj.stores.layout.CHUNK_BYTES", 1)
    store = runs.make(tmp_path / "a.zarr", 8, timesteps=np.arange(24)[::-1])
    lengths = stores.open(store).x_t.chunks[1]
    assert len(lengths) > 2
    read, original = [], Passes._read
    monkeypatch.setattr(Passes, "_read", lambda self, array: read.append(array.shape) or original(self, array))
    found = stores.open(make(tmp_path / "r.zarr", store, digits, batch=4096))
    assert set(read) == {(4, length, 1, 8, 8) for length in lengths} | {(4, 1, 8, 8)}
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-5)


def test_a_sample_does_not_depend_on_how_many_there_are(digits, tmp_path):
    few = stores.open(make(tmp_path / "r.zarr", runs.make(tmp_path / "a.zarr", 6), digits))
    many = stores.open(make(tmp_path / "s.zarr", runs.make(tmp_path / "b.zarr", 10), digits))
    np.testing.assert_array_equal(few.logits, many.logits[:, :6])
    np.testing.assert_array_equal(few.x_0_logits, many.x_0_logits[:6])


def test_a_short_last_block_is_cut_into_the_same_batches_as_a_whole_one(digits, tmp_path, monkeypatch):
    """Those of its states that no fork visited are left out of its padding too."""
    lengths, original = [], classifiers.Classifier.__call__
    store = forks(tmp_path / "a.zarr", 5, states=True)
    monkeypatch.setattr(
        classifiers.Classifier, "__call__", lambda self, x, ends: lengths.append(len(x)) or original(self, x, ends)
    )
    reading = prepare(store, digits, batch=7)
    lengths.clear()
    with reading.open(tmp_path / "r.zarr") as written:
        reading.run(written, bar=False)
    assert lengths[: len(lengths) // 2] == lengths[len(lengths) // 2 :]
    visited = sum(3 * 4 * (runs.TIMESTEPS <= at).sum() for at in AT)
    assert sum(lengths) == 2 * (2 * visited + 2 * 3 * 4)


def test_extending_and_any_block_order_equal_one_pass(digits, tmp_path):
    store = runs.make(tmp_path / "a.zarr", 6)
    make(tmp_path / "grown.zarr", store, digits)
    runs.make(store, 15)
    make(tmp_path / "grown.zarr", store, digits)
    make(tmp_path / "backwards.zarr", store, digits, blocks=[3, 1])
    make(tmp_path / "backwards.zarr", store, digits)
    expected = digest(make(tmp_path / "straight.zarr", store, digits))
    assert digest(tmp_path / "grown.zarr") == expected
    assert digest(tmp_path / "backwards.zarr") == expected
    assert str(tmp_path) not in (tmp_path / "straight.zarr" / "zarr.json").read_text()


@pytest.fixture(scope="module")
def long(digits, tmp_path_factory):
    """A run that takes long enough to read to be stopped meanwhile, and the files of its readout."""
    folder = tmp_path_factory.mktemp("long")
    store = runs.make(folder / "a.zarr", 96, timesteps=np.arange(100)[::-1])
    return store, digest(make(folder / "r.zarr", store, digits, batch=4096))


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_stopped_and_resumed_equals_uninterrupted(server, digits, long, tmp_path, how):
    store, uninterrupted = long
    command = ["readout", "classifier", store, tmp_path / "r.zarr", "--model", digits, "--device", "cpu"]
    said = tmp_path / "said"
    process = warm.Process(server, command, stderr=said)
    while not (tmp_path / "r.zarr" / "logits" / "c.0.1.0.0").exists():
        assert not process.ended(), said.read_text()
        time.sleep(0.005)
    process.send_signal(how)
    assert process.wait() == (warm.KILLED if how == signal.SIGKILL else 130)
    assert "Traceback" not in said.read_text()
    done = stores.describe(tmp_path / "r.zarr")["blocks_done"]
    assert 0 < done < 24
    assert warm.Process(server, command).wait() == 0
    assert digest(tmp_path / "r.zarr") == uninterrupted


def test_a_parent_changed_meanwhile_is_noticed(digits, tmp_path, monkeypatch):
    store = runs.make(tmp_path / "a.zarr", 4)
    original = Passes._read
    monkeypatch.setattr(Passes, "_read", lambda *given: runs.make(store, 8) and original(*given))
    with pytest.raises(stores.StaleStore, match="was changed while it was read"):
        make(tmp_path / "r.zarr", store, digits)


@pytest.mark.parametrize("moment", range(1, 6))
def test_no_block_of_another_run_is_flagged_when_the_parent_is_replaced_meanwhile(
    digits, tmp_path, monkeypatch, moment
):
    """Replaced before any of the reads: three to a block."""
    store = runs.make(tmp_path / "a.zarr", 8)
    expected = stores.open(make(tmp_path / "expected.zarr", store, digits)).compute()
    original, reads = Passes._read, iter(range(1, 100))

    def replaced_meanwhile(*given):
        if next(reads) == moment:
            store.rename(tmp_path / "old.zarr")
            runs.make(store, 8, seed=1)
            for shard in (tmp_path / "old.zarr").glob("*/c.0.*"):  # states made up do not depend on the seed
                other = "c.1" + shard.name.removeprefix("c.0")
                (store / shard.parent.name / other).write_bytes(shard.read_bytes())
        return original(*given)

    monkeypatch.setattr(Passes, "_read", replaced_meanwhile)
    with pytest.raises(stores.StaleStore, match="was changed while it was read"):
        make(tmp_path / "r.zarr", store, digits)
    done = stores.describe(tmp_path / "r.zarr")["blocks_done"]
    assert done == (moment - 1) // 3
    found = stores.open(tmp_path / "r.zarr", partial=True).compute()
    kept = found.isel(sample=slice(0, 4 * done))
    assert kept.equals(expected.isel(sample=slice(0, 4 * done)))


def test_damage_in_the_parent_is_named(digits, tmp_path):
    store = runs.make(tmp_path / "a.zarr", 4)
    shard = next((store / "pred_x0").glob("c.*"))
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    with pytest.raises(stores.DamagedStore, match="traj verify"):
        make(tmp_path / "r.zarr", store, digits)


# ---- the command


def traj(*arguments, code=0):
    result = CliRunner().invoke(main, ["readout", "classifier", *map(str, arguments)])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


def test_cost_comes_first_and_what_to_type_next_last(digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs.make("a.zarr", 6)
    text = traj("a.zarr", "r.zarr", "--model", digits, "--dry-run")
    assert "104 events, 2 network evaluations" in text
    assert not Path("r.zarr").exists()
    text = traj("a.zarr", "r.zarr", "--model", digits, "--blocks", "0:1")
    assert "1 of 2 blocks to do; 52 events" in text
    assert text.endswith("r.zarr: the blocks asked for are done, 1 of all 2")
    assert traj("a.zarr", "r.zarr", "--model", digits).endswith("is complete; next: traj analyze label_variance r.zarr")
    assert "nothing to do" in traj("a.zarr", "r.zarr", "--model", digits)
    assert "batch: 4096 in the store, 5 asked for" in traj("a.zarr", "r.zarr", "--model", digits, "--batch", 5, code=1)
    assert "kept as r.stale-" in traj("a.zarr", "r.zarr", "--model", digits, "--batch", 5, "--stale", "set-aside")


def test_bad_input_gets_one_message(digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs.make("a.zarr", 4)
    runs.make("c.zarr", 4, shape=(3, 32, 32))
    forks(Path("f.zarr"))
    runs.dataset("d.zarr", np.zeros((2, 1, 8, 8)))
    stores.save(stores.open("a.zarr")[["x_0"]].compute(), Path("result.zarr"), {"made": "up"})
    with runs.create("part.zarr", 8) as store:
        runs.fill(store, [0])
    for arguments, code, message in (
        (["a.zarr", "--model", "digits-classifier"], 2, "run traj train digits-classifier"),
        (["a.zarr", "--model", "resnet"], 2, "classifier 'resnet' is unknown; expected digits-classifier"),
        (["a.zarr", "--model", "./no/folder"], 2, "no such folder"),
        (["a.zarr", "--model", tmp_path], 2, "no config.json"),
        (["c.zarr", "--model", digits], 2, "takes images of shape 1x8x8 (channel, y, x), the store's are 3x32x32"),
        (
            ["result.zarr", "--model", digits],
            2,
            "a store of kind result; expected trajectories, a dataset, forks or a sweep",
        ),
        (["nowhere.zarr", "--model", digits], 2, "does not exist"),
        (["part.zarr", "--model", digits], 1, "incomplete: 1 of 2 blocks"),
        (["a.zarr", "--model", digits, "--on", "x_t,eps"], 2, "has no 'eps' to read; expected some of x_t, pred_x0"),
        (["a.zarr", "--model", digits, "--on", ""], 2, "has no '' to read; expected some of x_t, pred_x0"),
        (["f.zarr", "--model", digits, "--on", "x_t"], 2, "made without --states"),
        (["d.zarr", "--model", digits, "--on", "x_t"], 2, "none, as it has x_0 alone: it is a dataset"),
        (["a.zarr", "--model", digits, "--batch", 0], 2, "batch 0 was given, expected at least 1"),
        (["a.zarr", "--model", digits, "--device", "tpu"], 2, "auto, cpu, cuda"),
        (["a.zarr", "--model", digits, "--blocks", "3:5"], 2, "have 0 to 0"),
    ):
        assert message in traj(arguments[0], "out.zarr", *arguments[1:], code=code)
        assert not Path("out.zarr").exists()
    assert "holds a store of kind trajectories" in traj("a.zarr", "c.zarr", "--model", digits, code=2)


def test_training_says_how_good_the_classifier_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["train", "digits-classifier", "--steps", "2"])
    assert "of the held-out images correctly" in result.output
    assert result.output.rstrip().endswith("--model digits-classifier")
    runs.make("a.zarr", 4)
    assert "is complete" in traj("a.zarr", "r.zarr", "--model", "digits-classifier")
