"""What `traj info` says of a model's blocks and skips."""

import json

import pytest
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

from tests.networks import digits, skipping
from traj.pipeline.info import describe_model
from traj.pipeline.models.surgery import count
from traj.pipeline.process.cut import Cut


def save(folder, network):
    DDPMPipeline(network, DDPMScheduler()).save_pretrained(folder)
    return folder


def test_info_lists_the_blocks_and_skips_of_the_digits_network(tmp_path):
    lines = describe_model(str(save(tmp_path / "m", digits()))).splitlines()
    network = digits()
    total = count(network).whole
    assert f"U-Net: 4 input blocks, a middle block, 4 output blocks; {total:,} multiply-adds for one image" in lines
    first = lines.index(next(line for line in lines if line.startswith("block")))
    rows = [line.split() for line in lines[first : first + 11]]
    assert rows[0] == ["block", "skip", "channels", "image", "share", "saves"]
    assert rows[1] == ["input", "1", "to", "1", "1", "->", "32", "8", "x", "8", "0.1", "%", "conv_in"]
    saved = 100 * (1 - count(network).under(Cut(unet_blocks=2)) / total)
    assert rows[7][:4] == ["output", "2", "from", "3"]
    assert rows[7][-5:] == [f"{saved:.1f}", "%", "up_blocks.0.resnets.1", "+", "up_blocks.0.upsamplers.0"]
    shares = [float(row[row.index("%") - 1]) for row in rows[1:]]
    assert sum(shares) == pytest.approx(100, abs=0.5)


def test_info_says_why_a_network_has_no_cuts(tmp_path):
    folder = save(tmp_path / "m", UNet2DModel(**skipping()))
    assert json.loads((folder / "unet" / "config.json").read_text())["down_block_types"][0] == "SkipDownBlock2D"
    assert "no cuts: the network has a SkipDownBlock2D" in describe_model(str(folder))


def test_info_lists_no_blocks_of_an_exact_denoiser():
    assert "block" not in describe_model("gaussian:0,1")
