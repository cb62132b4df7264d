"""The trace NTK against other ways to it: time, memory, agreement, and how cost grows.

    python -m venv /tmp/peers && /tmp/peers/bin/pip install -r benchmarks/peers.txt
    python benchmarks/kernels.py --peers /tmp/peers/bin/python

writes ``kernels.csv``, ``kernels_growth.csv``, ``kernels_projections.csv``, all three as
``kernels.txt``, and ``kernels.png`` to ``benchmarks/results`` (``--out`` elsewhere). For a quick
look: ``--only mlp --points 64``.

* Methods. The normalised kernel of N points, same weights, same points, same threads, each method
  in a process of its own (:mod:`kernels_methods`):

  - ours: ``trace_ntk``, with its default of memory;
  - ``torch.func``: Jacobians by ``vmap(jacrev(…))``, contracted by einsum, as in PyTorch's tutorial
    on neural tangent kernels; blocks on and above the diagonal, held as memory allows;
  - authors: class by class, ``vmap(grad(…))`` of all points, then one product, as Engel et al. do;
  - nngeometry and asdfghjkl (imported as ``asdl``), from an environment of their own.

  All but ours have options (chunks, functions), which are tried on up to 64 points; the fastest
  one whose kernel is right is measured. Points are doubled from few to N while the next call would
  stay within ``--limit`` seconds and ``--memory`` megabytes: a method that does not come to N is
  compared with ours at as many points as it came to. Seconds are the median of the runs (wall
  clock; ``--clock cpu`` for a machine that has other work). Peak memory is that of the process
  above what it holds with model and points loaded. Errors are the largest and the median difference
  from cosines of some points' gradients in float64 (by the authors' way). FLOP are what
  :class:`torch.utils.flop_counter.FlopCounterMode` counts in our call (products and convolutions,
  groups of channels minded), and their rate is held against that of a float32 product of
  2,000 × 2,000 matrices in the same process.
* Growth: seconds of ours against N, C and K; the exponent is the slope of log seconds over the
  largest four sizes, all repeats, with its 95 % interval.
* Projections: the same gradients, by class, of the MLP, projected by ours (a count sketch) and by
  the peers' CPU projectors (dense Rademacher matrices in blocks; a random choice of coordinates),
  construction included, and the error of the kernel that results; K = 10,240 for a tenth of the
  points with dense matrices, whose making takes most of the time there.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from kernels_methods import MODELS
from matplotlib.ticker import NullFormatter
from scipy import stats

from model_metrology.plots import style

WORKER = Path(__file__).with_name("kernels_methods.py")
METHODS = ("ours", "torch.func", "authors", "nngeometry", "asdfghjkl")
PEERS = ("nngeometry", "asdfghjkl", "traker", "dattri")
PARTS = ("methods", "growth", "projections")
GROWTH: dict[str, dict[str, Any]] = {
    "n": {
        "mlp": (125, 250, 500, 1000, 2000),
        "cnn-cifar2": (32, 64, 128, 256, 512),
        "vit-small": (16, 32, 64, 128, 256),
    },
    "c": {"mlp": (500, (2, 4, 8, 16, 32, 64)), "vit-small": (64, (2, 4, 8, 16, 32))},
    "k": {"mlp": (100, (256, 512, 1024, 2048, 4096, 8192, 16384))},
}
DIMS = (512, 2048)
FAR = 10_240
"""The paper's K: minutes for dense matrices, and nearly as long for a tenth of the points."""
OUR_DIMS = (128, 256, 512, 1024, 2048, 4096, 10_240)
PROJECTORS = (("traker", "rademacher"), ("dattri", "rademacher"), ("dattri", "random_mask"))
FITTED = 4
Row = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """What all processes share."""

    folder: Path
    options: argparse.Namespace
    peers: dict[str, str]

    def work(self, task: str, *, peer: bool = False, **job: Any) -> tuple[Any, str]:
        """Result of one process, and what it died of, if it did."""
        o = self.options
        files = {name: str(self.folder / name) for name in ("weights", "result", "x")}
        files["reference"] = str(self.folder / "reference.npy")
        (self.folder / "result").unlink(missing_ok=True)
        common = {"threads": o.threads, "limit": o.limit, "repeats": o.repeats, "clock": o.clock}
        path = self.folder / "job.json"
        path.write_text(json.dumps({**files, **common, "task": task, **job}))
        environment = os.environ | {"OMP_NUM_THREADS": str(o.threads)}
        command = [o.peers if peer else sys.executable, str(WORKER), str(path)]
        died = ""
        patience = 3 * job.get("limit", 30 * o.limit) + 10 * o.limit + 60
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=patience
            )
            if done.returncode:
                died = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
        except subprocess.TimeoutExpired:
            died = f"ended after {patience:.0f} s"
        result = self.folder / "result"
        return (json.loads(result.read_text()) if result.exists() else None), died


