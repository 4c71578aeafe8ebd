"""`traj record`: whole pipelines from a folder, called so many times."""

import json
import shutil

import pytest
from click.testing import CliRunner
from diffusers import DDIMPipeline, DDIMScheduler

import traj as package
from tests import families
from tests.networks import random_unet
from tests.test_cli import traj
from traj import stores
from traj.pipeline.cli import main
from traj.pipeline.making.call import Call
from traj.pipeline.making.record_calls import record_calls

CALL = "{num_inference_steps: 3, batch_size: 2, eta: 0.5}"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("record") / "model"
    DDIMPipeline(random_unet().eval(), DDIMScheduler()).save_pretrained(folder)
    return folder


def record(model, out, *options, **run):
    return traj("record", model, out, "--call", CALL, "--device", "cpu", *options, **run)


def changed(model, tmp_path, change):
    """A copy of the pipeline whose index is another."""
    folder = shutil.copytree(model, tmp_path / "changed")
    index = json.loads((folder / "model_index.json").read_text())
    change(index)
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def test_a_record_goes_on_where_it_ended_with_the_same_bytes(model, tmp_path):
    record(model, tmp_path / "whole.zarr", "--calls", 3)
    said = record(model, tmp_path / "parts.zarr", "--calls", 1)
    assert "1 of 1 calls to do; 3 network evaluations" in said
    assert "next: traj analyze geometry" in said
    assert "2 of 3 calls to do; 6 network evaluations" in record(model, tmp_path / "parts.zarr", "--calls", 3)
    assert "nothing to do" in record(model, tmp_path / "parts.zarr", "--calls", 3)
    whole, parts = (package.open(tmp_path / f"{name}.zarr") for name in ("whole", "parts"))
    assert whole.identical(parts)
    assert whole.sizes["sample"] == 6
    assert not stores.verify(tmp_path / "parts.zarr")


def test_an_error_of_the_pipeline_shows_its_own_traceback_and_whose_it_is(model, tmp_path):
    call = "{num_inference_steps: 3, batch_size: 2, eta: much}"
    result = CliRunner().invoke(main, ["record", str(model), f"{tmp_path}/a.zarr", "--call", call, "--device", "cpu"])
    assert result.exit_code == 1
    lines = result.output
    assert "DDIMPipeline, the pipeline that is recorded, which fails in its own code" in lines
    assert "pipelines/ddim/pipeline_ddim.py" in lines
    assert "TypeError" in lines
    assert "bug of traj" not in lines
    assert "record_calls.py" not in lines
    assert not (tmp_path / "a.zarr").exists()


def test_an_error_of_what_watches_the_pipeline_is_a_bug_of_traj(model, tmp_path, monkeypatch):
    monkeypatch.setattr(Call, "_keep", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        record_calls(
            str(model),
            tmp_path / "a.zarr",
            arguments={"num_inference_steps": 3},
            calls=1,
            seed=0,
            every=1,
            device="cpu",
            stale="refuse",
            dry_run=False,
        )


def test_an_argument_that_a_pipeline_needs_is_named(tmp_path):
    said = traj("record", families.folder("dit"), tmp_path / "a.zarr", "--device", "cpu", code=2)
    assert "a call of DiTPipeline needs class_labels; expected a value for each, as in --call" in said


def test_dry_run_writes_nothing(model, tmp_path):
    said = record(model, tmp_path / "a.zarr", "--calls", 2, "--dry-run")
    assert "6 network evaluations, about" in said
    assert not (tmp_path / "a.zarr").exists()


def test_another_call_or_seed_is_refused(model, tmp_path):
    record(model, tmp_path / "a.zarr")
    said = record(model, tmp_path / "a.zarr", "--seed", 1, "--calls", 2, code=2)
    assert "seed: 1, expected 0" in said


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("[1, 2]", "expected names and values"),
        ("{prompt: ", "is no YAML"),
        ("!!python/object/apply:os.system [ls]", "is no YAML"),
        ("{generator: 1}", "takes no generator here"),
        ("{promt: a cat}", "takes no promt here; expected any of batch_size, eta"),
    ],
)
def test_calls_that_mean_nothing_are_refused(model, tmp_path, call, said):
    assert said in traj("record", model, tmp_path / "a.zarr", "--call", call, "--device", "cpu", code=2)
    assert not (tmp_path / "a.zarr").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda index: index.pop("_class_name"), "names no class of one. If it is a model that traj converted"),
        (lambda index: index.update(_class_name="MyPipeline"), "is a MyPipeline, which is no pipeline of diffusers"),
        (lambda index: index.update(_class_name=["mine", "MyPipeline"]), "(custom_pipeline) is never run"),
        (lambda index: index.update(unet=["mine", "Network"]), "its unet is of mine, and code from model folders is"),
    ],
)
def test_code_of_a_folder_is_never_run(model, tmp_path, change, said):
    folder = changed(model, tmp_path, change)
    (folder / "mine.py").write_text("raise SystemExit('ran')")
    assert said in record(folder, tmp_path / "a.zarr", code=2)


def test_what_is_no_pipeline_is_said_to_be_none(tmp_path):
    assert "is no pipeline of diffusers" in record(tmp_path, tmp_path / "a.zarr", code=2)
