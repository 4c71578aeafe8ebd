"""SSIM and PSNR say what scikit-image says, on the scale the images really have."""

from __future__ import annotations

import dask
import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from tests.analysis_data import dataset, fork_dataset, trajectories
from traj.analysis.consistency import consistency
from traj.analysis.psnr import psnr
from traj.analysis.ssim import ssim

GAUSSIAN = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
UNIFORM = {"skimage": 7, "window:3": 3, "window:5": 5, "window:9": 9}


def unit(array):
    return np.clip((np.asarray(array, np.float64) + 1) / 2, 0, 1)


def by_skimage(ds, on, **options):
    state, x_0 = unit(ds[on]), unit(ds["x_0"])
    return [
        [structural_similarity(image, x_0[k], data_range=1.0, channel_axis=0, **options) for image in images]
        for k, images in enumerate(state)
    ]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("preset", "side"),
    [
        ("wang2004", 11),
        ("wang2004", 32),
        ("skimage", 7),
        ("skimage", 20),
        ("window:3", 3),
        ("window:5", 8),
        ("window:9", 17),
    ],
)
def test_ssim_is_scikit_images(preset, side, channels):
    # Ten timesteps: more than the kernel does side by side, and no multiple of it.
    ds = trajectories(2, 10, channels, side)
    result = ssim(ds, preset=preset).compute()
    options = GAUSSIAN if preset == "wang2004" else {"win_size": UNIFORM[preset]}
    for on in ("x_t", "pred_x0"):
        np.testing.assert_allclose(result["ssim"].sel(on=on), by_skimage(ds, on, **options), rtol=0, atol=1e-12)


def test_two_windows_in_one_pass_give_what_each_gives_alone():
    ds = trajectories(3, 4, side=12, chunks=(2, 4))
    lazy = [ssim(ds, preset=preset)["ssim"] for preset in ("window:3", "window:5", "wang2004")]
    for together, alone in zip(dask.compute(*lazy), lazy, strict=True):
        np.testing.assert_array_equal(together, alone.compute())


