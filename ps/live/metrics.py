"""Metrics for Prometheus, from the newest snapshot: docs/page.md lists them.

Names follow Prometheus' own conventions: a unit at the end, ``_total`` for what only grows, shares
as ratios from 0 to 1.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from leash._version import __version__

# Key of the snapshot ▸ the metric's name, without _total, and its help.
COUNTERS: Final = {
    "steps": ("leash_steps", "Steps that workers have taken"),
    "samples": ("leash_samples", "Samples that workers have trained on"),
    "samples_twice": ("leash_samples_twice", "Samples that were used again after a failure"),
    "epochs": ("leash_epochs", "Epochs that are complete"),
    "train_seconds": ("leash_training_seconds", "Seconds since training began"),
    "bytes_pushed": ("leash_received_bytes", "Bytes of gradients that the server has received"),
    "bytes_answered": ("leash_sent_bytes", "Bytes of parameters that the server has sent"),
    "evictions": ("leash_evictions", "How often the run went on without a silent worker"),
    "duplicate_pushes": ("leash_duplicate_pushes", "Pushes that came again and were not applied"),
    "dropped_pushes": ("leash_dropped_pushes", "Gradients that were staler than allowed"),
    "nonfinite_chunks": ("leash_nonfinite_chunks", "Chunks that were left out as not finite"),
    "lost_updates": ("leash_lost_updates", "Updates that a server's death has cost"),
    "refused_messages": ("leash_refused_messages", "Messages that were refused"),
    "refused_connections": ("leash_refused_connections", "Connections without a known key"),
    "closed_connections": ("leash_closed_connections", "Connections that cost too much"),
    "failures": ("leash_failures", "Messages that could not be handled"),
}  # fmt: skip
GAUGES: Final = {
    "test_accuracy": ("leash_test_accuracy_ratio", "Newest test accuracy, from 0 to 1"),
    "test_loss": ("leash_test_loss", "Newest test loss, mean per sample"),
    "wait_fraction": ("leash_waiting_ratio", "Share of the workers' time from push to answer"),
    "max_lag": ("leash_largest_lag_steps", "Largest lag so far"),
    "mean_staleness": ("leash_staleness_mean_updates", "Mean staleness of the updates so far"),
    "max_staleness": ("leash_staleness_largest_updates", "Largest staleness so far"),
    "bound": ("leash_bound_steps", "Largest lag that the policy allows"),
    "model_nbytes": ("leash_model_bytes", "Size of the parameters"),
    "shards": ("leash_shards", "Processes of the server"),
    "parked": ("leash_parked_answers", "Answers that wait for the policy"),
}  # fmt: skip
WORKER_COUNTERS: Final = {
    "step": ("leash_worker_steps", "Steps of the worker"),
    "samples": ("leash_worker_samples", "Samples that the worker has trained on"),
}
WORKER_GAUGES: Final = {
    "lag": ("leash_worker_lag_steps", "Steps that the worker is ahead of the slowest"),
    "wait_fraction": ("leash_worker_waiting_ratio", "Share of its time from push to answer"),
    "samples_per_s": ("leash_worker_samples_per_second", "Samples a second of late"),
    "loss": ("leash_worker_loss", "Loss that the worker has reported last"),
    "silence_s": ("leash_worker_silence_seconds", "Seconds since its last sign of life"),
}

Snapshot = Mapping[str, Any]


class RunCollector(Collector):
    """Makes metrics of the newest snapshot whenever somebody asks for them."""

    def __init__(
        self, newest: Callable[[], tuple[Snapshot, float] | None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """Collects from a source.

        Args:
            newest: gives the snapshot, and when it came; None before the first.
            now: the clock of that time.
        """
        self._newest: Final = newest
        self._now: Final = now

    def collect(self) -> Iterable[Metric]:
        """All metrics of the run, or none before the first snapshot."""
        newest = self._newest()
        if newest is None:
            return
        state, came_s = newest
        yield from _of_the_run(state)
        yield from _of_workers(state["table"])
        age = GaugeMetricFamily("leash_snapshot_age_seconds", "Age of what these metrics tell")
        age.add_metric([], self._now() - came_s)
        yield age


def exposition(collector: RunCollector) -> tuple[bytes, str]:
    """The metrics in Prometheus' text format, and its content type."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return generate_latest(registry), CONTENT_TYPE_LATEST


def _of_the_run(state: Snapshot) -> Iterator[Metric]:
    labels = ("version", "policy", "model", "dataset")
    info = GaugeMetricFamily("leash_run_info", "What the run is; always 1", labels=labels)
    told = (__version__, *(str(state.get(name) or "") for name in labels[1:]))
    info.add_metric(list(told), 1)
    yield info
    for key, (name, about) in COUNTERS.items():
        yield from _one(CounterMetricFamily(name, about), state.get(key))
    for key, (name, about) in GAUGES.items():
        yield from _one(GaugeMetricFamily(name, about), state.get(key))
    for key, name, about in (
        ("started", "leash_started", "Whether training has begun"),
        ("finished", "leash_finished", "Whether training is over"),
        ("not_written", "leash_cannot_write", "Whether the disk takes not all of the run's files"),
    ):
        yield from _one(GaugeMetricFamily(name, about), int(bool(state.get(key))))


def _one(family: CounterMetricFamily | GaugeMetricFamily, value: Any) -> Iterator[Metric]:
    if isinstance(value, int | float):
        family.add_metric([], float(value))
        yield family


def _of_workers(table: Iterable[Snapshot]) -> Iterator[Metric]:
    rows = list(table)
    states = GaugeMetricFamily("leash_workers", "Workers by their state", labels=["state"])
    names = [str(row["state"]) for row in rows]
    for state in sorted(set(names)):
        states.add_metric([state], names.count(state))
    yield states
    for key, (name, about) in WORKER_COUNTERS.items():
        yield _by_worker(CounterMetricFamily(name, about, labels=["worker"]), rows, key)
    for key, (name, about) in WORKER_GAUGES.items():
        yield _by_worker(GaugeMetricFamily(name, about, labels=["worker"]), rows, key)


def _by_worker(
    family: CounterMetricFamily | GaugeMetricFamily, rows: Iterable[Snapshot], key: str
) -> Metric:
    for row in rows:
        if isinstance(value := row.get(key), int | float):
            family.add_metric([str(row["worker"])], float(value))
    return family
