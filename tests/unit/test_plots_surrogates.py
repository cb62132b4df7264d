"""Figures of surrogates draw what the tables say, in words where there is nothing, the same twice.

The tables here are made up: only their columns and their ranges are those of a study.
"""

import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PatchCollection, PathCollection
from scipy import stats

from model_metrology.data.datasets import Dataset
from model_metrology.plots import style, surrogates
from tests.looks import assert_words_apart

KERNELS = ("trNTK", "trNTK0", "pNTK", "proj-trNTK", "proj-pNTK", "CK", "Em")
# Names of twenty characters; the first two would be mathematics or hidden in legends.
NAMES = (
    "cnn_cifar2$no_dropo$", "_mlp mnist2 wide net", "resnet18 cifar10 SGD",
    "resnet18 cifar10 Ada", "mobilenet, 1% poison", "bert-base on CoLA, 4",
)  # fmt: skip
GREY, COLOUR = "made-up grey", "made-up colour"
METRICS = {
    "kendall_tau": (0.75, 0.05), "kendall_tau_correct": (0.7, 0.05), "tad": (-0.005, 0.01),
    "r_miss": (0.7, 0.06), "agreement": (0.95, 0.01), "network_accuracy": (0.94, 0.003),
    "surrogate_accuracy": (0.935, 0.004),
}  # fmt: skip


def faithfulness(names=NAMES, kernels=KERNELS, solvers=("glm", "sgd", "svm"), runs=6):
    rng = np.random.default_rng(0)
    rows = [
        {
            "population": name, "run": run, "kernel": kernel, "surrogate": solver,
            "metric": metric, "value": value, "lower": value - spread, "upper": value + spread,
        }
        for i, name in enumerate(names)
        for kernel in kernels
        for solver in (solvers if kernel == "trNTK" else solvers[:1])
        for metric, (centre, spread) in METRICS.items()
        for run in range(runs if i else 1)
        for value in [centre - 0.02 * i * (metric != "tad") + spread * rng.normal()]
    ]  # fmt: skip
    return pd.DataFrame(rows)


def summary(names=NAMES, kernels=KERNELS):
    keys = ["population", "kernel", "surrogate", "metric"]
    groups = faithfulness(names, kernels, ("sgd",)).groupby(keys, sort=False)["value"]
    table = groups.agg(runs="size", mean="mean", standard_error="sem").reset_index()
    rng = np.random.default_rng(1)
    spread = table["metric"].map({name: spread for name, (_, spread) in METRICS.items()})
    published = table["mean"] + spread * rng.normal(size=len(table))
    given = table["metric"].isin(["kendall_tau", "tad", "r_miss", "network_accuracy"])
    # Of single models the papers give no error.
    error = (0.3 * spread).where(table["population"].ne(names[-1]))
    return table.assign(published=published.where(given), published_error=error.where(given))


def scores(names=NAMES, classes=2, points=400):
    rng = np.random.default_rng(2)
    tables = []
    for i, name in enumerate(names):
        of = 10 if i == 2 else classes
        label = rng.integers(0, of, points)
        for run in (3, 4):
            logit = rng.normal(0, 4, points) + (4 if of > 2 else 6 * (label - 0.5))
            other = 0.7 * logit + rng.normal(0, 1.5, points)
            tables.append(
                pd.DataFrame(
                    {
                        "population": name, "run": run, "kernel": "trNTK", "point": range(points),
                        "label": label, "network": 1 / (1 + np.exp(-logit)),
                        "surrogate": 1 / (1 + np.exp(-other)),
                    }
                )
            )  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def scatter(table, **options):
    """The figure of scores, with the τ of each run by SciPy beside."""
    rows = [
        {
            "population": name, "run": run, "kernel": kernel, "surrogate": solver,
            "metric": "kendall_tau", "value": tau if solver == "glm" else 0.0,
        }
        for (name, run, kernel), part in table.groupby(["population", "run", "kernel"])
        for tau in [stats.kendalltau(part["network"], part["surrogate"]).statistic]
        for solver in ("glm", "svm")
    ]  # fmt: skip
    columns = ["population", "run", "kernel", "surrogate", "metric", "value"]
    return surrogates.scatter_figure(table, pd.DataFrame(rows, columns=columns), **options)


