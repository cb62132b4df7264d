"""Figures draw what the tables say, in words where there is nothing, and the same bytes twice."""

import subprocess
import sys
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from model_metrology.data.datasets import Dataset
from model_metrology.plots import style, variability
from model_metrology.plots.tables import summary_page
from model_metrology.plots.training import training_figure
from model_metrology.variability import tables

from .test_variability_tables import make_outputs

# Names that would be mathematics, markup, or nothing that a font has to fear.
BASE, OTHER, THIRD = "a_b$c$", "<script>x</script>", "ü %"


@pytest.fixture(scope="module")
def study():
    base = make_outputs(BASE, 26)
    other = make_outputs(OTHER, 5, shift=1.0, seed=3)
    third = make_outputs(THIRD, 5, noise=0.8, seed=4)
    reference, held_out = base.split(20)
    null = tables.null_table(reference)
    rng = np.random.default_rng(0)
    alpha, metrics, weights = [], [], []
    for outputs in (base, other, third):
        table, weight = tables.alpha_table(outputs, reference, null, bootstraps=20, rng=rng)
        alpha += [table, tables.own_alpha_table(outputs.split(5)[0])]
        metrics.append(tables.metrics_table(outputs, reference))
        weights.append({"weights": weight})
    alpha, metrics = pd.concat(alpha, ignore_index=True), pd.concat(metrics, ignore_index=True)
    return {
        "outputs": [base, other, third],
        "null": null,
        "alpha": alpha,
        "metrics": metrics,
        "trimmings": weights,
        "correlations": tables.correlations_table(alpha, metrics, rng=rng),
        "claims": tables.claims_table(alpha, metrics, reference=BASE, sources=[BASE, OTHER]),
        "ensemble_size": tables.ensemble_size_table(
            held_out, reference, trim=0.05, replicates=5, rng=rng
        ),
        "power": tables.power_table(reference, [(0.0, held_out), (0.1, other)]),
        "coverage": tables.coverage_table(
            contaminations=[0.1, 0.3], points=[200], reference_runs=3, simulations=10,
            bootstraps=10, rng=rng,
        ),
    }  # fmt: skip


@pytest.fixture
def history():
    rows = [
        {"population": name, "run": run, "epoch": epoch, "loss": (1 + run) / epoch, "accuracy": 0.5}
        for name in (BASE, OTHER, THIRD)
        for run in range(2)
        for epoch in range(1, 5)
    ]
    rows[-1]["loss"] = np.nan
    return pd.DataFrame(rows)


def draw(study, name):
    make = {
        "ecdf": lambda: variability.ecdf_figure(
            study["outputs"][0], study["alpha"], study["outputs"], reference_size=20, law="pooled"
        ),
        "metrics": lambda: variability.metrics_figure(
            study["alpha"], study["metrics"], study["correlations"]
        ),
        "comparison": lambda: variability.comparison_figure(
            study["alpha"],
            title="What does $x$ do?",
            populations=[BASE, OTHER, THIRD],
            against="own",
        ),
        "null": lambda: variability.null_figure(study["null"], study["alpha"]),
        "ensemble_size": lambda: variability.ensemble_size_figure(study["ensemble_size"]),
        "power": lambda: variability.power_figure(study["power"]),
        "coverage": lambda: variability.coverage_figure(study["coverage"]),
        "trimmed_images": lambda: variability.trimmed_images_figure(
            images(400), study["trimmings"]
        ),
    }
    return make[name]()


def images(n):
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 255, size=(n, 3, 8, 8), dtype=np.uint8)
    index, labels = np.arange(n), np.arange(n) % 2
    return Dataset(
        "x",
        ("cat", "dog"),
        pictures,
        labels,
        pictures,
        labels,
        index,
        index,
        np.ones(3),
        np.ones(3),
    )


FIGURES = (
    "ecdf", "metrics", "comparison", "null", "ensemble_size", "power", "coverage",
    "trimmed_images",
)  # fmt: skip


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_saved_alike_and_fit_a_page(study, name, tmp_path):
    paths = [[tmp_path / f"{name}{i}.{kind}" for kind in ("png", "pdf")] for i in range(2)]
    for pair in paths:
        style.save(draw(study, name), *pair)
    for a, b in zip(*paths, strict=True):
        assert a.read_bytes() == b.read_bytes()
    width, height = Image.open(paths[0][0]).size
    # Snakemake's report cuts what is higher than the page.
    assert height <= 7 * 150 and width > height


