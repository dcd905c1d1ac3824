"""Measures everything and writes docs/performance.md with its plots. Started by `make bench`.

bench/run.py            all of it, some ten minutes
bench/run.py --quick    few rounds, to see that it works; writes nothing
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import cold
import datapath
import many
import networks
import phases
from measure import ROOT, Result
from one_add import PHASES

DOCS = ROOT / "docs"
MANY = 10_000
COUNTS = (0, 10, 1000, MANY)


def main() -> int:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds; print, write nothing")
    quick = parser.parse_args().quick
    if not (cold.BUNDLE / "capture-cni").exists():
        print("bench: dist/bundle is missing: run `make bundle` first", file=sys.stderr)
        return 2
    starts = cold.measure(3 if quick else 21)
    shares = phases.measure(3 if quick else 21, cold.DRIVERS)
    loads = {f"{b} by {d}": many.measure(16 if quick else 200, b, d) for b, d in cold.DRIVERS}
    lists = networks.measure(MANY, 2 if quick else 15)
    rates = datapath.measure(COUNTS, 0.3 if quick else 1.0, 1 if quick else 9)
    report = "\n".join(
        [
            machine_description(),
            *starts_report(starts),
            *shares_report(shares),
            *loads_report(loads),
            *lists_report(lists),
            *rates_report(rates),
        ]
    )
    print(report)
    if not quick:
        DOCS.joinpath("performance.md").write_text(INTRODUCTION + report + "\n")
        plots(starts, shares, rates)
    return 0


INTRODUCTION = """# Performance

Made by `make bench`: whole processes, each in a fresh network namespace, the variants of a table in turn and in another
order each round; medians. The machine is shared and its speed changes, so the ratios are what counts.

"""


UPSTREAM = """### Istio's own programs

The row "upstream's processes" is a script that starts what Istio's program starts in its iptables mode: some twenty
processes of iptables. Istio's program also has its own start and a Go runtime, so that row is less than it takes. It
says nothing about Istio's native nftables mode, which starts `nft` in place of all those.

Where these variables name them, `make bench` times Istio's programs in the same interleaved run, in both modes:

| variable | program |
| --- | --- |
| `CAPTURE_BENCH_ISTIO_IPTABLES` | its init program: `/istio/istio-iptables`, or `/istio/pilot-agent istio-iptables` |
| `CAPTURE_BENCH_ISTIO_CNI` | its CNI plugin: `/istio/istio-cni` |

Measured once so, on another day and with an older version (whole processes, interleaved, medians of 20, ms):

| | capture | Istio's | ratio |
| --- | ---: | ---: | ---: |
| init container, iptables (`pilot-agent istio-iptables`) | 25.1 | 66.3 | 0.38 |
| init container, nftables (`pilot-agent istio-iptables`) | 22.7 | 33.1 | 0.69 |
| init container, nftables (`istio-iptables` alone) | 22.7 | 19.9 | 1.14 |
| ADD, pod from the API server, iptables | 89.1 | 93.7 | 0.95 |
| ADD, pod from the API server, nftables | 87.3 | 58.3 | 1.50 |

So in its native nftables mode Istio's small program was quicker, and so was its plugin, where both query the
API server. 40 ms of our look-up were Nagle's algorithm, which is off since. An ADD that knows the pod from the
runtime's annotations queries no server, which Istio's plugin cannot.
"""


def machine_description() -> str:
    """Return what it ran on."""
    processors = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    tools = " ".join(version(tool) for tool in (["nft", "--version"], ["iptables-nft", "--version"]))
    return (
        f"Machine: {len(processors)} times {processors[0] if processors else '?'}, Linux {platform.release()},"
        f" Python {platform.python_version()}, {tools}.\n"
    )


def version(command: Sequence[str]) -> str:
    """Return the first line that a tool prints about its version."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a table in Markdown; columns whose first cell is a number are set to the right."""
    rows = [*rows]
    rule = ["---:" if cell[:1].isdigit() else "---" for cell in rows[0]]
    return [f"| {' | '.join(row)} |" for row in (headings, rule, *rows)] + [""]


def starts_report(results: dict[str, Result]) -> list[str]:
    """Return the section on cold starts."""
    bare, upstream = results[cold.BARE], results["upstream's processes"]
    rows = [
        (
            r.name,
            cold.source_of(r.name),
            f"{r.wall:.1f}",
            f"{r.cpu:.1f}",
            f"{r.ratio(bare):.2f}",
            f"{r.ratio(upstream):.2f}",
        )
        for r in sorted(results.values(), key=lambda result: result.wall)
    ]
    times = ("times the bare interpreter", "times upstream's processes")
    headings = ("one pod, cold", "knows the pod from", "ms", "ms of processor", *times)
    return ["## One pod", "", *table(headings, rows), "![cold starts](performance-cold.svg)", "", UPSTREAM]


