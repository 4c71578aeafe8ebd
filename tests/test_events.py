"""Events of any number of dims: films, sounds and vectors are stored, read, made and analysed like images."""

import shutil
from functools import cache

import numpy as np
import pytest
import torch
import xarray as xr
from click.testing import CliRunner

from tests import runs
from traj import stores
from traj.analysis.consistency import consistency
from traj.analysis.entropy import entropy
from traj.analysis.intervention import intervention
from traj.analysis.label_variance import label_variance
from traj.analysis.psnr import psnr
from traj.analysis.ssim import ssim
from traj.pipeline import info, readouts
from traj.pipeline.cli import main
from traj.pipeline.making import fork, generate, readout
from traj.pipeline.models import own
from traj.pipeline.process import tables
from traj.pipeline.process.guidance import guided
from traj.pipeline.readouts import Output, Pass, Readout

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


def made(job, path):
    with job.open(path) as store:
        job.run(store, bar=False)
    return path


def gaussian(shape, variance=0.25):
    return f"gaussian:0.5,{variance},{'x'.join(map(str, shape))}"


@pytest.mark.parametrize("shape", [(30,), (2, 15), (1, 5, 6), (1, 5, 2, 3)])
def test_closed_forms_keep_their_variance_in_every_shape(tmp_path, shape):
    """Without noise on the way each value ends at mean + gain x_T (METHODS 7.1), whatever the shape it lies in."""
    common = {"samples": 40, "block": 20, "sampler_name": "ddim", "steps": 20, "device": "cpu"}
    path = made(generate.prepare(model=gaussian(shape), **common), tmp_path / "run.zarr")
    image = made(generate.prepare(model=gaussian((1, 5, 6)), **common), tmp_path / "image.zarr")
    ds = stores.open(path)
    assert ds.x_t.dims[2:] == stores.event_dims(ds.x_0.dims) == {len(k): d for k, d in DIMS.items()}[len(shape)]
    assert stores.verify(path, deep=True) == []
    np.testing.assert_array_equal(ds.x_0.values.reshape(40, -1), stores.open(image).x_0.values.reshape(40, -1))
    c, d = ds.signal.values, ds.noise_scale.values
    gain = 1.0
    v = c**2 * 0.25 + d**2
    c_s, d_s = np.append(c[1:], 1), np.append(d[1:], 0)
    for k in range(len(c)):
        gain *= (c_s[k] * c[k] * 0.25 + d_s[k] * d[k]) / v[k]
    x_T = ds.x_t.values[:, 0].astype("f8")
    expected = 0.5 + gain * (x_T - c[0] * 0.5)
    np.testing.assert_allclose(ds.x_0.values, expected, atol=2e-5)
    assert ds.x_0.values.var() == pytest.approx(gain**2, rel=0.15)


@shapes
def test_runs_of_every_shape_can_be_forked_from_their_states(tmp_path, shape):
    job = generate.prepare(model=gaussian(shape), samples=6, block=4, steps=4, device="cpu")
    run = made(job, tmp_path / "run.zarr")
    at = stores.open(run).timestep.values[1:3].tolist()
    job = fork.prepare(store=run, at=at, replicas=2, noise=["zero"], states=True, device="cpu")
    forks = made(job, tmp_path / "fork.zarr")
    ds = stores.open(forks)
    assert ds.x_0.dims == ("variant", "replica", "sample", *DIMS[shape])
    assert stores.verify(forks, deep=True) == []
    np.testing.assert_array_equal(ds.x_0[:, 0], ds.x_0[:, 1])
    if len(shape) != 3:
        with pytest.raises(ValueError, match="a classifier reads images, expected channel, y, x"):
            readout.prepare("classifier", store=forks, model="digits-classifier", device="cpu")


def test_a_denoiser_names_the_dims_of_its_events(tmp_path):
    wrapped = own.wrap(
        lambda x_t, time, label: torch.zeros_like(x_t),
        tables.named("linear"),
        shape=(2, 3),
        predicts="sample",
        dims=("lead", "time"),
        num_classes=2,
        null_label=2,
    )
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch\nfrom traj.pipeline.models.own import wrap\nfrom traj.pipeline.process import tables\n"
        "def ecg():\n"
        "    zero = lambda x_t, time: torch.zeros_like(x_t)\n"
        "    linear = tables.named('linear')\n"
        "    return wrap(zero, linear, shape=(2, 3), predicts='sample', dims=('lead', 'time'))\n"
    )
    assert guided(wrapped, 2).dims == ("lead", "time")
    job = generate.prepare(model=f"{file}:ecg", samples=2, block=2, steps=3, device="cpu")
    assert stores.open(made(job, tmp_path / "run.zarr")).x_0.dims == ("sample", "lead", "time")
    assert "lead 2, time 3, no classes" in info.describe_model(f"{file}:ecg")
    assert "feature 6, no classes" in info.describe_model("gaussian:0,1,6")


def test_closed_forms_refuse_shapes_without_a_name():
    for shape in ("1x2x3x4x5", "0", "2x0"):
        with pytest.raises(ValueError, match="channel, frame, y, x"):
            info.describe_model(f"gaussian:0,1,{shape}")


