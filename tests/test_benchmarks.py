"""Benchmarks run at toy size, so that they cannot rot; no time is asserted."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import __main__, kernels, memory, timing
from benchmarks.made_up import Trajectories

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", __main__.TOPICS)
def test_every_topic_gives_rows_with_ratios(name, server, monkeypatch):
    monkeypatch.setattr(memory, "TRAJ", (str(server.parent / "traj"),))
    rows = __main__.TOPICS[name].rows(tiny=True)
    assert rows
    for row in rows:
        assert row.ours in ("no GPU here", "not trained here") or (
            row.ratios and all(0 < ratio < np.inf for ratio in row.ratios)
        )
    assert timing.table(rows, judge=True).count("\n") == len(rows) + 1


def test_the_loops_compared_with_compute_the_same_numbers():
    made = Trajectories(8, (3, 32, 32), 4)
    states = np.stack([made.state(step)[0] for step in range(4)], axis=1).clip(-1, 1)
    ds = kernels.dataset(states, made)
    ours = {
        name: kernels.quantity(ds, name, variable, **options)(None)[0]
        for name, variable, options in (
            ("ssim", "ssim", {"preset": "skimage"}),
            ("entropy", "stepwise_entropy_per_sample", {}),
        )
    }
    pooled = [kernels.quantity(ds, "entropy", name)(None)[0] for name in ("stepwise_entropy", "stepwise_entropy_se")]
    unit, unit_x_0 = (states + 1) / 2, (made.x_0 + 1) / 2
    np.testing.assert_allclose(ours["ssim"], kernels.by_scikit_image(unit, unit_x_0), atol=1e-5)
    # grey levels are rounded in another order, so a few pixels fall into the next bin
    np.testing.assert_allclose(ours["entropy"], kernels.by_numpy(states, made.x_0), atol=0.05)
    np.testing.assert_allclose(np.stack(pooled, axis=1), kernels.by_numpy_pooled(states, made.x_0), atol=0.02)


def test_a_verdict_goes_by_the_median_and_toy_sizes_get_none():
    row = timing.Row("what", "1 s", "that", "1 s", [1.4, 1.0, 1.2], timing.Target("at most", 1.3))
    assert row.cells(judge=True)[-3:] == ["1.200 (1.000-1.400)", "at most 1.3", "met"]
    assert row.cells(judge=False)[-1] == ""
    faster = timing.Row("what", "1 s", "that", "1 s", [20.0], timing.Target("at least", 25))
    assert faster.cells(judge=True)[-1] == "MISSED"


def test_arms_take_turns_and_get_empty_folders():
    order = []

    def arm(name):
        def run(folder):
            assert list(folder.iterdir()) == []
            (folder / "left behind").touch()
            order.append(name)

        return run

    seconds = timing.interleave({"a": arm("a"), "b": arm("b")}, rounds=3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert [len(times) for times in seconds.values()] == [3, 3]


def test_written_numbers_replace_the_old_ones_and_leave_the_prose(tmp_path, monkeypatch, capsys):
    row = timing.Row("what", "1 s", "that", "1 s", [1.0])
    monkeypatch.setattr(__main__, "TOPICS", {"one": SimpleNamespace(TITLE="One thing", rows=lambda tiny: [row])})
    results = tmp_path / "RESULTS.md"
    results.write_text(f"prose\n\n{__main__.NUMBERS}\n\nold numbers\n")
    __main__.main(["--write", str(results)])
    text = results.read_text()
    assert text.startswith(f"prose\n\n{__main__.NUMBERS}\n")
    assert "## One thing" in text
    assert "old numbers" not in text
    with pytest.raises(SystemExit):
        __main__.main(["--tiny", "--write", str(results)])
    assert results.read_text() == text
