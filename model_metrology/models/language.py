"""Language models as instruments: transformer encoders fine-tuned to classify sentences.

Sentences become token ids padded to one length, so that points are one tensor as images are.
:class:`SequenceClassifier` maps them to logits and is to the rest of the library a network like
any other. Hugging Face's ``transformers`` builds the networks; it is imported where it is used, so
that the library works without it.
"""

from __future__ import annotations

import logging
import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from model_metrology.data.datasets import stratified_subset
from model_metrology.data.packages import bbc_articles
from model_metrology.data.rows import read_rows
from model_metrology.models.hub import (
    check_loaded,
    load_tokenizer,
    load_transformers,
    model_source,
    quiet,
)
from model_metrology.runs import COMPLETED, DIVERGED, TrainedRun
from model_metrology.seeds import Streams
from model_metrology.surrogates.recipes import LanguageInstrument

__all__ = [
    "SequenceClassifier",
    "Texts",
    "TokenPoints",
    "encode_texts",
    "fine_tune",
    "fine_tune_run",
    "load_texts",
    "network_weights",
    "rebuild",
    "write_config",
]

logger = logging.getLogger(__name__)

_EVALUATION_BATCH = 100
_LARGEST_GRADIENT = 1.0  # norm to which gradients are cut, as is usual for these networks
_HISTORY = ("epoch", "loss", "accuracy", "learning_rate", "seconds")

# Encoders that take a ready-made mask of attention. The mask that transformers would make for them
# looks at whether anything is padded, which per-sample gradients (torch.vmap) cannot follow.
_READY_MASK = {
    "albert", "bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta",
}  # fmt: skip


# -- sentences -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Texts:
    """Labelled sentences.

    Attributes
    ----------
    classes : tuple of str
        Names of the classes, by label.
    train_texts, test_texts : tuple of str
        Sentences.
    train_labels, test_labels : ndarray of int64, shape (N,)
        Labels, 0 to ``len(classes) - 1``.
    train_index, test_index : ndarray of int64, shape (N,)
        Ascending positions of the sentences in their file, or among those of the package.
    """

    classes: tuple[str, ...]
    train_texts: tuple[str, ...]
    train_labels: NDArray[np.int64]
    train_index: NDArray[np.int64]
    test_texts: tuple[str, ...]
    test_labels: NDArray[np.int64]
    test_index: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TokenPoints:
    """Labelled sentences as token ids.

    Attributes
    ----------
    classes, train_labels, train_index, test_labels, test_index
        As in :class:`Texts`.
    train_tokens, test_tokens : ndarray of int64, shape (N, max_tokens)
        Token ids, padded on the right.
    padding : int
        The id that pads.
    """

    classes: tuple[str, ...]
    train_tokens: NDArray[np.int64]
    train_labels: NDArray[np.int64]
    train_index: NDArray[np.int64]
    test_tokens: NDArray[np.int64]
    test_labels: NDArray[np.int64]
    test_index: NDArray[np.int64]
    padding: int

    def arrays(self) -> dict[str, Any]:
        """What :func:`model_metrology.store.write` takes."""
        return dict(vars(self))

    @classmethod
    def from_arrays(cls, tree: Mapping[str, Any]) -> TokenPoints:
        """Inverse of :meth:`arrays`, from what :func:`model_metrology.store.read` returns."""
        own = {"classes": tuple(map(str, tree["classes"])), "padding": int(tree["padding"])}
        return cls(**dict(tree) | own)


