"""One page with the items of every contrast, to point at: self-contained HTML, drawn by Vega.

The page carries Vega and its data, both compressed, and fetches nothing. A report shows it in a
frame whose address is the page itself, in base64; Chrome opens none of over 2 MiB, so that pages
are kept smaller: of contrasts of many items only some are shown where all would be too much.
"""

from __future__ import annotations

import base64
import gzip
import html
import json
from typing import Any

import numpy as np
import pandas as pd
import vl_convert

from model_metrology.plots import style
from model_metrology.plots.methods import CHOICES, known_rows

__all__ = ["interactive_page"]

_LARGEST = 1_500_000
"""Bytes of a page; in base64 these are 2,000,000."""
_MOST_ITEMS = 1200
"""Items of a contrast that a screen shows apart."""
# Signs as Vega names them.
_SHAPES = (
    "circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right",
    "triangle-left",
)  # fmt: skip
_AXES = {
    "pc1": "PC 1", "pc2": "PC 2", "pc3": "PC 3", "lda1": "discriminant 1", "lda2": "discriminant 2",
}  # fmt: skip
_VEGA_LITE = "6.4"


def interactive_page(projections: pd.DataFrame, *, title: str = "Every item, to point at") -> str:
    """Scatter of items with their texts: choose contrast, embedder and axes; one HTML page.

    Parameters
    ----------
    projections : DataFrame
        The table of this name: a row an item, contrast, embedder and choice of the layer.
    title : str
        Heading of the page.

    Returns
    -------
    str
        HTML of at most 1.5 MB, which needs no network.
    """
    known = projections if projections.empty else known_rows(projections, "pc1", "pc2")
    if known.empty:
        return _page(title, "<p>There are no items to show.</p>")
    library = _packed(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed", _VEGA_LITE))
    most = _MOST_ITEMS
    while True:
        page = _page(title, _BODY, library=library, data=_packed(_data(known, most)))
        if len(page) <= _LARGEST or most < 20:
            return page
        most //= 2


def _page(title: str, body: str, **packed: str) -> str:
    scripts = [
        f'<script id="{key}" type="text/plain">{text}</script>' for key, text in packed.items()
    ]
    if packed:
        scripts.append(f"<script>{_SCRIPT}</script>")
    return (
        "<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'>"
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body><h1>{html.escape(title)}</h1>{body}{''.join(scripts)}</body></html>"
    )


def _packed(text: str) -> str:
    """Compressed, in letters that mean nothing in HTML."""
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _data(known: pd.DataFrame, most: int) -> str:
    """What the page's script draws, as JSON."""
    contrasts = [
        _contrast(name, known[known["contrast"] == name], most)
        for name in style.order(known["contrast"])
    ]
    looks = {"axes": _AXES, "colours": style.COLOURS, "shapes": _SHAPES}
    return json.dumps({"contrasts": contrasts, **looks}, ensure_ascii=False, allow_nan=False)


def _contrast(name: str, rows: pd.DataFrame, most: int) -> dict[str, Any]:
    """A contrast's items, in words, and where each view puts them."""
    words = [rows[key].fillna("").astype(str) for key in ("source", "group", "excerpt")]
    labels = [_labels(text) for text in rows["labels"].fillna("").astype(str)]
    items = list(zip(*words[:2], labels, words[2], strict=True))
    distinct = list(dict.fromkeys(items))
    # Evenly from first to last, as sources stand one after another.
    chosen = np.unique(np.linspace(0, len(distinct) - 1, min(most, len(distinct))).astype(int))
    place = {distinct[k]: i for i, k in enumerate(chosen)}
    at = np.array([place.get(item, -1) for item in items])
    views = []
    keys = rows[["embedder", "choice", "view"]]
    for embedder, choice, view in keys.drop_duplicates().itertuples(index=False, name=None):
        here = (keys == [embedder, choice, view]).all(axis=1).to_numpy() & (at >= 0)
        part = rows[here]
        views.append(
            {
                "embedder": embedder,
                "name": ", ".join(filter(None, (CHOICES.get(choice, choice), view))),
                "item": at[here].tolist(),
                "at": {axis: _rounded(part[axis]) for axis in _AXES if part[axis].notna().any()},
            }
        )
    return {
        "name": name,
        "count": len(distinct),
        "sources": style.order(rows["source"]),
        "items": list(place),
        "views": views,
    }


def _labels(text: str) -> str:
    """Labels of an item in words; they come as JSON."""
    known = json.loads(text) if text else {}
    return ", ".join(f"{name}: {value}" for name, value in known.items() if value)


def _rounded(values: pd.Series) -> list[float | None]:
    """Four digits of the largest: finer than a screen, and short."""
    known = values.to_numpy(dtype=float)
    largest = float(np.nanmax(np.abs(known)))
    digits = 3 - int(np.floor(np.log10(largest))) if largest > 0 else 0
    return [round(float(value), digits) if np.isfinite(value) else None for value in known]


_STYLE = """
body { font: 14px/1.5 system-ui, sans-serif; margin: 1em 1.5em; color: #222 }
h1 { font-size: 1.2em; margin: 0 0 .4em }
label { margin-right: 1.2em; white-space: nowrap }
select { font: inherit; max-width: 24em }
p { color: #555; margin: .2em 0 .6em }
#plot { width: 100%; height: calc(100vh - 11em); min-height: 420px }
#vg-tooltip-element { max-width: 36em }
#vg-tooltip-element table tr td.value {
  max-width: 30em; max-height: none; overflow-wrap: anywhere; white-space: normal
}
"""

_BODY = """
<div>
<label>contrast <select id="contrast"></select></label>
<label>embedder <select id="embedder"></select></label>
<label>view <select id="view"></select></label>
<label>axes <select id="axes"></select></label>
</div>
<p>Point at an item to read its beginning. Drag to move, turn the wheel to zoom, double-click to see
all. Click sources in the legend to see these alone. <span id="count"></span></p>
<div id="plot"></div>
"""

_SCRIPT = """
"use strict";
const element = name => document.getElementById(name);
let page;

async function unpack(name) {
  const bytes = Uint8Array.from(atob(element(name).textContent), c => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

/* Options of a drop-down; what was chosen stays so where it still is among them. */
function fill(name, words) {
  const before = element(name).selectedOptions[0]?.text;
  element(name).replaceChildren(...words.map((text, i) => new Option(text, i)));
  element(name).value = Math.max(words.indexOf(before), 0);
}

const contrast = () => page.contrasts[element("contrast").value];
const embedders = () => [...new Set(contrast().views.map(view => view.embedder))];
const views = () => contrast().views.filter(
  view => view.embedder === embedders()[element("embedder").value]);
const view = () => views()[element("view").value];

/* Pairs of axes that a view has; one discriminant stands beside the first component. */
function pairs() {
  const has = axis => axis in view().at;
  const known = [["pc1", "pc2"], ["pc1", "pc3"], ["pc2", "pc3"], ["lda1", "lda2"]].filter(
    pair => pair.every(has));
  return has("lda1") && !has("lda2") ? [...known, ["lda1", "pc1"]] : known;
}

function items([x, y]) {
  return view().item.map((item, k) => {
    const [source, group, labels, text] = contrast().items[item];
    return {x: view().at[x][k], y: view().at[y][k], source, group, labels, text};
  }).filter(each => each.x !== null && each.y !== null);
}

function draw() {
  const pair = pairs()[element("axes").value], values = items(pair), {sources} = contrast();
  const cycle = (all, shift) => sources.map(
    (_, i) => all[(i + shift * Math.floor(i / all.length)) % all.length]);
  const axis = (field, name) => (
    {field, type: "quantitative", title: page.axes[name], scale: {zero: false}});
  const by = range => (
    {field: "source", type: "nominal", scale: {domain: sources, range},
     legend: {title: null, orient: "top", labelLimit: 300, symbolOpacity: 1, columns: 6}});
  const total = contrast().count;
  element("count").textContent =
    `${values.length} of ${total} items are shown.`;
  return vegaEmbed("#plot", {
    data: {values}, width: "container", height: "container",
    params: [
      {name: "zoom", select: "interval", bind: "scales"},
      {name: "shown", select: {type: "point", fields: ["source"], toggle: "true"}, bind: "legend"},
    ],
    mark: {type: "point", filled: true, size: 50},
    encoding: {
      x: axis("x", pair[0]), y: axis("y", pair[1]),
      color: by(cycle(page.colours, 0)), shape: by(cycle(page.shapes, 1)),
      opacity: {condition: {param: "shown", value: 0.7}, value: 0.03},
      tooltip: ["source", "group", "labels", "text"].filter(
        name => values.some(each => each[name])).map(field => ({field, type: "nominal"})),
    },
    config: {axis: {labelFontSize: 12, titleFontSize: 13}, legend: {labelFontSize: 12}},
  }, {mode: "vega-lite", actions: false, renderer: "svg"});
}

function refresh() {
  fill("embedder", embedders());
  fill("view", views().map(each => each.name));
  fill("axes", pairs().map(pair => pair.map(name => page.axes[name]).join(", ")));
  return draw();
}

async function start() {
  const library = document.createElement("script");
  library.textContent = await unpack("library");
  document.head.append(library);
  page = JSON.parse(await unpack("data"));
  fill("contrast", page.contrasts.map(each => each.name));
  for (const name of ["contrast", "embedder", "view", "axes"])
    element(name).addEventListener("change", refresh);
  await refresh();
}

start();
"""
