"""Latent pipelines: our loop ends where diffusers' own ends, and latents go through the house without a valid range."""

import json
import shutil

import numpy as np
import pytest
import torch

from tests import families
from tests.sampling import relative
from tests.test_models import edit
from traj import stores
from traj.analysis._drawing.montages import montage
from traj.analysis.psnr import psnr
from traj.pipeline.making import fork, generate
from traj.pipeline.models import autoencoders, load, parts
from traj.pipeline.process.cut import Cut
from traj.pipeline.process.guidance import guided
from traj.pipeline.process.plans import ddim
from traj.pipeline.process.sampler import reverse
from traj.stores import InputError

STEPS = 10


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.inference_mode():
        yield


def theirs(family, batch, **told):
    """The first latents of a pipeline's own loop, the last ones, and its images in [0, 1]."""
    pipeline, kept = families.pipeline(family), []
    step = pipeline.scheduler.step

    def kept_step(output, t, x_t, **more):
        landed = step(output, t, x_t, **more)
        kept.append((x_t, landed.prev_sample))
        return landed

    pipeline.scheduler.step = kept_step
    images = pipeline(num_inference_steps=STEPS, generator=torch.manual_seed(3), output_type="np", **told).images
    return kept[0][0][:batch], kept[-1][1][:batch], images


def ours(family, start, labels=None, guidance=1.0):
    """The last latents of our loop with the scheduler's own timesteps."""
    denoiser = guided(load(str(families.folder(family))), guidance)
    asked = {"labels": "none" if labels is None else labels}
    conditions = denoiser.conditions(asked)
    (x_0,) = reverse(
        denoiser,
        [ddim(denoiser.schedule, STEPS)],
        lambda _: conditions.of(range(len(start)), start.device),
        start=lambda _: start,
        noise=lambda _, step: torch.zeros_like(start),
        keep=lambda *_: None,
    )
    return x_0


def images_of(family, latents):
    images = autoencoders.load(str(families.folder(family))).decode(latents).numpy()
    return np.moveaxis(images / 2 + 0.5, 1, -1).clip(0, 1)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("family", ["ldm-vq", "ldm-kl"])
def test_an_ldm_ends_where_its_pipeline_ends(family, batch):
    start, end, images = theirs(family, batch, batch_size=batch)
    x_0 = ours(family, start)
    assert relative(x_0, end) < 2e-4
    assert np.abs(images_of(family, x_0) - images).max() < 1e-3


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_dit_ends_where_its_pipeline_ends(batch, guidance):
    labels = [7, 999, 0][:batch]
    start, end, images = theirs("dit", batch, class_labels=labels, guidance_scale=guidance)
    x_0 = ours("dit", start, labels, guidance)
    assert relative(x_0, end) < 2e-4
    assert np.abs(images_of("dit", x_0) - images).max() < 1e-3
    other = ours("dit", start, labels, 5 - guidance)
    assert relative(other, end) > 0.01


def copied(family, folder):
    return shutil.copytree(families.folder(family), folder / family)


def states(side=8):
    return torch.randn(2, 4, side, side, generator=torch.Generator().manual_seed(1))


# --- what a DiT is --------------------------------------------------------------------------------------------


def test_a_dit_without_a_label_gets_the_embedding_after_its_classes():
    denoiser = load(str(families.folder("dit")))
    told = denoiser.network(states(), torch.tensor([700, 700]), torch.tensor([1000, 5])).sample[:, :4]
    assert torch.equal(denoiser(states(), 700, torch.tensor([-1, 5])).eps, told)
    with pytest.raises(InputError, match="label 1000: expected 0 to 999"):
        denoiser(states(), 700, torch.tensor([1000, 5]))


def test_the_variance_of_a_dit_is_used_only_where_its_scheduler_learned_it(tmp_path):
    denoiser = load(str(families.folder("dit")))
    assert denoiser(states(), 700, torch.tensor([1, 2])).variance_fraction is None
    folder = copied("dit", tmp_path)
    edit(folder / "scheduler" / "scheduler_config.json", _class_name="DDPMScheduler", variance_type="learned_range")
    learned = guided(load(str(folder)), 3.0)
    condition = learned.conditions({"labels": "cycle"}).of([1, 2], torch.device("cpu"))
    fraction = learned(states(), 700, condition).variance_fraction
    output = denoiser.network(states(), torch.tensor([700, 700]), torch.tensor([1, 2])).sample
    assert torch.allclose(fraction, (output[:, 4:] + 1) / 2, atol=1e-5)