def ratios(result: Result, *bases: Result) -> list[str]:
    """Return how many times the time of each base a result takes."""
    return [f"{result.ratio(base):.2f}" for base in bases]


def shares_report(shares: dict[str, dict[str, float]]) -> list[str]:
    """Return the section on where the milliseconds of an ADD go."""
    rows = [(f"{phase}: {phases.MEANING[phase]}", *(f"{of[phase]:.1f}" for of in shares.values())) for phase in PHASES]
    rows.append(("all", *(f"{sum(of.values()):.1f}" for of in shares.values())))
    return [
        "## Where the milliseconds of an ADD go",
        "",
        "Of the plugin run by `python -I -S` from its source directory; the bundle takes less for start and imports.",
        "",
        *table(("phase", *(f"{name}, ms" for name in shares)), rows),
        "![phases](performance-phases.svg)",
        "",
    ]


def loads_report(loads: dict[str, list[many.Load]]) -> list[str]:
    """Return the section on many pods."""
    rows = [
        (
            name,
            str(load.at_once),
            f"{load.pods_per_second:.0f}",
            f"{load.cpu:.1f}",
            f"{load.cpu / of_one[0].cpu:.2f}",
            f"{load.memory:.1f}",
        )
        for name, of_one in loads.items()
        for load in of_one
    ]
    headings = ("ADD", "at a time", "pods per second", "ms of processor per pod", "times that of one alone", "MB")
    pods = next(iter(loads.values()))[0].pods
    return [f"## {pods} pods", "", f"On {many.cores()} processors.", "", *table(headings, rows)]


def lists_report(results: dict[str, Result]) -> list[str]:
    """Return the section on long lists."""
    tools = {"load": results["load: nft -f"], "read": results["read: nft list ruleset"]}
    rows = [(r.name, f"{r.wall:.0f}", f"{r.ratio(tools[r.name.partition(':')[0]]):.2f}") for r in results.values()]
    return [f"## {MANY:,} excluded networks", "", *table(("process", "ms", "times nft"), rows)]


def rates_report(rates: list[datapath.Rate]) -> list[str]:
    """Return the section on the data path."""
    by_backend: dict[str, dict[int, float]] = {}
    for rate in rates:
        by_backend.setdefault(rate.backend, {})[rate.networks] = rate.connections_per_second
    rows = [
        (backend, *(f"{of[count]:.0f} ({of[count] / of[COUNTS[0]]:.2f})" for count in COUNTS))
        for backend, of in by_backend.items()
    ]
    headings = ("connections per second (share of that with none)", *(f"{count:,} networks" for count in COUNTS))
    return ["## What a list costs a connection", "", *table(headings, rows), "![data path](performance-lists.svg)", ""]


def plots(starts: dict[str, Result], shares: dict[str, dict[str, float]], rates: list[datapath.Rate]) -> None:
    """Draw the plots."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "performance"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    results = sorted(starts.values(), key=lambda result: -result.wall)
    axes.barh([result.name for result in results], [result.wall for result in results])
    axes.set_xlabel("milliseconds, median of cold processes")
    figure.savefig(DOCS / "performance-cold.svg", metadata={"Date": None})

    figure, axes = plt.subplots(figsize=(8, 2.5), layout="constrained")
    reached = dict.fromkeys(shares, 0.0)
    for phase in PHASES:
        lengths = [of[phase] for of in shares.values()]
        axes.barh(list(shares), lengths, left=list(reached.values()), label=phase)
        reached = {name: reached[name] + length for name, length in zip(shares, lengths, strict=True)}
    axes.set_xlabel("milliseconds of an ADD")
    axes.legend(ncols=len(PHASES), fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1))
    figure.savefig(DOCS / "performance-phases.svg", metadata={"Date": None})

    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    for backend in dict.fromkeys(rate.backend for rate in rates):
        points = [rate for rate in rates if rate.backend == backend]
        axes.plot(
            [str(rate.networks) for rate in points],
            [rate.connections_per_second for rate in points],
            "o-",
            label=backend,
        )
    axes.set_xlabel("excluded networks")
    axes.set_ylabel("connections per second")
    axes.set_ylim(bottom=0)
    axes.legend()
    figure.savefig(DOCS / "performance-lists.svg", metadata={"Date": None})


if __name__ == "__main__":
    sys.exit(main())