def attribution(names=NAMES[:2], classes=10, train=2000):
    rng = np.random.default_rng(3)
    tables = []
    train_label = rng.integers(0, classes, train)
    for name in names:
        for point in range(6):
            label = point % classes
            predicted = label if point < 3 else (label + 1) % classes
            # Heavy tails: few training points carry most of the logit.
            value = 0.002 * rng.standard_t(1.5, train)
            value += 0.01 * rng.exponential(size=train) ** 2 * (train_label == predicted)
            tables.append(
                pd.DataFrame(
                    {
                        "population": name, "run": 0, "kernel": "trNTK", "point": 10 + point,
                        "role": "right" if label == predicted else "wrong", "label": label,
                        "predicted": predicted, "train_point": range(train),
                        "train_label": train_label, "attribution": value,
                    }
                )
            )  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def dataset(name, channels=1, size=28, classes=10):
    """Crosses and stripes in place of photographs."""
    rng = np.random.default_rng(4)
    grid = np.add.outer(np.arange(size), np.arange(size))
    labels = {part: rng.integers(0, classes, 60) for part in ("train", "test")}
    images = {
        part: np.stack(
            [
                120 + 100 * np.sin(grid * (1 + k) / 6 + rng.normal(size=(channels, 1, 1)))
                for k in values
            ]
        ).astype(np.uint8)
        for part, values in labels.items()
    }  # fmt: skip
    return Dataset(
        name=name,
        classes=tuple(f"T-shirt/top{i}" for i in range(classes)),
        train_images=images["train"],
        train_labels=labels["train"],
        test_images=images["test"],
        test_labels=labels["test"],
        train_index=np.arange(60),
        test_index=np.arange(60),
        mean=np.zeros(channels),
        std=np.ones(channels),
        poisoned=np.arange(60) % 7 == 0,
    )


DATASETS = [dataset(GREY), dataset(COLOUR, channels=3, size=32)]


def strongest(names=NAMES, k=8, points=3):
    rng = np.random.default_rng(5)
    rows = []
    for i, name in enumerate(names):
        data = DATASETS[i % 2]
        for run in (0, 1):
            for point in range(2 * points):
                label = int(data.test_labels[point])
                role = "right" if point < points else "wrong"
                predicted = label if role == "right" else (label + 1) % 10
                for sign, by in (("supporting", 1), ("opposing", -1)):
                    for rank in range(1, k + 1):
                        train = int(rng.integers(0, 60))
                        rows.append(
                            {
                                "population": name, "run": run, "kernel": "trNTK",
                                "point": point, "role": role, "label": label,
                                "predicted": predicted, "rank": rank, "sign": sign,
                                "train_point": train,
                                "train_label": int(data.train_labels[train]),
                                "attribution": by * 0.3 / rank, "dataset": data.name,
                            }
                        )  # fmt: skip
    return pd.DataFrame(rows)


RELATIONS = ("same population", "same recipe", "other recipe", "other architecture")


def agreement(pairs=6, points=300, relations=RELATIONS):
    rng = np.random.default_rng(6)
    tables = []
    for i, relation in enumerate(relations):
        for pair in range(pairs):
            same = rng.random(points) < 0.95 - 0.04 * i
            value = np.tanh(1.2 - 0.5 * i - 0.6 * ~same + 0.3 * rng.normal(size=points))
            tables.append(
                pd.DataFrame(
                    {
                        "population_a": NAMES[0], "run_a": pair, "population_b": NAMES[i],
                        "run_b": pair + 1, "relation": relation, "kernel": "trNTK",
                        "point": range(points), "label": 0, "same_prediction": same,
                        "correlation": value, "within_labels": value - 0.4,
                    }
                )
            )  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def poison(names=NAMES[:3], kernels=KERNELS, triggers=("patch", "blended, clean label"), images=30):
    rng = np.random.default_rng(7)
    tables = []
    for i, trigger in enumerate(triggers):
        for name, fraction in zip(names, (0.1, 0.01, 0.001), strict=False):
            fooled = rng.random(images) < 0.95 - 0.3 * i
            for j, kernel in enumerate(kernels):
                precision = rng.beta(20 * fraction**0.3, 0.5 + j, images)
                tables.append(
                    pd.DataFrame(
                        {
                            "population": name, "run": 0, "kernel": kernel, "trigger": trigger,
                            "fraction": fraction, "point": range(images),
                            "poisoned": int(1e4 * fraction), "precision": precision,
                            "recall": np.sqrt(precision), "average_precision": precision,
                            "chance": fraction, "precision_by_label": 5 * fraction,
                            "recall_by_label": 10 * fraction / (1 + 9 * fraction),
                            "fooled": fooled,
                        }
                    )
                )  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def poison_curves(names=NAMES, kernels=KERNELS):
    recall = np.linspace(0, 1, 51)
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "population": name, "kernel": kernel, "fooled": fooled, "recall": recall,
                    "images": 20 if fooled else 10, "precision": mean * (1 if fooled else 0.1),
                    "lower": 0.8 * mean, "upper": np.minimum(1.1 * mean, 1.0),
                    "by_label": 0.5 - 0.05 * i,
                }
            )
            for fooled in (False, True)
            for i, name in enumerate(names)
            for j, kernel in enumerate(kernels)
            for mean in [1 - (0.1 + 0.8 * i / 6) * recall ** (8 - j)]
        ],
        ignore_index=True,
    )  # fmt: skip


