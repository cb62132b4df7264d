"""The files of a study, by kind: what each holds, on top of :mod:`model_metrology.store`.

Apart from `store`, so that a new kind of file leaves the code that training rests on unchanged.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any

import h5py
import numpy as np
import pandas as pd

from model_metrology.data.datasets import Dataset
from model_metrology.embeddings.items import Items, strings
from model_metrology.embeddings.views import Embedding
from model_metrology.runs import Outputs, TrainedRun
from model_metrology.spectra.runs import MATRICES, RunSpectra, WidthRun
from model_metrology.store import Tree, open_file, read, read_group, write
from model_metrology.surrogates.outputs import KernelColumns, Measured, SubjectOutputs


def read_table(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a CSV table of a study; a population named ``1`` or ``NA`` keeps that name."""
    try:
        columns = pd.read_csv(path, nrows=0).columns
    except pd.errors.EmptyDataError:  # nothing was measured
        return pd.DataFrame()
    # Elsewhere labels are numbers.
    names = (*_NAMES, *_EMBEDDED, *_WORDS) if "embedder" in columns else _NAMES
    table = pd.read_csv(
        path, dtype=dict.fromkeys(names, str), keep_default_na=False, na_values=[""]
    )
    if "embedder" in columns:
        table = table.fillna(dict.fromkeys(set(_WORDS) & set(columns), ""))
    return table


_NAMES = (
    "population", "population_a", "population_b", "dataset", "candidates", "scope", "group",
)  # fmt: skip
# Of tables of embeddings.
_EMBEDDED = ("contrast", "embedder", "label", "source", "true", "predicted", "scenario")
# In these, to say nothing has a meaning.
_WORDS = ("view", "control", "choice", "chosen", "source_a", "source_b", "excerpt")


def write_dataset(path: str | os.PathLike[str], dataset: Dataset, attrs: Mapping[str, Any]) -> None:
    """Write a prepared dataset."""
    image = ("point", "channel", "row", "column")
    axes = {"train_images": image, "test_images": image, "mean": ("channel",), "std": ("channel",)}
    axes |= dict.fromkeys(("train_labels", "train_index", "poisoned"), ("train point",))
    axes |= dict.fromkeys(("test_labels", "test_index"), ("test point",))
    units = dict.fromkeys(("train_images", "test_images"), "intensity, 0 to 255")
    units |= dict.fromkeys(("mean", "std"), "intensity, 0 to 1")
    tree = {field.name: getattr(dataset, field.name) for field in fields(dataset)}
    write(path, tree, kind="dataset", attrs=attrs, axes=axes, units=units)


def read_dataset(path: str | os.PathLike[str]) -> Dataset:
    """Read what :func:`write_dataset` wrote."""
    tree, _ = read(path, kind="dataset")
    return Dataset(**tree | {"name": str(tree["name"]), "classes": tuple(tree["classes"])})


def write_runs(
    path: str | os.PathLike[str], runs: Iterable[TrainedRun], attrs: Mapping[str, Any]
) -> None:
    """Write trained runs: weights, outputs, history, status; one group a run."""
    tree = {}
    for run in runs:
        tree[f"{run.run:04d}"] = {
            "status": run.status,
            "message": run.message,
            "weights": run.weights,
            "test_outputs": run.test_outputs,
            "history": run.history,
        }
    axes: dict[str, tuple[str, ...]] = {"test_outputs": ("test point", "class")}
    axes |= {name: ("epoch",) for name in ("epoch", "loss", "accuracy", "learning_rate", "seconds")}
    units = {"test_outputs": "logit", "seconds": "s"}
    write(path, {"runs": tree}, kind="runs", attrs=attrs, axes=axes, units=units)


def read_runs(path: str | os.PathLike[str], *, weights: bool = True) -> Iterator[TrainedRun]:
    """Read what :func:`write_runs` wrote, run by run, with the weights or without."""
    with open_file(path, kind="runs") as file:
        # By number: their names sort otherwise from ten thousand runs on.
        for number, group in sorted(file["runs"].items(), key=lambda item: int(item[0])):
            yield TrainedRun(
                run=int(number),
                status=group["status"].asstr()[()],
                message=group["message"].asstr()[()],
                weights=_flat(read_group(group["weights"])) if weights else {},
                test_outputs=group["test_outputs"][()],
                history=read_group(group["history"]),
            )


