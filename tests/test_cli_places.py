"""What verbs write, and where: refused before work begins, whole or not at all, and said in words."""

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from tests import runs
from traj import stores
from traj.pipeline.cli import main

MODEL = ("--model", "gaussian:0,1,1x8x8", "--samples", 4, "--block", 4, "--sampler", "ddim", "--steps", 4)
URL = "s3://bucket/x.zarr"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def traj(*arguments, code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


def full(*arguments, **options):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", URL, *MODEL],
        ["generate", "a.zarr", "--model", URL],
        ["noise", URL, "n.zarr", *MODEL],
        ["noise", "a.zarr", URL, *MODEL],
        ["fork", URL, "f.zarr", "--at", 1],
        ["fork", "a.zarr", URL, "--at", 1],
        ["fork", "a.zarr", "f.zarr", "--sweep", "s3://b/x.yaml", "--times", "times.csv"],
        ["fork", "a.zarr", "f.zarr", "--sweep", "x.yaml", "--times", "s3://b/times.csv"],
        ["readout", "classifier", URL, "r.zarr", "--model", "digits-classifier"],
        ["readout", "classifier", "a.zarr", URL, "--model", "digits-classifier"],
        ["readout", "classifier", "a.zarr", "r.zarr", "--model", "https://huggingface.co/a/b"],
        ["analyze", "psnr", URL],
        ["analyze", "psnr", "a.zarr", "-o", URL],
        ["analyze", "ssim", "a.zarr", "--against", URL],
        ["report", "-o", URL],
        ["report", "--beside", URL],
        ["info", URL],
        ["info", "s3://bucket/model"],
        ["verify", URL],
        ["train", "digits", "-o", URL],
    ],
)
def test_every_verb_refuses_urls_by_name_and_makes_nothing(arguments):
    runs.make("a.zarr", 4)
    before = sorted(os.listdir())
    assert "is a URL" in traj(*arguments, code=2)
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "a.zarr/x.zarr", *MODEL],
        ["generate", "a.zarr/x.zarr", *MODEL, "--dry-run"],
        ["fork", "run.zarr", "a.zarr/deep/x.zarr", "--at", 250],
        ["fork", "run.zarr", "f.zarr", "--sweep", "x.yaml", "--times", "a.zarr/times.csv"],
        ["analyze", "psnr", "a.zarr", "-o", "a.zarr/results"],
        ["analyze", "psnr", "a.zarr", "-o", "a.zarr/psnr.zarr"],
        ["report", "-o", "a.zarr"],
        ["report", "-o", "a.zarr/report"],
        ["train", "digits", "-o", "a.zarr/model", "--steps", 1],
    ],
)
def test_no_verb_writes_inside_a_store(arguments):
    runs.make("a.zarr", 4)
    runs.make("data/trajectories/b.zarr", 4)
    traj("generate", "run.zarr", *MODEL)
    before = runs.digest(".")
    assert "would lie inside the store" in traj(*arguments, code=2)
    assert runs.digest(".") == before


BELOW_A_FILE = [
    ["generate", "file.txt/a.zarr", *MODEL],
    ["dataset", "digits", "file.txt/deep/d.zarr"],
    ["fork", "run.zarr", "file.txt/f.zarr", "--at", 250],
    ["readout", "likelihood", "run.zarr", "file.txt/r.zarr", "--model", "mixture:-8,-4,6,8"],
    ["analyze", "psnr", "run.zarr", "-o", "file.txt/results"],
    ["report", "-o", "file.txt"],
    ["report", "-o", "file.txt/report"],
    ["train", "digits", "-o", "file.txt/model", "--steps", 1],
    ["convert", "openai", "model.pt", "file.txt/model"],
]


def test_a_file_where_a_folder_must_be_is_named_with_what_was_asked_for():
    Path("file.txt").write_text("notes")
    traj("generate", "run.zarr", "--model", "mixture:-8,-4,6,8", *MODEL[2:])
    before = runs.digest(".")
    for arguments in BELOW_A_FILE:
        said = traj(*arguments, code=2)
        assert "file.txt is a file, and " in said, arguments
        assert "choose another path, or move the file away" in said
        assert next(word for word in map(str, arguments) if word.startswith("file.txt")) in said
        assert runs.digest(".") == before


