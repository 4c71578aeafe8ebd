"""The flags of OpenAI's programs: read strictly, with the defaults of the program, and what they say of sampling."""

from pathlib import Path

import numpy as np
import pytest
import torch

from traj.pipeline.models.openai import convert, flags, sampling
from traj.pipeline.process.denoiser import Prediction
from traj.pipeline.process.plans import choose
from traj.pipeline.process.sampler import learned_log_variance
from traj.pipeline.process.schedule import Schedule

UNET, TEXT, HALF = ["output_blocks.0.0.bias"], ["output_blocks.0.0.bias", "transformer.ln.bias"], ["out.0.bias"]
IDDPM = (
    "--image_size 32 --num_channels 128 --num_res_blocks 3 --learn_sigma True --dropout 0.3 --diffusion_steps 4000 "
    "--noise_schedule cosine"
)
ADM = (
    "--attention_resolutions 32,16,8 --class_cond True --diffusion_steps 1000 --dropout 0.1 --image_size 64 "
    "--learn_sigma True --noise_schedule cosine --num_channels 192 --num_head_channels 64 --num_res_blocks 3 "
    "--resblock_updown True --use_new_attention_order True --use_fp16 True --use_scale_shift_norm True"
)


def schedule(text, names=UNET):
    return Schedule.from_config(convert.scheduler(flags.read(text, names)))


def cosine(T):
    """alpha_bar of IDDPM eq. 17, its betas capped at .999."""
    f = np.cos((np.arange(T + 1) / T + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.cumprod(1 - np.minimum(1 - f[1:] / f[:-1], 0.999))


def test_the_cifar_models_flags_describe_its_network_and_diffusion():
    given = flags.read(IDDPM, UNET)
    assert given.code == "improved-diffusion"
    assert given.left_out == {"dropout": "of training"}
    assert given.unet() == {
        "sample_size": 32,
        "out_channels": 6,
        "model_channels": 128,
        "channel_mult": (1, 2, 2, 2),
        "num_res_blocks": 3,
        "attention_resolutions": (16, 8),
        "num_heads": 4,
        "num_heads_upsample": None,
        "use_scale_shift_norm": True,
        "num_classes": None,
    }
    assert convert.own(given) == {"time_scale": 0.25, "spacing": "openai"}


def test_guided_diffusions_64_model_has_the_widths_of_its_readme():
    given = flags.read(f"{ADM} --classifier_scale 1.0 --classifier_depth 4", UNET)
    told = given.unet()
    assert given.code == "guided-diffusion"
    assert [told[name] for name in ("num_head_channels", "use_new_attention_order", "num_classes")] == [64, True, 1000]
    assert "traj has not" in given.left_out["classifier_scale"]
    assert convert.own(given)["time_scale"] == 1


def test_glides_own_values_are_those_of_its_base_model():
    told = flags.read("", TEXT).unet()
    assert (told["model_channels"], told["channel_mult"], told["num_res_blocks"]) == (192, (1, 2, 3, 4), 3)
    assert (told["out_channels"], told["num_head_channels"], told["resblock_updown"]) == (6, 64, True)
    assert schedule("", TEXT).definition["beta_formula"] == "squaredcos_cap_v2"


@pytest.mark.parametrize(
    ("text", "names", "code"),
    [
        ("", TEXT, "glide"),
        ("", HALF, "classifier"),
        ("--sigma_small True", UNET, "improved-diffusion"),
        ("--resblock_updown False", UNET, "guided-diffusion"),
        ("--image_size 32", UNET, "improved-diffusion"),
        ("--image_size 512", UNET, "guided-diffusion"),
        ("", UNET, "improved-diffusion"),
    ],
)
def test_the_program_is_told_by_the_tensors_and_by_flags_that_one_has(text, names, code):
    given = flags.read(text, names)
    assert (given.code, given.cautions) == (code, ())


def test_where_nothing_tells_the_program_and_times_depend_on_it_this_is_said():
    given = flags.read("--diffusion_steps 4000", UNET)
    assert given.code == "improved-diffusion"
    assert "--code guided-diffusion" in given.cautions[0]
    assert not flags.read("--diffusion_steps 4000 --rescale_timesteps False", UNET).cautions
    asked = flags.read("--diffusion_steps 4000", UNET, "guided-diffusion")
    assert (asked["rescale_timesteps"], asked.cautions) == (False, ())


def test_a_flag_is_read_in_both_spellings():
    assert flags.read("--image_size=32 --learn_sigma=yes", UNET) == flags.read("--image_size 32 --learn_sigma 1", UNET)
    assert flags.read("--num_heads_upsample -1", UNET)["num_heads_upsample"] is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("--imagesize 32", r"has imagesize, which is not known; expected image_size, num_channels"),
        ("--image_size 32 --image_size=64", "--image_size was given twice"),
        ("--image_size", "--image_size has no value"),
        ("--learn_sigma --class_cond True", "--learn_sigma has no value; expected --learn_sigma VALUE, of a switch"),
        ("32", "'32' stands among the flags; expected --name value"),
        ("--image_size '32", "cannot be read: No closing quotation"),
        ("--image_size big", "has image_size: 'big'; expected a whole number from 1 to 4096"),
        ("--image_size -64", "has image_size: '-64'; expected a whole number"),
        ("--learn_sigma maybe", "has learn_sigma: 'maybe'; expected True or False"),
        ("--noise_schedule quadratic", "expected one of linear, cosine"),
        ("--attention_resolutions 16,,8", "has attention_resolutions: '16,,8'; expected whole numbers from 1 on"),
        ("--timestep_respacing fast", "expected a number of steps such as 250, or ddim50"),
        ("--large_size 256", "--large_size was given: models that enlarge images are not supported"),
        ("--sigma_small True --resblock_updown True", "sigma_small is of improved-diffusion only and --resblock"),
    ],
)
def test_what_is_no_flag_is_refused_with_what_is_expected(text, said):
    with pytest.raises(ValueError, match=said):
        flags.read(text, UNET)