DRAWN = {
    "faithfulness": (surrogates.faithfulness_figure, faithfulness),
    "solvers": (surrogates.solvers_figure, faithfulness),
    "published": (surrogates.published_figure, summary),
    "scatter": (lambda table, **options: scatter(table, **options), scores),
    "attribution_classes": (surrogates.attribution_classes_figure, attribution),
    "strongest": (lambda table: surrogates.strongest_figure(table, DATASETS), strongest),
    "agreement": (surrogates.agreement_figure, agreement),
    "poison": (surrogates.poison_figure, poison),
    "poison_curves": (surrogates.poison_curves_figure, poison_curves),
}


def small(table):
    """A figure's table of two populations and two kernels, where it has them."""
    for column, kept in (("population", NAMES[:2]), ("kernel", KERNELS[:2])):
        if column in table:
            table = table[table[column].isin(kept)]
    return table


def words(figure):
    return [text.get_text() for text in figure.findobj(plt.Text) if text.get_text()]


def lines(axes, label):
    return [line for line in axes.lines if line.get_label() == label]


def legend(figure):
    return [text.get_text() for text in figure.legends[0].texts]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.mark.parametrize("name", DRAWN)
def test_figures_are_drawn_the_same_twice(name, tmp_path):
    draw, table = DRAWN[name]
    for i in range(2):
        style.save(draw(small(table())), tmp_path / f"{i}.png")
    first, second = (tmp_path / f"{i}.png" for i in range(2))
    assert first.read_bytes() == second.read_bytes() and first.stat().st_size > 5000


@pytest.mark.parametrize("name", DRAWN)
def test_an_empty_table_is_said_in_a_sentence(name):
    draw, table = DRAWN[name]
    (text,) = words(draw(table().iloc[:0]))
    assert text.endswith(".")


@pytest.mark.parametrize("name", DRAWN)
def test_no_words_lie_on_each_other_or_beyond_the_page(name, monkeypatch):
    # Six populations of twenty characters and seven kernels: as full as figures get.
    draw, table = DRAWN[name]
    figure = draw(table())
    assert_words_apart(figure, monkeypatch)


def test_odd_names_are_drawn_as_they_stand():
    for name in ("scatter", "poison", "poison_curves", "strongest", "solvers", "published"):
        draw, table = DRAWN[name]
        text = "\n".join(words(draw(small(table()))))
        for odd in NAMES[:2]:
            assert style.plain(odd) in text, name


# -- faithfulness --------------------------------------------------------------------------------


def test_intervals_end_where_a_metric_does():
    # Of two runs Student's interval has a factor of 12.7: 0.75 ± 3.2.
    rows = pd.DataFrame({"metric": "r_miss", "value": [0.5, 1.0], "lower": 0.0, "upper": 1.0})
    assert surrogates._mean(rows) == (0.75, 0.0, 1.0)
    _, low, high = surrogates._mean(rows.assign(metric="tad"))
    assert (low, high) == pytest.approx((0.75 - 12.706 * 0.25, 0.75 + 12.706 * 0.25), abs=1e-3)


