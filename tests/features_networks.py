"""Networks whose features tests read, and a store of states that goes with them."""

from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMPipeline, DDPMScheduler

from tests import runs
from tests.networks import digits
from traj import stores
from traj.pipeline.making import readout
from traj.pipeline.process import tables

SHAPE = (1, 8, 8)
TIMESTEPS = np.array([900, 500, 100])
LABEL = [0, 1, 2, 0, 1, 2]

MINE = '''
import torch
from diffusers import DiTTransformer2DModel, UNet2DConditionModel
from torch import nn
from traj.pipeline.models.own import preconditioned, wrap
from traj.pipeline.process import tables

LINEAR = tables.named("linear")


class Net(nn.Module):
    """A convolution that is changed in place afterwards, and a layer that is run twice."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.relu, self.twice = nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(inplace=True), nn.Identity()
        self.pair, self.last, self.idle = Pair(), nn.Conv2d(4, 1, 1), nn.Linear(1, 1)
        self.time, self.words = nn.Linear(1, 3), Words()

    def forward(self, x, t):
        self.time(t[:1, None])
        self.words()
        _, hidden = self.pair(self.relu(self.first(x)))
        return self.twice(self.twice(self.last(hidden)))


class Pair(nn.Module):
    def forward(self, x):
        return 2 * x, x


class Words(nn.Module):
    def forward(self):
        return "no tensor"


def net():
    return wrap(Net(), LINEAR, shape=(1, 8, 8), predicts="epsilon")


def hidden():
    inner = Net()
    return wrap(lambda x, t: inner(x, t), LINEAR, shape=(1, 8, 8), predicts="epsilon")


def shown():
    inner = Net()
    return wrap(lambda x, t: inner(x, t), LINEAR, shape=(1, 8, 8), predicts="epsilon", modules=inner)


def edm(steps):
    inner = Net()
    D = preconditioned(lambda x, c: inner(x, c))
    return wrap(D, tables.edm(steps), shape=(1, 8, 8), predicts="sample", modules=inner)


def text():
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 16), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=12, attention_head_dim=4, norm_num_groups=4,
    )
    def embedded(samples):
        return torch.stack([torch.full((3, 12), 0.0 if k is None else 1.0 + k) for k in samples])
    def network(x, t, words):
        return unet(x, t, encoder_hidden_states=words).sample
    return wrap(network, LINEAR, shape=(1, 8, 8), predicts="epsilon", condition=embedded, modules=unet)


def dit():
    torch.manual_seed(0)
    network = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=1, out_channels=1, num_layers=2, sample_size=8,
        patch_size=2, num_embeds_ada_norm=4, norm_num_groups=1,
    )
    def eps(x, t, label):
        return network(x, t, label).sample
    return wrap(eps, LINEAR, shape=(1, 8, 8), predicts="epsilon", num_classes=3, null_label=3, modules=network)


def labelled():
    return wrap(lambda x, t, label: x, LINEAR, shape=(1, 8, 8), predicts="epsilon", num_classes=3, modules=Net())
'''


def laid_out(place):
    """Put models into a folder, and a store of states that go with them."""
    (place / "mine.py").write_text(MINE)
    DDPMPipeline(digits(), DDPMScheduler()).save_pretrained(place / "digits")
    (place / "digits" / "traj.json").write_text('{"null_label": 10}')
    states(place / "a.zarr")
    return place


def enter(folder, tmp_path, monkeypatch):
    """Work in a folder of a test's own, where the models and the states lie, too."""
    monkeypatch.chdir(tmp_path)
    for name in ("mine.py", "digits", "a.zarr"):
        Path(name).symlink_to(folder / name)


def states(path, samples=6, schedule=None, timesteps=TIMESTEPS, **options):
    schedule = schedule or tables.named("linear")
    levels = {"signal": schedule.signal[timesteps], "noise_scale": schedule.noise_scale[timesteps]}
    options = {"label": (LABEL * 12)[:samples], **options}
    return runs.make(path, samples, timesteps=timesteps, levels=levels, **options)


def prepare(names, model="mine.py:net", store="a.zarr", **options):
    return readout.prepare("features", store=Path(store), model=model, parts=names, device="cpu", **options)


def made(names, out="r.zarr", **options):
    reading = prepare(names, **options)
    with reading.open(Path(out)) as store:
        reading.run(store, bar=False)
    return stores.open(Path(out))


def by_hand(module, call, *inputs):
    """What a module gives while a network is called, as one would catch it in a notebook."""
    caught = []
    hook = module.register_forward_hook(lambda _module, _given, output: caught.append(output))
    with torch.inference_mode():
        call(*inputs)
    hook.remove()
    (output,) = caught
    return output


def batches(ds, x):
    """x (sample, timestep, *event) as the network gets it: each block and timestep, and where in the store it lies."""
    for first in range(0, ds.sizes["sample"], 4):
        for step, timestep in enumerate(ds.timestep.values):
            rows = np.minimum(np.arange(first, first + 4), ds.sizes["sample"] - 1)  # a short block is filled up
            yield slice(first, first + 4), step, int(timestep), torch.from_numpy(x[rows, step]), rows