def installed(python: str | None) -> dict[str, str]:
    """Versions of the peers that an interpreter has."""
    if python is None:
        return {}
    code = (
        "import importlib.metadata as m, json\nfound = {}\n"
        f"for name in {PEERS}:\n"
        "    try: found[name] = m.version(name)\n"
        "    except m.PackageNotFoundError: pass\n"
        "print(json.dumps(found))"
    )
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


# -- methods -----------------------------------------------------------------------------------


def strides(n: int) -> list[int]:
    """Every how manieth point is taken, from some 8 points to all."""
    levels = max(int(np.log2(n / 8)), 0)
    return [2**level for level in range(levels, -1, -1)]


def compare_methods(bench: Bench, model: str) -> list[Row]:
    o = bench.options
    n = o.points or max(MODELS[model][3] // o.small, 16)
    job = {"model": model, "points": n, "strides": strides(n), "few": 16, "limit": o.limit}
    about, died = bench.work("reference", **job)
    if about is None:
        raise RuntimeError(f"{model}: no reference; {died}")
    rows, ours = [], {}
    for method in o.methods:
        row: Row = {
            "model": model, "parameters": about["parameters"], "outputs": about["outputs"],
            "method": method, "version": "", "option": "", "points": "", "of": n, "seconds": "",
            "fastest": "", "slowest": "", "runs": "", "ratio": "", "peak_mb": "", "error": "",
            "median_error": "", "gflop": "", "gemm_share": "", "gemm_gflops": "", "note": "",
        }  # fmt: skip
        rows.append(row)
        if method in PEERS and method not in bench.peers:
            row["note"] = "absent" if o.peers else "absent: no --peers given"
        else:
            mine = method == "ours"
            # Ours is measured at all numbers of points that others may come to.
            job["limit"] = 8 * o.limit if mine else o.limit
            result, died = bench.work(
                "method", peer=method in PEERS, **job, method=method, all=mine,
                memory_mb=o.memory, ours_mb=o.ours_memory,
            )  # fmt: skip
            fill(row, result or {"levels": {}, "refused": {}}, died, ours)
        show(row)
    return rows


def fill(row: Row, result: dict[str, Any], died: str, ours: dict[str, float]) -> None:
    """Put into a row what a process found, at the most points that it came to."""
    row["version"] = result.get("version", "")
    levels = result["levels"]
    refused = "; ".join(f"{name}: {why}" for name, why in result["refused"].items())
    notes = [f"died: {died}"] if died else []
    if row["method"] == "ours":
        ours |= {stride: statistics.median(seconds_of(level)) for stride, level in levels.items()}
    if levels:
        stride = min(levels, key=int)
        level = levels[stride]
        times = seconds_of(level)
        seconds = statistics.median(times)
        row |= {
            "option": level["option"], "points": level["points"], "seconds": f"{seconds:.4g}",
            "fastest": f"{min(times):.4g}", "slowest": f"{max(times):.4g}",
            "runs": len(times), "error": f"{level['error']:.1e}",
            "median_error": f"{level['median_error']:.1e}",
        }  # fmt: skip
        if stride in ours:
            row["ratio"] = f"{seconds / ours[stride]:.2f}"
        row["peak_mb"] = f"{level['peak_mb']:.0f}"
        if "gemm" in level:
            row["gemm_gflops"] = f"{level['gemm'] / 1e9:.0f}"
        if "flop" in level:
            row["gflop"] = f"{level['flop'] / 1e9:.4g}"
            row["gemm_share"] = f"{level['flop'] / seconds / level['gemm']:.3f}"
        if result.get("stopped") == "time":
            notes.append("more points are beyond the time limit")
    row["note"] = "; ".join([*notes, refused] if refused else notes)


def seconds_of(level: dict[str, Any]) -> list[float]:
    """Seconds of each run; of a process that died in its first, of that one."""
    return level["times"] or [level["first"]]


def show(row: Row) -> None:
    keys = ("model", "method", "option", "points", "seconds", "ratio", "peak_mb", "error", "note")
    print(*(row[key] for key in keys), sep=" · ", flush=True)


# -- growth ------------------------------------------------------------------------------------


def slope(sizes: Sequence[float], values: Sequence[float], last: int) -> tuple[float, float]:
    """Slope of log values over log sizes, at the last so many sizes, and the half of its 95 %."""
    kept = sorted(set(sizes))[-last:]
    pairs = [(s, v) for s, v in zip(sizes, values, strict=True) if s in kept]
    x, y = np.log(np.array(pairs)).T
    if len(set(x)) < 2 or len(x) < 3:
        return float("nan"), float("nan")
    fit = stats.linregress(x, y)
    return fit.slope, fit.stderr * stats.t.ppf(0.975, len(x) - 2)


def fit_growth(raw: list[Row]) -> list[Row]:
    """Median seconds of each size, and the exponent of each axis and model."""
    rows = []
    for axis, model in dict.fromkeys((r["axis"], r["model"]) for r in raw):
        part = [r for r in raw if (r["axis"], r["model"]) == (axis, model)]
        exponent, half = slope([r["size"] for r in part], [r["seconds"] for r in part], FITTED)
        for size in dict.fromkeys(r["size"] for r in part):
            times = [r["seconds"] for r in part if r["size"] == size]
            rows.append(
                {"axis": axis, "model": model, "size": size,
                 "seconds": f"{statistics.median(times):.4g}", "fastest": f"{min(times):.4g}",
                 "slowest": f"{max(times):.4g}", "exponent": f"{exponent:.2f}",
                 "lower": f"{exponent - half:.2f}", "upper": f"{exponent + half:.2f}"}
            )  # fmt: skip
        print(f"growth with {axis}, {model}: {exponent:.2f} ± {half:.2f}", flush=True)
    return rows


# -- projections -------------------------------------------------------------------------------


def compare_projections(bench: Bench) -> list[Row]:
    n = max(100 // bench.options.small, 10)
    rows: list[Row] = []
    for method, kind in (("ours", "count sketch"), *PROJECTORS):
        mine = method == "ours"
        if method in PEERS and method not in bench.peers:
            rows.append({"method": method, "kind": kind, "note": "absent"})
            continue
        dims = [(dim, n) for dim in (OUR_DIMS if mine else DIMS)]
        # The same matrix in both peers, so once is enough.
        if (method, kind) == PROJECTORS[0]:
            dims.append((FAR, max(n // 10, 3)))
        elif kind == "random_mask":
            dims.append((FAR, n))
        found, died = bench.work(
            "projection", peer=not mine, model="mlp", points=n, method=method, kind=kind,
            dims=dims, seeds=5 if mine or kind == "random_mask" else 1,
        )  # fmt: skip
        if died:
            rows.append({"method": method, "kind": kind, "note": f"died: {died}"})
        rows += summary(found or [])
    for row in rows:
        print(*row.values(), sep=" · ", flush=True)
    return rows


def summary(found: list[Row]) -> list[Row]:
    """One row each K; the exponent is that of the root mean square error over all K."""
    rows = []
    dims, rms = [r["dim"] for r in found], [r["rms"] for r in found]
    exponent, half = slope(dims, rms, len(set(dims))) if found else (0.0, 0.0)
    for dim in dict.fromkeys(dims):
        part = [r for r in found if r["dim"] == dim]
        taken = statistics.median(r["seconds"] for r in part)
        whole = next((r["whole"] for r in part if r["whole"]), None)
        rows.append(
            {"method": part[0]["method"], "kind": part[0]["kind"], "dim": dim,
             "points": part[0]["points"], "seconds": f"{taken:.4g}",
             "seconds_per_point": f"{taken / part[0]['points']:.3g}", "runs": len(part),
             "rms_error": f"{np.sqrt(np.mean([r['rms'] ** 2 for r in part])):.2e}",
             "largest_error": f"{max(r['largest'] for r in part):.2e}",
             "exponent": f"{exponent:.2f}", "lower": f"{exponent - half:.2f}",
             "upper": f"{exponent + half:.2f}",
             "whole_call_seconds": f"{whole:.4g}" if whole else "", "note": ""}
        )  # fmt: skip
    return rows


# -- output ------------------------------------------------------------------------------------


def write_csv(rows: list[Row], path: Path) -> None:
    fields = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=fields, lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(rows)


def table(rows: list[Row], keys: Sequence[str], notes: bool = False) -> str:
    """Rows in columns of plain text, their notes below them."""
    cells = [[str(row.get(key, "")) for key in keys] for row in rows]
    widths = [max(map(len, column)) for column in zip(keys, *cells, strict=True)]
    lines = ["  ".join(k.ljust(w) for k, w in zip(keys, widths, strict=True)).rstrip()]
    for row, line in zip(rows, cells, strict=True):
        lines.append("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip())
        if notes and row.get("note"):
            lines += [f"    {note}" for note in row["note"].split("; ")]
    return "\n".join(lines)


def machine(options: argparse.Namespace, peers: dict[str, str]) -> str:
    names = (
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    versions = ", ".join(f"{name} {version}" for name, version in peers.items()) or "none"
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    clock = "processor seconds" if options.clock == "cpu" else "wall clock"
    return (
        f"{next(names, platform.machine())}, {os.cpu_count()} cores, {options.threads} threads; "
        f"{clock}; load before: {load}\npeers: {versions}; limit {options.limit:g} s a call, "
        f"{options.memory:g} MB"
    )


def places(rows: list[Row]) -> Iterable[tuple[int, str, list[Row]]]:
    for i, method in enumerate(METHODS):
        part = [row for row in rows if row["method"] == method and row["seconds"]]
        if part:
            yield i, method, part


def draw_methods(axes: Any, rows: list[Row]) -> None:
    names = style.order(row["model"] for row in rows)
    for i, method, part in places(rows):
        y = [names.index(row["model"]) + (i - 2) / 8 for row in part]
        look = {"color": style.colour(i), "marker": style.marker(i), "ls": "", "label": method}
        axes[0].plot([float(row["ratio"] or "nan") for row in part], y, **look)
        axes[1].plot([float(row["peak_mb"] or "nan") for row in part], y, **look)
    for ax, text in zip(axes, ("time over ours, at equal N", "peak memory, MB"), strict=True):
        ax.set(xscale="log", xlabel=text)
        ax.set_yticks(range(len(names)), [counted(name, rows) for name in names])
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.invert_yaxis()
    axes[0].axvline(1.0, color=style.REFERENCE, ls="--")
    legend(axes[1], columns=3)


def counted(name: str, rows: list[Row]) -> str:
    """A model, and the points that methods came to."""
    points = [r["points"] for r in rows if r["model"] == name and r["points"]]
    few, many = min(points), max(points)
    return f"{name}\nN = {few} to {many}" if few < many else f"{name}\nN = {many}"


def legend(ax: Any, columns: int = 1) -> None:
    """Below the axes, where no point is."""
    ax.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=columns)


def draw_growth(axes: Any, rows: list[Row]) -> None:
    for i, (axis, model) in enumerate(dict.fromkeys((r["axis"], r["model"]) for r in rows)):
        part = [r for r in rows if (r["axis"], r["model"]) == (axis, model)]
        half = (float(part[0]["upper"]) - float(part[0]["lower"])) / 2
        label = f"{model}: {axis}^({float(part[0]['exponent']):.2f} ± {half:.2f})"
        axes[0 if axis == "N" else 1].plot(
            [r["size"] for r in part], [float(r["seconds"]) for r in part],
            color=style.colour(i), marker=style.marker(i), label=label,
        )  # fmt: skip
    for ax, text in zip(axes, ("points N", "classes C, or numbers projected to K"), strict=True):
        ax.set(xscale="log", yscale="log", xlabel=text, ylabel="seconds, ours")
        legend(ax)


def draw_projections(axes: Any, rows: list[Row]) -> None:
    rows = [row for row in rows if row.get("seconds")]
    for i, (method, kind) in enumerate(dict.fromkeys((r["method"], r["kind"]) for r in rows)):
        part = [r for r in rows if (r["method"], r["kind"]) == (method, kind)]
        dims = [r["dim"] for r in part]
        look = {"color": style.colour(i), "marker": style.marker(i), "label": f"{method}, {kind}"}
        axes[0].plot(dims, [float(r["seconds_per_point"]) for r in part], **look)
        half = (float(part[0]["upper"]) - float(part[0]["lower"])) / 2
        if np.isfinite(half):
            look["label"] += f": K^({float(part[0]['exponent']):.2f} ± {half:.2f})"
        axes[1].plot(dims, [float(r["rms_error"]) for r in part], **look)
    for ax, text in zip(axes, ("seconds a point", "r.m.s. error of the cosines"), strict=True):
        ax.set(xscale="log", yscale="log", xlabel="numbers projected to, K", ylabel=text)
        legend(ax)


@style.styled
def draw(methods: list[Row], growth: list[Row], projections: list[Row]) -> plt.Figure:
    figure, axes = style.subplots(3, 2, height=13.0)
    for pair, rows, part in zip(
        axes,
        (methods, growth, projections),
        (draw_methods, draw_growth, draw_projections),
        strict=True,
    ):
        if rows:
            part(pair, rows)
        else:
            for ax in pair:
                style.say(ax, "not measured")
    return figure


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--peers", help="interpreter of the peers' environment")
    parser.add_argument("--only", nargs="+", choices=MODELS, help="models; methods alone then")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--parts", nargs="+", choices=PARTS)
    parser.add_argument("--points", type=int, help="points of every model, in place of its own")
    parser.add_argument("--small", type=int, default=1, help="divide numbers of points by this")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall",
        help="cpu: processor seconds, for a machine that has other work, with --threads 1",
    )  # fmt: skip
    parser.add_argument("--limit", type=float, default=10, help="seconds a call may take")
    parser.add_argument("--memory", type=float, default=12_000, help="MB a method may take")
    parser.add_argument("--ours-memory", type=float, default=4000, help="memory_mb of ours")
    options = parser.parse_args()
    options.parts = options.parts or (PARTS[:1] if options.only else PARTS)
    return options


def main() -> None:
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    peers = installed(options.peers)
    head, started = machine(options, peers), time.perf_counter()
    methods: list[Row] = []
    growth: list[Row] = []
    projections: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), options, peers)
        if "methods" in options.parts:
            for model in options.only or MODELS:
                methods += compare_methods(bench, model)
                write_csv(methods, options.out / "kernels.csv")
        if "growth" in options.parts:
            raw, died = bench.work("growth", **GROWTH, small=options.small)
            if died:
                print(f"growth: {died}")
            growth = fit_growth(raw or [])
            write_csv(growth, options.out / "kernels_growth.csv")
        if "projections" in options.parts:
            projections = compare_projections(bench)
            write_csv(projections, options.out / "kernels_projections.csv")
    keys = (
        "model", "method", "version", "points", "of", "seconds", "fastest", "slowest", "runs",
        "ratio", "peak_mb", "error", "median_error", "gflop", "gemm_share", "gemm_gflops", "option",
    )  # fmt: skip
    parts = [head, table(methods, keys, notes=True)] if methods else [head]
    parts += [table(rows, list(rows[0])) for rows in (growth, projections) if rows]
    (options.out / "kernels.txt").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    style.save(draw(methods, growth, projections), options.out / "kernels.png")
    print("\n\n".join(parts))
    print(f"\n{(time.perf_counter() - started) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
