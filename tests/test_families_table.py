"""The table of README: what can be done with models of each family, each cell tried from the command line."""

from contextlib import chdir
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from tests import families
from tests.runs import digest
from traj import stores
from traj.pipeline.cli import main

OWN = """
import torch
from traj.pipeline.models.own import wrap
from traj.pipeline.process import tables

class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x_t, t, label):
        return self.layer(x_t) + label.reshape(-1, 1, 1, 1) / 3

def mine():
    return wrap(Network(), tables.named("linear"), shape=(1, 8, 8), predicts="epsilon", num_classes=3)
"""
FEW = ("--device", "cpu")
RUN = ("--samples", 3, "--block", 2, "--steps", 4, *FEW)
NO_UNET = "a cut needs a U-Net"
NO_CLASSES = "has no classes"
NO_LATENTS = "holds no latents"
NO_PIPELINE = "is no pipeline of diffusers"


PROMPTED = "{prompt: [a cat, a dog], num_inference_steps: 4, guidance_scale: 1, height: 16, width: 16}"


@dataclass
class Family:
    """One row: how a model of it is called and told what to make, and what it refuses, in which words."""

    model: str
    refuses: dict[str, str] = field(default_factory=dict)
    told: tuple[str, ...] = ()
    part: str = "mid_block"
    pictures: tuple[int, ...] = (16, 16, 3)
    call: str = "{}"


GREY = (8, 8)
FAMILIES = {
    "UNet2DModel": Family(
        "pixels",
        {"decode": NO_LATENTS, "likelihood": NO_CLASSES},
        pictures=GREY,
        call="{batch_size: 2, num_inference_steps: 4}",
    ),
    "LDM": Family("ldm-kl", {"likelihood": NO_CLASSES}, call="{batch_size: 2, num_inference_steps: 4}"),
    "DiT": Family(
        "dit",
        {"cut": NO_UNET},
        ("--labels", "7"),
        part="transformer_blocks.0",
        call="{class_labels: [7, 0], num_inference_steps: 4, guidance_scale: 1}",
    ),
    "Stable Diffusion": Family(
        "sd1", {"likelihood": NO_CLASSES}, ("--prompt", "a cat", "--prompt", "a dog"), call=PROMPTED
    ),
    "Stable Diffusion 3": Family(
        "sd3",
        {"cut": NO_UNET, "likelihood": NO_CLASSES},
        ("--prompt", "a cat", "--prompt", "a dog"),
        part="transformer_blocks.0",
        call=PROMPTED,
    ),
    "OpenAIUNet": Family(
        "openai",
        {"decode": NO_LATENTS, "record": NO_PIPELINE},
        ("--labels", "7"),
        part="middle_block",
        pictures=(8, 8, 3),
    ),
    "GLIDE": Family(
        "glide",
        {"decode": NO_LATENTS, "likelihood": NO_CLASSES, "record": NO_PIPELINE},
        ("--prompt", "a cat", "--prompt", "tokens:1,2"),
        part="middle_block",
        pictures=(8, 8, 3),
    ),
    "your own FILE.py:NAME": Family(
        "mine.py:mine",
        {"cut": NO_UNET, "decode": NO_LATENTS, "record": NO_PIPELINE},
        ("--labels", "cycle"),
        part="layer",
        pictures=GREY,
    ),
    "closed forms": Family(
        "dataset:digits",
        {"cut": NO_UNET, "features": "is a closed form, and has none", "decode": NO_LATENTS, "record": NO_PIPELINE},
        ("--labels", "cycle"),
        pictures=GREY,
    ),
}


def traj(*arguments, refused=None):
    """Run the command line, which works, or refuses in some words and makes nothing."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    said = " ".join(result.output.split())
    assert "Traceback" not in said, said
    assert (result.exit_code == 0) == (refused is None), said
    assert refused is None or refused in said, said


class Row:
    """A family, its run of three samples, and what is tried on that."""

    def __init__(self, family):
        self.family = family
        builtin = ":" in family.model
        self.model = family.model if builtin else families.folder(family.model)
        Path("mine.py").write_text(OWN)
        self.generate("run.zarr")
        self.timesteps = stores.open("run.zarr").timestep.values.tolist()

    def generate(self, out, *options):
        traj("generate", out, "--model", self.model, *RUN, *self.family.told, *options)

    def loaded(self, verb, *arguments, **options):
        """Run a verb on the run, with its model."""
        traj(verb, *arguments, "--model", self.model, *FEW, **options)

    def resume(self, refused):
        self.generate("parts.zarr", "--blocks", "1:2")
        self.generate("parts.zarr")
        assert digest("parts.zarr") == digest("run.zarr")

    def start(self, refused):
        Path("pictures").mkdir()
        pixels = np.random.default_rng(0).integers(0, 256, (3, *self.family.pictures), np.uint8)
        for number, picture in enumerate(pixels):
            Image.fromarray(picture).save(f"pictures/{number}.png")
        begun = ("--start", "pictures", "--start-step", self.timesteps[1])
        self.generate("started.zarr", *begun)
        traj("noise", "pictures", "noised.zarr", "--model", self.model, *RUN, *self.family.told)
        for name in ("started.zarr", "noised.zarr"):
            assert stores.open(name).x_0.shape == stores.open("run.zarr").x_0.shape

    def fork(self, refused):
        self.loaded("fork", "run.zarr", "forks.zarr", "--at", self.timesteps[1], "--noise", "shared", "--replicas", 1)
        np.testing.assert_array_equal(stores.open("forks.zarr").x_0[0, 0], stores.open("run.zarr").x_0)

    def cut(self, refused):
        Path("cuts.yaml").write_text(f"[{{edit: blocks, nb: 8, n: 2, t_start: {self.timesteps[1]}}}]")
        self.loaded("fork", "run.zarr", "sweep.zarr", "--sweep", "cuts.yaml", refused=refused)
        if refused is None:
            assert abs(stores.open("sweep.zarr").x_0[0, 0] - stores.open("run.zarr").x_0).max() > 0

    def features(self, refused):
        asked = ("--parts", self.family.part, "--labels", "stored")
        self.loaded("readout", "features", "run.zarr", "features.zarr", *asked, refused=refused)

    def likelihood(self, refused):
        asked = ("--classes", "0,1")
        self.loaded("readout", "likelihood", "run.zarr", "likelihood.zarr", *asked, refused=refused)

    def decode(self, refused):
        self.loaded("readout", "decode", "run.zarr", "images.zarr", refused=refused)
        if refused is None:
            assert stores.open("images.zarr").x_0.shape == (3, 3, 16, 16)

    def record(self, refused):
        traj("record", self.model, "recorded.zarr", "--call", self.family.call, *FEW, refused=refused)
        if refused is None:
            shape = stores.open("run.zarr").x_0.shape[1:]
            assert stores.open("recorded.zarr").x_t.shape == (2, 4, *shape)


CELLS = ("resume", "start", "fork", "cut", "features", "likelihood", "decode", "record")


@pytest.fixture(scope="module", params=FAMILIES)
def row(request, tmp_path_factory):
    with chdir(tmp_path_factory.mktemp("family")):
        yield Row(FAMILIES[request.param])


@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_of_the_table_is_as_readme_says(row, cell):
    getattr(row, cell)(row.family.refuses.get(cell))
