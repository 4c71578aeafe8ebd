"""Geometry of trajectories: lines, arcs, planes, the closed form of normal data, and landmarks of a known mixture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from scipy import special

from tests.analysis_data import ALPHA_BAR, trajectories
from traj.analysis._kernels import paths
from traj.analysis.geometry import geometry
from traj.pipeline.models.analytic import GaussianDenoiser
from traj.pipeline.process.plans import ddim
from traj.pipeline.process.sampler import reverse
from traj.stores import InputError

RNG = np.random.default_rng(0)


def run(x_t, x_0, pred_x0, timestep):
    """A run of states (sample, timestep, feature) on the linear schedule."""
    alpha_bar = ALPHA_BAR[timestep]
    return xr.Dataset(
        {
            "x_t": (("sample", "timestep", "feature"), np.float32(x_t)),
            "pred_x0": (("sample", "timestep", "feature"), np.float32(pred_x0)),
            "x_0": (("sample", "feature"), np.float32(x_0)),
        },
        {
            "sample": np.arange(len(x_0)),
            "timestep": timestep,
            "signal": ("timestep", np.sqrt(alpha_bar)),
            "log_snr": ("timestep", special.logit(alpha_bar), {"units": "nat"}),
        },
        {"kind": "trajectories", "fingerprint": "closed"},
    )


def normal(mean, dims=6, steps=30):
    """What ddim makes of N(mean, .25 I) with the exact denoiser, by the project's own loop."""
    denoiser = GaussianDenoiser(mean, 0.25)
    plan = ddim(denoiser.schedule, steps)
    start = torch.from_numpy(np.random.default_rng(1).standard_normal((4, dims, 1, 1))).float()
    kept = []
    (x_0,) = reverse(
        denoiser,
        [plan],
        torch.full((4,), -1).repeat,
        start=lambda _: start,
        noise=lambda _, step: torch.zeros_like(start),
        keep=lambda _, k, *arrays: kept.append(arrays),
    )
    x_t, pred_x0 = (np.stack([one[k].numpy()[..., 0, 0] for one in kept], axis=1) for k in (0, 1))
    return run(x_t, x_0.numpy()[..., 0, 0], pred_x0, np.array([step.timestep for step in plan.steps]))


def of(result, name, on="x_t"):
    return result[name].sel(on=on).to_numpy()


def explained(result, on="x_t"):
    return np.stack([of(result, f"explained_{k}", on) for k in (1, 2, 3)], axis=-1)


def test_normal_data_of_mean_0_goes_straight_under_ddim():
    result = geometry(normal(0.0)).compute()
    for on in ("x_t", "pred_x0"):
        assert of(result, "distance", on).max() < 1e-6
        assert np.nanmax(of(result, "turning", on)) < 0.2  # of float32 steps that hardly move
        np.testing.assert_allclose(of(result, "detour", on), 1, atol=1e-6)
        np.testing.assert_allclose(explained(result, on), 1, atol=1e-10)
    assert np.isnan([mark.log_snr for mark in geometry.landmarks(result)]).all()  # and no half of rounding's turning


def test_normal_data_of_any_mean_goes_straight_over_its_signal_and_bends_in_a_plane_without():
    ds = normal(0.5)
    straight = geometry(ds, over_signal=True).compute()
    assert of(straight, "distance").max() < 1e-6
    np.testing.assert_allclose(explained(straight), 1, atol=1e-10)
    bent = geometry(ds).compute()
    assert (of(bent, "distance").max(axis=1) > 0.01).all()
    shares = explained(bent)
    assert (shares[:, 0] < 0.9999).all()
    np.testing.assert_allclose(shares[:, 1:], 1, atol=1e-10)
    np.testing.assert_array_equal(of(bent, "distance", "pred_x0"), of(straight, "distance", "pred_x0"))


def test_one_dimension_has_no_beside():
    ds = normal(0.5, dims=1)
    result = geometry(ds).compute()
    assert (of(result, "distance") == 0).all()
    assert np.isin(of(result, "turning")[:, 1:], [0, 180]).all()


def test_an_arc_of_a_circle_has_its_sagitta_its_angle_and_its_length():
    points, arc = 41, 2.0
    angle = np.linspace(0, arc, points)
    plane = np.linalg.qr(RNG.standard_normal((5, 2)))[0].T
    path = 3 + 7 * np.stack([np.cos(angle), np.sin(angle)], axis=-1) @ plane
    chord = 2 * np.sin(arc / 2)
    distance = (np.cos(angle - arc / 2) - np.cos(arc / 2)) / chord
    np.testing.assert_allclose(paths.distance_to_line(path), distance, atol=1e-14)
    np.testing.assert_allclose(paths.turning(path)[1:-1], np.degrees(arc / (points - 1)), rtol=1e-10)
    assert np.isnan(paths.turning(path)[[0, -1]]).all()
    length = (points - 1) * 2 * np.sin(arc / (points - 1) / 2)
    assert paths.detour(path) == pytest.approx(length / chord, rel=1e-12)
    np.testing.assert_allclose(paths.explained(path, 3)[1:], 1, rtol=1e-12)


def test_steps_straight_back_and_aside_turn_by_180_and_90_degrees():
    path = np.array([[0.0, 0], [1, 0], [3, 0], [2, 0], [2, 5], [2, 5], [3, 5]])
    np.testing.assert_allclose(paths.turning(path), [np.nan, 0, 180, 90, np.nan, np.nan, np.nan], atol=1e-12)


