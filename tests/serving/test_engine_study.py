"""The engine's part of the experiment: hidden lengths, same answers, same counts each time."""

from __future__ import annotations

import torch

from heedful.serving.experiments._engine import engine_study, model, work


def test_the_counting_model_ends_each_answer_at_its_hidden_length():
    asked = work(12, 0, hidden=True)
    assert set(asked.caps) == {128} and asked.end == 0
    assert [prompt[-1] for prompt in asked.prompts] == asked.outputs
    known = work(12, 0, hidden=False)
    assert known.caps == known.outputs == asked.outputs
    assert [len(prompt) for prompt in known.prompts] == [len(prompt) for prompt in asked.prompts]
    logits = model(hidden=True)(input_ids=torch.arange(1, 128)[None]).logits[0]
    assert logits.argmax(-1).tolist() == list(range(127))


def test_the_study_gives_the_same_answers_whatever_the_scheduler_and_counts_alike_each_time():
    rows = {}
    for hidden in (False, True):
        for spec in ("aggressive:watermark=1.0", "peak-with-cap"):
            rows[hidden, spec] = engine_study(spec, 0, requests=10, hidden=hidden, num_blocks=16)
        assert rows[hidden, "aggressive:watermark=1.0"]["answers"] == rows[hidden, "peak-with-cap"]["answers"]
        assert rows[hidden, "peak-with-cap"]["evictions"] == 0 < rows[hidden, "aggressive:watermark=1.0"]["evictions"]
        assert rows[hidden, "peak-with-cap"]["margin"] > 1e-6
    again = engine_study("aggressive:watermark=1.0", 0, requests=10, num_blocks=16)
    before = rows[False, "aggressive:watermark=1.0"]
    assert {**again, "seconds": 0} == {**before, "seconds": 0}
    assert (
        engine_study("peak-with-cap", 1, requests=4)["answers"]
        != engine_study("peak-with-cap", 0, requests=4)["answers"]
    )
