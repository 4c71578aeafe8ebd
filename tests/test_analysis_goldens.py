"""Every quantity's numbers stay what they were, sample by sample. `python -m tests.test_analysis_goldens` renews them.

Numbers that are meant to change raise the numerics of their quantity.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import numpy as np
import pytest

from tests.test_quantities_contract import CASES, lay_out
from traj import analysis

GOLDENS = Path(__file__).with_name("analysis_goldens.json")
SAMPLES, STEPS, SMALL = 8, 3, {"side": 4}
DIGITS = 9
"""Significant ones that are kept, and compared to a few units of the last: the bits of sums depend on the machine."""


def computed(name, make, changed=None):
    """Compute a quantity of a small dataset, perhaps one sample changed: variable -> values in one line."""
    ds = make(SAMPLES, STEPS, **(SMALL if "side" in inspect.signature(make).parameters else {}))
    if changed is not None:
        for variable in ds.data_vars.values():
            variable[{"sample": changed}] *= 1 - 0.1 * variable[{"sample": changed}]  # no change of scale alone
    result = lay_out(name, ds, **({"bins": 16} if "bins" in analysis.load(name).options else {})).compute()
    kept = {}
    for variable, values in result.data_vars.items():
        numbers = values.to_numpy().ravel()
        if numbers.dtype.kind == "f":
            kept[variable] = [None if np.isnan(x) else float(f"{x:.{DIGITS}g}") for x in numbers]
        else:
            kept[variable] = [int(x) for x in numbers]
    return {"numerics": analysis.load(name).numerics, **kept}


def key(name, make):
    return f"{name} of {make.__name__}"


@pytest.mark.parametrize(("name", "make"), CASES, ids=[key(*case) for case in CASES])
def test_numbers_of_every_sample_are_those_of_before(name, make):
    golden = json.loads(GOLDENS.read_text(encoding="utf-8"))[key(name, make)]
    numbers = computed(name, make)
    assert set(numbers) == set(golden)
    assert numbers.pop("numerics") == golden.pop("numerics"), "renew the goldens"
    for variable, values in golden.items():
        here, before = (np.array(line, float) for line in (numbers[variable], values))
        np.testing.assert_allclose(here, before, rtol=3e-8, atol=1e-12, err_msg=variable)


def test_goldens_are_of_every_quantity():
    assert set(json.loads(GOLDENS.read_text(encoding="utf-8"))) == {key(*case) for case in CASES}


@pytest.mark.parametrize(("name", "make"), CASES, ids=[key(*case) for case in CASES])
def test_a_golden_notices_a_change_of_one_sample(name, make):
    golden = json.loads(GOLDENS.read_text(encoding="utf-8"))[key(name, make)]
    numbers = computed(name, make, changed=3)
    assert any(
        not np.allclose(*(np.array(line, float) for line in (numbers[variable], values)), rtol=3e-8, equal_nan=True)
        for variable, values in golden.items()
    )


if __name__ == "__main__":
    text = {key(*case): computed(*case) for case in CASES}
    lines = [
        f"{json.dumps(case)}: {{\n"
        + ",\n".join(f" {json.dumps(variable)}: {json.dumps(values)}" for variable, values in numbers.items())
        + "}"
        for case, numbers in text.items()
    ]
    GOLDENS.write_text("{" + ",\n".join(lines) + "}\n", encoding="utf-8")