def test_faithfulness_draws_runs_means_and_intervals():
    table = faithfulness(NAMES[:2], ("CK", "trNTK0"), runs=5)
    figure = surrogates.faithfulness_figure(table)
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "Kendall τ", "TAD (percentage points)", r"$R_\mathrm{Miss}$ (fraction)",
    ]  # fmt: skip
    # The usual order of kernels, not the table's; zero is a line in TAD alone.
    ticks = [label.get_text() for label in figure.axes[-1].get_xticklabels()]
    assert ticks == ["trNTK⁰", "CK"]
    assert [len(lines(axes, "_zero")) for axes in figure.axes] == [0, 1, 0]
    for axes, metric, factor in zip(
        figure.axes, ("kendall_tau", "tad", "r_miss"), (1, 100, 1), strict=True
    ):
        rows = table[table["metric"] == metric]
        expected = [
            factor * rows[(rows["kernel"] == k) & (rows["population"] == name)]["value"].to_numpy()
            for k in ("trNTK0", "CK")
            for name in NAMES[:2]
        ]
        means = [float(line.get_ydata()[0]) for line in lines(axes, "_mean")]
        assert means == pytest.approx([values.mean() for values in expected])
        points = [line.get_ydata() for line in lines(axes, "_runs")]
        assert np.allclose(points, expected[1::2])
        # Of one run the interval of the table; of several scipy's interval of the mean.
        intervals = [line.get_ydata() for line in lines(axes, "_interval")]
        one = rows[(rows["kernel"] == "trNTK0") & (rows["population"] == NAMES[0])].iloc[0]
        assert np.allclose(intervals[0], [factor * one["lower"], factor * one["upper"]])
        values = expected[1]
        usual = stats.t.interval(0.95, 4, loc=values.mean(), scale=stats.sem(values))
        assert np.allclose(intervals[1], usual)
        first, second = lines(axes, "_interval")[:2]
        assert first.get_linestyle() != second.get_linestyle() == "-"
    assert legend(figure) == [
        f"{style.plain(NAMES[0])} (1 run)", f"{style.plain(NAMES[1])} (5 runs)",
    ]  # fmt: skip


def test_faithfulness_leaves_out_other_surrogates_and_missing_values():
    table = faithfulness(NAMES[1:3], ("trNTK",), runs=3)
    missing = (table["metric"] == "r_miss") & (table["run"] > 0)
    table.loc[missing, ["value", "lower", "upper"]] = np.nan
    figure = surrogates.faithfulness_figure(table)
    tau, _, miss = figure.axes
    assert len(lines(tau, "_mean")) == len(lines(miss, "_mean")) == 2
    assert len(lines(miss, "_runs")) == 0 and np.isfinite(miss.get_ylim()).all()
    glm = table[(table["surrogate"] == "glm") & (table["metric"] == "kendall_tau")]
    means = [float(line.get_ydata()[0]) for line in lines(tau, "_mean")]
    assert means == pytest.approx(glm.groupby("population", sort=False)["value"].mean().tolist())
    (text,) = words(surrogates.faithfulness_figure(table[table["surrogate"] == "svm"]))
    assert text.endswith(".")


def test_solvers_are_joined_run_by_run():
    table = faithfulness(NAMES[:2], KERNELS[:2], runs=4)
    table = table[table["population"] == NAMES[1]]
    # A run on which one solver was not tried leaves the others where they stand.
    lost = (table["run"] == 0) & (table["surrogate"] == "svm")
    figure = surrogates.solvers_figure(table[~lost])
    tau = figure.axes[0]
    rows = table[~lost & (table["kernel"] == "trNTK") & (table["metric"] == "kendall_tau")]
    joined = lines(tau, "_run")
    assert len(joined) == 4
    points = dict.fromkeys(range(3))
    for i, (solver, line) in enumerate(
        zip(("glm", "sgd", "svm"), lines(tau, "_runs"), strict=True)
    ):
        part = rows[rows["surrogate"] == solver]
        assert np.allclose(line.get_ydata(), part["value"])
        points[i] = dict(zip(part["run"], zip(*line.get_data(), strict=True), strict=True))
    for run, line in enumerate(joined):
        for i, (x, y) in enumerate(zip(*line.get_data(), strict=True)):
            if (run, i) == (0, 2):
                assert np.isnan(y)
            else:
                assert (x, y) == pytest.approx(points[i][run])
    assert legend(figure)[-1] == "one run" and len(legend(figure)) == 4
    assert "CK" in words(surrogates.solvers_figure(table, kernel="CK"))[0]