def load_texts(
    options: LanguageInstrument,
    *,
    root: str | os.PathLike[str] = ".",
    seed: int = 0,
    needed: int = 0,
) -> Texts:
    """Read labelled sentences and divide them into training and test sentences.

    Sentences keep the order of their file. Asked for fewer, a stratified random subset is kept;
    without a file of test sentences these are drawn first, and training sentences from the rest.

    Parameters
    ----------
    options : LanguageInstrument
        Where sentences come from and how many there should be.
    root : path-like
        Folder that relative paths start from.
    seed : int
        Seed of the subsets.
    needed : int
        Training sentences that kernels will be taken of: fewer are refused.

    Raises
    ------
    FileNotFoundError
        If a file or the package is missing.
    ValueError
        If a file cannot be read as sentences and labels, or has too few; the message names the key.
    """
    table = _read_sentences(options, root)
    held_out = None
    if options.test_texts is not None:
        held_out = _read_file("test_texts", Path(root, options.test_texts))
    classes = tuple(options.classes) or _sorted_labels(table["label"])
    if len(classes) < 2:
        raise ValueError(f"texts: all sentences have the label {classes[0]!r}; two are needed")
    table = _of_classes(table, classes)
    generators = [np.random.default_rng([seed, part]) for part in range(2)]
    if held_out is None:
        assert options.test is not None  # the options' own check
        chosen = _draw("test", table, options.test, len(classes), generators[1])
        test = table.iloc[chosen]
        table = table.iloc[np.setdiff1d(np.arange(len(table)), chosen)]
    else:
        test = _of_classes(held_out, classes)
        test = test.iloc[_draw("test", test, options.test, len(classes), generators[1])]
    train = table.iloc[_draw("train", table, options.train, len(classes), generators[0])]
    if len(train) < needed:
        raise ValueError(
            f"train: kernels of {needed} training sentences are asked for, there are {len(train)} "
            f"beside {len(test)} test sentences; give more, or set train or surrogates.train to at "
            f"most {len(train)}"
        )
    shared = set(train["text"]) & set(test["text"])
    if shared:
        logger.warning(
            "%d sentence(s) are among both training and test sentences, e.g. %r",
            len(shared), min(shared),
        )  # fmt: skip
    return Texts(classes, *_columns(train), *_columns(test))


def _columns(table: pd.DataFrame) -> tuple[tuple[str, ...], NDArray[np.int64], NDArray[np.int64]]:
    labels = table["class"].to_numpy(np.int64)
    return tuple(table["text"]), labels, table["position"].to_numpy(np.int64)


