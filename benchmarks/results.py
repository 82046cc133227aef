"""The samples of a run, in memory and in a file. It neither measures nor shows them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from .lines import Metric
from .plan import Sample, Scale

PLACE = ("line", "transport", "loop", "client")  # the first fields of a sample


class Taken(NamedTuple):
    """A sample that was taken, with its round and the metrics that it reported."""

    sample: Sample
    round: int
    metrics: dict[str, float]


class Row(NamedTuple):
    """All metrics of one client on one transport and one loop, in the order of the rounds."""

    transport: str
    loop: str
    client: str
    metrics: dict[str, list[float]]

    def median(self, metric: Metric) -> float | None:
        """Return the median of a metric, or None if the client does not report it."""
        values = self.metrics.get(metric.key)
        return statistics.median(values) if values else None


class Results(NamedTuple):
    """One run of the benchmark."""

    facts: dict[str, str]
    scale: Scale
    taken: list[Taken]

    def rows(self, line: str) -> list[Row]:
        """Return a row for each client, transport and loop of the line, in the order of `taken`."""
        found: dict[tuple[str, str, str], Row] = {}
        for sample, _, metrics in self.taken:
            if sample.line == line:
                key = (sample.transport, sample.loop, sample.client)
                row = found.setdefault(key, Row(*key, {}))
                for name, value in metrics.items():
                    row.metrics.setdefault(name, []).append(value)
        return list(found.values())

    def titled(self, text: str) -> str:
        """Return the text with the sizes of this run in place of fields such as "{rows:,}"."""
        return text.format(**self.scale._asdict())


def peer(rows: Sequence[Row], row: Row, client: str) -> Row | None:
    """Return the row of another client on the same transport and loop.

    For a client without a loop, or without loop and transport, return its only row there.
    """
    places = ((row.transport, row.loop), (row.transport, "-"), ("-", "-"))
    found = {(other.transport, other.loop): other for other in rows if other.client == client}
    return next((found[place] for place in places if place in found), None)


def ratio(metric: Metric, row: Row, other: Row | None) -> float | None:
    """Return how many times better `row` is than `other`: 2.0 if it needs half. None if they cannot be compared."""
    if other is None or other is row:
        return None
    own, theirs = row.median(metric), other.median(metric)
    return theirs / own if own and theirs is not None and own > 0 else None


def save(path: Path, results: Results) -> None:
    """Write the results as JSON, with one line for each sample, so that two runs can be compared by eye."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = json.dumps({"facts": results.facts, "scale": results.scale._asdict()}, indent=1)[:-2]
    path.write_text(head + ',\n "samples": [\n  ' + ",\n  ".join(_written(results.taken)) + "\n ]\n}\n")


def _written(taken: Sequence[Taken]) -> Iterator[str]:
    for sample, number, metrics in taken:
        head: dict[str, object] = dict(zip(PLACE, sample, strict=False))
        if sample.point:
            head["point"] = sample.point
        figures = {name: float(f"{value:.5g}") for name, value in metrics.items()}
        yield json.dumps(head | {"round": number} | figures)


def load(path: Path) -> Results:
    """Read the results that `save` has written."""
    said = json.loads(path.read_text())
    taken = []
    for each in said["samples"]:
        line, transport, loop, client = (each.pop(name) for name in PLACE)
        sample, number = Sample(line, transport, loop, client, (), each.pop("point", 0)), each.pop("round")
        taken.append(Taken(sample, number, each))
    return Results(said["facts"], Scale(**said["scale"]), taken)
