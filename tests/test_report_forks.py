"""The report's sections on labels and forks, on stores whose numbers are known."""

import json
import re
import shutil

import numpy as np
import pytest

from tests.report_data import (
    AT,
    ENDINGS,
    IMAGES,
    T,
    analyse,
    collected,
    fixtures,
    identity,
    make_forks,
    make_run,
    rows,
    section,
    svgs,
    unbalanced,
    write,
)
from traj import stores
from traj.analysis.consistency import ALIKE
from traj.pipeline.report.sections import replicas

pytestmark = pytest.mark.slow

SETTLED = np.array([39, 30, 25, 25, 20, 20, 15, 10, 5, 0, -1, -1])
"""From which timestep on a sample's pred_x0 has the label of its x_0; -1 never."""


def logits(labels):
    """What a classifier that is not quite sure says."""
    return 2.0 * (np.asarray(labels)[..., None] == np.arange(4)).astype("f4")


def make_readout(path, of, variables, coords, arrays):
    """A classifier's logits of the store `of`, all samples in one block."""
    samples = len(stores.open(of)["sample"])
    with stores.create_readout(
        path,
        of=stores.open(of).attrs["kind"],
        variables={name: (dims, "logits", "1") for name, dims in variables.items()},
        coords={**coords, "class": ("class", np.arange(4), "1", "class")},
        samples=samples,
        block=samples,
        config={"parent": {"fingerprint": identity(of)}},
    ) as store:
        store.write(0, arrays)
    return path


def read_run(path, of, settled=SETTLED):
    """Labels 1 until a sample is settled, then 0, on pred_x0; 2 to the end on x_t."""
    ds = stores.open(of)
    along = {name: ("timestep", ds[name].values, "1", name) for name in ("timestep", "model_time", "log_snr", "step")}
    predicted = np.where(ds.timestep.values <= settled[:, None], 0, 1)
    states = np.full_like(predicted, 2)
    return make_readout(
        path,
        of,
        {"logits": ("on", "sample", "timestep", "class"), "x_0_logits": ("sample", "class")},
        {"on": ("on", ["x_t", "pred_x0"], "1", "read"), **along},
        {"logits": logits([states, predicted]), "x_0_logits": logits(np.zeros(len(settled), int))},
    )


