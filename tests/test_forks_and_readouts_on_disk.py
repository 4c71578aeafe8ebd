import numpy as np
import pytest
import xarray as xr

from tests import runs
from traj import stores

AT = [40, 20, 0]
TIMESTEPS = np.arange(6)[::-1] * 10
IMAGES = (3, 2, 4, *runs.SHAPE)


def fork_states(block, step):
    """A pure function of absolute sample, variant, replica and step: (variant, replica, sample, channel, y, x)."""
    ids = range(block * 4, block * 4 + 4)
    draw = [np.random.default_rng([k, step]).standard_normal((3, 2, *runs.SHAPE)) for k in ids]
    return np.stack(draw, axis=2).astype("f4")


def create_forks(path, samples=8, *, states=False, seed=0, **options):
    return stores.create_forks(
        path,
        variant={"at": AT, "noise": ["independent", "zero", "independent"]},
        replicas=2,
        timestep=TIMESTEPS,
        **runs.preserving(np.linspace(0.01, 0.99, 6)),
        shape=runs.SHAPE,
        samples=samples,
        block=4,
        config={"parent": "made up", "seed": seed},
        states=states,
        **options,
    )


def fill_forks(store, states):
    for block in list(store.pending):
        if states:
            for step in range(6):
                x_t = fork_states(block, step)
                x_t[[at < TIMESTEPS[step] for at in AT]] = np.nan
                store.put(block, step, x_t, np.tanh(x_t))
        store.finish(block, fork_states(block, 99))


def make_forks(path, samples=8, *, states=False, **options):
    with create_forks(path, samples, states=states, **options) as store:
        fill_forks(store, states)
    return path


def logits(block, samples):
    ids = range(block * 4, min(block * 4 + 4, samples))
    return np.stack([np.random.default_rng(k).standard_normal((2, 6, 3)) for k in ids], axis=1).astype("f4")


def create_readout(path, samples=8, seed=0, **options):
    return stores.create_readout(
        path,
        of="trajectories",
        variables={
            "logits": (("on", "sample", "timestep", "class"), "class logits", "1"),
            "x_0_logits": (("sample", "class"), "class logits of the final sample", "1"),
        },
        coords={
            "on": ("on", ["x_t", "pred_x0"], "1", "variable that was read"),
            "timestep": ("timestep", TIMESTEPS, "1", "index in the training schedule"),
            "class": ("class", np.arange(3), "1", "class"),
            "class_name": ("class", ["null", "eins", "zwei"], "1", "name of the class"),
            "label": ("sample", np.arange(samples) % 3, "1", "class the sample was asked for"),
        },
        samples=samples,
        block=4,
        config={"parent": "made up", "seed": seed},
        **options,
    )


def make_readout(path, samples=8, **options):
    with create_readout(path, samples, **options) as store:
        for block in list(store.pending):
            read = logits(block, samples)
            store.write(block, {"logits": read, "x_0_logits": read[0, :, -1]})
    return path


MAKERS = {
    "forks": make_forks,
    "forks with states": lambda path, samples=8, **options: make_forks(path, samples, states=True, **options),
    "readout": make_readout,
}
every_kind = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def test_forks_read_as_they_were_put(tmp_path):
    ds = stores.open(make_forks(tmp_path / "f.zarr", 6, states=True))
    assert ds.x_0.dims == ("variant", "replica", "sample", "channel", "y", "x")
    assert ds.x_t.dims == ("variant", "replica", "sample", "timestep", "channel", "y", "x")
    expected = np.concatenate([fork_states(block, 99) for block in (0, 1)], axis=2)[:, :, :6]
    np.testing.assert_array_equal(ds.x_0, expected)
    state = np.concatenate([fork_states(block, 2) for block in (0, 1)], axis=2)[:, :, :6]
    np.testing.assert_array_equal(ds.x_t.sel(timestep=30)[0], state[0])
    assert np.isnan(ds.x_t.sel(timestep=30)[1:]).all()
    assert ds["at"].to_numpy().tolist() == AT
    assert ds.noise.to_numpy().tolist() == ["independent", "zero", "independent"]
    assert ds.replica.to_numpy().tolist() == [1, 2]
    assert float(ds.log_snr.sel(timestep=ds["at"])[2]) == pytest.approx(np.log(0.99 / 0.01))


def test_forks_without_states_keep_the_ends_only(tmp_path):
    ds = stores.open(make_forks(tmp_path / "f.zarr"))
    assert list(ds.data_vars) == ["x_0"]
    with create_forks(tmp_path / "g.zarr") as store, pytest.raises(ValueError, match="final samples only"):
        store.put(0, 0, fork_states(0, 0), fork_states(0, 0))


def test_a_readout_reads_as_it_was_written(tmp_path):
    ds = stores.open(make_readout(tmp_path / "r.zarr", 6))
    np.testing.assert_array_equal(ds.logits, np.concatenate([logits(0, 6), logits(1, 6)], axis=1))
    assert ds.class_name.to_numpy().tolist() == ["null", "eins", "zwei"]
    assert ds.logits.sel(on="pred_x0", timestep=10).dims == ("sample", "class")


