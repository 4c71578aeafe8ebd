"""Analyses give the same bits wherever they are computed, read each shard once, and know which stores they are for."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from click.testing import CliRunner
from cloudpickle import dumps
from distributed import LocalCluster
from zarr.storage import LocalStore

from tests import runs
from tests.test_quantities_contract import EVERY, SAMPLES, STEPS, assert_bits_equal, lay_out, whole
from traj import analysis, stores
from traj.pipeline.cli import main
from traj.pipeline.computing import analyze, cluster, engines
from traj.stores.layout import read_root

NAMES = ("entropy", "ssim", "psnr")
TASKS_PER_SHARD = 32
"""24.5 are needed for these names."""
CONCURRENCY = 7


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def processes():
    with zarr.config.set({"async.concurrency": CONCURRENCY}), cluster.local(2) as engine:
        yield engine


@pytest.fixture(params=["threads", pytest.param("processes", marks=pytest.mark.slow)])
def engine(request):
    return engines.threads(2) if request.param == "threads" else request.getfixturevalue("processes")


def traj(*arguments, code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


def run(path, asked, out, engine):
    analyze.run(path, analyze.plan_jobs([path], asked, Path(out)), engine=engine, say=lambda message: None)


def assert_all_equal(results, expected):
    for result, other in zip(results, expected, strict=True):
        assert_bits_equal(result, other)


def lay_out_all(ds, names=NAMES):
    return [lay_out(name, ds) for name in names]


def changed(ds, function, *arguments):
    """A dataset whose x_t passes through a function, block by block."""
    data = ds["x_t"].data
    meta = np.empty((0,) * data.ndim, data.dtype)
    return ds.assign(x_t=ds["x_t"].copy(data=data.map_blocks(function, *arguments, dtype=data.dtype, meta=meta)))


def note(block, folder, block_info=None):
    place = ".".join(map(str, block_info[0]["chunk-location"]))
    (Path(folder) / f"{place}-{uuid.uuid4().hex}").touch()
    return block


def die_once(block, flag, block_info=None):
    if block_info[0]["chunk-location"][0] == 2 and not Path(flag).exists():
        Path(flag).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return block


def environment(block):
    threads = int(os.environ["OMP_NUM_THREADS"])
    decoding = [zarr.config.get("threading.max_workers"), zarr.config.get("async.concurrency")]
    return np.array([os.getpid(), os.getppid(), *decoding, threads])


def environments(processes):
    asked = da.map_blocks(environment, da.zeros((8,), chunks=1), chunks=(5,), meta=np.empty(0, int))
    (found,) = processes.compute([xr.Dataset({"asked": ("i", asked)})])
    return found["asked"].to_numpy().reshape(-1, 5)


@pytest.mark.slow
def test_processes_give_the_same_bytes_as_threads(processes):
    path = runs.make("a.zarr")
    for out, engine in (("threads", engines.threads(1)), ("processes", processes)):
        run(path, {name: {} for name in NAMES}, out, engine)
    assert runs.digest("processes") == runs.digest("threads")


@pytest.mark.slow
def test_without_a_path_each_quantity_takes_the_stores_of_its_own_kind():
    Path("sweep.yaml").write_text("[{edit: jump, n: [2, 3], t_start: {every: 6}}]")
    run, forks, sweep = "data/trajectories/a.zarr", "data/forks/f.zarr", "data/sweeps/s.zarr"
    model = "--model", "gaussian:0,1,1x8x8", "--sampler", "ddim", "--steps", 10, "--samples", 4, "--block", 2
    traj("generate", run, *model, "--device", "cpu")
    traj("fork", run, forks, "--at", "500", "--replicas", 2, "--device", "cpu")
    traj("fork", run, sweep, "--sweep", "sweep.yaml", "--device", "cpu")
    assert "s.zarr" not in traj("analyze", "consistency")
    assert "f.zarr" not in traj("analyze", "intervention", "--baseline", run)
    of = {path.parent.name: stores.open(path).attrs["of"] for path in Path("results").glob("*/*.zarr")}
    assert of == {"f": "fork", "s": "sweep"}
    assert "s.zarr is a store of kind sweep" in traj("analyze", "consistency", sweep, code=2)
    assert "f.zarr is a store of kind fork" in traj("analyze", "intervention", forks, "--baseline", run, code=2)


@pytest.mark.slow
def test_processes_compare_a_sweep_with_its_run_as_threads_do(processes):
    Path("sweep.yaml").write_text("[{edit: jump, n: [2, 3], t_start: {every: 3}}]")
    model = "--model", "gaussian:0,1,1x8x8", "--sampler", "ddim", "--steps", 12, "--samples", 6, "--block", 2
    traj("generate", "a.zarr", *model, "--device", "cpu")
    traj("fork", "a.zarr", "s.zarr", "--sweep", "sweep.yaml", "--device", "cpu")
    compared = {name: {"baseline": "a.zarr"} for name in ("intervention", "phases", "redundancy")}
    for out, engine in (("threads", engines.threads(1)), ("processes", processes)):
        run(Path("s.zarr"), compared, out, engine)
    assert len(list(Path("threads").iterdir())) == 3
    assert runs.digest("processes") == runs.digest("threads")


@pytest.mark.slow
@EVERY
def test_every_quantity_has_the_same_bits_in_other_processes(name, make, processes):
    here = whole(name, make)  # first: processes then find the kernels compiled, instead of each compiling them
    result = lay_out(name, make(SAMPLES, STEPS).chunk({"sample": 4}))
    assert_bits_equal(processes.compute([result])[0], here)


@pytest.mark.slow
def test_a_worker_killed_half_way_changes_nothing(processes, tmp_path):
    ds = stores.open(runs.make("a.zarr").absolute())
    flag = tmp_path / "killed"
    results = processes.compute(lay_out_all(changed(ds, die_once, str(flag))))
    assert flag.exists()
    assert_all_equal(results, dask.compute(*lay_out_all(ds), scheduler="synchronous"))


@pytest.mark.slow
def test_workers_that_keep_dying_are_told(tmp_path):
    ds = changed(stores.open(runs.make("a.zarr").absolute()), die_once, str(tmp_path / "killed"))
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        cluster.local(1) as engine,
        pytest.raises(stores.FailedRun, match="workers of 1 process were lost"),
    ):
        engine.compute(lay_out_all(ds, ["psnr"]))


def test_a_variable_may_be_made_from_another_one(engine):
    first = da.ones((4, 4), chunks=2).map_blocks(np.negative)
    second = first.map_blocks(np.exp)
    (result,) = engine.compute([xr.Dataset({"first": (("y", "x"), first), "second": (("y", "x"), second)})])
    np.testing.assert_array_equal(result["second"], np.exp(result["first"]))


def test_a_list_of_quantities_reads_each_shard_once(engine, tmp_path):
    ds = stores.open(runs.make("a.zarr").absolute())
    noted = tmp_path / "noted"
    noted.mkdir()
    engine.compute(lay_out_all(changed(ds, note, str(noted))))
    places = sorted(file.name.split("-")[0] for file in noted.iterdir())
    assert places == [f"{block}.0.0.0.0" for block in range(4)]


def test_a_list_of_quantities_reads_each_byte_range_once(monkeypatch):
    ds = stores.open(runs.make("a.zarr").absolute())
    asked = []
    get = LocalStore.get

    async def counted(self, key, prototype, byte_range=None):
        asked.append((key, byte_range))
        return await get(self, key, prototype, byte_range)

    monkeypatch.setattr(LocalStore, "get", counted)
    engines.threads(2).compute(lay_out_all(ds))
    chunks = [request for request in asked if "/c." in request[0]]
    assert len(chunks) == len(set(chunks))
    assert {key for key, _ in chunks} == {
        f"{name}/c.{block}.0.0.0{end}"
        for name, end in (("x_t", ".0"), ("pred_x0", ".0"), ("x_0", ""))
        for block in range(4)
    }


def graph(samples, shape=runs.SHAPE):
    """The tasks that a list of quantities comes down to, and how many shards the store has."""
    ds = stores.open(runs.make(f"{samples}-{shape[-1]}.zarr", samples, shape=shape).absolute())
    arrays = [
        array.data for result in lay_out_all(ds) for array in result.data_vars.values() if array.chunks is not None
    ]
    tasks = {}
    for array in dask.optimize(*arrays):
        tasks |= dict(array.__dask_graph__())
    return tasks, ds["x_t"].data.npartitions + ds["pred_x0"].data.npartitions


def test_tasks_grow_with_shards_and_no_faster():
    (few, shards), (many, more) = graph(16), graph(64)
    assert more == 4 * shards
    assert len(many) - len(few) <= TASKS_PER_SHARD * (more - shards)


def test_tasks_carry_no_images():
    small, large = (len(dumps(graph(16, (1, side, side))[0])) for side in (8, 32))
    assert large < 1.1 * small


@pytest.mark.slow
def test_processes_are_pinned_and_get_the_configuration(processes):
    found = environments(processes)
    assert os.getpid() not in found[:, 0]
    assert np.unique(found[:, 2:], axis=0).tolist() == [[1, CONCURRENCY, 1]]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="each worker imports for itself")
def test_workers_are_forked_from_one_process_that_runs_no_threads(processes):
    (parent,) = set(environments(processes)[:, 1].tolist())
    assert parent != os.getpid()
    assert "Threads:\t1\n" in Path(f"/proc/{parent}/status").read_text()
    assert f"PPid:\t{os.getpid()}\n" in Path(f"/proc/{parent}/status").read_text()


@pytest.mark.slow
def test_where_nothing_can_be_forked_from_workers_import_for_themselves(monkeypatch):
    def too_long():
        raise OSError("AF_UNIX path too long")

    monkeypatch.setattr(cluster.forkserver, "ensure_running", too_long)
    with cluster.local(1) as engine:
        found = environments(engine)
    assert set(found[:, 1].tolist()) == {os.getpid()}
    assert set(found[:, 4].tolist()) == {1}


def test_threads_decode_on_as_many_threads_as_there_are_workers():
    ds = stores.open(runs.make("a.zarr").absolute())
    engines.threads(3).compute(lay_out_all(ds, ["psnr"]))
    assert zarr.config.get("threading.max_workers") == 3


def damage(path):
    file = path / "x_t" / "c.1.0.0.0.0"
    content = bytearray(file.read_bytes())
    content[50] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("again", ["a.zarr", "other/a.zarr"])
def test_stores_whose_results_would_share_a_place_are_named(again):
    Path("other").mkdir()
    paths = [runs.make("a.zarr"), runs.make("other/a.zarr")]
    for out in (None, Path("here")):
        place = (out or Path("results")) / "a" / "psnr.zarr"
        with pytest.raises(ValueError, match=f"{again} were given, whose results would both be {place}; give"):
            analyze.plan_jobs([paths[0], Path(again)], {"psnr": {}}, out)
    with pytest.raises(ValueError, match="would have to hold several results; give -o a folder"):
        analyze.plan_jobs(paths, {"psnr": {}}, Path("one.zarr"))


@pytest.mark.slow
def test_damage_met_by_a_worker_points_to_verify(processes):
    path = runs.make("a.zarr")
    damage(path)
    jobs = analyze.plan_jobs([path], {"psnr": {}}, None)
    with pytest.raises(stores.DamagedStore, match=r"run `traj verify a.zarr`"):
        analyze.run(path, jobs, engine=processes, say=lambda message: None)


async def still_reading():
    return len(asyncio.all_tasks()) - 1


def test_after_damage_nothing_goes_on_reading():
    path = runs.make("a.zarr", 8, shape=(3, 32, 32), timesteps=np.arange(400)[::-1])
    damage(path)
    with pytest.raises(ValueError, match="checksum"):
        engines.threads(2).compute(lay_out_all(stores.open(path.absolute()), ["psnr"]))
    assert zarr.core.sync.sync(still_reading()) == 0


@pytest.mark.slow
def test_a_running_cluster_is_used_and_left_running():
    runs.make("a.zarr")
    traj("analyze", "psnr", "a.zarr", "-o", "threads")
    with LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, protocol="tcp", host="127.0.0.1", dashboard_address=":0"
    ) as running:
        address = running.scheduler_address
        text = traj("analyze", "psnr", "a.zarr", "-o", "cluster", "--scheduler", address)
        assert f"psnr of a.zarr: {address}, 2 threads" in text
        traj("analyze", "psnr", "a.zarr", "-o", "again", "--scheduler", address)
    assert runs.digest("cluster") == runs.digest("threads") == runs.digest("again")


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        ("fast", "'fast' was given, expected threads, a number of local processes from 1 to"),
        ("0", "'0' was given, expected threads"),
        ("-2", "'-2' was given, expected threads"),
        ("tcp://127.0.0.1:1", "no Dask cluster answers at tcp://127.0.0.1:1"),
        ("tcp://127.0.0.1", "no Dask cluster answers at tcp://127.0.0.1"),
        ("tcp://nowhere.invalid:8786", "no Dask cluster answers at tcp://nowhere.invalid:8786"),
    ],
)
def test_a_scheduler_that_cannot_be_used_gets_one_message(scheduler, message, monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1)
    monkeypatch.setenv("TRAJ_SCHEDULER", scheduler)
    runs.make("a.zarr")
    assert message in traj("analyze", "psnr", "a.zarr", code=2)


def test_without_distributed_the_way_out_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    monkeypatch.delitem(sys.modules, "traj.pipeline.computing.cluster")
    monkeypatch.delattr("traj.pipeline.computing.cluster")
    runs.make("a.zarr")
    assert "pip install 'traj[distributed]'" in traj("analyze", "psnr", "a.zarr", "--scheduler", 2, code=2)
    traj("analyze", "psnr", "a.zarr")


def test_distributed_is_imported_by_nobody_who_computes_by_threads():
    runs.make("data/trajectories/a.zarr")
    code = """
