"""Networks that this project did not train: built by named code, with weights from a file.

Files are read without unpickling: .safetensors, or torch's own format with ``weights_only``. A file
that holds code is refused. The named builder is code all the same: it is taken from folders that
the user allows (:mod:`model_metrology.surrogates.builders`).
"""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from model_metrology.data.datasets import Dataset
from model_metrology.surrogates.builders import find_builder, import_builder, importable
from model_metrology.surrogates.recipes import ForeignInstrument

__all__ = ["file_sha256", "foreign_dataset", "foreign_provenance", "load_foreign"]

_LISTED = 5


def load_foreign(
    options: ForeignInstrument,
    *,
    root: str | os.PathLike[str] = ".",
    image_shape: tuple[int, int, int] | None = None,
    classes: int | None = None,
) -> nn.Module:
    """Build a foreign network and give it its weights.

    Parameters
    ----------
    options : ForeignInstrument
        Builder, file, and how the file's names are to be read.
    root : path-like
        Folder that a relative `checkpoint` starts from.
    image_shape, classes
        (C, H, W) of the images and number of classes of the dataset that it is for; when both are
        given, that it maps images to logits of these classes is tried out.

    Returns
    -------
    Module
        In evaluation mode, on the CPU, all weights from the file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the builder cannot be found or fails, if the file is damaged, holds code, or is another
        than `sha256` says, or if weights and network do not fit; the message names the key.
    """
    path = Path(root, options.checkpoint)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint: there is no file {path}; give its path")
    _check_digest(options, path)
    network = _build(options)
    state = _strip(_read_state(options, path), options)
    _load(network, state, options)
    network.to("cpu").eval()
    if image_shape is not None and classes is not None:
        _try_out(network, image_shape, classes, options)
    return network


def foreign_dataset(options: ForeignInstrument, dataset: Dataset) -> Dataset:
    """The dataset with the moments that the network expects in place of its own.

    Raises
    ------
    ValueError
        If `mean` and `std` are not one a channel.
    """
    if options.mean is None or options.std is None:
        return dataset
    channels = dataset.train_images.shape[1]
    if len(options.mean) != channels:
        raise ValueError(
            f"mean, std: {len(options.mean)} values, the images of {dataset.name} have {channels} "
            "channel(s); give one a channel"
        )
    return replace(dataset, mean=np.array(options.mean), std=np.array(options.std))


def foreign_provenance(
    options: ForeignInstrument, *, root: str | os.PathLike[str] = "."
) -> dict[str, str]:
    """Where a foreign network comes from, for the attributes of files made from it."""
    return {
        "builder": options.builder,
        "checkpoint": options.checkpoint,
        "checkpoint_sha256": file_sha256(Path(root, options.checkpoint)),
    }


def file_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_digest(options: ForeignInstrument, path: Path) -> None:
    if options.sha256 is None:
        return
    found = file_sha256(path)
    if not found.startswith(options.sha256):
        raise ValueError(
            f"sha256: {path} has {found}, not {options.sha256}…; it is another file, or damaged"
        )


# -- the builder ---------------------------------------------------------------------------------


def _build(options: ForeignInstrument) -> nn.Module:
    place = find_builder(options.builder)
    with importable(place.folder):
        builder = import_builder(place)
        # Weights at random are drawn and then replaced: the caller's generator is left alone.
        with torch.random.fork_rng(devices=[]):
            try:
                network = builder(**options.arguments)
            except Exception as error:
                raise ValueError(
                    f"builder: {options.builder} failed with arguments {options.arguments}: "
                    f"{type(error).__name__}: {error}"
                ) from error
    if not isinstance(network, nn.Module):
        raise ValueError(
            f"builder: {options.builder} returned {type(network).__name__}; it must return a "
            "torch.nn.Module"
        )
    return network


# -- the weights ---------------------------------------------------------------------------------