def test_published_marks_what_lies_over_two_standard_errors_apart():
    row = {"population": "p", "surrogate": "glm", "metric": "tad", "runs": 9, "mean": 0.01}
    table = pd.DataFrame(
        [
            row
            | {"kernel": kernel, "standard_error": ours}
            | {"published": published, "published_error": theirs}
            for kernel, published, ours, theirs in (
                ("CK", 0.06, 0.003, 0.004),  # five points apart, error .5 points
                ("pNTK", 0.019, 0.003, 0.004),  # 1.8 errors
                ("trNTK", 0.022, 0.004, np.nan),  # 3 of the one error that is known
                ("Em", 0.5, np.nan, np.nan),  # no error, no judgement
                ("trNTK0", np.nan, 0.003, np.nan),  # not published
            )
        ]
    )  # fmt: skip
    figure = surrogates.published_figure(table)
    (axes,) = figure.axes
    assert axes.get_xlabel() == "TAD (percentage points)"
    ticks = [label.get_text() for label in axes.get_yticklabels()]
    assert ticks == ["p, trNTK", "p, pNTK", "p, CK", "p, Em"]
    assert {text.get_text() for text in axes.texts} == {"10.0 SE", "(3.0 SE)"}
    ours = [float(line.get_xdata()[0]) for line in lines(axes, "_ours")]
    assert ours == pytest.approx([1.0] * 4)
    theirs = {
        round(float(line.get_ydata()[0])): float(line.get_xdata()[0])
        for line in lines(axes, "_published")
    }
    assert theirs == pytest.approx({0: 2.2, 1: 1.9, 2: 6.0, 3: 50.0})
    errors = [line.get_xdata() for line in lines(axes, "_error")]
    assert any(np.allclose(ends, [0.7, 1.3]) for ends in errors)
    # The published surrogates are of the solver sgd: where it was fitted, it is drawn alone.
    both = pd.concat([table, table.assign(surrogate="sgd", mean=0.02)])
    figure = surrogates.published_figure(both)
    ours = [float(line.get_xdata()[0]) for line in lines(figure.axes[0], "_ours")]
    assert ours == pytest.approx([2.0] * 4)
    assert "here (sgd), ± standard error" in legend(figure)


# -- scores --------------------------------------------------------------------------------------


def test_scatter_shows_the_first_run_and_its_tau():
    table = scores(NAMES[:3])
    figure = scatter(table)
    for axes, name in zip(figure.axes, NAMES, strict=False):
        part = table[(table["population"] == name) & (table["run"] == 3)]
        concordant = np.sign(
            np.subtract.outer(part["network"].to_numpy(), part["network"].to_numpy())
            * np.subtract.outer(part["surrogate"].to_numpy(), part["surrogate"].to_numpy())
        )
        # Without ties Kendall's τ is the mean sign over pairs.
        tau = concordant.sum() / (len(part) * (len(part) - 1))
        assert axes.get_title() == f"{style.plain(name)}, run 3\nτ = {tau:.3f}"
        for label, rows in part.groupby("label"):
            (line,) = lines(axes, f"class {label}")
            assert np.array_equal(line.get_xdata(), rows["network"])
            assert np.array_equal(line.get_ydata(), rows["surrogate"])
    labels = [axes.get_xlabel() for axes in figure.axes]
    assert labels[0] == "network: P(class 1)" and "correct class" in labels[2]
    assert len(legend(figure)) == 10


def test_scatter_on_logits_by_correctness():
    table = scores(NAMES[:1])
    table.loc[[0, 1], "network"] = [0.0, 1.0]
    table.loc[2, "surrogate"] = np.nan
    figure = scatter(table, logit=True, colour="right")
    (axes,) = (axes for axes in figure.axes if axes.get_visible())
    assert axes.get_xscale() == axes.get_yscale() == "logit"
    part = table[table["run"] == 3].dropna()
    right = (part["network"] > 0.5) == (part["label"] == 1)
    (line,) = lines(axes, "network gives the label more than ½")
    assert np.allclose(line.get_xdata(), part["network"][right].clip(1e-5, 1 - 1e-5))
    (line,) = lines(axes, "at most ½")
    assert len(line.get_xdata()) == (~right).sum()
    with pytest.raises(ValueError, match="'class' or 'right'"):
        scatter(table, colour="kernel")
    (text,) = words(scatter(table, kernel="CK"))
    assert "CK" in text
    # One value for all points: no order to compare.
    figure = scatter(table.assign(network=0.3))
    assert "τ undefined" in figure.axes[0].get_title()


