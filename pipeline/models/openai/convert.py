"""From a checkpoint of OpenAI's programs to a model's folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin, UNet2DModel

from traj.pipeline.folder import write_json
from traj.pipeline.models import weights
from traj.pipeline.models.openai import checkpoint, flags, sampling, to_diffusers
from traj.pipeline.models.openai.checkpoint import State
from traj.pipeline.models.openai.flags import CLASSIFIER, GLIDE, STEPS, Flags
from traj.pipeline.models.openai.unet import OpenAIUNet
from traj.stores import InputError, making, place


def convert(
    source: Path, out: str | os.PathLike[str], text: str, code: str | None = None, tokenizer: Path | None = None
) -> tuple[Flags, str]:
    """Write the model of a checkpoint into a folder that appears once it is whole.

    Gives the flags as they were read, and the command to go on with.

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
    _refuse_existing(folder)
    state = checkpoint.read(source)
    given = flags.read(text, state, code)
    if tokenizer is not None and given.code != GLIDE:
        raise InputError(f"a tokenizer was given, but {given.code} reads no texts; leave it out")
    if given.code == CLASSIFIER:
        following = f"traj readout classifier data/trajectories/ddpm.zarr data/readouts/ddpm.zarr --model {out}"
    else:
        following = sampling.command(given, Path(out), texts=tokenizer is not None)
    _require_colour(state)
    with making(folder, folder=True) as partial, weights.saving(folder):
        _write(state, given, partial, tokenizer)
        _appear(partial, folder)
    return given, following


def _require_colour(state: State) -> None:
    first = state.get("input_blocks.0.0.weight")
    if first is not None and first.ndim == 4 and first.shape[1] != 3:
        raise InputError(
            f"the checkpoint's network reads {first.shape[1]} channels; expected 3: models that enlarge images, "
            "fill in parts of them, or are of other images than colour are not supported"
        )


def _refuse_existing(folder: Path) -> None:
    if os.path.lexists(folder):
        raise InputError(f"{folder} exists; give another folder, or move it away")


def _appear(partial: Path, folder: Path) -> None:
    try:
        partial.rename(folder)
    except OSError:
        _refuse_existing(folder)  # made by another process meanwhile
        raise


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
        return
    network = write_unet(state, given.unet(), folder)
    told = given["class_cond"] or own(given)["time_scale"] != 1  # labels and other times: DDPMPipeline tells neither
    if isinstance(network, UNet2DModel) and not told:
        write_json(folder / "model_index.json", _INDEX)


_INDEX = {
    "_class_name": "DDPMPipeline",
    "scheduler": ["diffusers", "DDPMScheduler"],
    "unet": ["diffusers", "UNet2DModel"],
}


def write_unet(state: State, config: dict[str, Any], folder: Path) -> ModelMixin:
    """Write the part unet of a model's folder: a UNet2DModel where one computes the same, else an OpenAIUNet.

    Raises InputError where the tensors are not those of an OpenAIUNet with such a config.
    """
    with torch.device("meta"):
        network: ModelMixin = OpenAIUNet(**config)
    expected = checkpoint.shapes(network)
    checkpoint.require(state, expected, "the U-Net that the flags describe", _advice(state, expected))
    if (same := to_diffusers.config(config)) is not None:
        with torch.device("meta"):
            network = UNet2DModel(**same)
        state = to_diffusers.tensors(state, config)
    network.load_state_dict(state, assign=True)
    network.save_pretrained(folder / "unet")
    return network


def _advice(state: State, expected: Mapping[str, tuple[int, ...]]) -> str:
    """Say which flag is likely wrong, where a tensor tells."""

    def rows(name: str) -> float:
        """How many times as many rows a tensor has as expected."""
        return len(state[name]) / expected[name][0] if name in state and name in expected else 1

    if rows("input_blocks.0.0.weight") != 1:
        return "check --num_channels"
    if (labelled := "label_emb.weight" in state) != ("label_emb.weight" in expected):
        return f"expected --class_cond {labelled}"
    if (more := rows("out.2.weight")) in (0.5, 2):
        return f"expected --learn_sigma {more == 2}"
    if (more := rows("input_blocks.1.0.emb_layers.1.weight")) in (0.5, 2):
        return f"expected --use_scale_shift_norm {more == 2}"
    return "check the flags"


def scheduler(given: Flags) -> dict[str, Any]:
    """Give the config of the DDPMScheduler whose betas, variance and clipping are those of the flags."""
    if given.learns_variance:
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
