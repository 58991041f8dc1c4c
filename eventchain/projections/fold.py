"""Folding: one pass over batches of sealed events for any number of projections."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from eventchain.errors import ProjectionError
from eventchain.projections.filter import Filter
from eventchain.projections.page import Events, Page
from eventchain.projections.projection import FAILURES, Projection, by_columns

PAGE = 131_072
"""Events that all projections see before the next ones are touched. The more, the less often a projection
that works on columns comes back to the same key of its state."""
PART = 256
"""Events that are objects at a time: few, so that their parsed JSON is still in the cache when it is used."""


@dataclass(slots=True)
class Run:
    """One projection on its way through a log.

    name: for messages; size: how many events of the log the state covers; error: why it stopped, after which
    its state is worth nothing.
    """

    name: str
    projection: Projection[Any]
    filter: Filter
    state: Any
    size: int = 0
    error: ProjectionError | None = None

    @classmethod
    def begin(
        cls, name: str, projection: Projection[Any], filter: Filter, state: bytes | None = None, size: int = 0
    ) -> Run:
        """From a dumped state that covers so many events, or from the beginning. Raises ProjectionError,
        naming the projection."""
        try:
            begins = projection.initial() if state is None else projection.load(state)
        except FAILURES as error:
            raise named(name, error, "initial: " if state is None else "load: ") from error
        return cls(name, projection, filter, begins, size)

    def apply(self, events: Events) -> None:
        if len(events):
            self.state = self.projection.apply_events(self.state, events)

    def dump(self) -> bytes:
        """The state as bytes. Raises ProjectionError, naming the projection."""
        if self.error is not None:
            raise self.error
        try:
            dumped: Any = self.projection.dump(self.state)
        except FAILURES as error:
            raise named(self.name, error) from error
        if not isinstance(dumped, bytes):
            raise ProjectionError(
                f"projection {self.name}: dump: it gives {type(dumped).__name__}, not bytes",
                hint="`dump` must give what `load` reads, as bytes",
            )
        return dumped


class Fold:
    """Takes runs forward together. A run that fails stops, with its ``error`` set; the others go on."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = runs
        self._paths = tuple({path for run in runs for path in (*run.projection.paths, *run.filter.paths)})

    @property
    def active(self) -> list[Run]:
        """The runs that have not failed."""
        return [run for run in self.runs if run.error is None]

    def feed(self, batch: Any, start: int, progress: Callable[[int], None] = lambda events: None) -> None:
        """Show a record batch of EVENT_SCHEMA to every run. start: the index in the log of its first event;
        a run skips what its state covers already. Small batches are slow where keys of a state are many: best
        are PAGE events. progress: is told of events as they are done, and may raise. Interrupted, it leaves
        states that are worth nothing. Raises ValueError for a run that lacks events before."""
        for run in self.active:
            if run.size < start:
                raise ValueError(f"{run.name} covers {run.size} events and is shown those after {start}")
        for first in range(0, batch.num_rows, PAGE):
            self._page(batch.slice(first, PAGE), start + first, progress)

    def _page(self, batch: Any, start: int, progress: Callable[[int], None]) -> None:
        runs = [run for run in self.active if run.size < start + batch.num_rows]
        page = Page(batch, self._paths)
        waiting = []
        for run in runs:
            with _failing(run):
                events = run.filter.chosen(Events(page, np.arange(max(run.size - start, 0), batch.num_rows)))
                if by_columns(run.projection):
                    run.apply(events)
                else:
                    waiting.append((run, events.rows))
        step = PART if waiting else PAGE
        for first in range(0, batch.num_rows, step):
            part = Page(batch.slice(first, step))
            for run, rows in waiting:
                here = rows[slice(*np.searchsorted(rows, (first, first + step)))]
                if run.error is None:
                    with _failing(run):
                        run.apply(Events(part, here - first))
            progress(min(step, batch.num_rows - first))
        for run in runs:
            run.size = start + batch.num_rows


@contextmanager
def _failing(run: Run) -> Iterator[None]:
    """What goes wrong inside is the run's error."""
    try:
        yield
    except FAILURES as error:
        run.error = named(run.name, error)


def named(name: str, error: BaseException, where: str = "") -> ProjectionError:
    """What went wrong in a projection, with its name and where it was, ``"load: "``."""
    if isinstance(error, ProjectionError):
        told = ProjectionError(f"projection {name}: {where}{error.message}", hint=error.hint)
    else:
        told = ProjectionError(f"projection {name}: {where}{type(error).__name__}: {error}")
    told.__cause__ = error
    return told
