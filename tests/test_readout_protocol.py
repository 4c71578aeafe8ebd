"""Readouts that are no classifiers, each one file, get what classifiers get: numbers, resuming, extending, refusals."""

import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from tests import runs, warm
from tests.runs import digest
from tests.test_readout import forks
from traj import stores
from traj.pipeline import readouts
from traj.pipeline.cli import main
from traj.pipeline.making import readout
from traj.pipeline.making.passes import Passes

SHAPE = (5,)

MEANS = '''
import os, signal
import numpy as np
import torch
from traj.pipeline.readouts import Output, Pass, Readout, Source

calls = []

def means(source: Source, *, scale: float, batch: int = 7) -> Readout:
    """Tell the mean of every state.

    Parameters
    ----------
    scale :
        What the mean is multiplied by.
    """
    def read(events):
        calls.append(len(events.timestep))
        if len(calls) == int(os.environ.get("KILLED_AT", -1)):
            os.kill(os.getpid(), signal.SIGKILL)
        mean = scale * events.values["x_t"].flatten(1).mean(dim=1)
        letters = torch.tensor([len(prompt) for prompt in events.condition.get("prompt", [""] * len(mean))])
        label = torch.from_numpy(events.condition["label"])
        return (torch.stack([mean, events.timestep, label.to(mean.device), letters.to(mean.device)], dim=1),)

    coords = {"what": ("what", np.array(["mean", "timestep", "label", "letters"]), "1", "what is told of a state")}
    told = Pass(("x_t",), (Output("told", ("what",), "what is told"),), read)
    return Readout((told,), coords, identity={"scale": scale}, batch=batch)
'''

LARGER = '''
import numpy as np
from traj.pipeline.readouts import Output, Pass, Readout, Source

def larger(source: Source, *, batch: int = 6) -> Readout:
    """Show images in colour and twice as large."""
    def read(events):
        ((name, images),) = events.values.items()
        assert (events.timestep is None) == (name == "x_0")
        return (images.repeat_interleave(2, 2).repeat_interleave(2, 3).expand(-1, 3, -1, -1),)

    dims = {"channel": 3, **{dim: 2 * source.ds.sizes[dim] for dim in ("y", "x")}}
    coords = {dim: (dim, np.arange(length), "1", dim) for dim, length in dims.items()}
    x_0_decoded = Output("x_0_decoded", tuple(dims), "the final sample, larger")
    decoded = Output("decoded", tuple(dims), "state or prediction, larger")
    passes = (Pass(("x_0",), (x_0_decoded,), read), Pass(("x_t", "pred_x0"), (decoded,), read, on=True))
    return Readout(passes, coords, identity={}, batch=batch)
'''

GAP = '''
from traj.pipeline.readouts import Output, Pass, Readout, Source

def gap(source: Source, *, batch: int = 4) -> Readout:
    """Tell how far every prediction is from its state."""
    def read(events):
        return ((events.values["x_t"] - events.values["pred_x0"]).square().flatten(1).sum(dim=1),)

    both = Pass(("x_t", "pred_x0"), (Output("gap", (), "squared distance"),), read)
    return Readout((both,), {}, identity={}, batch=batch)
'''

WRONG = '''
from traj.pipeline.readouts import Output, Pass, Readout, Source

def wrong(source: Source) -> Readout:
    """Give one number too many."""
    def read(events):
        return (events.values["x_t"].new_zeros(len(events.timestep), 1),)

    return Readout((Pass(("x_t",), (Output("wrong", (), "wrong"),), read),), {}, identity={}, batch=4)
'''

