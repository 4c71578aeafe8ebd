"""The numbers of runs with equal inputs may change only together with generate.NUMERICS: every sample's, and which."""

import json

import numpy as np
import pytest

from tests.goldens import FILE, RUNS, numbers
from traj.pipeline.making import generate
from traj.pipeline.process.noise import NoiseSource, Purpose

GOLDENS = json.loads(FILE.read_text())
EXACT = pytest.mark.parametrize("golden", GOLDENS["exact"], ids=lambda golden: f"{golden['model']} {golden['options']}")


def same(found, golden):
    return np.allclose(found, golden["numbers"], rtol=1e-4, atol=1e-4)


def test_goldens_are_of_these_numerics_and_runs():
    assert GOLDENS["numerics"] == generate.NUMERICS
    assert [(golden["model"], golden["options"]) for golden in GOLDENS["exact"]] == RUNS


@EXACT
def test_goldens_say_when_numerics_must_be_raised(golden):
    found = numbers(golden["model"], golden["options"])
    assert same(found, golden), (
        f"the numbers of equal inputs changed: {found}; raise generate.NUMERICS and run `python -m tests.goldens`, or "
        "undo"
    )


@EXACT
@pytest.mark.parametrize("exchanged", [Purpose.START, Purpose.STEP])
def test_goldens_see_samples_that_got_the_noise_of_others(golden, exchanged, monkeypatch):
    class Exchanged(NoiseSource):
        def __call__(self, purpose, samples, *address):
            others = [sample ^ 1 for sample in samples] if purpose == exchanged else samples
            return super().__call__(purpose, others, *address)

    monkeypatch.setattr(generate, "NoiseSource", Exchanged)
    deterministic = golden["options"]["sampler_name"] in ("ddim", "heun") and not golden["options"].get("eta")
    unseen = deterministic and exchanged == Purpose.STEP  # no such noise is drawn
    assert same(numbers(golden["model"], golden["options"]), golden) == unseen
