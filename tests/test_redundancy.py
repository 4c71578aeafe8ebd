"""Redundancy: edges of what keeps SSIM, and the Pareto set, as plain loops find them."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from analysis import _edits
from analysis.intervention import intervention
from analysis.redundancy import redundancy
from tests.analysis_data import JUMP, SHORTCUT, baseline, saved, sweep_dataset, sweeps

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
            _edits.groups(ds, names) for names in (_edits.FAMILY, ("edit", "ns", "nb"), ("edit", "ns", "nb", "n"))
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
    with pytest.raises(
        ValueError, match=r"no coordinate evaluations_cut, multiply_adds_removed; .*run the same `traj f"
    ):
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
