"""Tables for people: self-contained HTML pages of what a study measured, and of its claims."""

from __future__ import annotations

import html
from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

from model_metrology.plots.methods import CONTROLS, Method, known_rows, methods_of, sources_of

_STYLE = """
body { font: 14px/1.5 system-ui, sans-serif; margin: 2em; color: #222; max-width: 75em }
h2 { font-size: 1.15em; margin: 1.6em 0 .4em }
table { border-collapse: collapse }
th, td { padding: .25em .7em; border-bottom: 1px solid #ddd; text-align: right }
th { border-bottom: 2px solid #888; font-weight: 600; vertical-align: bottom }
th:first-child, td:first-child, .text td:nth-child(2), .text th:nth-child(2) { text-align: left }
.words td, .words th { text-align: left; vertical-align: top }
p { max-width: 55em }
"""

_HEADINGS = {
    "population": "population",
    "runs": "runs",
    "excluded": "left out",
    "accuracy": "accuracy, %",
    "accuracy_sd": "sd, %",
    "accuracy_sd_expected": "√(e/2n), %",
    "churn_own": "churn, %",
    "test_error": "error e, %",
    "ece": "ECE, %",
    "candidates": "candidates",
    "alpha": "α̂, median",
    "alpha_maximum": "α̂, largest over classes, median",
    "outliers": "outliers by α̂",
    "outliers_ks": "by KS",
    "alpha_own": "α̂ within the population, median",
}
_PERCENT = [
    "accuracy",
    "accuracy_sd",
    "accuracy_sd_expected",
    "test_error",
    "churn_own",
    "ece",
]
# Two tables side by side would not fit a report's page: what runs are like, and how they differ.
_QUALITY = ["population", "runs", "excluded", *_PERCENT]
_VARIABILITY = ["population", "candidates", "alpha", "alpha_maximum", "outliers"]
_VARIABILITY += ["outliers_ks", "alpha_own"]


def summary_page(
    summary: pd.DataFrame, claims: pd.DataFrame, excluded: pd.DataFrame, alpha: pd.DataFrame
) -> str:
    """Populations, claims and excluded runs as one HTML page; all text is escaped.

    Parameters
    ----------
    summary, claims, excluded, alpha
        The tables of the same names (see :mod:`model_metrology.variability.tables`).
    """
    parts = {
        "Populations": _populations(summary, _QUALITY),
        "α̂ of the candidates": _populations(summary, _VARIABILITY)
        + f"<p>{html.escape(_terms(alpha))}</p>",
        "Claims": _claims(claims),
        "Runs left out": _table(excluded, "text") if len(excluded) else "<p>None.</p>",
    }
    return _page("Populations and claims", parts)


def _page(title: str, parts: dict[str, str]) -> str:
    head = f"<title>{html.escape(title)}</title><style>{_STYLE}</style>"
    body = "\n".join(f"<h2>{html.escape(name)}</h2>\n{part}" for name, part in parts.items())
    return (
        "<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'>"
        f"{head}</head><body>{body}</body></html>"
    )


def _table(table: pd.DataFrame, kind: str = "") -> str:
    return table.to_html(index=False, border=0, na_rep="–", classes=kind, escape=True)


def _populations(summary: pd.DataFrame, columns: list[str]) -> str:
    shown = summary[columns].copy()
    for column in shown.columns:
        if column in _PERCENT:
            shown[column] = [_number(100 * value, 2) for value in shown[column]]
        elif column.startswith("alpha"):
            shown[column] = [_number(value, 3) for value in shown[column]]
    return _table(shown.rename(columns=_HEADINGS))


def _claims(claims: pd.DataFrame) -> str:
    shown = claims[["claim", "definition"]].copy()
    shown["held"] = [
        f"{held:.0f} of {of:.0f}" if pd.notna(held) else "–"
        for held, of in zip(claims["held"], claims["of"], strict=True)
    ]
    shown["share, interval"] = [
        f"{share:.2f} [{low:.2f}, {high:.2f}]" if pd.notna(share) else "–"
        for share, low, high in claims[["share", "low", "high"]].itertuples(index=False)
    ]
    shown["p"] = [_number(value, 2, "g") for value in claims["p_value"]]
    return _table(shown, "text")


def _number(value: float, digits: int, kind: str = "f") -> str:
    return "–" if pd.isna(value) else f"{value:.{digits}{kind}}"


def _terms(alpha: pd.DataFrame) -> str:
    """The terms on which the α̂ of the page may be compared."""
    pooled = alpha[alpha["scope"] == "pooled"]
    terms = pooled[["against", "law", "reference_runs", "n", "tolerance_rule", "tolerance"]]
    parts = [
        f"{row.against}: {row.law} law of {row.reference_runs} runs, n = {row.n} test points, "
        f"tolerance {row.tolerance:.4f} ({row.tolerance_rule})"
        for row in terms.drop_duplicates().itertuples()
    ]
    return (
        "α̂ compares only at equal n and tolerance. Here, by what runs are held against: "
        + "; ".join(parts)
        + ". An outlier is a candidate whose leave-one-out p-value, of α̂ or of the untrimmed KS "
        "distance, is at most the level."
    )


