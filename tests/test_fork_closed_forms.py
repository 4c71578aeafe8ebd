"""How far replicas part, against closed forms: Gaussian data and a mixture of points."""

import math
from itertools import product

import numpy as np
import pytest
import torch

from tests.test_fork import forked
from traj import stores
from traj.analysis.consistency import consistency
from traj.analysis.label_variance import label_variance
from traj.pipeline.making import generate
from traj.pipeline.models.analytic import mixture
from traj.pipeline.process import tables


def exact_run(path, model, x_0, seed=0):
    """A ddpm run whose stored x_t are drawn from the exact marginals, each on its own."""
    rng = np.random.default_rng(seed)
    generation = generate.prepare(model=model, variance="large", samples=len(x_0), block=len(x_0), device="cpu")
    with generation.open(path) as store:
        for step, timestep in enumerate(generation.plan.timesteps):
            abar = generation.denoiser.schedule.alpha_bar[timestep]
            x_t = math.sqrt(abar) * x_0 + math.sqrt(1 - abar) * rng.standard_normal(x_0.shape)
            store.put(0, step, x_t, x_t)
        store.finish(0, x_0)
    return path


@pytest.fixture(scope="module")
def gaussian_run(tmp_path_factory):
    x_0 = np.random.default_rng(1).standard_normal((16, 1, 16, 16))
    return exact_run(tmp_path_factory.mktemp("gaussian") / "p.zarr", "gaussian:0,1,1x16x16", x_0)


def gain_and_variance(store, at, noisy):
    """What the mean of x_at is multiplied by down to x_0, and the variance the steps add (METHODS 7.1, variance 1)."""
    alpha_bar = stores.open(store).alpha_bar
    abar = {t: float(alpha_bar.sel(timestep=t)) for t in range(at + 1)} | {-1: 1.0}
    gain, added = 1.0, 0.0
    for t in range(at, -1, -1):
        beta = 1 - abar[t] / abar[t - 1]
        factor = (1 - beta) / math.sqrt(1 - beta)  # v_t is 1
        gain, added = factor * gain, factor**2 * added + (beta if t > 0 and noisy(t) else 0)
    return gain, added


def test_without_noise_the_spread_shrinks_as_the_closed_form_says(gaussian_run, tmp_path):
    x_t = stores.open(gaussian_run).x_t.sel(timestep=500).compute()
    ds = forked(gaussian_run, tmp_path / "a.zarr", at=[500], noise=["zero"])
    gain, _ = gain_and_variance(gaussian_run, 500, lambda t: False)
    np.testing.assert_allclose(ds.x_0[0, 0], gain * x_t, rtol=1e-3)
    np.testing.assert_array_equal(ds.x_0[0, 0], ds.x_0[0, 1])

    part = forked(gaussian_run, tmp_path / "b.zarr", at=[500], noise=["zero:500-100"])
    gain, added = gain_and_variance(gaussian_run, 500, lambda t: t < 100)
    expected = gain**2 + added
    assert expected < 0.5
    assert float(part.x_0.var()) == pytest.approx(expected, rel=5 * math.sqrt(2 / x_t.size))


def test_replicas_of_gaussian_data_correlate_as_the_closed_form_says(gaussian_run, tmp_path):
    at = [300, 100]
    ds = forked(gaussian_run, tmp_path / "f.zarr", at=at, replicas=3)
    for variant, timestep in enumerate(at):
        rho = float(ds.alpha_bar.sel(timestep=timestep))  # abar / (abar + 1 - abar)
        found = np.corrcoef(ds.x_0[variant].values.reshape(3, -1))[np.triu_indices(3, 1)].mean()
        assert found == pytest.approx(rho, abs=3 * (1 - rho**2) / math.sqrt(16 * 256))


@pytest.mark.slow
def test_replicas_of_the_mixture_agree_in_their_label_as_the_closed_form_says(tmp_path):
    points, samples, replicas = [-8, -4, 6, 8], 250, 4
    x_0 = np.random.default_rng(2).choice(points, (samples, 1, 1, 1)).astype(float)
    store = exact_run(tmp_path / "p.zarr", "mixture:-8,-4,6,8", x_0, seed=3)
    at = {600: 0.4117, 400: 0.6798}
    ds = forked(store, tmp_path / "f.zarr", at=list(at), replicas=replicas, batch=samples * 2 * replicas)
    label = abs(ds.x_0.values.reshape(len(at), replicas, samples, 1) - points).argmin(-1)
    for variant, (timestep, expected) in enumerate(at.items()):
        pairs = [label[variant, r] == label[variant, s] for r in range(replicas) for s in range(r)]
        agreement = np.mean(pairs, axis=0)
        assert agreement.mean() == pytest.approx(expected, abs=3 * agreement.std() / math.sqrt(samples))
        q = posterior(points, stores.open(store).x_t.sel(timestep=timestep).values, timestep)
        spread = agreement - (q**2).sum(1)
        assert spread.mean() == pytest.approx(0, abs=3 * spread.std() / math.sqrt(samples))


