"""The record of one step: samples, results that are no times, and notes, saved as they come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..records import Environment, Record, RecordWriter, Sample, now

__all__ = ["Book", "results_of"]


class Book:
    """A campaign record that grows on disk; each addition leaves a whole file.

    Parameters
    ----------
    settings
        What the step was asked to do; results are kept beside it, under ``results``.
    """

    def __init__(self, path: Path, environment: Environment, settings: Mapping[str, Any]) -> None:
        record = Record(
            kind="campaign",
            environment=environment,
            seed=0,
            started=now(),
            settings={**settings, "results": []},
            notes=environment.notes,
        )
        self._writer = RecordWriter(path, record)

    @property
    def record(self) -> Record:
        """The record as it is now."""
        return self._writer.record

    def add(self, *samples: Sample) -> None:
        """Append samples."""
        if samples:
            self._writer.add(*samples)

    def note(self, *texts: str) -> None:
        """Append remarks, each once."""
        if texts:
            self._writer.add(notes=texts)

    def result(self, **values: Any) -> None:
        """Append something measured that is not a time."""
        record = self._writer.record
        settings = {**record.settings, "results": [*record.settings["results"], values]}
        self._writer.record = replace(record, settings=settings)
        self._writer.save()

    def finish(self) -> None:
        """Mark the step as done."""
        self._writer.finish()


def results_of(record: Record) -> list[Mapping[str, Any]]:
    """What a step measured besides times; nothing for other records."""
    found = record.settings.get("results", [])
    return [entry for entry in found if isinstance(entry, Mapping)] if isinstance(found, list) else []
