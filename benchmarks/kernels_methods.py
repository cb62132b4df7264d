"""The ways to a trace NTK that ``kernels.py`` compares, each run in a process of its own.

    python benchmarks/kernels_methods.py job.json

writes what it measured to the job's ``result`` as it goes, so that what was measured before a
process had to be ended is not lost. Imports nothing that a peer's environment lacks.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
import math
import resource
import signal
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, vmap
from torch.utils.data import DataLoader, TensorDataset

from model_metrology.models import build_model
from model_metrology.recipes import Architecture

Kernel = Callable[[nn.Module, Tensor], Tensor | np.ndarray]

MODELS: dict[str, tuple[dict[str, Any], tuple[int, int, int], int, int]] = {
    "mlp": ({"name": "mlp", "width": 512, "depth": 2}, (1, 28, 28), 10, 1000),
    "cnn-mnist2": ({"name": "cnn-mnist2", "outputs": "one"}, (1, 28, 28), 2, 500),
    "cnn-cifar2": ({"name": "cnn-cifar2", "outputs": "one"}, (3, 32, 32), 2, 500),
    "resnet18": ({"name": "resnet18"}, (3, 32, 32), 10, 256),
    "mobilenet_v2": ({"name": "mobilenet_v2"}, (3, 64, 64), 10, 128),
    "vit-small": ({"name": "vit-small", "depth": 4}, (3, 32, 32), 10, 256),
}
"""Architecture, image shape, classes and points."""

WRONG = 0.25
"""Median error, in standard deviations of the cosines, from which on a kernel is another one.

In float32 a product over 10⁷ parameters at once may be off by half of this."""
_SHOWN = 160  # characters of an error


# -- networks and points -----------------------------------------------------------------------


def network(name: str, classes: int | None = None) -> nn.Module:
    architecture, shape, standard, _ = MODELS[name]
    return build_model(
        Architecture(**architecture), image_shape=shape, classes=classes or standard, seed=0
    ).eval()


def points(name: str, n: int, seed: int = 1) -> Tensor:
    """Images of ten kinds, so that the kernel has something to show."""
    shape = MODELS[name][1]
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(10, shape[0], 4, 4, generator=generator)
    kinds = nn.functional.interpolate(coarse, size=shape[1:], mode="bilinear")
    noise = torch.randn(n, *shape, generator=generator)
    return 1.5 * kinds[torch.arange(n) % 10] + 0.5 * noise


def settle(model: nn.Module, x: Tensor) -> None:
    """Let signals live: as in a trained network, points must not all look alike in the end.

    Batch normalisation gets the statistics of some batches; weights of networks without
    normalisation are drawn as He et al. 2015 do, without biases.
    """
    kinds = nn.BatchNorm1d | nn.BatchNorm2d
    norms = [module for module in model.modules() if isinstance(module, kinds)]
    if not any("Norm" in type(module).__name__ for module in model.modules()):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            for module in model.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                    nn.init.zeros_(module.bias)
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # plain means over the batches
    model.train()
    with torch.no_grad():
        for part in x.split(64):
            model(part)
    model.eval()


# -- the ways ----------------------------------------------------------------------------------


def ours(memory_mb: float) -> Kernel:
    def compute(model: nn.Module, x: Tensor) -> np.ndarray:
        from model_metrology import trace_ntk

        return trace_ntk(model, x, memory_mb=memory_mb)

    return compute


def _single(model: nn.Module) -> Callable[[dict[str, Tensor], Tensor], Tensor]:
    def output(parameters: dict[str, Tensor], point: Tensor) -> Tensor:
        return functional_call(model, parameters, (point[None],))[0]

    return output


def tutorial(chunk: int, memory_mb: float) -> Kernel:
    """Jacobians by vmap over jacrev, contracted by einsum; blocks on and above the diagonal."""

    def compute(model: nn.Module, x: Tensor) -> Tensor:
        parameters = {name: p.detach() for name, p in model.named_parameters()}
        output = _single(model)
        mapped = vmap(jacrev(output), (None, 0))

        def jacobians(part: Tensor) -> Iterator[tuple[slice, list[Tensor]]]:
            start = 0
            for some in part.split(chunk):
                stop = start + len(some)
                yield slice(start, stop), [j.flatten(2) for j in mapped(parameters, some).values()]
                start = stop

        n, classes = len(x), model(x[:1]).shape[1]
        size = 4 * classes * sum(p.numel() for p in parameters.values())
        # What is left is for the columns' Jacobians, and for those in the making.
        held = min(max(int(memory_mb * 1e6 / size) - 3 * min(chunk, n), 1), n)
        kernel = torch.zeros(n, n)
        for top in range(0, n, held):
            rows = x[top : top + held]
            store = [p.new_empty(len(rows), classes, p.numel()) for p in parameters.values()]
            for place, parts in jacobians(rows):
                for whole, part in zip(store, parts, strict=True):
                    whole[place] = part
            ends = slice(top, top + len(rows))
            for j in store:
                kernel[ends, ends] += torch.einsum("Naf,Maf->NM", j, j)
            rest = x[ends.stop :]
            for place, parts in jacobians(rest) if len(rest) else ():
                columns = slice(ends.stop + place.start, ends.stop + place.stop)
                for j, other in zip(store, parts, strict=True):
                    kernel[ends, columns] += torch.einsum("Naf,Maf->NM", j, other)
                kernel[columns, ends] = kernel[ends, columns].T
        return kernel

    return compute


def gradients(model: nn.Module, x: Tensor, c: int, chunk: int) -> Tensor:
    """Gradients (n, P) of one logit."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    output = _single(model)
    mapped = vmap(grad(lambda p, point: output(p, point)[c]), (None, 0))
    sizes = [p.numel() for p in parameters.values()]
    rows = x.new_empty(len(x), sum(sizes), dtype=next(iter(parameters.values())).dtype)
    start = 0
    for part in x.split(chunk):
        values = mapped(parameters, part).values()
        stop = start + len(part)
        for store, value in zip(rows[start:stop].split(sizes, dim=1), values, strict=True):
            store.copy_(value.flatten(1))
        start = stop
    return rows


