"""The samples that were taken, in memory and in a file. Measures nothing and shows nothing."""

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
    """A sample that was taken, and what it reported."""

    sample: Sample
    round: int
    metrics: dict[str, float]


class Row(NamedTuple):
    """One client, on one transport and one loop: all it reported, in the order of the rounds."""

    transport: str
    loop: str
    client: str
    metrics: dict[str, list[float]]

    def median(self, metric: Metric) -> float | None:
        """None where it does not report this."""
        values = self.metrics.get(metric.key)
        return statistics.median(values) if values else None


class Results(NamedTuple):
    """One run of the benchmark."""

    facts: dict[str, str]
    scale: Scale
    taken: list[Taken]

    def rows(self, line: str) -> list[Row]:
        """The line's samples, put together, in the order in which they are `taken`."""
        found: dict[tuple[str, str, str], Row] = {}
        for sample, _, metrics in self.taken:
            if sample.line == line:
                key = (sample.transport, sample.loop, sample.client)
                row = found.setdefault(key, Row(*key, {}))
                for name, value in metrics.items():
                    row.metrics.setdefault(name, []).append(value)
        return list(found.values())

    def titled(self, text: str) -> str:
        """The text with the numbers of this run: "{rows:,}"."""
        return text.format(**self.scale._asdict())


def peer(rows: Sequence[Row], row: Row, client: str) -> Row | None:
    """The row of another client on the same transport and loop; of one that has no loop, or no transport, its only."""
    places = ((row.transport, row.loop), (row.transport, "-"), ("-", "-"))
    found = {(other.transport, other.loop): other for other in rows if other.client == client}
    return next((found[place] for place in places if place in found), None)


def ratio(metric: Metric, row: Row, other: Row | None) -> float | None:
    """How many times better than the other: 2.0 where it needs half. None where that cannot be said."""
    if other is None or other is row:
        return None
    own, theirs = row.median(metric), other.median(metric)
    return theirs / own if own and theirs is not None and own > 0 else None


def save(path: Path, results: Results) -> None:
    """One line for each sample, so that two runs can be compared by eye."""
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
    """What `save` has written."""
    said = json.loads(path.read_text())
    taken = []
    for each in said["samples"]:
        line, transport, loop, client = (each.pop(name) for name in PLACE)
        sample, number = Sample(line, transport, loop, client, (), each.pop("point", 0)), each.pop("round")
        taken.append(Taken(sample, number, each))
    return Results(said["facts"], Scale(**said["scale"]), taken)
