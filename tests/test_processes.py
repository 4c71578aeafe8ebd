"""One loop for all processes: closed forms of EDM, rectified flow and networks that answer 0, from a store and back."""

import json
import math

import numpy as np
import pytest
import torch
import xarray as xr
from diffusers import DDIMScheduler, DDPMPipeline

from tests import runs
from tests.networks import random_unet
from tests.sampling import LINEAR, network, run, start
from traj import stores
from traj.pipeline.making import fork, generate
from traj.pipeline.models.analytic import GaussianDenoiser
from traj.pipeline.process import tables
from traj.pipeline.process.cut import WHOLE
from traj.pipeline.process.noise import NoiseSource, Purpose
from traj.pipeline.process.plan import Plan, Step
from traj.pipeline.process.plans import ddim, ddpm, heun
from traj.pipeline.process.sampler import evaluations, noise_sd
from traj.pipeline.process.schedule import Schedule


def stored(path, **options):
    generation = generate.prepare(**{"samples": 3, "block": 3, "device": "cpu", **options})
    with generation.open(path) as store:
        generation.run(store, bar=False)
    return stores.open(path).compute()


def noise(shape=(1, 1, 1), samples=3):
    return NoiseSource(0, shape)(Purpose.START, range(samples), 0)


# --- Gaussian data: every step is a gain -----------------------------------------------------------------------

GAINS = [
    ("edm", "heun", 18, 0.25, 0.52762),
    ("edm", "heun", 40, 0.25, 0.50488),
    ("edm", "heun", 18, 1.0, 1.04473),
    ("edm", "heun", 40, 1.0, 1.00790),
    ("edm", "ddim", 18, 0.25, 0.42303),
    ("edm", "ddim", 40, 0.25, 0.46485),
    ("edm", "ddim", 200, 0.25, 0.49290),
    ("edm", "ddim", 18, 1.0, 0.85946),
    ("edm", "ddim", 40, 1.0, 0.93606),
    ("edm", "ddim", 200, 1.0, 0.98707),
    ("flow", "ddim", 28, 0.25, 0.47421),
    ("flow", "ddim", 50, 0.25, 0.48540),
    ("flow", "ddim", 28, 1.0, 0.95511),
    ("flow", "ddim", 50, 1.0, 0.97462),
    ("flow:3", "ddim", 28, 0.25, 0.45027),
    ("flow:3", "ddim", 28, 1.0, 0.93736),
]


@pytest.mark.parametrize(("schedule", "sampler", "steps", "variance", "final"), GAINS)
def test_gaussian_data_end_with_the_published_sd_in_a_store(tmp_path, schedule, sampler, steps, variance, final):
    ds = stored(
        tmp_path / "a.zarr", model=f"gaussian:0,{variance}", schedule=schedule, sampler_name=sampler, steps=steps
    )
    np.testing.assert_allclose(ds.x_0 / noise(), final, atol=6e-6)
    assert ds.timestep.values.tolist() == list(range(steps - 1, -1, -1))
    x_T = ds.x_t.isel(timestep=0)
    np.testing.assert_allclose(x_T, float(ds.noise_scale[0]) * noise(), rtol=1e-6)
    assert "alpha_bar" not in ds.coords
    np.testing.assert_array_equal(ds.sigma, ds.noise_scale / ds.signal)


