"""Numbers of small runs, sample by sample, to hold later ones against: `python -m tests.goldens` writes them anew."""

import json
import re
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from traj import stores
from traj.pipeline.making import generate
from traj.pipeline.models.analytic import GaussianDenoiser
from traj.pipeline.process import plans
from traj.pipeline.process.schedule import Schedule

FILE = Path(__file__).with_name("goldens.json")
GAUSSIAN, MIXTURE, DIGITS = "gaussian:0.5,0.25,1x4x4", "mixture:-8,-4,6,8", "dataset:digits"
RUNS = [
    (GAUSSIAN, {"sampler_name": "ddpm", "variance": "large"}),
    (GAUSSIAN, {"sampler_name": "ddpm", "variance": "small", "spacing": "linspace"}),
    (GAUSSIAN, {"sampler_name": "ddim", "eta": 0.5, "spacing": "openai"}),
    (GAUSSIAN, {"sampler_name": "iddpm"}),
    (MIXTURE, {"sampler_name": "ddpm", "labels": "cycle", "clip": True}),
    (MIXTURE, {"sampler_name": "ddim", "eta": 1.0}),
    (DIGITS, {"sampler_name": "ddim", "spacing": "trailing"}),
    (DIGITS, {"sampler_name": "ddpm", "labels": "7"}),
    (DIGITS, {"sampler_name": "ddim", "eta": 1.0, "clip": True, "eps": "rederived"}),
    (GAUSSIAN, {"schedule": "edm", "sampler_name": "heun"}),
    (DIGITS, {"schedule": "flow:3", "sampler_name": "ddim"}),
    (DIGITS, {"schedule": "edm", "sampler_name": "ddpm", "labels": "cycle"}),
    (MIXTURE, {"schedule": "cosine", "sampler_name": "ddim", "labels": "cycle", "guidance": 2.0}),
]
"""Every sampler on exact models, whose predictions depend on no library's network."""


class LearnedGaussian(GaussianDenoiser):
    """Says of its variance, too, what depends on the state."""

    schedule = Schedule.from_config({"variance_type": "learned_range", "clip_sample": False})

    def __call__(self, x_t, *arguments):
        return replace(super().__call__(x_t, *arguments), variance_fraction=torch.sigmoid(x_t))


def job_of(model, options):
    """Four samples in 20 steps; a learned variance comes with a model of its own."""
    size = {"steps": 20, "samples": 4, "block": 4, "device": "cpu"}
    if options["sampler_name"] != "iddpm":
        return generate.prepare(model=model, **options, **size)
    job = generate.prepare(model=model, **size)
    learned = LearnedGaussian(job.denoiser.mean, job.denoiser.variance, job.denoiser.shape)
    learned.schedule = LearnedGaussian.schedule
    return replace(job, denoiser=learned, plan=plans.choose(learned, "iddpm", 20, None, None, None))


def numbers(model, options):
    """Pixels of every sample: of x_t at the start and half way, of pred_x0 half way, of x_0; (sample, number)."""
    job = job_of(model, options)
    with tempfile.TemporaryDirectory() as folder:
        with job.open(Path(folder) / "a.zarr") as store:
            job.run(store, bar=False)
        ds = stores.open(Path(folder) / "a.zarr").compute()
    half = ds.isel(timestep=10)
    images = [image.values.reshape(4, -1) for image in (ds.x_t[:, 0], half.x_t, half.pred_x0, ds.x_0)]
    pixels = sorted({images[0].shape[1] // 3, images[0].shape[1] // 2})
    return [[round(float(image[sample, pixel]), 5) for image in images for pixel in pixels] for sample in range(4)]


if __name__ == "__main__":
    exact = [{"model": model, "options": options, "numbers": numbers(model, options)} for model, options in RUNS]
    kept = json.loads(FILE.read_text())
    text = json.dumps(kept | {"numerics": generate.NUMERICS, "exact": exact}, indent=1)
    FILE.write_text(re.sub(r"\[\s+([^\[\]{}]+?)\s+\]", lambda found: f"[{' '.join(found[1].split())}]", text) + "\n")
