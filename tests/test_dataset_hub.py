"""Datasets of Hugging Face, through the little of its package that is used."""

import sys

import numpy as np
import pytest

from tests.data_formats import Rows
from tests.test_dataset import make
from traj import stores
from traj.pipeline.making.dataset import prepare


def test_without_the_package_datasets_the_way_to_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(stores.InputError, match=r"pip install 'traj\[datasets\]'"):
        prepare("hf:me/pictures/train")


def test_columns_of_numbers_are_taken_by_name(tmp_path, hub):
    rows = Rows({"x": np.linspace(-1, 1, 8, dtype="f4").reshape(4, 2), "other": [1, 2, 3, 4], "y": [0, 1, 2, 3]})
    hub.load_from_disk = lambda path: {str(tmp_path): rows}[path]
    ds = make(f"hf:{tmp_path}", tmp_path / "a.zarr")
    np.testing.assert_array_equal(ds.x_0.values, rows.data["x"])
    np.testing.assert_array_equal(ds.label.values, range(4))
    with pytest.raises(stores.InputError, match="has the columns x, other, y; say which one holds the labels"):
        prepare(f"hf:{tmp_path}:x", labels="class")
    with pytest.raises(stores.InputError, match="has the columns x, other, y; say which one holds the samples after a"):
        prepare(f"hf:{tmp_path}:z")


def test_what_the_hub_refuses_is_said_in_one_line(hub):
    def refuse(*arguments, **options):
        raise FileNotFoundError("Dataset 'me/nothing' doesn't exist on the Hub")

    hub.load_dataset = refuse
    with pytest.raises(stores.MissingFile, match="is not to be had: Dataset 'me/nothing' doesn't exist on the Hub"):
        prepare("hf:me/nothing/train")
    for name in ("hf:", "hf:mnist"):
        with pytest.raises(stores.InputError, match=r"expected hf:NAME\[@REVISION\]/SPLIT"):
            prepare(name)