def authors(chunk: int) -> Kernel:
    """Class by class, the gradients of all points at once."""

    def compute(model: nn.Module, x: Tensor) -> Tensor:
        classes = model(x[:1]).shape[1]
        kernel = torch.zeros(len(x), len(x), dtype=x.dtype)
        for c in range(classes):
            rows = gradients(model, x, c, chunk)
            kernel += rows @ rows.T
            del rows
        return kernel

    return compute


def _loader(x: Tensor, parts: int) -> DataLoader:
    # A copy: nngeometry marks points as requiring gradients.
    return DataLoader(TensorDataset(x.clone()), batch_size=math.ceil(len(x) / parts))


def nngeometry_gram(parts: int) -> Kernel:
    def compute(model: nn.Module, x: Tensor) -> Tensor:
        from nngeometry import GramMatrix

        blocks = GramMatrix(model=model, loader=_loader(x, parts)).to_torch()
        return torch.einsum("anam->nm", blocks)

    return compute


def _of_class(model: nn.Module, c: int) -> Callable[..., Tensor]:
    return lambda *batch: model(batch[0])[:, c : c + 1]


def nngeometry_by_class(parts: int) -> Kernel:
    """Without blocks of different classes, which a trace does not need."""

    def compute(model: nn.Module, x: Tensor) -> Tensor:
        from nngeometry import GramMatrix

        kernel = torch.zeros(len(x), len(x))
        for c in range(model(x[:1]).shape[1]):
            gram = GramMatrix(model=model, loader=_loader(x, parts), function=_of_class(model, c))
            kernel += gram.to_torch()[0, :, 0, :]
        return kernel

    return compute


