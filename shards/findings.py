"""findings: what verifying a pack gave -> lines for people, JSON for programs."""

import dataclasses
from collections.abc import Iterable

from shards.door import print_json
from shards.errors import DataError, one_line
from shards.remote import PathLike


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that isn't as the index says: where, what, and the way out."""

    shard: str
    key: str | None
    offset: int | None
    what: str
    way: str

    def __str__(self) -> str:
        where = [
            self.shard,
            *([self.key] if self.key else []),
            *([f"byte {self.offset:,}"] if self.offset is not None else []),
        ]
        return one_line(f"{', '.join(where)}: {self.what}: {self.way}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What a split's reading gave. `damaged` are shards whose bytes aren't the index's; notes are no faults."""

    split: str
    shards: int
    rows: int
    bytes: int
    seconds: float
    findings: tuple[Finding, ...]
    damaged: tuple[str, ...]
    notes: tuple[str, ...]


def tell_reports(reports: Iterable[Report], *, data: PathLike, json: bool) -> None:
    """Print a line a finding, and a line or a JSON object a split.

    Raises:
        DataError: there was a finding.
    """
    bad: list[Finding] = []
    for report in reports:
        bad += report.findings
        if json:
            print_json({name: value for name, value in dataclasses.asdict(report).items() if name != "damaged"})
            continue
        for line in (*report.findings, *(one_line(f"note: {note}") for note in report.notes)):
            print(f"{report.split}/{line}" if isinstance(line, Finding) else line)  # noqa: T201
        how = _count(len(report.findings), "finding") if report.findings else "whole"
        rate = report.rows / max(report.seconds, 1e-9)
        print(f"{report.split}: {report.rows:,} samples in {report.shards:,} shards, {rate:,.0f}/s: {how}")  # noqa: T201
    if bad:
        shards = len({one.shard for one in bad})
        told = f"{_count(len(bad), 'finding')} in {_count(shards, 'shard')}"
        raise DataError(f"{data} is damaged, {told}, the first {bad[0]}")


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
