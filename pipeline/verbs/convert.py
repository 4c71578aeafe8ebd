"""`traj convert`: checkpoints of other programs."""

from __future__ import annotations

from pathlib import Path

import click

from traj.pipeline.making.carry_out import say
from traj.pipeline.options import LocalPath

CODES = ("improved-diffusion", "guided-diffusion", "glide", "classifier")
"""The programs that checkpoints are of, named here because to ask takes seconds."""


@click.group()
def convert() -> None:
    """Turn a checkpoint of another program into a model folder.

    \b
    traj convert openai cifar10_uncond_50M_500K.pt models/cifar --flags "--image_size 32 --num_res_blocks 3"
    """


@convert.command()
@click.argument("checkpoint", type=LocalPath())
@click.argument("out", type=LocalPath())
@click.option(
    "--flags",
    default="",
    metavar="TEXT",
    help='What the program is told of the model, as in its README: "--image_size 64 --learn_sigma True ...".  '
    "[default: the program's own values]",
)
@click.option(
    "--code",
    type=click.Choice(CODES),
    help="The program that made CHECKPOINT.  [default: known by its tensors and the flags]",
)
@click.option("--tokenizer", type=LocalPath(), help="Of GLIDE, a folder with vocab.json and merges.txt.")
def openai(checkpoint: Path, out: Path, flags: str, code: str | None, tokenizer: Path | None) -> None:
    """Convert CHECKPOINT, of OpenAI's programs, into the folder OUT.

    The programs are improved-diffusion, guided-diffusion, its classifier, and GLIDE. The checkpoint is a state dict;
    no code in it is run. Flags that leave no trace in its tensors, such as num_heads and those of the diffusion, are
    believed: where they are wrong, all predictions are.

    \b
    traj convert openai cifar10_uncond_50M_500K.pt models/iddpm --flags "--image_size 32 --num_channels 128 \\
        --num_res_blocks 3 --learn_sigma True --dropout 0.3 --diffusion_steps 4000 --noise_schedule cosine"
    traj convert openai 64x64_classifier.pt models/noisy-classifier --flags "--image_size 64 --classifier_depth 4 \\
        --noise_schedule cosine"
    traj convert openai base.pt models/glide --tokenizer bpe/
    """
    from traj.pipeline.models.openai.convert import convert as write

    given, following = write(checkpoint, out, flags, code, tokenizer)
    for caution in given.cautions:
        say(caution)
    for name, reason in given.left_out.items():
        say(f"--{name} changes no number here: it is {reason}")
    kind = "a classifier of guided-diffusion" if given.code == "classifier" else f"a model of {given.code}"
    say(f"{out} is ready, {kind}")
    say(f"next: {following}")
