"""The smoke study, whole: every result is there, holds together, and is found again."""

import re
from html.parser import HTMLParser

import h5py
import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from .conftest import ROOT, Workflow, datasets_of, smoke_study

RESULTS = "results/smoke"


def table(workflow, name):
    return pd.read_csv(workflow.folder / RESULTS / "variability" / f"{name}.csv")


def test_every_figure_is_there_as_png_and_pdf(smoke):
    figures = smoke.folder / RESULTS / "figures"
    png = sorted(path.relative_to(figures).with_suffix("") for path in figures.rglob("*.png"))
    pdf = sorted(path.relative_to(figures).with_suffix("") for path in figures.rglob("*.pdf"))
    assert png == pdf and len(png) >= 10
    assert all(path.stat().st_size > 5000 for path in figures.rglob("*.p*"))


def test_plain_h5py_reads_the_outputs_and_finds_the_accuracy(smoke):
    with h5py.File(smoke.folder / RESULTS / "outputs" / "base.h5") as file:
        assert file.attrs["kind"] == "outputs" and file.attrs["study"] == "smoke"
        assert list(file["logits"].attrs["axes"]) == ["run", "test point", "class"]
        predicted, labels = file["logits"][:].argmax(axis=2), file["labels"][:]
    metrics = table(smoke, "metrics").query("population == 'base'")
    np.testing.assert_allclose(metrics["accuracy"], (predicted == labels).mean(axis=1))
    # Even against odd digits: a network that learned is far above one half.
    assert metrics["accuracy"].min() > 0.8


def test_the_table_agrees_with_scipy_on_the_stored_outputs(smoke):
    with h5py.File(smoke.folder / RESULTS / "outputs" / "base.h5") as file:
        logits = file["logits"][:].astype(float)
    gaps = logits[..., 1] - logits[..., 0]
    alpha = table(smoke, "alpha").query(
        "population == 'base' and against == 'reference' and scope == 'pooled'"
    )
    assert list(alpha["run"]) == [6, 7, 8, 9]
    for row in alpha.itertuples():
        expected = stats.ks_2samp(gaps[row.run], gaps[:6].ravel()).statistic
        assert row.statistic == pytest.approx(expected, abs=1e-12)


def spectra(workflow, name):
    return pd.read_csv(workflow.folder / RESULTS / "spectra" / f"{name}.csv")


def test_spectra_are_those_of_the_stored_weights(smoke):
    folder = smoke.folder / RESULTS / "spectra"
    with h5py.File(folder / "networks" / "GD" / "0000-0001.h5") as file:
        assert file.attrs["kind"] == "width runs" and file.attrs["population"] == "GD"
        run = file["runs/0001"]
        assert list(run["steps"]) == [0, 1, 5, 20]
        weights = run["weights"][:].astype(float)
        # The loss fell: the run was trained.
        assert run["history/loss"][-1] < run["history/loss"][0]
    with h5py.File(folder / "measured" / "GD" / "0000-0001.h5") as file:
        found = file["runs/0001/eigenvalues/weights"][:]
    # 80 points, 40 inputs, 60 units.
    expected = [np.linalg.eigvalsh(w.T @ w / 60) for w in weights]
    np.testing.assert_allclose(found, expected, atol=1e-10)
    rows = spectra(smoke, "spectra").query("group == 'GD' and run == 1 and matrix == 'weights'")
    np.testing.assert_allclose(rows["largest"], [values[-1] for values in expected])
    np.testing.assert_allclose(
        rows["norm_change"], [np.linalg.norm(w - weights[0]) / 40**0.5 for w in weights], rtol=1e-6
    )


def test_runs_that_diverge_are_named_and_in_no_average(smoke):
    excluded = spectra(smoke, "excluded").query("group == 'phases'")
    assert sorted(excluded["run"]) == [4, 5]
    assert (excluded["recipe.learning_rate"] == 1000).all()
    assert excluded["reason"].str.contains("at a learning rate of 1000").all()
    rows = spectra(smoke, "spectra").query("group == 'phases'")
    assert sorted(set(rows["run"])) == [0, 1, 2, 3] and np.isfinite(rows["largest"]).all()
    summary = spectra(smoke, "summary").query("group == 'phases' and matrix == 'weights'")
    assert list(summary["runs"]) == [4] and list(summary["diverged"]) == [2]
    assert "at a learning rate of 1000" in (
        smoke.folder / RESULTS / "spectra" / "summary.html"
    ).read_text(encoding="utf-8")


def test_norms_fall_with_the_size_at_fixed_steps(smoke):
    slopes = spectra(smoke, "slopes").set_index("matrix")
    assert (slopes["predicted"] == -1).all()
    # At 40 to 160 points, six runs, the rate is seen, not its second digit.
    assert slopes.loc["weights", "slope"] == pytest.approx(-1, abs=0.4)


