"""How well requests were served: limits on latency, and goodput, the rate of tokens that were delivered within them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from heedful.serving.simulator import Run


@dataclass(frozen=True)
class Limits:
    """What users are promised (a service-level agreement).

    Args:
        ttft: seconds from a request's arrival to its first token, at most.
        mtpot: seconds between any two consecutive tokens of a request, at most.
        share: of the requests for which both must be met for a load to count as sustained.
    """

    ttft: float = 10.0
    mtpot: float = 1.5
    share: float = 0.99

    def __post_init__(self) -> None:
        for name in ("ttft", "mtpot"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}: must be above 0 seconds")
        if not 0 < self.share <= 1:
            raise ValueError(f"share={self.share}: must lie in (0, 1]")


@dataclass(frozen=True)
class Service:
    """How requests were served within a window of time.

    Attributes:
        requests: those that arrived in it, rejected ones included.
        met: share of them that met both limits; a rejected request did not.
        goodput: output tokens per second of requests that ended in the window and met both limits.
        throughput: output tokens per second of all that ended in it.
        ttft: seconds to the first token, 99th percentile of those that arrived in it and were not rejected.
        mtpot: seconds of the longest gap between tokens, likewise.
        rejected: requests that arrived in it and were rejected.
        sustained: whether enough of the requests met both limits.
    """

    requests: int
    met: float
    goodput: float
    throughput: float
    ttft: float
    mtpot: float
    rejected: int
    sustained: bool


def settled(run: Run, completions: int) -> tuple[float, float]:
    """The window after a cold start and before the end: from that many completions to the last arrival, in seconds.

    Of a closed loop the last arrival is when the last request is sent. The whole run, if nothing is left of it.
    """
    last = float(run.arrival.max(initial=0.0))
    if len(run.order) > completions and (first := float(run.end[run.order[completions]])) < last:
        return first, last
    return 0.0, run.seconds


def service(run: Run, limits: Limits, window: tuple[float, float] | None = None) -> Service:
    """How requests were served.

    Args:
        run: what became of them.
        limits: what was promised.
        window: start and end in seconds; by default the whole run.

    Raises ValueError for a window that is empty, or in which nothing arrived.

    >>> import numpy as np
    >>> from heedful.serving import Conservative, Simulator, distribution_3
    >>> run = Simulator(120_000).run(Conservative(), distribution_3(200, np.random.default_rng(0)), clients=10)
    >>> service(run, Limits()).sustained
    True
    """
    start, stop = (0.0, run.seconds) if window is None else window
    if not stop > start:
        raise ValueError(f"window={window}: must end after it starts")
    with np.errstate(invalid="ignore"):
        good = (run.first_token - run.arrival <= limits.ttft) & (run.max_gap <= limits.mtpot) & ~run.rejected
        ended = (run.end >= start) & (run.end <= stop)
    came = (run.arrival >= start) & (run.arrival <= stop)
    if not came.any():
        raise ValueError(f"window={window}: nothing arrived in it")
    served = came & ~run.rejected
    output = run.workload.output
    met = float(good[came].mean())
    return Service(
        requests=int(came.sum()),
        met=met,
        goodput=float(output[good & ended].sum() / (stop - start)),
        throughput=float(output[ended].sum() / (stop - start)),
        ttft=float(np.percentile((run.first_token - run.arrival)[served], 99)) if served.any() else float("nan"),
        mtpot=float(np.percentile(run.max_gap[served], 99)) if served.any() else float("nan"),
        rejected=int(run.rejected[came].sum()),
        sustained=met >= limits.share,
    )
