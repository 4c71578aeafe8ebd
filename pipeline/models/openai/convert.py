"""From a checkpoint of OpenAI's programs to a model's folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from traj.pipeline.models.folder import write_json
from traj.pipeline.models.openai import checkpoint, flags
from traj.pipeline.models.openai.checkpoint import State
from traj.pipeline.models.openai.flags import CLASSIFIER, GLIDE, STEPS, Flags
from traj.pipeline.models.openai.unet import OpenAIUNet
from traj.stores import InputError, making, place


def convert(
    source: Path, out: str | os.PathLike[str], text: str, code: str | None = None, tokenizer: Path | None = None
) -> Flags:
    """Write the model of a checkpoint into a folder that appears once it is whole; give the flags as they were read.

    ``text`` are the flags as typed, ``code`` the program they are of, ``tokenizer`` the folder of GLIDE's.

    Raises
    ------
    MissingFile
        Where there is no such checkpoint.
    InputError
        Where the folder exists, the checkpoint holds no tensors by name, flags are not those of the program, or the
        two do not belong together.
    """
    folder = place(out)
    if os.path.lexists(folder):
        raise InputError(f"{folder} exists; give another folder, or move it away")
    state = checkpoint.read(source)
    given = flags.read(text, state, code)
    if tokenizer is not None and given.code != GLIDE:
        raise InputError(f"a tokenizer was given, but {given.code} reads no texts; leave it out")
    with making(folder, folder=True) as partial:
        _write(state, given, partial, tokenizer)
        partial.rename(folder)
    return given


def _write(state: State, given: Flags, folder: Path, tokenizer: Path | None) -> None:
    if given.code == CLASSIFIER:
        from traj.pipeline.models.openai import encoder

        encoder.write(state, given, folder)
        return
    write_json(folder / "traj.json", own(given))
    (folder / "scheduler").mkdir()
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler(given))
    if given.code == GLIDE:
        from traj.pipeline.models.openai import glide

        glide.write(state, given, folder, tokenizer)
    else:
        write_unet(state, given.unet(), folder)


def write_unet(state: State, config: dict[str, Any], folder: Path) -> None:
    """Write the part unet of a model's folder.

    Raises InputError where the tensors are not those of an OpenAIUNet with such a config.
    """
    with torch.device("meta"):
        network = OpenAIUNet(**config)
    checkpoint.require(state, checkpoint.shapes(network), "the U-Net that the flags describe")
    network.load_state_dict(state, assign=True)
    network.save_pretrained(folder / "unet")


def scheduler(given: Flags) -> dict[str, Any]:
    """Give the config of the DDPMScheduler whose betas, variance and clipping are those of the flags."""
    if given.code == GLIDE or given["learn_sigma"]:
        variance = "learned_range"
    else:
        variance = "fixed_small" if given.values.get("sigma_small") else "fixed_large"
    return {
        "_class_name": "DDPMScheduler",
        **flags.betas(given["diffusion_steps"], given["noise_schedule"]),
        "prediction_type": "sample" if given.values.get("predict_xstart") else "epsilon",
        "variance_type": variance,
        "clip_sample": True,
    }


def own(given: Flags) -> dict[str, Any]:
    """Give what a diffusers config cannot say, as in traj.json."""
    scale = STEPS / given["diffusion_steps"] if given.values.get("rescale_timesteps") else 1.0
    return {"time_scale": scale, "spacing": "openai"}