@pytest.mark.parametrize("name", [n for n in FIGURES if n != "trimmed_images"])
def test_outer_axes_are_labelled(study, name):
    figure = draw(study, name)
    for axes in figure.axes:
        place = axes.get_subplotspec()
        # Populations name themselves at the ticks, in place of a label.
        if place.is_last_row() and name != "comparison":
            assert axes.get_xlabel()
        if place.is_first_col() and name != "null":
            assert axes.get_ylabel()
    plt.close(figure)


def test_points_of_the_metrics_figure_are_the_table(study):
    figure = draw(study, "metrics")
    axes = next(a for a in figure.axes if a.get_xlabel() == "" and a.get_ylabel().endswith("gaps"))
    chosen = study["alpha"].query("against == 'reference' and scope == 'pooled'")
    drawn = np.concatenate([line.get_ydata() for line in axes.lines])
    np.testing.assert_allclose(sorted(drawn), sorted(chosen["alpha"]))
    plt.close(figure)


def test_shaded_witness_is_that_of_the_most_outlying(study):
    figure = draw(study, "ecdf")
    measured = study["alpha"].query("against == 'reference' and scope == 'pooled'")
    worst = measured.sort_values(["alpha", "statistic"]).iloc[-1]
    legend = " ".join(text.get_text() for text in figure.axes[0].get_legend().get_texts())
    assert f"run {worst['run']}" in legend and f"{worst['alpha']:.3f}" in legend
    low, high = figure.axes[0].get_xlim()
    spans = [patch.get_bbox() for patch in figure.axes[0].patches]
    expected = np.clip([worst["witness_lower"], worst["witness_upper"]], low, high)
    assert any(np.allclose([span.x0, span.x1], expected, atol=1e-6) for span in spans)
    plt.close(figure)


def test_power_figure_shows_every_test_and_the_level(study):
    figure = draw(study, "power")
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert set(labels) >= {"KS", "trimmed KS", "MMD", "energy", "level 0.05"}
    for drawn in figure.axes[0].containers:
        of_test = study["power"]["test"] == drawn.get_label()
        table = study["power"][of_test].sort_values("planted")
        line, _, (bars,) = drawn.lines
        np.testing.assert_allclose(np.asarray(line.get_ydata(), dtype=float), table["power"])
        ends = np.array([segment[:, 1] for segment in bars.get_segments()])
        np.testing.assert_allclose(ends, table[["low", "high"]], atol=1e-12)
    assert len(figure.axes[0].containers) == 4
    plt.close(figure)


def test_null_figure_counts_rejections(study):
    figure = draw(study, "null")
    texts = [text.get_text() for text in figure.axes[1].texts]
    rejected = study["alpha"].query(
        "against == 'reference' and scope == 'pooled' and population == @OTHER"
    )["p_value_ks"]
    assert f"{(rejected <= 0.05).sum()}/5" in texts
    plt.close(figure)


def test_trimmed_images_without_candidates_say_so():
    figure = variability.trimmed_images_figure(images(30), [{"weights": np.empty((0, 30))}])
    assert "nothing was trimmed" in figure.axes[0].texts[0].get_text()
    plt.close(figure)


def test_training_figure_marks_diverged_runs(history, tmp_path):
    figure = training_figure(history)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert [label for label in labels if "diverged" in label] == [f"{THIRD}: diverged"]
    crosses = [line for line in figure.axes[0].lines if line.get_label() == f"{THIRD}: diverged"]
    assert [list(line.get_xdata()) for line in crosses] == [[4]]
    mean = next(line for line in figure.axes[0].lines if line.get_label() == OTHER)
    np.testing.assert_allclose(mean.get_ydata(), 1.5 / np.arange(1, 5))
    for kind in ("png", "pdf"):
        style.save(figure, tmp_path / f"a.{kind}")
        style.save(training_figure(history), tmp_path / f"b.{kind}")
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()
    assert Image.open(tmp_path / "a.png").size[1] <= 7 * 150


