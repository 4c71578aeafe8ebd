"""The losses of training against closed forms."""

import math

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel

from tests import sampling
from traj.pipeline.models import losses, train
from traj.pipeline.models.digits import RECIPES
from traj.pipeline.process.schedule import Schedule

IDDPM = RECIPES["digits-iddpm"]


def schedule_of(name: str) -> Schedule:
    return Schedule.from_config(RECIPES[name].scheduler, RECIPES[name].time_scale)


class SimpleOutput:
    """What a network returns: the tensor as ``sample``."""

    def __init__(self, sample: torch.Tensor) -> None:
        self.sample = sample


def test_simple_loss_of_a_network_that_says_nothing_is_the_noise_power():
    objective = losses.Objective(schedule_of("digits"))
    x_0, label, timestep, eps = next(train.batches(64, 1000, torch.Generator().manual_seed(0)))

    def silent(x_t, model_time, label):
        return SimpleOutput(torch.zeros_like(x_t))

    loss = objective(silent, x_0, label, timestep, eps)["loss"]
    assert loss.item() == pytest.approx(eps.square().mean().item(), rel=1e-6)


def test_network_is_given_the_noised_image_at_its_model_time():
    objective = losses.Objective(schedule_of("digits-iddpm"))
    x_0, label, timestep, eps = next(train.batches(16, 4000, torch.Generator().manual_seed(0)))
    given = {}

    def spy(x_t, model_time, label):
        given.update(x_t=x_t, model_time=model_time, label=label)
        return SimpleOutput(torch.zeros(len(x_t), 2, 8, 8))

    objective(spy, x_0, label, timestep, eps)
    abar = schedule_of("digits-iddpm").alpha_bar[timestep.numpy()][:, None, None, None]
    expected = np.sqrt(abar) * x_0.numpy() + np.sqrt(1 - abar) * eps.numpy()
    np.testing.assert_allclose(given["x_t"].numpy(), expected, atol=1e-6)
    np.testing.assert_array_equal(given["model_time"].numpy(), timestep.numpy() * 1000 / 4000)
    assert given["label"] is label


def test_kl_is_zero_where_mean_and_variance_are_the_posteriors():
    log_variance = torch.linspace(-12, 0, 50)
    kl = losses.posterior_kl(torch.zeros(50), log_variance, log_variance)
    assert kl.abs().max().item() == 0


def test_kl_equals_that_of_torch_distributions():
    generator = torch.Generator().manual_seed(0)
    mean, predicted = torch.randn(2, 100, generator=generator, dtype=torch.float64)
    lv, predicted_lv = torch.randn(2, 100, generator=generator, dtype=torch.float64)
    true = torch.distributions.Normal(mean, (0.5 * lv).exp())
    model = torch.distributions.Normal(predicted, (0.5 * predicted_lv).exp())
    expected = torch.distributions.kl_divergence(true, model)
    torch.testing.assert_close(losses.posterior_kl(predicted - mean, lv, predicted_lv), expected)


def test_bound_is_zero_for_the_true_noise_and_the_small_variance():
    objective = losses.Objective(schedule_of("digits-iddpm"))
    x_0, _, _, eps = next(train.batches(40, 4000, torch.Generator().manual_seed(0)))
    timestep = torch.linspace(1, 3999, 40).long()
    assert objective.vlb(x_0, timestep, eps, eps, torch.zeros_like(eps)).abs().max().item() == 0


def test_bound_equals_a_float64_computation_from_the_posterior_means():
    """The reference goes the long way: pred_x0, both posterior means (DDPM eq. 7), then the KL divergence."""
    objective = losses.Objective(schedule_of("digits-iddpm"))
    generator = torch.Generator().manual_seed(0)
    x_0, _, _, eps = next(train.batches(32, 4000, generator))
    timestep = torch.linspace(1, 3999, 32).long()
    eps_hat = eps + 0.3 * torch.randn(eps.shape, generator=generator)
    f = torch.rand(eps.shape, generator=generator)

    betas = sampling.betas(schedule_of("digits-iddpm"))
    abar = np.cumprod(1 - betas)
    t = timestep.numpy()
    beta, abar_t, abar_s = (a[:, None, None, None] for a in (betas[t], abar[t], abar[t - 1]))
    x, e, e_hat = (tensor.double().numpy() for tensor in (x_0, eps, eps_hat))
    x_t = np.sqrt(abar_t) * x + np.sqrt(1 - abar_t) * e
    pred_x0 = (x_t - np.sqrt(1 - abar_t) * e_hat) / np.sqrt(abar_t)
    mean, predicted = (
        np.sqrt(abar_s) * beta / (1 - abar_t) * start + (1 - abar_s) * np.sqrt(1 - beta) / (1 - abar_t) * x_t
        for start in (x, pred_x0)
    )
    small = beta * (1 - abar_s) / (1 - abar_t)
    variance = beta ** f.double().numpy() * small ** (1 - f.double().numpy())
    kl = 0.5 * (np.log(variance / small) + (small + (mean - predicted) ** 2) / variance - 1)

    bits = objective.vlb(x_0, timestep, eps, eps_hat, f)
    np.testing.assert_allclose(bits.numpy(), kl / np.log(2), rtol=2e-4, atol=2e-6)


