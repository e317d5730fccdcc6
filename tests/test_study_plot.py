"""The picture of a study: every trial lies within its axes, and no text meets another."""

from __future__ import annotations

import itertools
import math
import sys

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from test_output import MIXED, bowl, study_of, trials_of

from mingpt.tuning import Choice, Float, Int, Space, bayesian
from mingpt.tuning.output import best_trials, importance, shorten
from mingpt.tuning.plot import plot_study

TWELVE = {
    "words": Choice("/home/somebody/texts/shakespeare.txt", "$a_1$ and $b$", "pydoc", "$"),
    "$x^": Float(1e-9, 1e9, log=True),
    "a_name_that_is_longer_than_any_that_a_person_would_write": Float(3e-4, 3e-3, log=True),
    "many": Choice(*(f"word {i}" for i in range(40))),
    "under": Int(1, 30, log=True, when={"words": ["pydoc"]}),
    **{f"x{i}": Float(0, 10.0**i) for i in range(7)},
}
LINE = Space({"x": Float(0, 1)})
STUDIES = {  # with the scale of the values
    "one trial": (MIXED, trials_of(MIXED, bowl, 1), "linear"),
    "all equal": (MIXED, trials_of(MIXED, lambda _: 2.5, 6), "linear"),
    "every state": (MIXED, study_of(40), "linear"),
    "negative": (LINE, trials_of(LINE, lambda p: -p["x"], 12), "linear"),
    "decades": (LINE, trials_of(LINE, lambda p: 10 ** (9 * p["x"]), 20), "log"),
    "outliers": (MIXED, study_of(30, MIXED, lambda p: 1e30 if p["learning_rate"] > 0.3 else bowl(p)), "symlog"),
    "around zero": (LINE, trials_of(LINE, lambda p: 10 ** (5 * p["x"]) - 3, 20), "symlog"),
    "twelve": (Space(TWELVE), study_of(80, Space(TWELVE), lambda p: 1 + p["x0"] + 1e6 * (p["x1"] > 9)), "symlog"),
}


@pytest.fixture(scope="module", params=STUDIES)
def picture(request, tmp_path_factory):
    figures, save, path = [], Figure.savefig, tmp_path_factory.mktemp("out") / "study.png"
    space, trials, scale = STUDIES[request.param]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda self, *args, **kw: figures.append(self) or save(self, *args, **kw))
        assert plot_study(space, trials, path, "$bits_per") == str(path)
    assert path.read_bytes()[:4] == b"\x89PNG"
    panels = {axes.get_title().split(":")[0]: axes for axes in figures[0].axes if axes.get_visible()}
    assert panels["best"].get_yscale() == scale
    return space, trials, panels


def heights_of(axes) -> list[float]:
    points = [c for c in axes.collections if c.get_label() in ("done", "stopped", "failed", "best")]
    pixels = np.concatenate([c.get_offset_transform().transform(c.get_offsets()) for c in points])
    assert np.all(np.abs(axes.transAxes.inverted().transform(pixels) - 0.5) < 0.5 + 1e-9)  # in sight
    return sorted(y for c in points for _, y in c.get_offsets())


def test_every_trial_lies_within_the_axes(picture):
    space, trials, panels = picture
    y = {t.number: {"stopped": t.lowest, "failed": 1}.get(t.state, t.value) for t in trials if t.state != "running"}
    assert heights_of(panels["best"]) == sorted(y.values())
    for name in space.names:
        active = sorted(y[t.number] for t in trials[: len(y)] if name in t.config)
        assert not active or heights_of(panels[shorten(name, 30)]) == active
    low, high = panels.get("learning curves", panels["best"]).get_ylim()
    assert all(low < y < high for t in trials for _, y in t.curve if math.isfinite(y))
    values = sorted(t.value for t in trials if t.state == "done")
    lower_half = panels["best"].transData.transform([(0, values[0]), (0, values[len(values) // 2])])[:, 1]
    assert np.ptp(lower_half) > 0.15 * panels["best"].bbox.height or values[0] == values[-1]
    lowest = [min(t.value for t in trials[: i + 1] if t.state == "done") for i in range(len(trials))]
    assert panels["best"].lines[0].get_ydata().tolist() == lowest
    bars = panels["importance"].patches if "importance" in panels else []
    assert [bar.get_width() for bar in bars] == list(importance(space, trials).values())


@pytest.mark.parametrize("picture", ["every state", "outliers"], indirect=True)
def test_the_gaussian_process_is_plotted_at_a_parameters_own_values(picture):
    space, trials, panels = picture
    for name in ("learning_rate", "momentum", "n_embd", "n_layer", "optimizer"):
        best = best_trials([t for t in trials if name in t.config], 1)[0]
        (line,) = [line for line in panels[name].lines if line.get_label() == "GP mean"]
        values = {"n_layer": range(1, 9), "optimizer": ["adamw", "sgd", "muon"]}.get(name, line.get_xdata())
        X = np.array([space.point({**best.config, name: value}) for value in values])
        assert line.get_ydata() == pytest.approx(bayesian.posterior(space, trials).values(space.snap(X)), rel=1e-3)
        assert panels[name].get_xscale() == ("log" if name in ("learning_rate", "n_embd") else "linear")


def test_no_text_meets_another_or_is_parsed_as_math(picture):
    figure, drawn = picture[-1]["best"].figure, []
    renderer = FigureCanvasAgg(figure).get_renderer()
    renderer.draw_text = lambda gc, x, y, text, font, angle, ismath, mtext: drawn.append((mtext, text, ismath))
    figure.draw(renderer)
    assert not any(is_math and "mathdefault" not in text for _, text, is_math in drawn)
    boxes = [(artist.get_window_extent(renderer), artist.get_rotation()) for artist, _, _ in drawn]
    for (a, tilt), (b, lean) in itertools.combinations(boxes, 2):
        assert not a.overlaps(b) or tilt == lean == 30


def test_the_hint_without_matplotlib(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert plot_study(MIXED, study_of(5), tmp_path / "a.png", "loss").startswith("none; install it with pip")
