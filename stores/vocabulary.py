"""Every variable and coordinate of the contract, described once: along which dims, what it is, in which units."""

from __future__ import annotations

from typing import NamedTuple


class Described(NamedTuple):
    """A variable or a coordinate.

    `dims` of a variable are those between those of forks and those of an event. A `derived` coordinate follows from
    others, and is no part of a store's fingerprint.
    """

    dims: tuple[str, ...]
    long_name: str
    units: str = "1"
    derived: bool = False


STATES = ("x_t", "pred_x0")
"""What a reverse process goes through, and thinks it will end in."""

FORK_DIMS = ("variant", "replica")
"""Dims of forks and sweeps, before all others."""

EDIT = ("edit", "at", "ns", "nb", "n", "r")
"""What tells the edits of a sweep apart."""

FAMILY = tuple(name for name in EDIT if name != "at")
"""What edits that differ in where they start only have in common."""

TOLD = ("label", "prompt")
"""What samples were made under; a store may have no prompts."""

SAVED = ("evaluations_saved", "evaluations_cut", "multiply_adds_removed")
"""What the edits of a sweep save."""

SHORTCUT = "shortcut"
"""The edit with a schedule of its own, of which no number says anything."""

ONCE = -1
"""The `r` of a cut that is not made again."""

LEARNED_FROM = "classifier_learned_from"
"""Attribute of logits: which images the classifier learned from, where those are not finished ones alone."""

VARIABLES = {
    "x_t": Described(("sample", "timestep"), "state given to the network"),
    "pred_x0": Described(("sample", "timestep"), "prediction of the final sample made from x_t, unclipped"),
    "log_variance": Described(
        ("sample", "timestep"), "log variance of the reverse step, interpolated by the network", "log(1)"
    ),
    "x_0": Described(("sample",), "final sample, or one of the data"),
}

COORDINATES = {
    "timestep": Described(("timestep",), "index in the training schedule, high noise first"),
    "step": Described(("timestep",), "network evaluations before this state"),
    "model_time": Described(("timestep",), "time the network was fed"),
    "signal": Described(("timestep",), "factor of x_0 in x_t"),
    "noise_scale": Described(("timestep",), "factor of the noise in x_t"),
    "alpha_bar": Described(("timestep",), "signal^2, in a process that preserves variance", derived=True),
    "sigma": Described(("timestep",), "noise level of x_t / signal, noise_scale / signal", derived=True),
    "log_snr": Described(("timestep",), "2 log(signal / noise_scale)", "nat", derived=True),
    "noise_sd": Described(("timestep",), "standard deviation of the noise the sampler added after this state"),
    "sample": Described(("sample",), "absolute sample number"),
    "label": Described(("sample",), "class of the sample, known or asked for, -1 for none"),
    "prompt": Described(("sample",), "text the sample was asked for"),
    "variant": Described(("variant",), "number of the fork"),
    "replica": Described(("replica",), "number of the repetition, each with noise of its own"),
    "at": Described(("variant",), "timestep of the stored x_t a fork starts from"),
    "noise": Described(("variant",), "noise of a fork's steps"),
    "eta": Described(("variant",), "eta of a fork's DDIM steps"),
    "edit": Described(("variant",), "what was changed from `at` on"),
    "n": Described(("variant",), "steps jumped or cut"),
    "ns": Described(("variant",), "skip connections cut, from the top"),
    "nb": Described(("variant",), "output blocks left out, counted on a network of 16"),
    "unet_blocks": Described(("variant",), "output blocks left out of this network, from the bottom"),
    "r": Described(("variant",), "steps of relaxation before the cut is made again, -1 for none"),
    "evaluations_saved": Described(("variant",), "network evaluations of the run that are not made", derived=True),
    "evaluations_cut": Described(
        ("variant",), "network evaluations made with a part of the network left out", derived=True
    ),
    "multiply_adds_removed": Described(
        ("variant",), "share of the run's multiply-adds, from noise on, that is not done", derived=True
    ),
    "done": Described(("block",), "1 where the block is complete"),
    "manifest": Described(
        ("block",), "JSON: the files of the block and their checksums, values that are not finite, where it was made"
    ),
}

DERIVED = frozenset(name for name, described in COORDINATES.items() if described.derived)
