"""The answer page: one picture that can be read, three sentences that claim what is sure, and a file of landmarks."""

import csv
import io
import re
import shutil
from itertools import combinations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tests import warm
from tests.report_data import CONFIG, analyse, images, make_forks, make_run, text, toys, write
from traj import stores
from traj.analysis._drawing import timeline
from traj.analysis._quantity import Landmark, Look, Times
from traj.analysis._statistics.order import AFTER, AGREE, BEFORE, CANNOT_TELL, Order
from traj.pipeline.report import answer, words
from traj.pipeline.report.entries import Entry

BYTES = 2_000_000
"""Of a page, at most."""

LOOK = Look({"a": "#0072b2", "b": "#d55e00"}, {"a": "", "b": "s"})
PLACES = dict.fromkeys("ab", np.asarray)
LABELS = {"a": "a: DDPM", "b": "b: DDIM"}


def mark(log_snr, low=np.nan, high=np.nan, name="it", **more):
    return Landmark(name, "it happens", 10.0, log_snr, low, high, **more)


def row(short="it", others=(), **marks):
    return timeline.Row(short, "it happens", marks, frozenset(others))


def draw(rows, shown=None, width=timeline.WIDE):
    return timeline.picture(rows, LABELS, LOOK, PLACES, shown, width)


def markers(axis):
    return [line for line in axis.lines if line.get_marker() in (timeline.OWN, timeline.OTHER)]


def bands(axis):
    return [line for line in axis.lines if line.get_linewidth() == 5]


def test_a_landmark_is_a_marker_with_its_interval_and_hollow_without():
    (axis,) = draw([row(a=mark(1.0, 0.5, 2.0), b=mark(3.0), others="b")]).axes
    assert [line.get_xdata().tolist() for line in bands(axis)] == [[0.5, 2.0]]
    first, second = markers(axis)
    assert [first.get_xdata().tolist(), first.get_markerfacecolor(), first.get_marker()] == [[1.0], "#0072b2", "o"]
    assert [second.get_xdata().tolist(), second.get_markerfacecolor(), second.get_marker()] == [[3.0], "white", "D"]


def test_landmarks_come_from_the_earliest_to_the_latest_and_what_is_not_reached_is_left_out():
    (axis,) = draw([row("late", a=mark(5.0)), row("never", a=mark(np.nan)), row("early", a=mark(-5.0))]).axes
    assert [shown.get_text() for shown in axis.texts if shown.get_text() in ("late", "never", "early")] == [
        "early",
        "late",
    ]
    assert axis.get_ylim()[0] > axis.get_ylim()[1]  # from above


def test_what_is_not_reached_takes_no_room_and_no_place_in_the_legend():
    both, alone = (draw([row(a=mark(1.0, 0.0, 2.0), **more)]) for more in ({"b": mark(np.nan)}, {}))
    assert both.get_figheight() == alone.get_figheight()
    assert [shown.get_text() for shown in both.legends[0].get_texts()] == [LABELS["a"]]


def test_a_landmark_of_one_part_is_not_set_beside_that_of_another():
    def of(part, at):
        return mark(at, of=part, short="peak")

    found = [answer.Process(name, name, None, [Entry(name)]) for name in "abc"]
    marks = {"a": [of("up", np.nan), of("mid", 2.0)], "b": [of("hidden", np.nan)], "c": [of("hidden", 1.0)]}
    summaries = {name: answer.Summary(landmarks={"q": some}) for name, some in marks.items()}
    shown = answer.rows(answer.cells(found, summaries, {"q": None}))
    assert [(one.short, list(one.marks)) for one in shown] == [("peak (mid)", ["a"]), ("peak (hidden)", ["b", "c"])]
    assert "it happens (hidden), in b." in words.unsaid(shown)