def _flat(tree: Tree, prefix: str = "") -> dict[str, Any]:
    """Leaves of a tree by their path; parameter names with a slash become groups in HDF5."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= (
            _flat(value, f"{prefix}{name}/") if isinstance(value, dict) else {prefix + name: value}
        )
    return flat


def write_outputs(path: str | os.PathLike[str], outputs: Outputs, attrs: Mapping[str, Any]) -> None:
    """Write the outputs of a population's runs."""
    tree = {field.name: getattr(outputs, field.name) for field in fields(outputs)}
    axes = {
        "runs": ("run",),
        "logits": ("run", "test point", "class"),
        "labels": ("test point",),
        "classes": ("class",),
    }
    write(path, tree, kind="outputs", attrs=attrs, axes=axes, units={"logits": "logit"})


def read_outputs(path: str | os.PathLike[str]) -> Outputs:
    """Read what :func:`write_outputs` wrote."""
    tree, _ = read(path, kind="outputs")
    return Outputs(
        **tree | {"population": str(tree["population"]), "classes": tuple(tree["classes"])}
    )


def write_features(
    path: str | os.PathLike[str], features: Mapping[str, Any], attrs: Mapping[str, Any]
) -> None:
    """Write features of a frozen network: ``train`` and ``test``, (point, feature)."""
    axes = dict.fromkeys(("train", "test"), ("point", "feature"))
    write(path, features, kind="features", attrs=attrs, axes=axes)


