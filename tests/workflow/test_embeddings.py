"""The stage of embeddings: what the files say, what a change costs, texts of one's own."""

import base64
import gzip
import json
import re
import shutil

import h5py
import numpy as np
import pandas as pd
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

from model_metrology import files
from model_metrology.embeddings.claims import claims_table
from model_metrology.embeddings.names import BASELINES, CONTRAST_TABLES, SIGNATURE_TABLES, TABLES

from .conftest import assert_rebuilt_alone, smoke_study

RESULTS = "results/smoke"
EMBEDDERS = {"MiniLM": "6 mean", "wordllama": "output"}
CONTROLS = {"", "dropped", "equal-length", "letters"}


def table(workflow, name, results=RESULTS):
    return files.read_table(workflow.folder / results / "embeddings" / f"{name}.csv")


def stored(workflow, path, results=RESULTS):
    """Everything in a file, by plain h5py; words as such."""
    found = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            words = h5py.check_string_dtype(item.dtype)
            found[name] = item.asstr()[()] if words else item[()]

    with h5py.File(workflow.folder / results / "embeddings" / path) as file:
        file.visititems(visit)
    return found


def log(workflow, path, results=RESULTS):
    return (workflow.folder / results / "logs" / "embeddings" / f"{path}.log").read_text()


def shown_items(page):
    """What the interactive page holds, as its script unpacks it."""
    packed = re.search(r'<script id="data" type="text/plain">([^<]+)</script>', page)[1]
    return json.loads(gzip.decompress(base64.b64decode(packed)))


# -- what is there -----------------------------------------------------------------------------


def test_items_are_those_of_the_sources_one_after_another(smoke):
    parts = [stored(smoke, f"sources/{name}.h5") for name in ("sports", "business")]
    items = stored(smoke, "articles/items.h5")
    assert list(items["source"]) == ["sports"] * 20 + ["business"] * 20
    for name in ("id", "group", "texts", "labels/topic"):
        np.testing.assert_array_equal(items[name], np.concatenate([part[name] for part in parts]))
    assert list(items["labels/topic"]) == list(items["source"])
    assert len(set(items["group"])) == 40 and not any("\n" in text for text in items["texts"])


@pytest.mark.parametrize("embedder", EMBEDDERS)
def test_vectors_are_there_for_every_control_and_layer(smoke, embedder):
    found = stored(smoke, f"articles/{embedder}/embedding.h5")
    layers = {f"{i} {pooling}" for i in range(7) for pooling in ("mean", "cls")}
    views = layers if embedder == "MiniLM" else {"output"}
    assert set(found) == {f"{c or 'plain'}/{view}" for c in CONTROLS for view in views}
    for vectors in found.values():
        assert vectors.shape[0] == 40 and np.isfinite(vectors).all()
    plain, *others = (
        found[f"{name or 'plain'}/{EMBEDDERS[embedder]}"] for name in sorted(CONTROLS)
    )
    same = [np.allclose(vectors, plain) for vectors in others]
    # Something was taken away; but of texts of which 32 tokens are read, no shorter one is left.
    assert same == [False, embedder == "MiniLM", False]


@pytest.mark.parametrize("embedder", EMBEDDERS)
@pytest.mark.parametrize("control", sorted(CONTROLS))
def test_accuracy_is_near_that_of_plain_scikit_learn(smoke, embedder, control):
    view = EMBEDDERS[embedder]
    points = stored(smoke, f"articles/{embedder}/embedding.h5")[f"{control or 'plain'}/{view}"]
    items = stored(smoke, "articles/items.h5")
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    split = StratifiedGroupKFold(3, shuffle=True, random_state=0)
    predicted = cross_val_predict(model, points, items["source"], groups=items["group"], cv=split)
    told = table(smoke, "separability").query(
        "embedder == @embedder and control == @control and choice == 'final'"
    )
    assert list(told["view"]) == [view, view]
    # Other folds: of forty answers a few differ.
    np.testing.assert_allclose(told["accuracy"], (predicted == items["source"]).mean(), atol=0.1)
    assert told["auroc"].min() > 0.8 and (told["p_value"] <= 1 / 20).all()


