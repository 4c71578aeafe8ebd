import os
import shutil

import click
import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

from tests import runs
from traj import stores
from traj.pipeline.cli import main
from traj.pipeline.making import generate
from traj.pipeline.quantity_options import parameter_texts, read_value


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def traj(*arguments, code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.output


def test_generate_says_the_cost_first_and_what_to_type_next():
    text = traj("generate", "a.zarr", "--model", "gaussian:0,1,1x8x8", "--samples", 8, "--block", 4)
    assert text.index("network evaluations") < text.index("is complete")
    assert "free; memory" in text
    assert text.rstrip().endswith("next: traj analyze entropy a.zarr")
    again = traj("generate", "a.zarr", "--model", "gaussian:0,1,1x8x8", "--samples", 8, "--block", 4)
    assert "nothing to do" in again
    assert "is complete" in again


@pytest.mark.parametrize("stale", ["refuse", "set-aside"])
def test_a_network_is_not_tried_where_nothing_is_to_do(stale, monkeypatch):
    run = ("generate", "a.zarr", "--model", "gaussian:0,1", "--block", 4, "--stale", stale)
    traj(*run, "--samples", 8)
    with monkeypatch.context() as patch:
        patch.setattr(generate, "call_seconds", lambda *_: pytest.fail("tried"))
        assert "nothing to do" in traj(*run, "--samples", 8)
        assert "nothing to do" in traj(*run, "--samples", 4)
    assert "1 of 3 blocks to do" in traj(*run, "--samples", 12)


def test_a_dry_run_touches_nothing(tmp_path):
    text = traj("generate", "a.zarr", "--model", "gaussian:0,1", "--samples", 40, "--block", 8, "--dry-run")
    assert "5,000 network evaluations" in text
    assert list(tmp_path.iterdir()) == []


def test_a_run_can_be_shared_by_blocks():
    model = ("--model", "gaussian:0,1", "--samples", 8, "--block", 4)
    assert "the blocks asked for are done, 1 of all 2" in traj("generate", "a.zarr", *model, "--blocks", "0:1")
    assert "incomplete: 1 of 2 blocks" in traj("analyze", "psnr", "a.zarr", code=1)
    traj("generate", "a.zarr", *model)
    traj("analyze", "psnr", "a.zarr")


def test_a_changed_seed_is_refused_or_set_aside(tmp_path):
    model = ("--model", "gaussian:0,1", "--samples", 4, "--block", 4)
    traj("generate", "a.zarr", *model)
    text = traj("generate", "a.zarr", *model, "--seed", 1, code=1)
    assert "seed: 0 in the store, 1 asked for" in text
    assert "--stale set-aside" in text
    assert "kept as a.stale-" in traj("generate", "a.zarr", *model, "--seed", 1, "--stale", "set-aside")
    assert len(list(tmp_path.glob("a.stale-*.zarr"))) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["generate", "a.zarr", "--model", "nothing"], 2, "unknown"),
        (["generate", "a.zarr", "--model", "digits"], 2, "traj train digits"),
        (
            ["generate", "a.zarr", "--model", "gaussian:0,1", "--sampler", "euler"],
            2,
            "'euler' is not one of 'ddpm', 'ddim', 'iddpm', 'heun'",
        ),
        (["generate", "a.zarr", "--model", "gaussian:0,1", "--steps", "0"], 2, "1 to 1000"),
        (["generate", "a.zarr", "--model", "gaussian:0,1", "--steps", "2000"], 2, "1 to 1000"),
        (["generate", "a.zarr", "--model", "gaussian:0,1", "--blocks", "3"], 2, "FIRST:END"),
        (["generate", "a.zarr", "--model", "gaussian:0,1", "--blocks", "7:9"], 2, "have 0 to 1"),
        (["generate", "a.zarr", "--model", "gaussian:0,1", "--round-bits", "40"], 2, "1 to 22"),
        (["generate", "/proc/a.zarr", "--model", "gaussian:0,1"], 1, "No such file or directory: /proc"),
        (["analyze", "nothing"], 2, "expected one of consistency, entropy"),
        (["analyze", "entropy"], 2, "there is none under data/trajectories"),
        (["analyze", "entropy", "nowhere.zarr"], 2, "does not exist"),
        (["analyze", "entropy", "."], 2, "is not a store"),
        (["analyze", "entropy,ssim", "--set", "entropy.bin=3"], 2, "QUANTITY.OPTION=VALUE"),
        (["verify", "nowhere.zarr"], 2, "does not exist"),
        (["generate", "a.zarr", "--model", "gaussian:0,1", "--seed", str(2**64)], 2, "18446744073709551615"),
        (["info", "nothing"], 2, "unknown"),
        (["info", "nowhere.zarr"], 2, "does not exist"),
        (["train", "imagenet"], 2, "digits"),
        (["report"], 2, "traj analyze"),
    ],
)
def test_bad_input_gets_one_message_and_the_right_code(arguments, code, message):
    assert message in " ".join(traj(*arguments, code=code).split())


