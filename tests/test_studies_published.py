"""What the studies' pages say to type with published checkpoints, typed with small random ones of the same names."""

import json
import re
import shlex
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from tests import glide
from tests.openai import random_state
from tests.test_openai_convert import traj
from traj import stores
from traj.pipeline.process.plan import Plan

STUDIES = Path(__file__).parents[1] / "studies"
SMALL_GLIDE = (
    "--image_size 16 --num_channels 32 --num_head_channels 32 --channel_mult 1,1,1,1 --attention_resolutions 2 "
    "--text_ctx 6 --xf_width 24 --xf_layers 1 --xf_heads 3"
)
"""Of a network with as many blocks as GLIDE's."""


def typed(study, smaller):
    """Type the commands on the page of a study here, all but the report, with smaller numbers in some places."""
    (block,) = re.findall(r"^```sh\n(.*?)^```", (STUDIES / study / "README.md").read_text(), re.M | re.S)
    for before, after in smaller.items():
        assert before in block
        block = block.replace(before, after)
    for line in block.splitlines():
        program, *words = shlex.split(line)
        assert program == "traj"
        if words != ["report"]:
            traj(*words)


@pytest.fixture
def here(tmp_path):
    with chdir(tmp_path):
        yield tmp_path


def test_feature_emergence_on_the_network_of_iddpm(here):
    torch.save(
        random_state("--image_size 32 --num_channels 32 --num_res_blocks 3 --learn_sigma True"),
        "cifar10_uncond_50M_500K.pt",
    )
    typed(
        "feature_emergence",
        {
            "--num_channels 128": "--num_channels 32",
            "--diffusion_steps 4000": "--diffusion_steps 24",
            "--at 3599,3199,2799,2399,1999,1599,1199,799,399": "--at 13",
            "--replicas 8 --samples 64": "--replicas 2 --samples 1",
            "--steps 250": "--steps 4",
            "--samples 256 --block 256": "--samples 2 --block 2",
        },
    )
    run, respaced = (stores.open(f"data/trajectories/{name}_cifar10.zarr") for name in ("iddpm", "iddpm250"))
    assert run.timestep.values.tolist() == [23, 13, 3, 0]
    np.testing.assert_allclose(run.model_time, run.timestep * 1000 / 24)
    assert respaced.timestep.values.tolist() == [23, 15, 8, 0]
    assert Path("results/iddpm_cifar10/consistency.zarr").is_dir()


def test_unet_dynamics_on_glide(here):
    torch.save(glide.state(SMALL_GLIDE), "base.pt")
    glide.write(here / "gpt2")
    Path("prompts.txt").write_text("cat\ndog\n")
    tables = yaml.safe_load((STUDIES / "unet_dynamics/glide.yaml").read_text())
    for name in ("edits", "limits"):  # one of each kind, from a step near the end
        few = {(row["edit"], "r" in row): {**row, "t_start": 101} for row in tables[name]}.values()
        tables[name] = [
            {key: value[0] if isinstance(value, list) else value for key, value in row.items()} for row in few
        ]
    Path("glide.yaml").write_text(yaml.safe_dump(tables))
    typed(
        "unet_dynamics",
        {
            "--tokenizer gpt2": f"--tokenizer gpt2 --flags '{SMALL_GLIDE}'",
            "--samples 100 --block 100": "--samples 1 --block 1",
        },
    )
    run, short, edited = (
        stores.open(f"data/{name}.zarr")
        for name in ("trajectories/glide", "trajectories/glide_shortcut", "sweeps/glide_shortcut")
    )
    assert run.timestep.values[[0, 30, 35, 40, -1]].tolist() == [999, 696, 646, 595, 0]
    assert run.prompt.values.tolist() == ["cat"]
    steps = Plan.from_json(json.loads(short.attrs["config"])["plan"]).steps
    published = [0] * 35 + [6] * 5 + [8] * 2 + [0] * 11 + [8] * 7 + [0] * 9 + [8] * 7 + [0] * 7  # steps 100 to 18
    assert [step.cut.unet_blocks for step in steps] == published
    assert short.timestep.values.tolist() == run.timestep.values[:83].tolist()
    np.testing.assert_array_equal(short.x_0, short.pred_x0.isel(timestep=-1).clip(-1, 1))
    assert np.abs(short.x_0 - edited.x_0.isel(variant=0, replica=0)).max() < 1e-4
    for name in ("glide_shortcut", "glide_edits", "glide_limits"):
        assert Path(f"results/{name}/intervention.zarr").is_dir()


def test_the_tables_for_glide_start_at_the_steps_of_the_source():
    """Steps 70, 65 and 60 of 100, counted down to 1, which stand at round(999 (k - 1) / 99)."""
    tables = yaml.safe_load((STUDIES / "unet_dynamics/glide.yaml").read_text())
    starts = {row["t_start"] for row in tables["limits"]}
    assert starts == {round(999 * (k - 1) / 99) for k in (70, 65, 60)}
