"""Equal training time, computed from times that are given here; and the budget of a study."""

from __future__ import annotations

import pytest
from conftest import TEXT

from mingpt import budget
from mingpt.budget import EVALUATIONS, Budget, Timer, equal_updates, whole_intervals
from mingpt.config import TrainConfig
from mingpt.resolve import Facts, resolve
from mingpt.tasks.text import TextTask
from mingpt.tuning.journal import Journal

FACTS = Facts(TextTask, tokens=50_000)


class FakeTimer:
    """An update of n layers takes n / 10 s and an evaluation n s; the clock runs slower from round to round."""

    made = 0

    def __init__(self, asked):
        self.layers, self.rounds = asked.n_layer, 0
        FakeTimer.made += 1

    def time_updates(self):
        self.rounds += 1
        return self.layers / 10 * self.rounds

    def time_evaluation(self):
        return float(self.layers)


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
    machine = dict(data="fox.txt", n_head=2, n_embd=16, block_size=16, device="cpu", dtype="float32", threads=1)
    timer = Timer(TrainConfig(**machine))
    assert timer.state.progress.step == budget.WARM_UP
    assert 0 < timer.time_updates() < 1 and timer.state.progress.step == budget.WARM_UP + budget.UPDATES
    assert 0 < timer.time_evaluation() < 10
    small, large = (
        equal_updates(
            TrainConfig(**machine),
            TrainConfig(
                n_layer=2,
                n_embd=n,
                n_head=2,
                **{k: machine[k] for k in ("data", "device", "dtype", "threads")},
                block_size=16,
                batch_size=b,
            ),
            FACTS,
            800,
        )
        for n, b in ((16, 1), (256, 64))
    )
    assert small > 10 * large >= EVALUATIONS
    assert [path.name for path in tmp_path.iterdir()] == ["fox.txt"]


def test_a_multiple_of_the_evaluations_and_at_least_one_of_each():
    assert [whole_intervals(n) for n in (-5, 0, 7.9, 8, 15.9, 16, 1003)] == [8, 8, 8, 8, 8, 16, 1000]


@pytest.mark.parametrize(
    ("minutes", "max_iters", "updates", "seeds"),
    [
        (15, None, 3496, 2),  # the whole run of the defaults, 0.02 * 3496 + 8 * 0.5 s
        (6, None, 1296, 2),  # a twelfth of six minutes
        (15, 500, 496, 8),
        (None, 500, 496, 8),
        (1, 5000, 5000, 2),  # as asked for, whatever the time
    ],
)
def test_runs_are_shortened_where_the_time_is_short(tmp_path, monkeypatch, minutes, max_iters, updates, seeds):
    class Quick(FakeTimer):
        def time_updates(self):
            return 0.02

        def time_evaluation(self):
            return 0.5

    monkeypatch.setattr(budget, "Timer", Quick)
    asked = TrainConfig(max_iters=max_iters)
    journal = Journal(tmp_path)
    first = Budget(asked, resolve(asked, FACTS), minutes, journal)
    assert (first.updates, first.seeds) == (updates, seeds)
    assert first.run_seconds == pytest.approx(0.02 * updates + 8 * 0.5)
    monkeypatch.setattr(budget, "Timer", None)  # a study that is resumed does not measure again
    again = Budget(asked, resolve(asked, FACTS), minutes, journal)
    assert (again.updates, again.run_seconds) == (first.updates, first.run_seconds)


def test_no_trial_starts_that_leaves_no_time_for_the_confirmation(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(budget.time, "monotonic", lambda: now[0])
    journal = Journal(tmp_path)
    journal.set_attribute("updates", 1000)
    journal.set_attribute("run_seconds", 30.0)
    limited = Budget(TrainConfig(), TrainConfig(), 10, journal)
    trials = 0
    while limited.may_start():
        now[0] += 25
        trials += 1
    left = 600 - (now[0] - 100)
    assert 2 * limited.seeds * 30 - 25 <= left <= 2 * limited.seeds * 30 + 25 and trials > 10
    limited.save()
    now[0] = 0.0
    assert not Budget(TrainConfig(), TrainConfig(), 10, journal).may_start()  # the time of all its processes
    assert Budget(TrainConfig(), TrainConfig(), 20, journal).may_start()
    assert Budget(TrainConfig(), TrainConfig(), None, journal).may_start()
