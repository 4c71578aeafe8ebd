"""Redundancy: edges of what keeps SSIM, and the Pareto set, as plain loops find them."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from tests.analysis_data import JUMP, SHORTCUT, baseline, saved, sweep_dataset, sweeps
from traj.analysis._edits import families
from traj.analysis.intervention import intervention
from traj.analysis.redundancy import edge_of, redundancy
from traj.stores import FAMILY

ONCE = -1
AT = (120, 80, 40, 0)


def table():
    """Jumps, block cuts of several n and nb, a skip cut, relaxed cuts and a shortcut, in no order."""
    rows = [(at, "jump", n, 0, 0, ONCE) for at, n in product(AT, (0, 2, 5, 9))]
    rows += [(at, "blocks", n, 0, nb, ONCE) for at, n, nb in product(AT, (3, 7), (2, 6))]
    rows += [(at, "skips", 5, 2, 0, ONCE) for at in AT]
    rows += [(at, "blocks", 3, 0, 6, r) for at, r in product((120, 80), (0, 4, 8))]
    rows += [(190, *SHORTCUT)]
    return [rows[k] for k in np.random.default_rng(0).permutation(len(rows))]


@pytest.fixture(scope="module")
def rows():
    return table()


@pytest.fixture(scope="module", params=[0, 1, 2])
def ds(rows, request):
    share = np.random.default_rng(request.param).uniform(0, 0.45, len(rows))
    return sweep_dataset(rows, share, 6)


def test_edges_are_those_of_plain_loops(ds, rows):
    ssim = intervention(ds, baseline=baseline())["ssim_mean"].to_numpy()
    keeps = dict(zip(rows, ssim >= 0.8, strict=True))
    result = redundancy(ds, baseline=baseline()).compute()

    def edge(matching, key, mildest_first):
        best = np.nan
        for row in sorted(matching, key=key, reverse=not mildest_first):
            if not keeps[row]:
                break
            best = key(row)
        return best

    family_of, part_of, cut_of = (
        dict(zip(rows, np.array(labels)[of].tolist(), strict=True))
        for labels, of in (
            families.groups(ds, names) for names in (FAMILY, ("edit", "ns", "nb"), ("edit", "ns", "nb", "n"))
        )
    )
    for name in result["family"].to_numpy():
        expected = edge([row for row in rows if family_of[row] == name], lambda row: row[0], True)
        np.testing.assert_array_equal(result["safe_from"].sel(family=name), expected)
    for at in (190, *AT):
        for name in result["part"].to_numpy():
            once = [row for row in rows if row[0] == at and row[5] == ONCE and part_of[row] == name != "shortcut"]
            expected = edge(once, lambda row: row[2], True)
            np.testing.assert_array_equal(result["longest_n"].sel(part=name, t_start=at), expected)
        for name in result["cut"].to_numpy():
            again = [row for row in rows if row[0] == at and row[5] != ONCE and cut_of[row] == name]
            expected = edge(again, lambda row: row[5], False)
            np.testing.assert_array_equal(result["shortest_r"].sel(cut=name, t_start=at), expected)
    assert {np.isnan(result[name]).all().item() for name in ("safe_from", "longest_n", "shortest_r")} == {False}


def half_width(samples, among=1):
    return stats.t(samples - 1).ppf(1 - 0.05 / (2 * among))


def test_what_is_kept_or_lost_by_less_than_its_error_cannot_be_told(ds, rows):
    compared = intervention(ds, baseline=baseline())
    result = redundancy(ds, baseline=baseline()).compute()
    mean, error = (compared[f"ssim_{part}"].to_numpy() for part in ("mean", "se"))
    low, high = mean - half_width(6) * error, mean + half_width(6) * error
    expected = np.where(low >= 0.8, 1, np.where(high < 0.8, -1, 0))
    np.testing.assert_array_equal(result["keeps"], expected)
    assert {0, 1} <= set(expected)
    for row in rows:
        if row[1] == "jump" and row[2] == 5:  # four starts, from the last up
            family = [k for k, other in enumerate(rows) if other[1:3] == row[1:3]]
            family.sort(key=lambda k: rows[k][0])
            of = result.sel(family="jump n=5")
            for name, kept in (
                ("safe_from_sure", low >= 0.8),
                ("safe_from", mean >= 0.8),
                ("safe_from_possible", mean + half_width(6, among=4) * error >= 0.8),
            ):
                first = [rows[k][0] for k in family if kept[[j for j in family if rows[j][0] <= rows[k][0]]].all()]
                np.testing.assert_array_equal(of[name], max(first, default=np.nan))


def test_intervals_of_edges_hold_the_edge_and_are_narrow_where_samples_agree(ds):
    result = redundancy(ds, baseline=baseline()).compute()
    for name, sign in (("safe_from", 1), ("longest_n", 1), ("shortest_r", -1)):
        sure, edge, possible = (sign * result[f"{name}{by}"].fillna(-sign * 1e9) for by in ("_sure", "", "_possible"))
        assert (sure <= edge).all()
        assert (edge <= possible).all()
    alike = redundancy(sweep_dataset([(at, *JUMP) for at in AT], [0.01] * 4), baseline=baseline()).compute()
    assert alike["safe_from_sure"].item() == alike["safe_from_possible"].item() == 120


def test_a_curve_that_keeps_ssim_is_rarely_lost_by_chance():
    # true mean .8 at all of ten starts: the interval that holds for all of them at once excludes one in five per cent
    rng, repetitions = np.random.default_rng(0), 400
    cells = {"shape": (1,), "cell": (np.zeros(10, int),), "harm": np.arange(10), "among": np.ones(10, bool)}
    lost = 0
    for _ in range(repetitions):
        ssim = 0.8 + 0.1 * rng.standard_normal((10, 16))
        lost += np.nan_to_num(edge_of(ssim, 0.8, "_possible", values=np.arange(10.0), **cells)[0], nan=-1) < 9
    assert stats.binomtest(int(lost), repetitions, 0.05, "greater").pvalue > 0.01


def test_only_an_edit_that_is_surely_beaten_is_off_the_possible_front(ds, rows):
    compared = intervention(ds, baseline=baseline())["ssim"].to_numpy()
    result = redundancy(ds, baseline=baseline()).compute()
    removed = np.array([saved(*row)[2] for row in rows])
    possible = []
    for k in range(len(rows)):
        difference = compared - compared[k]
        sure = difference.mean(axis=1) - half_width(6, len(rows) - 1) * difference.std(axis=1, ddof=1) / np.sqrt(6)
        beaten = ((removed >= removed[k]) & (sure > 0)) | ((removed > removed[k]) & (sure >= 0))
        possible.append(not beaten.any())
    np.testing.assert_array_equal(result["pareto_possible"], possible)
    assert (result["pareto_possible"] | ~result["pareto"]).all()
    assert not all(possible)


@pytest.mark.parametrize(("share", "edge"), [(0.05, 190), (0.9, np.nan)])
def test_the_shortcut_is_safe_from_its_one_start_or_nowhere(share, edge):
    ds = sweep_dataset([(190, *SHORTCUT), (40, *JUMP)], [share, 0.05])
    result = redundancy(ds, baseline=baseline()).compute()
    np.testing.assert_array_equal(result["safe_from"].sel(family="shortcut"), edge)
    assert np.isnan(result["longest_n"].sel(part="shortcut")).all()
    assert np.isnan(result["shortest_r"].sel(cut="shortcut")).all()


def test_no_member_of_the_pareto_set_is_dominated_and_every_other_is(ds, rows):
    result = redundancy(ds, baseline=baseline()).compute()
    removed = [saved(*row)[2] for row in rows]
    ssim, pareto = result["ssim_mean"].to_numpy(), result["pareto"].to_numpy()
    for k, row in enumerate(rows):
        dominated = any(
            removed[j] >= removed[k] and ssim[j] >= ssim[k] and (removed[j] > removed[k] or ssim[j] > ssim[k])
            for j in range(len(rows))
        )
        assert bool(pareto[k]) != dominated, row
    assert 0 < pareto.sum() < len(rows)


def test_edits_of_other_parts_are_compared_too():
    # a jump of 5 removes 4 evaluations of 20, five cuts of 6 blocks of 16 about 2, and skips nothing
    rows = [(120, *JUMP), (120, "blocks", 5, 0, 6, ONCE), (120, "skips", 5, 2, 0, ONCE), (120, "skips", 5, 1, 0, ONCE)]
    for share, expected in (
        ([0.1, 0.2, 0.3, 0.4], [True, False, False, False]),
        ([0.3, 0.2, 0.1, 0.4], [True, True, True, False]),
    ):
        result = redundancy(sweep_dataset(rows, share), baseline=baseline())
        assert result["pareto"].to_numpy().tolist() == expected


def test_what_edits_save_comes_along_from_the_forks(ds, rows):
    result = redundancy(ds, baseline=baseline())
    names = ("evaluations_saved", "evaluations_cut", "multiply_adds_removed")
    assert set(names) <= set(result.coords)
    assert list(zip(*(result[name].to_numpy().tolist() for name in names), strict=True)) == [saved(*r) for r in rows]


def test_a_sweep_that_does_not_say_what_it_saves_is_refused():
    earlier = sweeps().drop_vars(["evaluations_cut", "multiply_adds_removed"])
    with pytest.raises(ValueError, match=r"no coordinate evaluations_cut, multiply_adds_removed; .*`traj fork`"):
        redundancy(earlier, baseline=baseline())
    assert intervention(earlier, baseline=baseline()).sizes["variant"] == earlier.sizes["variant"]


def test_equal_edits_are_both_in_the_pareto_set():
    result = redundancy(sweep_dataset([(80, *JUMP), (40, *JUMP)], [0, 0]), baseline=baseline())
    assert result["pareto"].to_numpy().tolist() == [True, True]


def test_one_loss_on_the_way_counts_even_where_a_worse_edit_keeps():
    share = dict(zip(AT, (0.05, 0.9, 0.05, 0.05), strict=True))
    result = redundancy(sweep_dataset([(at, *JUMP) for at in AT], [share[at] for at in AT]), baseline=baseline())
    assert float(result["safe_from"][0]) == 40

    steps = [(80, "jump", n, 0, 0, ONCE) for n in (2, 3, 4)]
    result = redundancy(sweep_dataset(steps, [0.05, 0.9, 0.05]), baseline=baseline())
    assert float(result["longest_n"].sel(part="jump", t_start=80)) == 2

    relaxed = [(80, "blocks", 2, 0, 6, r) for r in (0, 2, 5)]
    result = redundancy(sweep_dataset(relaxed, [0.05, 0.9, 0.05]), baseline=baseline())
    assert float(result["shortest_r"].sel(cut="blocks nb=6 n=2", t_start=80)) == 5


def test_nothing_kept_is_nan():
    result = redundancy(sweep_dataset([(at, *JUMP) for at in AT], [0.9] * 4), baseline=baseline())
    assert np.isnan(result["safe_from"]).all()
    assert np.isnan(result["longest_n"]).all()


def test_the_threshold_itself_is_kept():
    ds = sweep_dataset([(80, *JUMP)], [0.3])
    reached = float(intervention(ds, baseline=baseline())["ssim_mean"][0])
    assert float(redundancy(ds, baseline=baseline(), threshold=reached)["safe_from"][0]) == 80
    above = float(np.nextafter(reached, 1))
    assert np.isnan(redundancy(ds, baseline=baseline(), threshold=above)["safe_from"][0])


def test_a_threshold_no_ssim_can_have_is_refused():
    with pytest.raises(ValueError, match="threshold 80"):
        redundancy(sweeps(), baseline=baseline(), threshold=80)