# -- attributions --------------------------------------------------------------------------------


def test_attributions_are_boxes_of_their_quantiles():
    table = attribution(NAMES[:2], classes=3, train=300)
    figure = surrogates.attribution_classes_figure(table, population=NAMES[1], points=2)
    assert [axes.get_title() for axes in figure.axes] == [
        "test point 10: predicted 0", "test point 11: predicted 1",
        "test point 13: predicted 1, label 0", "test point 14: predicted 2, label 1",
    ]  # fmt: skip
    axes = figure.axes[2]
    part = table[(table["population"] == NAMES[1]) & (table["point"] == 13)]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0\n★", "1\n▲", "2\n"]
    of_class = part.groupby("train_label")["attribution"]
    medians = [line.get_ydata()[0] for line in axes.lines[:3]]
    assert medians == pytest.approx(of_class.median().tolist())
    # About a hundred points a class: halves, quarters and eighths of each tail.
    stacks = [c for c in axes.collections if isinstance(c, PatchCollection)]
    expected = of_class.quantile([1 / 16, 1 / 8, 1 / 4, 3 / 4, 7 / 8, 15 / 16]).unstack()
    for boxes, (_, ends) in zip(stacks, expected.iterrows(), strict=True):
        seen = np.unique(np.round([box.vertices[:, 1] for box in boxes.get_paths()], 12))
        assert np.allclose(seen, ends)
    sums = part.groupby("train_label")["attribution"].sum()
    texts = [float(text.get_text().replace("−", "-")) for text in axes.texts]
    # Numbers are rounded to a tenth at the coarsest.
    assert texts == pytest.approx(sums.tolist(), abs=0.051)
    # Boxes and points together hold all the values' range.
    points = [c for c in axes.collections if isinstance(c, PathCollection)]
    beyond = np.concatenate([c.get_offsets()[:, 1] for c in points])
    assert beyond.max() == part["attribution"].max() and beyond.min() == part["attribution"].min()
    low, high = axes.get_ylim()
    assert low < beyond.min() and beyond.max() < high


def test_attributions_without_mistakes_or_spread_are_said_and_drawn():
    table = attribution(NAMES[:1], train=40)
    right = table[table["role"] == "right"]
    figure = surrogates.attribution_classes_figure(right, points=4)
    assert words(figure).count("no wrong predictions") == 4
    assert words(figure).count("no further right predictions") == 1
    # All zero, or missing: a plain scale.
    zero = right.assign(attribution=0.0)
    zero.loc[zero.index[:3], "attribution"] = np.nan
    figure = surrogates.attribution_classes_figure(zero)
    assert figure.axes[0].get_yscale() == "linear"
    assert "0.000" in words(figure)


def test_strongest_shows_images_of_the_dataset_of_each_row():
    table = strongest(NAMES[:2])
    figure = surrogates.strongest_figure(table, DATASETS, points=1, each=3)
    (axes,) = figure.axes
    # Two populations, right and wrong: a test image and twice three training images each.
    assert len(axes.images) == 2 * 2 * (1 + 2 * 3)
    shapes = [image.get_array().shape for image in axes.images]
    assert shapes[0] == (28, 28) and shapes[-1] == (32, 32, 3)
    first = table[(table["run"] == 0) & (table["population"] == NAMES[0]) & (table["point"] == 0)]
    neighbours = first[(first["sign"] == "supporting") & (first["rank"] <= 3)]["train_point"]
    drawn = [image.get_array() for image in axes.images[:4]]
    assert np.array_equal(drawn[0], DATASETS[0].test_images[0, 0])
    for image, point in zip(drawn[1:], neighbours, strict=True):
        assert np.array_equal(image, DATASETS[0].train_images[point, 0])
    text = "\n".join(words(figure))
    assert "+0.3" in text and "−0.1" in text and "predicted T-shirt/top" in text
    # Poisoned training points carry a corner: as many as are among those drawn.
    corners = [patch for patch in axes.patches if isinstance(patch, plt.Polygon)]
    chosen = table[(table["run"] == 0) & table["point"].isin([0, 3]) & (table["rank"] <= 3)]
    assert len(corners) == (chosen["train_point"] % 7 == 0).sum() > 0