def test_grids_are_those_of_their_papers():
    edm, flow, shifted = tables.edm(18), tables.flow(4), tables.flow(4, 3)
    i = np.arange(18)
    karras = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(edm.noise_scale[::-1], karras, rtol=1e-12)
    np.testing.assert_array_equal(edm.model_time, edm.sigma)
    np.testing.assert_allclose(flow.model_time, [0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(shifted.noise_scale, [0.5, 0.75, 0.9, 1])
    np.testing.assert_allclose(shifted.signal + shifted.noise_scale, 1)
    assert flow.log_snr[-1] == -np.inf
    assert flow.sigma[-1] == np.inf


@pytest.mark.parametrize("schedule", ["edm", "flow", "linear", "cosine"])
def test_every_sampler_draws_gaussian_data_on_every_schedule(tmp_path, schedule):
    for sampler, options in (("ddpm", {}), ("ddim", {}), ("ddim", {"eta": 1.0}), ("heun", {})):
        name = f"{sampler}{len(options)}.zarr"
        model, steps = "gaussian:0.5,0.25,1x32x32", 200
        options = {"model": model, "schedule": schedule, "sampler_name": sampler, "steps": steps, **options}
        x_0 = stored(tmp_path / name, samples=4, block=4, **options).x_0
        assert float(x_0.mean()) == pytest.approx(0.5, abs=0.04)
        assert float(x_0.var()) == pytest.approx(0.25, rel=0.1)


def test_ddim_with_eta_1_is_ancestral_sampling_on_every_schedule():
    for schedule in (LINEAR, tables.edm(20), tables.flow(20), tables.flow(20, 3)):
        denoiser = GaussianDenoiser(0.2, 0.25, (1, 8, 8), schedule)
        x_T = start(dtype=torch.float64) * schedule.start_sd(schedule.T - 1)
        ancestral = run(denoiser, ddpm(schedule, 20, "small"), x_T)[-1]
        torch.testing.assert_close(run(denoiser, ddim(schedule, 20, eta=1.0), x_T)[-1], ancestral)
        small, eta_1 = noise_sd(schedule, ddpm(schedule, 20, "small")), noise_sd(schedule, ddim(schedule, 20, 1.0))
        np.testing.assert_allclose(small, eta_1, rtol=1e-12)


def test_the_posterior_of_edm_is_the_euler_ancestral_step():
    schedule = tables.edm(30)
    sigma = schedule.sigma[::-1]
    up = np.sqrt(sigma[1:] ** 2 * (sigma[:-1] ** 2 - sigma[1:] ** 2) / sigma[:-1] ** 2)
    np.testing.assert_allclose(noise_sd(schedule, ddpm(schedule, variance="small"))[:-1], up, rtol=1e-9)
    variance_step = sigma[:-1] ** 2 - sigma[1:] ** 2
    np.testing.assert_allclose(noise_sd(schedule, ddpm(schedule))[:-1] ** 2, variance_step, rtol=1e-9)


def test_heun_is_of_second_order_on_every_schedule():
    for schedules in (tables.edm, tables.flow, lambda steps: LINEAR):
        errors = []
        for steps in (50, 100):
            schedule = schedules(steps)
            denoiser = GaussianDenoiser(0.0, 0.25, schedule=schedule)
            x_T = torch.ones(4, 1, 1, 1, dtype=torch.float64)
            made = run(denoiser, heun(schedule, steps), x_T)
            # the last step is Euler's, so look at a state before it
            k = next(k for k, t in enumerate(heun(schedule, steps).timesteps) if schedule.log_snr[t] > 1)
            timestep = heun(schedule, steps).timesteps[k]
            c, d = schedule.at(timestep)
            c_T, d_T = schedule.at(heun(schedule, steps).timesteps[0])
            exact = math.sqrt((c**2 * 0.25 + d**2) / (c_T**2 * 0.25 + d_T**2))
            errors.append(abs(float(made[0][k][0]) / exact - 1))
        assert errors[1] < 0.35 * errors[0] < 0.01


def test_heun_counts_two_evaluations_a_step_but_the_last(tmp_path):
    options = {"model": "gaussian:0,1", "schedule": "edm", "steps": 18, "samples": 8, "block": 4, "device": "cpu"}
    generation = generate.prepare(sampler_name="heun", **options)
    assert generation.plan.evaluations == 35
    assert generation.cost(tmp_path).evaluations == 2 * 35
    asked = []

    class Counted(GaussianDenoiser):
        def __call__(self, x_t, timestep, condition, cut=WHOLE):
            asked.append((timestep, len(x_t)))
            return super().__call__(x_t, timestep, condition, cut)

    schedule = tables.edm(3)
    run(Counted(0.0, 1.0, schedule=schedule), heun(schedule), start((4, 1, 1, 1)))
    assert asked == [(2, 4), (1, 4), (1, 4), (0, 4), (0, 4)]
    assert evaluations([heun(schedule)] * 3, 2) == 2 * 5


def test_a_heun_run_forks_bit_for_bit(tmp_path):
    options = {"model": "gaussian:0.1,0.25,1x4x4", "schedule": "edm", "sampler_name": "heun", "steps": 12}
    ds = stored(tmp_path / "a.zarr", **options)
    forks = fork.prepare(store=tmp_path / "a.zarr", at=[11, 5, 2], replicas=1, noise=["shared"], device="cpu", batch=3)
    assert forks.cost(tmp_path).evaluations == 23 + 11 + 5
    with forks.open(tmp_path / "f.zarr") as store:
        forks.run(store, bar=False)
    forked = stores.open(tmp_path / "f.zarr").compute()
    for variant in range(3):
        np.testing.assert_array_equal(forked.x_0[variant, 0], ds.x_0)


def test_heun_adds_no_noise_and_says_so():
    with pytest.raises(ValueError, match="heun step; expected 0"):
        Step(5, 4, "heun", 1.0)
    plan = heun(tables.edm(4))
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert not noise_sd(tables.edm(4), plan).any()
    with pytest.raises(ValueError, match="only ddim has an eta"):
        generate.prepare(model="gaussian:0,1", schedule="edm", steps=4, sampler_name="heun", eta=1.0)


# --- networks that answer 0 ------------------------------------------------------------------------------------


def zero_network(folder, **scheduler):
    unet = random_unet()
    torch.nn.init.zeros_(unet.conv_out.weight)
    torch.nn.init.zeros_(unet.conv_out.bias)
    DDPMPipeline(unet, DDIMScheduler(clip_sample=False, **scheduler)).save_pretrained(folder)
    return str(folder)


def shrunk(path, **options):
    """How much is left of x_T in every state, and in x_0."""
    ds = stored(path, sampler_name="ddim", **options)
    x_T = ds.x_t.isel(timestep=0)
    states = [(ds.x_t.isel(timestep=k) / x_T).mean() for k in range(1, len(ds.timestep))]
    return ds, np.array([*states, (ds.x_0 / x_T).mean()])


def test_a_network_that_says_x_0_is_0_leaves_the_noise(tmp_path):
    model = zero_network(tmp_path / "m", prediction_type="sample", timestep_spacing="linspace")
    ds, left = shrunk(tmp_path / "a.zarr", model=model, steps=10)
    np.testing.assert_allclose(left[:-1], ds.noise_scale[1:] / ds.noise_scale[0], rtol=1e-6)
    assert left[ds.timestep.values[1:].tolist().index(555)] == pytest.approx(0.978156, abs=1e-6)
    assert left[-2] == pytest.approx(0.010000, abs=1e-6)
    assert left[-1] == 0


def test_a_network_that_says_v_is_0_turns_by_the_angle(tmp_path):
    model = zero_network(tmp_path / "m", prediction_type="v_prediction", timestep_spacing="linspace")
    ds, left = shrunk(tmp_path / "a.zarr", model=model, steps=10)
    theta = np.arccos([*ds.signal, 1])
    np.testing.assert_allclose(left, np.cumprod(np.cos(np.diff(theta))), rtol=1e-5)


def test_zero_terminal_snr_starts_without_signal(tmp_path):
    config = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    model = zero_network(tmp_path / "v", prediction_type="v_prediction", **config)
    ds, left = shrunk(tmp_path / "v.zarr", model=model, steps=5)
    assert ds.timestep.values.tolist() == [999, 799, 599, 399, 199]
    np.testing.assert_allclose(left, [0.999455, 0.991888, 0.948334, 0.836026, 0.677690], atol=1e-6)
    assert (ds.signal[0], ds.noise_scale[0], ds.log_snr[0], ds.sigma[0]) == (0, 1, -np.inf, np.inf)
    model = zero_network(tmp_path / "x", prediction_type="sample", **config)
    for sampler in ("ddpm", "heun"):
        ds = stored(tmp_path / f"{sampler}.zarr", model=model, sampler_name=sampler, steps=5)
        assert np.isfinite(ds.x_t).all()
        assert not ds.x_0.any()
    model = zero_network(tmp_path / "e", prediction_type="epsilon", **config)
    with pytest.raises(ValueError, match="prediction_type epsilon says nothing of x_0 at timestep 999"):
        generate.prepare(model=model, device="cpu")


# --- schedules by name -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "steps", "named"),
    [
        ("edm", None, "say how many: --steps"),
        ("edm:1", 4, "expected one of"),
        ("edm:3,2,7", 4, "MIN < MAX"),
        ("edm:0.1,nan,7", 4, "MIN < MAX"),
        ("flow:0", 4, "shift above 0"),
        ("flow:1,2", 4, "expected one of"),
        ("flow:x", 4, "expected one of"),
        ("sigmoid", 4, "expected one of linear"),
        ("edm", 0, "0 steps"),
        ("flow", 10**9, "1000000000 steps"),
    ],
)
def test_schedules_that_cannot_be_are_refused_by_name(name, steps, named):
    with pytest.raises(ValueError, match=named):
        generate.prepare(model="gaussian:0,1", schedule=name, steps=steps, device="cpu")


@pytest.mark.parametrize("name", ["linear", "cosine", "ve", "edm:0.01,50.0,5.0", "flow:1.0", "flow:2.5"])
def test_a_schedule_is_named_again_by_its_fingerprint(name):
    schedule = tables.named(name, 12)
    assert tables.name_of(json.loads(json.dumps(schedule.identity))) == name
    assert tables.named(name, 12) == schedule


def test_a_table_is_told_apart_by_what_it_holds():
    rows = [[0.9, 0.5], [0.1, 0.5], [0, 1]]
    assert tables.table(*rows).identity == tables.table(*rows).identity
    assert tables.table(*rows).identity != tables.table(rows[0], rows[1], [0, 2]).identity
    for bad, named in (
        ([[0.5, 0.9], [0.5, 0.1], [0, 1]], "least noise first"),
        ([[0.9, 0.5], [0.1, 0.5], [0]], "one number of each"),
        ([[-0.9, -1], [0.1, 0.5], [0, 1]], "below 0"),
        ([[0.9, 0.5], [0.1, np.nan], [0, 1]], "not finite"),
    ):
        with pytest.raises(ValueError, match=named):
            tables.table(*bad)


def test_a_network_keeps_the_schedule_it_was_trained_on(tmp_path):
    model = zero_network(tmp_path / "m", prediction_type="sample")
    with pytest.raises(ValueError, match="has its own"):
        generate.prepare(model=model, schedule="edm", steps=4, device="cpu")


def test_a_fork_takes_the_schedule_of_its_run(tmp_path):
    stored(tmp_path / "a.zarr", model="mixture:-1,1", schedule="flow:2", steps=9, sampler_name="ddpm")
    forks = fork.prepare(store=tmp_path / "a.zarr", at=[8, 3], replicas=2, device="cpu")
    assert forks.denoiser.schedule == tables.flow(9, 2)
    with forks.open(tmp_path / "f.zarr") as store:
        forks.run(store, bar=False)
    np.testing.assert_allclose(abs(stores.open(tmp_path / "f.zarr").x_0), 1, atol=1e-5)


# --- timesteps by hand -----------------------------------------------------------------------------------------


def test_timesteps_are_taken_as_listed(tmp_path):
    ds = stored(tmp_path / "a.zarr", model="gaussian:0,0.25", sampler_name="ddim", timesteps=[999, 850, 700, 10])
    assert ds.timestep.values.tolist() == [999, 850, 700, 10]
    by_count = stored(tmp_path / "b.zarr", model="gaussian:0,0.25", sampler_name="ddim", steps=4)
    by_hand = stored(tmp_path / "c.zarr", model="gaussian:0,0.25", sampler_name="ddim", timesteps=[0, 250, 500, 750])
    np.testing.assert_array_equal(by_count.x_t, by_hand.x_t)
    assert by_count.attrs["fingerprint"] == by_hand.attrs["fingerprint"]
    some = generate.prepare(model="gaussian:0,1", schedule="edm", steps=18, timesteps=[17, 8, 0], device="cpu")
    assert some.plan.timesteps == [17, 8, 0]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"timesteps": [5, 5]}, "each once"),
        ({"timesteps": [1000, 5]}, "999 to 0"),
        ({"timesteps": [5, 4], "steps": 2}, "expected one of them"),
    ],
)
def test_timesteps_that_cannot_be_are_refused(options, named):
    with pytest.raises(ValueError, match=named):
        generate.prepare(model="gaussian:0,1", device="cpu", **options)