@pytest.mark.parametrize("shape", [(12, 40), (40, 12), (5, 2), (2, 9)])
def test_components_are_those_of_the_singular_values(shape):
    path = np.random.default_rng(2).standard_normal(shape).cumsum(axis=0)
    squares = np.linalg.svd(path - path.mean(axis=0), compute_uv=False) ** 2
    expected = np.pad(squares.cumsum() / squares.sum(), (0, 3), constant_values=1)[:3]
    np.testing.assert_allclose(paths.explained(path, 3), expected, rtol=1e-12)


def test_a_path_back_along_its_line_has_a_half_of_its_turning():
    along = np.array([0.0, 1, 2, 1])
    path = np.repeat(along[None, :, None] * np.array([1.0, 2]), 8, axis=0)
    result = geometry(run(path, path[:, -1] * 4, path, np.array([900, 600, 300, 0]))).compute()
    assert {mark.timestep for mark in geometry.landmarks(result) if mark.name == "turning_half"} == {300}


def test_events_of_any_shape_are_measured_alike():
    ds = trajectories(3, 5, channels=2, side=4)
    flat = ds.stack(feature=("channel", "y", "x"), create_index=False)
    flat = flat.reset_coords(drop=True).assign_coords({name: ds[name] for name in ds.coords})
    xr.testing.assert_equal(geometry(flat).compute(), geometry(ds).compute())


def test_paths_that_do_not_move_have_no_shape():
    still = np.ones((2, 4, 3))
    result = geometry(run(still, still[:, 0], still, np.array([900, 600, 300, 0]))).compute()
    for name in ("distance", "turning", "detour", "explained_3"):
        assert np.isnan(result[name]).all(), name
    assert np.isnan([mark.log_snr for mark in geometry.landmarks(result)]).all()
    one = geometry(run(still[:, :1], 2 * still[:, 0], still[:, :1], np.array([900]))).compute()
    assert (of(one, "distance") == 0).all()
    assert (of(one, "detour") == 1).all()
    assert np.isnan(of(one, "detour", "pred_x0")).all()


def test_over_signal_is_refused_where_there_is_none():
    ds = trajectories(2, 4)
    ds["signal"][0] = 0
    with pytest.raises(InputError, match=r"x_t of timestep 30 has no signal to be divided by; leave it out"):
        geometry(ds, over_signal=True)
    geometry(ds, on=("pred_x0",), over_signal=True)


def test_variables_that_are_not_there_are_refused():
    with pytest.raises(InputError, match=r"no variable eps in this dataset of kind trajectories; it has x_t, pred_x0"):
        geometry(trajectories(2, 4), on=("eps",))
    with pytest.raises(InputError, match=r"expected one or more different variables"):
        geometry(trajectories(2, 4), on=("x_t", "x_t"))


def test_steps_with_noise_have_no_half_of_their_turning():
    for sd, names in ((0.0, {"distance_peak", "turning_half"}), (0.5, {"distance_peak"})):
        ds = trajectories(8, 5).assign_coords(noise_sd=("timestep", np.full(5, sd)))
        assert {mark.name for mark in geometry.landmarks(geometry(ds).compute())} == names


# --- landmarks ----------------------------------------------------------------------------------------------------

CORNERS = np.array([[3.0, 0], [-3, 0], [0, 1], [0, -1]])
STEPS = np.linspace(999, 0, 40).astype(int)


def mixture(samples, seed):
    """What ddim makes of four points in the plane with the exact denoiser."""
    signal, noise_scale = np.sqrt(ALPHA_BAR[STEPS]), np.sqrt(1 - ALPHA_BAR[STEPS])
    x = np.random.default_rng(seed).standard_normal((samples, 2))
    x_t, pred_x0 = [], []
    for k, (c, d) in enumerate(zip(signal, noise_scale, strict=True)):
        far = ((x[:, None] - c * CORNERS) ** 2).sum(-1)
        x_t.append(x)
        pred_x0.append(special.softmax(-far / (2 * d**2), axis=1) @ CORNERS)
        eps = (x - c * pred_x0[k]) / d
        x = signal[k + 1] * pred_x0[k] + noise_scale[k + 1] * eps if k + 1 < len(STEPS) else pred_x0[k]
    return run(np.stack(x_t, 1), x, np.stack(pred_x0, 1), STEPS)


def test_intervals_of_landmarks_hold_the_places_of_the_whole_population():
    runs, samples = 50, 20
    truth = {(mark.name, mark.of): mark.log_snr for mark in geometry.landmarks(geometry(mixture(1500, 1)).compute())}
    drawn = geometry(mixture(runs * samples, 2)).compute()
    held, width = dict.fromkeys(truth, 0), dict.fromkeys(truth, 0.0)
    for k in range(runs):
        part = drawn.isel(sample=slice(k * samples, (k + 1) * samples))
        for name in ("distance", "turning"):
            part[f"{name}_mean"] = part[name].mean("sample")
        for mark in geometry.landmarks(part):
            held[mark.name, mark.of] += mark.low <= truth[mark.name, mark.of] <= mark.high
            width[mark.name, mark.of] += (mark.high - mark.low) / runs
    assert len(truth) == 4
    assert all(0.88 * runs <= count for count in held.values()), held
    assert all(0 < mean < 2.5 for mean in width.values()), width
