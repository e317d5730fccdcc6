"""Equal training time, computed from times that are given here; and the budget of a study."""

from __future__ import annotations

import pytest
from conftest import TEXT

from mingpt import budget
from mingpt.budget import EVALUATIONS, Budget, Timer, equal_updates, measure, whole_intervals
from mingpt.config import TrainConfig
from mingpt.errors import UserError
from mingpt.resolve import Facts, resolve
from mingpt.tasks.text import TextTask
from mingpt.tuning.journal import Journal

FACTS = Facts(TextTask, tokens=50_000)


class FakeTimer:
    """An update of n layers takes n / 10 s and an evaluation n s; from round to round the machine gets slower."""

    made = 0

    def __init__(self, asked):
        self.layers, self.rounds = asked.n_layer, 0
        FakeTimer.made += 1

    def time_updates(self):
        self.rounds += 1
        return self.layers / 10 * self.rounds

    def time_evaluation(self):
        return float(self.layers * self.rounds)


def test_every_configuration_takes_as_long_as_the_defaults(monkeypatch):
    monkeypatch.setattr(budget, "Timer", FakeTimer)
    for updates in (400, 1000):
        for layers in range(1, 9):
            config = TrainConfig(n_layer=layers)
            n = equal_updates(TrainConfig(n_layer=2), config, FACTS, updates)
            seconds, expected = (0.1 * k * m + EVALUATIONS * k for k, m in ((layers, n), (2, updates)))
            assert n % EVALUATIONS == 0 and expected - EVALUATIONS * 0.1 * layers < seconds <= expected + 1e-6


def test_what_costs_no_time_is_not_timed(monkeypatch):
    monkeypatch.setattr(budget, "Timer", FakeTimer)
    FakeTimer.made = 0
    free = dict(learning_rate=0.1, momentum=0.9, seed=3, label_smoothing=0.1, schedule="cosine", warmup_iters=9)
    for name, value in free.items():
        assert equal_updates(TrainConfig(), TrainConfig(**{name: value}), FACTS, 400) == 400
    assert equal_updates(TrainConfig(), TrainConfig(n_layer=2, tokenizer="char"), FACTS, 400) == 400  # the defaults
    assert FakeTimer.made == 0
    for name, value in dict(n_layer=3, batch_size=8, optimizer="sgd", tokenizer="byte", attention="fused").items():
        equal_updates(TrainConfig(), TrainConfig(**{name: value}), FACTS, 400)
    assert FakeTimer.made == 10


def test_a_real_run_is_timed_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fox.txt").write_text(TEXT, encoding="utf-8")
    machine = dict(data="fox.txt", n_head=2, block_size=16, device="cpu", dtype="float32", threads=1)
    timer = Timer(TrainConfig(**machine, n_embd=16))
    assert timer.state.progress.step == budget.WARM_UP
    assert 0 < timer.time_updates() < 1 and timer.state.progress.step == budget.WARM_UP + budget.UPDATES
    assert 0 < timer.time_evaluation() < 10
    small, large = (
        equal_updates(TrainConfig(**machine, n_embd=16), TrainConfig(**machine, n_embd=n, batch_size=b), FACTS, 800)
        for n, b in ((16, 1), (256, 64))
    )
    assert small > 10 * large >= EVALUATIONS
    assert [path.name for path in tmp_path.iterdir()] == ["fox.txt"]


def test_a_multiple_of_the_evaluations_and_at_least_one_of_each():
    assert [whole_intervals(n) for n in (-5, 0, 7.9, 8, 15.9, 16, 1003)] == [8, 8, 8, 8, 8, 16, 1000]


@pytest.mark.parametrize(
    ("minutes", "max_iters", "updates", "seeds", "scale"),
    [
        (15, None, 3496, 2, 1),  # the whole run of the defaults, 0.02 * 3496 + 8 * 0.5 s
        (6, None, 1296, 2, 3500 / 1304),  # a twelfth of six minutes
        (15, 500, 496, 8, 1),
        (None, 500, 496, 8, 1),
    ],
)
def test_runs_are_shortened_where_the_time_is_short(tmp_path, monkeypatch, minutes, max_iters, updates, seeds, scale):
    monkeypatch.setattr(budget, "time_in_turn", lambda asked: [(0.02, 0.5)])
    asked = TrainConfig(max_iters=max_iters)
    resolved = resolve(asked, FACTS)
    journal = Journal(tmp_path, measure(asked, resolved, minutes))
    first = Budget(journal, resolved, minutes)
    assert (first.updates, first.seeds, first.scale) == (updates, seeds, pytest.approx(scale))
    assert first.run_seconds == pytest.approx(0.02 * updates + 8 * 0.5)


def test_minutes_that_are_too_few_for_what_was_asked_for_are_refused(monkeypatch):
    monkeypatch.setattr(budget, "time_in_turn", lambda asked: [(0.02, 0.5)])
    asked = TrainConfig(max_iters=5000)
    with pytest.raises(UserError, match="--minutes 1: are too few for runs of 104 s; needs 11"):
        measure(asked, asked, 1)
    assert measure(asked, asked, 11) == measure(asked, asked, None) == {"updates": 5000, "run_seconds": 104.0}


def test_no_trial_starts_that_leaves_no_time_for_the_confirmation(tmp_path, monkeypatch):
    now, defaults = [100.0], TrainConfig(max_iters=1000)
    monkeypatch.setattr(budget.time, "monotonic", lambda: now[0])
    journal = Journal(tmp_path, {"updates": 1000, "run_seconds": 30.0})
    limited = Budget(journal, defaults, 10)
    trials = 0
    while limited.may_start():
        now[0] += 25
        trials += 1
    left = 600 - (now[0] - 100)
    assert 2 * limited.seeds * 30 - 25 <= left <= 2 * limited.seeds * 30 + 25 and trials > 10
    limited.save()
    now[0] = 0.0
    assert not Budget(journal, defaults, 10).may_start()  # the time of all its processes
    assert Budget(journal, defaults, 20).may_start() and Budget(journal, defaults, None).may_start()