def test_a_result_in_the_place_of_a_run_is_refused_without_advice_to_delete_it():
    runs.make("a.zarr", 4)
    text = traj("analyze", "psnr", "a.zarr", "-o", "a.zarr", code=2)
    assert "holds a store of kind trajectories, not a result; choose another place" in text
    assert "delete" not in text


@pytest.mark.parametrize(
    "arguments",
    [
        ["analyze", "psnr", "a.zarr", "-o", "file/x.zarr"],
        ["analyze", "psnr", "a.zarr", "-o", "/proc/x"],
        ["report", "-o", "file/report"],
        ["fork", "a.zarr", "f.zarr", "--sweep", "x.yaml", "--times", "file/times.csv"],
    ],
)
def test_a_place_that_cannot_be_written_is_found_before_work_begins(arguments, monkeypatch):
    runs.make("a.zarr", 4)
    Path("file").write_text("")
    for work in ("computing.analyze.run", "report.collect", "making.fork.prepare"):
        monkeypatch.setattr(f"traj.pipeline.{work}", lambda *given, **options: pytest.fail("work began"))
    assert arguments[-1] in traj(*arguments, code=1 if "/proc/x" in arguments else 2)


def test_a_full_disk_is_said_with_the_place_and_the_way_out(monkeypatch):
    runs.make("a.zarr", 4)
    monkeypatch.setattr("traj.stores.layout.os.fsync", full)
    text = traj("analyze", "psnr", "a.zarr", "-o", "psnr.zarr", code=1)
    assert "No space left on device: psnr.zarr; free some space there" in text
    assert "run the same command again" in text
    assert not list(Path().glob("*.partial"))


def test_a_report_that_fails_leaves_the_page_before(monkeypatch, without_figures):
    runs.make("data/trajectories/a.zarr", 4)
    traj("analyze", "psnr")
    traj("report")
    page = Path("report/index.html").read_bytes()
    runs.make("data/trajectories/b.zarr", 4)
    with monkeypatch.context() as broken:
        broken.setattr("traj.stores.partials.os.fsync", full)
        assert "No space left on device: report/" in traj("report", code=1)
    assert Path("report/index.html").read_bytes() == page
    assert not list(Path("report").rglob("*.partial"))


def test_a_store_set_aside_before_a_failure_is_named(monkeypatch):
    traj("generate", "a.zarr", *MODEL)
    original = Path.rename
    monkeypatch.setattr(
        "traj.stores.claim.Path.rename", lambda self, to: full() if self.suffix == ".partial" else original(self, to)
    )
    text = traj("generate", "a.zarr", *MODEL, "--seed", 1, "--stale", "set-aside", code=1)
    (aside,) = Path().glob("a.stale-*.zarr")
    assert f"a.zarr was made from other inputs; it is kept as {aside}" in text
    assert "No space left on device: a.zarr" in text


def test_a_complete_store_that_lost_a_shard_does_not_pass_for_complete():
    traj("generate", "a.zarr", *MODEL)
    assert "a.zarr is complete; `traj verify a.zarr` reads every byte" in traj("generate", "a.zarr", *MODEL)
    shard = next(Path("a.zarr/x_t").glob("c.*"))
    shard.unlink()
    text = traj("generate", "a.zarr", *MODEL, code=1)
    assert f"x_t/{shard.name} is missing" in text
    assert "is complete" not in text


