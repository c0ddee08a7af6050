"""The table that is printed while it is measured, and remembered for what is compared later."""

from __future__ import annotations

from pathlib import Path

from benchmarks.load import Times

WIDTH = 52


class Table:
    """Rows of percentiles and lines of single numbers; each is printed at once."""

    def __init__(self) -> None:
        self._times: dict[str, Times] = {}
        self._markdown: list[str] = []

    def head(self) -> None:
        """The columns' names."""
        print(f"{'':{WIDTH}} {'p50 ms':>8} {'p95':>8} {'p99':>8} {'n':>5}   against", flush=True)

    def section(self, name: str) -> None:
        """What the next rows are about."""
        self._markdown += ["", f"### {name}", "", "| what | p50 / p95 / p99 | against |", "|---|---|---|"]
        print(f"\n{name}", flush=True)

    def row(self, name: str, times: Times, against: str = "") -> None:
        """Percentiles of one thing, in milliseconds."""
        self._times[name] = times
        percentiles = " / ".join(_short(each) for each in (times.p50, times.at(0.95), times.at(0.99)))
        self._markdown.append(f"| {name} | {percentiles} ms | {against} |")
        print(f"{name:{WIDTH}} {times} {len(times.values):5}   {against}", flush=True)

    def number(self, name: str, value: float, unit: str, against: str = "") -> None:
        """One number."""
        self._markdown.append(f"| {name} | {_short(value)} {unit} | {against} |")
        print(f"{name:{WIDTH}} {value:8.1f} {unit:<23} {'':1}   {against}", flush=True)

    def p50(self, name: str) -> float | None:
        """Milliseconds of a row that was measured."""
        times = self._times.get(name)
        return None if times is None else times.p50

    def save(self, path: Path) -> None:
        """The same in Markdown."""
        path.write_text("\n".join([*self._markdown, ""]).lstrip("\n"))


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"