def test_optimisers_are_named_better_than_by_chance(smoke):
    accuracy = spectra(smoke, "forensics/accuracy").query(
        "features == 'spectra' and split == 'unseen seeds'"
    )
    # Full batches against Adam at large steps: hardly to be confused, by 96 runs.
    assert accuracy["accuracy"].iloc[0] > 0.9 and accuracy["n"].iloc[0] == 96


def test_image_networks_have_spectra_of_every_layer(smoke):
    table = spectra(smoke, "images/base")
    assert set(table["stage"]) == {"initial", "trained"} and set(table["run"]) == {0}
    assert {"conjugate kernel", "tangent kernel"} < set(table["matrix"])
    assert len(table) == 2 * table["matrix"].nunique()


def test_a_second_run_finds_nothing_to_do(smoke):
    assert "Nothing to be done" in smoke.run("--dry-run").stdout


def test_deleting_a_figure_rebuilds_that_figure_alone(finished):
    figure = finished.folder / RESULTS / "figures" / "variability" / "null.png"
    figure.unlink()
    assert finished.jobs() == {"figure_null": 1, "all": 1, "total": 2}
    finished.run()
    assert figure.exists()


def test_every_job_left_a_log_and_a_benchmark(smoke):
    results = smoke.folder / RESULTS
    logs = {p.relative_to(results / "logs").with_suffix("") for p in results.glob("logs/**/*.log")}
    marks = {
        p.relative_to(results / "benchmarks").with_suffix("")
        for p in results.glob("benchmarks/**/*.tsv")
    }
    assert logs == marks and len(logs) > 15


def test_training_reports_each_epoch_of_each_run(smoke):
    log = (smoke.folder / RESULTS / "logs" / "training" / "base" / "0000-0004.log").read_text()
    for run in range(5):
        lines = [line for line in log.splitlines() if f"run {run:04d}" in line]
        assert len(lines) >= 3 and all("loss" in line for line in lines[:3])


class _Page(HTMLParser):
    """Counts scripts and collects what the page would load from elsewhere."""

    def __init__(self):
        super().__init__()
        self.scripts, self.external = 0, []

    def handle_starttag(self, tag, attributes):
        self.scripts += tag == "script"
        if tag in ("script", "link", "img"):
            sources = [str(value) for key, value in attributes if key in ("src", "href")]
            self.external += [s for s in sources if "//" in s and not s.startswith("data:")]


def test_report_is_one_self_contained_page(smoke):
    parser = _Page()
    parser.feed((smoke.folder / "report.html").read_text())
    assert parser.scripts and not parser.external


# -- what a study asks for, and what its changes cost ------------------------------------------


def changed(finished, **changes):
    """The smoke study's finished results with a changed study; what would be done again."""
    study = smoke_study()
    for path, value in changes.items():
        place = study
        *parents, last = path.split("__")
        for part in parents:
            place = place[part]
        place[last] = value
    finished.study(study)
    return finished.jobs()


def test_more_runs_train_only_the_new_ones(finished):
    jobs = changed(finished, populations__base__size=15)
    assert jobs["train"] == 1
    assert "dataset" not in jobs


def test_another_learning_rate_trains_that_population_alone(finished):
    recipe = smoke_study()["populations"]["init only"]["recipe"] | {"learning_rate": 0.02}
    jobs = changed(
        finished,
        populations={**smoke_study()["populations"]}
        | {"init only": smoke_study()["populations"]["init only"] | {"recipe": recipe}},
    )
    assert jobs["train"] == 1 and jobs["measure"] == 1 and "leave_one_out" not in jobs


def test_another_title_redraws_one_figure(finished):
    jobs = changed(finished, variability__comparisons__noise__title="Noise?")
    assert jobs == {"figure_comparison_noise": 1, "all": 1, "total": 2}


def test_another_style_redraws_all_figures_and_does_no_more(finished):
    style = finished.folder / "model_metrology" / "plots" / "style.py"
    style.write_text(style.read_text() + "# otherwise\n")
    figures = list((finished.folder / RESULTS / "figures").rglob("*.png"))
    jobs = finished.jobs()
    drawn = {name for name in jobs if name.startswith("figure_")}
    # Pages of tables have no style; the one with items to point at has its colours.
    pages = {"summarise_embeddings"}
    assert set(jobs) - drawn == pages | {"all", "total"} and len(drawn) == len(figures)


def test_another_tolerance_measures_but_trains_nothing(finished):
    jobs = changed(finished, variability__tolerance=0.1)
    assert "train" not in jobs and jobs["measure"] == 4


def test_a_larger_sweep_trains_only_the_new_runs(finished):
    jobs = changed(finished, spectra__sweeps__phases__size=2)
    # The block of six runs grows to one of twelve; other groups are left alone.
    assert jobs["train_width"] == 1 and jobs["measure_width"] == 1 and "train" not in jobs