def test_a_landmark_that_ends_with_the_process_stays_in_the_picture():
    (axis,) = draw([row(a=mark(1.0, -np.inf, np.inf)), row(a=mark(np.inf))]).axes
    assert all(np.isfinite(line.get_xdata()).all() for line in markers(axis) + bands(axis))


@pytest.mark.parametrize("width", [timeline.WIDE, timeline.NARROW])
def test_no_name_lies_on_another_on_a_marker_or_outside_the_picture(width):
    rng = np.random.default_rng(0)
    rows = [row("a" * 5 + " long name that needs its room", a=mark(0.0, -np.inf, np.inf))]
    for k in range(25):
        at, other = rng.uniform(-10, 10, 2)
        both = {"a": mark(at, at - rng.exponential(2), at + rng.exponential(2)), "b": mark(other)}
        rows.append(row(f"a landmark of $name_{k}"[: 8 + k], **both))
    figure = draw(rows, width=width)
    (axis,) = figure.axes
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    names = [shown for shown in axis.texts if shown.get_text()]
    assert len(names) == len(rows) + 3
    boxes = [shown.get_window_extent(renderer) for shown in names]
    for one, other in combinations(boxes, 2):
        assert not one.overlaps(other)
    for line in markers(axis) + bands(axis):
        drawn = line.get_window_extent(renderer)
        assert not any(drawn.overlaps(box) for box in boxes)
    whole = figure.bbox
    for box in [*boxes, *(shown.get_window_extent(renderer) for shown in figure.legends[0].get_texts())]:
        assert whole.x0 <= box.x0
        assert box.x1 <= whole.x1


