"""How a network's own input and answer stand to x_t and x_0 (Karras et al. 2022, eq. 7): x_0 = c_skip x_t + c_out F."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Preconditioning(NamedTuple):
    """What x_t is scaled by before the network sees it, and what makes x_0 of x_t and its answer; each (T,)."""

    c_in: np.ndarray
    c_skip: np.ndarray
    c_out: np.ndarray


def edm(sigma: np.ndarray, sigma_data: float) -> Preconditioning:
    """Give the scales of EDM (Karras et al. 2022, table 1)."""
    c_in = 1 / np.sqrt(sigma**2 + sigma_data**2)
    return Preconditioning(c_in, (sigma_data * c_in) ** 2, sigma * sigma_data * c_in)


def consistency(sigma: np.ndarray, sigma_data: float) -> Preconditioning:
    """Give the scales of a consistency model, whose x_0 at the least sigma is x_t itself (Song et al. 2023, app. C)."""
    above, c_in = sigma - sigma.min(), 1 / np.sqrt(sigma**2 + sigma_data**2)
    return Preconditioning(c_in, sigma_data**2 / (above**2 + sigma_data**2), above * sigma_data * c_in)