_SPECTRA_HEADINGS = {
    "group": "population",
    "over_edge": "largest / edge",
    "exponent": "tail exponent",
    "bulk_distance": "KS of the bulk to its start",
    "norm_change": "norm of the change",
    "alignment_teacher": "|cos| to the teacher",
    "target_alignment": "alignment of the kernel with the labels",
    "test_r2": "test R²",
}


def spectra_page(
    summary: pd.DataFrame,
    slopes: pd.DataFrame,
    claims: pd.DataFrame,
    excluded: pd.DataFrame,
    *,
    populations: list[str],
) -> str:
    """Populations of two-layer networks, slopes, claims and runs left out as one HTML page.

    Parameters
    ----------
    summary, slopes, claims
        The tables of the same names (see :mod:`model_metrology.spectra.tables`).
    excluded
        Diverged runs.
    populations
        Which groups of the summary to show; sweeps have figures.
    """
    shown = summary[summary["group"].isin(populations)].drop(columns=["alignment_labels"])
    for column in shown.select_dtypes("float").columns:
        shown[column] = [_number(value, 3, "g") for value in shown[column]]
    rates = slopes[["group", "matrix", "slope", "low", "high", "predicted", "runs"]].copy()
    for column in ("slope", "low", "high", "predicted"):
        rates[column] = [_number(value, 3) for value in rates[column]]
    lost = excluded.groupby(["group", "reason"], as_index=False).agg(run=("run", list))
    parts = {
        "Populations at the end of training": _table(
            shown.rename(columns=_SPECTRA_HEADINGS), "text"
        ),
        "Claims": _claims(claims),
        "Norms against n: slopes with 95 % intervals": _table(rates, "text"),
        "Runs that diverged": _table(lost, "text") if len(lost) else "<p>None.</p>",
    }
    return _page("Spectra of two-layer networks", parts)


_MEASURES = {
    "network_accuracy": ("accuracy, %", 100, 2),
    "tad": ("TAD, %", 100, 2),
    "kendall_tau": ("τ_K", 1, 3),
    "r_miss": ("R_Miss", 1, 2),
}
"""Measures of the tables of surrogates: heading, scale and digits."""


def surrogates_page(summary: pd.DataFrame, fits: pd.DataFrame) -> str:
    """Faithfulness of surrogates as the two tables of Engel et al. 2024, and how they were fitted.

    Parameters
    ----------
    summary, fits
        The tables of the same names (see :mod:`model_metrology.surrogates.tables`).
    """
    solved = fits.groupby(["population", "kernel", "surrogate"], sort=False, as_index=False).agg(
        runs=("run", "count"),
        l2=("l2", "median"),
        l2_at_end=("l2_at_end", "sum"),
        gradient_norm=("gradient_norm", "max"),
        iterations=("iterations", "max"),
        converged=("converged", "sum"),
        train_accuracy=("train_accuracy", "mean"),
        seconds=("seconds", "median"),
    )
    for column in ("l2", "gradient_norm", "train_accuracy", "seconds"):
        solved[column] = [_number(value, 3, "g") for value in solved[column]]
    kernels = summary["kernel"]
    main = summary[kernels == ("trNTK" if (kernels == "trNTK").any() else kernels.iloc[0])]
    parts = {
        "Networks": _faithfulness(main, ["population", "surrogate"], list(_MEASURES)),
        "Kernels": _faithfulness(
            summary, ["population", "kernel", "surrogate"], ["kendall_tau", "tad", "r_miss"]
        ),
        "Fits": _table(solved, "text"),
    }
    return _page("Faithfulness of surrogates", parts)


def _faithfulness(summary: pd.DataFrame, keys: list[str], metrics: list[str]) -> str:
    """One row for each of the keys' values, one column a measure, the published one in brackets."""
    rows: dict[tuple[object, ...], dict[str, str]] = {}
    runs: dict[tuple[object, ...], int] = {}
    for record in summary.to_dict("records"):
        if record["metric"] in metrics:
            key = tuple(record[key] for key in keys)
            heading, scale, digits = _MEASURES[str(record["metric"])]
            rows.setdefault(key, {})[heading] = _with_error(record, scale, digits)
            # A measure may be undefined for some runs, as the mistakes of one that makes none.
            runs[key] = max(runs.get(key, 0), int(record["runs"]))
    headings = [_MEASURES[metric][0] for metric in metrics]
    table = pd.DataFrame(
        [[*key, runs[key], *(row.get(h, "–") for h in headings)] for key, row in rows.items()]
    )
    table.columns = pd.Index([*keys, "runs", *headings])
    return _table(table, "text") + (
        "<p>Mean ± standard error over runs; in brackets what Engel et al. 2024 report for a "
        "network of this name, whose surrogates are fitted by stochastic gradient descent "
        "(sgd).</p>"
    )