import sys
from matplotlib.figure import Figure
from traj.pipeline.cli import main
Figure.savefig = lambda figure, file, **options: file.write(b"blank")
main(["analyze", "psnr"], standalone_mode=False)
main(["report"], standalone_mode=False)
assert "dask" in sys.modules and "distributed" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nothing_is_started_when_nothing_is_to_do(monkeypatch):
    runs.make("a.zarr")
    traj("analyze", "psnr", "a.zarr")
    monkeypatch.setattr(engines, "start", lambda *_: pytest.fail("started"))
    assert "nothing to do" in traj("analyze", "psnr", "a.zarr", "--scheduler", 2)


def test_a_quantity_takes_the_stores_of_its_kind(monkeypatch):
    monkeypatch.setattr(analysis.load("psnr"), "reads", "fork")
    runs.make("data/trajectories/a.zarr")
    assert "none under data/forks; name one, or run `dvc repro` or `traj fork`" in traj("analyze", "psnr", code=2)
    text = traj("analyze", "psnr", "data/trajectories/a.zarr", code=2)
    assert "a.zarr is a store of kind trajectories; psnr needs one of kind fork, which `traj fork` makes" in text
    assert "takes every one under data/forks" in traj("analyze", "psnr", "--help")
    text = traj("analyze", "entropy,psnr", code=2)
    assert "entropy, psnr cannot share a pass" in text
    assert "entropy reads trajectories, psnr reads fork" in text