def test_summary_page_escapes_names(study):
    excluded = pd.DataFrame({"population": [OTHER], "run": [3], "reason": ["a < b & c"]})
    summary = tables.summary_table(study["alpha"], study["metrics"], excluded)
    page = summary_page(summary, study["claims"], excluded, study["alpha"])
    assert "<script>" not in page and "&lt;script&gt;" in page and "a &lt; b &amp; c" in page
    assert f"{100 * summary['accuracy'].iloc[0]:.2f}" in page


def test_text_with_dollars_is_no_mathematics(tmp_path):
    figure, axes = plt.subplots()
    axes.set_title(style.plain(r"costs $5 and \alpha and $x^"))
    style.save(figure, tmp_path / "x.png")


def test_names_with_an_underscore_first_stay_in_the_legend():
    figure, axes = plt.subplots()
    axes.plot([0, 1], label=style.plain("_hidden"))
    assert len(axes.legend().get_texts()) == 1
    plt.close(figure)


def test_many_populations_still_fit_a_page(study):
    one = study["alpha"].query("against == 'reference' and population == @OTHER")
    many = pd.concat([one.assign(population=f"p{i}") for i in range(30)])
    figure = variability.null_figure(study["null"], many)
    assert figure.get_size_inches()[1] <= 7
    plt.close(figure)


def measured_nothing(table, *, rows):
    """The table with no rows, or with none of its measurements."""
    if not rows:
        return table.iloc[:0]
    kept = ("run", "n", "reference_runs", "epoch")
    numbers = [name for name in table.select_dtypes("number") if name not in kept]
    return table.assign(**dict.fromkeys(numbers, np.nan))


def words(figure):
    return " ".join(
        text
        for axes in figure.axes
        for text in [axes.get_title(), *(t.get_text() for t in axes.texts)]
    )


NOTHING = {
    "ecdf": "There are no candidates",
    "metrics": "There are no candidates",
    "comparison": "was not measured",
    "null": "There is no leave-one-out null",
    "ensemble_size": "No ensemble sizes were measured",
    "power": "No planted differences were tested",
    "coverage": "No coverage was simulated",
}


@pytest.mark.parametrize("rows", [False, True], ids=["empty", "all NaN"])
@pytest.mark.parametrize("name", NOTHING)
def test_figures_without_measurements_say_so(study, name, rows, tmp_path):
    nothing = {
        key: measured_nothing(value, rows=rows) if isinstance(value, pd.DataFrame) else value
        for key, value in study.items()
    }
    figure = draw(nothing, name)
    said = words(figure)
    style.save(figure, tmp_path / "x.png")
    assert NOTHING[name] in said


@pytest.mark.parametrize("rows", [False, True], ids=["empty", "all NaN"])
def test_training_figure_without_finite_loss_says_so(history, rows):
    figure = training_figure(measured_nothing(history, rows=rows))
    assert "No finite training loss" in words(figure)
    plt.close(figure)


def test_comparison_cuts_no_run_off(study):
    # The class-conditional values are far larger than the pooled ones, and share their scale.
    alpha = study["alpha"].query("against == 'own'").copy()
    alpha["alpha"] = np.where(alpha["scope"] == "pooled", 0.01, np.linspace(0.2, 0.9, len(alpha)))
    names = [BASE, OTHER, THIRD]
    figure = variability.comparison_figure(alpha, title="t", populations=names, against="own")
    for axes, scope in zip(figure.axes, ("pooled", "maximum"), strict=True):
        low, high = axes.get_ylim()
        drawn = [line.get_ydata() for line in axes.lines if line.get_marker() in style.MARKERS]
        values = np.concatenate(drawn)
        expected = alpha.loc[alpha["scope"] == scope, "alpha"]
        np.testing.assert_allclose(sorted(values), sorted(expected))
        assert low <= values.min() and values.max() <= high
    plt.close(figure)


