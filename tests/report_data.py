"""Stores and results of real digits for tests of the report, made through the public writers."""

import base64
import csv
import re
from contextlib import contextmanager
from html.parser import HTMLParser
from unittest.mock import patch

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

from tests import runs
from traj import stores
from traj.analysis._quantity import Landmark, Number, Series, Table, quantity
from traj.pipeline.report import report
from traj.pipeline.report.entries import collect

T = 40
DIGITS = load_digits()
IMAGES = (DIGITS.images[:, None] / 8 - 1).astype("f4")
CONFIG = {
    "model": {"name": "digits"},
    "condition": {"labels": "cycle"},
    "plan": {
        "clip": None,
        "runs": [{"first": 39, "last": 0, "stride": 1, "rule": "ddim", "variance": 0.0, "noise": "shared"}],
    },
}

AT = [30, 20, 10]
"""Where forks and edits start."""

ENDINGS = np.array([[0, 1, 2, 3], [0, 0, 0, 1], [0, 0, 0, 0]])
"""Labels of the replicas of every sample, for each start."""

JUMP, SKIPS, BLOCKS = ("jump", 5, 0, 0, 0, -1), ("skips", 5, 2, 0, 0, -1), ("blocks", 5, 0, 2, 1, -1)
SHORTCUT = ("shortcut", 0, 0, 0, 0, -1)
"""edit, n, ns, nb, unet_blocks, r."""

SHARE = {JUMP: [0.9, 0.1, 0.0], SKIPS: [0.02, 0.2, 0.1], BLOCKS: [0.01, 0.05, 0.02]}
"""Of another image in the endings of a family, over AT. An edit from 10 on that jumps changes nothing."""

SAMPLES = 8