def test_with_other_runs_to_compare_with_a_quantity_of_forks_takes_runs():
    runs.make("a.zarr")
    runs.make("b.zarr", seed=1)
    assert "which `traj fork` makes" in traj("analyze", "consistency", "a.zarr", code=2)
    assert "wrote results/a/consistency.zarr" in traj("analyze", "consistency", "a.zarr", "--against", "b.zarr")


def test_a_result_is_no_store_to_analyse():
    runs.make("a.zarr")
    traj("analyze", "psnr", "a.zarr")
    text = traj("analyze", "psnr", "results/a/psnr.zarr", code=2)
    assert "of kind result; psnr needs one of kind trajectories, which `traj generate` makes" in text


def test_other_stores_are_known_by_what_they_hold_not_by_their_path():
    runs.make("a.zarr")
    runs.make("b.zarr", seed=1)
    traj("analyze", "psnr", "a.zarr", "--against", "b.zarr", "-o", "p.zarr")
    config = json.loads(read_root(Path("p.zarr"))["attributes"]["config"])
    assert config["against"] == stores.identity(Path("b.zarr"))
    assert config["options"]["against"] is None
    assert "b.zarr" not in json.dumps(config)
    Path("b.zarr").rename("c.zarr")
    assert "nothing to do" in traj("analyze", "psnr", "a.zarr", "--against", "c.zarr", "-o", "p.zarr")
    assert "other options or from another store" in traj("analyze", "psnr", "a.zarr", "-o", "p.zarr", code=1)


