"""The recorder: what a pipeline of diffusers goes through, kept, and what it returns, unchanged."""

import copy
import json
import re

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, FlowMatchEulerDiscreteScheduler

import traj
from tests.networks import random_unet
from traj import stores
from traj.analysis.geometry import geometry
from traj.analysis.psnr import psnr
from traj.pipeline.computing.project import Stored
from traj.pipeline.info import describe_store
from traj.pipeline.making import fork, generate
from traj.pipeline.process import noise
from traj.pipeline.report.entries import Entry
from traj.pipeline.report.runs import tables
from traj.stores import InputError

OWN = """
from tests.networks import random_unet
from traj.pipeline.models.own import wrap
from traj.pipeline.process import tables

def flow(steps=5):
    unet = random_unet().eval()
    schedule = tables.flow(steps, 3.0)
    return wrap(lambda x_t, t: unet(x_t, 1000 * t).sample, schedule, shape=(1, 8, 8), predicts="flow_prediction")
"""


class Loop:
    """A pipeline in its smallest form: a loop over a scheduler's timesteps, with a function as its network."""

    def __init__(self, scheduler=None, shape=(1, 8, 8), network=None):
        self.scheduler, self.shape = scheduler or DDIMScheduler(clip_sample=False), shape
        self.network = network or (lambda x_t, t: 0.1 * x_t)

    def __call__(self, batch=2, prompt=None, class_labels=None, seed=0, latents=None, stop=99, **set_timesteps):
        self.scheduler.set_timesteps(**(set_timesteps or {"num_inference_steps": 4}))
        x_t = torch.randn(batch, *self.shape, generator=seeded(seed)) if latents is None else latents
        for t in self.scheduler.timesteps[:stop]:
            x_t = self.scheduler.step(self.network(x_t, t), t, x_t).prev_sample
        return x_t


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def ddim():
    pipe = DDIMPipeline(random_unet().eval(), DDIMScheduler(clip_sample=False))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def images(pipe, seed=0, **options):
    return pipe(batch_size=2, num_inference_steps=4, output_type="np", generator=seeded(seed), **options).images


def start():
    return torch.from_numpy(noise.NoiseSource(0, (1, 8, 8))(noise.Purpose.START, range(2), 0))


def generated(path, **options):
    run = generate.prepare(sampler_name="ddim", samples=2, block=2, device="cpu", **options)
    with run.open(path) as store:
        run.run(store, bar=False)
    return traj.open(path)


def same(ours, theirs):
    assert ours.timestep.values.tolist() == theirs.timestep.values.tolist()
    for name in ("signal", "noise_scale"):
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-6)
    for name in ("x_t", "pred_x0", "x_0"):
        assert np.abs(ours[name] - theirs[name]).max() < 1e-5 * max(1, float(np.abs(ours[name]).max()))


def test_the_pipeline_returns_the_same_bits(tmp_path):
    pipe = ddim()
    before = images(pipe, eta=0.7)
    with traj.record(pipe, tmp_path / "a.zarr"):
        within = images(pipe, eta=0.7)
    assert np.array_equal(before, within)
    assert np.array_equal(before, images(pipe, eta=0.7))
    assert (type(pipe), type(pipe.scheduler)) == (DDIMPipeline, DDIMScheduler)


def test_states_are_those_of_our_own_ddim(tmp_path, monkeypatch):
    pipe = ddim()
    pipe.save_pretrained(tmp_path / "model")
    ours = generated(tmp_path / "ours.zarr", model=str(tmp_path / "model"), steps=4)
    monkeypatch.setattr("diffusers.pipelines.ddim.pipeline_ddim.randn_tensor", lambda *_, **__: start())
    with traj.record(pipe, tmp_path / "theirs.zarr"):
        images(pipe)
    theirs = traj.open(tmp_path / "theirs.zarr")
    same(ours, theirs)
    assert ours.model_time.values.tolist() == theirs.model_time.values.tolist()


