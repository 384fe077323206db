"""What was measured, as Markdown, JSON and a plot."""

import json
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["Table", "write"]


@dataclass(frozen=True, slots=True)
class Table:
    """One measurement of several contestants, round by round.

    Attributes:
        title: What was measured.
        unit: Of the values.
        values: Of each contestant, one a round. The first one is the yardstick.
    """

    title: str
    unit: str
    values: dict[str, list[float]]

    def ratios(self) -> dict[str, list[float]]:
        """Return the ratios to the yardstick within each round, where both ran within a fraction of a second.

        So a machine that slows down does not show.
        """
        yardstick = next(iter(self.values.values()))
        return {name: [a / b for a, b in zip(own, yardstick, strict=True)] for name, own in self.values.items()}

    def markdown(self) -> str:
        """Return the table with the median of the ratios, the lowest and the highest."""
        lines = [f"### {self.title}", "", f"| | ratio | lowest to highest | median, {self.unit} |", "|---|---|---|---|"]
        for name, own in self.ratios().items():
            spread = f"{min(own):.2g} to {max(own):.2g}"
            lines.append(
                f"| {name} | {statistics.median(own):.3g} | {spread} | {statistics.median(self.values[name]):,.3g} |"
            )
        return "\n".join(lines)


def write(folder: Path, machine: dict[str, str], tables: list[Table]) -> None:
    """Write ``results.json``, ``results.md`` and ``results.svg`` into a folder.

    Args:
        folder: Where to; made if it is not there.
        machine: What it was measured on and with.
        tables: What was measured.
    """
    folder.mkdir(parents=True, exist_ok=True)
    measured = {"machine": machine, "tables": [asdict(table) for table in tables]}
    (folder / "results.json").write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    words = "\n".join(f"- {name}: {value}" for name, value in machine.items())
    parts = [words, *(table.markdown() for table in tables)]
    (folder / "results.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    _plot(folder / "results.svg", tables)


def _plot(path: Path, tables: list[Table]) -> None:
    """Draw the medians of the ratios: one panel a table, one bar a contestant, from the yardstick on."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "unirun", "svg.fonttype": "none", "font.size": 8})
    from matplotlib import pyplot

    columns = 2
    rows = -(-len(tables) // columns)
    figure, panels = pyplot.subplots(rows, columns, figsize=(10, 1.9 * rows), squeeze=False, layout="constrained")
    for panel, table in zip(panels.flat, tables, strict=False):
        yardstick, *others = [(name, statistics.median(own)) for name, own in table.ratios().items()]
        medians = dict(reversed(others))
        colours = ["#d1662e" if name.startswith(("unirun", "import")) else "#9aa5b1" for name in medians]
        values = list(medians.values())
        # From 1 on, on a logarithmic scale: half and twice are equally far from the yardstick.
        bars = panel.barh(list(medians), [value - 1 for value in values], left=1, color=colours)
        for bar, value in zip(bars, values, strict=True):
            end, side = (4, "left") if value >= 1 else (-4, "right")
            place = (value, bar.get_y() + bar.get_height() / 2)
            panel.annotate(f"{value:.2g}", place, (end, 0), textcoords="offset points", va="center", ha=side)
        panel.set_xscale("log")
        panel.set_xlim(min(0.7, *values) / 2, max(1.4, *values) * 2)
        panel.axvline(1, color="#333", linewidth=0.8)
        panel.xaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
        panel.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
        panel.set_title(f"{table.title} (1: {yardstick[0]})", loc="left", fontsize=8)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in list(panels.flat)[len(tables) :]:
        panel.set_axis_off()
    figure.suptitle("Ratios, logarithmic; to the left of the line is better", fontsize=9)
    figure.savefig(path, metadata={"Date": None})
