"""What the paper's study costs, and 10 and 1,000 times of it, on one GPU and on 100.

    python benchmarks/paper.py [--faster 30 100 300]

Snakemake's dry run of `studies/paper.yaml` says which jobs there are and what waits for what.
What a job costs comes from pieces that are measured here first, on this machine's CPU: seconds for
an image of training, a pair of points of a kernel, a candidate of a comparison; they are kept in
results/pieces.json, to be deleted for new ones. No GPU was at hand; a GPU is taken to be so many
times *faster* at arithmetic, no faster than 2 ms a step of training, and every job is taken to need
15 s to start. Then the plan is played, see `schedule.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from schedule import Job, planned_jobs, simulate
from threadpoolctl import threadpool_limits
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from model_metrology.data.catalogue import DATASETS
from model_metrology.kernels import KERNELS
from model_metrology.kernels.functions import Options, _prepared
from model_metrology.models.architectures import build_model
from model_metrology.models.language import SequenceClassifier
from model_metrology.recipes import Architecture, block_runs
from model_metrology.runs import Outputs
from model_metrology.study import Study, load_study, name_of_folder
from model_metrology.surrogates.glm import fit_surrogate
from model_metrology.variability.tables import (
    alpha_table,
    metrics_table,
    null_table,
    own_alpha_table,
)

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"

STEP = 0.002  # seconds of a GPU's training step at least: its kernels are launched one by one
START = 15.0  # seconds from when a job could start to its first line: scheduler, imports

# The study does not say how large the users' texts are.
TEXTS, TOKENS = 5_000, 256  # in a source; in a text
IMAGE_FLOPS = 2 * 162e9  # ViT-H/14 on 224 x 224 pixels, a multiply and an add for each weight
PARAMETERS = {"Mistral-7B": 7.2e9, "e5-large": 0.56e9}


# -- pieces ------------------------------------------------------------------------------------


def timed(work: Callable[[], Any], least: float = 5.0) -> float:
    """Median seconds of at least three calls, after one to warm up."""
    work()
    seconds: list[float] = []
    while len(seconds) < 3 or sum(seconds) < least:
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
        if seconds[0] > 4 * least:
            break
    return float(np.median(seconds))


def matrix_rate() -> float:
    """Operations a second of this machine's matrix product, in float32."""
    a = torch.randn(2048, 2048)
    return 2 * 2048**3 / timed(lambda: a @ a)


def untrained(architecture: Architecture) -> Architecture:
    """The same without its pretrained weights, which change no time."""
    return architecture.model_copy(update={"pretrained": False})


def training_piece(architecture: Architecture, dataset: str, batch: int) -> dict[str, float]:
    """Seconds and operations for one image: forward, backward, step."""
    spec = DATASETS[dataset]
    shape = spec.shape
    model = build_model(
        untrained(architecture),
        image_shape=shape,
        classes=len(spec.classes),
        seed=0,
    )
    images = torch.randn(batch, *shape)
    labels = torch.arange(batch) % len(spec.classes)
    optimiser = torch.optim.Adam(model.parameters())

    def step() -> None:
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimiser.step()

    with FlopCounterMode(display=False) as counter:
        step()
    return {"seconds": timed(step) / batch, "operations": counter.get_total_flops() / batch}


def kernels_piece(model: nn.Module, points: torch.Tensor, study: Study, rate: float) -> float:
    """Seconds for a pair of points, of all kernels together, in blocks as large as memory allows.

    What is held of a point (its gradients, say) is made again for each block it is in, and so is
    what a product of two blocks writes out; their seconds are shared by as many pairs as a block
    has columns. A pair itself takes what it takes to multiply gradients that are written out, at
    the rate of matrix products.
    """
    model.eval()
    options = Options(memory_mb=study.surrogates.memory_mb)
    n, total = len(points) // 2, 0.0
    numbers = sum(parameter.numel() for parameter in model.parameters())
    with torch.no_grad():
        outputs = model(points[:1]).shape[1]
    pairs = {"pseudo": 2 * numbers / rate, "trace": 2 * numbers * outputs / rate}
    for raw in dict.fromkeys(raw for raw, _ in KERNELS.values()):
        with _prepared(raw, model, points, None, options) as ready:
            size = ready.memory.side()
            started = time.perf_counter()
            one, other = (
                ready.hold(ready.x.part(start, start + n, ready.place)) for start in (0, n)
            )
            held = time.perf_counter()
            one.with_others(other)
            ended = time.perf_counter()
        point, pair = (held - started) / (2 * n), pairs.get(raw, 0.0)
        written = max((ended - held) / n - pair * n, 0.0)
        seconds = point / min(size, study.surrogates.tile) + written / size + pair
        print(f"  {raw}: {point:.3g} and {written:.3g} s a point, {size} in a block, "
              f"{pair:.3g} s a pair; in all {seconds:.3g} s a pair", flush=True)  # fmt: skip
        total += seconds
    return total


