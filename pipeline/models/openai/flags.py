"""The flags that OpenAI's programs are run with: what a checkpoint's network is, and its diffusion."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from traj.pipeline.configs import Key, Keys, Read, Unfit
from traj.pipeline.models.openai.layers import NORM_GROUPS, attended_levels
from traj.stores import InputError

IMPROVED, GUIDED, GLIDE, CLASSIFIER = CODES = ("improved-diffusion", "guided-diffusion", "glide", "classifier")
"""The programs; the last is guided-diffusion's classifier."""
STEPS = 1000
"""What times are counted in, of as many diffusion steps as there may be, where they are rescaled."""


@dataclass(frozen=True)
class Flags:
    """The flags of one program: ``values`` of all that are used, given or by default, as ``KEYS`` reads them.

    ``left_out`` are those given that change no number here, with the reason; ``cautions`` are what a person should
    know.
    """

    code: str
    values: Mapping[str, Any]
    left_out: Mapping[str, str]
    cautions: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Any:
        """Give the value of a flag that is used."""
        return self.values[name]

    @property
    def learns_variance(self) -> bool:
        """Whether the network answers with twice the channels: GLIDE's always does."""
        return self.code == GLIDE or bool(self["learn_sigma"])

    @property
    def channel_mult(self) -> tuple[float, ...]:
        """Channels of each level, in multiples of the first: as given, or what the program has for the image_size.

        Raises InputError where the program has none for it, or images cannot be halved so often.
        """
        side, of_sizes = self["image_size"], _CHANNEL_MULT[self.code]
        mult: tuple[float, ...] | None = self.values.get("channel_mult") or of_sizes.get(side)
        if mult is None:
            known = f"expected {' or '.join(map(str, of_sizes))}"
            also = ", or a --channel_mult, such as 1,2,2,2" if "channel_mult" in self.values else ""
            raise InputError(f"flags have image_size {side}, for which {self.code} has no channel_mult; {known}{also}")
        if side % 2 ** (len(mult) - 1):
            raise InputError(
                f"flags have image_size {side}, and channel_mult of {len(mult)} levels; expected a multiple of "
                f"{2 ** (len(mult) - 1)}, so that images are halved between them"
            )
        return mult

    def unet(self) -> dict[str, Any]:
        """Give the arguments of the OpenAIUNet that the flags describe, but for the width of texts.

        Raises InputError as ``channel_mult`` does, and for channels that cannot be parted into groups or heads.
        """
        self._require_widths()
        given = {
            "sample_size": self["image_size"],
            "out_channels": 6 if self.learns_variance else 3,
            "model_channels": self["num_channels"],
            "channel_mult": self.channel_mult,
            "num_classes": CLASSES if self.values.get("class_cond") else None,
        }
        return {**given, **{name: self.values[name] for name in _OF_UNET if name in self.values}}

    def _require_widths(self) -> None:
        """Refuse channels of a level that cannot be parted into the groups of norms, or the heads of attention."""
        heads: Mapping[str, int]
        if self.values.get("num_head_channels"):
            heads = {"num_head_channels": self["num_head_channels"]}
        else:
            heads = {name: self[name] for name in ("num_heads", "num_heads_upsample") if self[name]}
        self.require_widths("num_channels", self["attention_resolutions"], heads)

    def require_widths(self, name: str, attended_sides: Iterable[int], heads: Mapping[str, int]) -> None:
        """Refuse channels of a level, of the flag ``name``, that norms or, where it is attended, heads cannot part.

        ``attended_sides`` are those of images with attention, ``heads`` what heads part channels by.
        """
        width, levels = self[name], len(self.channel_mult)
        attended = attended_levels(self["image_size"], attended_sides, levels) | {levels - 1}
        for level, mult in enumerate(self.channel_mult):
            for what, count in {"the groups of a norm": NORM_GROUPS, **(heads if level in attended else {})}.items():
                if int(mult * width) % count:
                    raise InputError(
                        f"flags have {name} {width}, which is {mult * width:g} at level {level + 1}; expected a "
                        f"multiple of {count}, for {what}"
                    )