def test_states_are_those_of_our_own_flow_euler(tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    ours = generated(tmp_path / "ours.zarr", model=f"{tmp_path / 'mine.py'}:flow", steps=5)
    unet = random_unet().eval()
    pipe = Loop(FlowMatchEulerDiscreteScheduler(shift=3.0), network=lambda x_t, t: unet(x_t, t).sample)
    with torch.no_grad(), traj.record(pipe, tmp_path / "theirs.zarr"):
        pipe(latents=start(), sigmas=np.linspace(1, 1 / 5, 5))
    same(ours, traj.open(tmp_path / "theirs.zarr"))


def test_calls_are_blocks_of_samples_and_go_on_where_a_store_ended(tmp_path):
    pipe, path = Loop(), tmp_path / "a.zarr"
    with traj.record(pipe, path):
        first = [pipe(prompt=["a cat", "a dog"], class_labels=7, latents=torch.ones(2, 1, 8, 8))]
    with traj.record(pipe, path):
        first += [pipe(prompt=text, class_labels=[8, 9]) for text in ("a bird", "two fish")]
    ds = traj.open(path)
    assert ds.prompt.values.tolist() == ["a cat", "a dog", "a bird", "a bird", "two fish", "two fish"]
    assert ds.label.values.tolist() == [7, 7, 8, 9, 8, 9]
    np.testing.assert_array_equal(ds.x_0, torch.cat(first))
    assert json.loads(ds.attrs["config"])["store"]["block"] == 2


@pytest.mark.parametrize(
    ("options", "said", "reopened"),
    [
        ({"batch": 3}, "batch: 3, expected 2", True),
        (
            {"num_inference_steps": 5},
            r"record.timesteps: \[800.0,600.0,400.0,200.0,0.0\], expected \[750.0,500.0",
            True,
        ),
        ({"prompt": "a cat"}, r'told: \["prompt"\], expected \[\]', False),
        ({"latents": torch.ones(2, 3, 8, 8)}, r"shape: \[3,8,8\], expected \[1,8,8\]", False),
    ],
)
def test_a_call_that_is_not_like_the_others_is_refused_and_writes_nothing(tmp_path, options, said, reopened):
    pipe, path = Loop(), tmp_path / "a.zarr"
    if reopened:
        with traj.record(pipe, path):
            pipe()
    with traj.record(pipe, path):
        if not reopened:
            pipe()
        with pytest.raises(InputError, match=said):
            pipe(**options)
        pipe()
    assert traj.open(path).sizes["sample"] == 4


def test_another_store_is_set_aside_when_asked(tmp_path):
    path = tmp_path / "a.zarr"
    pipe = Loop()
    with traj.record(pipe, path):
        pipe()
    with traj.record(pipe, path, stale="set-aside"):
        pipe(batch=3)
        pipe(batch=3)
    assert traj.open(path).sizes["sample"] == 6
    assert len(list(tmp_path.glob("a.stale-*.zarr"))) == 1


def test_a_call_that_fails_leaves_the_calls_before_and_the_pipeline_as_it_was(tmp_path):
    pipe, path = Loop(), tmp_path / "a.zarr"

    def network(x_t, t):
        if t < 500:
            raise RuntimeError("the network fails")
        return x_t

    with traj.record(pipe, path):
        kept = pipe()
        pipe.network = network
        with pytest.raises(RuntimeError, match="the network fails"):
            pipe()
    assert (type(pipe), type(pipe.scheduler)) == (Loop, DDIMScheduler)
    np.testing.assert_array_equal(traj.open(path).x_0, kept)
    with pytest.raises(RuntimeError), traj.record(pipe, tmp_path / "none.zarr"):
        pipe()
    assert not (tmp_path / "none.zarr").exists()


def test_calls_that_do_not_take_the_schedulers_steps_are_refused(tmp_path):
    pipe = Loop()
    with traj.record(pipe, tmp_path / "a.zarr"):
        with pytest.raises(InputError, match="stopped after 2 of its scheduler's 4 evaluations"):
            pipe(stop=2)
        with pytest.raises(InputError, match="took no step of its DDIMScheduler"):
            pipe(stop=0)
    assert not (tmp_path / "a.zarr").exists()
    pipe.scheduler.set_timesteps(3)
    jumps = type("Jumps", (Loop,), {"__call__": _out_of_order})()
    with (
        traj.record(jumps, tmp_path / "a.zarr"),
        pytest.raises(InputError, match="stepped at 250 where its scheduler expected 500"),
    ):
        jumps()


def _out_of_order(self):
    self.scheduler.set_timesteps(4)
    x_t = torch.ones(2, 1, 8, 8)
    for t in self.scheduler.timesteps[[0, 2, 1, 3]]:
        x_t = self.scheduler.step(x_t, t, x_t).prev_sample


def test_schedulers_that_are_not_recorded_are_refused_before_the_first_step(tmp_path):
    seen = []
    pipe = Loop(diffusers.DDIMInverseScheduler(), network=lambda x_t, t: seen.append(t))
    with pytest.raises(InputError, match="DDIMInverseScheduler cannot be recorded: it leads from data to noise"):
        traj.record(pipe, tmp_path / "a.zarr")
    pipe.scheduler = DDIMScheduler()
    with traj.record(pipe, tmp_path / "a.zarr"):
        pipe.scheduler = diffusers.DDIMInverseScheduler()
        with pytest.raises(InputError, match="DDIMInverseScheduler cannot be recorded"):
            pipe()
    assert not seen
    with pytest.raises(InputError, match="object has no scheduler"):
        traj.record(object(), tmp_path / "a.zarr")
    with pytest.raises(InputError, match="every=0"):
        traj.record(Loop(), tmp_path / "a.zarr", every=0)


@pytest.mark.parametrize(
    "scheduler", ["HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "FlowMatchHeunDiscreteScheduler"]
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_two_evaluations_of_a_step_are_kept_apart(tmp_path, scheduler):
    given = []
    pipe = Loop(getattr(diffusers, scheduler)(), network=lambda x_t, t: given.append(x_t) or 0.1 * x_t)
    with traj.record(pipe, tmp_path / "a.zarr"):
        pipe()
    ds = traj.open(tmp_path / "a.zarr")
    assert ds.step.values.tolist() == [0, 2, 4, 6]
    np.testing.assert_array_equal(ds.x_t, np.stack(given, 1)[:, ::2])
    d = ds.noise_scale.values[:, None, None, None]
    np.testing.assert_allclose(ds.pred_x0, (1 - 0.1 * d) * ds.x_t, rtol=1e-5, atol=1e-6)


def test_the_report_says_how_a_recorded_run_was_made(tmp_path):
    entries = []
    for name, told in (("cats", {"prompt": ["a cat", "two"]}), ("plain", {})):
        path = tmp_path / f"{name}.zarr"
        pipe = Loop(diffusers.HeunDiscreteScheduler())
        with traj.record(pipe, path, every=2):
            pipe(num_inference_steps=4, **told)
        run = Stored(name, "trajectories", path, stores.describe(path), traj.open(path), None)
        entries.append(Entry(name, {"trajectories": run}))
    shown = tables(entries, {"cats": "#000", "plain": "#000"}, "")
    found = [re.findall("<td[^>]*>(.*?)</td>", row)[2:7] for row in shown.split("<tr>")[2:]]
    under = "prompts &quot;a cat&quot;, &quot;two&quot;"
    assert found == [["HeunDiscreteScheduler", each, "4", "2", "14"] for each in (under, "–")]


def test_every_second_step_and_the_last_are_kept(tmp_path):
    pipe = Loop()
    with traj.record(pipe, tmp_path / "a.zarr", every=2):
        pipe()
    ds = traj.open(tmp_path / "a.zarr")
    assert ds.timestep.values.tolist() == [750, 250, 0]
    assert ds.step.values.tolist() == [0, 2, 3]


@pytest.mark.parametrize(
    ("shape", "channels", "dims"),
    [
        ((2, 64), None, ("channel", "position")),
        ((3, 2, 8, 8), None, ("channel", "frame", "y", "x")),
        ((16, 64), 64, ("position", "channel")),  # packed, as Flux has them
        ((3, 4, 8, 8), 4, ("frame", "channel", "y", "x")),  # as CogVideoX has them
    ],
)
def test_sounds_films_and_packed_latents_are_named_and_analysed(tmp_path, shape, channels, dims):
    pipe = Loop(diffusers.CogVideoXDDIMScheduler() if len(shape) == 4 else FlowMatchEulerDiscreteScheduler(), shape)
    if channels:
        pipe.transformer = torch.nn.Module()
        pipe.transformer.config = {"in_channels": channels, "out_channels": None}
    with traj.record(pipe, tmp_path / "a.zarr"):
        pipe()
    ds = traj.open(tmp_path / "a.zarr")
    assert ds.x_t.dims == ("sample", "timestep", *dims)
    assert np.isfinite(geometry(ds).to_array()).any()


def test_dims_are_those_that_are_said(tmp_path):
    pipe = Loop(shape=(4, 8))
    with traj.record(pipe, tmp_path / "a.zarr", dims=("token", "feature")):
        pipe()
    assert traj.open(tmp_path / "a.zarr").x_0.dims == ("sample", "token", "feature")


def test_a_sound_pipeline_of_diffusers_is_recorded(tmp_path):
    torch.manual_seed(0)
    unet = diffusers.UNet1DModel(
        block_out_channels=(32, 32),
        down_block_types=("DownBlock1DNoSkip", "DownBlock1D"),
        up_block_types=("UpBlock1D", "UpBlock1DNoSkip"),
        extra_in_channels=16,
        sample_size=64,
        sample_rate=100,
        use_timestep_embedding=False,
        time_embedding_dim=16,
        flip_sin_to_cos=True,
        in_channels=2,
        out_channels=2,
    )
    pipe = diffusers.DanceDiffusionPipeline(unet, diffusers.IPNDMScheduler())
    pipe.set_progress_bar_config(disable=True)
    call = {"batch_size": 1, "num_inference_steps": 4}
    before = pipe(generator=seeded(), **call).audios
    with traj.record(pipe, tmp_path / "a.zarr"):
        assert np.array_equal(before, pipe(generator=seeded(), **call).audios)
    assert traj.open(tmp_path / "a.zarr").x_t.dims == ("sample", "timestep", "channel", "position")


def test_a_copy_of_the_scheduler_steps_by_itself(tmp_path):
    class Two(Loop):
        def __call__(self):
            super_ = Loop.__call__
            self.scheduler.set_timesteps(4)
            other = copy.deepcopy(self.scheduler)
            for t in other.timesteps:
                other.step(torch.zeros(5, 1), t, torch.zeros(5, 1))
            return super_(self)

    with traj.record(pipe := Two(), tmp_path / "a.zarr"):
        pipe()
    assert traj.open(tmp_path / "a.zarr").x_t.shape == (2, 4, 1, 8, 8)


def test_latents_have_no_valid_range_and_pixels_that_of_their_clipping(tmp_path):
    latents, pixels = Loop(), Loop(DDIMScheduler(clip_sample_range=3.0))
    latents.vae = type("AutoencoderKL", (), {})()
    for name, pipe in (("latents", latents), ("pixels", pixels)):
        with traj.record(pipe, tmp_path / f"{name}.zarr"):
            pipe()
    assert "valid_range" not in traj.open(tmp_path / "latents.zarr").x_0.attrs
    assert traj.open(tmp_path / "pixels.zarr").x_0.attrs["valid_range"] == [-3, 3]


def test_what_reads_runs_reads_records_and_forks_of_them_are_refused(tmp_path):
    pipe, path = Loop(), tmp_path / "a.zarr"
    with traj.record(pipe, path):
        pipe()
    ds = traj.open(path)
    assert np.isfinite(psnr(ds).to_array()).any()
    assert "DDIMScheduler" in describe_store(path)
    assert not stores.verify(path)
    with pytest.raises(stores.NotAStore, match="only their runs can be forked"):
        fork.prepare(store=path, at=[500], model=None, device="cpu")


def test_a_run_that_was_not_recorded_is_not_continued(tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    generated(tmp_path / "a.zarr", model=f"{tmp_path / 'mine.py'}:flow", steps=5)
    with pytest.raises(stores.NotAStore, match="holds trajectories that were not recorded"):
        traj.record(Loop(), tmp_path / "a.zarr")


def test_the_weights_of_a_folder_are_part_of_a_record(tmp_path):
    ddim().save_pretrained(tmp_path / "model")
    for _ in range(2):
        pipe = DDIMPipeline.from_pretrained(tmp_path / "model")
        with traj.record(pipe, tmp_path / "a.zarr"):
            images(pipe)
    assert traj.open(tmp_path / "a.zarr").sizes["sample"] == 4
    with torch.no_grad():
        pipe.unet.conv_out.bias += 1
    pipe.save_pretrained(tmp_path / "model")
    other = DDIMPipeline.from_pretrained(tmp_path / "model")
    with traj.record(other, tmp_path / "a.zarr"), pytest.raises(InputError, match=r"record\.weights"):
        images(other)
