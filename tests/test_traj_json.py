"""traj.json: every family of networks reads it, uses what it says, and refuses what means nothing to it."""

import json
import shutil
from functools import partial

import numpy as np
import pytest
import torch

from tests import families
from traj.pipeline import models
from traj.pipeline.models import whole

FAMILIES = {**families.PIPELINES, **families.TEXT_PIPELINES}


@pytest.fixture(params=FAMILIES)
def loaded(request, tmp_path):
    """A function that loads a pipeline with such a traj.json."""
    shutil.copytree(families.folder(request.param), tmp_path / "model")
    load = partial(models.load, str(tmp_path / "model"), steps=10 if request.param == "sd3" else None)

    def with_own(**own):
        (tmp_path / "model" / "traj.json").write_text(json.dumps(own))
        return load()

    return with_own


def test_times_are_scaled_and_spaced_as_it_says_in_every_family(loaded):
    usual, scaled = loaded().schedule, loaded(time_scale=0.25, spacing="trailing").schedule
    np.testing.assert_array_equal(scaled.model_time, usual.model_time * 0.25)
    assert scaled.spacing == "trailing"
    assert scaled.identity != usual.identity


@pytest.mark.parametrize("own", [{"surprise": 1}, {"null_label": 10}, {"time_scale": 10**400}])
def test_what_means_nothing_to_a_network_is_refused_in_every_family(loaded, own):
    with pytest.raises(ValueError, match=next(iter(own))):
        loaded(**own)


def test_a_pipelines_own_loop_is_not_recorded_with_times_it_does_not_know(tmp_path):
    folder = shutil.copytree(families.folder("pixels"), tmp_path / "model")
    (folder / "traj.json").write_text(json.dumps({"time_scale": 1.0}))
    whole.load(str(folder), torch.device("cpu"))
    (folder / "traj.json").write_text(json.dumps({"time_scale": 0.25}))
    with pytest.raises(ValueError, match=r"traj\.json has time_scale 0\.25, which the loop of a pipeline"):
        whole.load(str(folder), torch.device("cpu"))