CLASSES = 1000
"""How many labels a network has that is told one."""
_OF_UNET = (
    "num_res_blocks",
    "attention_resolutions",
    "num_heads",
    "num_head_channels",
    "num_heads_upsample",
    "use_scale_shift_norm",
    "resblock_updown",
    "use_new_attention_order",
)


def read(text: str, names: Collection[str], code: str | None = None) -> Flags:
    """Read flags as typed, ``--name value`` or ``--name=value``, of a checkpoint that has tensors of these names.

    ``code`` is the program; by default the names tell it, or flags that only one has.

    Raises
    ------
    InputError
        For what is no flag, one given twice, one the program does not have, a value it does not take, and names that
        are of none of the programs.
    """
    given = _given(text)
    if code is None:
        code, cautions = _code(given, names)
    else:
        cautions = ()
    for name in given:
        if name in _REFUSED:
            raise InputError(f"--{name} was given: {_REFUSED[name]}")
    keys = KEYS[code]
    values = keys.read(given, f"--flags ({code})")
    left_out = {name: keys.unused[name] for name in given if name in keys.unused}
    return Flags(code, values, left_out, cautions)


def betas(steps: int, noise_schedule: str) -> dict[str, Any]:
    """Give the keys of a scheduler's config that make the betas of so many diffusion steps.

    Raises InputError where linear betas would grow to 1 or more.
    """
    if noise_schedule == "linear" and steps <= 20:
        raise InputError(f"flags have diffusion_steps {steps} with noise_schedule linear; expected more than 20")
    if noise_schedule != "linear":
        return {"num_train_timesteps": steps, "beta_schedule": "squaredcos_cap_v2"}
    ends = {"beta_start": 1e-4 * STEPS / steps, "beta_end": 0.02 * STEPS / steps}
    return {"num_train_timesteps": steps, "beta_schedule": "linear", **ends}