def in_the_place_of_psnr(monkeypatch, function):
    marked = analysis.quantity(reads="trajectories", numerics=1, title="Made up")(function)
    monkeypatch.setattr(sys.modules["traj.analysis.psnr"], "psnr", marked)


def test_several_other_stores_are_known_in_their_order(monkeypatch):
    def several(ds: xr.Dataset, *, against: tuple[xr.Dataset, ...] = ()) -> xr.Dataset: ...

    in_the_place_of_psnr(monkeypatch, several)
    runs.make("a.zarr")
    runs.make("b.zarr", 8)
    (job,) = analyze.plan_jobs([Path("a.zarr")], {"psnr": {"against": ("b.zarr", "a.zarr")}}, None)
    assert job.config["against"] == [stores.identity(Path("b.zarr")), stores.identity(Path("a.zarr"))]
    assert job.options["against"] == (str(Path("b.zarr").absolute()), str(Path("a.zarr").absolute()))
    (job,) = analyze.plan_jobs([Path("a.zarr")], {"psnr": {}}, None)
    assert "against" not in job.config


def test_other_stores_reach_a_quantity_opened(monkeypatch):
    seen = {}

    def compared(
        ds: xr.Dataset, *, against: xr.Dataset | None = None, others: tuple[xr.Dataset, ...] = ()
    ) -> xr.Dataset:
        seen.update(against=against, others=others)
        return xr.Dataset({"gap": abs(ds["x_0"] - against["x_0"]).max()})

    in_the_place_of_psnr(monkeypatch, compared)
    paths = [runs.make(f"{name}.zarr", seed=seed) for seed, name in enumerate("abc")]
    identities = [stores.identity(path) for path in paths]
    traj("analyze", "psnr", *("a.zarr", "--against", "b.zarr", "--others", "c.zarr,b.zarr"))
    assert [ds.attrs["fingerprint"] for ds in (seen["against"], *seen["others"])] == [
        identities[k]["fingerprint"] for k in (1, 2, 1)
    ]
    config = json.loads(read_root(Path("results/a/psnr.zarr"))["attributes"]["config"])
    assert config["against"] == identities[1]
    assert config["others"] == [identities[2], identities[1]]
    assert config["options"] == {"against": None, "others": None}
    traj("analyze", "psnr", "b.zarr", "--against", "a.zarr")
    assert seen["others"] == ()


def test_raising_the_numerics_of_one_quantity_makes_only_its_results_stale(monkeypatch):
    runs.make("a.zarr")
    traj("analyze", "psnr,ssim", "a.zarr")
    monkeypatch.setattr(analysis.load("psnr"), "numerics", analysis.load("psnr").numerics + 1)
    assert "nothing to do" in traj("analyze", "ssim", "a.zarr")
    assert "psnr.zarr exists and was computed with other options" in traj("analyze", "psnr", "a.zarr", code=1)