@pytest.fixture(scope="module")
def forks_of(tmp_path_factory):
    """Give a run of events of a shape and its forks, made once; tests only read them."""

    @cache
    def make(shape, replicas=3):
        folder = tmp_path_factory.mktemp("events")
        job = generate.prepare(model=gaussian(shape), samples=10, block=5, steps=4, device="cpu")
        run = made(job, folder / "run.zarr")
        at = stores.open(run).timestep.values[1:3].tolist()
        job = fork.prepare(store=run, at=at, replicas=replicas, device="cpu")
        return run, made(job, folder / "fork.zarr")

    return make


@pytest.mark.parametrize("shape", [(30,), (2, 15), (1, 5, 2, 3)])
def test_events_are_compared_like_images_of_the_same_values(forks_of, shape):
    run, forks = map(stores.open, forks_of(shape))
    image_run, image_forks = map(stores.open, forks_of((1, 5, 6)))
    ours, theirs = psnr(run), psnr(image_run)
    np.testing.assert_array_equal(ours.psnr, theirs.psnr)
    ours = psnr(run, against=run)
    assert (ours.psnr == 100).all()
    with pytest.raises(ValueError, match="have channel 1, y 5, x 6, here "):
        psnr(run, against=image_run)
    ours, theirs = consistency(forks).compute(), consistency(image_forks).compute()
    assert ours.ssim.isnull().all()
    assert theirs.ssim.notnull().all()
    for name in ("pearson", "cosine", "one_minus_nmse", "psnr", "replica_correlation", "replica_correlation_se"):
        np.testing.assert_array_equal(ours[name], theirs[name])
    ours = consistency(run, against=(run,)).compute()
    assert (ours.start_difference == 0).all()
    assert (ours.psnr == 100).all()


@pytest.mark.parametrize("shape", [(30,), (2, 15), (1, 5, 2, 3)])
def test_edits_of_events_are_compared_with_their_run(forks_of, shape):
    run, forks = forks_of(shape, replicas=1)
    edits = {"edit": "jump", "ns": 0, "nb": 0, "n": 1, "r": -1}
    sweep = stores.open(forks).assign_coords({k: ("variant", [v, v]) for k, v in edits.items()})
    sweep.attrs["kind"] = "sweep"
    found = intervention(sweep, baseline=stores.open(run)).compute()
    assert found.ssim.isnull().all()
    assert (found.psnr > 0).all()
    unit = [np.clip((x + 1.5) / 4, 0, 1) for x in (sweep.x_0.values[:, 0], stores.open(run).x_0.values)]
    mad = abs(unit[0].astype("f8") - unit[1]).reshape(2, 10, -1).mean(-1)
    np.testing.assert_allclose(found.mad, mad, atol=1e-6)


def logits(source):
    """Two classes: how the first value of an event stands to its last."""

    def read(events):
        values = events.values["x_0"].flatten(1)
        return (torch.stack([values[:, 0], values[:, -1]], dim=1),)

    coords = {"class": ("class", np.arange(2), "1", "class")}
    final = Pass(("x_0",), (Output("x_0_logits", ("class",), "logits"),), read)
    return Readout((final,), coords, identity={}, batch=7)


@pytest.mark.parametrize("shape", [(30,), (1, 5, 2, 3)])
def test_labels_of_events_vary_like_those_of_images_of_the_same_values(tmp_path, monkeypatch, forks_of, shape):
    monkeypatch.setattr(readouts, "load", lambda name: logits)
    found = []
    for folder, event in (("a", shape), ("b", (1, 5, 6))):
        _, forks = forks_of(event)
        read = made(readout.prepare("logits", store=forks, device="cpu"), tmp_path / f"{folder}.zarr")
        found.append(label_variance(stores.open(read)).compute())
    assert (found[0].label_variance > 0).all()
    np.testing.assert_array_equal(found[0].label_variance, found[1].label_variance)


@pytest.mark.parametrize("shape", [(30,), (2, 15), (1, 5, 2, 3)])
def test_what_needs_images_refuses_other_events_by_name(forks_of, shape):
    run, forks = map(stores.open, forks_of(shape))
    here = ", ".join(run.x_0.dims[1:])
    for quantity, name in ((ssim, "SSIM"), (entropy, "entropy")):
        with pytest.raises(ValueError, match=f"{name}.* needs images, of dims channel, y, x; .* have {here}: .*psnr"):
            quantity(run)
    with pytest.raises(ValueError, match=f"SSIM, which is of images; these events have dims {here}"):
        consistency(forks, preset="window:3")


@pytest.mark.slow
def test_a_report_shows_no_images_of_events_that_are_none(tmp_path, monkeypatch, without_figures, forks_of):
    monkeypatch.chdir(tmp_path)
    for store, folder in zip(forks_of((30,)), ("trajectories", "forks"), strict=True):
        shutil.copytree(store, tmp_path / "data" / folder / store.name)
    for words in ("analyze psnr", "analyze consistency", "report"):
        found = CliRunner().invoke(main, words.split())
        assert found.exit_code == 0, found.output
    assert "left out" not in found.output