def test_asking_for_fewer_samples_does_not_pass_for_completing_the_run():
    model = ("--model", "gaussian:0,1", "--block", 4)
    traj("generate", "a.zarr", *model, "--samples", 8)
    traj("generate", "a.zarr", *model, "--samples", 16, "--blocks", "2:3")
    text = traj("generate", "a.zarr", *model, "--samples", 8, code=1)
    assert "3 of all 4; the store was begun with 16 samples, ask for these with --samples" in " ".join(text.split())
    assert "is complete" in traj("generate", "a.zarr", *model, "--samples", 16)


def test_a_dry_run_refuses_blocks_that_do_not_exist_as_the_run_does():
    model = ("--model", "gaussian:0,1", "--samples", 8, "--block", 4)
    assert "1,000 network" in traj("generate", "a.zarr", *model, "--dry-run", "--blocks", "1:2")
    for dry_run in ([], ["--dry-run"]):
        assert "0 to 1" in traj("generate", "a.zarr", *model, *dry_run, "--blocks", "0:1000", code=2)


def test_clipped_float16_values_are_told():
    model = ("--model", "mixture:-1e6,1e6", "--samples", 4, "--block", 4, "--sampler", "ddim", "--steps", 5)
    assert "values were clipped" in traj("generate", "a.zarr", *model, "--dtype", "float16")
    assert "saturated" in traj("info", "a.zarr")


def test_a_store_changed_during_its_analysis_is_noticed(monkeypatch):
    from traj.pipeline.computing import analyze

    runs.make("a.zarr", 8)
    original = analyze.stores.open

    def changed_meanwhile(path):
        ds = original(path)
        runs.make("a.zarr", 16)
        return ds

    monkeypatch.setattr(analyze.stores, "open", changed_meanwhile)
    assert "was changed while it was analysed" in traj("analyze", "psnr", "a.zarr", code=1)
    assert not list(runs.Path(".").glob("results/**/*.zarr"))


