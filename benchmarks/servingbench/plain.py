"""A simulated server as one would write it first: a plain Python loop, one decode step after the other.

The same engine as :class:`heedful.serving.Simulator` with its default pages and prefills, asked by the same schedulers;
what is held is kept up as a running sum, so that a step costs no more than one pass over the requests that run.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from heedful.serving import Batch, History, Scheduler, Simulator, Workload


@dataclass(slots=True, eq=False)
class Request:
    """A request; times are in picoseconds, and -1 until they are known."""

    prompt: int
    output: int
    cap: int
    generated: int = 0
    first: int = -1
    end: int = -1
    evictions: int = 0


def serve(simulator: Simulator, scheduler: Scheduler, workload: Workload, clients: int) -> list[Request]:
    """What becomes of the requests in a closed loop, all of which must be able to fit."""
    step, per_request, per_token, prefill, per_prompt = (int(x) for x in simulator.time.picoseconds)
    lengths = (column.tolist() for column in (workload.prompt, workload.output, workload.cap))
    requests = [Request(*row) for row in zip(*lengths)]
    history = History(1000, int(workload.cap.max())) if scheduler.needs_history else None
    rng = np.random.default_rng(0)
    waiting: deque[Request] = deque()
    running: list[Request] = []
    now = sent = done = held = since = 0
    ended = False
    while done < len(requests):
        while sent < len(requests) and sent - done < clients:
            waiting.append(requests[sent])
            sent += 1
        if waiting and (ended or since >= simulator.interval or not running):
            head = could_take(simulator, waiting, len(running), held)
            count = scheduler.admit(batch(head), batch(running), simulator.capacity, history, rng)
            since, ended = 0, False
            tokens = sum(request.prompt + request.generated for request in head[:count])
            running += (waiting.popleft() for _ in range(count))
            held += tokens
            now += prefill + per_prompt * tokens if count else 0
            continue
        while held + len(running) > simulator.capacity:
            victim = running.pop()
            victim.evictions += 1
            held -= victim.prompt + victim.generated
            waiting.appendleft(victim)
        now += step + per_request * len(running) + per_token * held
        held += len(running)
        for request in running:
            request.generated += 1
            if request.first < 0:
                request.first = now
            if request.generated == request.output:
                request.end, ended = now, True
                done += 1
                held -= request.prompt + request.generated
                if history is not None:
                    history.record(request.output)
        since += 1
        if ended:
            running = [request for request in running if request.end < 0]
    return requests


def could_take(simulator: Simulator, waiting: deque[Request], running: int, held: int) -> list[Request]:
    """As much of the queue as the engine could take at once."""
    free, tokens = simulator.capacity - held, 0
    found: list[Request] = []
    for request in waiting:
        tokens += request.prompt + request.generated
        too_many = len(found) + running >= simulator.max_running
        if too_many or tokens > free or (found and tokens > simulator.prefill_tokens):
            break
        found.append(request)
    return found


def batch(requests: list[Request]) -> Batch:
    """The requests as a scheduler sees them."""
    rows = [(request.prompt, request.generated, request.cap, request.output) for request in requests]
    prompt, generated, cap, output = np.ascontiguousarray(np.array(rows, np.int64).reshape(-1, 4).T)
    return Batch(prompt, generated, cap, np.zeros(len(rows), bool), output)