def _given(text: str) -> dict[str, str]:
    """Take flags apart, without reading their values."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InputError(f"flags {text!r} cannot be read: {error}") from None
    given: dict[str, str] = {}
    words.reverse()
    while words:
        word = words.pop()
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not name:
            raise InputError(f"{word!r} stands among the flags; expected --name value, as in --image_size 64")
        if not equals:
            if not words or words[-1].startswith("--"):
                raise InputError(f"--{name} has no value; expected --{name} VALUE, of a switch True or False")
            value = words.pop()
        if name in given:
            raise InputError(f"--{name} was given twice; expected each flag once")
        given[name] = value
    return given


def _code(given: Mapping[str, str], names: Collection[str]) -> tuple[str, tuple[str, ...]]:
    """Tell which program a checkpoint is of, and what to say where nothing tells and it matters."""
    if any(name.startswith("transformer.") for name in names):
        return GLIDE, ()
    if not any(name.startswith("output_blocks.") for name in names):
        if not any(name.startswith(("input_blocks.", "out.")) for name in names):
            raise InputError(
                f"the checkpoint has tensors such as {next(iter(names))}; expected those of OpenAI's programs, such as "
                "input_blocks.0.0.weight"
            )
        return CLASSIFIER, ()
    only = {one: [name for name in given if _has(one, name) and not _has(other, name)] for one, other in _BOTH.items()}
    told = [code for code, own in only.items() if own]
    if len(told) > 1:
        listed = " and ".join(f"--{only[code][0]} is of {code} only" for code in told)
        raise InputError(f"{listed}; give the flags of one of them, and say which: --code {told[0]}")
    if told:
        return told[0], ()
    sized = [code for code in _BOTH if given.get("image_size", "64") in map(str, _CHANNEL_MULT[code])]
    if len(sized) == 1:
        return sized[0], ()
    if "rescale_timesteps" in given or given.get("diffusion_steps", str(STEPS)) == str(STEPS):
        return IMPROVED, ()
    return IMPROVED, (
        f"no flag tells {IMPROVED} from {GUIDED}; it is taken for {IMPROVED}, which tells its networks t * {STEPS} / T "
        f"as time (rescale_timesteps True). If it is not: --code {GUIDED}",
    )


_BOTH = {IMPROVED: GUIDED, GUIDED: IMPROVED}


def _has(code: str, name: str) -> bool:
    return name in KEYS[code].used


def _whole(least: int, most: int = 1 << 16) -> Read:
    def read_whole(text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,9}", text) or not least <= int(text) <= most:
            raise Unfit(f"a whole number from {least} to {most}")
        return int(text)

    return read_whole


def _several(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[0-9]{1,5}(,[0-9]{1,5})*", text) or "0" in text.split(","):
        raise Unfit("whole numbers from 1 on, as in 16,8")
    return tuple(map(int, text.split(",")))


def _several_or_none(text: str) -> tuple[int, ...] | None:
    return _several(text) if text else None


def _or_none(text: str) -> int | None:
    """Read a number of which -1 means none."""
    return None if text == "-1" else int(_COUNT(text))


def _switch(text: str) -> bool:
    match text.lower():
        case "yes" | "true" | "t" | "y" | "1":
            return True
        case "no" | "false" | "f" | "n" | "0":
            return False
    raise Unfit("True or False")


def _one_of(*words: str) -> Read:
    def read_word(text: str) -> str:
        if text not in words:
            raise Unfit(f"one of {', '.join(words)}")
        return text

    return read_word


def _respacing(text: str) -> str:
    if not re.fullmatch(r"|(ddim)?[1-9][0-9]{0,5}|[1-9][0-9]{0,5}(,[1-9][0-9]{0,5})+", text):
        raise Unfit("a number of steps such as 250, or ddim50, or numbers for equal sections, such as 10,20,30")
    return text


def _off(what: str) -> Read:
    def read_off(text: str) -> bool:
        if _switch(text):
            raise Unfit(f"False: {what} are not supported")
        return False

    return read_off


_COUNT = _whole(1)
_TRAINING = "of training"
_MEMORY = "of speed and memory"
_THEIR_SAMPLING = "of their sampling script"

_NETWORK = {
    "image_size": Key(64, _whole(1, 4096)),
    "num_channels": Key(128, _COUNT),
    "num_res_blocks": Key(2, _whole(1, 1000)),
    "num_heads": Key(4, _COUNT),
    "num_heads_upsample": Key(None, _or_none),
    "attention_resolutions": Key((16, 8), _several),
    "use_scale_shift_norm": Key(True, _switch),
}
_GUIDED_NETWORK = {
    **_NETWORK,
    "num_head_channels": Key(None, _or_none),
    "channel_mult": Key(None, _several_or_none),
    "resblock_updown": Key(False, _switch),
    "use_new_attention_order": Key(False, _switch),
}
_LABELLED = {"learn_sigma": Key(False, _switch), "class_cond": Key(False, _switch)}
_DIFFUSION = {
    "diffusion_steps": Key(STEPS, _whole(2, 1_000_000)),
    "noise_schedule": Key("linear", _one_of("linear", "cosine")),
    "timestep_respacing": Key("", _respacing),
    "predict_xstart": Key(False, _switch),
    "rescale_timesteps": Key(False, _switch),
}
_SAMPLING = {"use_ddim": Key(None, _switch), "clip_denoised": Key(True, _switch)}
_CLASSIFIER = {
    "classifier_width": Key(128, _COUNT),
    "classifier_depth": Key(2, _whole(1, 1000)),
    "classifier_attention_resolutions": Key((32, 16, 8), _several),
    "classifier_use_scale_shift_norm": Key(True, _switch),
    "classifier_resblock_updown": Key(True, _switch),
    "classifier_pool": Key("attention", _one_of("attention", "adaptive", "spatial", "spatial_v2")),
}
_CHANGE_NOTHING = {
    **dict.fromkeys(
        (
            *("dropout", "use_kl", "rescale_learned_sigmas", "schedule_sampler", "lr", "weight_decay", "ema_rate"),
            *("lr_anneal_steps", "anneal_lr", "iterations", "noised", "data_dir", "val_data_dir", "microbatch"),
            *("log_interval", "save_interval", "eval_interval", "resume_checkpoint", "fp16_scale_growth"),
        ),
        _TRAINING,
    ),
    **dict.fromkeys(("use_fp16", "use_checkpoint", "cache_text_emb", "classifier_use_fp16"), _MEMORY),
    **dict.fromkeys(("batch_size", "num_samples", "model_path", "classifier_path"), _THEIR_SAMPLING),
}
_GUIDED_BY_CLASSIFIER = {
    "classifier_scale": "guidance by a classifier, which traj has not",
    **dict.fromkeys(_CLASSIFIER, "of the classifier, which is converted from its own checkpoint"),
}

KEYS: Mapping[str, Keys] = {
    IMPROVED: Keys(
        {
            **_NETWORK,
            **_LABELLED,
            **_DIFFUSION,
            "rescale_timesteps": Key(True, _switch),
            "sigma_small": Key(False, _switch),
            **_SAMPLING,
        },
        _CHANGE_NOTHING,
    ),
    GUIDED: Keys(
        {**_GUIDED_NETWORK, **_LABELLED, **_DIFFUSION, **_SAMPLING}, {**_CHANGE_NOTHING, **_GUIDED_BY_CLASSIFIER}
    ),
    GLIDE: Keys(
        {
            **{name: key for name, key in _GUIDED_NETWORK.items() if name != "use_new_attention_order"},
            "num_channels": Key(192, _COUNT),
            "num_res_blocks": Key(3, _whole(1, 1000)),
            "num_heads": Key(1, _COUNT),
            "num_head_channels": Key(64, _or_none),
            "attention_resolutions": Key((32, 16, 8), _several),
            "resblock_updown": Key(True, _switch),
            "text_ctx": Key(128, _COUNT),
            "xf_width": Key(512, _COUNT),
            "xf_layers": Key(16, _whole(1, 1000)),
            "xf_heads": Key(8, _COUNT),
            "xf_final_ln": Key(True, _switch),
            "xf_padding": Key(True, _switch),
            "diffusion_steps": _DIFFUSION["diffusion_steps"],
            "noise_schedule": Key("squaredcos_cap_v2", _one_of("linear", "squaredcos_cap_v2")),
            "timestep_respacing": _DIFFUSION["timestep_respacing"],
            "inpaint": Key(False, _off("models that fill in parts of images")),
            "super_res": Key(False, _off("models that enlarge images")),
        },
        _CHANGE_NOTHING,
    ),
    CLASSIFIER: Keys(
        {
            "image_size": _NETWORK["image_size"],
            **_CLASSIFIER,
            "diffusion_steps": _DIFFUSION["diffusion_steps"],
            "noise_schedule": _DIFFUSION["noise_schedule"],
        },
        {
            **dict.fromkeys(
                {*_GUIDED_NETWORK, *_LABELLED, *_DIFFUSION, *_SAMPLING, "classifier_scale"}
                - {"image_size", "diffusion_steps", "noise_schedule"},
                "of the diffusion model, which is converted from its own checkpoint",
            ),
            **_CHANGE_NOTHING,
        },
    ),
}
"""The flags of each program, by name, with its defaults."""

_REFUSED = dict.fromkeys(("large_size", "small_size"), "models that enlarge images are not supported")
_UP_TO_256 = {256: (1, 1, 2, 2, 4, 4), 64: (1, 2, 3, 4)}
_WITH_128 = {**_UP_TO_256, 128: (1, 1, 2, 3, 4)}
_UP_TO_512 = {512: (0.5, 1, 1, 2, 2, 4, 4), **_WITH_128}
_CHANNEL_MULT: Mapping[str, Mapping[int, tuple[float, ...]]] = {
    IMPROVED: {**_UP_TO_256, 32: (1, 2, 2, 2)},
    GUIDED: _UP_TO_512,
    GLIDE: _WITH_128,
    CLASSIFIER: _UP_TO_512,
}