@pytest.mark.parametrize("embedder", EMBEDDERS)
def test_components_are_those_of_a_plain_decomposition(smoke, embedder):
    view = EMBEDDERS[embedder]
    points = stored(smoke, f"articles/{embedder}/embedding.h5")[f"plain/{view}"].astype(float)
    left, values, _ = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)
    scores = (left * values)[:, :3]
    here = "embedder == @embedder and choice == 'final'"
    rows = table(smoke, "projections").query(here)
    found = rows[["pc1", "pc2", "pc3"]].to_numpy()
    signs = np.sign((found * scores).sum(axis=0))
    # Single precision.
    np.testing.assert_allclose(found, scores * signs, atol=1e-4 * np.abs(scores).max())
    components = table(smoke, "components").query(here).set_index("component")
    shares = values**2 / (values**2).sum()
    np.testing.assert_allclose(components["variance"], shares[: len(components)], rtol=1e-3)
    sport = stored(smoke, "articles/items.h5")["source"] == "sports"
    for i in range(3):
        area = roc_auc_score(sport, scores[:, i])
        assert components.loc[i + 1, "auroc"] == pytest.approx(max(area, 1 - area), abs=1e-6)
        ranks = np.corrcoef(sport, scores[:, i])[0, 1] ** 2  # η² of two classes
        assert components.loc[i + 1, "eta2"] == pytest.approx(ranks, abs=1e-3)


def test_projections_are_of_the_items(smoke):
    items = stored(smoke, "articles/items.h5")
    rows = table(smoke, "projections")
    texts = dict(zip(items["group"], items["texts"], strict=True))
    for row in rows.itertuples():
        assert texts[row.group].startswith(row.excerpt.removesuffix("…"))
        assert row.source == row.group.partition("/")[0] and row.labels == "{}"
    for embedder, own in rows.groupby("embedder"):
        final, chosen = (own[own["choice"] == choice] for choice in ("final", "chosen"))
        assert list(final["group"]) == list(items["group"]), embedder
        assert len(chosen) == 20 and set(chosen["group"]) < set(items["group"])
    # The half that chose a view is the same for all.
    chosen = rows[rows["choice"] == "chosen"].groupby("embedder")["group"].apply(frozenset)
    assert chosen.nunique() == 1


def test_tables_hold_every_embedder_and_the_baselines(smoke):
    told = table(smoke, "separability")
    assert set(told["contrast"]) == {"articles"}
    rows = told.groupby(["embedder", "choice"]).size().to_dict()
    # Of two sources, the pair and all at once; four versions of the texts.
    named = {(name, choice): 8 for name in EMBEDDERS for choice in ("final", "chosen")}
    lone = ("length", "character n-grams", "word tf-idf")
    assert rows == named | {(name, "baseline"): 8 for name in lone}
    assert all(set(own["control"]) == CONTROLS for _, own in told.groupby(["embedder", "choice"]))
    baselines = told[told["choice"] == "baseline"]
    assert set(baselines["view"]) == {""} and (baselines["n"] == 40).all()
    # Words tell sports from business; lengths that were made equal tell nothing.
    words = baselines.query("embedder == 'word tf-idf' and control == ''")
    assert words["auroc"].min() > 0.9
    equal = baselines.query("embedder == 'length' and control == 'equal-length'")
    assert equal["auroc"].max() < 0.75