def test_variance_tables_hold_the_golden_numbers():
    tables = losses.VarianceTables.of(schedule_of("digits"))
    assert np.exp(tables.log_small[:2]) == pytest.approx([5.45319e-5] * 2, rel=1e-5)
    assert np.exp(tables.log_large[[0, -1]]) == pytest.approx([1e-4, 0.02])
    cosine = losses.VarianceTables.of(schedule_of("digits-iddpm"))
    assert np.exp(cosine.log_large[[0, -1]]) == pytest.approx([9.86582e-6, 0.999], rel=1e-5)


def test_decoder_probabilities_of_all_grey_levels_sum_to_one():
    levels = torch.arange(17, dtype=torch.float64)[:, None] / 8 - 1
    mean = torch.linspace(-1.3, 1.3, 27, dtype=torch.float64)
    for log_variance in (-6.0, -2.0, 1.0):
        nll = losses.decoder_nll(levels, mean, torch.tensor(log_variance))
        torch.testing.assert_close((-nll).exp().sum(dim=0), torch.ones(27, dtype=torch.float64), atol=1e-9, rtol=0)


def test_decoder_takes_the_interval_around_a_level_and_the_tails_at_the_ends():
    sd, normal = 0.1, torch.distributions.Normal(0.2, 0.1)
    levels = torch.tensor([-1.0, 0.25, 1.0])
    nll = losses.decoder_nll(levels, torch.tensor(0.2), torch.tensor(2 * math.log(sd)))
    inside = normal.cdf(torch.tensor(0.3125)) - normal.cdf(torch.tensor(0.1875))
    assert nll[1].item() == pytest.approx(-inside.log().item(), rel=1e-5)
    assert nll[0].item() == pytest.approx(-math.log(1e-12), rel=1e-5)  # 12 sd away: held at the floor
    wide = losses.decoder_nll(levels, torch.tensor(0.0), torch.tensor(0.0)).exp().reciprocal()
    unit = torch.distributions.Normal(0.0, 1.0)
    assert wide[0].item() == pytest.approx(unit.cdf(torch.tensor(-0.9375)).item(), rel=1e-5)
    assert wide[2].item() == pytest.approx(1 - unit.cdf(torch.tensor(0.9375)).item(), rel=1e-5)


def test_first_timestep_is_scored_by_the_decoder():
    objective = losses.Objective(schedule_of("digits-iddpm"))
    x_0, _, _, eps = next(train.batches(4, 4000, torch.Generator().manual_seed(0)))
    first = torch.zeros(4, dtype=torch.int64)
    right = objective.vlb(x_0, first, eps, eps, torch.zeros_like(eps))
    assert right.abs().max().item() < 1e-6  # sd 0.002 in an interval of half width 0.0625
    off = eps - 0.125 / objective.mean_per_eps[0]  # the mean lands on the next level
    wrong = objective.vlb(x_0, first, eps, off, torch.zeros_like(eps))
    inner = (x_0 > -1) & (x_0 < 1)
    assert wrong[inner].min().item() > 10


@pytest.mark.parametrize("timestep", [0, 1, 2000, 3999])
def test_bound_trains_the_variance_and_never_the_mean(timestep):
    objective = losses.Objective(schedule_of("digits-iddpm"))
    x_0, _, _, eps = next(train.batches(4, 4000, torch.Generator().manual_seed(0)))
    eps_hat = (eps + 20).requires_grad_()
    fraction = torch.full_like(eps, 0.5, requires_grad=True)
    objective.vlb(x_0, torch.full((4,), timestep), eps, eps_hat, fraction).sum().backward()
    assert eps_hat.grad is None
    assert torch.isfinite(fraction.grad).all()
    assert fraction.grad.abs().max().item() > 0


def test_hybrid_loss_is_simple_plus_weighted_bound_over_all_timesteps():
    objective = losses.Objective(schedule_of("digits-iddpm"))
    torch.manual_seed(0)
    network = UNet2DModel(**IDDPM.network)
    terms = objective(network, *next(train.batches(8, 4000, torch.Generator().manual_seed(0))))
    expected = terms["simple"] + 0.001 * 4000 * terms["vlb"]
    assert terms["loss"].item() == pytest.approx(expected.item(), rel=1e-6)
    assert terms["vlb"].item() > 0