STEP = '''
import os, signal
import numpy as np
import torch
from traj.pipeline.readouts import Output, Pass, Readout, Source

calls = []

def step(source: Source, *, batch: int = 3) -> Readout:
    """Tell how far every state is from the one it leads to, and to which timestep."""
    def read(events):
        calls.append(events.timestep)
        if len(calls) == int(os.environ.get("KILLED_AT", -1)):
            os.kill(os.getpid(), signal.SIGKILL)
        distance = (events.next_x_t.double() - events.values["x_t"].double()).square().flatten(1).sum(dim=1)
        return distance, torch.stack([events.timestep, events.next_timestep], dim=1)

    outputs = (
        Output("distance", (), "squared distance", dtype="float64", attributes={"reference": "next"}),
        Output("leads_to", ("end",), "timesteps of both"),
    )
    coords = {"end": ("end", np.array(["from", "to"]), "1", "which of the two")}
    one = Pass(("x_t",), outputs, read, next_state=True, same_timestep=True)
    return Readout((one,), coords, identity={}, batch=batch)
'''


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder of readouts besides those of the project; stores lie in another, where the test runs."""
    place = tmp_path / "own"
    place.mkdir()
    for name, text in (("means", MEANS), ("larger", LARGER), ("gap", GAP), ("wrong", WRONG), ("step", STEP)):
        (place / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, f"{readouts.__name__}.{name}", raising=False)
    monkeypatch.setattr(readouts, "__path__", [*readouts.__path__, str(place)])
    (tmp_path / "stores").mkdir()
    monkeypatch.chdir(tmp_path / "stores")
    return place


def traj(*arguments, code=0):
    result = CliRunner().invoke(main, ["readout", *map(str, arguments)])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


def means(out, store="a.zarr", **options):
    return traj("means", store, out, "--scale", 2, "--device", "cpu", **options)


def test_a_readout_is_found_by_its_file_and_asks_for_its_own_options():
    assert {"classifier", "gap", "larger", "means", "step", "wrong"} <= set(readouts.names())
    assert readouts.names() == sorted(readouts.names())
    text = traj("--help")
    assert "means Tell the mean of every state." in text
    text = traj("means", "--help")
    assert "Tell the mean of every state." in text
    assert "--scale NUMBER What the mean is multiplied by. [required]" in text
    assert "Missing option '--scale'" in traj("means", "a.zarr", "b.zarr", code=2)
    assert "readout 'nothing' is unknown; expected one of classifier, " in traj("nothing", "a", "b", code=2)


def test_events_that_are_no_images_come_with_their_timestep_and_condition():
    prompts = ["a cat", "", "dog", "", "é", "a tree"]
    ds = stores.open(runs.make("a.zarr", 6, shape=SHAPE, label=[3, 1, 4, 1, 5, -1], prompt=prompts))
    text = means("r.zarr")
    assert "2 of 2 blocks to do; 48 events, 7 network evaluations" in text
    assert text.endswith("r.zarr is complete; next: traj info r.zarr")
    found = stores.open("r.zarr")
    assert found.told.dims == ("sample", "timestep", "what")
    assert found.told.dtype == np.float32
    assert "class" not in found.dims
    np.testing.assert_allclose(found.told.sel(what="mean"), 2 * ds.x_t.mean("feature"), atol=1e-6)
    np.testing.assert_array_equal(found.told.sel(what="timestep")[2], ds.timestep)
    np.testing.assert_array_equal(found.told.sel(what="label")[:, 3], ds.label)
    assert found.told.sel(what="letters")[:, 0].values.tolist() == [5, 0, 3, 0, 1, 6]
    assert found.prompt.values.tolist() == prompts
    np.testing.assert_array_equal(found.log_snr, ds.log_snr)
    assert stores.verify("r.zarr", deep=True) == []


def killed_at(call, server, folder, *arguments):
    """Run `traj readout` in a process that ends itself in one of the network's calls."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("KILLED_AT", str(call))
        process = warm.Process(server, [folder, *arguments], call=("tests.test_readout_protocol", "read"))
    assert process.wait() == warm.KILLED


def read(folder, *arguments):
    readouts.__path__.append(folder)
    main(["readout", *arguments])


def test_killed_and_resumed_equals_uninterrupted(server, folder):
    runs.make("a.zarr", 16, shape=SHAPE)
    # after six calls that are trials at most, in the second block
    killed_at(12, server, folder, "means", "a.zarr", "r.zarr", "--scale", "2", "--device", "cpu")
    assert 0 < stores.describe("r.zarr")["blocks_done"] < 4
    means("r.zarr")
    means("straight.zarr")
    assert digest("r.zarr") == digest("straight.zarr")


def test_a_readout_grows_with_its_source():
    runs.make("a.zarr", 6, shape=SHAPE)
    means("grown.zarr")
    runs.make("a.zarr", 11, shape=SHAPE)
    means("grown.zarr")
    means("straight.zarr")
    assert digest("grown.zarr") == digest("straight.zarr")
    assert "nothing to do" in means("grown.zarr")


def test_a_source_that_was_changed_is_refused(folder, monkeypatch):
    runs.make("a.zarr", 4, shape=SHAPE)
    means("r.zarr")
    runs.make("a.zarr", 4, shape=SHAPE, seed=1, stale="set-aside")
    assert "parent.fingerprint" in traj("means", "a.zarr", "r.zarr", "--scale", 2, code=1)
    assert "scale: 2.0 in the store, 3.0 asked for" in traj("means", "a.zarr", "r.zarr", "--scale", 3, code=1)