def _draw(
    key: str, table: pd.DataFrame, size: int | None, classes: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Positions of `size` rows, stratified; of all when absent."""
    there = len(table)
    if size is not None and not classes <= size <= there:
        raise ValueError(
            f"{key}: {size} sentences asked for, there are {there} of {classes} classes; "
            f"choose from {classes} to {there}"
        )
    if size is None:
        return np.arange(there)
    return stratified_subset(table["class"].to_numpy(np.int64), size, generator)


def _of_classes(table: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Rows of the classes wanted, with their number."""
    missing = [name for name in classes if not (table["label"] == name).any()]
    if missing:
        raise ValueError(
            f"classes: no sentence has the label {missing[0]!r}; labels are "
            f"{', '.join(_sorted_labels(table['label'])[:20])}"
        )
    numbers = {name: number for number, name in enumerate(classes)}
    kept = table[table["label"].isin(classes)]
    return kept.assign(**{"class": kept["label"].map(numbers)})


def _sorted_labels(labels: pd.Series[str]) -> tuple[str, ...]:
    """Labels in order: numbers by their value, others as words."""
    found = set(labels)
    numeric = all(re.fullmatch(r"-?\d+", label) for label in found)
    return tuple(sorted(found, key=(lambda label: (int(label), label)) if numeric else None))


def _read_sentences(options: LanguageInstrument, root: str | os.PathLike[str]) -> pd.DataFrame:
    if options.texts is not None:
        return _read_file("texts", Path(root, options.texts))
    assert options.package is not None  # the options' own check
    return _read_articles(options.package)


def _read_file(key: str, path: Path) -> pd.DataFrame:
    """Columns text, label (str) and position of a file."""
    if not path.is_file():
        raise FileNotFoundError(f"{key}: there is no file {path}; give its path")
    try:
        table = (_read_tsv if path.suffix == ".tsv" else read_rows)(path).astype(str)
    except (ValueError, UnicodeDecodeError) as error:  # parsers' errors are ValueErrors
        raise ValueError(f"{key}: {path} cannot be read: {error}") from error
    if "sentence" in table and "text" not in table:
        table = table.rename(columns={"sentence": "text"})  # GLUE's name for it
    missing = {"text", "label"} - set(table)
    if missing:
        raise ValueError(
            f"{key}: {path} has no column {sorted(missing)[0]!r}; columns are "
            f"{', '.join(map(str, table.columns))}"
        )
    table = table[["text", "label"]].assign(position=np.arange(len(table)))
    empty = table["text"].str.strip().eq("") | table["label"].eq("")
    if empty.any():
        raise ValueError(
            f"{key}: {path} has no text or no label in row {int(empty.to_numpy().argmax()) + 1}; "
            "complete it or take it out"
        )
    if table.empty:
        raise ValueError(f"{key}: {path} holds no sentences")
    return table


def _read_tsv(path: Path) -> pd.DataFrame:
    """Tab-separated, quotes being ordinary signs; with a header, or in CoLA's four columns."""
    with open(path, encoding="utf-8") as file:
        first = file.readline().rstrip("\n").split("\t")
    names = None
    if "label" not in first:
        if len(first) != 4:
            raise ValueError(
                "without a header it must have CoLA's four columns, source, label, mark, text"
            )
        names = ["source", "label", "mark", "text"]
    return read_rows(path, names)


def _read_articles(package: str) -> pd.DataFrame:
    """First sentences of the BBC articles of a package, each once; headlines are left out.

    Articles that were filed twice would be trained and tested on alike, so the second is left out.
    """
    rows: list[tuple[str, str, int]] = []
    seen: set[str] = set()
    for article in bbc_articles("package", package):
        sentence = first_sentence(article.paragraphs[0])
        if sentence not in seen:
            seen.add(sentence)
            rows.append((sentence, article.topic, len(rows)))
    return pd.DataFrame(rows, columns=["text", "label", "position"])


def first_sentence(paragraph: str) -> str:
    """A paragraph up to the first stop that a space and a capital follow."""
    match = re.search(r"[.!?][\"']?(?=\s+[\"'(]?[A-Z])", paragraph)
    return (paragraph[: match.end()] if match else paragraph).strip()


# -- transformers --------------------------------------------------------------------------------


def _source(options: LanguageInstrument, root: str | os.PathLike[str]) -> dict[str, Any]:
    """Arguments of ``from_pretrained`` that say where the instrument starts from."""
    return model_source(options.model, revision=options.revision, root=root)


def encode_texts(
    options: LanguageInstrument, texts: Texts, *, root: str | os.PathLike[str] = "."
) -> TokenPoints:
    """Sentences as token ids of the model's own tokenizer, all padded to `max_tokens`.

    Raises
    ------
    FileNotFoundError
        If the model cannot be found.
    ValueError
        If its folder has no tokenizer, or one without a token for padding.
    """
    transformers = load_transformers()
    source = _source(options, root)
    with quiet(transformers):
        tokenizer = load_tokenizer(transformers, options.model, source)
    if tokenizer.pad_token_id is None:
        raise ValueError(
            f"model: the tokenizer of {options.model!r} has no token for padding; take an encoder, "
            "e.g. google-bert/bert-base-uncased"
        )
    padding = int(tokenizer.pad_token_id)
    tokens = []
    for part in (texts.train_texts, texts.test_texts):
        encoded = tokenizer(
            list(part),
            padding="max_length",
            truncation=True,
            max_length=options.max_tokens,
            padding_side="right",
            return_tensors="np",
        )
        tokens.append(np.asarray(encoded["input_ids"], dtype=np.int64))
    cut = sum(int((part[:, -1] != padding).sum()) for part in tokens)
    if cut:
        logger.info(
            "%d sentence(s) fill max_tokens: %d, or were cut to it", cut, options.max_tokens
        )
    return TokenPoints(
        classes=texts.classes,
        train_tokens=tokens[0],
        train_labels=texts.train_labels,
        train_index=texts.train_index,
        test_tokens=tokens[1],
        test_labels=texts.test_labels,
        test_index=texts.test_index,
        padding=padding,
    )


# -- the network ---------------------------------------------------------------------------------


class SequenceClassifier(nn.Module):
    """A transformer that maps token ids to logits, each sentence on its own.

    Parameters
    ----------
    network : Module
        Of transformers, for the classification of sequences.
    padding : int
        The id that pads; what is padded is not attended to.

    Notes
    -----
    Transformers looks up the positions once for a batch, since they are the same for all its
    sentences. Here they are looked up for each sentence, so that the gradients of what every layer
    puts out are those of single sentences.
    """

    def __init__(self, network: nn.Module, padding: int) -> None:
        super().__init__()
        self.network = network
        self.padding = padding
        self._batch = 1
        for module in network.modules():
            if isinstance(module, nn.Embedding):
                module.register_forward_pre_hook(self._for_each_sentence)

    def _for_each_sentence(self, module: nn.Module, arguments: tuple[Any, ...]) -> Any:
        (ids,) = arguments
        if ids.ndim == 2 and len(ids) == 1 and self._batch > 1:
            return (ids.expand(self._batch, -1),)
        return None

    def forward(self, tokens: Tensor) -> Tensor:
        """Map token ids (batch, tokens), int64, to logits (batch, C)."""
        self._batch = len(tokens)
        mask = tokens != self.padding
        config: Any = self.network.config
        if config.model_type in _READY_MASK:
            # Added to the logits of attention, (batch, head, query, key).
            dtype = next(p.dtype for p in self.network.parameters())
            blocked = torch.zeros(tokens.shape, dtype=dtype, device=tokens.device)
            mask = blocked.masked_fill(~mask, torch.finfo(dtype).min)[:, None, None, :]
        else:
            mask = mask.long()
        logits: Tensor = self.network(input_ids=tokens, attention_mask=mask).logits
        return logits


def _start(
    options: LanguageInstrument,
    points: TokenPoints,
    streams: Streams,
    root: str | os.PathLike[str],
) -> SequenceClassifier:
    """The pretrained network with a new last layer."""
    transformers = load_transformers()
    source = _source(options, root)
    with quiet(transformers), torch.random.fork_rng(devices=[]):
        torch.manual_seed(streams.seed("init"))
        try:
            network, loaded = transformers.AutoModelForSequenceClassification.from_pretrained(
                **source,
                num_labels=len(points.classes),
                ignore_mismatched_sizes=True,  # a last layer for other classes is made anew
                attn_implementation="eager",  # plain matrix products, deterministic on GPUs too
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
            )
        except (OSError, ValueError) as error:
            raise ValueError(
                f"model: {options.model!r} cannot be loaded as a classifier of sequences from "
                f"config.json and model.safetensors: {error}"
            ) from error
    check_loaded(options.model, loaded, body=f"{network.base_model_prefix}.")
    network.config.pad_token_id = points.padding
    _check_sizes(options, network, points)
    return SequenceClassifier(network, points.padding)


@torch.no_grad()
def _check_sizes(options: LanguageInstrument, network: Any, points: TokenPoints) -> None:
    largest = max(int(points.train_tokens.max()), int(points.test_tokens.max()))
    known = network.config.vocab_size
    if largest >= known:
        raise ValueError(
            f"model: token id {largest} is beyond the {known} of {options.model!r}; its tokenizer "
            "belongs to another model"
        )
    # How many positions there are differs from what config.json says by what is reserved for
    # padding, so a sentence that fills them is tried.
    sentence = torch.full((1, points.train_tokens.shape[1]), (points.padding + 1) % known)
    try:
        network.eval()(input_ids=sentence)
    except (IndexError, RuntimeError) as error:
        raise ValueError(
            f"max_tokens: {options.model!r} does not take {sentence.shape[1]} tokens (its "
            f"max_position_embeddings: {getattr(network.config, 'max_position_embeddings', '?')}); "
            f"lower it. {error}"
        ) from error


def network_weights(module: SequenceClassifier) -> dict[str, NDArray[np.generic]]:
    """Parameters and buffers by name, for :func:`rebuild`."""
    return {name: value.detach().cpu().numpy() for name, value in module.state_dict().items()}


def write_config(module: SequenceClassifier, folder: str | os.PathLike[str]) -> None:
    """Write the network's ``config.json`` into a folder, for :func:`rebuild`."""
    config: Any = module.network.config
    config.save_pretrained(folder)


def rebuild(
    folder: str | os.PathLike[str], weights: Mapping[str, NDArray[np.generic]]
) -> SequenceClassifier:
    """A stored network again, from its configuration and its weights.

    Parameters
    ----------
    folder : path-like
        Where :func:`write_config` has written ``config.json``.
    weights : mapping of str to ndarray
        From :func:`network_weights`.

    Returns
    -------
    SequenceClassifier
        In evaluation mode, on the CPU.

    Raises
    ------
    ValueError
        If there is no configuration, or the weights do not fit it.
    """
    transformers = load_transformers()
    with quiet(transformers), torch.random.fork_rng(devices=[]):
        try:
            config = transformers.AutoConfig.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError) as error:
            raise ValueError(f"{folder}: no config.json of a language model: {error}") from error
        network = transformers.AutoModelForSequenceClassification.from_config(
            config, attn_implementation="eager", dtype=torch.float32
        )
    module = SequenceClassifier(network, config.pad_token_id)
    try:
        # A copy: stored arrays may be read-only.
        module.load_state_dict({n: torch.from_numpy(np.array(v)) for n, v in weights.items()})
    except RuntimeError as error:
        raise ValueError(f"{folder}: the weights do not fit its config.json. {error}") from error
    return module.eval()