def _read_state(options: ForeignInstrument, path: Path) -> dict[str, Tensor]:
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    entry = f"{path}"
    if options.key is not None:
        if not isinstance(content, Mapping) or options.key not in content:
            raise ValueError(
                f"key: {path} has no entry {options.key!r}; it has {_entries(content)}"
            )
        content, entry = content[options.key], f"{path}, entry {options.key!r}"
    if not isinstance(content, Mapping) or not all(map(torch.is_tensor, content.values())):
        raise ValueError(
            f"key: {entry} is not a mapping of names to tensors; say which entry is, of "
            f"{_entries(content)}"
        )
    if not content:
        raise ValueError(f"checkpoint: {entry} holds no weights")
    return {str(name): value for name, value in content.items()}


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError  # not needed for torch's own files
    from safetensors.torch import load_file

    try:
        return load_file(path, device="cpu")
    except SafetensorError as error:
        raise ValueError(f"checkpoint: {path} is no whole .safetensors file: {error}") from error


def _read_torch(path: Path) -> Any:
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"checkpoint: {path} cannot be read as plain tensors: it is damaged, or holds Python "
            "objects that could run code when they are loaded. Load it where you trust it and save "
            "its weights alone, with torch.save(model.state_dict(), …) or safetensors"
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise ValueError(
            f"checkpoint: {path} is no whole file of torch (or is a TorchScript archive: save its "
            f"weights alone, with torch.save(model.state_dict(), …)): {error}"
        ) from error


def _strip(state: dict[str, Tensor], options: ForeignInstrument) -> dict[str, Tensor]:
    if options.prefix and not any(name.startswith(options.prefix) for name in state):
        raise ValueError(
            f"prefix: no weight's name begins with {options.prefix!r}; they are {_listed(state)}"
        )
    return {name.removeprefix(options.prefix): value for name, value in state.items()}


def _load(network: nn.Module, state: dict[str, Tensor], options: ForeignInstrument) -> None:
    """Give a network its weights, all of them and nothing else."""
    wanted = network.state_dict()
    for name, value in wanted.items():
        # Counts of batches seen, which older files lack; evaluation does not use them.
        if name.rpartition(".")[2] == "num_batches_tracked" and name not in state:
            state[name] = value
    missing = [name for name in wanted if name not in state]
    unexpected = [name for name in state if name not in wanted]
    shapes = [
        f"{name} {tuple(state[name].shape)} for {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in state and torch.is_tensor(value) and state[name].shape != value.shape
    ]
    problems = [
        f"{len(names)} {what}: {_listed(names)}"
        for what, names in (
            ("missing from the file", missing),
            ("unknown to the network", unexpected),
            ("of another shape", shapes),
        )
        if names
    ]
    if problems:
        raise ValueError(
            f"checkpoint: the weights of {options.checkpoint} do not fit {options.builder}: "
            f"{'; '.join(problems)}. Check builder, arguments, key and prefix"
        )
    bad = [n for n, v in state.items() if v.is_floating_point() and not v.isfinite().all()]
    if bad:
        raise ValueError(
            f"checkpoint: weights of {options.checkpoint} are not finite: {_listed(bad)}"
        )
    network.load_state_dict(state)


@torch.no_grad()
def _try_out(
    network: nn.Module, shape: tuple[int, int, int], classes: int, options: ForeignInstrument
) -> None:
    try:
        outputs = network(torch.zeros(2, *shape))
    except Exception as error:
        raise ValueError(
            f"builder: {options.builder} does not take images {shape} of {options.dataset}: {error}"
        ) from error
    found = tuple(outputs.shape) if torch.is_tensor(outputs) else type(outputs).__name__
    allowed = {(2, classes)} | ({(2, 1)} if classes == 2 else set())
    if found not in allowed:
        raise ValueError(
            f"builder: {options.builder} returns {found} for 2 images; {options.dataset} has "
            f"{classes} classes, so logits must be (2, {classes}); check arguments and dataset"
        )


def _entries(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"none (it is a {type(content).__name__})"
    return _listed([f"{name} ({type(value).__name__})" for name, value in content.items()])


def _listed(names: Mapping[str, Any] | list[str]) -> str:
    """The first few of a list of names."""
    first = list(names)[:_LISTED]
    return ", ".join(first) + (f", … ({len(names)} in all)" if len(names) > _LISTED else "")