def test_a_source_that_changes_meanwhile_is_noticed_before_a_block_is_flagged(monkeypatch):
    runs.make("a.zarr", 4, shape=SHAPE)
    original = Passes._read
    monkeypatch.setattr(Passes, "_read", lambda *given: runs.make("a.zarr", 8, shape=SHAPE) and original(*given))
    assert "a.zarr was changed while it was read" in traj("means", "a.zarr", "r.zarr", "--scale", 2, code=1)
    assert stores.describe("r.zarr")["blocks_done"] == 0


def test_a_readout_may_give_images_of_another_size():
    ds = stores.open(runs.make("a.zarr", 6))
    traj("larger", "a.zarr", "r.zarr")
    found = stores.open("r.zarr")
    assert found.x_0_decoded.dims == ("sample", "channel", "y", "x")
    assert found.decoded.dims == ("on", "sample", "timestep", "channel", "y", "x")
    assert found.decoded.shape[-3:] == (3, 16, 16)
    assert found["on"].values.tolist() == ["x_t", "pred_x0"]
    for name, values in (("x_0", found.x_0_decoded), ("x_t", found.decoded[0]), ("pred_x0", found.decoded[1])):
        expected = np.repeat(np.repeat(np.repeat(ds[name], 2, -1), 2, -2), 3, -3)
        np.testing.assert_array_equal(values, expected)