def make_run(path, *, samples=12, config=CONFIG, time_scale=1.0, seed=0):
    """A run that ends in real digits, the first of each class in turn; one in six asked for as another class."""
    ids = np.array([np.flatnonzero(DIGITS.target == k % 10)[k // 10] for k in range(samples)])
    x_0 = IMAGES[ids]
    label = np.where(np.arange(samples) % 6 == 5, (DIGITS.target[ids] + 1) % 10, DIGITS.target[ids])
    timestep = np.arange(T)[::-1]
    alpha_bar = np.linspace(0.999, 1e-4, T)[timestep]
    noise = np.random.default_rng(seed).standard_normal((T, *x_0.shape)).astype("f4")
    with stores.create(
        path,
        timestep=timestep,
        **runs.preserving(alpha_bar),
        model_time=timestep * time_scale,
        label=label,
        shape=(1, 8, 8),
        samples=samples,
        block=samples,
        valid_range=(-1, 1),
        config={**config, "seed": seed},
    ) as store:
        for step, a in enumerate(alpha_bar.astype("f4")):
            x_t = np.sqrt(a) * x_0 + np.sqrt(1 - a) * noise[step]
            store.put(0, step, x_t, a * x_0 + (1 - a) * IMAGES.mean(axis=0) if step < T - 1 else x_0)
        store.finish(0, x_0)
    return path


def make_forks(path, of, *, at=AT, count=4, samples=2, config=None):
    """Replicas of sample k that end in images 4 k to 4 k + 3, as their labels say."""
    ds = stores.open(of).sel(timestep=slice(max(at), 0))
    with stores.create_forks(
        path,
        variant={"at": at, "noise": ["independent"] * len(at)},
        replicas=count,
        timestep=ds.timestep.values,
        **runs.preserving(ds.alpha_bar.values),
        shape=(1, 8, 8),
        samples=samples,
        block=samples,
        config={"parent": {"fingerprint": identity(of)}, **(config or {})},
    ) as store:
        endings = np.resize(ENDINGS, (len(at), 4))[:, :count, None]
        store.finish(0, IMAGES[endings + 4 * np.arange(samples)])
    return path


def identity(path):
    return stores.describe(path)["fingerprint"]


def make_sweep(path, of, share=SHARE, *, at=AT, shortcut=None, eta="1"):
    """Endings of the run, mixed with other images; the shortcut, from the first step on, with as much as is given."""
    ds = stores.open(of)
    plain = ds.x_0.values[:SAMPLES]
    # the variants of a timestep beside one another, as sweeps need not be sorted
    table = [(start, *edit, *saved(edit), shares[k]) for k, start in enumerate(at) for edit, shares in share.items()]
    if shortcut is not None:
        table.append((T - 1, *SHORTCUT, *saved(SHORTCUT), shortcut))
    names = ("at", "edit", "n", "ns", "nb", "unet_blocks", "r", "evaluations_saved", "evaluations_cut")
    *columns, mixed = (list(column) for column in zip(*table, strict=True))
    steps = ds.sel(timestep=slice(max(columns[0]), 0))
    with stores.create_forks(
        path,
        kind="sweep",
        variant=dict(zip((*names, "multiply_adds_removed"), columns, strict=True)) | {"eta": [eta] * len(table)},
        replicas=1,
        timestep=steps.timestep.values,
        **runs.preserving(steps.alpha_bar.values),
        step=steps.step.values,
        shape=(1, 8, 8),
        samples=SAMPLES,
        block=SAMPLES,
        config={"parent": {"fingerprint": identity(of)}},
    ) as store:
        share = np.array(mixed, "f4")[:, None, None, None, None, None]
        store.finish(0, (1 - share) * plain + share * IMAGES[100 : 100 + SAMPLES])
    return path


def saved(edit):
    """Evaluations that are not made, those made with a part, and the share of multiply-adds both leave out."""
    name, n, _, nb, _, r = edit
    if name == "shortcut":
        return 17, 21, 0.25
    if name == "jump":
        return max(n - 1, 0), 0, max(n - 1, 0) / T
    cut = n if r < 0 else 2 * n
    return 0, cut, cut / T * nb / 16


def write_times(path, sweep, removed, **changes):
    """Times of the edits of a sweep, as they are measured, or with other columns."""
    ds = stores.open(sweep)
    columns = {name: [*ds[name].to_numpy().tolist()] for name in stores.EDIT} | {"time_removed": removed} | changes
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["variant", *columns])
        writer.writerows(
            [k, *row] for k, row in enumerate(zip(*columns.values(), strict=False))
        )  # the shortest ends all


@quantity(reads="trajectories", numerics=1, title="How bright it is <b>", source="nobody's Fig. 1")
def brightness(ds):
    """Average the values of an image."""
    means = xr.concat([ds[name].mean(ds[name].dims[2:]) for name in ("x_t", "pred_x0")], "on").astype("f8")
    result = xr.Dataset({"brightness": means.mean("sample"), "of_samples": means}, {"on": ["x_t", "pred_x0"]})
    return result.drop_vars("sample")


@brightness.figure("brightness", title="Brightness & time", caption=lambda results: f"<i>N</i> = {len(results)} runs.")
def draw_brightness(results, look):
    figure = Figure(figsize=(4, 3))
    axis = figure.add_subplot()
    for name, result in results.items():
        axis.plot(result["log_snr"], result["brightness"].sel(on="pred_x0"), color=look.colours[name])
    return figure


@brightness.figure("nothing", title="Never drawn", caption=lambda results: "")
def draw_nothing(results, look):
    return None


@brightness.curve("brightness", title="Brightness", y_label="brightness")
def brightness_curve(result):
    values = result["brightness"].sel(on="pred_x0").to_numpy()
    along = result["timestep"].to_numpy(), result["log_snr"].to_numpy()
    return [Series("pred_x0", *along, values, values - 1, np.full(len(values), np.nan))]


@brightness.gives_landmarks
def brightness_landmarks(result):
    """The middle of the process with an interval, its end without one, and what is never there."""
    middle, last = (
        (float(result["timestep"][k]), float(result["log_snr"][k])) for k in (result.sizes["timestep"] // 2, -2)
    )
    return [
        Landmark("middle", "half of the steps are done", *middle, middle[1] - 0.5, middle[1] + 0.25),
        Landmark("last", "nearly all is done", *last),
        Landmark("never", "images are black", np.nan, np.nan),
    ]


@brightness.gives_numbers
def brightness_numbers(result):
    values = result["brightness"].sel(on="pred_x0")
    return [
        Number("bright_end", "brightness at the end", float(values[-1]), float(values[-1]) - 1, float(values[-1]) + 1),
        Number("bright_never", "brightness of nothing", np.nan),
    ]


@brightness.gives_tables
def brightness_tables(results):
    return [Table("The source & here", ("it says", "runs"), [("a < b", str(len(results)))], "A note.", (1,))]


@quantity(reads="fork", numerics=1, title="How alike endings are")
def likeness(ds):
    """Take the spread of replicas."""
    return xr.Dataset({"likeness": ds["x_0"].std("replica").mean(("sample", "channel", "y", "x")).astype("f8")})


TOYS = {"brightness": brightness, "likeness": likeness}


@contextmanager
def toys():
    """Put quantities in the place of ours, of which a report must know none."""
    with patch("traj.analysis.quantities", lambda: list(TOYS)), patch("traj.analysis.load", TOYS.__getitem__):
        yield


def analyse(path, root, name="brightness"):
    """Save what a quantity gives of a store, as `traj analyze` does."""
    ds = stores.open(path)
    result = TOYS[name](ds).assign_attrs(of=ds.attrs["kind"]).compute()
    config = {"quantity": name, "options": {}, "store": stores.identity(path)}
    stores.save(result, root / "results" / path.stem / f"{name}.zarr", config)
    return path


def fail(where, error):
    """What is to happen where a report would go on without something."""
    raise error


def write(place, out, *, failed=fail, **options):
    return report(out, root=place, failed=failed, **options)


def collected(place):
    return {entry.name: entry for entry in collect(place, None, fail)}


def text(page):
    return page.read_text(encoding="utf-8")


def pages(folder):
    """All pages of a report, by their place in it."""
    return {str(page.relative_to(folder)): text(page) for page in sorted(folder.rglob("*.html"))}


def rows(path):
    return list(csv.DictReader(path.open(encoding="utf-8")))


def images(html):
    """The images of a page, as bytes."""
    return [base64.b64decode(code) for code in re.findall(r"data:image/[a-z+]+;base64,([\w+/=]+)", html)]


def svgs(html):
    return [image.decode() for image in images(html) if image.startswith(b"<?xml")]


class Balance(HTMLParser):
    """Fails on a tag that is closed without having been opened, or the other way round."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img", "source", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def unbalanced(html):
    parser = Balance()
    parser.feed(html)
    return parser.open