# -- fine-tuning ---------------------------------------------------------------------------------


def fine_tune(
    options: LanguageInstrument,
    points: TokenPoints,
    streams: Streams,
    *,
    device: torch.device | str = "cpu",
    root: str | os.PathLike[str] = ".",
) -> tuple[SequenceClassifier, dict[str, NDArray[np.generic]]]:
    """Fine-tune a pretrained encoder to classify sentences, all of its weights.

    AdamW on the cross-entropy; the step size rises linearly over `warmup` of the steps and falls
    linearly to 0, gradients are cut to norm 1, matrices alone decay: as Devlin, Chang, Lee,
    Toutanova 2019 (arXiv 1810.04805) fine-tune BERT.

    Parameters
    ----------
    options : LanguageInstrument
        Where to start from, and the recipe.
    points : TokenPoints
        From :func:`encode_texts` with the same options.
    streams : Streams
        The run's random streams: ``init`` (the new last layer), ``order``, ``dropout``.
    device : torch.device or str
        Where to train.
    root : path-like
        Folder that a relative `model` starts from.

    Returns
    -------
    module : SequenceClassifier
        In evaluation mode, on the CPU.
    history : dict of str to ndarray, shape (epochs,)
        ``epoch``, ``loss`` (nats a sentence), ``accuracy`` (of the training sentences as they
        were met), ``learning_rate`` (of the last step), ``seconds``. It ends with the epoch
        whose loss was not finite, if there was one.

    Raises
    ------
    FileNotFoundError, ValueError
        If the model cannot be found or does not fit the tokens; the message names the key.

    Notes
    -----
    On one machine, with as many threads, the same streams give the same weights bit for bit.
    """
    device = torch.device(device)
    module = _start(options, points, streams, root).to(device).train()
    optimiser = _optimiser(options, module)
    order_size = len(points.train_labels)
    steps = math.ceil(order_size / options.batch_size)
    tokens = torch.from_numpy(np.array(points.train_tokens)).to(device)
    labels = torch.from_numpy(np.array(points.train_labels)).to(device)
    rows: list[tuple[float, ...]] = []
    for epoch in range(options.epochs):
        started = time.perf_counter()
        order = torch.from_numpy(streams.generator("order", epoch).permutation(order_size))
        loss_sum, hits = 0.0, 0
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(streams.seed("dropout", epoch))
            batches = order.to(device).split(options.batch_size)
            for step, index in enumerate(batches, start=epoch * steps):
                rate = _learning_rate(options, step, steps * options.epochs)
                loss, right = _step(module, optimiser, rate, tokens[index], labels[index])
                loss_sum += loss * len(index)
                hits += right
        mean_loss = loss_sum / order_size
        rows.append((epoch, mean_loss, hits / order_size, rate, time.perf_counter() - started))
        logger.info("epoch %d: loss %.4f, accuracy %.4f", epoch, mean_loss, hits / order_size)
        if not math.isfinite(mean_loss):
            break
    history: dict[str, NDArray[np.generic]] = dict(zip(_HISTORY, np.array(rows).T, strict=True))
    return module.to("cpu").eval(), history | {"epoch": history["epoch"].astype(np.int64)}