@pytest.mark.parametrize("name", ["inpaint", "super_res"])
def test_glides_other_models_are_refused_by_name(name):
    assert not flags.read(f"--{name} False", TEXT)[name]
    with pytest.raises(ValueError, match=f"{name}: 'True'; expected False: models that .* are not supported"):
        flags.read(f"--{name} True", TEXT)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("--image_size 48", "for which improved-diffusion has no channel_mult; expected 256 or 64 or 32"),
        ("--image_size 48 --num_head_channels 64", "or a --channel_mult, such as 1,2,2,2"),
        ("--image_size 36 --channel_mult 1,1,1,1", "channel_mult of 4 levels; expected a multiple of 8"),
        ("--num_channels 100", "num_channels 100, which is 100 at level 1; expected a multiple of 32"),
        ("--num_heads 5", "which is 384 at level 3; expected a multiple of 5, for num_heads"),
    ],
)
def test_a_network_that_cannot_be_is_refused_before_it_is_made(text, said):
    with pytest.raises(ValueError, match=said):
        flags.read(text, UNET).unet()


def test_linear_betas_that_grow_to_1_are_refused():
    with pytest.raises(ValueError, match="diffusion_steps 20 with noise_schedule linear; expected more than 20"):
        schedule("--diffusion_steps 20")


def test_betas_are_those_of_the_papers():
    np.testing.assert_allclose(schedule("--diffusion_steps 2 --noise_schedule cosine").alpha_bar, cosine(2), rtol=1e-9)
    alpha_bar = schedule(IDDPM).alpha_bar
    np.testing.assert_allclose(alpha_bar, cosine(4000), rtol=1e-9)
    np.testing.assert_allclose(1 - alpha_bar[0], 9.86582e-6, rtol=1e-6)
    np.testing.assert_allclose(alpha_bar[[1999, 3998, 3999]], [0.493844, 1.51798e-7, 1.51798e-10], rtol=1e-5)
    linear = schedule("--diffusion_steps 500 --rescale_timesteps True").alpha_bar
    np.testing.assert_allclose(linear, np.cumprod(1 - np.linspace(2e-4, 0.04, 500)), rtol=1e-12)