def test_tables_agree_with_each_other(smoke):
    told = table(smoke, "separability")
    both = told.groupby(["embedder", "control", "choice"])
    numbers = ["accuracy", "auroc", "p_value"]
    for _, rows in both:
        assert (rows["n"] == 40).all() and len(rows) == 2
        assert (rows[numbers].nunique() == 1).all()
    accuracy = both["accuracy"].first()
    confusion = table(smoke, "confusion")
    for key, rows in confusion.groupby(["embedder", "control", "choice"]):
        assert rows["count"].sum() == 40
        right = rows.loc[rows["true"] == rows["predicted"], "count"].sum()
        assert accuracy[key] == pytest.approx(right / 40)
    layers = table(smoke, "layers").set_index(["embedder", "view"])
    assert len(layers) == 14 + 1
    for embedder, view in EMBEDDERS.items():
        assert layers.loc[(embedder, view), "accuracy"] == accuracy[embedder, "", "final"]
        components = table(smoke, "components").query(
            "embedder == @embedder and choice == 'final' and component == 1"
        )
        np.testing.assert_allclose(components["eta2"], layers.loc[(embedder, view), "pc1_eta2"])
        clusters = table(smoke, "clustering").query(
            "embedder == @embedder and choice == 'final' and method == 'k-means'"
        )
        np.testing.assert_allclose(clusters["ari"], layers.loc[(embedder, view), "kmeans_ari"])
    # Before any layer, the first token is the same of all texts.
    first = layers.loc[("MiniLM", "0 cls")]
    assert np.isnan(first["kmeans_ari"]) and 0.2 < first["accuracy"] < 0.8


def test_summaries_are_the_tables_of_each_job(smoke):
    folder = smoke.folder / RESULTS / "embeddings"
    for name in TABLES:
        collection = "signature" if name in SIGNATURE_TABLES else "articles"
        parts = sorted(folder.glob(f"{collection}/*/{name}.csv"))
        if name == "translation":
            assert not parts
            continue
        whole = table(smoke, name)
        assert len(whole) == sum(len(files.read_table(path)) for path in parts)
        whose = {path.parent.name for path in parts} - {BASELINES}
        assert whose == ({"wordllama"} if collection == "signature" else set(EMBEDDERS))
    claims = claims_table(table(smoke, "separability"), table(smoke, "clustering"), pd.DataFrame())
    pd.testing.assert_frame_equal(table(smoke, "claims"), claims)
    assert len(claims) == 4 and set(claims["held"]) <= {"held", "partly", "not"}


def test_texts_are_named_by_the_half_that_chose_no_view(smoke):
    signature = table(smoke, "signature")
    assert set(signature["scenario"]) == {"known", "without sports", "without business"}
    known = signature[signature["scenario"] == "known"]
    chosen = table(smoke, "projections").query("embedder == 'wordllama' and choice == 'chosen'")
    assert sorted(known["excerpt"]) == sorted(chosen["excerpt"])
    assert ((signature["p_known"] <= 0.2) == signature["abstained"]).all()
    summary = table(smoke, "signature_summary").set_index(["scenario", "quantity"])["value"]
    right = known["predicted"] == known["source"]
    assert summary["known", "accuracy"] == right.mean() > 0.7
    assert summary["known", "abstained"] == known["abstained"].mean()
    named = right[~known["abstained"]].mean()
    assert summary["known", "accuracy when named"] == pytest.approx(named)
    reliability = table(smoke, "reliability")
    assert reliability["count"].sum() == len(known)
    mean = (reliability["accuracy"] * reliability["count"]).sum() / len(known)
    assert mean == pytest.approx(right.mean())


def test_pages_hold_numbers_and_texts(smoke):
    folder = smoke.folder / RESULTS / "embeddings"
    page = (folder / "summary.html").read_text()
    claims = table(smoke, "claims")
    for word in ("MiniLM", "wordllama", "character n-grams", "sports – business", *claims["claim"]):
        assert word in page
    page = (folder / "interactive.html").read_text()
    [contrast] = shown_items(page)["contrasts"]
    texts = {item[-1] for item in contrast["items"]}
    assert contrast["name"] == "articles" and contrast["count"] == 40
    assert texts == set(table(smoke, "projections")["excerpt"])
    # Texts are compressed: no sign in them means anything in HTML.
    assert not any(text in page for text in texts)


def test_vectors_are_kept_by_embedder_and_text(smoke):
    texts = {}
    for path in (smoke.folder / "resources" / "embeddings").rglob("*.h5"):
        with h5py.File(path) as file:
            keys = list(file["keys"].asstr()[()])
        texts.setdefault(path.parent.name, []).extend(keys)
    # A folder an embedder; four versions of each text, save where a control changes nothing.
    assert len(texts) == len(EMBEDDERS)
    for keys in texts.values():
        assert 120 < len(set(keys)) <= 160
    assert "40 of 40 texts were cut to 32 tokens" in log(smoke, "articles/MiniLM/embed")


