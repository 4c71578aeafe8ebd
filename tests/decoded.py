"""Latents, forks of them, a model that decodes them by a linear map, and the same map in NumPy."""

import numpy as np
from click.testing import CliRunner

from tests import runs
from tests.test_readout import AT
from traj import stores
from traj.pipeline.cli import main

SHAPE = (4, 2, 3)

MODEL = '''
import os, signal
import numpy as np
import torch
from traj.pipeline.models.own import wrap
from traj.pipeline.process import tables

MATRIX = torch.from_numpy(np.random.default_rng(0).standard_normal((24, 3 * 8 * 9)).astype("f4") / 4)
calls = []

def linear(x):
    """Images three times as wide and four times as high: a fixed linear map."""
    calls.append(len(x))
    if len(calls) == int(os.environ.get("KILLED_AT", -1)):
        os.kill(os.getpid(), signal.SIGKILL)
    return (x.flatten(1) @ MATRIX).reshape(-1, 3, 8, 9)

def latent(decode=linear, shape=(4, 2, 3)):
    return wrap(lambda x, t: 0 * x, tables.named("linear"), shape=shape, predicts="epsilon", decode=decode)

def huge():
    return latent(lambda x: 1e6 * linear(x))

def flat():
    return latent(lambda x: x.flatten(1))

def pixels():
    return latent(None)
'''


def write_model(folder):
    """Write mine.py, and give the folder that it lies in."""
    (folder / "mine.py").write_text(MODEL)
    return folder


def traj(*arguments, code=0):
    result = CliRunner().invoke(main, [*map(str, arguments)])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


def decode(store, out, *options, code=0, model="mine.py:latent"):
    return traj("readout", "decode", store, out, "--model", model, "--device", "cpu", *options, code=code)


def latents(path, samples=6, **options):
    """Six states of a few latents, which have no valid range."""
    return runs.make(path, samples, shape=SHAPE, valid_range=None, **options)


def linear(values):
    """The images of latents (..., channel, y, x), by the same linear map in NumPy."""
    matrix = np.random.default_rng(0).standard_normal((24, 3 * 8 * 9)).astype("f4") / 4
    values = np.asarray(values)
    return (values.reshape(*values.shape[:-3], 24) @ matrix).reshape(*values.shape[:-3], 3, 8, 9)


def in_bytes(images):
    return np.clip(np.round((images + 1) * 127.5), 0, 255)


def forks(path, states, config=None):
    """Forks of latents; states are NaN above `at`."""
    rng, shape = np.random.default_rng(0), (2, 3, 4, *SHAPE)
    with stores.create_forks(
        path,
        variant={"at": AT},
        replicas=3,
        timestep=runs.TIMESTEPS,
        **runs.preserving(np.linspace(0.01, 0.99, len(runs.TIMESTEPS))),
        shape=SHAPE,
        samples=6,
        block=4,
        config=config or {"made": "up"},
        states=states,
        valid_range=None,
    ) as store:
        for number in list(store.pending):
            for step, timestep in enumerate(runs.TIMESTEPS if states else ()):
                x_t = rng.standard_normal(shape).astype("f4")
                x_t[np.array(AT) < timestep] = np.nan
                store.put(number, step, x_t, np.tanh(x_t))
            store.finish(number, np.tanh(rng.standard_normal(shape)).astype("f4"))
