"""The shortcut of 002: steps that run a part of the U-Net only, and an early end; its schedule is data."""

from __future__ import annotations

from torch import nn

from traj.pipeline.models.surgery import scaled_unet_blocks
from traj.pipeline.process.cut import Cut
from traj.pipeline.process.plan import Plan
from traj.stores import InputError

STEPS = 100
# from and to which step, counted as the source does from 100 down to 1, and how many of its 16 blocks are left out
CUTS = ((65, 61, 6), (60, 59, 8), (47, 41, 8), (31, 25, 8))
LAST = 18


def shortcut(plan: Plan, network: nn.Module) -> Plan:
    """Cut and end a plan of 100 steps as 002 does in its figures 11 to 13: 83 evaluations (METHODS 3.5).

    Raises
    ------
    InputError
        For another number of steps: where cuts do no harm, and for how many steps, was found at 100 and does not carry
        over by proportion. For a model without a U-Net.
    """
    if len(plan.steps) != STEPS:
        raise InputError(
            f"the shortcut is a plan of {STEPS} steps, {len(plan.steps)} were given; make a run that it fits with "
            f"`traj generate ... --sampler ddim --steps {STEPS} --eta 1`"
        )
    timestep = dict(zip(range(STEPS, 0, -1), plan.timesteps, strict=True))
    for first, last, nb in CUTS:
        plan = plan.with_cut(Cut(unet_blocks=scaled_unet_blocks(nb, network)), timestep[first], first - last + 1)
    return plan.stop(timestep[LAST])