# -- what a change costs -----------------------------------------------------------------------

MEASURED = {"measure_contrast": 2, "measure_baselines": 1, "summarise_embeddings": 1}
NAMED = {"measure_signature": 1}


def jobs_after(workflow, study=None):
    workflow.study(study or smoke_study())
    jobs = workflow.jobs()
    workflow.study(smoke_study())
    left_out = {"all", "total"}
    return {n: c for n, c in jobs.items() if n not in left_out and not n.startswith("figure_")}


def changed(path, value):
    study = smoke_study()
    *parents, last = path.split(".")
    place = study["embeddings"]
    for part in parents:
        place = place[part]
    place[last] = value
    return study


def test_options_redo_what_rests_on_them(finished):
    def after(path, value):
        return jobs_after(finished, changed(path, value))

    assert after("permutations", 29) == MEASURED
    assert after("signature.level", 0.1) == NAMED | {"summarise_embeddings": 1}
    assert after("contrasts.articles.labels", ["topic"]) == {
        "measure_contrast": 2, "summarise_embeddings": 1,
    }  # fmt: skip
    # Items stay, and so does the signature, which has no controls.
    fewer = after("contrasts.articles.controls", ["letters", "equal-length"])
    assert fewer == MEASURED | {"embed": 2}
    one = {"embed": 1, "measure_contrast": 1, "summarise_embeddings": 1}
    assert after("embedders.MiniLM.max_tokens", 16) == one
    # An embedder that is taken out leaves the others as they are.
    assert after("contrasts.articles.embedders", ["MiniLM"]) == {"summarise_embeddings": 1}
    # Another source is in both collections: wordllama embeds twice.
    everything = MEASURED | NAMED | {"collect_items": 2, "embed": 3}
    assert after("sources.sports.limit", 21) == everything | {"source_items": 1}


def test_a_source_more_is_read_alone(finished):
    study = smoke_study()
    options = study["embeddings"]
    options["sources"]["tech"] = options["sources"]["sports"] | {"where": {"topic": "tech"}}
    # A source that nobody asks for is not even read.
    assert jobs_after(finished, study) == {}
    options["contrasts"]["articles"]["sources"].append("tech")
    one = {"source_items": 1, "collect_items": 1}
    assert jobs_after(finished, study) == MEASURED | one | {"embed": 2}
    options["contrasts"]["articles"]["sources"].pop()
    options["contrasts"]["more"] = {
        "title": "?",
        "sources": ["sports", "tech"],
        "embedders": ["wordllama"],
    }
    expected = one | {"embed": 1, "measure_contrast": 1, "measure_baselines": 1}
    assert jobs_after(finished, study) == expected | {"summarise_embeddings": 1}


def test_code_redoes_what_rests_on_it(finished):
    def after(path, text="# otherwise\n"):
        file = finished.folder / path
        before = file.read_text()
        file.write_text(before + text)
        jobs = finished.jobs()
        file.write_text(before)
        return jobs

    own = {path.stem for path in finished.folder.glob(f"{RESULTS}/figures/embeddings/*.png")}
    drawn = after("model_metrology/plots/embeddings.py")
    assert set(drawn) == {f"figure_{name}" for name in own} | {"all", "total"}
    assert len(own) == 10 and drawn["total"] == 11
    for path in ("embeddings/claims.py", "plots/interactive.py"):
        jobs = after(f"model_metrology/{path}")
        assert jobs["summarise_embeddings"] == 1 and "measure_contrast" not in jobs
    measured = after("model_metrology/embeddings/separability.py")
    assert MEASURED.items() <= measured.items() and "embed" not in measured
    embedded = after("model_metrology/embeddings/cache.py")
    assert embedded["embed"] == 3 and "collect_items" not in embedded
    assert after("model_metrology/embeddings/sources.py")["source_items"] == 2
    assert after("report/embeddings/layers.rst", "\nOr so.\n").get("total", 0) == 0