def test_every_network_of_a_step_is_fed_the_tables_time():
    table = Schedule.from_config({"clip_sample": False}, time_scale=0.25)
    denoiser, times = network(table), []
    denoiser.network.register_forward_pre_hook(lambda module, args: times.append(args[1]))
    run(denoiser, ddim(table, 4), start())
    assert [float(time) for time in times] == [187.5, 125, 62.5, 0]
    assert {time.dtype for time in times} == {torch.float32}


# --- what a store derives --------------------------------------------------------------------------------------


def test_a_store_derives_noise_levels_from_signal_and_noise_scale(tmp_path):
    preserving = runs.preserving(np.array([0.0, 0.3, 0.99]))
    exploding = {"signal": [1, 1, 1], "noise_scale": [80.0, 3, 0.1]}
    for name, given in (("a", preserving), ("b", exploding)):
        runs.create(tmp_path / name, timesteps=[20, 10, 0], levels=given).close()
        ds = xr.open_zarr(tmp_path / name, chunks=None, consolidated=True)
        c, d = (np.asarray(given[column], float) for column in ("signal", "noise_scale"))
        with np.errstate(divide="ignore"):
            np.testing.assert_allclose(ds.log_snr, np.log(c**2 / d**2))
            np.testing.assert_allclose(ds.sigma, d / c)
        assert ("alpha_bar" in ds.coords) == (name == "a")
    np.testing.assert_allclose(xr.open_zarr(tmp_path / "a", chunks=None).alpha_bar, [0, 0.3, 0.99], atol=1e-12)


@pytest.mark.parametrize("levels", [([1, -1], [1, 1]), ([1, 1], [1, 0]), ([1, np.nan], [1, 1]), ([1, 1], [1, np.inf])])
def test_levels_that_cannot_be_are_refused(tmp_path, levels):
    given = dict(zip(("signal", "noise_scale"), levels, strict=True))
    with pytest.raises(ValueError, match="signal must be 0 or more"):
        runs.create(tmp_path / "a", timesteps=[10, 0], levels=given)