@pytest.fixture(scope="module", autouse=True)
def _toys():
    with toys():
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run with forks, and studies: one repeats it, one starts late, and one is of another sampler and network."""
    root = tmp_path_factory.mktemp("answer")
    first = analyse(make_run(root / "data/trajectories/mine.zarr"), root)
    analyse(make_forks(root / "data/forks/forked.zarr", first), root, "likeness")
    plan = CONFIG["plan"]
    learned = {**plan, "runs": [{**plan["runs"][0], "rule": "posterior", "variance": "learned"}]}
    for study, name, config in (
        ("again", "other", CONFIG),
        ("again", "late", {**CONFIG, "start": {"vae": 1}}),
        ("new", "iddpm", {**CONFIG, "model": {"name": "new"}, "plan": learned}),
        ("new", "foreign", {**CONFIG, "model": {"name": "foreign"}}),
    ):
        at = root / "studies" / study
        analyse(make_run(at / f"data/trajectories/{name}.zarr", config=config, seed=5), at)
    return root


@pytest.fixture(scope="module")
def written(place):
    return write(place, place / "report").parent


def test_the_strip_shows_states_and_predictions_at_the_log_snr_they_stand_at(place):
    run = stores.open(place / "data/trajectories/mine.zarr")
    _, strip = draw([row(a=mark(0.0))], timeline.Strip("mine", run)).axes
    half = len(strip.images) // 2
    for name, shown in (("x_t", strip.images[:half]), ("pred_x0", strip.images[half:])):
        for image in shown:
            left, right, *_ = image.get_extent()
            nearest = np.abs(run["log_snr"].to_numpy() - (left + right) / 2).argmin()
            assert left < run["log_snr"][nearest] < right
            expected = run[name][0, nearest, 0].to_numpy()
            np.testing.assert_allclose(image.get_array()[..., 0], (expected.clip(-1, 1) + 1) / 2, atol=1e-6)


def test_the_axis_is_as_long_as_the_run_that_is_shown_and_arrows_point_beyond(place):
    run = stores.open(place / "data/trajectories/mine.zarr")
    rows = [row(a=mark(0.0), b=mark(-40.0, -50.0, -30.0)), row(a=mark(np.inf))]
    axis, _ = draw(rows, timeline.Strip("mine", run)).axes
    low, high = axis.get_xlim()
    assert -20 < low < 0 < high < 20
    pointing = {line.get_marker(): float(line.get_xdata()[0]) for line in axis.lines if line.get_marker() in "<>"}
    assert pointing == {"<": low, ">": high}


def test_runs_of_studies_join_the_process_they_repeat_and_what_is_of_none_stays_out(written):
    index = text(written / "index.html")
    colour = {name: shown for shown, name in re.findall(r'background:(#\w+)"></span>([\w/]+)<', index)}
    assert colour["again/other"] == colour["mine"] == colour["forked"]
    assert colour["again/late"] == colour["new/foreign"] == "#999999"
    assert colour["new/iddpm"] not in (colour["mine"], "#999999")


def test_a_study_that_is_damaged_is_said_and_costs_nothing_else(place, tmp_path, monkeypatch):
    root = shutil.copytree(place, tmp_path / "copy", ignore=shutil.ignore_patterns("report", "new"))
    for chunk in (root / "studies/again/results/other/brightness.zarr/brightness").glob("c.*"):
        chunk.write_bytes(b"x" * 40)
    monkeypatch.setattr(Figure, "savefig", warm.blank)
    index = text(write(root, root / "report"))
    assert "again/results/other" in index
    assert "half of the steps are done" in index


def test_pages_and_numbers_are_of_the_project_alone(written):
    assert not list(written.glob("runs/*other*"))
    assert "again" not in (written / "metrics.json").read_text()


def test_the_first_page_is_light_and_its_picture_is_there_for_talks(written):
    assert (written / "index.html").stat().st_size < BYTES
    shown = images(text(written / "index.html"))
    assert shown.count((written / "answer.png").read_bytes()) == 1
    assert (written / "answer.svg").read_bytes().startswith(b"<?xml")
    assert '<source media="(max-width: 700px)"' in text(written / "index.html")


def test_every_landmark_of_every_run_is_a_line_of_the_file(written):
    found = list(csv.DictReader((written / "landmarks.csv").open(encoding="utf-8")))
    assert tuple(found[0]) == answer.COLUMNS
    runs = ["mine", "again/late", "again/other", "new/foreign", "new/iddpm"]
    assert [(one["run"], one["name"]) for one in found] == [(r, n) for r in runs for n in ("middle", "last", "never")]
    middle, last, never = found[:3]
    assert float(middle["low"]) < float(middle["log_snr"]) < float(middle["high"])
    assert (last["low"], never["log_snr"], never["timestep"]) == ("", "", "")
    assert (middle["network"], middle["meaning"]) == ("digits", "half of the steps are done")


def test_ends_of_the_process_are_infinite_in_the_file():
    entry = Entry("mine")
    summary = answer.Summary(landmarks={"q": [mark(np.inf, -np.inf, np.inf)]})
    (found,) = csv.DictReader(io.StringIO(answer.as_csv([entry], {"mine": summary}, {"q": None}).decode()))
    assert (found["log_snr"], found["low"], found["high"]) == ("inf", "-inf", "inf")


def compared(*verdicts):
    """Comparisons of landmarks that are named RUN.LANDMARK, such as a.x."""
    timed = {}
    for name in dict.fromkeys(name for *pair, _ in verdicts for name in pair):
        run, landmark = name.split(".")
        times = Times(*np.zeros((3, 1)))
        timed[name] = answer.Timed(answer.Cell(run, "q", Entry(run), mark(0.0, name=landmark, short=landmark)), times)
    found = [answer.Comparison(timed[a], timed[b], Order(9, 9, 0, 1.0, 2.0, said)) for a, b, said in verdicts]
    parts = words.sentences(found, LOOK.colours).replace("</b>", ": ").split("<p>")[1:]
    return [re.sub("<[^>]*>", "", part.replace("</li><li>", "; ")) for part in parts]


def test_an_order_is_said_in_the_order_in_which_things_come():
    fixed, agree, cannot = compared(("a.x", "a.y", BEFORE), ("a.x", "a.z", BEFORE), ("a.y", "a.z", BEFORE))
    assert fixed == "In a fixed order over samples come: in a: x (0.0), then y (0.0), then z (0.0)"
    assert agree == "No two landmarks surely agree to within 0.5 of log SNR."
    assert cannot == "Of all other pairs it can be told which comes first."


def test_what_comes_later_than_it_is_likely_to_is_said_in_its_sure_order():
    fixed, *_ = compared(("a.x", "a.y", AFTER))
    assert fixed == "In a fixed order over samples come: in a: y (0.0), then x (0.0)"


def test_ties_and_doubts_are_in_no_order():
    fixed, agree, _ = compared(("a.x", "a.y", BEFORE), ("a.x", "a.z", BEFORE), ("a.y", "a.z", AGREE))
    assert fixed == "In a fixed order over samples come: in a: x (0.0), then y (0.0) or z (0.0)"
    assert agree == "To within 0.5 of log SNR agree: in a: y and z"
    fixed, _, cannot = compared(("a.x", "a.y", CANNOT_TELL))
    assert fixed == "No two landmarks come in an order that is sure."
    assert cannot == "It cannot be told which comes first: in a: x and y"


def test_one_landmark_is_compared_between_runs():
    fixed, _, cannot = compared(("a.x", "b.x", BEFORE), ("a.y", "b.y", CANNOT_TELL), ("a.x", "a.y", CANNOT_TELL))
    assert fixed == "In a fixed order over samples come: x: a (0.0), then b (0.0)"
    assert cannot == "It cannot be told which comes first: y: a and b; in a: x and y"


def test_many_pairs_in_doubt_are_counted():
    *_, cannot = compared(*((f"a.{i}", f"a.{j}", CANNOT_TELL) for i, j in combinations("wxyz", 2)))
    assert cannot == "It cannot be told which comes first: in a: 6 of 6 pairs"


def test_all_that_is_compared_is_paid_for():
    times = {
        name: Times(np.arange(6), np.full(6, at), np.full(6, at + 1)) for name, at in (("x", 0), ("y", 5), ("z", 9))
    }
    cells = [
        answer.Cell("a", "q", Entry("a"), mark(0.0, name=name).called(name, lambda name=name: times[name]))
        for name in ("z", "x", "y")
    ]
    two = answer.comparisons(cells[:2], None, [])
    assert [(one.first.cell.mark.name, one.second.cell.mark.name) for one in two] == [("x", "z")]
    assert two[0].order.verdict == BEFORE
    assert {one.order.verdict for one in answer.comparisons(cells, None, [])} == {CANNOT_TELL}  # six samples, thrice


def test_the_order_is_told_only_where_intervals_are_apart():
    places = {"C": (2.0, 1.9, 2.1), "A": (0.0, -0.1, 0.1), "B": (1.0, 0.05, 1.5), "D": (3.0,)}
    marks = [Landmark(meaning, meaning, 1.0, *at) for meaning, at in places.items()]
    told = re.findall(r"<li>(\w): .*?(cannot tell)?\)?(?:</span>)?</li>", words.in_order("a", marks, LOOK.colours))
    assert told == [("A", ""), ("B", "cannot tell"), ("C", ""), ("D", "cannot tell")]
    assert "<b>−0.5</b> (the start to 0.1)" in words.place(mark(-0.5, -np.inf, 0.1))
    assert words.in_order("a", [mark(np.nan)], LOOK.colours) == ""


def test_what_cannot_be_said_is_said():
    said = words.unsaid([row(a=mark(np.nan), b=mark(1.0)), row(a=mark(1.0), b=mark(2.0))])
    assert "Not reached, or not seen: it happens, in a." in said
    assert "not known: it happens, in b; it happens, wherever it was looked for." in said
    assert words.unsaid([row(a=mark(1.0, 0.0, 2.0))]) == ""