def test_deleting_a_figure_or_a_table_rebuilds_that_alone(finished):
    names = ("separability.png", "layers.pdf", "signature.png")
    assert_rebuilt_alone(finished, finished.folder / RESULTS / "figures" / "embeddings", names)
    (finished.folder / RESULTS / "embeddings" / "interactive.html").unlink()
    assert jobs_after(finished) == {"summarise_embeddings": 1}


def test_nothing_is_embedded_twice(finished):
    target = "articles/wordllama/embedding.h5"
    before = stored(finished, target)
    shutil.rmtree(finished.folder / RESULTS / "embeddings")
    (
        finished.folder / RESULTS / "logs" / "embeddings" / "articles" / "wordllama" / "embed.log"
    ).unlink()
    finished.run(f"{RESULTS}/embeddings/{target}")
    text = log(finished, "articles/wordllama/embed")
    found = re.findall(r"(\d+) of (\d+) items have been embedded before", text)
    # The texts as they are, and under each of three controls.
    assert len(found) == 4 and all(had == there for had, there in found)
    assert not re.search(r"embedded \d+ of", text)
    after = stored(finished, target)
    assert before.keys() == after.keys()
    for name, vectors in before.items():
        np.testing.assert_array_equal(after[name], vectors)


# -- texts of one's own ------------------------------------------------------------------------

ODD = "<b>por la máquina: $x_1^2$"
ASKED = "<i>which?"
SPORT = [
    ("El equipo ganó el partido del domingo", "The team won the match on Sunday"),
    ("La jugadora marcó dos goles en la final", "The player scored two goals in the final"),
    ("El entrenador habló con sus jugadores", "The coach spoke with his players"),
    ("El estadio estaba lleno de aficionados", "The stadium was full of fans"),
    ("El corredor batió el récord del maratón", "The runner broke the marathon record"),
    ("La selección perdió contra Francia", "The national team lost against France"),
    ("El tenista venció en tres sets", "The tennis player won in three sets"),
    ("La liga empieza en el mes de agosto", "The league starts in the month of August"),
    ("El portero paró un penalti", "The goalkeeper saved a penalty"),
    ("La nadadora entrena todas las mañanas", "The swimmer trains every morning"),
]
TRADE = [
    ("El banco subió los tipos de interés", "The bank raised interest rates"),
    ("Las acciones de la empresa cayeron ayer", "The company's shares fell yesterday"),
    ("El gobierno bajó los impuestos", "The government cut taxes"),
    ("La fábrica despidió a cien trabajadores", "The factory dismissed a hundred workers"),
    ("El precio del petróleo sigue alto", "The price of oil remains high"),
    ("La inflación llegó al cuatro por ciento", "Inflation reached four per cent"),
    ("El mercado espera mejores resultados", "The market expects better results"),
    ("La compañía compró a su rival", "The company bought its rival"),
    ("El euro ganó terreno frente al dólar", "The euro gained ground against the dollar"),
    ("Las exportaciones crecieron este año", "Exports grew this year"),
]
END = "; <script>alert('¿qué?')</script> & más"


def own_texts(folder):
    """A table with a text a row: in Spanish, in English by hand, and in English elsewhere."""
    rows = []
    for theme, pairs in (("deporte", SPORT), ("economía", TRADE)):
        for i, (spanish, english) in enumerate(pairs):
            group = f"{theme} {i}"
            rows.append(("original", group, theme, f"{spanish}{END}"))
            rows.append(("translated", group, theme, f"{english}{END}"))
            rows.append(("target", f"other {group}", theme, f"{english} again{END}"))
    table = pd.DataFrame(rows, columns=["kind", "document", "theme", "words, all"])
    table.sample(frac=1, random_state=0).to_csv(folder / "texts of mine.csv", index=False)
    return table


