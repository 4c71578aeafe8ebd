"""Cuts of the networks of every family, from the command line on: made in U-Nets, refused by name in transformers."""

import numpy as np
import pytest

from tests import families
from tests.test_pixels import invoke
from traj import stores
from traj.pipeline.models import load
from traj.pipeline.models.surgery import count
from traj.pipeline.process.cut import Cut


def test_a_network_that_reads_texts_is_cut_in_a_sweep(tmp_path):
    folder, out, table = families.folder("sd1"), tmp_path / "a.zarr", tmp_path / "cuts.yaml"
    asked = ("--prompt", "a cat", "--guidance", 3, "--size", "24x32", "--sampler", "ddim", "--steps", 4)
    invoke("generate", out, "--model", folder, *asked, "--samples", 2)
    table.write_text("[{edit: blocks, nb: 8, n: [0, 2], t_start: 501}, {edit: skips, ns: 1, n: 2, t_start: 501}]")
    invoke("fork", out, tmp_path / "s.zarr", "--sweep", table, "--model", folder)
    run, ds = stores.open(out).compute(), stores.open(tmp_path / "s.zarr").compute()
    whole, cut, skipping = ds.x_0[:, 0].values
    np.testing.assert_allclose(whole, run.x_0, rtol=1e-4, atol=1e-4)
    for edited in (cut, skipping):
        assert abs(edited - run.x_0.values).max() > 1e-3

    network, sides = load(str(folder)).network, run.x_0.shape[2:]
    assert sides == (12, 16)
    blocks = Cut(unet_blocks=int(ds.unet_blocks[1]))
    adds = count(network, sides)
    share = 1 - adds.under(blocks) / adds.whole
    assert ds.multiply_adds_removed.values == pytest.approx([0, share * 2 / 4, 0], rel=1e-12)
    said = invoke("info", folder, "--size", "24x32").output
    assert f"{adds.whole:,} multiply-adds for one image" in said


def test_a_transformer_is_never_cut(tmp_path):
    folder, out, table = families.folder("dit"), tmp_path / "a.zarr", tmp_path / "cuts.yaml"
    invoke("generate", out, "--model", folder, "--sampler", "ddim", "--steps", 2, "--samples", 1, "--labels", 0)
    table.write_text("[{edit: blocks, nb: 8, n: 1, t_start: 500}]")
    refused = invoke("fork", out, tmp_path / "s.zarr", "--sweep", table, "--model", folder, code=2).output
    assert "a cut needs a U-Net, and this model is a DiTTransformer2DModel" in refused
    assert not (tmp_path / "s.zarr").exists()
    assert "no cuts: a cut needs a U-Net" in invoke("info", folder).output


@pytest.mark.parametrize(
    ("family", "size", "says"),
    [
        ("sd1", "24x25", "expected multiples of 2"),
        ("ldm-vq", "20x22", "halves latents once: both sides of images must be multiples of 4, 20x20 or 24x24"),
        ("dit", "22x22", "patches of 2 x 2: both sides of images must be multiples of 4, 20x20 or 24x24"),
    ],
)
def test_a_size_that_a_family_does_not_take_is_refused_with_those_that_fit(family, size, says):
    with pytest.raises(ValueError, match=says):
        load(str(families.folder(family)), size=tuple(map(int, size.split("x"))))
