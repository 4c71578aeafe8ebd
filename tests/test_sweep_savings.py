"""What the edits of a sweep save: evaluations by hand, and multiply-adds as they are counted while networks run."""

from dataclasses import replace

import pytest
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.test_fork import GAUSSIAN, prepare, save_network
from tests.test_generate import make
from tests.test_sweep import EDITS, swept, table
from traj.pipeline.making import generate
from traj.pipeline.models import surgery
from traj.pipeline.process.cut import Cut


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A random network of four output blocks."""
    return save_network(tmp_path_factory.mktemp("models") / "random")


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    """Four samples in twenty steps."""
    return make(tmp_path_factory.mktemp("runs") / "p.zarr", 4, model=model, sampler_name="ddim", eta=1.0)


WHOLE, TWO = Cut(), Cut(unet_blocks=2)
SAVED = [
    # edit, t_start, evaluations of 20 that are saved, and that are cut
    ({"edit": "jump", "n": 5}, 700, 4, 0),
    ({"edit": "jump", "n": 40}, 700, 14, 0),
    ({"edit": "jump", "n": 0}, 700, 0, 0),
    ({"edit": "blocks", "nb": 6, "n": 3}, 700, 0, 3),
    ({"edit": "blocks", "nb": 6, "n": 5}, 100, 0, 3),
    ({"edit": "blocks", "nb": 6, "n": 0}, 100, 0, 0),
    ({"edit": "blocks", "nb": 6, "n": 2, "r": 4}, 700, 0, 4),
    ({"edit": "blocks", "nb": 6, "n": 2, "r": 3}, 250, 0, 3),
    ({"edit": "blocks", "nb": 6, "n": 2, "r": 3}, 200, 0, 2),
]


def test_what_a_variant_saves_is_counted_along_its_plan(run, model, tmp_path):
    ds = swept(run, tmp_path, *({**edit, "t_start": t_start} for edit, t_start, *_ in SAVED), model=model, samples=4)
    network = prepare(run, at=[700], model=model).denoiser.network
    count = surgery.count(network)
    share = 1 - count.under(TWO) / count.whole
    assert 0.2 < share < 0.9
    for variant, (edit, t_start, saved, cut) in enumerate(SAVED):
        found = ds.isel(variant=variant)
        assert (found.evaluations_saved, found.evaluations_cut) == (saved, cut), (edit, t_start)
        removed = found.multiply_adds_removed.item()
        assert removed == (pytest.approx(cut / 20 * share, rel=1e-12) if cut else saved / 20), (edit, t_start)


def test_skips_are_cut_but_nothing_is_removed_with_them(run, model, tmp_path):
    families = [{"edit": edit, key: 1, "n": 4, "t_start": 700} for edit, key in (("skips", "ns"), ("blocks", "nb"))]
    forking = prepare(run, table=table(tmp_path, *families), replicas=None, model=model)
    # one block of 16 is none of this network's four
    assert (forking.edits["unet_blocks"], forking.edits["evaluations_cut"]) == ([0, 0], [4, 0])
    assert forking.edits["multiply_adds_removed"] == [0, 0]


def counted_while_it_runs(generation, out):
    # the counter knows attention in its plain form only
    with generation.open(out) as writer, sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        generation.run(writer, bar=False)
    return counter.get_total_flops()


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """A generation without edits, and its operations."""
    options = {"sampler_name": "ddim", "steps": 20, "eta": 1.0, "samples": 1, "block": 1}
    made = generate.prepare(model=model, device="cpu", **options)
    return made, counted_while_it_runs(made, tmp_path_factory.mktemp("whole") / "a.zarr")


@pytest.mark.slow
@pytest.mark.parametrize(("family", "edit"), EDITS)
def test_the_multiply_adds_removed_are_those_the_networks_calls_lack(family, edit, run, model, whole, tmp_path):
    made, operations = whole
    edited = replace(made, plan=edit(made.plan))
    expected = 1 - counted_while_it_runs(edited, tmp_path / "edited.zarr") / operations
    forking = prepare(run, table=table(tmp_path, {**family, "t_start": 700}), replicas=None, model=model)
    assert forking.edits["multiply_adds_removed"] == [pytest.approx(expected, rel=1e-9)]


def test_a_network_is_counted_once_for_all_cuts_and_a_model_without_one_never(run, model, tmp_path, monkeypatch):
    counted, original = [], surgery.count

    def counting(network, sides):
        counted.append(sides)
        return original(network, sides)

    monkeypatch.setattr(surgery, "count", counting)
    families = [
        {"edit": "blocks", "nb": [6, 12], "n": [2, 5], "t_start": {"every": 5}},
        {"edit": "blocks", "nb": 6, "n": 2, "r": [1, 2], "t_start": 700},
    ]
    prepare(run, table=table(tmp_path, *families), replicas=None, model=model)
    assert counted == [(8, 8)]
    counted.clear()
    exact = make(tmp_path / "p.zarr", 4, model=GAUSSIAN, sampler_name="ddim")
    jumps = table(tmp_path, {"edit": "jump", "n": [2, 5], "t_start": [700, 50]})
    edits = prepare(exact, table=jumps, replicas=None).edits
    assert (edits["evaluations_saved"], edits["multiply_adds_removed"]) == ([1, 4, 1, 1], [0.05, 0.2, 0.05, 0.05])
    assert counted == []


def test_of_a_run_with_cuts_of_its_own_only_what_is_left_can_be_removed(model, tmp_path):
    options = {"model": model, "sampler_name": "ddim", "steps": 100, "plan_name": "shortcut"}
    run = make(tmp_path / "short.zarr", 4, **options)
    edits = prepare(
        run, table=table(tmp_path, {"edit": "jump", "n": [0, 3], "t_start": 650}), model=model, replicas=None
    ).edits
    assert edits["evaluations_saved"] == [0, 2]
    assert edits["evaluations_cut"] == [21, 19]  # 640 is the first with a cut, and the first that is jumped over
    assert edits["multiply_adds_removed"][0] == 0
    assert 0 < edits["multiply_adds_removed"][1] < 2 / 83


def test_what_is_saved_is_described_in_the_store(run, model, tmp_path):
    ds = swept(run, tmp_path, {"edit": "blocks", "nb": 6, "n": 3, "t_start": 700}, model=model, samples=4)
    for name, dtype in (("evaluations_saved", int), ("evaluations_cut", int), ("multiply_adds_removed", float)):
        assert ds[name].dtype == dtype
        assert ds[name].attrs["units"] == "1"
        assert " " in ds[name].attrs["long_name"]