def fine_tune_run(
    options: LanguageInstrument,
    points: TokenPoints,
    streams: Streams,
    *,
    device: torch.device | str = "cpu",
    root: str | os.PathLike[str] = ".",
) -> tuple[SequenceClassifier, TrainedRun]:
    """Fine-tune as :func:`fine_tune` does, and gather what is stored of a run.

    A run whose loss was not finite is marked ``diverged``.
    """
    module, history = fine_tune(options, points, streams, device=device, root=root)
    message = ""
    if not np.isfinite(history["loss"][-1]):
        message = f"loss not finite in epoch {history['epoch'][-1]}"
    tokens = torch.from_numpy(np.array(points.test_tokens))
    place = torch.device(device)
    with torch.no_grad():
        parts = [module.to(place)(part.to(place)) for part in tokens.split(_EVALUATION_BATCH)]
    module.to("cpu")
    return module, TrainedRun(
        run=streams.run,
        status=DIVERGED if message else COMPLETED,
        message=message,
        weights=network_weights(module),
        test_outputs=torch.cat(parts).cpu().numpy(),
        history=history,
    )


def _optimiser(options: LanguageInstrument, module: nn.Module) -> torch.optim.Optimizer:
    parameters = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": options.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=options.learning_rate, fused=True)


def _learning_rate(options: LanguageInstrument, step: int, total: int) -> float:
    """Step size at a step, counted from 0: up to the peak and down to 0, linearly."""
    warmup = options.warmup * total
    share = (step + 1) / warmup if step + 1 < warmup else (total - step) / (total - warmup)
    return options.learning_rate * min(share, 1.0)


def _step(
    module: SequenceClassifier,
    optimiser: torch.optim.Optimizer,
    rate: float,
    tokens: Tensor,
    labels: Tensor,
) -> tuple[float, int]:
    """One step; the mean loss before it, and how many sentences were right."""
    for group in optimiser.param_groups:
        group["lr"] = rate
    # Up to the longest sentence of the batch: padding changes nothing but the time it takes.
    longest = int((tokens != module.padding).any(dim=0).nonzero().max()) + 1
    logits = module(tokens[:, :longest])
    loss = F.cross_entropy(logits, labels)
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(module.parameters(), _LARGEST_GRADIENT)
    optimiser.step()
    return loss.item(), int((logits.argmax(dim=1) == labels).sum())