def test_glides_hundred_steps_have_the_published_betas():
    visits = sampling.respaced(1000, "100")
    alpha_bar = schedule("", TEXT).alpha_bar[visits]
    betas = 1 - alpha_bar / np.append(1, alpha_bar[:-1])
    direct = cosine(1000)[[round(i * 999 / 99) for i in range(100)]]
    np.testing.assert_allclose(betas, 1 - direct / np.append(1, direct[:-1]), rtol=1e-6)
    published = {18: 0.0096, 25: 0.0125, 41: 0.0227, 58: 0.0387, 70: 0.0581, 85: 0.1181, 95: 0.3275, 99: 0.7499}
    np.testing.assert_allclose(betas[[t - 1 for t in published]], [*published.values()], atol=5.1e-5)
    np.testing.assert_allclose(alpha_bar[[17, 24, 64, 84]], [0.92267, 0.85479, 0.27332, 0.05436], atol=5.1e-6)


def test_the_learned_variance_of_fewer_steps_lies_between_their_own_beta_and_beta_tilde():
    table = schedule(IDDPM)
    plan = choose(Only(table), "iddpm", sampling.respaced(4000, "250"), None, None, None)
    alpha_bar = cosine(4000)[sampling.respaced(4000, "250")]
    beta = 1 - alpha_bar / np.append(1, alpha_bar[:-1])
    tilde = beta[1:] * (1 - alpha_bar[:-1]) / (1 - alpha_bar[1:])
    tilde = np.append(tilde[0], tilde)  # where it would be 0, they take the next
    for fraction in (0.0, 0.25, 1.0):
        seen = Prediction(torch.zeros(1), torch.zeros(1), torch.tensor([fraction], dtype=torch.float64))
        found = [learned_log_variance(table, plan, k, seen).item() for k in range(250)]
        expected = fraction * np.log(beta) + (1 - fraction) * np.log(tilde)
        np.testing.assert_allclose(found[::-1], expected, rtol=1e-7)


class Only:
    """A denoiser of which nothing but the schedule is looked at."""

    def __init__(self, table):
        self.schedule = table


@pytest.mark.parametrize(
    ("T", "respacing", "visits"),
    [
        (10, "2,3", [0, 4, 5, 7, 9]),
        (11, "1,2,3", [0, 4, 7, 8, 9, 10]),
        (10, "ddim5", [0, 2, 4, 6, 8]),
        (10, "ddim4", [0, 3, 6, 9]),
        (1000, "ddim30", [*range(0, 1000, 34)]),
    ],
)
def test_sections_and_strides_are_theirs(T, respacing, visits):
    assert sampling.respaced(T, respacing) == visits


@pytest.mark.parametrize("respacing", ["ddim6", "6,2", "11"])
def test_a_respacing_that_cannot_be_is_refused(respacing):
    with pytest.raises(ValueError, match=f"timestep_respacing {respacing} of 10 steps; expected"):
        sampling.respaced(10, respacing)


@pytest.mark.parametrize(
    ("text", "names", "typed"),
    [
        (IDDPM, UNET, " --sampler iddpm"),
        (f"{IDDPM} --timestep_respacing 250", UNET, " --sampler iddpm --steps 250"),
        (
            f"{IDDPM} --timestep_respacing ddim50",
            UNET,
            " --sampler ddim --clip --eps rederived --steps 50 --spacing leading",
        ),
        (
            f"{IDDPM} --timestep_respacing ddim50 --use_ddim False",
            UNET,
            " --sampler iddpm --steps 50 --spacing leading",
        ),
        (f"{IDDPM} --use_ddim True --clip_denoised False", UNET, " --sampler ddim"),
        ("--clip_denoised False", UNET, " --no-clip"),
        (f"{ADM} --timestep_respacing 2,3", UNET, " --labels cycle --sampler iddpm --timesteps 999,750,500,499,0"),
        ("--diffusion_steps 24 --timestep_respacing ddim8", UNET, " --sampler ddim --clip --eps rederived --steps 8"),
        ("--timestep_respacing 100", TEXT, ' --prompt "a cat" --guidance 3 --sampler iddpm --steps 100'),
    ],
)
def test_the_flags_of_sampling_become_options(text, names, typed):
    command = sampling.command(flags.read(text, names), Path("models/m"))
    assert command.startswith(f"traj generate data/trajectories/m.zarr --model models/m{typed}")


def test_a_stride_that_leading_does_not_have_is_written_out():
    command = sampling.command(flags.read("--timestep_respacing ddim30", UNET), Path("m"))
    assert command.endswith(f"--timesteps {','.join(map(str, range(986, -1, -34)))}")
