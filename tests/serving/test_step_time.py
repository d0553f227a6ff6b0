"""The step-time model gives back the constants that measured steps were made with."""

from __future__ import annotations

import numpy as np
import pytest

from heedful.serving import StepTime, fit


def steps(rng, n=400, noise=0.0):
    running = rng.integers(0, 60, n)
    occupied = running * rng.integers(100, 3000, n)
    tokens = np.where(running == 0, rng.integers(50, 4000, n), rng.choice([0, 0, 512], n))
    truth = StepTime(step=9e-3, per_request=3e-5, per_token=2e-7, prefill=4e-3, per_prompt_token=8e-5)
    decode = np.where(running > 0, truth.step + truth.per_request * running + truth.per_token * occupied, truth.prefill)
    return (
        truth,
        running,
        occupied,
        tokens,
        (decode + truth.per_prompt_token * tokens) * np.exp(noise * rng.normal(size=n)),
    )


def test_exact_steps_give_back_their_constants():
    truth, *columns = steps(np.random.default_rng(0))
    found = fit(*columns)
    for name in ("step", "per_request", "per_token", "prefill", "per_prompt_token"):
        assert getattr(found.model, name) == pytest.approx(getattr(truth, name), rel=1e-6)
    assert found.explained == pytest.approx(1.0) and found.median_error < 1e-9 and found.steps == 400


def test_noisy_steps_give_them_back_roughly():
    truth, *columns = steps(np.random.default_rng(0), 4000, noise=0.1)
    found = fit(*columns)
    assert found.model.per_token == pytest.approx(truth.per_token, rel=0.05)
    assert 0.05 < found.median_error < 0.09


def test_a_step_whose_parts_are_given():
    time = StepTime(step=1e-3, per_request=1e-4, per_token=1e-6, prefill=0.01, per_prompt_token=1e-5)
    assert time.decode(10, 1000) == pytest.approx(3e-3) and time.prompt(100) == pytest.approx(0.011)
    assert time.picoseconds.tolist() == [10**9, 10**8, 10**6, 10**10, 10**7]


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("at least 10", lambda c: [column[:5] for column in c]),
        ("differ in length", lambda c: [c[0][:5], *c[1:]]),
        ("seconds: must all be above 0", lambda c: [*c[:3], -c[3]]),
        ("must be at least 0", lambda c: [-c[0], *c[1:]]),
        ("nothing ran", lambda c: [0 * c[0], c[1], 0 * c[2], c[3]]),
        ("too alike", lambda c: [0 * c[0] + 5, 0 * c[1] + 100, c[2], c[3]]),
    ],
)
def test_steps_that_cannot_be_fitted_are_refused(words, change):
    _, *columns = steps(np.random.default_rng(0))
    with pytest.raises(ValueError, match=words):
        fit(*change(columns))
