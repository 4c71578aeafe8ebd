"""Sweeps: tables of edits, what they share with their run, what they cost, and how they are refused."""

from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.runs import digest
from tests.test_fork import GAUSSIAN, forked, prepare, save_network, traj
from tests.test_generate import make
from traj import stores
from traj.pipeline.making import generate
from traj.pipeline.process.cut import Cut
from traj.pipeline.process.noise import NoiseSource, Purpose


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A random network of four output blocks."""
    return save_network(tmp_path_factory.mktemp("models") / "random")


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    """Ten samples in blocks of four, in twenty stochastic DDIM steps."""
    return make(
        tmp_path_factory.mktemp("runs") / "p.zarr", model=model, labels="cycle", sampler_name="ddim", eta=1.0, clip=True
    )


def table(folder, *families):
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(list(families)))
    return str(path)


def swept(run, folder, *families, **options):
    out = folder / f"{len(list(folder.iterdir()))}.zarr"
    return forked(run, out, table=table(folder, *families), replicas=None, **options)


# --- what is the same -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_n_0_is_the_run_itself_to_the_bit(run, model, tmp_path):
    parent = stores.open(run).compute()
    edits = [{"edit": "jump", "n": [0, 1]}, {"edit": "skips", "ns": 2, "n": 0}, {"edit": "blocks", "nb": 6, "n": 0}]
    families = [{**edit, "t_start": [950, 500, 0]} for edit in edits]
    ds = swept(run, tmp_path, *families, model=model, batch=4, samples=4, states=True)
    assert ds.sizes["variant"] == 12
    for variant in range(12):
        branch = ds.isel(variant=variant, replica=0)
        visited = slice(int(branch["at"]), None)
        np.testing.assert_array_equal(branch.x_0, parent.x_0[:4])
        np.testing.assert_array_equal(branch.x_t.sel(timestep=visited), parent.x_t[:4].sel(timestep=visited))


EDITS = [
    ({"edit": "jump", "n": 5}, lambda plan: plan.jump(700, 5)),
    ({"edit": "jump", "n": 40}, lambda plan: plan.jump(700, 40)),
    ({"edit": "skips", "ns": 2, "n": 3}, lambda plan: plan.with_cut(Cut(skips=2), 700, 3)),
    ({"edit": "blocks", "nb": 6, "n": 3}, lambda plan: plan.with_cut(Cut(unet_blocks=2), 700, 3)),
    ({"edit": "blocks", "nb": 12, "n": 2, "r": 4}, lambda plan: plan.cut_relax_cut(Cut(unet_blocks=3), 700, 2, 4)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "edit"), EDITS)
def test_a_variant_is_the_edited_plan_run_from_noise(family, edit, run, model, tmp_path):
    whole = generate.prepare(
        model=model,
        sampler_name="ddim",
        steps=20,
        eta=1.0,
        clip=True,
        samples=4,
        block=4,
        labels="cycle",
        device="cpu",
    )
    edited = replace(whole, plan=edit(whole.plan))
    with edited.open(tmp_path / "whole.zarr") as writer:
        edited.run(writer, bar=False)
    expected = stores.open(tmp_path / "whole.zarr").compute()
    ds = swept(run, tmp_path, {**family, "t_start": 700}, model=model, batch=4, samples=4, states=True)
    np.testing.assert_array_equal(ds.x_0[0, 0], expected.x_0)
    assert ds.timestep.values.tolist() == [t for t in edited.plan.timesteps if t <= 700]
    np.testing.assert_array_equal(ds.x_t[0, 0], expected.x_t.sel(timestep=slice(700, None)))
    assert not np.array_equal(ds.x_0[0, 0], stores.open(run).x_0[:4])


def test_after_a_jump_each_step_adds_the_noise_of_its_timestep(tmp_path):
    run = make(tmp_path / "p.zarr", 6, model=GAUSSIAN, sampler_name="ddim", eta=1.0, seed=3)
    x_t = swept(run, tmp_path, {"edit": "jump", "n": [0, 6], "t_start": 700}, states=True).x_t[:, 0]
    sd = stores.open(run).noise_sd
    left = [700, *range(400, -1, -50)]
    assert x_t[1].timestep[np.isfinite(x_t[1]).all(("sample", "channel", "y", "x"))].values.tolist() == left
    source = NoiseSource(3, (1, 4, 4))
    for at, landed in pairwise(left[1:]):
        # in closed form a step is a gain and the noise: two variants share both, so the gain follows without noise
        noise = float(sd.sel(timestep=at)) * source(Purpose.STEP, range(6), at, 0)
        before, after = x_t.sel(timestep=at), x_t.sel(timestep=landed) - noise
        gain = after[1] / before[1]
        np.testing.assert_allclose(gain, float(gain.median()), rtol=1e-3)
        np.testing.assert_allclose(after[0] / before[0], float(gain.median()), rtol=1e-3)


# --- what it says of itself -----------------------------------------------------------------------------------


def test_coordinates_say_what_was_edited(run, model, tmp_path):
    families = [
        {"edit": "jump", "n": [2, 5], "t_start": [700, 300]},
        {"edit": "blocks", "nb": [2, 6], "n": 3, "t_start": {"every": 10}},
        {"edit": "skips", "ns": 2, "n": 3, "r": [0, 4], "t_start": 700},
    ]
    ds = swept(run, tmp_path, *families, model=model)
    rows = [
        *((t, "jump", n, 0, 0, 0, -1) for t, n in product([700, 300], [2, 5])),
        *((t, "blocks", 3, 0, nb, blocks, -1) for t, (nb, blocks) in product([950, 450], [(2, 1), (6, 2)])),
        *((700, "skips", 3, 2, 0, 0, r) for r in (0, 4)),
    ]
    names = ("at", "edit", "n", "ns", "nb", "unet_blocks", "r")
    assert list(zip(*(ds[name].values.tolist() for name in names), strict=True)) == rows
    assert set(ds.noise.values.tolist()) == {"shared"}
    assert set(ds.eta.values.tolist()) == {"1"}
    assert ds.sizes["replica"] == 1
    assert (ds.x_0.std("variant").max(("channel", "y", "x")) > 1e-3).all()


def test_jumps_that_end_noisier_than_they_say_and_rounded_states_are_told(tmp_path):
    jumps = {"edit": "jump", "n": 2, "t_start": {"every": 4}}
    options = {"model": GAUSSIAN, "sampler_name": "ddim", "eta": 1.0}
    run = make(tmp_path / "p.zarr", 4, **options)
    assert prepare(run, at=[500]).cautions() == []
    (told,) = prepare(run, table=table(tmp_path, jumps), replicas=None).cautions()
    assert "1 variants jump, from timesteps 150, to a state that has less noise than their sigma" in told
    for stored, how in (({"dtype": "float16"}, "as float16"), ({"round_bits": 10}, "rounded to 10 bits")):
        rounded = make(tmp_path / f"{how}.zarr", 4, **options, **stored)
        (told,) = prepare(rounded, at=[500]).cautions()
        assert f"{rounded} keeps its states {how}" in told
        assert "none equals the run bit for bit" in told
    assert told in traj("fork", rounded, tmp_path / "f.zarr", "--at", 500, "--dry-run")


def test_t_start_counts_the_stored_timesteps(model, tmp_path):
    run = make(tmp_path / "p.zarr", 4, model=GAUSSIAN, sampler_name="ddim", every=3)
    ds = swept(run, tmp_path, {"edit": "jump", "n": 2, "t_start": {"every": 2}})
    assert ds["at"].values.tolist() == [950, 650, 350, 50]


def test_a_place_in_a_file_says_the_same_as_a_file(run, model, tmp_path):
    family = {"edit": "jump", "n": 2, "t_start": 700}
    alone = prepare(run, table=table(tmp_path, family), replicas=None, model=model)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"sweeps": {"jumps": [family]}}))
    placed = prepare(run, table=f"{tmp_path}/params.yaml:sweeps.jumps", replicas=None, model=model)
    assert (placed.variants, placed.edits, placed.config) == (alone.variants, alone.edits, alone.config)


def test_other_edits_are_other_forks(run, model, tmp_path):
    for count, n in enumerate((2, 3)):
        forking = prepare(run, table=table(tmp_path, {"edit": "jump", "n": n, "t_start": 700}), replicas=1, model=model)
        if count:
            with pytest.raises(stores.StaleStore, match="variant"):
                forking.open(tmp_path / "f.zarr")
        else:
            forking.open(tmp_path / "f.zarr").close()


# --- what it costs --------------------------------------------------------------------------------------------


def counted(forking, monkeypatch):
    """Count the images of each network call."""
    calls = []
    original = type(forking.denoiser).__call__

    def call(self, x_t, timestep, label, cut):
        calls.append((timestep, cut, len(x_t)))
        return original(self, x_t, timestep, label, cut)

    monkeypatch.setattr(type(forking.denoiser), "__call__", call)
    return calls


@pytest.mark.slow
@pytest.mark.parametrize("edit", [{"edit": "jump", "n": 5}, {"edit": "blocks", "nb": 6, "n": 5}])
def test_a_sweep_over_all_starts_costs_about_half_of_rerunning(edit, run, model, tmp_path, monkeypatch):
    path = table(tmp_path, {**edit, "t_start": {"every": 1}})
    forking = prepare(run, table=path, replicas=None, model=model, samples=4)
    calls = counted(forking, monkeypatch)
    with forking.open(tmp_path / "f.zarr") as writer:
        forking.run(writer, bar=False)
    plan, edits = forking.parent.plan, {"jump": lambda t: plan.jump(t, 5), "blocks": lambda _: plan}
    rerunning = 4 * sum(len(edits[edit["edit"]](timestep).steps) for timestep in plan.timesteps)
    made = sum(images for *_, images in calls)
    assert made <= 0.55 * rerunning
    assert f"{made:,} images go through the network, {made / rerunning:.3f} of the {rerunning:,}" in forking.saving()


def test_variants_of_a_block_go_through_the_network_together(run, model, tmp_path, monkeypatch):
    families = [
        {"edit": "jump", "n": [0, 2], "t_start": [700, 600]},
        {"edit": "skips", "ns": 1, "n": 2, "t_start": 700},
    ]
    forking = prepare(run, table=table(tmp_path, *families), replicas=None, model=model, samples=4)
    expected = forking.cost(tmp_path / "f.zarr").evaluations
    calls = counted(forking, monkeypatch)
    with forking.open(tmp_path / "f.zarr") as writer:
        forking.run(writer, bar=False)
    whole, cut = Cut(), Cut(skips=1)
    assert calls == [
        *((700, whole, 8), (700, cut, 4)),
        *((650, whole, 4), (650, cut, 4)),  # one of those from 700 has jumped over 650
        (600, whole, 20),
        (550, whole, 16),
        *((timestep, whole, 20) for timestep in range(500, -1, -50)),
    ]
    assert len(calls) == expected


@pytest.mark.slow
def test_a_sweep_does_not_depend_on_how_it_is_batched(run, model, tmp_path):
    families = [
        {"edit": "jump", "n": [2, 5], "t_start": {"every": 9}},
        {"edit": "blocks", "nb": [6, 12], "n": 3, "t_start": {"every": 8}},
    ]
    together = swept(run, tmp_path, *families, model=model, samples=4)
    apart = swept(run, tmp_path, *families, model=model, samples=4, batch=4)
    error = abs(together.x_0 - apart.x_0).max(("channel", "y", "x"))
    assert float(error.median()) < 1e-5
    assert int((error > 1e-3).sum()) <= 0.02 * error.size


@pytest.mark.slow
def test_a_sweep_grown_has_the_same_bytes(run, model, tmp_path):
    path = table(tmp_path, {"edit": "skips", "ns": 1, "n": 2, "t_start": {"every": 9}})
    options = {"table": path, "replicas": None, "model": model, "states": True}
    forked(run, tmp_path / "a.zarr", **options)
    forked(run, tmp_path / "b.zarr", **options, blocks=[2])
    forked(run, tmp_path / "b.zarr", **options, blocks=[0, 1])
    assert digest(tmp_path / "a.zarr") == digest(tmp_path / "b.zarr")
    assert stores.verify(tmp_path / "a.zarr") == []


# --- the command ----------------------------------------------------------------------------------------------


def test_the_command_says_what_is_saved_and_what_to_type_next(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make("p.zarr", 8, model=GAUSSIAN, sampler_name="ddim", eta=1.0)
    table(tmp_path, {"edit": "jump", "n": 5, "t_start": {"every": 1}})
    command = ("fork", "p.zarr", "f.zarr", "--sweep", "sweep.yaml", "--device", "cpu")
    said = "20 variants: 1,120 images go through the network, 0.424 of the 2,640 of re-running every variant from noise"
    text = traj(*command, "--dry-run")
    assert said in text
    assert "f.zarr: 40 network evaluations" in text
    assert not Path("f.zarr").exists()
    assert "is complete; next: traj analyze intervention --baseline p.zarr f.zarr" in traj(*command)
    assert "nothing to do" in traj(*command)
    table(tmp_path, {"edit": "jump", "n": 4, "t_start": {"every": 1}})
    assert "store.variant.n: " in traj(*command, code=1)


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ({"edit": "fly"}, "family 1: edit 'fly' was given; expected one of jump, skips, blocks, shortcut"),
        ({"edit": "jump", "n": 5, "ns": 2}, "unknown ns; edit jump takes t_start, n"),
        ({"edit": "jump", "n": 5, "from": 2}, "unknown from; edit jump takes"),
        ({"edit": "blocks", "n": 5}, "no nb; edit blocks takes t_start, n, nb, r if wanted"),
        ({"edit": "jump", "n": "five"}, "n 'five' was given; expected a whole number"),
        ({"edit": "jump", "n": -1}, "n -1 was given"),
        ({"edit": "jump", "n": True}, "n True was given"),
        ({"edit": "jump", "n": []}, "n [] was given"),
        ({"edit": "jump", "n": [5, 5]}, "expected each number once"),
        ({"edit": "jump", "n": 5, "t_start": {"every": 0}}, "{every: k} with k from 1 on"),
        ({"edit": "jump", "n": 5, "t_start": {"each": 4}}, "{every: k} with k from 1 on"),
        ({"edit": "jump", "n": 5, "t_start": 510}, "timestep 510 is not stored in p.zarr; the nearest are 500 and 550"),
        ({"edit": "jump", "n": 5, "t_start": 2000}, "timestep 2000 is not stored in p.zarr; the nearest are 950 and"),
        ({"edit": "skips", "ns": 2, "n": 5}, "a cut needs a U-Net, and this model is a GaussianDenoiser"),
        ({"edit": "blocks", "nb": 2, "n": 5}, "a cut needs a U-Net, and this model is a GaussianDenoiser"),
        ("jump", "family 1 is 'jump'; expected a mapping like {edit: jump"),
    ],
)
def test_a_family_that_cannot_be_gets_one_message(family, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make("p.zarr", 4, model=GAUSSIAN, sampler_name="ddim")
    if isinstance(family, dict):
        family = {"t_start": 500, **family}
    table(tmp_path, family)
    assert message in traj("fork", "p.zarr", "f.zarr", "--sweep", "sweep.yaml", code=2)
    assert not Path("f.zarr").exists()


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ({"edit": "blocks", "nb": 17, "n": 5}, "nb 17; expected 0 to 16"),
        ({"edit": "skips", "ns": 5, "n": 5}, "a cut of 5 skip connections, but the network has 4"),
    ],
)
def test_a_cut_larger_than_the_network_is_refused(family, message, run, model, tmp_path):
    path = table(tmp_path, {**family, "t_start": 500})
    assert message in traj("fork", run, tmp_path / "f.zarr", "--sweep", path, "--model", model, code=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "either timesteps to start from (--at) or a table of edits (--sweep)"),
        (["--at", "500", "--sweep", "sweep.yaml"], "either timesteps to start from"),
        (["--sweep", "nowhere.yaml"], "sweep nowhere.yaml: no such file"),
        (["--sweep", "nowhere.yaml:sweeps"], "sweep nowhere.yaml:sweeps: no such file"),
        (["--sweep", "params.yaml:sweeps.cuts"], "params.yaml has no sweeps.cuts: there is no 'cuts' in jumps"),
        (["--sweep", "params.yaml:sweeps.jumps.n"], "there is no 'n' in [{'edit'"),
        (["--sweep", "params.yaml:sweeps"], "expected a list of families"),
        (["--sweep", "broken.yaml"], "broken.yaml is not YAML"),
        (["--sweep", "bomb.yaml"], "bomb.yaml is not YAML: it holds more than 1,000,000 values"),
        (["--sweep", "merged.yaml"], "merged.yaml is not YAML: it holds more than 1,000,000 values"),
        (["--sweep", "deep.yaml"], "deep.yaml is nested too deeply"),
        (["--sweep", "tagged.yaml"], "tagged.yaml is not YAML"),
        (["--sweep", "listed.yaml"], "edit ['jump'] was given; expected one of jump, skips"),
        (["--sweep", "large.yaml"], "000 was given; expected a whole number from 0 to 1000000"),
        (["--sweep", "many.yaml"], "many.yaml asks for 1,000,000 variants; expected at most 100,000"),
        (["--sweep", "empty.yaml"], "holds None; expected a list of families"),
        (["--sweep", "sweep.yaml", "--replicas", "2"], "leave out --replicas, --noise and --eta"),
        (["--sweep", "sweep.yaml", "--noise", "zero"], "leave out --replicas, --noise and --eta"),
        (["--sweep", "sweep.yaml"], "needs rule ddim; the step at timestep 500 has rule posterior: make a run"),
    ],
)
def test_a_sweep_that_cannot_be_gets_one_message(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make("p.zarr", 4, model=GAUSSIAN)
    family = {"edit": "jump", "n": 5, "t_start": 500}
    table(tmp_path, family)
    Path("params.yaml").write_text(yaml.safe_dump({"sweeps": {"jumps": [family]}}))
    Path("broken.yaml").write_text("[1,")
    levels = [(f"a{k}", ", ".join([f"*a{k - 1}"] * 9)) for k in range(1, 12)]
    Path("bomb.yaml").write_text("".join(["- &a0 [1]\n", *(f"- &{name} [{again}]\n" for name, again in levels)]))
    merged = (f"- &{name} {{<<: [{again}]}}\n" for name, again in levels)
    Path("merged.yaml").write_text("".join(["- &a0 {b: 1}\n", *merged]))
    Path("deep.yaml").write_text("[" * 5000)
    Path("tagged.yaml").write_text("!!bool x")
    Path("listed.yaml").write_text("[{edit: [jump], n: 5, t_start: 500}]")
    Path("large.yaml").write_text(f"[{{edit: jump, n: 1{'0' * 1000}, t_start: 500}}]")
    numbers = list(range(1000))
    Path("many.yaml").write_text(yaml.safe_dump([{"edit": "jump", "n": numbers, "t_start": numbers}]))
    Path("empty.yaml").write_text("")
    assert message in traj("fork", "p.zarr", "f.zarr", *arguments, code=2)