def nngeometry_jacobian(parts: int) -> Kernel:
    def compute(model: nn.Module, x: Tensor) -> Tensor:
        from nngeometry.backend import TorchHooksJacobianBackend
        from nngeometry.object import PFMapDense

        kernel = torch.zeros(len(x), len(x))
        for c in range(model(x[:1]).shape[1]):
            generator = TorchHooksJacobianBackend(model=model, function=_of_class(model, c))
            rows = PFMapDense(generator=generator, examples=_loader(x, parts)).to_torch()[0]
            kernel += rows @ rows.T
            del rows
        return kernel

    return compute


def asdl(function: str, parts: int) -> Kernel:
    def compute(model: nn.Module, x: Tensor) -> Tensor:
        import asdl.kernel

        call = getattr(asdl.kernel, function)
        batch = asdl.kernel.batch
        blocks = call(model, x) if parts == 1 else batch(call, model, _loader(x, parts))
        if blocks.ndim == 4:
            blocks = torch.diagonal(blocks, dim1=2, dim2=3)
        return blocks.sum(dim=2)

    return compute


def ways(method: str, memory_mb: float, ours_mb: float) -> dict[str, Kernel]:
    """The options of a method, of which the fastest one that is right is measured."""
    if method == "ours":
        return {f"trace_ntk(memory_mb={ours_mb:g})": ours(ours_mb)}
    if method == "torch.func":
        # Some of the memory for what derivatives keep meanwhile.
        return {
            f"vmap(jacrev), chunks of {c}": tutorial(c, 0.6 * memory_mb) for c in (4, 16, 64, 1)
        }
    if method == "authors":
        return {f"vmap(grad) by class, chunks of {c}": authors(c) for c in (16, 4, 64)}
    if method == "nngeometry":
        return {
            "PFMapDense a class at a time": nngeometry_jacobian(1),
            "GramMatrix a class at a time": nngeometry_by_class(1),
            "PFMapDense a class at a time, 8 parts": nngeometry_jacobian(8),
            "GramMatrix a class at a time, 4 parts": nngeometry_by_class(4),
            "GramMatrix": nngeometry_gram(1),
        }
    if method == "asdfghjkl":
        names = ("class_wise_hadamard", "class_wise_direct", "direct")
        options = {f"empirical_{n}_ntk": asdl(f"empirical_{n}_ntk", 1) for n in names}
        name = "empirical_class_wise_direct_ntk"
        return options | {f"{name}, batches of a quarter": asdl(name, 4)}
    raise ValueError(f"method: there is no {method!r}")


# -- measuring ---------------------------------------------------------------------------------


def status(key: str) -> int:
    """A line of this process's memory, in bytes (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))


def trim() -> None:
    """Give freed memory back to the system."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def clock(job: dict[str, Any]) -> Callable[[], float]:
    return time.process_time if job["clock"] == "cpu" else time.perf_counter


def gemm_rate(job: dict[str, Any], size: int = 2000, seconds: float = 0.4) -> float:
    """Operations a second of a float32 product."""
    now = clock(job)
    a = torch.randn(size, size)
    out, times = a @ a, []
    while sum(times) < seconds or len(times) < 3:
        start = now()
        torch.mm(a, a, out=out)
        times.append(now() - start)
    return 2 * size**3 / statistics.median(times)


def normalised(kernel: Tensor | np.ndarray) -> np.ndarray:
    k = np.asarray(kernel.detach() if isinstance(kernel, Tensor) else kernel, dtype=np.float64)
    root = np.sqrt(np.diag(k))
    return k / np.outer(root, root)


def short(error: BaseException) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def _late(*_: object) -> None:
    raise TimeoutError("beyond four times the time limit")