def test_strongest_needs_the_datasets_that_it_names():
    table = strongest(NAMES[:2])
    with pytest.raises(ValueError, match=f"{COLOUR}.*{GREY}"):
        surrogates.strongest_figure(table, DATASETS[:1])
    # Networks that see no images have no dataset.
    text = table.assign(dataset=table["dataset"].where(table["population"] == NAMES[0]))
    figure = surrogates.strongest_figure(text, DATASETS[:1])
    assert style.plain(NAMES[1]) not in "\n".join(words(figure))
    right = text[text["role"] == "right"]
    figure = surrogates.strongest_figure(right, DATASETS, populations=NAMES[:1])
    assert "no wrong predictions" in words(figure)


# -- agreement -----------------------------------------------------------------------------------


def test_agreement_draws_distributions_and_medians_of_pairs():
    table = agreement(pairs=3, points=80)
    table.loc[:2, "correlation"] = np.nan
    figure = surrogates.agreement_figure(table)
    (left, right), (left_within, right_within) = np.reshape(figure.axes, (2, 2))
    known = table.dropna(subset=["correlation"])
    for line in left.lines:
        relation = line.get_label().split(",")[0]
        same = "same prediction" in line.get_label()
        chosen = (known["relation"] == relation) & (known["same_prediction"] == same)
        values = known[chosen]["correlation"]
        x, y = line.get_data()
        assert line.get_label().endswith(f"(n = {len(values)})")
        assert y[0] == 0.0 and len(y) == len(values) + 1
        assert np.allclose(y[1:], [(values <= end).mean() for end in x[1:]])
    assert len(left.lines) == 8
    # The second row is of the same points within labels.
    for above, below in zip(left.lines, left_within.lines, strict=True):
        assert np.allclose(above.get_xdata() - 0.4, below.get_xdata())
        assert above.get_label() == below.get_label()
    for above, below in zip(right.lines, right_within.lines, strict=True):
        assert np.allclose(above.get_ydata() - 0.4, below.get_ydata())
    pairs = known.groupby(["relation", "run_a"])
    medians, shares = pairs["correlation"].median(), pairs["same_prediction"].mean()
    for line in right.lines:
        relation = line.get_label().split(" (")[0]
        assert np.allclose(line.get_ydata(), medians[relation])
        assert np.allclose(line.get_xdata(), 100 * shares[relation])
        assert line.get_label() == f"{relation} (3 pairs)"
    assert right_within.get_xlabel() == "test points with the same prediction (%)"


def test_distributions_of_many_values_keep_their_ends():
    table = agreement(pairs=1, points=5000, relations=("other recipe",))
    table["same_prediction"] = True
    line = surrogates.agreement_figure(table).axes[0].lines[0]
    x, y = line.get_data()
    assert len(x) == 601 and x[0] == table["correlation"].min()
    assert x[-1] == table["correlation"].max() and y[-1] == 1.0
    shares = [(table["correlation"] <= end).mean() for end in x[1:]]
    assert np.allclose(y[1:], shares)


# -- poison --------------------------------------------------------------------------------------


