"""Figures of spectra draw what the tables say, in words where there is nothing, the same twice."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from model_metrology.plots import spectra, style
from model_metrology.plots.tables import spectra_page
from model_metrology.seeds import Streams
from model_metrology.spectra import images, tables
from model_metrology.spectra.measure import measure_runs
from model_metrology.spectra.recipes import Group, Sweep, WidthPopulation
from model_metrology.spectra.runs import MATRICES
from model_metrology.spectra.training import train_width_runs

# Names that would be mathematics or markup.
BASE, OTHER, GRID = "a_b$c$", "<script>x</script>", "grid $x_1^2$"
ADAM = {"optimiser": "adam", "learning_rate": 0.3, "steps": 30}


def population(**recipe):
    return WidthPopulation(
        data={"points": 60}, network={"trained": "both"}, recipe=recipe, size=2, snapshots=[1, 5]
    )


def measured(name, group, runs):
    def streams(run):
        return Streams(0, name, run, group.base.varies)

    trained = train_width_runs(
        [group.population(run) for run in range(runs)],
        [streams(run) for run in range(runs)],
        device=torch.device("cpu"),
    )
    return measure_runs(group, trained, streams)


@pytest.fixture(scope="module")
def study():
    base = population(optimiser="gd", learning_rate=1, steps=10)
    over = {"recipe.learning_rate": [1, 3000], "data.label_scale": [1, 2], "data.points": [40, 60]}
    found = [
        measured(BASE, Group(base=base), 2),
        measured(OTHER, Group(base=population(**ADAM)), 2),
        measured(GRID, Group(base=base, sweep=Sweep(population=BASE, over=over)), 8),
    ]
    table, excluded = (
        pd.concat([part[i] for part in found], ignore_index=True).infer_objects() for i in (1, 2)
    )
    slopes = tables.slopes_table(table, [GRID])
    return {
        "table": table,
        "excluded": excluded,
        "slopes": slopes,
        "summary": tables.summary_table(table, excluded),
        "claims": tables.claims_table(
            table, slopes, expected={BASE: "bulk"}, rng=np.random.default_rng(0)
        ),
        "runs": [found[0][0], found[1][0]],
    }


def images_table():
    stages = [
        {"stage": stage, "largest": largest, "top_share": 0.3, "target_alignment": 0.2}
        for stage, largest in (("initial", 2.0), ("trained", 5.0))
    ]
    rows = [
        {"population": BASE, "run": 0, "matrix": matrix, "rows": 20, "columns": 30} | stage | more
        for matrix, more in (
            ("1.weight$", {"threshold": 3.0, "outliers": 1}),
            ("conjugate kernel", {}),
            ("tangent kernel", {}),
        )
        for stage in stages
    ]
    return pd.DataFrame(rows, columns=["population", *images.ROW])


ACCURACY = pd.DataFrame(
    [
        {"features": f, "split": s, "part": "all", "accuracy": 0.9, "low": 0.8, "high": 0.95}
        for f in ("spectra", "final loss")
        for s in ("unseen seeds", "unseen data.link")
    ]
)
CONFUSION = pd.DataFrame(
    [
        {"features": "spectra", "split": "unseen seeds", "truth": truth, "named": named, "count": 3}
        for truth in (BASE, OTHER)
        for named in (BASE, OTHER, "undecided", "none fits")
    ]
)
RELIABILITY = pd.DataFrame(
    {
        "low": [0.0, 0.5],
        "high": [0.5, 1.0],
        "count": [0, 7],
        "confidence": [np.nan, 0.9],
        "accuracy": [np.nan, 1.0],
    }
)


def draw(study, name):
    names = {"populations": [BASE, OTHER]}
    table, runs = study["table"], study["runs"]
    make = {
        "densities": lambda: spectra.densities_figure(table, runs, **names),
        "tails": lambda: spectra.tails_figure(table, runs, **names),
        "alignment": lambda: spectra.alignment_figure(table, **names, multi_index=[OTHER]),
        "norms_size": lambda: spectra.norms_size_figure(table, study["slopes"]),
        "norms_time": lambda: spectra.norms_time_figure(table, **names),
        "bulk": lambda: spectra.bulk_figure(table, **names),
        "phases": lambda: spectra.phases_figure(table, study["excluded"], sweeps=[GRID]),
        "images": lambda: spectra.images_figure(images_table()),
        "accuracy": lambda: spectra.forensics_accuracy_figure(ACCURACY),
        "confusion": lambda: spectra.forensics_confusion_figure(CONFUSION),
        "reliability": lambda: spectra.forensics_reliability_figure(RELIABILITY),
    }
    return make[name]()


FIGURES = (
    "densities", "tails", "alignment", "norms_size", "norms_time", "bulk", "phases", "images",
    "accuracy", "confusion", "reliability",
)  # fmt: skip


def words(figure):
    return [text.get_text() for text in figure.findobj(plt.Text) if text.get_text()]


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_drawn_the_same_twice(study, name, tmp_path):
    for i in range(2):
        style.save(draw(study, name), tmp_path / f"{i}.png")
    first, second = (tmp_path / f"{i}.png" for i in range(2))
    assert first.read_bytes() == second.read_bytes() and first.stat().st_size > 5000


def test_odd_names_are_drawn_as_they_stand(study):
    for name in ("alignment", "norms_time", "phases"):
        figure = draw(study, name)
        expected = GRID if name == "phases" else BASE
        assert style.plain(expected) in words(figure), name
        plt.close(figure)


def test_phases_show_kinds_and_what_diverged(study):
    # Half of the sweep's step sizes are far too large.
    assert set(study["excluded"]["recipe.learning_rate"]) == {3000}
    figure = draw(study, "phases")
    assert words(figure).count("×") >= 3 * 2
    plt.close(figure)


def test_densities_are_of_the_stored_eigenvalues(study):
    figure = draw(study, "densities")
    axes = figure.axes[0]
    after = study["runs"][0][0].eigenvalues["weights"][-1]
    bars = [patch for patch in axes.patches if hasattr(patch, "get_height")]
    mass = sum(bar.get_height() * bar.get_width() for bar in bars)
    inside = ((after > 0) & (after <= axes.get_xlim()[1])).mean()
    assert mass == pytest.approx(inside)
    plt.close(figure)


def test_where_nothing_was_completed_figures_say_so(study):
    empty = study["table"].iloc[:0]
    names = {"populations": [BASE]}
    none = study["excluded"].iloc[:0]
    for figure in (
        spectra.densities_figure(empty, [[]], **names),
        spectra.tails_figure(empty, [[]], **names),
        spectra.alignment_figure(empty, **names, multi_index=[BASE]),
        spectra.norms_time_figure(empty, **names),
        spectra.bulk_figure(empty, **names),
        spectra.norms_size_figure(empty, tables.slopes_table(empty, [GRID])),
        spectra.phases_figure(empty, none, sweeps=[GRID]),
        spectra.images_figure(images_table().iloc[:0]),
        spectra.forensics_accuracy_figure(ACCURACY.iloc[:0]),
        spectra.forensics_confusion_figure(CONFUSION.iloc[:0]),
        spectra.forensics_reliability_figure(RELIABILITY.iloc[:0]),
    ):
        (text,) = words(figure)
        assert text.endswith(".")
        plt.close(figure)


def test_a_sweep_that_diverged_whole_is_crossed_out(study):
    part = study["table"][study["table"]["group"] != GRID]
    figure = spectra.phases_figure(part, study["excluded"], sweeps=[GRID])
    assert "×" in words(figure)
    plt.close(figure)


@pytest.mark.parametrize("draw_columns", [spectra.densities_figure, spectra.tails_figure])
@pytest.mark.parametrize("place", [0, 1])
def test_a_population_that_diverged_whole_keeps_its_column(study, draw_columns, place):
    names, runs = [BASE], [study["runs"][0]]
    names.insert(place, "_lost$")
    runs.insert(place, [])
    figure = draw_columns(study["table"], runs, populations=names)
    found = words(figure)
    assert "all runs\ndiverged" in found and style.plain("_lost$") in found
    # Rows and the other column keep their labels, whichever comes first.
    assert any(text.startswith("weights\n") for text in found)
    assert any(text.startswith(style.plain(BASE)) for text in found)
    assert {text.get_text() for text in figure.legends[0].texts} >= {"after training"}
    plt.close(figure)


@pytest.mark.parametrize("populations", [1, 9])
def test_outliers_are_marked_or_counted(study, populations):
    names = [f"copy {i}" for i in range(populations)]
    table = study["table"]
    copies = [table[table["group"] == OTHER].assign(group=name) for name in names]
    runs = [study["runs"][1]] * populations
    figure = spectra.densities_figure(pd.concat(copies), runs, populations=names)
    seen = 0
    for axes, matrix in zip(figure.axes[::populations], MATRICES, strict=True):
        rows = table[(table["group"] == OTHER) & (table["matrix"] == matrix) & (table["run"] == 0)]
        row = rows.sort_values("step").iloc[-1]
        values, right = study["runs"][1][0].eigenvalues[matrix][-1], axes.get_xlim()[1]
        inside = values[(values > row["threshold"]) & (values <= right)]
        (marks,) = (line for line in axes.lines if line.get_marker() == "v")
        assert np.array_equal(marks.get_xdata(), inside)
        noted = [text.get_text() for text in axes.texts if "beyond" in text.get_text()]
        assert len(inside) + (int(noted[0].split()[0]) if noted else 0) == row["outliers"]
        seen += len(inside)
    assert seen
    plt.close(figure)


def test_a_tail_is_drawn_where_it_was_fitted(study):
    table = study["table"]
    last = (table["step"] == 30) & (table["group"] == OTHER) & (table["matrix"] == "weights")
    assert last.any()
    for kind, legend in (("heavy-tailed", "power law"), ("bulk+spikes", "power law, rejected")):
        fitted = table.assign(
            kind=table["kind"].where(~last, kind),
            tail=table["tail"].mask(last, 12),
            exponent=table["exponent"].mask(last, 3.25),
        )
        figure = spectra.tails_figure(fitted, study["runs"], populations=[BASE, OTHER])
        (drawn,) = (
            line for axes in figure.axes for line in axes.lines if line.get_label() == legend
        )
        values = study["runs"][1][0].eigenvalues["weights"][-1]
        x, y = drawn.get_data()
        assert np.array_equal(x, np.sort(values)[-12:])
        # The distribution function of a density of exponent 3.25 falls with 2.25.
        assert np.allclose(np.diff(np.log(y)), -2.25 * np.diff(np.log(x)))
        assert y[0] == pytest.approx(12 / len(values))
        assert "exponent\n3.2" in words(figure)
        plt.close(figure)


def test_the_band_of_the_bulk_is_between_initialisations(study):
    def top(figure, axes):
        (band,) = figure.axes[axes].patches
        return band.get_y() + band.get_height()

    first, second = (run.eigenvalues["weights"][0] for run in study["runs"][0])
    # Spectra of equally many eigenvalues: the largest difference of two step functions.
    points = np.concatenate([first, second])
    expected = max(abs((first <= x).mean() - (second <= x).mean()) for x in points)
    figure = spectra.bulk_figure(study["table"], [study["runs"][0]], populations=[BASE])
    assert top(figure, 0) == pytest.approx(expected)
    plt.close(figure)
    # Of one run alone there is no other initialisation: the law stands in, and it says so.
    figure = spectra.bulk_figure(study["table"], [study["runs"][0][:1]], populations=[BASE])
    table = study["table"]
    start = table[(table["step"] == 0) & (table["group"] == BASE) & (table["matrix"] == "weights")]
    assert top(figure, 0) == pytest.approx(start["law_distance"].max())
    assert "its law" in figure.legends[0].texts[0].get_text()
    plt.close(figure)


def test_cells_of_the_phases_are_means_over_their_runs(study):
    table = study["table"].copy()
    part = table["group"] == GRID
    table.loc[part, "outliers"] = 0
    # One of a cell's two runs has an outlier: neither none nor one.
    cell = part & (table["data.label_scale"] == 1) & (table["data.points"] == 40)
    table.loc[cell, "outliers"] = 1
    figure = spectra.phases_figure(table, study["excluded"].iloc[:0], sweeps=[GRID, "not trained"])
    assert "0.5" in words(figure) and words(figure).count("no run") == 3
    plt.close(figure)


def test_images_pair_before_and_after_of_each_run():
    first = images_table()
    both = pd.concat([first, first.assign(run=1, largest=first["largest"] + 1.0)])
    figure = spectra.images_figure(both)
    layers = figure.axes[0]
    points = {line.get_marker(): line.get_ydata() for line in layers.lines if line.get_marker()}
    assert np.allclose(points["o"], [2.0 / 3.0, 1.0])
    assert np.allclose(points["D"], [5.0 / 3.0, 2.0])
    assert "1" in words(figure)
    plt.close(figure)
    # Layers too small for a law, of one population: in words, the kernels all the same.
    small = first.assign(population="small", threshold=np.nan)
    figure = spectra.images_figure(pd.concat([first, small]))
    assert "no layer is large\nenough for a law" in words(figure)
    plt.close(figure)
    # … or of all of them.
    figure = spectra.images_figure(small.assign(effective_rank=[1.0 + i for i in range(6)]))
    assert "no layer is large\nenough for a law" in words(figure)
    assert figure.axes[-1].get_yscale() == "log"
    plt.close(figure)


def test_accuracy_shows_every_feature_set_and_chance():
    other = ACCURACY[ACCURACY["features"] == "spectra"].assign(features="_new$")
    # A feature set that was not tried on one of the splits leaves a gap.
    figure = spectra.forensics_accuracy_figure(pd.concat([ACCURACY, other.iloc[:1]]), classes=4)
    legend = [text.get_text() for text in figure.legends[0].texts]
    assert {"spectra", "final loss (baseline)", style.plain("_new$"), "chance, 1 of 4"} == {*legend}
    (chance,) = (line for line in figure.axes[0].lines if line.get_linestyle() == "--")
    assert set(chance.get_ydata()) == {0.25}
    plt.close(figure)


def test_confusion_shows_counts_with_abstentions_last():
    figure = spectra.forensics_confusion_figure(CONFUSION)
    axes = figure.axes[0]
    said = [text.get_text() for text in axes.get_xticklabels()]
    assert said[-2:] == ["undecided", "none fits"]
    assert words(figure).count("3") == len(CONFUSION)
    plt.close(figure)


def test_the_page_has_every_table_and_escapes(study):
    page = spectra_page(
        study["summary"], study["slopes"], study["claims"], study["excluded"],
        populations=[BASE, OTHER],
    )  # fmt: skip
    assert "<script>" not in page and "&lt;script&gt;" in page
    for heading in ("Populations at the end", "Claims", "slopes", "Runs that diverged"):
        assert heading in page
    # The diverged runs are named with their reason; sweeps have no rows of their own.
    assert "at a learning rate of 3000" in page