def test_images_need_not_be_square():
    ds = trajectories(2, 3, 3, 16).isel(x=slice(0, 11))
    expected = by_skimage(ds, "x_t", **GAUSSIAN)
    np.testing.assert_allclose(ssim(ds, preset="wang2004")["ssim"].sel(on="x_t"), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("channels", [1, 3])
def test_psnr_is_scikit_images(channels):
    ds = trajectories(3, 5, channels, 9)
    state, x_0 = unit(ds["x_t"][:, :-1]), unit(ds["x_0"])
    expected = [
        [peak_signal_noise_ratio(x_0[k], image, data_range=1.0) for image in images] for k, images in enumerate(state)
    ]
    np.testing.assert_allclose(psnr(ds)["psnr"].sel(on="x_t")[:, :-1], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("preset", ["wang2004", "skimage", "window:5"])
def test_identical_images_have_ssim_of_exactly_one_and_the_capped_psnr(preset):
    ds = trajectories(3, 4, 3, 16)
    x_t = ds["x_0"].expand_dims(timestep=ds.timestep, axis=1)
    ds = ds.assign(x_t=ds["x_t"].copy(data=x_t))
    assert (ssim(ds, on=("x_t",), preset=preset)["ssim"] == 1).all()
    assert (psnr(ds, on=("x_t",))["psnr"] == 100).all()


def test_psnr_never_exceeds_the_cap_and_a_constant_error_gives_its_closed_form():
    x_0 = np.zeros((1, 1, 4, 4))
    errors = np.array([1e-1, 1e-2, 1e-5])  # on [-1, 1], half of that on [0, 1]
    x_t = np.broadcast_to(errors[:, None, None, None], (1, 3, 1, 4, 4))
    ds = dataset(x_t, x_t, x_0)
    expected = [-20 * np.log10(0.1 / 2), -20 * np.log10(0.01 / 2), 100.0]
    np.testing.assert_allclose(psnr(ds)["psnr"].sel(on="x_t")[0], expected, atol=1e-5)


def test_opposite_images_have_a_psnr_of_zero_without_a_sign():
    low, high = np.full((1, 1, 1, 4, 4), -1.0), np.full((1, 1, 4, 4), 1.0)
    assert not np.signbit(psnr(dataset(low, low, high))["psnr"]).any()
    replicas = np.stack([low[0], high])[None, :, None, 0]
    assert not np.signbit(consistency(fork_dataset(replicas))["psnr"]).any()


@pytest.mark.parametrize("side", [8, 32])
@pytest.mark.parametrize("quantity", [psnr, ssim])
@pytest.mark.parametrize("variable", ["x_t", "x_0"])
def test_one_pixel_that_is_not_a_number_is_not_taken_for_a_value(quantity, variable, side):
    ds = trajectories(2, 2, side=side)
    ds[variable].values[0, ..., 3, 4] = np.nan
    values = quantity(ds, on=("x_t",)).compute()[quantity.__name__].sel(on="x_t")
    assert np.isnan(values[0]).all()
    assert np.isfinite(values[1]).all()


def test_the_valid_range_sets_the_scale_and_values_beyond_it_are_clipped():
    narrow = trajectories(2, 4, 1, 8)
    wide = dataset(*(4 * narrow[name].to_numpy() + 4 for name in ("x_t", "pred_x0", "x_0")), valid_range=(0.0, 8.0))
    clipped = narrow.assign({name: narrow[name].clip(-1, 1) for name in ("x_t", "pred_x0")})
    for quantity, name in ((ssim, "ssim"), (psnr, "psnr")):
        expected = quantity(narrow)[name]
        np.testing.assert_allclose(quantity(wide)[name], expected, atol=1e-4)
        np.testing.assert_array_equal(quantity(clipped)[name], expected)


def test_spread_over_samples_is_numpys():
    result = ssim(trajectories(5, 4)).compute()
    values = result["ssim"].to_numpy()
    np.testing.assert_allclose(result["ssim_mean"], values.mean(axis=1), rtol=1e-14)
    np.testing.assert_allclose(result["ssim_sd"], values.std(axis=1, ddof=1), rtol=1e-11, atol=1e-15)
    np.testing.assert_allclose(result["ssim_se"], values.std(axis=1, ddof=1) / np.sqrt(5), rtol=1e-11, atol=1e-15)


def test_one_sample_has_no_spread():
    assert np.isnan(ssim(trajectories(1, 3))["ssim_se"]).all()


@pytest.mark.parametrize(("side", "preset"), [(3, "window:3"), (8, "window:5"), (31, "window:5"), (32, "wang2004")])
def test_auto_picks_a_window_that_suits_the_images(side, preset):
    ds = trajectories(1, 2, 1, side)
    assert ssim(ds).attrs["preset"] == preset
    assert ssim(ds).identical(ssim(ds, preset=preset))


@pytest.mark.parametrize(
    ("preset", "message"),
    [
        ("wang2004", "at least 11 pixels.* these have 8; what fits: skimage, window:N with N up to 7"),
        ("window:9", "at least 9 pixels"),
        ("window:4", "unknown preset 'window:4'; expected auto"),
        ("window:1", "unknown preset"),
        ("best", "unknown preset 'best'"),
    ],
)
def test_a_preset_that_does_not_fit_is_refused_with_what_does(preset, message):
    with pytest.raises(ValueError, match=message):
        ssim(trajectories(side=8), preset=preset)


@pytest.mark.parametrize("side", [1, 2])
def test_images_too_small_are_told_the_least_size_and_psnr(side):
    with pytest.raises(ValueError, match="the least is 3 pixels a side; analyse them with psnr"):
        ssim(trajectories(side=side))


def test_a_missing_variable_is_named_with_what_there_is():
    with pytest.raises(ValueError, match=r"no variable latents .* it has x_t, pred_x0, x_0"):
        psnr(trajectories(), on=("latents",))


def test_two_runs_are_compared_sample_by_sample_in_any_order():
    ours, theirs = trajectories(4, 3, 3, 16, seed=1), trajectories(4, 3, 3, 16, seed=2)
    other = theirs.isel(sample=[2, 0, 3, 1]).chunk({"sample": 3})
    result = ssim(ours, preset="skimage", against=other).compute()
    pairs = zip(unit(ours["x_0"]), unit(theirs["x_0"]), strict=True)
    expected = [structural_similarity(a, b, data_range=1.0, channel_axis=0) for a, b in pairs]
    assert result["ssim"].dims == ("on", "sample")
    assert result["on"].to_numpy().tolist() == ["x_0"]
    np.testing.assert_allclose(result["ssim"][0], expected, atol=1e-12)
    np.testing.assert_allclose(result["ssim_mean"], [np.mean(expected)], rtol=1e-12)
    assert (psnr(ours, against=other)["psnr"] < 30).all()


def test_runs_that_cannot_be_paired_are_refused():
    ours = trajectories(4, 3)
    fewer = ours.isel(sample=slice(0, 3))
    larger = trajectories(4, 3, side=9)
    wider = ours.assign(x_0=ours["x_0"].assign_attrs(valid_range=[-8.0, 8.0]))
    with pytest.raises(ValueError, match=r"samples differ: 1 are in only one of the two, the first is 3"):
        ssim(ours, against=fewer)
    with pytest.raises(ValueError, match="have channel 1, y 9, x 9, here channel 1, y 8, x 8"):
        psnr(ours, against=larger)
    with pytest.raises(ValueError, match="one scale"):
        psnr(ours, against=wider)