def own_study(**options):
    of = {"path": "texts of mine.csv", "text": "words, all", "group": "document"}
    of["labels"] = {"topic": "theme"}
    sources = {
        name: of | {"where": {"kind": kind}} | options
        for name, kind in {"español": "original", ODD: "translated", "1": "target"}.items()
    }
    return {
        "name": "own",
        "seed": 3,
        "embeddings": {
            "sources": sources,
            "embedders": {"words: 50%": {"kind": "wordllama"}},
            "contrasts": {ASKED: {
                "title": "<b>Is it & safe?</b>",
                "sources": ["español", ODD, "1"],
                "labels": ["topic"],
                "controls": ["letters"],
            }},
            "translations": {"to English": {
                "title": "?", "original": "español", "translated": ODD, "target": "1",
                "topic": "topic",
            }},
            "folds": 3,
            "permutations": 19,
            "bootstraps": 20,
        },
    }  # fmt: skip


def test_a_table_of_ones_own_runs_from_end_to_end(workflow):
    rows = own_texts(workflow.folder).set_index("words, all")
    workflow.study(own_study())
    jobs = workflow.jobs()
    assert jobs["source_items"] == 3 and jobs["collect_items"] == jobs["embed"] == 2
    assert (
        jobs["measure_contrast"] == jobs["measure_translation"] == jobs["figure_translation"] == 1
    )
    assert not {"measure_signature", "figure_signature", "generate_images", "train"} & set(jobs)
    results = "results/own"
    translation = f"{results}/figures/embeddings/translation.png"
    drawn = [translation, f"{results}/figures/embeddings/discriminant.png"]
    workflow.run(f"{results}/embeddings/summary.html", *drawn)
    assert all((workflow.folder / path).stat().st_size > 5000 for path in drawn)

    # The rows of the table, with what stands beside them, in the order of the file.
    items = stored(workflow, "to English/items.h5", results)
    assert list(items["source"]) == ["español"] * 20 + [ODD] * 20 + ["1"] * 20
    beside = rows.loc[items["texts"]]
    for column, name in (("document", "group"), ("theme", "labels/topic")):
        np.testing.assert_array_equal(beside[column], items[name])

    # The two languages lie apart, and a translation by hand goes most of the way.
    quantities = table(workflow, "translation", results).set_index("quantity")["value"]
    vectors = stored(workflow, "to English/words@3A 50%/embedding.h5", results)
    spanish, english, other = vectors["plain/output"].reshape(3, 20, -1).astype(float)
    axis = other.mean(axis=0) - spanish.mean(axis=0)
    way = (english - spanish).mean(axis=0) @ axis / (axis @ axis)
    # There on one half of the texts, with the axis of the other.
    assert quantities["paired shift"] == pytest.approx(way, abs=0.2)
    assert quantities["language auroc before"] > 0.9 > quantities["language auroc after"]

    told = table(workflow, "separability", results)
    assert set(told["contrast"]) == {ASKED} and "words: 50%" in set(told["embedder"])
    # Three pairs and all at once.
    assert (told.groupby(["embedder", "control", "choice"]).size() == 4).all()
    assert set(told["control"]) == {"", "letters"}
    clusters = table(workflow, "clustering", results)
    assert set(clusters["label"]) == {"source", "topic", "source × topic"}
    claims = table(workflow, "claims", results)
    assert {ASKED, "to English"} == set(claims["contrast"])

    # Whatever is in names and texts, pages show it as it is.
    folder = workflow.folder / results / "embeddings"
    page = (folder / "summary.html").read_text()
    assert "&lt;b&gt;por la máquina: $x_1^2$" in page and "&lt;i&gt;which?" in page
    assert "<b>" not in page and "<i>" not in page and "<script>" not in page
    page = (folder / "interactive.html").read_text()
    [contrast] = shown_items(page)["contrasts"]
    assert {item[-1] for item in contrast["items"]} == set(rows.index)
    assert contrast["name"] == ASKED and contrast["sources"] == ["español", ODD, "1"]
    assert "alert('" not in page and "<b>" not in page

    # Nothing more to do; another row in the table and its sources are read again.
    assert workflow.jobs(f"{results}/embeddings/summary.html").get("total", 0) == 0
    with (workflow.folder / "texts of mine.csv").open("a") as file:
        file.write("target,new,deporte,One more text\n")
    jobs = workflow.jobs(f"{results}/embeddings/summary.html")
    assert jobs["source_items"] == 3 and jobs["embed"] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": "txt"}, r"\.text: texts of mine\.csv has no 'txt'; it has kind, document, theme"),
        ({"group": "doc"}, r"\.group: texts of mine\.csv has no 'doc'"),
        ({"labels": {"topic": "them"}}, r"\.labels\.topic: texts of mine\.csv has no 'them'"),
    ],
)
def test_a_column_that_is_missing_is_named(workflow, options, message):
    own_texts(workflow.folder)
    workflow.study(own_study(**options))
    target = "results/own/embeddings/sources/1.h5"
    result = workflow.run(target, check=False)
    assert result.returncode and not (workflow.folder / target).exists()
    where = rf"ValueError: embeddings\.sources\.1{message}"
    assert re.search(where, result.stdout), result.stdout
    assert re.search(where, log(workflow, "sources/1", "results/own"))


