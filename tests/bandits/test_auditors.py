"""Panels of auditors: what they report, by its definition."""

from __future__ import annotations

import numpy as np
import pytest

from heedful.bandits import LinearRules, Panel
from heedful.bandits.auditors import frontier, pooled


def test_panels_refuse_people_and_policies_that_do_not_fit() -> None:
    panel, people = Panel.random(3, 5, np.random.default_rng(0)), np.full((4, 3), 0.5)
    assert panel.report(people.tolist(), [0.9, 0.1, 0.1, 0.1]) == (0, 1)
    for bad in (np.ones((4, 2)), np.ones((4, 6)), np.ones(3), np.full((4, 3), np.nan), "people"):
        for ask in (panel.tolerances, panel.distances, lambda who: panel.report(who, np.zeros(4))):
            with pytest.raises(ValueError, match="people"):
                ask(bad)
    for policy in (np.zeros(3), np.zeros(8), [0.1, 0.2, 0.3, np.nan], [0.1, 0.2, 0.3, 1.1], "policy"):
        with pytest.raises(ValueError, match="treatment"):
            panel.report(people, policy)
    with pytest.raises(ValueError, match="slack"):
        Panel([[1.0, 2.0]], [0.1, 0.1])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="weights: must be an array of numbers"):
        LinearRules("rules", [0.0])  # type: ignore[arg-type]


def test_an_auditor_who_takes_groups_for_different_reports_nothing_between_them() -> None:
    rng = np.random.default_rng(3)
    biased, people = Panel.random(3, 1, rng, group=0.5), rng.uniform(size=(6, 3))
    people[:, 2] = [0, 1, 0, 1, 0, 1]
    apart = biased.tolerances(people)[people[:, 2][:, None] != people[:, 2]]
    assert (apart == 1.0).all()


def test_auditors_by_their_definition() -> None:
    rng = np.random.default_rng(11)
    for _ in range(200):
        m, k, alpha, gamma = rng.integers(1, 6), rng.integers(1, 5), rng.uniform(0, 0.3), rng.uniform(0.05, 1)
        panel = Panel(rng.dirichlet(np.ones(3), m), rng.uniform(0, 0.3, m), alpha, gamma)
        people, treatment = rng.uniform(size=(k, 3)), rng.uniform(size=k)
        distances = np.minimum(
            1.0,
            2 * np.abs(people[:, None] - people).dot(panel.weights.T).transpose(2, 0, 1) + panel.slack[:, None, None],
        )
        violated = {
            (a, b)
            for a in range(k)
            for b in range(k)
            if a != b and (treatment[a] - treatment[b] > distances[:, a, b] + alpha).mean() >= gamma - 1e-12
        }
        found = panel.report(people, treatment)
        assert (found is None) == (not violated) and (found is None or found in violated)
        assert not any((b, a) in violated for a, b in violated)
        order = rng.permutation(m)
        same = Panel(panel.weights[order], panel.slack[order], alpha, gamma)
        assert same.report(people, treatment) == found
        places = rng.permutation(k)
        moved = panel.report(people[places], treatment[places])
        assert moved is None if found is None else (places[moved[0]], places[moved[1]]) == found
        off = ~np.eye(k, dtype=bool)
        assert panel.distances(people)[:, off] == pytest.approx(distances[:, off], abs=1e-12)
        assert pooled(panel.distances(people), gamma) == pytest.approx(panel.tolerances(people), abs=1e-15)


