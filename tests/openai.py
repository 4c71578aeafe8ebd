"""Small random checkpoints of improved-diffusion and guided-diffusion, and models made of them."""

import torch

from traj.pipeline.models.openai import convert, flags
from traj.pipeline.models.openai.unet import OpenAIUNet

SMALL = (
    "--image_size 8 --num_channels 32 --channel_mult 1,2 --num_res_blocks 1 --num_heads 2 --resblock_updown True "
    "--class_cond True --learn_sigma True --diffusion_steps 4000 --rescale_timesteps True --noise_schedule cosine"
)
KINDS = {"OpenAIUNet": "8,4", "UNet2DModel": "4"}
"""Where there is attention, with heads of two widths or of one, and which network reproduces that."""


def network_of(text):
    return OpenAIUNet(**flags.read(text, ["output_blocks.0"]).unet())


def random_state(text):
    """A state dict of the network that flags describe, with random numbers in every tensor."""
    torch.manual_seed(0)
    return {name: torch.randn_like(tensor) / 10 for name, tensor in network_of(text).state_dict().items()}


def converted(folder, text):
    """Write the folder of a model with such flags, as `traj convert` does."""
    source = folder.with_name(f"{folder.name}.pt")
    torch.save(random_state(text), source)
    convert.convert(source, folder, text)
    return folder


class Tiny:
    """A model that is saved as a pipeline of diffusers is."""

    @staticmethod
    def save_pretrained(folder):
        converted(folder, f"{SMALL} --attention_resolutions {KINDS['OpenAIUNet']}")