class Run:
    """One method on one model: its options tried, then as many points as the limits allow."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job, self.result = job, {"levels": {}, "refused": {}}
        self.clock = clock(job)
        signal.signal(signal.SIGALRM, _late)
        self.x = torch.load(job["x"], weights_only=True)
        self.load()
        self.reference = np.load(job["reference"])
        with torch.no_grad():
            self.model(self.x[:2])
        trim()
        self.baseline = status("VmRSS")
        limit = status("VmData") + int(job["memory_mb"] * 1e6)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    def load(self) -> None:
        """The network anew, without hooks that a call which broke off has left in it."""
        self.model = network(self.job["model"])
        self.model.load_state_dict(torch.load(self.job["weights"], weights_only=True))
        for module in self.model.modules():
            # Hooks of peers see what a later layer has written over; the kernel is the same.
            if getattr(module, "inplace", False):
                module.inplace = False

    def refuse(self, name: str, why: str) -> None:
        """Note why an option is out."""
        self.result["refused"][name] = why
        self.load()
        self.save()

    def save(self) -> None:
        """Write what is known so far."""
        Path(self.job["result"]).write_text(json.dumps(self.result))

    def call(self, way: Kernel, stride: int) -> tuple[float, dict[str, float]]:
        """Seconds, and errors on pairs of the reference's points."""
        x = self.x[::stride].clone()
        signal.alarm(math.ceil(4 * self.job["limit"]))
        try:
            start = self.clock()
            # Normalising is part of ours; once more changes nothing.
            kernel = normalised(way(self.model, x))
            taken = self.clock() - start
        finally:
            signal.alarm(0)
        places = np.arange(len(self.reference)) * (self.job["strides"][0] // stride)
        apart = ~np.eye(len(places), dtype=bool)
        difference = np.abs(kernel[np.ix_(places, places)] - self.reference)[apart]
        difference = np.nan_to_num(difference, nan=np.inf)
        typical, spread = np.median(difference), self.reference[apart].std()
        return taken, {
            "error": float(difference.max()),
            "median_error": float(typical),
            "wrong": float(typical / spread),
        }

    def tune(self, options: dict[str, Kernel]) -> list[str]:
        """Options that are right, by speed."""
        strides, limit = self.job["strides"], self.job["limit"]
        # On the fewest points; then, of those that are not far behind, on some 64, where the
        # larger chunks differ.
        trials = [s for s in strides if len(self.x[::s]) <= 64] or strides[:1]
        found: dict[str, float] = {}
        spent = 0.0
        for name, way in options.items():
            if spent > (limit / 2 if found else 3 * limit):
                self.refuse(name, "not tried: out of time")
                continue
            try:
                taken, error = self.call(way, trials[0])
            except Exception as refusal:
                self.refuse(name, short(refusal))
                spent += 4 * limit if isinstance(refusal, TimeoutError) else 0.0
                continue
            spent += taken
            if error["wrong"] < WRONG:
                found[name] = taken
            else:
                self.refuse(name, f"wrong kernel: off by {error['wrong']:.2g} standard deviations")
        best = min(found.values(), default=0.0)
        late = [name for name in found if found[name] > 2 * best + 0.1]
        close = sorted(found.keys() - late)
        if len(close) > 1 and len(trials) > 1 and best < limit / 20:
            found |= {name: self.call(options[name], trials[-1])[0] for name in close}
        return sorted(close, key=found.__getitem__) + sorted(late, key=found.__getitem__)

    def climb(self, options: dict[str, Kernel]) -> None:
        """Twice the points each time, while the next time is within the limit."""
        order = self.tune(options) if len(options) > 1 else list(options)
        last, growth = 0.0, 2.0
        for stride in self.job["strides"]:
            if growth * last > self.job["limit"]:
                self.result["stopped"] = "time"
                break
            taken = self.first(options, order, stride)
            if not taken:
                self.result["stopped"] = "refused"
                break
            growth = min(max(taken / last, 2.0), 4.0) if last else growth
            last = taken
            if self.job["all"]:
                self.repeat(options, stride)
        if not self.result["levels"]:
            return
        stride = min(map(int, self.result["levels"]))
        level = self.result["levels"][str(stride)]
        if not self.job["all"]:
            self.repeat(options, stride)
        else:
            way = options[level["option"]]
            level["flop"] = flop(way, self.model, self.x[::stride].clone())

    def first(self, options: dict[str, Kernel], order: list[str], stride: int) -> float:
        """Seconds of a first call, by the best option that manages it, and its peak memory."""
        while order:
            trim()
            Path("/proc/self/clear_refs").write_text("5")
            try:
                taken, error = self.call(options[order[0]], stride)
            except Exception as refusal:
                self.refuse(order.pop(0), f"{len(self.x[::stride])} points: {short(refusal)}")
                continue
            self.result["levels"][str(stride)] = {
                "option": order[0], "times": [], "first": taken, **error,
                "points": len(self.x[::stride]),
                "peak_mb": (status("VmHWM") - self.baseline) / 1e6,
            }  # fmt: skip
            self.save()
            return taken
        return 0.0

    def repeat(self, options: dict[str, Kernel], stride: int) -> None:
        """Seconds of further calls: the first one warmed up, unless it was too long to matter."""
        level = self.result["levels"][str(stride)]
        way, times = options[level["option"]], level["times"]
        if not times and level["first"] > 5:
            times.append(level["first"])
        limit = self.job["limit"] / (8 if self.job["all"] else 1)
        while len(times) < self.job["repeats"]:
            if times and sum(times) + times[-1] > limit:
                break
            times.append(self.call(way, stride)[0])
            self.save()
        level["gemm"] = gemm_rate(self.job)
        self.save()


def flop(way: Kernel, model: nn.Module, x: Tensor) -> float:
    """Operations of products and convolutions."""
    from torch.utils.flop_counter import FlopCounterMode

    def backward(gradient: Any, points: Any, weight: Any, *rest: Any, **_: Any) -> int:
        # torch's own formula does not know of groups: depthwise layers count hundredfold in it.
        transposed, mask = rest[4], rest[7]
        outer = math.prod(points if transposed else gradient)
        return 2 * outer * math.prod(weight[1:]) * (mask[0] + mask[1])

    counter = FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten.convolution_backward: backward}
    )
    with counter:
        way(model, x)
    return float(counter.get_total_flops())