def test_who_is_never_reported() -> None:
    rng = np.random.default_rng(12)
    people = rng.uniform(size=(4, 3))
    strict = Panel(np.zeros((2, 3)), np.zeros(2), alpha=0.0)
    assert strict.report(people, np.full(4, 0.3)) is None  # equal treatment, even where all are alike
    assert strict.report(people, np.array([0.3, 0.3, 0.3, 0.4])) in {(3, 0), (3, 1), (3, 2)}
    assert Panel(np.zeros((2, 3)), np.zeros(2), alpha=1.0).report(people, np.array([0, 1.0, 0, 1])) is None
    assert strict.report(people[:1], np.array([0.7])) is None  # there is no pair
    for constant in (0.0, 1.0):
        assert strict.report(people, np.full(4, constant)) is None
    split = Panel(np.zeros((2, 3)), np.array([0.0, 1.0]), alpha=0.0)
    assert Panel(split.weights, split.slack, 0.0, gamma=1.0).report(people, np.array([0, 1.0, 0, 0])) is None
    assert split.report(people, np.array([0, 1.0, 0, 0])) is not None


def test_the_frontier_says_what_other_panels_would_have_reported() -> None:
    rng = np.random.default_rng(13)
    panel = Panel.random(4, 5, rng)
    people, treatments = rng.uniform(size=(60, 4, 4)), rng.uniform(size=(60, 4))
    distances = np.stack([panel.distances(row) for row in people])
    alphas, gammas = [0.0, 0.1, 0.4], [0.2, 0.5, 1.0]
    found = panel.frontier(people, treatments, alphas, gammas)
    assert np.array_equal(found, frontier(treatments.tolist(), distances.tolist(), alphas, gammas))
    assert np.array_equal(panel.frontier(people, treatments, 0.1, 0.5), found[1:2, 1:2])
    for i, alpha in enumerate(alphas):
        for j, gamma in enumerate(gammas):
            asked = Panel(panel.weights, panel.slack, alpha, gamma)
            reports = [asked.report(row, treatment) is not None for row, treatment in zip(people, treatments)]
            assert found[i, j] == np.mean(reports)
    assert (np.diff(found, axis=0) <= 0).all() and (np.diff(found, axis=1) <= 0).all()


def test_a_frontier_of_what_does_not_fit_is_refused_by_name() -> None:
    panel = Panel.random(3, 5, np.random.default_rng(0))
    people, treatments = np.full((6, 2, 3), 0.5), np.full((6, 2), 0.5)
    distances = np.zeros((6, 5, 2, 2))
    good = {"treatments": treatments, "distances": distances, "alphas": [0.1], "gammas": [0.5]}
    for name, bad, message in (
        ("treatments", treatments[0], r"must have shape \[T, k\]"), ("treatments", [], r"must have shape \[T, k\]"),
        ("treatments", treatments + 1, r"must be in \[0, 1\]"), ("treatments", treatments * np.nan, "must be in"),
        ("treatments", "all", "must be an array of numbers"),
        ("distances", distances[0], r"must have shape \[T, m, k, k\]"), ("distances", distances[:, :0], "one auditor"),
        ("distances", distances[..., :1], "must have shape"),
        ("distances", distances[:5], r"must have shape \[6, m, 2, 2\]"),
        ("distances", distances + 2, r"must be in \[0, 1\]"),
        ("distances", "far", "must be an array of numbers"),
        ("alphas", [0.1, np.nan], r"=nan: must be a number in \[0, 1\]"), ("alphas", 1.5, "=1.5"),
        ("alphas", [[0.1]], "must be a list"), ("alphas", ["a"], "must be an array of numbers"),
        ("gammas", [0.0], r"=0.0: must be a number in \(0, 1\]"), ("gammas", np.nan, "=nan"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"{name}.*{message}"):
            frontier(**{**good, name: bad})  # type: ignore[arg-type]
    for arrived in (people[0], people[:0], people[..., :2], "people", people * np.nan):
        with pytest.raises(ValueError, match="people: must"):
            panel.frontier(arrived, treatments, 0.1, 0.5)
    with pytest.raises(ValueError, match=r"treatments: must have shape \[6, 2\], has \[5, 2\]"):
        panel.frontier(people, treatments[:5], 0.1, 0.5)
    with pytest.raises(ValueError, match="distances: must be an array of numbers"):
        pooled("x", 0.5)
    with pytest.raises(ValueError, match="distances: must have shape"):
        pooled(np.zeros((1, 2, 3)), 0.5)
