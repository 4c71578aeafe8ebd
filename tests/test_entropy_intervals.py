"""Intervals of pooled entropies hold the truth as often as they say, and "reliable" is what has little bias."""

from __future__ import annotations

import numpy as np
import pytest

from tests.analysis_data import dataset
from tests.test_entropy import gaussian_pixels, of_gaussian_pixels
from traj.analysis._statistics.spread import dealt
from traj.analysis.entropy import entropy

BINS, RUNS = 16, 32
ALPHA_BAR, VARIANCE = 0.5, 0.25
TRUTH = of_gaussian_pixels(ALPHA_BAR, VARIANCE, BINS)
VARIABLES = [f"stepwise_entropy{name}" for name in ("_miller_madow", "_debiased", "_se", "_bias", "_half_width")]


def repeated(make):
    """The values of several runs: (variable, run)."""
    runs = [entropy(make(seed), on=("x_t",), bins=BINS, by_class=False) for seed in range(RUNS)]
    return np.array(
        [list(run[[*VARIABLES, "reliable"]].compute(scheduler="synchronous").to_array().values.flat) for run in runs]
    ).T


@pytest.mark.parametrize(("samples", "side", "reliable"), [(64, 4, (0, 0.5)), (16, 16, (0.8, 1)), (64, 16, (1, 1))])
def test_repeated_runs_of_independent_pixels_are_covered(samples, side, reliable):
    # 4, 16 and 64 pixel pairs per cell
    found = repeated(lambda seed: gaussian_pixels(ALPHA_BAR, VARIANCE, samples, side, seed))
    miller_madow, debiased, error, _, half_width, flagged = found
    covered = abs(debiased - TRUTH) < half_width
    assert covered.mean() > 0.9
    assert abs((debiased - TRUTH).mean()) < 0.5 * error.mean()
    assert reliable[0] <= flagged.mean() <= reliable[1]
    if (samples, side) == (64, 4):
        assert (abs(miller_madow - TRUTH) < 2 * error).mean() < 0.85  # what was drawn before


def test_dependent_pixels_are_covered_because_whole_images_are_left_out():
    def run(seed):
        rng = np.random.default_rng(seed)
        # each image has a brightness of its own: as many pixels say less
        x_0, noise = (
            np.sqrt(0.7) * rng.standard_normal((64, 1, 1, 1)) + np.sqrt(0.3) * rng.standard_normal((64, 1, 16, 16))
            for _ in range(2)
        )
        x_0 = np.sqrt(VARIANCE) * x_0
        x_t = np.sqrt(ALPHA_BAR) * x_0 + np.sqrt(1 - ALPHA_BAR) * noise
        return dataset(x_t[:, None], x_t[:, None], x_0)

    miller_madow, debiased, error, _, half_width, _ = repeated(run)
    assert (abs(debiased - TRUTH) < half_width).mean() > 0.9
    assert abs((debiased - TRUTH).mean()) < 0.5 * error.mean() < abs((miller_madow - TRUTH).mean())


def test_far_too_few_pixels_are_never_reliable():
    found = repeated(lambda seed: gaussian_pixels(ALPHA_BAR, VARIANCE, 16, 4, seed))
    assert not found[-1].any()


def test_the_interval_is_students_of_seven_degrees_of_freedom_and_the_distance_to_the_other_corrections():
    result = entropy(gaussian_pixels(0.5, 0.25, 16, 8, 0), on=("x_t",), bins=BINS).compute()
    debiased, error, bias, half_width = (
        result[f"stepwise_entropy_{n}"] for n in ("debiased", "se", "bias", "half_width")
    )
    others = [abs(debiased - result[f"stepwise_entropy_{name}"]).item() for name in ("miller_madow", "grassberger")]
    assert bias == max(others) > 0
    np.testing.assert_allclose(half_width, 2.3646 * error + bias, rtol=1e-14)  # Student, seven degrees of freedom
    assert result["reliable"].dims == ("on", "timestep")
    assert (result["reliable"] == (bias <= error)).all()


def test_the_debiased_value_is_the_jackknifes():
    ds = gaussian_pixels(0.5, 0.25, 20, 8, 0)  # eight groups of two or three
    result = entropy(ds, on=("x_t",), bins=BINS).compute()
    group_of = dealt(20)
    assert sorted(np.bincount(group_of)) == [2] * 4 + [3] * 4
    expected = 8 * result["stepwise_entropy"].item()
    for group in range(8):
        kept = group_of != group
        rest = entropy(ds.isel(sample=kept), on=("x_t",), bins=BINS)["stepwise_entropy"].compute().item()
        expected -= kept.mean() * rest
    np.testing.assert_allclose(result["stepwise_entropy_debiased"], expected, rtol=0, atol=1e-12)


def test_below_eight_samples_there_is_no_interval_and_nothing_is_reliable():
    result = entropy(gaussian_pixels(0.5, 0.25, 7, 8, 0), on=("x_t",), bins=BINS).compute()
    assert result["stepwise_entropy_debiased"] == result["stepwise_entropy_grassberger"]
    assert np.isnan([result[f"stepwise_entropy_{name}"].item() for name in ("se", "bias", "half_width")]).all()
    assert not result["reliable"].any()


@pytest.mark.parametrize("order", ["sorted", "going round"])
@pytest.mark.parametrize("classes", [2, 8, 10])
def test_the_error_does_not_depend_on_the_order_of_samples(classes, order):
    # Every class has a grey of its own. One eighth of a sorted run would be one class, and so would every eighth
    # sample of one whose eight classes go round.
    rng = np.random.default_rng(0)
    label = np.arange(160) % classes
    label = np.sort(label) if order == "sorted" else label
    grey = np.linspace(-0.8, 0.8, classes)[label][:, None, None, None]
    x_0 = grey + 0.2 * rng.standard_normal((160, 1, 4, 4))
    x_t = grey + 0.2 * rng.standard_normal((160, 1, 4, 4))
    ds = dataset(x_t[:, None], x_t[:, None], x_0)

    def error_of(ds):
        return entropy(ds, on=("x_t",), bins=4)["stepwise_entropy_se"].compute().item()

    shuffled = [error_of(ds.isel(sample=rng.permutation(160))) for _ in range(8)]
    assert 0.5 < error_of(ds) / np.median(shuffled) < 1.7


@pytest.mark.parametrize("samples", [1, 8, 83, 512])
def test_groups_are_of_one_size_and_have_samples_from_everywhere(samples):
    group_of = dealt(samples)
    sizes = np.bincount(group_of, minlength=8)
    assert sizes.sum() == samples
    assert sizes.max() - sizes.min() <= 1
    if samples == 512:
        for part in (*group_of.reshape(8, 64), *group_of.reshape(64, 8).T):
            assert np.bincount(part, minlength=8).min() > 1


@pytest.mark.parametrize("place", [(0, 0, 0, 0), (1, 0, 2, 3)])
def test_a_pixel_that_is_not_a_number_is_refused_wherever_it_is(place):
    ds = dataset(*np.random.default_rng(0).uniform(-1, 1, (2, 2, 1, 3, 4, 4)), np.zeros((2, 3, 4, 4)))
    ds["x_t"].values[place[0], 0, place[1], place[2], place[3]] = np.nan
    with pytest.raises(ValueError, match="pixels that are not a number have no grey code"):
        entropy(ds, on=("x_t",)).compute()