def test_out_of_memory_is_said_in_words(monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("traj.pipeline.models.analytic.GaussianDenoiser.__call__", fail)
    assert "smaller --block" in traj("generate", "a.zarr", "--model", "gaussian:0,1", code=1)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_write_permission(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "Permission denied" in traj("generate", "locked/a.zarr", "--model", "gaussian:0,1", code=1)


def test_results_go_where_they_are_looked_for():
    runs.make("data/trajectories/a.zarr")
    runs.make("data/trajectories/b.zarr", seed=1)
    text = traj("analyze", "ssim,psnr")
    assert [f"wrote results/{run}/{name}.zarr" in text for run in "ab" for name in ("ssim", "psnr")] == [True] * 4
    traj("analyze", "psnr", "data/trajectories/a.zarr", "-o", "mine.zarr")
    xr.testing.assert_identical(stores.open("mine.zarr"), stores.open("results/a/psnr.zarr"))
    assert stores.verify("results/a/ssim.zarr") == []


def test_a_list_gives_what_each_quantity_gives_alone():
    runs.make("a.zarr")
    traj("analyze", "entropy,ssim", "a.zarr", "-o", "together", "--set", "entropy.bins=16")
    traj("analyze", "entropy", "a.zarr", "-o", "alone", "--bins", 16)
    traj("analyze", "ssim", "a.zarr", "-o", "alone", "--workers", 1)
    for name in ("entropy", "ssim"):
        assert runs.digest(f"together/{name}.zarr") == runs.digest(f"alone/{name}.zarr")


def test_a_result_with_other_options_is_refused_and_the_same_one_kept():
    runs.make("a.zarr")
    traj("analyze", "entropy", "a.zarr", "--bins", 16)
    before = runs.digest("results/a/entropy.zarr")
    assert "nothing to do" in traj("analyze", "entropy", "a.zarr", "--bins", 16)
    assert "choose another place" in traj("analyze", "entropy", "a.zarr", "--bins", 32, code=1)
    assert runs.digest("results/a/entropy.zarr") == before


def test_an_extended_run_is_another_store_to_a_result():
    runs.make("a.zarr", 8)
    traj("analyze", "psnr", "a.zarr")
    runs.make("a.zarr", 16)
    assert "from another store" in traj("analyze", "psnr", "a.zarr", code=1)


def test_two_results_in_one_zarr_are_refused():
    runs.make("a.zarr")
    runs.make("b.zarr")
    assert "give -o a folder" in traj("analyze", "psnr", "a.zarr", "b.zarr", "-o", "one.zarr", code=2)


def test_damage_found_while_computing_points_to_verify():
    file = runs.make("a.zarr") / "x_t" / "c.1.0.0.0.0"
    content = bytearray(file.read_bytes())
    content[50] ^= 1
    file.write_bytes(content)
    assert "run `traj verify a.zarr`" in traj("analyze", "entropy,psnr", "a.zarr", code=1)
    assert "x_t/c.1.0.0.0.0 (block 1): the checksum of chunk 0" in traj("verify", "a.zarr", code=1)
    assert not list(runs.Path(".").glob("results/**/*.zarr"))


def test_a_missing_chunk_is_named_by_every_quantity():
    path = runs.make("a.zarr")
    (path / "x_0" / "c.3.0.0.0").unlink()
    for name in ("entropy", "ssim", "psnr"):
        assert "block 3 is flagged as done but x_0/c.3.0.0.0 is missing" in traj("analyze", name, "a.zarr", code=1)


def test_comparing_the_ends_of_two_runs():
    runs.make("a.zarr")
    shutil.copytree("a.zarr", "b.zarr")
    traj("analyze", "ssim", "a.zarr", "--against", "b.zarr", "-o", "same.zarr")
    np.testing.assert_allclose(stores.open("same.zarr").ssim, 1)


def test_info_tells_what_is_there():
    runs.make("a.zarr")
    text = traj("info", "a.zarr")
    assert "4 of 4 done" in text
    assert "(sample: 16, timestep: 6, channel: 1, y: 8, x: 8)" in text
    assert "4 classes" in traj("info", "mixture:-8,-4,6,8")


@pytest.mark.parametrize(("shape", "quantity"), [("3x4x4", "entropy"), ("2x4x4", "psnr"), ("5", "psnr")])
def test_generate_names_a_quantity_that_its_events_have(shape, quantity):
    run = ("--model", f"gaussian:0,1,{shape}", "--sampler", "ddim", "--steps", 2, "--samples", 2, "--block", 2)
    text = traj("generate", "a.zarr", *run)
    assert text.rstrip().endswith(f"next: traj analyze {quantity} a.zarr")
    traj("analyze", quantity, "a.zarr")


def test_train_offers_the_networks_there_are():
    from traj.pipeline.models.digits import CLASSIFIERS, RECIPES, VAES
    from traj.pipeline.verbs.training import TRAINED

    assert list(TRAINED) == [*RECIPES, *CLASSIFIERS, *VAES]


def test_every_verb_shows_an_example_and_says_what_its_options_are():
    for verb in main.commands:
        text = traj(verb, "--help")
        assert f"traj {verb}" in text.partition("\n")[2]
        assert all(option.help for option in main.commands[verb].params if isinstance(option, click.Option))


def test_what_a_verb_does_is_said_whole_in_the_list_of_verbs():
    assert "..." not in traj("--help").partition("Commands:")[2]


def test_help_of_a_quantity_is_its_docstring_with_its_options():
    text = traj("analyze", "entropy", "--help")
    assert "000 eq" in text
    assert "--bins" in text
    assert "[default: 256]" in text
    assert "Grey codes counted" in text
    assert "entropy" in traj("analyze", "--help")


@pytest.mark.parametrize(
    ("hint", "text", "value"),
    [
        (int, "3", 3),
        (float, "1e-4", 1e-4),
        (tuple[int, ...], "900, 0", (900, 0)),
        (str | None, "x", "x"),
        (bool, "true", True),
    ],
)
def test_options_are_read_by_their_hints(hint, text, value):
    assert read_value(hint, text) == value


def test_option_texts_come_from_the_parameters_section():
    doc = "First.\n\nParameters\n----------\nbins\n    How many,\n    in all.\non\n    What.\n\nRaises\n------\nE\n"
    assert parameter_texts(doc) == {"bins": "How many, in all.", "on": "What."}