def test_folders_of_2023_call_the_network_otherwise(tmp_path):
    folder = copied("dit", tmp_path)
    edit(folder / "model_index.json", transformer=["diffusers", "Transformer2DModel"])
    old = {"_class_name": "Transformer2DModel", "cross_attention_dim": None, "use_linear_projection": False}
    edit(folder / "transformer" / "config.json", **old)
    assert load(str(folder)).identity == load(str(families.folder("dit"))).identity
    edit(folder / "transformer" / "config.json", cross_attention_dim=8)
    with pytest.raises(InputError, match="cross_attention_dim: 8; expected false"):
        load(str(folder))


def test_cuts_of_a_dit_are_refused_by_name_and_its_parts_can_be_read():
    denoiser = load(str(families.folder("dit")))
    label = torch.tensor([1, 2])
    with pytest.raises(InputError, match="a cut needs a U-Net, and this model is a DiTTransformer2DModel"):
        denoiser(states(), 700, label, Cut(skips=1))
    modules = parts.find(denoiser, ["transformer_blocks.0"])
    found = parts.outputs(denoiser, modules, torch.clone, states(), 700, label)
    assert found["transformer_blocks.0"].shape == (2, 16, 16)


# --- sizes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "size"), [("ldm-kl", (32, 16)), ("dit", (32, 32))])
def test_size_is_that_of_the_decoded_images(family, size):
    denoiser = load(str(families.folder(family)), size=size)
    assert denoiser.shape == (4, size[0] // 2, size[1] // 2)
    assert autoencoders.load(str(families.folder(family))).image_shape(denoiser.shape)[1:] == size


@pytest.mark.parametrize(
    ("family", "size", "said"),
    [
        ("ldm-kl", (30, 30), r"a latent of 4 x 15 x 15.*halves latents once.*28x28 or 32x32 for example, by --size"),
        ("dit", (30, 30), r"a latent of 4 x 15 x 15.*patches of 2 x 2.*28x28 or 32x32 for example, by --size"),
        ("dit", (32, 16), "latents of 16 x 8 were asked for, but the network makes only square ones"),
        ("dit", (31, 32), "size 31x32 was given, but an image has 2 times the sides"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_with_those_that_do(family, size, said):
    with pytest.raises(InputError, match=said):
        load(str(families.folder(family)), size=size)


def test_an_autoencoder_of_other_latents_is_refused(tmp_path):
    folder = copied("dit", tmp_path)
    shutil.rmtree(folder / "vae")
    families.kl(latent_channels=3).save_pretrained(folder / "vae")
    with pytest.raises(InputError, match="makes 4 channels, and the autoencoder in vae has latents of 3"):
        load(str(folder))


# --- without a valid range ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run of a DiT: its path, and its dataset."""
    path = tmp_path_factory.mktemp("run") / "a.zarr"
    return path, made(path, model=str(families.folder("dit")), labels="cycle", guidance=2.0)


def made(path, **options):
    job = generate.prepare(steps=4, samples=2, block=2, device="cpu", **options)
    assert job.following(path) == f"traj readout decode {path} data/decoded/{path.stem}_images.zarr"
    with job.open(path) as store:
        job.run(store, bar=False)
    return stores.open(path).compute()


def test_latents_and_forks_of_them_are_stored_without_a_range(run, tmp_path):
    path, ds = run
    assert ds.x_0.shape == (2, 4, 8, 8)
    job = fork.prepare(store=path, at=[500], replicas=2, model=str(families.folder("dit")), device="cpu")
    with job.open(tmp_path / "f.zarr") as store:
        job.run(store, bar=False)
    forks = stores.open(tmp_path / "f.zarr")
    for one in (ds, forks):
        assert stores.valid_range(one) is None
        assert json.loads(one.attrs["config"])["store"]["valid_range"] is None
    assert np.isfinite(forks.x_0.values).all()


def test_quantities_that_need_a_range_say_that_these_are_latents(run):
    with pytest.raises(InputError, match=r"none\. Where it holds latents, decode them"):
        psnr(run[1])


def test_a_montage_of_latents_shows_three_channels_by_their_spread_and_says_so(run):
    _, figure, caption = montage(run[1], "trajectories", None)
    colours = figure.axes[0].images[0].get_array()
    assert "These are latents" in caption
    inside = colours[(colours > 0) & (colours < 1)]
    assert inside.size > 0.1 * colours.size
    assert not np.array_equal(colours[..., 0], colours[..., 1])


def test_clip_of_latents_needs_a_scheduler_that_says_where(tmp_path):
    with pytest.raises(InputError, match=r"makes latents.*leave out --clip"):
        generate.prepare(model=str(families.folder("ldm-kl")), steps=4, clip=True)
    folder = copied("ldm-kl", tmp_path)
    edit(folder / "scheduler" / "scheduler_config.json", clip_sample=True, clip_sample_range=2.0)
    clipped = made(tmp_path / "c.zarr", model=str(folder), clip=True)
    assert float(abs(clipped.x_0).max()) <= 2
    assert stores.valid_range(clipped) is None
