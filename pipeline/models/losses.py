"""What the built-in networks are trained to make small."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from traj.pipeline.models.digits import GREY_STEP, DigitsVae
from traj.pipeline.process.schedule import Schedule

if TYPE_CHECKING:
    from diffusers import UNet2DModel

VLB_WEIGHT = 0.001  # lambda of IDDPM eq. 16, 000 eq. 9
CPU = torch.device("cpu")


def classifier_objective(network: nn.Module, points: Tensor, classes: Tensor) -> dict[str, Tensor]:
    """Cross entropy, in nats, averaged over a batch."""
    return {"loss": functional.cross_entropy(network(points), classes)}


def vae_objective(network: DigitsVae, points: Tensor, eps: Tensor) -> dict[str, Tensor]:
    """Squared error of a whole image plus KL divergence of its latent from N(0, I), in nats, averaged over a batch.

    001's loss, MSE * pixels + KL; eps (sample, latent) is the noise of the latents.
    """
    mean, log_variance = network.encode(points)
    redrawn = network.decode(mean + (0.5 * log_variance).exp() * eps)
    error = (redrawn - points).square().flatten(1).sum(1).mean()
    kl = posterior_kl(mean, log_variance, torch.zeros_like(log_variance)).sum(1).mean()
    return {"loss": error + kl, "squared_error": error, "kl": kl}


@dataclass(frozen=True)
class VarianceTables:
    """What the variational bound needs per timestep; all float64, shape (T,).

    The log variances of the reverse step between which a learned-range network interpolates, "large" (beta)
    and "small" (the forward posterior's, whose value 0 at timestep 0 is replaced by the next one), and the
    factor that turns an error of the predicted noise into one of the posterior mean.
    """

    log_large: np.ndarray
    log_small: np.ndarray
    mean_per_eps: np.ndarray

    @classmethod
    def of(cls, schedule: Schedule) -> VarianceTables:
        """Compute the tables of a schedule (DDPM eq. 7 and 11; IDDPM eq. 15)."""
        signal, noise = schedule.signal, schedule.noise_scale
        ratio, before = signal / np.append(1.0, signal[:-1]), np.append(0.0, noise[:-1])
        betas = noise**2 - (ratio * before) ** 2
        small = betas * (before / noise) ** 2
        small[0] = small[1]
        return cls(np.log(betas), np.log(small), betas / (ratio * noise))


class Objective:
    """The training loss of a schedule: eps mean squared error, hybrid where the variance is learned.

    Called with the network, x_0 (sample, channel, y, x), label (sample,), timestep (sample,) and eps like x_0,
    it returns means over the batch: "loss", and for a learned-range network its parts, "simple" and "vlb"
    (bits per pixel of one timestep). ``loss = simple + VLB_WEIGHT * T * vlb``: the bound is the sum over the T
    timesteps, of which one is drawn (IDDPM eq. 16, 000 eq. 9).
    """

    def __init__(self, schedule: Schedule, device: torch.device = CPU) -> None:
        def table(values: np.ndarray) -> Tensor:
            return torch.as_tensor(values, dtype=torch.float32, device=device)

        self.schedule = schedule
        self.signal = table(schedule.signal)
        self.noise = table(schedule.noise_scale)
        self.model_time = table(schedule.model_time)
        tables = VarianceTables.of(schedule)
        self.log_large = table(tables.log_large)
        self.log_small = table(tables.log_small)
        self.mean_per_eps = table(tables.mean_per_eps)

    def __call__(
        self, network: UNet2DModel, x_0: Tensor, label: Tensor, timestep: Tensor, eps: Tensor
    ) -> dict[str, Tensor]:
        """Average the loss and its parts over a batch."""
        x_t = _at(self.signal, timestep) * x_0 + _at(self.noise, timestep) * eps
        output = network(x_t, self.model_time[timestep], label).sample
        if not self.schedule.learned_range:
            return {"loss": (output - eps).square().mean()}
        eps_hat, v = output.chunk(2, dim=1)
        simple = (eps_hat - eps).square().mean()
        vlb = self.vlb(x_0, timestep, eps, eps_hat, fraction=(v + 1) / 2).mean()
        return {"loss": simple + VLB_WEIGHT * self.schedule.T * vlb, "simple": simple, "vlb": vlb}

    def vlb(self, x_0: Tensor, timestep: Tensor, eps: Tensor, eps_hat: Tensor, fraction: Tensor) -> Tensor:
        """One timestep's term of the variational bound, in bits, for each pixel.

        The predicted mean is held fixed: the bound trains only the variance (IDDPM section 3.1).
        """
        small = _at(self.log_small, timestep)
        log_variance = fraction * _at(self.log_large, timestep) + (1 - fraction) * small
        mean_error = _at(self.mean_per_eps, timestep) * (eps - eps_hat.detach())
        nats = torch.where(
            (timestep == 0)[:, None, None, None],
            decoder_nll(x_0, x_0 + mean_error, log_variance),
            posterior_kl(mean_error, small, log_variance),
        )
        return nats / math.log(2)


def posterior_kl(mean_error: Tensor, log_variance: Tensor, predicted_log_variance: Tensor) -> Tensor:
    """Kullback-Leibler divergence, in nats, of a predicted normal from the true one, elementwise.

    ``mean_error`` is the predicted mean less the true one; the variances are the true one's and the predicted.
    """
    log_ratio = log_variance - predicted_log_variance
    return 0.5 * (log_ratio.exp() - 1 - log_ratio + mean_error.square() * (-predicted_log_variance).exp())


def decoder_nll(x_0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Negative log-likelihood, in nats, of grey levels under a normal, elementwise (DDPM eq. 13).

    The digits' grey levels lie 1/8 apart, so a level owns the interval of 1/16 to either side of it, and the
    outermost ones own everything beyond: the levels' probabilities sum to 1. (DDPM does the same with
    256 levels.) Probabilities are kept above 1e-12.
    """
    above = ((x_0 + GREY_STEP / 2 - mean) * (-0.5 * log_variance).exp()).where(x_0 < 1, math.inf)
    below = ((x_0 - GREY_STEP / 2 - mean) * (-0.5 * log_variance).exp()).where(x_0 > -1, -math.inf)
    probability: Tensor = torch.special.ndtr(above) - torch.special.ndtr(below)
    return -probability.clamp_min(1e-12).log()


def _at(table: Tensor, timestep: Tensor) -> Tensor:
    return table[timestep][:, None, None, None]
