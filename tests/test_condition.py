"""A condition of one's own: made by the model of the numbers of samples, and looked into by nothing else."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from traj import stores
from traj.pipeline import models, readouts
from traj.pipeline.cli import main
from traj.pipeline.making import fork, generate, readout
from traj.pipeline.models.own import wrap
from traj.pipeline.process import tables
from traj.pipeline.process.guidance import guided
from traj.pipeline.readouts import Output, Pass, Readout

CPU = torch.device("cpu")
SHAPE = (1, 4, 4)
MINE = """
import torch
from torch import nn
from traj.pipeline.models.own import wrap
from traj.pipeline.process import tables

PROMPTS = ["a", "b"]
EMBEDDED = {"a": [0.8, 0.0], "b": [0.0, -0.8], "": [0.0, 0.0]}


class Embedding:
    '''Neither a tensor nor a list: nothing but the network knows what to do with it.'''

    def __init__(self, texts):
        self.values = torch.tensor([EMBEDDED[text] for text in texts])


class Network(nn.Module):
    def forward(self, x_t, time, condition):
        mean = condition.values.sum(1).reshape(-1, 1, 1, 1)
        return 0.9 * mean + 0.1 * torch.tanh(x_t)


def prompt(sample):
    return PROMPTS[sample % 2]


def condition(samples):
    return Embedding(["" if k is None else prompt(k) for k in samples])


def texts():
    return wrap(
        Network(), tables.named("cosine"), shape=(1, 4, 4), predicts="sample", condition=condition, prompt=prompt
    )
"""


@pytest.fixture
def model(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    return f"{tmp_path}/mine.py:texts"


def make(out, model, samples=5, **options):
    made = generate.prepare(model=model, samples=samples, block=4, steps=8, device="cpu", **options)
    with made.open(Path(out)) as store:
        made.run(store, bar=False)
    return stores.open(out).compute()


def forked(store, out, model, **options):
    made = fork.prepare(store=store, model=model, device="cpu", replicas=2, **options)
    with made.open(out) as writer:
        made.run(writer, bar=False)
    return stores.open(out).compute()


def test_the_store_has_the_prompts_and_the_network_gets_what_they_mean(model, tmp_path):
    ds = make(tmp_path / "a.zarr", model)
    assert ds.prompt.values.tolist() == ["a", "b", "a", "b", "a"]
    assert ds.label.values.tolist() == [-1] * 5
    assert json.loads(ds.attrs["config"])["condition"] == {"labels": "none"}
    means = ds.x_0.mean(("channel", "y", "x"))
    assert (np.abs(means - 0.8 * np.array([1, -1, 1, -1, 1])) < 0.2).all()


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_fork_with_the_noise_of_its_run_is_the_run_bit_for_bit(model, tmp_path, guidance):
    ds = make(tmp_path / "a.zarr", model, guidance=guidance)
    at = [int(timestep) for timestep in ds.timestep.values[[2, 5]]]
    forks = forked(tmp_path / "a.zarr", tmp_path / "f.zarr", model, at=at, noise=["shared"], batch=8)
    assert forks.prompt.values.tolist() == ds.prompt.values.tolist()
    np.testing.assert_array_equal(forks.x_0, np.broadcast_to(ds.x_0, forks.x_0.shape))
    other = forked(tmp_path / "a.zarr", tmp_path / "g.zarr", model, at=at)
    assert (other.x_0 != ds.x_0).any()


def test_what_reads_or_analyses_a_run_keeps_its_prompts(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ds = make(tmp_path / "data/trajectories/run.zarr", model)

    def is_a(events):
        return (torch.from_numpy((events.condition["prompt"] == "a").astype("f4")),)

    def prompted(source):
        told = Pass(("x_0",), (Output("is_a", (), "whether a was asked for"),), is_a)
        return Readout((told,), {}, identity={}, batch=2)

    monkeypatch.setattr(readouts, "load", lambda name: prompted)
    reading = readout.prepare("prompted", store=tmp_path / "data/trajectories/run.zarr", device="cpu")
    with reading.open(tmp_path / "r.zarr") as store:
        reading.run(store, bar=False)
    read = stores.open(tmp_path / "r.zarr")
    assert read.is_a.values.tolist() == [1, 0, 1, 0, 1]
    assert read.prompt.values.tolist() == ds.prompt.values.tolist()
    found = CliRunner().invoke(main, ["analyze", "psnr"])
    assert found.exit_code == 0, found.output
    (result,) = (tmp_path / "results").rglob("psnr.zarr")
    assert stores.open(result).prompt.values.tolist() == ds.prompt.values.tolist()


def test_guidance_goes_away_from_the_null_condition(model):
    denoiser = models.load(model)
    x_t = torch.randn((3, *SHAPE), generator=torch.Generator().manual_seed(1))

    def predicted(denoiser):
        condition = denoiser.conditions({"labels": "none"}).of([0, 1, 2], CPU)
        return denoiser(x_t, 500, condition).pred_x0

    null = denoiser(x_t, 500, denoiser.conditions({"labels": "none"}).of([None] * 3, CPU)).pred_x0
    with_prompt = predicted(denoiser)
    assert (with_prompt - null).abs().min() > 0.7
    for w in (0.0, 3.0):
        torch.testing.assert_close(predicted(guided(denoiser, w)), null + w * (with_prompt - null))


def test_a_run_is_extended_with_its_prompts_and_does_not_depend_on_how_many_were_asked_for(model, tmp_path):
    make(tmp_path / "a.zarr", model, samples=3)
    longer, straight = make(tmp_path / "a.zarr", model, samples=7), make(tmp_path / "b.zarr", model, samples=7)
    assert longer.identical(straight)


def test_prompts_that_changed_outside_the_file_are_refused(model, tmp_path, monkeypatch):
    file = tmp_path / "mine.py"
    (tmp_path / "texts.txt").write_text("a b")
    file.write_text(MINE.replace('["a", "b"]', f"open({str(tmp_path / 'texts.txt')!r}).read().split()"))
    ds = make(tmp_path / "a.zarr", model)
    (tmp_path / "texts.txt").write_text("b a")
    with pytest.raises(stores.StaleStore, match="prompt: another was asked for"):
        make(tmp_path / "a.zarr", model)
    with pytest.raises(stores.InputError, match="another prompt than they were made with"):
        fork.prepare(store=tmp_path / "a.zarr", model=model, at=[int(ds.timestep[3])], device="cpu")


def test_what_cannot_be_told_a_model_is_refused(model):
    with pytest.raises(stores.InputError, match=r"has conditions of its own; use --labels none"):
        generate.prepare(model=model, labels="cycle", device="cpu")
    common = {"schedule": tables.named("cosine"), "shape": SHAPE, "predicts": "sample"}
    with pytest.raises(stores.InputError, match="expected one of them"):
        wrap(abs, **common, num_classes=3, condition=list)
    with pytest.raises(stores.InputError, match="prompt was given without condition"):
        wrap(abs, **common, prompt=str)


def test_a_tensor_is_moved_to_the_device():
    common = {"schedule": tables.named("cosine"), "shape": SHAPE, "predicts": "sample"}
    denoiser = wrap(abs, **common, condition=lambda samples: torch.zeros(len(samples), 2))
    condition = denoiser.conditions({"labels": "none"}).of([3, 4, 5], torch.device("meta"))
    assert (condition.device.type, condition.shape) == ("meta", (3, 2))
    assert "prompt" not in denoiser.conditions({"labels": "none"}).visible([3])