def _with_error(record: Mapping[Hashable, Any], scale: float, digits: int) -> str:
    def number(value: str, error: str) -> str:
        shown = _number(scale * record[value], digits)
        spread = record[error]
        return shown if pd.isna(spread) else f"{shown} ± {_number(scale * spread, digits)}"

    ours = number("mean", "standard_error")
    if pd.isna(record["published"]):
        return ours
    return f"{ours} ({number('published', 'published_error')})"


def embeddings_page(
    separability: pd.DataFrame, claims: pd.DataFrame, *, titles: Mapping[str, str] | None = None
) -> str:
    """How well embedders and baselines tell sources apart, and what is claimed of them.

    Parameters
    ----------
    separability, claims
        The tables of the same names (see :mod:`model_metrology.embeddings`); either may be empty.
    titles : mapping, optional
        What is asked by each contrast, by its name.
    """
    parts = {}
    if titles:
        asked = pd.DataFrame(titles.items(), columns=["contrast", "question"])
        parts["Questions"] = _table(asked, "words")
    if len(separability):
        known = known_rows(separability, "accuracy")
        plain = known[known["control"] == ""]
        whole, pairs = (plain[plain["source_a"].eq("") == which] for which in (True, False))
        controlled = known[known["source_a"].eq("") & known["control"].ne("")]
        parts |= {
            "All sources of a contrast at once: held-out accuracy": _separability(
                whole.assign(sources=[", ".join(sources_of(known, n)) for n in whole["contrast"]]),
                ["contrast", "sources", "n", "groups", "chance"],
                "accuracy",
            ),
            "Two sources at a time: held-out AUROC": _separability(
                pairs.assign(sources=pairs["source_a"] + " – " + pairs["source_b"]),
                ["contrast", "sources", "n"],
                "auroc",
            ),
            "With something taken away: held-out accuracy": _separability(
                controlled.assign(taken=controlled["control"].replace(CONTROLS)),
                ["contrast", "taken", "chance"],
                "accuracy",
            ),
            "Layers chosen": _chosen(whole),
        }
    parts["Claims"] = _table(claims, "words") if len(claims) else "<p>None.</p>"
    return _page("Embeddings: told apart, and claims", parts)


def _separability(rows: pd.DataFrame, keys: list[str], measure: str) -> str:
    """One row for each of the keys' values, one column a method."""
    rows = rows.dropna(subset=[measure])
    if rows.empty:
        return "<p>None.</p>"
    rows = rows.assign(chance=[_number(chance, 2) for chance in rows["chance"]])
    table = rows[keys].drop_duplicates().set_index(keys, drop=False)
    highest = rows.loc[rows.groupby(keys, sort=False)[measure].idxmax()].set_index(keys)
    for method in methods_of(rows):
        cells = {
            tuple(row[key] for key in keys): _estimate(row, measure)
            for row in method.rows(rows).to_dict("records")
        }
        table[_heading(method)] = [cells.get(key, "–") for key in table.index]
    table["highest"] = [_heading(_method(highest.loc[key])) for key in table.index]
    return _table(table, "text") + (
        "<p>In brackets the 95 % interval over groups; p is that of a permutation test of the "
        "AUROC. Read an embedder beside length, n-grams and words: what these do as well, the "
        "embedding does not add.</p>"
    )


def _method(row: pd.Series) -> Method:
    return Method(str(row["embedder"]), str(row["choice"]))


def _heading(method: Method) -> str:
    return ", ".join(filter(None, (method.embedder, method.layer)))


def _estimate(row: Mapping[Hashable, Any], measure: str) -> str:
    value, low, high = (
        _number(row[name], 2) for name in (measure, f"{measure}_lower", f"{measure}_upper")
    )
    # Columns are narrow: lines break between value, interval and p, and nowhere else.
    return f"{value} [{low},\u00a0{high}] p\u00a0{_number(row['p_value'], 2, 'g')}"


def _chosen(whole: pd.DataFrame) -> str:
    """Views that were chosen for each embedder, in how many folds each."""
    rows = whole[(whole["choice"] == "chosen") & whole["chosen"].ne("")]
    shown = rows[["contrast", "embedder", "chosen"]]
    if shown.empty:
        return "<p>No embedder showed more than one view.</p>"
    return _table(shown.rename(columns={"chosen": "views, by folds"}), "text")