def test_a_complete_store_in_a_read_only_folder_has_nothing_to_do(monkeypatch):
    traj("generate", "a.zarr", *MODEL)
    Path("a.zarr.lock").unlink()
    original = os.open

    def read_only(path, flags, *mode, **options):
        if str(path).endswith(".lock"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return original(path, flags, *mode, **options)

    monkeypatch.setattr(os, "open", read_only)
    text = traj("generate", "a.zarr", *MODEL)
    assert "nothing to do" in text
    assert "is complete" in text


def test_rounding_is_named_as_on_the_command_line():
    assert "--round-bits 40" in traj("generate", "a.zarr", *MODEL, "--round-bits", 40, code=2)
    assert "--dtype float16" in traj("generate", "a.zarr", *MODEL, "--round-bits", 5, "--dtype", "float16", code=2)


def test_too_many_samples_are_not_blamed_on_the_block(monkeypatch):
    def many(*arguments, **options):
        raise MemoryError("Unable to allocate 7.28 TiB for an array")

    monkeypatch.setattr("traj.pipeline.making.generate.Generation.open", many)
    text = traj("generate", "a.zarr", *MODEL, code=1)
    assert "(Unable to allocate 7.28 TiB for an array); ask for fewer --samples" in text


def test_blocks_that_are_not_there_are_named_in_a_few_words():
    text = traj("generate", "a.zarr", *MODEL, "--blocks", "0:999999999999", code=2)
    assert "block 1 was asked for; 4 samples in blocks of 4 have 0 to 0" in text


def test_a_lock_held_too_long_is_told_in_english(monkeypatch):
    from traj.stores import claim

    runs.make("a.zarr", 4)
    monkeypatch.setattr(claim, "LOCK_PATIENCE_S", 0)
    monkeypatch.setattr(claim.BlockLocks, "try_all", lambda self: False)
    with pytest.raises(stores.LockedStore, match="to set it aside, wait until"):
        runs.create("a.zarr", 4, seed=1, stale="set-aside")


def test_verify_names_the_verb_that_made_the_store():
    traj("generate", "a.zarr", *MODEL)
    traj("fork", "a.zarr", "f.zarr", "--at", 250, "--replicas", 1)
    variables = {"logits": (("sample", "class"), "logits", "1")}
    coords = {"class": ("class", np.arange(3), "1", "class")}
    with stores.create_readout(
        "r.zarr", of="trajectories", variables=variables, coords=coords, samples=4, block=4, config={}
    ) as store:
        store.write(0, {"logits": np.zeros((4, 3))})
    traj("analyze", "psnr", "a.zarr", "-o", "psnr.zarr")
    for store, way_out in (
        ("a", "run the same `traj generate`"),
        ("f", "run the same `traj fork`"),
        ("r", "run the same `traj readout`"),
        ("psnr", "delete this result and analyse again"),
    ):
        Path(f"{store}.zarr/left_over").touch()
        assert way_out in traj("verify", f"{store}.zarr", code=1)
    shutil.copy("psnr.zarr/psnr/zarr.json", "psnr.zarr/zarr.json")
    assert "Restore the files from a copy" in traj("verify", "psnr.zarr", code=1)


def test_another_store_changed_during_an_analysis_is_noticed(monkeypatch):
    from traj.pipeline.computing import analyze

    runs.make("a.zarr", 4)
    runs.make("b.zarr", 4, seed=1)
    original = analyze.stores.open

    def changed_meanwhile(path):
        shutil.rmtree("b.zarr", ignore_errors=True)
        runs.make("b.zarr", 4, seed=2)
        return original(path)

    monkeypatch.setattr(analyze.stores, "open", changed_meanwhile)
    text = traj("analyze", "ssim", "a.zarr", "--against", "b.zarr", "-o", "ssim.zarr", code=1)
    assert "b.zarr was changed while it was analysed" in text
    assert not Path("ssim.zarr").exists()


def test_a_result_that_another_process_wrote_meanwhile_is_said_to_be_there(monkeypatch):
    from traj.pipeline.computing import analyze

    runs.make("a.zarr", 4)
    original = analyze.Job.require_unchanged

    def saved_meanwhile(job):
        monkeypatch.setattr(analyze.Job, "require_unchanged", original)
        traj("analyze", "psnr", "a.zarr", "-o", "psnr.zarr")
        original(job)

    monkeypatch.setattr(analyze.Job, "require_unchanged", saved_meanwhile)
    text = traj("analyze", "psnr", "a.zarr", "-o", "psnr.zarr")
    assert "psnr.zarr is there already, another process wrote it" in text