def read_forks(path, of):
    ds = stores.open(of)
    along = {name: ("timestep", ds[name].values, "1", name) for name in ("timestep", "log_snr")}
    return make_readout(
        path,
        of,
        {"x_0_logits": ("variant", "replica", "sample", "class")},
        {
            "variant": ("variant", ds.variant.values, "1", "fork"),
            "at": ("variant", ds["at"].values, "1", "start"),
            "replica": ("replica", ds.replica.values, "1", "replica"),
            **along,
        },
        {"x_0_logits": np.repeat(logits(ENDINGS)[:, :, None], ds.sizes["sample"], axis=2)},
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two runs; one has labels, and two fork stores, one of them without results."""
    root = tmp_path_factory.mktemp("report")
    run, results = make_run(root / "trajectories/ddpm.zarr"), root / "results"
    make_run(root / "trajectories/ddim.zarr", seed=1)
    read_run(root / "readouts/ddpm.zarr", run)
    analyse(root / "readouts/ddpm.zarr", results, ("label_variance",))
    made = make_forks(root / "forks/ddpm_forks.zarr", run)
    read_forks(root / "readouts/ddpm_forks.zarr", made)
    analyse(made, results, ("consistency",))
    analyse(root / "readouts/ddpm_forks.zarr", results, ("label_variance",))
    make_forks(root / "forks/other.zarr", run, samples=3)
    return root


written, html, found, copy = fixtures()


def test_forks_are_no_runs_and_have_the_colour_of_theirs(html, found):
    assert list(found) == [
        ("trajectories", "ddim"),
        ("trajectories", "ddpm"),
        ("fork", "ddpm_forks"),
        ("fork", "other"),
    ]
    table, of_forks = section(html, "runs").split("<h3>Forks</h3>")
    assert re.findall(r"</span>(\w+)</span></td>", table) == ["ddim", "ddpm"]
    assert re.findall(r"</span>(\w+)</span></td>", of_forks) == ["ddpm_forks", "ddpm", "other", "ddpm"]
    colours = {run: colour for colour, run in re.findall(r'style="background:(#\w+)"></span>(\w+)<', html)}
    assert colours["ddpm_forks"] == colours["other"] == colours["ddpm"] != colours["ddim"]


def test_page_with_forks_is_well_formed(html):
    assert unbalanced(html) == []
    assert [
        len(svgs(section(html, name)))
        for name in ("label_variance", "replicas", "consistency_fork", "label_variance_fork")
    ] == [3, 2, 1, 1]


def test_missing_results_of_forks_say_what_makes_them(found, place):
    assert found["fork", "ddpm_forks"].remarks == []
    first, second = found["fork", "other"].remarks
    store, readout = place / "forks/other.zarr", place / "readouts/other.zarr"
    assert first == f"no consistency: run `traj analyze consistency {store}`"
    assert f"run `traj readout classifier {store} {readout} --model NAME`" in second
    assert f"`traj analyze label_variance {readout}`" in second
    assert not any("label_variance" in remark for remark in found["trajectories", "ddim"].remarks)


def test_one_replica_has_nothing_to_compare(copy):
    make_forks(copy / "forks/single.zarr", copy / "trajectories/ddpm.zarr", count=1)
    assert collected(copy)["fork", "single"].remarks == []


def test_numbers_of_labels_equal_what_was_put_in(written, found):
    numbers = json.loads((written / "metrics.json").read_text())
    ours = numbers["runs"]["ddpm"]
    ds = found["trajectories", "ddpm"].store
    assert ours["commit_timestep"] == np.median(SETTLED)
    places = np.where(SETTLED < 0, np.inf, ds.log_snr.sel(timestep=SETTLED.clip(0)))
    assert ours["commit_log_snr"] == round(float(np.median(places)), 2)
    before = np.interp(0, ds.log_snr, (SETTLED[:, None] < ds.timestep.values).mean(axis=0))
    assert ours["flips_at_log_snr_0"] == round(float(before), 3)
    assert "commit_timestep" not in numbers["runs"]["ddim"]


def test_numbers_of_forks_equal_what_was_put_in(written, found):
    numbers = json.loads((written / "metrics.json").read_text())["forks"]
    assert numbers["ddpm_forks"] == json.loads((written / "metrics/ddpm_forks.json").read_text())
    assert numbers["other"] == {}
    # agreement is 0, then 3 of 6 pairs, then 1: half is not above half
    assert numbers["ddpm_forks"]["agreement_05_timestep"] == 10
    store = found["fork", "ddpm_forks"].store
    assert numbers["ddpm_forks"]["agreement_05_log_snr"] == round(float(store.log_snr.sel(timestep=10)), 2)
    assert numbers["ddpm_forks"]["replica_ssim_08_timestep"] == 10
    # of two samples hardly anything is known: that all pairs agree is no proof that half of them do
    assert numbers["ddpm_forks"]["agreement_05_high"] is None


def test_labels_that_never_settle_are_never(copy):
    shutil.rmtree(copy / "readouts/ddpm.zarr")
    shutil.rmtree(copy / "results/ddpm/label_variance.zarr")
    read_run(copy / "readouts/ddpm.zarr", copy / "trajectories/ddpm.zarr", np.full(12, -1))
    analyse(copy / "readouts/ddpm.zarr", copy / "results", ("label_variance",))
    page = write(copy, copy / "report", only=["label_variance"])
    ours = json.loads((copy / "report/metrics/ddpm.json").read_text())
    assert ours["commit_timestep"] is None
    assert ours["commit_log_snr"] is None
    assert len(svgs(section(page.read_text(encoding="utf-8"), "label_variance"))) == 3


def test_curves_of_forks_are_tidy_and_add_up(written):
    parts = {on: [] for on in ("total", "within", "between replicas")}
    for row in rows(written / "plots/fork_label_variance.csv"):
        parts[row["on"]].append(float(row["value"]))
    p = np.exp(logits(ENDINGS)) / np.exp(logits(ENDINGS)).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(parts["total"], 1 - (p.mean(axis=1) ** 2).sum(axis=-1), atol=1e-5)
    np.testing.assert_allclose(parts["within"], 1 - (p**2).sum(axis=-1).mean(axis=1), atol=1e-5)
    np.testing.assert_allclose(parts["between replicas"], p.var(axis=1).sum(axis=-1), atol=1e-5)
    agreement = rows(written / "plots/fork_label_agreement.csv")
    assert [(int(row["timestep"]), float(row["value"])) for row in agreement] == [(30, 0), (20, 0.5), (10, 1)]
    alike = rows(written / "plots/fork_consistency.csv")
    assert {row["on"] for row in alike} == {words for words, name in ALIKE.items() if name != "psnr"}
    assert [float(row["value"]) for row in alike if row["timestep"] == "10"] == [1] * 5
    flips = [row for row in rows(written / "plots/flip_fraction.csv") if row["on"] == "pred_x0"]
    expected = (SETTLED[:, None] < np.arange(T)[::-1]).mean(axis=0)
    np.testing.assert_allclose([float(row["value"]) for row in flips], expected, atol=1e-5)


def test_a_montage_has_the_start_the_endings_and_the_end_of_the_run(found):
    fork = found["fork", "ddpm_forks"]
    axis = replicas.montage(fork).axes[0]
    titles = [label.get_text() for label in axis.get_xticklabels()]
    assert titles == ["start $x_t$", "replica 1", "replica 2", "replica 3", "replica 4", "the run’s $x_0$"]
    assert [label.get_text()[:6] for label in axis.get_yticklabels()] == ["t = 30", "t = 20", "t = 10"] * 2
    canvas = axis.images[0].get_array()

    def cell(row, column):
        y, x = axis.get_yticks()[row], axis.get_xticks()[column]
        return canvas[int(y) - 32 : int(y) + 32 : 8, int(x) - 32 : int(x) + 32 : 8, 0]

    run = fork.parent.store
    for row, (at, endings) in enumerate(zip(AT, ENDINGS, strict=True), start=3):  # those of sample 1
        start = run.x_t.sel(timestep=at, sample=1)[0].clip(-1, 1)
        shown = [start, *IMAGES[4 + endings, 0], run.x_0.sel(sample=1)[0]]
        for column, image in enumerate(shown):
            np.testing.assert_allclose(cell(row, column), (image + 1) / 2, atol=1e-6)


def test_forks_without_their_run_are_shown_without_it(copy):
    shutil.rmtree(copy / "trajectories/ddpm.zarr")
    orphan = collected(copy)["fork", "ddpm_forks"]
    assert orphan.parent is None
    labels = replicas.montage(orphan).axes[0].get_xticklabels()
    assert [label.get_text() for label in labels] == ["replica 1", "replica 2", "replica 3", "replica 4"]
    page = write(copy, copy / "report", only=["consistency_fork"]).read_text(encoding="utf-8")
    assert len(svgs(section(page, "consistency_fork"))) == 1


def test_a_second_readout_of_a_run_is_drawn_with_it_and_is_no_run(copy):
    read_run(copy / "readouts/ddpm_b.zarr", copy / "trajectories/ddpm.zarr", np.full(12, 10))
    analyse(copy / "readouts/ddpm_b.zarr", copy / "results", ("label_variance",))
    second = collected(copy)["trajectories", "ddpm_b"]
    assert second.is_readout
    assert second.remarks == []
    page = write(copy, copy / "report", only=["runs", "numbers"]).read_text(encoding="utf-8")
    assert "ddpm_b" not in section(page, "runs")
    assert "ddpm_b" in section(page, "numbers")
    assert {row["run"] for row in rows(copy / "report/plots/label_variance.csv")} == {"ddpm", "ddpm_b"}


def test_results_of_other_logits_or_forks_are_told_apart(copy):
    shutil.rmtree(copy / "forks/ddpm_forks.zarr")
    make_forks(copy / "forks/ddpm_forks.zarr", copy / "trajectories/ddpm.zarr", config={"seed": 1})
    remarks = collected(copy)["fork", "ddpm_forks"].remarks
    assert any("was computed from other forks than" in remark for remark in remarks)
    assert any("was read from other images than" in remark for remark in remarks)
    shutil.rmtree(copy / "readouts/ddpm.zarr")
    read_run(copy / "readouts/ddpm.zarr", copy / "trajectories/ddim.zarr")
    remarks = collected(copy)["trajectories", "ddpm"].remarks
    assert any("was computed from other logits than" in remark for remark in remarks)


def test_a_run_and_its_forks_may_have_one_name(copy):
    (copy / "forks/ddpm_forks.zarr").rename(copy / "forks/ddpm.zarr")
    (copy / "results/ddpm_forks/consistency.zarr").rename(copy / "results/ddpm/consistency.zarr")
    found = collected(copy)
    assert "label_variance" in found["trajectories", "ddpm"].results
    assert "consistency" in found["fork", "ddpm"].results
    write(copy, copy / "report", only=[])
    numbers = json.loads((copy / "report/metrics/ddpm.json").read_text())
    assert {"commit_timestep", "replica_ssim_08_timestep"} <= set(numbers)


def test_forks_that_start_twice_at_a_timestep_draw_themselves(copy):
    made = make_forks(copy / "forks/twice.zarr", copy / "trajectories/ddpm.zarr", at=[20, 20, 10])
    analyse(made, copy / "results", ("consistency",))
    fork = collected(copy)["fork", "twice"]
    assert "consistency" in fork.others
    assert "consistency" not in fork.results


def test_same_inputs_give_the_same_bytes(place, html, tmp_path):
    again = write(place, tmp_path / "again", only=["label_variance", "replicas", "consistency_fork"]).read_text(
        encoding="utf-8"
    )
    for name in ("label_variance", "replicas", "consistency_fork"):
        assert section(again, name) == section(html, name)