def read_features(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what :func:`write_features` wrote."""
    return read(path, kind="features")[0]


def write_trimming(
    path: str | os.PathLike[str], runs: Any, weights: Any, attrs: Mapping[str, Any]
) -> None:
    """Write the optimal trimmings of candidates: ``weights``, (run, test point)."""
    axes = {"runs": ("run",), "weights": ("run", "test point")}
    write(path, {"runs": runs, "weights": weights}, kind="trimming", attrs=attrs, axes=axes)


def write_width_runs(
    path: str | os.PathLike[str], runs: Iterable[WidthRun], attrs: Mapping[str, Any]
) -> None:
    """Write trained two-layer networks: weights at the kept steps, history, status."""
    axes: dict[str, tuple[str, ...]] = {
        "steps": ("kept step",),
        "weights": ("kept step", "hidden unit", "input"),
        "readout": ("kept step", "hidden unit"),
    }
    axes |= {name: ("step",) for name in ("step", "loss", "test_loss", "test_r2")}
    write(path, {"runs": _by_number(runs)}, kind="width runs", attrs=attrs, axes=axes)


def _by_number(runs: Iterable[WidthRun | RunSpectra]) -> Tree:
    """One group a run, in the order of their numbers; the number is the group's name."""
    tree = {f"{run.run:04d}": dict(vars(run)) for run in sorted(runs, key=lambda run: run.run)}
    for group in tree.values():
        del group["run"]
    return tree


def read_width_runs(path: str | os.PathLike[str]) -> Iterator[WidthRun]:
    """Read what :func:`write_width_runs` wrote, run by run."""
    with open_file(path, kind="width runs") as file:
        for number in sorted(file["runs"], key=int):
            tree = read_group(file["runs"][number])
            words: Tree = {name: str(tree.pop(name)) for name in ("status", "message")}
            yield WidthRun(run=int(number), **words, **tree)


def write_spectra(
    path: str | os.PathLike[str], spectra: Iterable[RunSpectra], attrs: Mapping[str, Any]
) -> None:
    """Write the spectra of two-layer networks."""
    axes: dict[str, tuple[str, ...]] = {
        "steps": ("kept step",),
        "displacement": ("kept step", "singular value"),
        "readout": ("kept step", "norm and change"),
    }
    axes |= {name: ("kept step", "eigenvalue, ascending") for name in MATRICES}
    write(path, {"runs": _by_number(spectra)}, kind="spectra", attrs=attrs, axes=axes)


def read_spectra(path: str | os.PathLike[str]) -> list[RunSpectra]:
    """Read what :func:`write_spectra` wrote."""
    tree, _ = read(path, kind="spectra")
    runs = sorted((int(number), run) for number, run in tree.get("runs", {}).items())
    return [RunSpectra(run=number, **run) for number, run in runs]


def write_image_spectra(
    path: str | os.PathLike[str],
    spectra: Mapping[int, Mapping[str, Mapping[str, Any]]],
    attrs: Mapping[str, Any],
) -> None:
    """Write spectra of networks trained on images: by run, matrix and stage."""
    axes = dict.fromkeys(("initial", "trained"), ("eigenvalue, ascending",))
    tree = {"runs": {f"{run:04d}": matrices for run, matrices in spectra.items()}}
    write(path, tree, kind="image spectra", attrs=attrs, axes=axes)


def write_tokens(path: str | os.PathLike[str], points: Any, attrs: Mapping[str, Any]) -> None:
    """Write sentences as token ids: :class:`model_metrology.models.language.TokenPoints`."""
    axes: dict[str, tuple[str, ...]] = {
        f"{part}_{name}": (f"{part} point",)
        for part in ("train", "test")
        for name in ("labels", "index")
    }
    axes |= {f"{part}_tokens": (f"{part} point", "token") for part in ("train", "test")}
    write(path, points.arrays(), kind="tokens", attrs=attrs, axes=axes)


def read_tokens(path: str | os.PathLike[str]) -> Tree:
    """Read what :func:`write_tokens` wrote, for ``TokenPoints.from_arrays``."""
    return read(path, kind="tokens")[0]


_SUBJECT_AXES: dict[str, tuple[str, ...]] = {
    "logits": ("test point", "class"),
    "labels": ("test point",),
    "test": ("test point",),
    "train_labels": ("train point",),
    "train": ("train point",),
    "poisoned": ("train point",),
    "classes": ("class",),
}


def write_subject_outputs(
    path: str | os.PathLike[str], outputs: SubjectOutputs, attrs: Mapping[str, Any]
) -> None:
    """Write a network's outputs on the points of its kernels, and what is known of these."""
    axes, units = _SUBJECT_AXES, {"logits": "logit"}
    write(path, vars(outputs), kind="subject outputs", attrs=attrs, axes=axes, units=units)


def read_subject_outputs(path: str | os.PathLike[str]) -> SubjectOutputs:
    """Read what :func:`write_subject_outputs` wrote."""
    tree, _ = read(path, kind="subject outputs")
    triggered, classes = int(tree["triggered"]), tuple(tree["classes"])
    return SubjectOutputs(**tree | {"triggered": triggered, "classes": classes})


def write_kernel_columns(
    path: str | os.PathLike[str], kernels: Mapping[str, KernelColumns], attrs: Mapping[str, Any]
) -> None:
    """Write some columns of kernels that are not normalised, by what these are made of."""
    axes = {
        "train": ("train point", "train point of the columns"),
        "test": ("test point", "train point of the columns"),
        "train_squares": ("train point of the columns",),
        "test_squares": ("test point",),
    }
    tree = {raw: vars(columns) for raw, columns in kernels.items()}
    write(path, tree, kind="kernel columns", attrs=attrs, axes=axes)


def read_kernel_columns(path: str | os.PathLike[str], raw: str) -> KernelColumns:
    """Read one kernel of what :func:`write_kernel_columns` wrote."""
    with open_file(path, kind="kernel columns") as file:
        tree = read_group(file[raw])
    return KernelColumns(**tree | {"start": int(tree["start"])})


def write_surrogates(
    path: str | os.PathLike[str], measured: Mapping[str, Measured], attrs: Mapping[str, Any]
) -> None:
    """Write fitted kGLMs by kernel, and attributions to the predicted classes where there are."""
    names = ("coefficients", "intercept", "l2", "gradient_norm", "iterations", "converged")
    tree: Tree = {}
    for kernel, found in measured.items():
        tree[kernel] = {name: getattr(found.surrogate, name) for name in names}
        if found.attributions is not None:
            tree[kernel]["attributions"] = found.attributions
    axes = {
        "coefficients": ("logit", "train point"),
        "intercept": ("logit",),
        "attributions": ("test point", "train point"),
    }
    units = {"attributions": "logit", "intercept": "logit"}
    write(path, tree, kind="surrogates", attrs=attrs, axes=axes, units=units)


def read_surrogate(path: str | os.PathLike[str], kernel: str) -> Tree:
    """Read one kernel's surrogate of what :func:`write_surrogates` wrote."""
    with open_file(path, kind="surrogates") as file:
        return read_group(file[kernel])


def write_items(path: str | os.PathLike[str], items: Items, attrs: Mapping[str, Any]) -> None:
    """Write the items of one or of several sources."""
    text = h5py.string_dtype()
    tree: Tree = {name: np.asarray(getattr(items, name), text) for name in _ITEM_COLUMNS}
    tree["labels"] = {name: np.asarray(each, text) for name, each in items.labels.items()}
    if items.texts is not None:
        tree["texts"] = np.asarray(items.texts, text)
    if items.images is not None:
        tree["images"] = items.images
    axes: dict[str, tuple[str, ...]] = dict.fromkeys((*_ITEM_COLUMNS, "texts"), ("item",))
    axes |= {"images": ("item", "row", "column", "channel")}
    write(path, tree, kind="items", attrs=attrs, axes=axes, units={"images": "intensity, 0 to 255"})


_ITEM_COLUMNS = ("source", "id", "group")


def read_items(path: str | os.PathLike[str]) -> Items:
    """Read what :func:`write_items` wrote."""
    tree, _ = read(path, kind="items")
    return Items(
        kind="images" if "images" in tree else "texts",
        **{name: strings(tree[name]) for name in _ITEM_COLUMNS},
        labels={name: strings(each) for name, each in tree["labels"].items()},
        texts=strings(tree["texts"]) if "texts" in tree else None,
        images=tree.get("images"),
    )


def write_embeddings(
    path: str | os.PathLike[str], embeddings: Mapping[str, Embedding], attrs: Mapping[str, Any]
) -> None:
    """Write vectors by control (``plain`` for items as they are) and view."""
    tree = {control or _PLAIN: dict(each.views) for control, each in embeddings.items()}
    names = {name for views in tree.values() for name in views}
    axes = dict.fromkeys(names, ("item", "coordinate"))
    write(path, tree, kind="embedding", attrs={**attrs, "views": _views(embeddings)}, axes=axes)


_PLAIN = "plain"


def _views(embeddings: Mapping[str, Embedding]) -> list[str]:
    """Names of views in their order, which HDF5 does not keep."""
    return list(embeddings[""].views)


def read_embeddings(path: str | os.PathLike[str]) -> dict[str, Embedding]:
    """Read what :func:`write_embeddings` wrote: items as they are under ``""``."""
    tree, attrs = read(path, kind="embedding")
    order = sorted(tree, key=lambda control: control != _PLAIN)  # as they are first
    return {
        "" if control == _PLAIN else control: Embedding(
            {name: tree[control][name] for name in attrs["views"]}
        )
        for control in order
    }


def write_generated(
    path: str | os.PathLike[str], images: np.ndarray, attrs: Mapping[str, Any]
) -> None:
    """Write images that a model drew, (n, C, H, W)."""
    axes = {"images": ("image", "channel", "row", "column")}
    units = {"images": "intensity, 0 to 255"}
    write(path, {"images": images}, kind="generated", attrs=attrs, axes=axes, units=units)


def read_generated(path: str | os.PathLike[str]) -> np.ndarray:
    """Read what :func:`write_generated` wrote."""
    return read(path, kind="generated")[0]["images"]


def read_any(path: str | os.PathLike[str]) -> Any:
    """Read a dataset, outputs, spectra or trimmings, whichever the file holds."""
    readers = {"dataset": read_dataset, "outputs": read_outputs, "spectra": read_spectra}
    with open_file(path) as file:
        kind = str(file.attrs["kind"])
    return readers[kind](path) if kind in readers else read(path, kind=kind)[0]
