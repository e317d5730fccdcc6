"""The picture of a study: what is marked in it, that no text meets another, and how its axes are stretched."""

from __future__ import annotations

import itertools
import math
import sys
import warnings

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread
from matplotlib.markers import MarkerStyle
from matplotlib.text import Text
from test_report import MIXED, bowl, study_of, trials_of

from mingpt.tuning import Choice, Float, Int, Space, Trial, pictures
from mingpt.tuning.axes import Scale, number, ticks


def wide(config) -> float:
    return 10 ** (4 * config["a"]) * (1 + config["b"]) - 1.5


STUDIES = {
    "one parameter": (Space({"x": Float(0, 1)}), lambda: trials_of(Space({"x": Float(0, 1)}), lambda p: p["x"], 12)),
    "one trial": (MIXED, lambda: trials_of(MIXED, bowl, 1)),
    "all the same": (MIXED, lambda: trials_of(MIXED, lambda p: 2.5, 6)),
    "every state": (MIXED, lambda: study_of(40)),
    "wide": (
        Space({"a": Float(0, 1), "b": Float(0, 1)}),
        lambda: trials_of(Space({"a": Float(0, 1), "b": Float(0, 1)}), wide, 30),
    ),
    "huge": (MIXED, lambda: [Trial(t.number, t.config, "done", 10.0 ** (10 * t.number)) for t in study_of(14)]),
    "eight": (
        eight := Space(
            {
                "words": Choice("/home/somebody/texts/shakespeare.txt", "$a_1$ and $b$", "pydoc", "$", "日本"),
                "a_name_that_is_longer_than_" + "any_that_a_person_would_write_" * 3: Float(1e-9, 1e9, log=True),
                "many": Choice(*(f"word {i}" for i in range(40))),
                "wide": Int(0, 100_000),
                "narrow": Float(0.12345, 0.12346),
                "steps": Float(0, 1, step=0.05),
                "numbers": Choice(1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610),
                "under": Int(1, 30, log=True, when={"words": ["pydoc", "$"], "steps": [0.0, 0.05]}),
            }
        ),
        lambda: study_of(200, eight, lambda p: 1 + p["wide"] / 1e5 + 1e6 * (p["steps"] > 0.97)),
    ),
}


def drawn(monkeypatch, space, history, folder, value_name="bits_per_byte"):
    """The figure that is saved as pictures.png, and its panels."""
    figures = []
    save = pictures.save
    monkeypatch.setattr(pictures, "save", lambda figure, path: (figures.append(figure), save(figure, path)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pictures.draw(space, history, folder, value_name) == str(folder / "pictures.png")
    return figures[0], figures[0].axes


@pytest.mark.parametrize("name", STUDIES)
def test_a_picture_is_whole_and_no_text_meets_another(name, monkeypatch, tmp_path):
    space, history = STUDIES[name][0], STUDIES[name][1]()
    figure, panels = drawn(monkeypatch, space, history, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["pictures.png"]
    image = imread(tmp_path / "pictures.png")
    assert image.shape[1] == 1440
    for panel in panels:
        x0, y0, x1, y1 = (panel.get_window_extent().extents * 120 / figure.dpi).astype(int)
        inside = image[image.shape[0] - y1 : image.shape[0] - y0, x0:x1, :3]
        assert (inside.std() > 0.01) == panel.axison  # something is drawn in each panel

    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        canvas.draw()
    renderer = canvas.get_renderer()
    texts = [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]
    assert not any("$" in text.get_text() and text.get_parse_math() for text in texts)
    hidden = {id(t) for panel in panels for axis in (panel.xaxis, panel.yaxis) for t in out_of_sight(axis)}
    boxes = [(t.get_text(), corners(t, renderer)) for t in texts if id(t) not in hidden]
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        assert not meet(a, b), (one, other)
    for text, box in boxes:
        assert (box >= -1).all() and (box <= figure.bbox.size + 1).all(), text


def out_of_sight(axis):
    """Tick labels that matplotlib keeps and does not draw."""
    low, high = sorted(axis.get_view_interval())
    for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
        shown = {tick.label1: tick.label1.get_visible() and low <= tick.get_loc() <= high, tick.label2: False}
        yield from (label for label, is_shown in shown.items() if not (is_shown and axis.axes.axison))


def corners(text, renderer):
    """The corners (4, 2) of a text, turned as it is."""
    angle, place = text.get_rotation(), text.get_rotation_mode()
    if angle % 90 == 0:
        return text.get_window_extent(renderer).corners()[[0, 1, 3, 2]]
    assert (place, text.get_ha()) == ("anchor", "right")
    text.set_rotation(0)
    flat = text.get_window_extent(renderer).corners()[[0, 1, 3, 2]]
    text.set_rotation(angle)
    pivot = text.get_transform().transform(text.get_position())
    turn = math.radians(angle)
    return (flat - pivot) @ np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]]) + pivot