def test_poison_draws_every_image_chance_and_who_was_fooled():
    table = poison(NAMES[:2], ("CK", "trNTK"), images=12)
    # A kernel on which recall is missing draws precision alone.
    table.loc[table["kernel"] == "CK", "recall"] = np.nan
    figure = surrogates.poison_figure(table)
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert len(panels) == 4
    axes = panels[1]
    part = table[(table["trigger"] == "patch") & (table["fraction"] == 0.01)]
    fooled = part.drop_duplicates("point")["fooled"].sum()
    assert axes.get_title() == (
        f"{style.plain(NAMES[1])}\npatch, 1 % poisoned\nfooled in {fooled} of 12 cases"
    )
    drawn = {
        column: np.concatenate(
            [
                line.get_ydata()
                for fill in ("full", "none")
                for line in lines(axes, f"_{column} {fill}")
            ]
        )
        for column in ("precision", "recall")
    }  # fmt: skip
    for column, values in drawn.items():
        assert np.allclose(np.sort(values), np.sort(part[column].dropna()))
    hollow = sum(len(line.get_ydata()) for line in lines(axes, "_precision none"))
    assert hollow == (~part["fooled"]).sum()
    # Blindly 2k points of N hold twice the share of the poisoned ones.
    baselines = {
        name: lines(axes, f"_{name}")[0].get_ydata()[0]
        for name in ("chance", "chance_at_2k", "precision_by_label", "recall_by_label")
    }
    assert list(baselines.values()) == pytest.approx([0.01, 0.02, 0.05, 0.1 / 1.09])
    means = [line.get_ydata()[0] for line in lines(axes, "_mean")]
    fooling = part[part["fooled"]]
    assert means[0] == pytest.approx(fooling[fooling["kernel"] == "trNTK"]["precision"].mean())
    assert len(means) == 3
    assert "precision at k" in legend(figure) and "recall at 2k, by chance" in legend(figure)
    assert "recall at 2k, by the predicted label alone" in legend(figure)
    # Where no image fools the network there is nothing to take the mean of.
    panel = surrogates.poison_figure(table.assign(fooled=False)).axes[0]
    assert not lines(panel, "_mean") and len(lines(panel, "_precision none")) > 0


def test_poison_curves_are_the_tables():
    table = poison_curves(NAMES[:2], ("Em", "trNTK0"))
    table.loc[3, "precision"] = np.nan
    shuffled = table.sample(frac=1.0, random_state=0)
    figure = surrogates.poison_curves_figure(shuffled)
    titles = [axes.get_title() for axes in figure.axes]
    suffix = "\nfooled in 20 of 30 cases"
    assert sorted(titles) == sorted(style.plain(name) + suffix for name in NAMES[:2])
    axes = figure.axes[titles.index(style.plain(NAMES[0]) + suffix)]
    part = table[(table["population"] == NAMES[0]) & (table["kernel"] == "Em")].dropna()
    part = part[part["fooled"]]
    (by_label,) = lines(axes, "by the predicted label alone")
    assert np.allclose(by_label.get_ydata(), 0.5) and len(by_label.get_xdata()) == 51
    (line,) = lines(axes, "Em")
    assert np.array_equal(line.get_xdata(), part["recall"])
    assert np.array_equal(line.get_ydata(), part["precision"])
    assert np.array_equal(lines(axes, "_lower")[1].get_ydata(), part["lower"])
    assert len(axes.collections) == 2
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("recall", "precision")
    assert legend(figure) == ["trNTK⁰", "Em", "by the predicted label alone"]
    # Where no image fools the network, the title says so, and nothing is drawn.
    figure = surrogates.poison_curves_figure(table[~table["fooled"]])
    assert figure.axes[0].get_title().endswith("fooled in 0 of 10 cases")
    assert not any(len(line.get_xdata()) for line in figure.axes[0].lines)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: surrogates.faithfulness_figure(faithfulness(NAMES[:1], ("Em",))),
        lambda: surrogates.solvers_figure(faithfulness(NAMES[:1], ("trNTK",), ("glm",))),
        lambda: surrogates.published_figure(summary(NAMES[:1], ("CK",))),
        lambda: scatter(scores(NAMES[:1])),
        lambda: surrogates.attribution_classes_figure(attribution(NAMES[:1], 2, 30), points=1),
        lambda: surrogates.strongest_figure(strongest(NAMES[:1], 1, 1), DATASETS),
        lambda: surrogates.agreement_figure(agreement(1, 9, RELATIONS[1:2])),
        lambda: surrogates.poison_figure(poison(NAMES[:1], ("Em",), ("patch",), 1)),
        lambda: surrogates.poison_curves_figure(poison_curves(NAMES[:1], ("my_kernel$",))),
    ],
)
def test_one_population_and_one_kernel_are_enough(draw, tmp_path):
    style.save(draw(), tmp_path / "one.png")
    assert (tmp_path / "one.png").stat().st_size > 5000


def test_figures_need_no_torch():
    # The environment that draws figures has none.
    code = "import sys, model_metrology.plots.surrogates; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