def measure_method(job: dict[str, Any]) -> None:
    run = Run(job)
    run.save()
    run.result["version"] = version(job["method"])
    run.climb(ways(job["method"], job["memory_mb"], job["ours_mb"]))
    run.save()


def version(method: str) -> str:
    names = {"ours": "torch", "torch.func": "torch", "authors": "torch"}
    return importlib.metadata.version(names.get(method, method))


def make_reference(job: dict[str, Any]) -> None:
    """Weights and points of a model, and the kernel of a few points in float64."""
    n, strides = job["points"], job["strides"]
    model, x = network(job["model"]), points(job["model"], n)
    settle(model, points(job["model"], 256, seed=2))
    torch.save(model.state_dict(), job["weights"])
    torch.save(x, job["x"])
    # The same few points are among those of every stride.
    few = x[:: strides[0]][: job["few"]]
    np.save(job["reference"], normalised(authors(4)(model.double(), few.double())))
    parameters = sum(p.numel() for p in model.parameters())
    result = {"parameters": parameters, "outputs": model(few.double()).shape[1], "few": len(few)}
    Path(job["result"]).write_text(json.dumps(result))


# -- growth with N, C and K --------------------------------------------------------------------


def measure_growth(job: dict[str, Any]) -> None:
    from model_metrology import kernels

    rows: list[dict[str, Any]] = []
    now = clock(job)

    def add(axis: str, name: str, size: int, call: Callable[[], object]) -> None:
        call()
        for _ in range(min(job["repeats"], 3)):
            start = now()
            call()
            taken = now() - start
            rows.append({"axis": axis, "model": name, "size": size, "seconds": taken})
        Path(job["result"]).write_text(json.dumps(rows))

    small = job["small"]
    for name, sizes in job["n"].items():
        model = network(name)
        settle(model, points(name, 256, seed=2))
        for n in sizes:
            x = points(name, n // small)
            add("N", name, n // small, lambda m=model, x=x: kernels.trace_ntk(m, x))
    for name, (n, sizes) in job["c"].items():
        x = points(name, n // small)
        for classes in sizes:
            model = network(name, classes)
            add("C", name, classes, lambda m=model, x=x: kernels.trace_ntk(m, x))
    for name, (n, sizes) in job["k"].items():
        model, x = network(name), points(name, n // small)
        for dim in sizes:
            add(
                "K", name, dim,
                lambda m=model, x=x, k=dim: kernels.projected_trace_ntk(m, x, dim=k),
            )  # fmt: skip


# -- projections -------------------------------------------------------------------------------


def errors(kernel: np.ndarray, exact: np.ndarray) -> tuple[float, float]:
    """Root mean square and largest error, off the diagonal."""
    difference = (kernel - exact)[~np.eye(len(exact), dtype=bool)]
    return float(np.sqrt(np.mean(difference**2))), float(np.abs(difference).max())


def projected_kernel(rows: Tensor, n: int) -> np.ndarray:
    """Trace kernel of projected gradients (n·C, K), point by point."""
    flat = rows.reshape(n, -1).double()
    return normalised(flat @ flat.T)


def sketch(model: nn.Module, rows: Tensor, dim: int, seed: int) -> Tensor:
    from model_metrology.kernels.projections import Sketch

    names, sizes = zip(*((name, p.numel()) for name, p in model.named_parameters()), strict=True)
    projection, target = Sketch(dim, seed), rows.new_zeros(len(rows), dim)
    for name, part in zip(names, rows.split(sizes, dim=1), strict=True):
        projection.add(target, name, part)
    return target


def traker(rows: Tensor, dim: int, seed: int, kind: str) -> Tensor:
    from trak.projectors import BasicProjector

    projector = BasicProjector(
        grad_dim=rows.shape[1], proj_dim=dim, seed=seed, proj_type=kind, device="cpu"
    )
    return projector.project(rows, model_id=0)


def dattri(rows: Tensor, dim: int, seed: int, kind: str) -> Tensor:
    from dattri.func.projection import random_project

    project = random_project(
        rows, len(rows), proj_dim=dim, proj_max_batch_size=32, proj_seed=seed, proj_type=kind,
        device="cpu",
    )  # fmt: skip
    return project(rows)


def measure_projection(job: dict[str, Any]) -> None:
    """The same gradients of one model, projected to K numbers, for as many points as asked."""
    now = clock(job)
    name, method, kind = job["model"], job["method"], job["kind"]
    model, x = network(name), points(name, job["points"])
    classes = model(x[:1]).shape[1]
    rows = torch.stack([gradients(model, x, c, 64) for c in range(classes)], dim=1)
    exact = projected_kernel_of_gradients(rows)
    rows = rows.flatten(0, 1)
    calls: dict[str, Callable[[Tensor, int, int], Tensor]] = {
        "ours": lambda r, dim, seed: sketch(model, r, dim, seed),
        "traker": lambda r, dim, seed: traker(r, dim, seed, kind),
        "dattri": lambda r, dim, seed: dattri(r, dim, seed, kind),
    }
    found: list[dict[str, Any]] = []
    for dim, m in job["dims"]:
        for seed in range(job["seeds"]):
            start = now()
            short_rows = calls[method](rows[: m * classes], dim, seed)
            taken = now() - start
            rms, largest = errors(projected_kernel(short_rows, m), exact[:m, :m])
            found.append(
                {"method": method, "kind": kind, "dim": dim, "points": m, "seed": seed,
                 "seconds": taken, "rms": rms, "largest": largest, "whole": None}
            )  # fmt: skip
        if method == "ours":
            from model_metrology.kernels import projected_trace_ntk

            start = now()
            projected_trace_ntk(model, x, dim=dim)
            found[-1]["whole"] = now() - start
        Path(job["result"]).write_text(json.dumps(found))


def projected_kernel_of_gradients(rows: Tensor) -> np.ndarray:
    """Exact kernel from gradients (n, C, P), summed over classes in float64."""
    total = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for c in range(rows.shape[1]):
        total += (rows[:, c] @ rows[:, c].T).double()
    return normalised(total)


TASKS = {
    "reference": make_reference,
    "method": measure_method,
    "growth": measure_growth,
    "projection": measure_projection,
}


def main() -> None:
    warnings.simplefilter("ignore")
    job = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(job["threads"])
    TASKS[job["task"]](job)


if __name__ == "__main__":
    main()