def test_a_label_that_no_source_has_is_named(workflow):
    own_texts(workflow.folder)
    study = own_study()
    study["embeddings"]["contrasts"] = {
        "c": {"title": "?", "sources": ["español", "1"], "labels": ["genre"], "controls": []}
    }
    workflow.study(study)
    result = workflow.run("results/own/embeddings/c/words@3A 50%/layers.csv", check=False)
    where = r"embeddings\.contrasts\.c\.labels: no source has 'genre'.*there are topic"
    assert result.returncode and re.search(where, result.stdout), result.stdout


def test_what_cannot_be_found_is_refused_before_the_first_job(workflow):
    study = own_study()
    workflow.study(study)
    result = workflow.run(check=False)
    where = r"config\.yaml: embeddings\.sources\.español\.path: there is no file or folder texts of"
    assert result.returncode and re.search(where, result.stdout), result.stdout
    assert "Traceback" not in result.stdout and not (workflow.folder / "results").exists()


# -- images ------------------------------------------------------------------------------------


def test_images_of_a_dataset_and_the_same_through_jpeg(workflow):
    workflow.study(
        {
            "name": "images",
            "datasets": {"digits2": {}},
            "embeddings": {
                "sources": {
                    "digits": {"dataset": "digits2", "limit": 40},
                    "JPEG": {"recompression": {"of": "digits", "quality": 10}},
                },
                "embedders": {"net": {"kind": "torchvision", "model": "resnet18"}},
                "contrasts": {"both": {"title": "?", "sources": ["digits", "JPEG"]}},
                "folds": 3,
                "permutations": 19,
                "bootstraps": 20,
            },
        }
    )
    jobs = workflow.jobs()
    assert jobs["dataset"] == jobs["embed"] == jobs["measure_baselines"] == 1
    results = "results/images"
    workflow.run(f"{results}/embeddings/both/{BASELINES}/separability.csv")
    items = stored(workflow, "both/items.h5", results)
    plain, jpeg = np.split(items["images"], 2)
    assert plain.shape == (40, 8, 8, 3) and not np.array_equal(plain, jpeg)
    assert np.corrcoef(plain.ravel(), jpeg.ravel())[0, 1] > 0.7
    # An image and its compressed self are one group, and of one class.
    for name in ("group", "labels/class"):
        np.testing.assert_array_equal(*np.split(items[name], 2))
    told = files.read_table(
        workflow.folder / results / "embeddings" / "both" / BASELINES / "separability.csv"
    )
    assert set(told["embedder"]) == {"file size", "pixels"} and set(told["control"]) == {""}
    assert (told["groups"] == 40).all() and (told["n"] == 80).all()


# -- every table of every job ------------------------------------------------------------------


def test_every_table_of_a_job_has_its_key_in_front(smoke):
    folder = smoke.folder / RESULTS / "embeddings"
    for collection, names in (("articles", CONTRAST_TABLES), ("signature", SIGNATURE_TABLES)):
        for name in names:
            for path in folder.glob(f"{collection}/*/{name}.csv"):
                rows = files.read_table(path)
                assert list(rows.columns[:2]) == ["contrast", "embedder"], path
                assert set(rows["contrast"]) == {collection}, path
                if path.parent.name != BASELINES:
                    assert set(rows["embedder"]) == {path.parent.name}, path