def posterior(points, x_t, timestep):
    states = torch.from_numpy(x_t)
    return mixture(points).log_weights(states, timestep, torch.full((len(states),), -1)).exp().numpy()


@pytest.mark.slow
def test_the_mixture_end_to_end_gives_the_published_table(tmp_path):
    """Generate, fork, read, analyse: METHODS 7.4, whose t counts from 1, within 3 standard errors of exact forks."""
    points, samples, replicas = [-8, -4, 6, 8], 200, 4
    table = {  # t: label agreement, label variance, replica correlation
        800: (0.2662, 0.7338, 0.0644),
        600: (0.4117, 0.5883, 0.5888),
        400: (0.6798, 0.3202, 0.9644),
        200: (0.9376, 0.0624, 0.9969),
    }
    model = "mixture:-8,-4,6,8"
    run = generate.prepare(model=model, variance="small", samples=samples, block=samples, seed=0, device="cpu")
    with run.open(tmp_path / "run.zarr") as store:
        run.run(store, bar=False)
    at = [t - 1 for t in table]
    forked(tmp_path / "run.zarr", tmp_path / "forks.zarr", at=at, replicas=replicas, batch=samples * len(at) * replicas)
    label_as_readout(tmp_path / "forks.zarr", tmp_path / "read.zarr", points)

    alike = consistency(stores.open(tmp_path / "forks.zarr"), readout=stores.open(tmp_path / "read.zarr")).compute()
    spread = label_variance(stores.open(tmp_path / "read.zarr"), hard=True).compute()
    for variant, (agreement, variance, correlation) in enumerate(table.values()):
        (exact_agreement, agreement_se), (exact_correlation, correlation_se) = of_exact_forks(
            points, at[variant], replicas
        )
        assert (exact_agreement, exact_correlation) == pytest.approx((agreement, correlation), abs=6e-5)
        for result, name, error, expected in (
            (alike, "label_agreement_mean", agreement_se, agreement),
            (spread, "label_variance_pairwise_mean", agreement_se, variance),
            (alike, "replica_correlation", correlation_se, correlation),
        ):
            within = 3 * error / math.sqrt(samples)
            assert float(result[name][variant]) == pytest.approx(expected, abs=within), (name, list(table)[variant])


def of_exact_forks(points, timestep, replicas):
    """Expected label agreement and replica correlation, each with what one sample adds to its error.

    Every outcome of the replicas of a sample is counted, with its probability under the posterior of x_t.
    """
    abar = tables.named("linear").alpha_bar[timestep]
    x_t = np.linspace(-13, 13, 4001)
    density = np.exp(-((x_t[:, None] - math.sqrt(abar) * np.array(points)) ** 2) / (2 * (1 - abar))).sum(1)
    q = posterior(points, x_t[:, None, None, None], timestep)
    outcomes = np.array(list(product(range(len(points)), repeat=replicas)))
    p = density / density.sum() @ q[:, outcomes].prod(2)

    first, second = np.triu_indices(replicas, 1)
    agreement = (outcomes[:, first] == outcomes[:, second]).mean(1)
    expected = p @ agreement
    x_0 = np.array(points, float)[outcomes]
    mean, within = x_0.mean(1), x_0.var(1, ddof=1)
    common = (mean - p @ mean) ** 2 - within / replicas
    whole = common + within
    correlation = p @ common / (p @ whole)
    influence = (common - correlation * whole) / (
        p @ whole
    )  # a sample's share in the error of the ratio, to first order
    return (expected, math.sqrt(p @ (agreement - expected) ** 2)), (correlation, math.sqrt(p @ influence**2))


def label_as_readout(forks, path, points):
    """What a perfect classifier of the points reads off the ends of forks."""
    ds = stores.open(forks).compute()
    nearest = abs(ds.x_0.values[..., 0, 0, :] - points).argmin(-1)
    axes = {name: (name, ds[name].values, "1", name) for name in ("variant", "replica", "timestep")}
    along = {"at": ("variant", ds["at"].values, "1", "start"), "noise": ("variant", ds.noise.values, "1", "noise")}
    log_snr = {"log_snr": ("timestep", ds.log_snr.values, "nat", "log SNR")}
    with stores.create_readout(
        path,
        of="fork",
        variables={"x_0_logits": (("variant", "replica", "sample", "class"), "logits", "1")},
        coords={**axes, **along, **log_snr, "class": ("class", np.arange(len(points)), "1", "class")},
        samples=ds.sizes["sample"],
        block=ds.sizes["sample"],
        config={"parent": {"fingerprint": ds.attrs["fingerprint"]}},
    ) as store:
        store.write(0, {"x_0_logits": np.where(nearest[..., None] == np.arange(len(points)), 0, -1e3)})
