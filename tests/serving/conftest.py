"""What the tests of the engine of transformers share."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

# What several files import, beside the fixtures here, stands in modules of this folder.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def model():
    from small_engine import tiny

    return tiny()


@pytest.fixture(scope="session")
def work():
    """Prompts of 8 to 60 tokens, and how many tokens each answer has, 5 to 120."""
    from small_engine import REQUESTS

    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, 128, rng.integers(8, 61)).tolist() for _ in range(REQUESTS)]
    return prompts, rng.integers(5, 121, REQUESTS).tolist()


@pytest.fixture(scope="session")
def answers(model, work):
    """What the engine itself answers, with its own scheduler and room for everything."""
    from small_engine import NO_END, SMALL
    from transformers import ContinuousBatchingConfig

    prompts, lengths = work
    settings = ContinuousBatchingConfig(**{**SMALL, "num_blocks": 400}, allow_block_sharing=False)
    with model.continuous_batching_context_manager(NO_END, continuous_batching_config=settings) as manager:
        names = [manager.add_request(p, max_new_tokens=n) for p, n in zip(prompts, lengths)]
        got = {answer.request_id: answer.generated_tokens for answer in (manager.get_result() for _ in names)}
    return [got[name] for name in names]
