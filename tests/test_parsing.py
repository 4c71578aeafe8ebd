"""What a person types: numbers in ASCII digits, in one way, within bounds; names and places that are none."""

import time

import click
import pytest
from click.testing import CliRunner
from PIL import Image

from tests.test_models import save
from traj import stores
from traj.pipeline.cli import main
from traj.pipeline.computing import engines
from traj.pipeline.making import generate
from traj.pipeline.parsing import Number, Whole, most_workers, number, whole

GAUSSIAN = "gaussian:0,0.25"
MIXTURE = ("generate", "a.zarr", "--dry-run", "--sampler", "ddim", "--steps", 2, "--model", "mixture:-1,1")


def refused(*arguments):
    begun = time.perf_counter()
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exit_code == 2, result.output
    assert time.perf_counter() - begun < 20
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


@pytest.mark.parametrize("text", ["", "٣", "²", "1_0", " 1", "1 ", "+1", "-1", "1.0", "0x1", "1" * 21, "١٠"])
def test_a_whole_number_is_ascii_digits(text):
    with pytest.raises(ValueError, match="expected a whole number in digits"):
        whole(text)


def test_leading_zeros_change_nothing():
    assert (whole("00"), whole("007"), whole("10")) == (0, 7, 10)


@pytest.mark.parametrize("text", ["", "٣", "1_0", "1 0", " 1", "a", "٣.٥"])
def test_a_number_is_ascii(text):
    with pytest.raises(ValueError, match=r"expected a number|could not convert"):
        number(text)


def test_numbers_are_read_as_python_writes_them():
    assert [number(text) for text in ("1", "-0.5", "1e-3", ".5")] == [1, -0.5, 0.001, 0.5]
    assert Whole().convert("-3", None, None) == -3
    assert Number().convert("-0.5", None, None) == -0.5
    with pytest.raises(click.BadParameter, match="expected a whole number from 1 to 9"):
        Whole(1, 9).convert("10", None, None)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--samples", "٣"), "'٣' was given, expected a whole number"),
        (("--samples", "1" + "0" * 30), "expected at most 4294967296"),
        (("--samples", 0), "samples 0 was given, expected at least 1"),
        (("--eta", "٣"), "'٣' was given, expected a number"),
        (("--labels", "٣"), "labels '٣' was given, expected cycle, none or a class from 0 to 1"),
        (("--labels", "1_0"), "expected cycle, none or a class from 0 to 1"),
        (("--seed", "1" + "0" * 30), "expected a whole number from 0 to 18446744073709551615"),
        (("--blocks", "٠:٣"), "expected FIRST:END"),
        (("--model", "gaussian:0,1,٣x٣x٣"), "'٣' was given, expected a whole number"),
        (("--model", "gaussian:0,1,1000000x1000000x1000000"), "67,108,864 values at most"),
        (("--model", ""), "an empty model name was given; expected one of digits"),
        (("--model", " "), "an empty model name was given"),
        (("--device", ""), "device '' is unknown"),
    ],
)
def test_what_cannot_be_generated_is_refused_at_once(options, says):
    assert says in refused(*MIXTURE, *options)


@pytest.mark.parametrize("out", [".", "/", "..", "a/.."])
def test_a_store_or_a_model_needs_a_name(out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "is no name for what is to be made; expected a path such as data/NAME.zarr" in refused(
        "generate", out, "--sampler", "ddim", "--steps", 2, "--model", GAUSSIAN
    )
    assert "is no name for what is to be made" in refused("train", "digits", "-o", out, "--steps", 1)
    assert not any(tmp_path.iterdir())


EMPTY = "an empty path was given; expected one"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("generate", "", "--model", GAUSSIAN), EMPTY),
        (
            ("generate", "a.zarr", "--model", "dataset:digits", "--start", "", "--start-step", 9),
            "source '': no such file",
        ),
        (("noise", "", "a.zarr", "--model", "dataset:digits"), "source '': no such file"),
        (("dataset", "", "a.zarr"), "source '': no such file"),
        (("record", "", "a.zarr"), "an empty pipeline name was given; expected a folder"),
        (("fork", "", "a.zarr", "--at", 9), EMPTY),
        (("readout", "posterior", "", "a.zarr", "--dataset", "b.zarr"), EMPTY),
        (("analyze", "psnr", ""), EMPTY),
        (("analyze", "psnr", "a.zarr", "-o", ""), EMPTY),
        (("report", "-o", ""), EMPTY),
        (("report", "--beside", ""), EMPTY),
        (("convert", "openai", "", "a"), EMPTY),
        (("train", "digits", "-o", ""), EMPTY),
        (("verify", ""), EMPTY),
    ],
)
def test_an_empty_name_is_never_the_folder_one_is_in(arguments, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("L", (8, 8)).save("picture.png")
    assert says in refused(*arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]


def test_more_samples_than_there_is_memory_for_are_not_drawn_to_learn_from(tmp_path):
    asked = refused("train", "molrg", "-o", tmp_path / "a", "--samples", 10**17)
    assert "samples is 100,000,000,000,000,000, which take" in asked
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("device", ["cuda:99", "banana", "mps", ""])
def test_training_on_a_device_that_is_not_there_is_refused_before_a_folder_is_made(device, tmp_path):
    assert "device" in refused("train", "digits", "-o", tmp_path / "a" / "digits", "--steps", 1, "--device", device)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("scheduler", ["1" + "0" * 20, "100000", "0", "٣", "", "-1"])
def test_a_number_of_processes_that_no_machine_runs_is_refused(scheduler):
    with pytest.raises(ValueError, match=f"a number of local processes from 1 to {most_workers()}"):
        engines.start(scheduler, 1)


def test_a_million_million_threads_are_refused():
    says = f"expected a whole number from 1 to {most_workers()}"
    assert says in refused("analyze", "psnr", "a.zarr", "--workers", "1" + "0" * 12)


def test_one_class_has_one_fingerprint(tmp_path):
    def config(labels):
        return generate.prepare(model="mixture:-1,1", sampler_name="ddim", steps=2, labels=labels).config

    assert config("00") == config("0") != config("1")


def test_a_copied_and_renamed_model_goes_on_with_a_run(tmp_path):
    def generated(folder, samples):
        made = generate.prepare(model=str(folder), sampler_name="ddim", steps=2, samples=samples, block=2)
        with made.open(tmp_path / "a.zarr") as store:
            made.run(store, bar=False)

    mine = save(tmp_path / "mine")
    generated(mine, 2)
    generated(mine.rename(tmp_path / "copied"), 4)
    ds = stores.open(tmp_path / "a.zarr")
    assert ds.sizes["sample"] == 4
    assert "mine" not in ds.attrs["config"]


def test_a_batch_that_fails_leaves_no_store_behind(tmp_path, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(generate, "call_seconds", fail)
    arguments = ["generate", str(tmp_path / "a.zarr"), "--model", GAUSSIAN, "--sampler", "ddim", "--steps", "2"]
    result = CliRunner().invoke(main, arguments)
    assert "there is not enough memory" in result.output
    assert not any(tmp_path.iterdir())
