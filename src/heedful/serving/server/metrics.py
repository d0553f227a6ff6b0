"""What the server counts and times, in Prometheus' format. One registry per server.

Times are taken by the server's own clock where tokens leave the engine: the engine's timestamps start anew when a
request is evicted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

FIRST_TOKEN_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0)
GAP_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0)
WHOLE_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)

Reading = tuple[str, str, float]
"""Name, meaning and value of something that is read when it is asked for; a name in ``_total`` only ever grows."""


class Metrics:
    """Everything ``/metrics`` tells.

    Args:
        readings: what the engine says about itself, read at each scrape.
    """

    def __init__(self, readings: Callable[[], Iterator[Reading]]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Readings(readings))
        self.requests = Counter(
            "heedful_requests",
            "Requests answered, by path and by HTTP status, or 'disconnected'.",
            ("path", "status"),
            registry=self._registry,
        )
        self.rejected = Counter(
            "heedful_rejected", "Requests refused before the engine, by error code.", ("code",), registry=self._registry
        )
        self.ended = Counter(
            "heedful_generations",
            "Generations that ended: finished, cancelled by the client, or failed (timeouts and stops included).",
            ("how",),
            registry=self._registry,
        )
        self.prompt_tokens = Counter(
            "heedful_prompt_tokens", "Prompt tokens of requests given to the engine.", registry=self._registry
        )
        self.generated_tokens = Counter(
            "heedful_generated_tokens", "Tokens generated for requests.", registry=self._registry
        )
        self.first_token = Histogram(
            "heedful_time_to_first_token_seconds",
            "From a request's acceptance to its first token.",
            buckets=FIRST_TOKEN_S,
            registry=self._registry,
        )
        self.gap = Histogram(
            "heedful_token_gap_seconds",
            "Between two tokens of a request, evictions included.",
            buckets=GAP_S,
            registry=self._registry,
        )
        self.whole = Histogram(
            "heedful_generation_seconds",
            "From a request's acceptance to its last token, of finished ones.",
            buckets=WHOLE_S,
            registry=self._registry,
        )
        for how in ("finished", "cancelled", "failed"):
            self.ended.labels(how=how)

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self._registry)


class _Readings(Collector):
    """Turns readings into metrics at each scrape."""

    def __init__(self, readings: Callable[[], Iterator[Reading]]) -> None:
        self._readings = readings

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        for name, meaning, value in self._readings():
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            yield kind(name, meaning, value=value)