def test_another_level_of_the_edge_test_measures_but_trains_nothing(finished):
    jobs = changed(finished, spectra__level=0.05)
    assert "train_width" not in jobs and "train" not in jobs and jobs["measure_width"] == 6


def test_same_seed_same_bytes_another_seed_other_numbers(smoke, tmp_path):
    outputs = {}
    for name, seed in (("same", 7), ("other", 8)):
        workflow = Workflow(tmp_path / name)
        workflow.study(smoke_study() | {"seed": seed})
        files = ["training/init only/0000-0003/runs.h5", "spectra/networks/Adam/0000-0001.h5"]
        workflow.run(*(f"{RESULTS}/{file}" for file in files))
        outputs[name] = workflow.folder / RESULTS
    for file in files:
        first = datasets_of(smoke.folder / RESULTS / file)
        assert first == datasets_of(outputs["same"] / file)
        assert first != datasets_of(outputs["other"] / file)


# -- what cannot work --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sed": 3}, r"config\.yaml: sed: unknown key; did you mean 'seed'"),
        ({"seed": "three"}, r"config\.yaml: seed: .*integer"),
        ({"datasets": {"digits2": {"train": 10**6}}}, r"datasets\.digits2\.train: 1000000 points"),
    ],
)
def test_a_study_that_cannot_work_fails_before_the_first_job(workflow, change, message):
    workflow.study(smoke_study() | change)
    result = workflow.run(check=False)
    assert result.returncode and re.search(message, result.stdout)
    assert "Traceback" not in result.stdout and not (workflow.folder / "results").exists()


def test_a_study_given_by_name_replaces_the_default_one(workflow):
    workflow.study(smoke_study())
    other = smoke_study() | {"name": "other"}
    del other["populations"]["order only"], other["variability"]
    workflow.study(other, "other.yaml")
    jobs = workflow.jobs("--configfile", "other.yaml")
    assert jobs["collect_outputs"] == 4 and "measure" not in jobs


def test_odd_names_reach_figures_and_pages_unharmed(workflow):
    study = smoke_study()
    study["name"] = "odd"
    odd = "<script>alert('$x_1^2$')<"
    base = study["populations"]["base"]
    study["populations"] = {odd: base}
    study["variability"] = {
        "reference": {"population": odd, "size": 6},
        "level": 0.15,
        "bootstraps": 20,
        "simulations": 20,
        "comparisons": {"one": {"title": "<b>Is it & safe?</b>", "populations": [odd]}},
    }
    two_layers = study["spectra"]
    study["spectra"] = {
        "populations": {odd: two_layers["populations"]["GD"]},
        "sweeps": {f"{odd} 2": two_layers["sweeps"]["phases"] | {"population": odd}},
        "phases": [f"{odd} 2"],
        "expected": {odd: "bulk"},
        "images": {"populations": [odd], "runs": 1, "points": 40},
    }
    study["surrogates"] = study["surrogates"] | {
        "populations": [odd],
        "kernels": ["trNTK"],
        "solvers": [],
        "tile": None,
    }
    texts = study["embeddings"]
    texts["sources"] = {odd: texts["sources"]["sports"], "b": texts["sources"]["business"]}
    texts["embedders"] = {odd: {"kind": "wordllama"}}
    contrast = {"title": "<b>Is it & safe?</b>", "sources": [odd, "b"], "controls": ["letters"]}
    texts["contrasts"] = {odd: contrast}
    texts["signature"] = {"sources": [odd, "b"]}
    workflow.study(study)
    figures = {
        "variability": ("ecdf", "comparison_one"),
        "spectra": ("phases", "images"),
        "surrogates": ("faithfulness", "attribution_classes"),
        "embeddings": ("separability", "principal"),
    }
    drawn = [f"figures/{stage}/{name}.png" for stage, names in figures.items() for name in names]
    pages = [f"{stage}/summary.html" for stage in figures]
    # The report itself is looked at in test_security.py.
    workflow.run(*(f"results/odd/{name}" for name in drawn + pages))
    for name in pages:
        page = (workflow.folder / "results" / "odd" / name).read_text()
        assert "<script>" not in page and "&lt;script&gt;" in page


def test_diverged_runs_stop_the_study_or_are_left_out_by_name(workflow):
    study = yaml.safe_load((ROOT / "studies" / "smoke.yaml").read_text())
    hot = study["populations"]["order only"]
    hot["recipe"] = hot["recipe"] | {"optimiser": "sgd", "learning_rate": 1e30}
    del study["populations"]["noise 20%"], study["populations"]["init only"]
    study["variability"] = study["spectra"] = study["surrogates"] = study["embeddings"] = None
    workflow.study(study)
    result = workflow.run(check=False)
    assert result.returncode
    assert re.search(r"'order only': 4 of 4 runs diverged", result.stdout)


# -- quality -----------------------------------------------------------------------------------


def test_lint_is_clean(smoke):
    result = smoke.run("--lint", check=False)
    assert "Congratulations" in result.stdout, result.stdout
