"""Text regression: the unit of its metrics, the strata that are held out, the folder in transformers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import read_metrics
from test_classify import SMALL, assert_equal_scores, fit, make_task, write_reviews

from mingpt import GPT
from mingpt.data.tables import number_of, read_rows
from mingpt.files import read_json


def test_it_learns_in_the_unit_of_the_data_and_transformers_computes_equal_scores(tmp_path):
    path, folder = write_reviews(tmp_path / "soup.csv"), tmp_path / "out"
    task = fit("regress", path, **SMALL, loss="huber", max_iters=80, eval_interval=40, out_dir=str(folder))
    best = min(read_metrics(folder), key=lambda row: row["rmse"])
    assert best["rmse"] < 0.5 and best["r2"] > 0.8
    model, saved = GPT.from_pretrained(folder), read_json(folder / "config.json")
    line, unit, command = task.report(model, folder)
    assert line.startswith(f"validation part: RMSE {best['rmse']:.4g}, MAE {best['mae']:.4g}, R2 {best['r2']:.3f}")
    assert "multiply by target_std and add target_mean" in unit and f"mingpt.predict {folder} --file {path}" in command
    config = assert_equal_scores(folder, task)
    assert config.problem_type == "regression" and config.id2label == {0: "rating"}
    train_part = np.array([number for _, number in task.data.train])
    assert (saved["target_mean"], saved["target_std"]) == pytest.approx((train_part.mean(), train_part.std()))
    errors = []
    for ids, number in task.data.validation:
        with torch.no_grad():
            score = model.score(model.hidden_states(torch.tensor(ids[-32:].astype(int))[None])[0, -1]).item()
        errors.append(score * saved["target_std"] + saved["target_mean"] - number)
    assert np.sqrt(np.square(errors).mean()) == pytest.approx(best["rmse"], abs=1e-4)
    standardized = torch.tensor(errors) / train_part.std()
    loss = torch.nn.functional.huber_loss(standardized, torch.zeros_like(standardized)).item()
    assert loss == pytest.approx(best["val_loss"], abs=1e-5)


def test_a_tenth_of_each_quantile_is_held_out_and_the_column_is_rating_or_label(tmp_path):
    path = tmp_path / "n.csv"
    numbers = np.random.default_rng(0).lognormal(0, 2, 200).round(3)
    for column in ("rating", "label"):
        path.write_text(f"text,{column}\n" + "".join(f"word {n},{n}\n" for n in numbers), encoding="utf-8")
        task = make_task("regress", path)
        assert task.config.label_column == column and task.config.text_column == "text"
        assert [number_of(row, column) for row in read_rows(path)] == numbers.tolist()
        ranks = np.searchsorted(np.sort(numbers), [number for _, number in task.data.validation])
        assert np.bincount(ranks // 20, minlength=10).tolist() == [2] * 10