def test_states_that_no_fork_visited_are_not_handed_over():
    ds = stores.open(forks("f.zarr", states=True))
    traj("larger", "f.zarr", "r.zarr")
    found = stores.open("r.zarr").decoded
    assert found.dims == ("on", "variant", "replica", "sample", "timestep", "channel", "y", "x")
    np.testing.assert_array_equal(found[0, ..., 0, ::2, ::2], ds.x_t[..., 0, :, :])
    assert np.isnan(found.sel(timestep=50)[:, 1]).all()
    traj("means", "f.zarr", "m.zarr", "--scale", 1)
    called = sys.modules[f"{readouts.__name__}.means"].calls
    visited = 3 * 4 * int((ds.timestep <= ds["at"]).sum())
    assert sum(called[-2 * -(-visited // 7) :]) == 2 * visited


def test_variables_that_are_read_together_come_in_one_call():
    ds = stores.open(runs.make("a.zarr", 4, shape=SHAPE))
    traj("gap", "a.zarr", "r.zarr")
    found = stores.open("r.zarr").gap
    assert found.dims == ("sample", "timestep")
    np.testing.assert_allclose(found, ((ds.x_t - ds.pred_x0) ** 2).sum("feature"), rtol=1e-5)


@pytest.fixture
def short_shards(monkeypatch):
    """Stores made meanwhile have shards of four timesteps."""
    monkeypatch.setattr("traj.stores.layout.CHUNK_BYTES", 1)
    monkeypatch.setattr("traj.stores.layout.SHARD_BYTES", 1)


def test_a_state_comes_with_the_next_one_across_shards(short_shards, monkeypatch):
    timesteps = np.array([90, 81, 70, 64, 50, 33, 20, 8, 5])
    ds = stores.open(runs.make("a.zarr", 6, shape=SHAPE, timesteps=timesteps))
    assert ds.x_t.chunks[1] == (4, 4, 1)
    read, original = [], Passes._read
    monkeypatch.setattr(
        Passes, "_read", lambda self, array: read.append(array.timestep.values) or original(self, array)
    )
    traj("step", "a.zarr", "r.zarr")
    assert [timesteps.tolist() for timesteps in read] == 2 * [[5], [50, 33, 20, 8], [90, 81, 70, 64]]
    found = stores.open("r.zarr")
    assert (found.distance.dtype, found.leads_to.dtype) == ("float64", "float32")
    assert found.distance.dims == ("sample", "timestep")
    assert found.distance.attrs["reference"] == "next"
    x_t = ds.x_t.astype("f8").values
    np.testing.assert_allclose(found.distance[:, :-1], ((x_t[:, 1:] - x_t[:, :-1]) ** 2).sum(-1), rtol=1e-14)
    assert np.isnan(found.distance[:, -1]).all()
    np.testing.assert_array_equal(found.leads_to[3].sel(end="from"), timesteps)
    np.testing.assert_array_equal(found.leads_to[3].sel(end="to"), [*timesteps[1:], -1])
    assert stores.verify("r.zarr", deep=True) == []


def test_chosen_timesteps_are_read_and_lead_to_each_other(short_shards):
    timesteps = np.arange(10)[::-1] * 10
    ds = stores.open(runs.make("a.zarr", 6, shape=SHAPE, timesteps=timesteps))
    traj("step", "a.zarr", "r.zarr", "--every", 6)
    found, chosen = stores.open("r.zarr"), [90, 30, 0]
    assert found.timestep.values.tolist() == chosen
    np.testing.assert_array_equal(found.log_snr, ds.log_snr.sel(timestep=chosen))
    assert found.leads_to[0].values.tolist() == [[90, 30], [30, 0], [0, -1]]
    x_t = ds.x_t.sel(timestep=chosen).astype("f8").values
    np.testing.assert_allclose(found.distance[:, :-1], ((x_t[:, 1:] - x_t[:, :-1]) ** 2).sum(-1), rtol=1e-14)
    traj("step", "a.zarr", "t.zarr", "--timesteps", "0,90,30")
    np.testing.assert_array_equal(stores.open("t.zarr").distance, found.distance)
    assert "every: 6 in the store, null asked for" in traj("step", "a.zarr", "r.zarr", code=1)
    assert "every 0 was given" in traj("step", "a.zarr", "s.zarr", "--every", 0, code=2)
    with stores.create_dataset("d.zarr", shape=SHAPE, samples=2, block=2, config={}) as dataset:
        dataset.write(0, {"x_0": np.zeros((2, *SHAPE), np.float32)})
    assert "d.zarr has no timesteps; leave it out" in traj("step", "d.zarr", "s.zarr", "--every", 2, code=2)


def test_a_call_has_events_of_one_timestep_where_it_must():
    runs.make("a.zarr", 6, shape=SHAPE)
    assert "48 events, 24 network evaluations" in traj("step", "a.zarr", "r.zarr", "--batch", 2)
    made = sys.modules[f"{readouts.__name__}.step"].calls[-24:]
    assert {len(timestep) for timestep in made} == {2}
    assert all(len(timestep.unique()) == 1 for timestep in made)
    cost = readout.prepare("step", store=Path("a.zarr"), device="cpu").cost(Path("s.zarr"))
    assert cost.disk == 48 * (8 + 2 * 4)  # a float64, and two of float32, for each event


def test_the_next_state_of_a_fork_stays_within_its_replica(short_shards, monkeypatch):
    # shards may be cut along any dim, and the last state be followed by a first one that is there
    ds = stores.open(forks("f.zarr", states=True)).isel(variant=[1, 0]).chunk(variant=1)
    with monkeypatch.context() as patch:
        patch.setattr(stores, "open", lambda path: ds)
        traj("step", "f.zarr", "r.zarr")
    x_t = ds.x_t.astype("f8").values
    expected = ((x_t[..., 1:, :, :, :] - x_t[..., :-1, :, :, :]) ** 2).sum((-3, -2, -1))
    distance = stores.open("r.zarr").distance
    np.testing.assert_allclose(distance[..., :-1], expected, rtol=1e-12)
    assert np.isnan(distance[..., -1]).all()  # not how far the first state of the next variant is


def test_several_outputs_of_a_killed_pass_equal_uninterrupted_ones(server, folder, short_shards):
    runs.make("a.zarr", 8, shape=SHAPE)
    # four trials, twelve calls of the first block, and some of the second
    killed_at(20, server, folder, "step", "a.zarr", "r.zarr", "--device", "cpu")
    assert stores.describe("r.zarr")["blocks_done"] == 1
    traj("step", "a.zarr", "r.zarr")
    runs.make("a.zarr", 11, shape=SHAPE)
    traj("step", "a.zarr", "r.zarr")
    traj("step", "a.zarr", "straight.zarr")
    assert digest("r.zarr") == digest("straight.zarr")


def test_what_cannot_be_read_is_refused_by_name():
    runs.make("a.zarr", 4, shape=SHAPE)
    forks("f.zarr")
    assert "f.zarr has no x_t, which readout means reads" in traj("means", "f.zarr", "r.zarr", "--scale", 1, code=2)
    assert "gave values of shape (1, 1) for 1 events; expected (1,)" in traj("wrong", "a.zarr", "r.zarr", code=2)
    assert "holds events of dims feature; a classifier reads images, expected channel, y, x" in traj(
        "classifier", "a.zarr", "r.zarr", "--model", "digits-classifier", code=2
    )
    assert "batch 0 was given" in traj("means", "a.zarr", "r.zarr", "--scale", 1, "--batch", 0, code=2)