@every_kind
@pytest.mark.filterwarnings("error")
def test_xarray_alone_opens_it(tmp_path, make):
    xr.open_zarr(make(tmp_path / "s.zarr")).load()


@every_kind
@pytest.mark.parametrize(("few", "many"), [(4, 8), (6, 8), (3, 6)])
def test_extending_equals_asking_for_more_at_once(tmp_path, make, few, many):
    make(tmp_path / "s.zarr", few)
    make(tmp_path / "s.zarr", many)
    assert runs.digest(tmp_path / "s.zarr") == runs.digest(make(tmp_path / "straight.zarr", many))


@every_kind
def test_other_inputs_are_refused_or_set_aside(tmp_path, make):
    before = runs.digest(make(tmp_path / "s.zarr"))
    with pytest.raises(stores.StaleStore, match="seed: 0 in the store, 1 asked for"):
        make(tmp_path / "s.zarr", seed=1)
    make(tmp_path / "s.zarr", seed=1, stale="set-aside")
    (aside,) = tmp_path.glob("s.stale-*.zarr")
    assert runs.digest(aside) == before


@every_kind
def test_a_store_of_another_kind_is_never_touched(tmp_path, make):
    before = runs.digest(runs.make(tmp_path / "run.zarr"))
    with pytest.raises(stores.NotAStore, match="kind trajectories"):
        make(tmp_path / "run.zarr", stale="set-aside")
    assert runs.digest(tmp_path / "run.zarr") == before


@pytest.mark.slow
@every_kind
def test_every_flipped_byte_and_lost_file_is_found(tmp_path, make):
    path = make(tmp_path / "s.zarr", 6)
    assert stores.verify(path, deep=True) == []
    rng = np.random.default_rng(0)
    for file in [file for file in sorted(path.rglob("*")) if file.is_file()]:
        content = file.read_bytes()
        for place in {0, len(content) - 1, int(rng.integers(len(content)))}:
            flipped = bytearray(content)
            flipped[place] ^= 1 << int(rng.integers(8))
            file.write_bytes(flipped)
            assert stores.verify(path), f"{file} byte {place}"
        file.unlink()
        if file != path / "zarr.json":
            assert stores.verify(path), file
        file.write_bytes(content)


@every_kind
def test_a_lost_shard_of_a_done_block_is_refused_with_the_way_out(tmp_path, make):
    path = make(tmp_path / "s.zarr")
    lost = next(file for file in sorted(path.rglob("c.*")) if file.parent.name in ("x_0", "x_0_logits"))
    lost.unlink()
    with pytest.raises(stores.IncompleteStore, match=r"block 0 is flagged as done.*same `traj (fork|readout)` again"):
        stores.open(path)


def test_a_half_written_block_is_unfinished_not_damaged(tmp_path):
    store = runs.create(tmp_path / "run.zarr", timesteps=np.arange(300)[::-1])
    for step in range(290):
        store.put(0, step, *runs.states(0, step))
    assert [line for line in stores.verify(tmp_path / "run.zarr") if "left over" in line] == []
    with pytest.raises(KeyboardInterrupt), store:
        raise KeyboardInterrupt
    assert not list((tmp_path / "run.zarr").rglob("*.partial"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variant": {"noise": ["zero"]}}, "variant has noise; a fork has at among its coordinates"),
        ({"variant": {"at": [40], "noise": ["zero", "zero"]}}, "one value for every fork"),
        ({"replicas": 0}, "at least 1"),
        ({"kind": "sweep"}, "a sweep has edit, ns, nb, n, r, unet_blocks, .* among its coordinates"),
        (
            {"kind": "sweep", "variant": {name: [40] for name in stores.KINDS["sweep"].edits}},
            "replicas=2 .* expected 1",
        ),
    ],
)
def test_bad_forks_say_what_was_expected(tmp_path, change, message):
    options = {
        "variant": {"at": AT},
        "replicas": 2,
        "timestep": TIMESTEPS,
        **runs.preserving(np.linspace(0.01, 0.99, 6)),
        "shape": runs.SHAPE,
        "samples": 8,
        "block": 4,
        "config": {},
    }
    with pytest.raises(ValueError, match=message):
        stores.create_forks(tmp_path / "f.zarr", **options | change)


def test_a_readout_of_the_wrong_shape_is_refused(tmp_path):
    with create_readout(tmp_path / "r.zarr", 6) as store:
        with pytest.raises(ValueError, match="expected logits, x_0_logits"):
            store.write(0, {"logits": logits(0, 6)})
        with pytest.raises(ValueError, match=r"expected \(2, 2, 6, 3\)"):
            store.write(1, {"logits": logits(0, 6), "x_0_logits": logits(0, 6)[0, :, -1]})
    with pytest.raises(ValueError, match="a coordinate along each"):
        stores.create_readout(
            tmp_path / "q.zarr",
            of="trajectories",
            variables={"logits": (("sample", "class"), "logits", "1")},
            coords={},
            samples=4,
            block=4,
            config={},
        )