def meet(a, b) -> bool:
    """Whether two rectangles (4, 2), each turned in its way, have a point in common: no side separates them."""
    for box in (a, b):
        for side in (box[1] - box[0], box[3] - box[0]):
            across_a, across_b = a @ side, b @ side
            if across_a.max() <= across_b.min() or across_b.max() <= across_a.min():
                return False
    return True


def test_every_trial_is_marked(monkeypatch, tmp_path):
    history = study_of(40)
    _, panels = drawn(monkeypatch, MIXED, history, tmp_path)
    marks = np.concatenate([np.asarray(c.get_offsets()) for c in panels[0].collections])
    ended = [trial for trial in history if trial.state != "running"]
    best = min((t for t in history if t.state == "done"), key=lambda t: t.value)
    assert sorted(marks[:, 0]) == sorted([*(t.number for t in ended), best.number])
    failed = {trial.number for trial in history if trial.state == "failed"}
    cross = MarkerStyle("x").get_path().transformed(MarkerStyle("x").get_transform()).vertices
    crosses = [c for c in panels[0].collections if np.array_equal(c.get_paths()[0].vertices, cross)]
    assert {(x, y) for c in crosses for x, y in c.get_offsets()} == {(number, pictures.EDGE) for number in failed}
    momentum = next(panel for panel in panels if panel.get_xlabel().startswith("momentum"))
    assert momentum.get_xlabel() == "momentum\nwhere optimizer = sgd"
    active = [trial.config["momentum"] for trial in ended if "momentum" in trial.config]
    marks = np.concatenate([np.asarray(c.get_offsets()) for c in momentum.collections if len(c.get_offsets())])
    assert {round(0.5 + 0.49 * u, 9) for u in marks[:, 0]} >= {round(value, 9) for value in active}


def test_no_picture_without_a_value_or_without_matplotlib(monkeypatch, tmp_path):
    assert pictures.draw(MIXED, [], tmp_path, "value") is None
    assert pictures.draw(MIXED, [Trial(0, {}, "failed"), Trial(1, {})], tmp_path, "value") is None
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    hint = pictures.draw(MIXED, trials_of(MIXED, bowl, 5), tmp_path, "value")
    assert hint == 'none; pip install -e ".[plot]" draws one'
    assert not list(tmp_path.iterdir())


def test_trials_of_another_space_are_drawn_where_they_can_be(monkeypatch, tmp_path):
    _, panels = drawn(monkeypatch, Space({"new": Float(0, 1)}), study_of(20), tmp_path)
    assert [panel.get_xlabel() for panel in panels] == ["trial", "step", "new"]


def test_scales():
    plain = Scale.of([1.7, 1.9, 2.4, 3.0])
    assert (plain.kind, plain.lowest, plain.highest) == ("linear", 1.7, 3.0)
    assert Scale.of([1e-3, 1, 1e3, 1e5]).kind == "log"
    assert Scale.of([-1.0, 0.0, 5.0, 1e3, 1e4, 1e4]).kind == "asinh"
    outlier = Scale.of([*np.linspace(1.8, 2.5, 30), 1e30])
    assert (outlier.kind, outlier.highest) == ("linear", 2.5)
    for scale in (plain, outlier, Scale.of([2.5]), Scale.of([0.0, 0.0]), Scale.of([-1.0, 0.0, 5.0, 1e3, 1e4, 1e4])):
        low, high = scale.ends(0.1, 0.1)
        assert low < scale.lowest <= scale.highest < high
        y = np.array([scale.lowest, scale.highest])
        assert scale.values(scale.stretched(y)) == pytest.approx(y)


@pytest.mark.parametrize(
    ("parameter", "expected"),
    [
        (Float(1e-5, 1, log=True), "1e-5 1e-4 0.001 0.01 0.1 1"),
        (Float(10, 500, log=True), "10 20 50 100 200 500"),
        (Float(0, 1), "0 0.2 0.4 0.6 0.8 1"),
        (Float(0.12345, 0.12346), "0.12345 0.123452 0.123454 0.123456 0.123458 0.12346"),
        (Int(1, 4), "1 2 3 4"),
        (Int(16, 256, log=True, step=16), "16 48 96 192"),
        (Choice(32, 8, 16), "8 16 32"),
        (Choice("b", "a"), "b a"),
    ],
)
def test_ticks(parameter, expected):
    positions, texts, is_slanted = ticks(parameter, room=70)
    assert (" ".join(texts), is_slanted) == (expected, False)
    for position, text in zip(positions, texts, strict=True):
        value = parameter.value(position)
        assert (value if isinstance(value, str) else number(value)) == text.replace("1e-4", "0.0001")


def test_ticks_where_there_is_little_room():
    _, texts, is_slanted = ticks(Choice("adamw", "sgd", "muon"), room=15)
    assert (texts, is_slanted) == (["adamw", "sgd", "muon"], True)
    positions, texts, is_slanted = ticks(Int(0, 1000, step=10), room=15)
    assert 2 <= len(texts) < 5 and not is_slanted
    for i in range(1, len(texts)):
        assert (positions[i] - positions[i - 1]) * 15 > (len(texts[i]) + len(texts[i - 1])) / 2