def bert() -> tuple[SequenceClassifier, torch.Tensor]:
    """A network of BERT-base's sizes, and sentences of 64 tokens."""
    import transformers

    config = transformers.BertConfig(num_labels=2, attn_implementation="eager")
    network = transformers.BertForSequenceClassification(config)
    return SequenceClassifier(network, 0), torch.randint(1, 30_000, (16, 64))


def variability_pieces() -> dict[str, float]:
    """Seconds for a candidate held against 45 runs, and for a run held against its own."""
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=8_000)

    def outputs(name: str, runs: int) -> Outputs:
        logits = rng.normal(2.0 * labels - 1.0, size=(runs, len(labels)))[..., None]
        logits = np.concatenate([-logits, logits], axis=-1).astype(np.float32)
        return Outputs(name, np.arange(runs), logits, labels, ("a", "b"))

    reference, some = outputs("reference", 45), outputs("some", 4)
    null = null_table(reference)
    against = partial(alpha_table, some, reference, null, rng=rng)
    own = outputs("own", 45)
    return {
        "candidate": (timed(against) + timed(lambda: metrics_table(some, reference))) / 4,
        "own run": timed(lambda: own_alpha_table(own)) / 45,
    }


def surrogate_piece() -> float:
    """Seconds of a fit of 3,000 points and ten classes, penalty given, by the number's square."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(3_000, 400))
    labels = np.argmax(features[:, :10] + rng.normal(size=(3_000, 10)), axis=1)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    kernel = features @ features.T
    return timed(lambda: fit_surrogate(kernel, labels, l2=1e-4), least=1.0) / 3_000**2


def measured_pieces(study: Study) -> dict[str, Any]:
    """All of them."""
    rate = matrix_rate()
    pieces: dict[str, Any] = {"operations a second": rate}
    for name, population in study.populations.items():
        key = untrained(population.architecture).model_dump_json()
        if key in pieces:
            continue
        batch = 8 if population.architecture.image_size else population.recipe.batch_size
        pieces[key] = training_piece(population.architecture, population.dataset, batch)
        print(f"{name}: {pieces[key]}", flush=True)
    for name in study.surrogates.populations:
        population = study.populations[name]
        spec = DATASETS[population.dataset]
        model = build_model(population.architecture, image_shape=spec.shape, classes=10, seed=0)
        pieces[f"pair {name}"] = kernels_piece(model, torch.randn(32, *spec.shape), study, rate)
        print(f"pair of {name}: {pieces[f'pair {name}']:.2e} s", flush=True)
    for name in study.surrogates.language:
        pieces[f"pair {name}"] = kernels_piece(*bert(), study, rate)
        print(f"pair of {name}: {pieces[f'pair {name}']:.2e} s", flush=True)
    with threadpool_limits(1):  # as their jobs have one core
        pieces |= variability_pieces()
        pieces["fit, by squared points"] = surrogate_piece()
    return pieces


def known_pieces(study: Study) -> dict[str, Any]:
    """Pieces measured before, or now."""
    path = RESULTS / "pieces.json"
    if not path.exists():
        path.write_text(json.dumps(measured_pieces(study), indent=2) + "\n")
    return json.loads(path.read_text())


# -- jobs --------------------------------------------------------------------------------------


def train_seconds(job: Job, study: Study, pieces: dict[str, Any], faster: float) -> float:
    population = study.populations[name_of_folder(job.wildcards["population"])]
    key = untrained(population.architecture).model_dump_json()
    points = study.spec(population.dataset).train_size
    runs, epochs = len(block_runs(job.wildcards["block"])), population.recipe.epochs
    steps = np.ceil(points / population.recipe.batch_size)
    epoch = max(points * pieces[key]["seconds"] / faster, steps * STEP)
    return float(runs * epochs * epoch)


def kernel_seconds(job: Job, study: Study, pieces: dict[str, Any], faster: float) -> float:
    name = name_of_folder(job.wildcards["subject"])
    start, stop = map(int, job.wildcards["columns"].split("-"))
    language = name in study.surrogates.language
    tests = 527 if language else study.spec(study.populations[name].dataset).test_size
    pairs = (stop - start) * (start + (stop - start) / 2 + tests)
    return float(pairs * pieces[f"pair {name}"] / faster)


def surrogates_seconds(job: Job, study: Study, pieces: dict[str, Any], faster: float) -> float:
    # On CPUs: the study's seven kernels, the penalty chosen among ten on four fifths of the points.
    name = name_of_folder(job.wildcards["subject"])
    points = 8_551 if name in study.surrogates.language else 50_000
    return float(7 * (1 + 10 * 0.64) * pieces["fit, by squared points"] * points**2)


def measure_seconds(job: Job, study: Study, pieces: dict[str, Any], faster: float) -> float:
    size = study.populations[name_of_folder(job.wildcards["population"])].size
    return float(size * (pieces["candidate"] + pieces["own run"]))


def embed_seconds(job: Job, study: Study, pieces: dict[str, Any], faster: float) -> float:
    parameters = PARAMETERS.get(name_of_folder(job.wildcards["embedder"]))
    operations = 2 * parameters * TOKENS if parameters else IMAGE_FLOPS
    # At half of what matrix products reach.
    return float(TEXTS * operations / (0.5 * pieces["operations a second"] * faster))


def fine_tune_seconds(job: Job, study: Study, pieces: dict[str, Any], faster: float) -> float:
    operations = 6 * 0.11e9 * 64 * 8_551 * 3
    return float(operations / (0.5 * pieces["operations a second"] * faster))


COSTS = {
    "train": train_seconds,
    "kernel_columns": kernel_seconds,
    "surrogates": surrogates_seconds,
    "measure": measure_seconds,
    "embed": embed_seconds,
    "fine_tune": fine_tune_seconds,
}


def job_seconds(job: Job, study: Study, pieces: dict[str, Any], faster: float) -> float:
    """Seconds of one job; the rest, on CPUs, take a minute."""
    if not job.benchmark:
        return 0.0
    return START + (COSTS[job.rule](job, study, pieces, faster) if job.rule in COSTS else 60.0)


# -- studies -----------------------------------------------------------------------------------


def scaled(content: dict[str, Any], times: int) -> dict[str, Any]:
    """So many times as many runs of everything that is trained, in blocks that grow with them."""
    content = json.loads(json.dumps(content))  # anchors are shared
    for population in content["populations"].values():
        population["size"] *= times
        if times > 10:
            # Some hours a block.
            population["runs_per_job"] = min(population.get("runs_per_job", 1) * 25, 200)
    content["surrogates"]["runs"] *= times
    for language in content["surrogates"]["language"].values():
        language["size"] *= times
    if times > 10:
        content["surrogates"]["tile"] = 2_000  # fewer jobs to plan
    return content


def stand_in_files(folder: Path) -> None:
    """The users' files that a plan asks for, empty."""
    names = [f"texts/{name}.parquet" for name in ("stack_exchange", "news_es", "news_de")]
    names += [f"resources/cola/in_domain_{part}.tsv" for part in ("train", "dev")]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    for name in ("photographs", "generated"):
        (folder / "images" / name).mkdir(parents=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faster", type=float, nargs="+", default=[30, 100, 300])
    parser.add_argument("--times", type=int, nargs="+", default=[1, 10, 1000])
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 100])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        stand_in_files(Path())
        rows = forecast(arguments.times, arguments.faster, arguments.gpus)
    pd.DataFrame(rows).round(4).to_csv(RESULTS / "paper.csv", index=False)


