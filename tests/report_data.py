"""Stores and results of real digits for tests of the report, made through the public writers."""

import base64
import re
from html.parser import HTMLParser

import numpy as np
from sklearn.datasets import load_digits

import stores
from pipeline import analyze
from pipeline.report import report
from pipeline.schedulers import threads

T = 40
DIGITS = load_digits()
IMAGES = (DIGITS.images[:, None] / 8 - 1).astype("f4")
CONFIG = {
    "model": {"name": "digits"},
    "labels": "cycle",
    "plan": {
        "clip": None,
        "runs": [{"first": 39, "last": 0, "stride": 1, "rule": "ddim", "variance": 0.0, "noise": "shared"}],
    },
}


def make_run(path, *, samples=12, config=CONFIG, time_scale=1.0, seed=0):
    """A run that ends in real digits, the first of each class in turn; one in six asked for as another class."""
    ids = np.array([np.flatnonzero(DIGITS.target == k % 10)[k // 10] for k in range(samples)])
    x_0 = IMAGES[ids]
    label = np.where(np.arange(samples) % 6 == 5, (DIGITS.target[ids] + 1) % 10, DIGITS.target[ids])
    timestep = np.arange(T)[::-1]
    alpha_bar = np.linspace(0.999, 1e-4, T)[timestep]
    noise = np.random.default_rng(seed).standard_normal((T, *x_0.shape)).astype("f4")
    with stores.create(
        path,
        timestep=timestep,
        alpha_bar=alpha_bar,
        model_time=timestep * time_scale,
        label=label,
        shape=(1, 8, 8),
        samples=samples,
        block=samples,
        valid_range=(-1, 1),
        config={**config, "seed": seed},
    ) as store:
        for step, a in enumerate(alpha_bar.astype("f4")):
            x_t = np.sqrt(a) * x_0 + np.sqrt(1 - a) * noise[step]
            store.put(0, step, x_t, a * x_0 + (1 - a) * IMAGES.mean(axis=0) if step < T - 1 else x_0)
        store.finish(0, x_0)
    return path


def analyse(path, results, quantities=("entropy", "ssim", "psnr")):
    options = {name: {"bins": 16} if name == "entropy" else {} for name in quantities}
    jobs = analyze.plan_jobs([path], options, results / path.stem)
    analyze.run(path, jobs, engine=threads(1), say=lambda message: None)


def write(place, out, **options):
    folders = ("results", "trajectories", "forks", "readouts", "models")
    return report(out, **{**{name: place / name for name in folders}, **options})


def svgs(html):
    return [base64.b64decode(code).decode() for code in re.findall(r"data:image/svg\+xml;base64,([\w+/=]+)", html)]


class Balance(HTMLParser):
    """Fails on a tag that is closed without having been opened, or the other way round."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def unbalanced(html):
    parser = Balance()
    parser.feed(html)
    return parser.open
