"""Label variance splits exactly, has its closed forms, and equals plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from scipy.special import digamma, softmax
from scipy.stats import entropy as scipy_entropy

from tests.analysis_data import (
    ALPHA_BAR,
    MIXTURE,
    POINTS,
    exact_replicas,
    fork_readout,
    fork_readout_dataset,
    forks,
    posteriors,
    state_readout,
    state_readout_dataset,
)
from tests.fork_states import fork_state_readout, fork_state_readout_dataset
from traj.analysis.label_variance import label_variance

LOGITS = arrays(
    np.float32,
    st.tuples(st.integers(1, 2), st.integers(1, 5), st.integers(1, 3), st.integers(2, 6)),
    elements=st.floats(-40, 40, width=32),
)


def one_hot(labels, classes):
    """Logits that leave no doubt."""
    return np.where(np.arange(classes) == labels[..., None], 1000.0, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("hard", [False, True])
@settings(max_examples=12, deadline=None, derandomize=True)
@given(logits=LOGITS)
def test_the_total_is_what_is_within_and_between_replicas(hard, logits):
    result = label_variance(fork_readout_dataset(logits), hard=hard).compute()
    total, within, between = (result[f"label_variance{part}"].to_numpy() for part in ("", "_within", "_between"))
    np.testing.assert_allclose(total, within + between, rtol=0, atol=1e-14)
    assert (between >= 0).all()
    assert (within >= -1e-15).all()
    assert (total <= 1 - 1 / logits.shape[-1] + 1e-15).all()
    if logits.shape[1] == 1:
        assert (between == 0).all()
        np.testing.assert_array_equal(total, within)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(logits=LOGITS, replicas=st.integers(2, 7))
def test_equal_replicas_differ_by_exactly_nothing(logits, replicas):
    equal = np.repeat(logits[:, :1], replicas, axis=1)
    result = label_variance(fork_readout_dataset(equal)).compute()
    alone = label_variance(fork_readout_dataset(logits[:, :1])).compute()
    assert (result["label_variance_between"] == 0).all()
    assert (result["label_agreement"] == 1).all()
    assert (result["label_variance_pairwise"] == 0).all()
    for name in ("label_variance", "label_entropy"):
        np.testing.assert_array_equal(result[name], alone[name])


@pytest.mark.parametrize("hard", [False, True])
def test_forks_equal_plain_numpy(hard):
    ds = fork_readout(6, 3, replicas=5, classes=4)
    p = softmax(ds["x_0_logits"].to_numpy().astype(np.float64), axis=-1)
    labels = ds["x_0_logits"].to_numpy().argmax(axis=-1)
    if hard:
        p = np.eye(4)[labels]
    mean = p.mean(axis=1)
    pairs = [(a, b) for a in range(5) for b in range(a)]
    agreement = np.mean([labels[:, a] == labels[:, b] for a, b in pairs], axis=0)
    expected = {
        "label_variance": 1 - (mean**2).sum(axis=-1),
        "label_variance_within": (1 - (p**2).sum(axis=-1)).mean(axis=1),
        "label_variance_between": p.var(axis=1).sum(axis=-1),
        "label_variance_pairwise": 1 - agreement,
        "label_entropy": scipy_entropy(mean, base=2, axis=-1),
        "label_entropy_within": scipy_entropy(p, base=2, axis=-1).mean(axis=1),
        "label_agreement": agreement,
    }
    result = label_variance(ds, hard=hard).compute()
    for name, values in expected.items():
        np.testing.assert_allclose(result[name], values, rtol=0, atol=1e-12, err_msg=name)
        np.testing.assert_allclose(result[f"{name}_mean"], values.mean(axis=1), atol=1e-12)
        np.testing.assert_allclose(result[f"{name}_se"], values.std(axis=1, ddof=1) / np.sqrt(6), atol=1e-12)


@pytest.mark.parametrize("hard", [False, True])
def test_states_of_forks_are_measured_as_their_ends_are(hard):
    ds = fork_state_readout(6, 4)
    ds["x_0_logits"] = ds["logits"].sel(on="x_t", timestep=0, drop=True)
    result = label_variance(ds, hard=hard).compute()
    ends = [name for name in result if "on" not in result[name].dims]
    assert len(ends) == 8 * 4 + 2 == len(result) / 2
    for name in ends:
        np.testing.assert_array_equal(result[f"state_{name}"].sel(on="x_t", timestep=0), result[name], err_msg=name)
    for on, step in ((0, 1), (1, 2)):
        alone = label_variance(fork_readout_dataset(ds["logits"][on, ..., step, :].to_numpy()), hard=hard)
        for name in ends:
            np.testing.assert_array_equal(result[f"state_{name}"][on, ..., step], alone[name], err_msg=name)


def test_states_before_a_fork_give_no_number_and_do_not_touch_the_others():
    ds = fork_state_readout(3, 4)
    whole = label_variance(ds).compute()
    visited = ds["timestep"] <= ds["at"]
    assert 0 < visited.sum() < visited.size
    result = label_variance(ds.assign(logits=ds["logits"].where(visited))).compute()
    for name, values in result.items():
        xr.testing.assert_equal(values, whole[name].where(visited) if "timestep" in values.dims else whole[name])


def states_after(time, replicas, samples):
    """Exact replicas of states at a time of the mixture's, at all times from there on: log p, and which point each is.

    Their x_0 is drawn from the posterior, and each state between it and the common one (DDPM eq. 7, over many steps).
    """
    rng = np.random.default_rng(0)
    times = [t for t in MIXTURE if t <= time]
    here, *_ = signal = ALPHA_BAR[np.array(times) - 1]
    x_t = np.sqrt(here) * rng.choice(POINTS, samples) + np.sqrt(1 - here) * rng.standard_normal(samples)

    def log_p(x, abar):
        return -((x[..., None] - np.sqrt(abar) * POINTS) ** 2) / (2 * (1 - abar))

    labels = (log_p(x_t, here) + rng.gumbel(size=(replicas, samples, POINTS.size))).argmax(axis=-1)
    found = []
    for abar in signal:
        between = here / abar
        mean = np.sqrt(abar) * (1 - between) * POINTS[labels] + np.sqrt(between) * (1 - abar) * x_t
        sd = np.sqrt((1 - abar) * (1 - between) / (1 - here))
        found.append(log_p(mean / (1 - here) + sd * rng.standard_normal(labels.shape), abar))
    return times, np.stack(found, axis=2), labels


@pytest.mark.parametrize("time", [800, 600, 400])
def test_exact_replicas_part_as_the_closed_form_says(time):
    """What each is sure of grows with the agreement of the table, and what they share stays that of where they part."""
    replicas = 4
    times, log_p, labels = states_after(time, replicas, 4000)
    ends = one_hot(labels, POINTS.size)[None]
    result = label_variance(fork_state_readout_dataset(np.stack([log_p[None]] * 2), ends)).compute()
    agreement, variance, _ = np.array([MIXTURE[t] for t in times]).T
    within, between = (result[f"state_label_variance_{part}"][0, 0] for part in ("within", "between"))
    assert (between[:, 0] == 0).all()
    pairs = replicas / (replicas - 1)
    for values, expected in ((within, variance), (pairs * between, agreement - agreement[0])):
        error = values.std("sample", ddof=1) / np.sqrt(values.sizes["sample"])
        assert (abs(values.mean("sample") - expected) < 3 * error + 1.2e-4).all()  # the table has four digits
    assert float(pairs * result["label_variance_between_mean"][0]) == pytest.approx(1 - agreement[0], abs=0.02)


def test_states_equal_plain_numpy():
    ds = state_readout(7, 5)
    logits, final = ds["logits"].to_numpy(), ds["x_0_logits"].to_numpy()
    p = softmax(logits.astype(np.float64), axis=-1)
    flips = logits.argmax(axis=-1) != final.argmax(axis=-1)[:, None]
    share = flips.mean(axis=1)
    result = label_variance(ds).compute()
    np.testing.assert_allclose(result["label_variance"], 1 - (p**2).sum(axis=-1), atol=1e-12)
    np.testing.assert_allclose(result["label_entropy"], scipy_entropy(p, base=2, axis=-1), atol=1e-12)
    np.testing.assert_array_equal(result["flips"], flips)
    assert 0 < flips.sum() < flips.size
    np.testing.assert_allclose(result["flip_fraction"], share, atol=1e-15)
    assert {0, 7} & set((7 * share).round().astype(int).ravel())
    for low, high, count in zip(
        *(result[f"flip_fraction_{end}"].to_numpy().ravel() for end in ("low", "high")), 7 * share.ravel(), strict=True
    ):
        expected = stats.binomtest(round(count), 7).proportion_ci(method="wilson")
        assert (low, high) == pytest.approx(tuple(expected), abs=1e-12)


def test_certainty_and_ignorance_are_the_ends_of_the_range():
    labels = np.zeros((1, 3, 2), int)
    certain = label_variance(fork_readout_dataset(one_hot(labels, 4))).compute()
    ignorant = label_variance(fork_readout_dataset(np.zeros((1, 3, 2, 4)))).compute()
    for name in ("label_variance", "label_entropy", "label_entropy_within", "label_variance_pairwise"):
        assert (certain[name] == 0).all()
    assert (ignorant["label_variance"] == 3 / 4).all()
    assert (ignorant["label_entropy"] == 2).all()


def test_replicas_that_never_agree_vary_only_between_them():
    labels = np.arange(4)[None, :, None]
    result = label_variance(fork_readout_dataset(one_hot(labels, 4))).compute()
    assert float(result["label_variance"].item()) == 3 / 4
    assert float(result["label_variance_within"].item()) == 0
    assert float(result["label_variance_pairwise"].item()) == 1
    assert float(result["label_agreement"].item()) == 0


def test_one_replica_has_no_pairs():
    result = label_variance(fork_readout(4, replicas=1)).compute()
    for name in ("label_agreement", "label_variance_pairwise", "label_entropy_corrected"):
        assert np.isnan(result[name]).all()
    assert np.isfinite(result["label_variance"]).all()


def test_exact_completions_of_a_mixture_have_the_closed_form():
    replicas, samples = 4, 4000
    labels = exact_replicas(replicas, samples)
    result = label_variance(fork_readout_dataset(one_hot(labels, POINTS.size))).compute()
    agreement, variance, _ = np.array(list(MIXTURE.values())).T
    for name, expected in (
        ("label_agreement", agreement),
        ("label_variance_pairwise", variance),
        ("label_variance", variance * (1 - 1 / replicas)),
    ):
        within = 3 * result[f"{name}_se"] + 6e-5  # the table has four digits
        assert (abs(result[f"{name}_mean"] - expected) < within).all(), name


DISTRIBUTIONS = {
    "uniform over ten": np.full(10, 0.1),
    "four alike": np.array([0.25] * 4),
    "peaked": np.array([0.8, 0.1, 0.05, 0.05]),
    "long tail": np.array([0.5, 0.2, 0.1, 0.1, 0.05, 0.05]),
    "all but certain": np.array([0.97, 0.03]),
}


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("p", DISTRIBUTIONS.values(), ids=DISTRIBUTIONS)
def test_the_corrected_entropy_of_few_replicas_is_off_by_little(p, hard):
    labels = np.random.default_rng(0).choice(len(p), size=(1, 8, 20000), p=p)
    result = label_variance(fork_readout_dataset(one_hot(labels, len(p))), hard=hard).compute()
    exact = scipy_entropy(p, base=2)
    plain, corrected = (float(result[f"label_entropy{part}_mean"].item()) for part in ("", "_corrected"))
    assert plain < exact - 0.05
    assert abs(corrected - exact) < (0.1 if hard else 0.17)
    assert abs(corrected - exact) < 0.5 * abs(plain - exact)


def test_the_corrected_entropy_is_grassbergers_or_the_jackknifes():
    ds = fork_readout(6, 3, replicas=7, classes=4)
    logits = ds["x_0_logits"].to_numpy().astype(np.float64)
    counts = (logits.argmax(axis=-1)[..., None] == np.arange(4)).sum(axis=1)
    n = counts.clip(1)
    g = digamma(n) + (-1.0) ** n / 2 * (digamma((n + 1) / 2) - digamma(n / 2))
    expected = (np.log(7) - (counts * g).sum(axis=-1) / 7) / np.log(2)
    result = label_variance(ds, hard=True)["label_entropy_corrected"]
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-12)

    p = softmax(logits, axis=-1)
    without = [scipy_entropy(np.delete(p, r, axis=1).mean(axis=1), base=2, axis=-1) for r in range(7)]
    expected = 7 * scipy_entropy(p.mean(axis=1), base=2, axis=-1) - 6 * np.mean(without, axis=0)
    np.testing.assert_allclose(label_variance(ds)["label_entropy_corrected"], expected, rtol=0, atol=1e-12)


def test_the_entropy_of_labels_is_drawn_with_its_correction():
    result = label_variance(fork_readout(9, 4)).compute()
    axis = label_variance.plot(result, "fork_labels").axes[2]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["corrected", "as counted"]
    drawn = [line.get_ydata() for line in axis.lines[:2]]
    np.testing.assert_array_equal(drawn[0], result["label_entropy_corrected_mean"])
    np.testing.assert_array_equal(drawn[1], result["label_entropy_mean"])


@pytest.mark.parametrize("p", [0.7, 0.9, 0.98])
def test_intervals_of_agreement_cover_it(p):
    repetitions, samples, replicas = 1500, 12, 4
    labels = (np.random.default_rng(0).random((repetitions, replicas, samples)) > p).astype(int)
    result = label_variance(fork_readout_dataset(one_hot(labels, 2))).compute()
    truth = p**2 + (1 - p) ** 2
    low, high = (result[f"label_agreement_{end}"] for end in ("low", "high"))
    assert float(((low <= truth) & (truth <= high)).mean()) > 0.93
    if p == 0.98:
        certain = (result["label_agreement_se"] == 0).to_numpy()
        assert float((high - low)[certain].min()) > 0.1  # an interval of no width would miss in a third of cases


def test_the_posterior_of_a_mixture_has_the_closed_form_without_replicas():
    log_p = posteriors(4000).swapaxes(0, 1)
    result = label_variance(state_readout_dataset(np.stack([log_p, log_p]), log_p[:, -1])).compute()
    expected = np.array(list(MIXTURE.values()))[:, 1]
    assert (abs(result["label_variance_mean"] - expected) < 3 * result["label_variance_se"] + 6e-5).all()


def states_of(labels, final, classes=3):
    labels = np.array(labels)[None]
    return state_readout_dataset(one_hot(np.concatenate([labels, labels]), classes), one_hot(np.array(final), classes))


def test_labels_commit_where_their_last_agreement_with_x_0_begins():
    ds = states_of([[0, 0, 1, 1], [1, 1, 1, 1], [1, 2, 1, 0], [0, 1, 0, 1]], [1, 1, 1, 1])
    result = label_variance(ds).compute().sel(on="x_t")
    assert ds["timestep"].to_numpy().tolist() == [30, 20, 10, 0]
    assert result["flips"].to_numpy().tolist() == [[1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 1], [1, 0, 1, 0]]
    assert result["commit_timestep"].to_numpy().tolist() == [10, 30, -1, 0]
    assert result["commit_step"].to_numpy().tolist() == [2, 0, 4, 3]
    log_snr = ds["log_snr"].to_numpy()
    assert result["commit_log_snr"].to_numpy().tolist() == [log_snr[2], log_snr[0], np.inf, log_snr[3]]


@pytest.mark.slow
@settings(max_examples=25, deadline=None, derandomize=True)
@given(labels=arrays(int, st.tuples(st.integers(1, 4), st.integers(1, 6)), elements=st.integers(0, 2)))
def test_commitments_equal_a_plain_loop(labels):
    ds = states_of(labels, np.ones(len(labels), int))
    steps = labels.shape[1]
    expected = [min([k for k in range(steps + 1) if (row[k:] == 1).all()]) for row in labels]
    assert label_variance(ds)["commit_step"].sel(on="pred_x0").to_numpy().tolist() == expected


def test_states_that_were_never_read_do_not_commit():
    ds = state_readout(3, 4)
    ds["logits"][0, 1, 2] = np.nan
    result = label_variance(ds).compute()
    for name in ("commit_timestep", "commit_step", "commit_log_snr"):
        assert np.isnan(result[name].to_numpy()).tolist() == [[False, True, False], [False] * 3]


def test_coordinates_that_are_missing_give_no_commitment():
    result = label_variance(state_readout(3, 4).drop_vars(["log_snr", "step"]))
    assert "commit_timestep" in result
    assert not {"commit_log_snr", "commit_step"} & set(result)


def test_the_first_of_equal_logits_is_the_label():
    logits = np.array([[0.0, 1.0, 1.0]] * 2 + [[0.0, 0.0, 1.0]])[None, :, None]
    agreement = label_variance(fork_readout_dataset(logits))["label_agreement"]
    np.testing.assert_allclose(agreement, 1 / 3)


@pytest.mark.parametrize("ds", [forks(), state_readout().drop_vars("logits")], ids=["forks", "only x_0"])
def test_a_dataset_without_logits_says_what_to_run_first(ds):
    with pytest.raises(ValueError, match="run `traj readout classifier STORE OUT` first"):
        label_variance(ds)


def test_forks_with_other_noise_get_lines_of_their_own():
    ds = fork_readout(9, 4)
    ds = ds.assign_coords(at=("variant", [20, 20, 0, 0]), noise=("variant", ["independent", "zero"] * 2))
    result = label_variance(ds).compute()
    figure = label_variance.plot({"forks": result}, "fork_labels")
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["forks, noise independent", "forks, noise zero"]
    agreement = figure.axes[1].lines[:2]
    assert len({line.get_marker() for line in agreement}) == 2
    starts = result["at_log_snr"].sortby("at", ascending=False).to_numpy()
    assert [line.get_xdata().tolist() for line in agreement] == [starts[[0, 2]].tolist()] * 2