def forecast(
    all_times: Sequence[int], all_faster: Sequence[float], all_gpus: Sequence[int]
) -> list[dict[str, float]]:
    """Play the plans of all sizes of the study, in the current folder."""
    content = yaml.safe_load((ROOT / "studies" / "paper.yaml").read_text())
    pieces = known_pieces(load_study(content, source="studies/paper.yaml"))
    rows = []
    for times in all_times:
        larger = scaled(content, times)
        study = load_study(larger, source="studies/paper.yaml")
        Path("study.yaml").write_text(yaml.safe_dump(larger))
        started = time.perf_counter()
        # Without the limits of this machine, so that jobs show what they ask for.
        options = "--cores", "1000", "--workflow-profile", "none"
        jobs = planned_jobs(Path("study.yaml"), Path(), *options)
        planning = time.perf_counter() - started
        print(f"{times} x: {len(jobs)} jobs planned in {planning:.1f} s", flush=True)
        for faster, gpus in product(all_faster, all_gpus):
            seconds = [job_seconds(job, study, pieces, faster) for job in jobs]
            hours = Counter[str]()
            for job, each in zip(jobs, seconds, strict=True):
                hours[job.rule if job.rule in COSTS else "others"] += each / 3600
            # Four cores beside each GPU for what needs none.
            played = simulate(jobs, seconds, cores=max(16, 4 * gpus), gpus=gpus)
            row = {
                "times": times,
                "faster": faster,
                "gpus": gpus,
                "jobs": len(jobs),
                "planning_s": round(planning, 1),
                "days": played.seconds / 86400,
                "gpus_busy": played.busy,
                "longest_chain_days": played.longest_chain / 86400,
            }
            rows.append(row | {f"{rule}_hours": hours[rule] for rule in [*COSTS, "others"]})
            print(pd.Series(rows[-1]).to_string(float_format="{:.3g}".format), flush=True)
    return rows


if __name__ == "__main__":
    main()