def test_each_panel_states_its_own_terms(study):
    figure = draw(study, "comparison")
    pooled, maximum = (" ".join(axes.get_title().split()) for axes in figure.axes)
    # 400 points, half of them of each class.
    assert "n = 400 test points" in pooled and "n = 200 test points" in maximum
    plt.close(figure)
    mixed = study["alpha"].query("against == 'own'").copy()
    mixed.loc[mixed["population"] == OTHER, ["n", "tolerance"]] = [900, 0.5]
    figure = variability.comparison_figure(
        mixed, title="t", populations=[BASE, OTHER], against="own"
    )
    assert "n = 400–900 test points" in " ".join(figure.axes[0].get_title().split())
    plt.close(figure)


def test_a_test_has_one_colour_in_all_panels_of_the_ensemble_sizes(study):
    figure = draw(study, "ensemble_size")
    colours = {}
    for axes in figure.axes:
        for line in axes.lines:
            colours.setdefault(line.get_label(), set()).add(line.get_color())
    assert {name: len(values) for name, values in colours.items()} == {
        "trimmed test": 1,
        "untrimmed test": 1,
    }
    assert figure.axes[1].lines[0].get_label() == "untrimmed test"
    assert len(set.union(*colours.values())) == 2
    plt.close(figure)


def test_a_candidate_that_was_not_measured_is_not_the_most_outlying(study):
    alpha = study["alpha"].copy()
    chosen = (alpha["against"] == "reference") & (alpha["scope"] == "pooled")
    worst = alpha[chosen].sort_values(["alpha", "statistic"]).index
    alpha.loc[worst[-1], "alpha"] = np.nan
    figure = draw(study | {"alpha": alpha}, "ecdf")
    legend = " ".join(text.get_text() for text in figure.axes[0].get_legend().get_texts())
    assert "nan" not in legend and f"run {alpha.loc[worst[-2], 'run']} (" in legend
    plt.close(figure)


def test_a_diverging_loss_sets_no_scale_and_is_marked_once(history):
    exploded = history.copy()
    last = (exploded["population"] == THIRD) & (exploded["run"] == 1)
    exploded.loc[last, "loss"] = [2.0, 1e9, np.inf, np.nan]
    figure = training_figure(exploded)
    assert figure.axes[0].get_ylim()[1] < 3.0
    crosses = [line for line in figure.axes[0].lines if line.get_label() == f"{THIRD}: diverged"]
    assert [list(line.get_xdata()) for line in crosses] == [[3]]
    plt.close(figure)


def test_weights_that_are_all_equal_show_no_images():
    figure = variability.trimmed_images_figure(images(30), [{"weights": np.full((2, 30), 1 / 30)}])
    assert "nothing was trimmed" in words(figure)
    plt.close(figure)


@pytest.mark.parametrize("channels", [1, 3])
def test_trimmed_images_are_those_of_the_smallest_weight(channels):
    dataset = images(60)
    dataset = replace(dataset, test_images=dataset.test_images[:, :channels])
    weights = np.random.default_rng(0).permutation(np.arange(1.0, 61.0))
    figure = variability.trimmed_images_figure(dataset, [{"weights": weights[None] / 1830.0}])
    for axes, point in ((figure.axes[0], weights.argmin()), (figure.axes[20], weights.argmax())):
        shown = np.asarray(axes.images[0].get_array())
        picture = dataset.test_images[point]
        np.testing.assert_array_equal(
            shown, picture[0] if channels == 1 else np.moveaxis(picture, 0, -1)
        )
        name = dataset.classes[dataset.test_labels[point]]
        assert axes.get_title() == f"{name}\n{60 * weights[point] / 1830:.2f}"
    plt.close(figure)


def test_unknown_formats_are_refused(tmp_path):
    figure, _ = plt.subplots()
    with pytest.raises(ValueError, match=r"x\.svg: figures are written as \.png or \.pdf"):
        style.save(figure, tmp_path / "x.svg")
    plt.close(figure)


def test_figures_start_without_torch_and_without_statistics_that_few_need():
    # The environment that draws figures has no torch; a second of imports is that of a figure.
    code = """
import sys
from model_metrology.plots import embeddings, interactive, methods, spectra, surrogates, tables
from model_metrology.plots import training, variability
sys.exit(" ".join({"torch", "sklearn", "scipy.stats"} & set(sys.modules)) or 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
