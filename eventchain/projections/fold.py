"""Folding: one pass over batches of sealed events for any number of projections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eventchain.errors import ProjectionError
from eventchain.projections.event import Events, Page
from eventchain.projections.filter import Filter
from eventchain.projections.projection import Projection

PAGE = 8192
"""Events that all projections see before the next ones are touched: small enough to stay in the cache."""


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

    def dump(self) -> bytes:
        """The state as bytes. Raises ProjectionError, naming the projection."""
        if self.error is not None:
            raise self.error
        try:
            return self.projection.dump(self.state)
        except Exception as error:
            raise _named(self.name, error) from error


class Fold:
    """Takes runs forward together. A run that fails stops, with its ``error`` set; the others go on."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = runs

    @property
    def active(self) -> list[Run]:
        """The runs that have not failed."""
        return [run for run in self.runs if run.error is None]

    def feed(self, batch: Any, start: int) -> None:
        """Show a record batch of EVENT_SCHEMA to every run. start: the index in the log of its first event;
        a run skips what its state covers already. Raises ValueError for a run that lacks events before."""
        for run in self.active:
            if run.size < start:
                raise ValueError(f"{run.name} covers {run.size} events and is shown those after {start}")
        for first in range(0, batch.num_rows, PAGE):
            page = Page(batch.slice(first, PAGE))
            end = start + first + page.batch.num_rows
            for run in self.active:
                if run.size < end:
                    self._step(run, page, run.size - start - first)
                    run.size = end

    def _step(self, run: Run, page: Page, skip: int) -> None:
        try:
            events = run.filter.chosen(Events(page, np.arange(max(skip, 0), page.batch.num_rows)))
            if len(events):
                run.state = run.projection.apply_events(run.state, events)
        except Exception as error:
            run.error = _named(run.name, error)


def _named(name: str, error: Exception) -> ProjectionError:
    if isinstance(error, ProjectionError):
        named = ProjectionError(f"projection {name}: {error.message}", hint=error.hint)
    else:
        named = ProjectionError(f"projection {name}: {type(error).__name__}: {error}")
    named.__cause__ = error
    return named
