"""Errors of our own are said in one line; any other is a bug of ours, and shows where it is."""

import ast
import builtins
import pickle
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from traj import stores
from traj.pipeline.cli import main
from traj.pipeline.mishaps import BUG
from traj.pipeline.process.device import within_memory
from traj.pipeline.report.failures import sentence
from traj.stores import errors

ROOT = Path(__file__).parents[1]
PYTHONS_OWN = {
    "stores/writer.py": {"ValueError"},  # blocks and steps in another order than was agreed: a bug of who writes
    "stores/blocks.py": {"ValueError"},
    "pipeline/process/noise.py": {"ValueError"},
    "stores/partials.py": {"FileExistsError"},  # with the system's number and the file's name
    "stores/places.py": {"PermissionError", "OSError"},
    "pipeline/models/weights.py": {"OSError"},
    "analysis/_blocks/chunking.py": {"ImportError"},
    "analysis/__init__.py": {"AttributeError"},  # what Python expects of a module without that name
    "analysis/_offered.py": {"ImportError"},  # caught there, and said as an InputError
    "pipeline/computing/measured.py": {"ValueError"},  # caught there: a file of times that does not fit is left out
}
"""Files that raise errors of Python's own, and which."""

OURS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.TrajError)]


def generate(monkeypatch, error):
    """Run a verb inside which something goes wrong: what it says, and its exit status."""

    def fail(**options):
        raise error

    monkeypatch.setattr("traj.pipeline.making.generate.prepare", fail)
    result = CliRunner().invoke(main, ["generate", "a.zarr", "--model", "gaussian:0,1"])
    assert isinstance(result.exception, SystemExit)
    return result.output, result.exit_code


@pytest.mark.parametrize("kind", [ValueError, KeyError, ZeroDivisionError, RuntimeError, TypeError, OSError])
def test_a_bug_shows_its_traceback_and_asks_to_be_reported(monkeypatch, kind):
    text, status = generate(monkeypatch, kind("three is no prime"))
    assert status == 1
    assert "Traceback (most recent call last)" in text
    assert f"{kind.__name__}: " in text
    assert text.endswith(f"Error: {BUG}\n")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--sampler", "ddim", "--eta", "1e308"], "expected a number eta, 0 to 1,000,000,000"),
        (["--schedule", "edm:0.1,80,1e-300", "--steps", "4"], "edm:0.1,80,1e-300; expected a larger RHO"),
    ],
)
def test_numbers_that_overflow_are_refused_by_name(tmp_path, options, expected):
    result = CliRunner().invoke(main, ["generate", f"{tmp_path}/a.zarr", "--model", "gaussian:0,1", *options])
    assert result.exit_code == 2
    assert expected in result.output


@pytest.mark.parametrize("kind", OURS)
def test_an_error_of_ours_is_one_line(monkeypatch, kind):
    text, status = generate(monkeypatch, kind("3 was given; expected 4"))
    assert status == (2 if issubclass(kind, stores.InputError) else 1)
    assert "3 was given; expected 4" in text.splitlines()[-1]
    assert "Traceback" not in text


def test_an_error_of_the_system_is_one_line_with_the_file(monkeypatch):
    text, status = generate(monkeypatch, PermissionError(13, "Permission denied", "a.zarr/done"))
    assert status == 1
    assert text.startswith("Error: Permission denied: a.zarr/done; ")
    assert text.count("\n") == 1


@pytest.mark.parametrize("kind", OURS)
def test_errors_come_back_from_other_processes(kind):
    error = pickle.loads(pickle.dumps(kind("3 was given")))
    assert type(error) is kind
    assert str(error) == "3 was given"


def test_errors_are_caught_as_those_of_python():
    assert issubclass(stores.InputError, ValueError)
    assert issubclass(stores.MissingFile, FileNotFoundError)
    assert issubclass(stores.NotFinite, FloatingPointError)
    assert issubclass(stores.OutOfMemory, MemoryError)


def test_every_error_that_is_raised_is_ours():
    raised = {}
    for room in ("stores", "analysis", "pipeline"):
        for file in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Raise) and node.exc is not None:
                    kind = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
                    if isinstance(kind, ast.Name) and hasattr(builtins, kind.id):
                        raised.setdefault(str(file.relative_to(ROOT)), set()).add(kind.id)
    assert raised == PYTHONS_OWN


def test_torchs_lack_of_memory_is_told_by_its_class():
    with pytest.raises(stores.OutOfMemory, match="tried to allocate 4000000000000000 bytes"), within_memory():
        torch.empty(10**15)
    with pytest.raises(stores.OutOfMemory), within_memory():
        raise torch.OutOfMemoryError("CUDA out of memory.")
    with pytest.raises(stores.OutOfMemory), within_memory():
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    with pytest.raises(RuntimeError, match="shapes"), within_memory():
        raise RuntimeError("shapes")


def test_a_page_names_the_kind_of_an_error_that_is_a_bug_only():
    assert sentence(stores.InputError("3 was given")) == "3 was given"
    assert sentence(ValueError("three")) == "ValueError: three"
