"""What is relied on inside transformers is there, and what is not is said in one line."""

from __future__ import annotations

import subprocess
import sys

import pytest
from transformers.generation.continuous_batching import requests, scheduler

from heedful.serving import _transformers_interface as interface
from heedful.serving.transformers_engine import installed


def test_another_transformers_is_one_clear_line():
    program = """if True:
        import sys

        sys.modules["transformers.generation.continuous_batching.cache_allocators"] = None
        try:
            import heedful.serving.transformers_engine
        except ImportError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("continuous batching needs another transformers, version 5.23 works: ")
    assert done.stdout.count("\n") == 1


def test_nothing_of_the_engine_that_is_relied_on_has_changed():
    """If this fails, the lines name what is different in the installed transformers."""
    assert interface.changes() == []


def test_a_change_of_the_engine_is_named_and_refused(monkeypatch):
    def schedule_batch(self, token_budget):
        """One parameter less."""

    monkeypatch.setattr(scheduler.FIFOScheduler, "schedule_batch", schedule_batch)
    monkeypatch.delattr(scheduler.Scheduler, "_get_waiting_candidates")
    fields = {k: v for k, v in requests.RequestState.__dataclass_fields__.items() if k != "_true_initial_tokens"}
    monkeypatch.setattr(requests.RequestState, "__dataclass_fields__", fields)
    found = "\n".join(interface.changes())
    assert "FIFOScheduler.schedule_batch takes (self, token_budget), not (self, token_budget, cache_budget)" in found
    assert "FIFOScheduler._get_waiting_candidates is gone" in found
    assert "RequestState has no field _true_initial_tokens" in found
    message = rf"has changed: .*\(and 2 more\); version {interface.TESTED} works"
    with pytest.raises(RuntimeError, match=message), installed("past-future"):
        pass
