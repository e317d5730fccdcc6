"""What ships in data/: as much as is said, in the right form, and nothing twice."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter, defaultdict

import pytest
from conftest import ROOT
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline

DATA = ROOT / "data"
LONGEST_SHARED = 7  # words in a row
GREETING = re.compile(r"^(hi|hello|dear|good (morning|afternoon|evening|day))\b")


def lines(name: str) -> list[dict]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


def reviews() -> list[dict[str, str]]:
    with open(DATA / "reviews.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("name", "key", "least", "kinds"), [
    ("support.jsonl", "topic", 150, 12), ("posts.jsonl", "topic", 100, 12), ("lessons.jsonl", "subject", 100, 10)
])  # fmt: skip
def test_the_dialogues(name, key, least, kinds):
    entries = lines(name)
    topics = Counter(entry[key] for entry in entries)
    assert len(entries) >= least and len(topics) >= kinds
    assert max(topics.values()) <= 0.15 * len(entries)
    for entry in entries:
        roles = [message["role"] for message in entry["messages"]]
        turns = roles[1:] if roles[0] == "system" else roles
        assert turns == ["user", "assistant"] * (len(turns) // 2) and turns
        assert all(message["content"].strip() for message in entry["messages"])
    if name == "support.jsonl":
        assert all(len(entry["messages"]) >= 4 for entry in entries)


def test_the_reviews():
    rows = reviews()
    assert len(rows) >= 600 and list(rows[0]) == ["text", "label", "rating"]
    labels = Counter(row["label"] for row in rows)
    assert set(labels) == {"positive", "negative"} and min(labels.values()) >= 0.45 * len(rows)
    for row in rows:
        rating = float(row["rating"])
        assert 1 <= rating <= 5 and (rating >= 3 if row["label"] == "positive" else rating <= 3)


def test_a_linear_model_finds_the_reviews_neither_trivial_nor_hopeless():
    rows = reviews()
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10, max_iter=1000)
    )
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    accuracy = cross_val_score(model, [r["text"] for r in rows], [r["label"] for r in rows], cv=folds).mean()
    assert 0.75 <= accuracy <= 0.90


def test_no_two_entries_share_eight_words_in_a_row():
    texts = {f"reviews {i}": [row["text"]] for i, row in enumerate(reviews())}
    for name in ("support.jsonl", "posts.jsonl", "lessons.jsonl"):
        for i, entry in enumerate(lines(name)):
            texts[f"{name} {i}"] = [message["content"] for message in entry["messages"]]
    found = defaultdict(set)
    for where, contents in texts.items():
        for content in contents:
            words = re.findall(r"\w+", content.casefold().replace("'", ""))
            for i in range(len(words) - LONGEST_SHARED):
                run = " ".join(words[i : i + LONGEST_SHARED + 1])
                if not GREETING.match(run):
                    found[run].add(where)
    shared = {run: places for run, places in found.items() if len(places) > 1}
    assert not shared
    assert len(found) > 20_000
