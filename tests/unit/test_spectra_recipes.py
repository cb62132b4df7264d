"""What is trained for the spectra: sizes, sweeps, groups of runs; and a study's cross-checks."""

import copy
import json

import pytest
from pydantic import ValidationError

from model_metrology.recipes import block_runs
from model_metrology.spectra.recipes import Group, Sweep, WidthPopulation
from model_metrology.study import StudyError, load_study


def population(**parts):
    return WidthPopulation.model_validate(parts)


def refused(match, **parts):
    with pytest.raises(ValidationError, match=match):
        population(**parts)


# -- sizes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("points", "per_dimension", "per_width", "dimension", "width"),
    [
        (600, 2.0, 1.5, 300, 450),
        (600, 0.5, 0.5, 1200, 600),
        (90, 1.2, 0.04, 75, 3),
        (4, 2.0, 0.5, 2, 1),  # the smallest
        (7, 0.1, 10 / 7, 70, 100),
        (1200, 1 / 3, 1 / 3, 3600, 1200),
    ],
)
def test_sizes_follow_from_the_ratios(points, per_dimension, per_width, dimension, width):
    of = population(
        data={"points": points, "points_per_dimension": per_dimension},
        network={"width_per_dimension": per_width},
    )
    assert (of.data.dimension, of.width) == (dimension, width)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ({"points": 601}, r"data\.points_per_dimension: the dimension d comes out as 300\.5"),
        ({"points": 600, "points_per_dimension": 0.6667}, "comes out as 899.955.*must be whole"),
        ({"points": 6, "points_per_dimension": 6}, "comes out as 1, .* at least 2; change the"),
        ({"points": 6, "points_per_dimension": 60}, "comes out as 0.1"),
        ({"points": 1}, r"data\.points\n.*greater than or equal to 2"),
        ({"points_per_dimension": 0}, "greater than 0"),
        ({"points": 20, "directions": 11}, "data.directions: 11 orthogonal.*take at most 10"),
        ({"directions": 0}, "greater than or equal to 1"),
        ({"noise": -0.1}, "greater than or equal to 0"),
        ({"label_scale": 0}, "greater than 0"),
        ({"link": "gelu"}, "data.link"),
        ({"beta": 1}, "Extra inputs are not permitted"),
    ],
)
def test_data_that_cannot_be_are_refused(data, match):
    refused(match, data=data)


def test_width_must_be_whole():
    refused(
        r"network\.width_per_dimension: the width h comes out as 450\.3",
        network={"width_per_dimension": 1.501},
    )
    refused("comes out as 0.3, .* at least 1", network={"width_per_dimension": 0.001})
    refused("greater than 0", network={"width_per_dimension": 0})


def test_as_many_directions_as_dimensions():
    assert population(data={"points": 20, "directions": 10}).data.directions == 10


@pytest.mark.parametrize(
    ("recipe", "match"),
    [
        ({"optimiser": "gd", "batch_size": 32}, r"recipe\.batch_size: gd takes all.*take sgd"),
        ({"optimiser": "sgd", "batch_size": 601}, "601 is more than the 600 training points"),
        ({"optimiser": "adam", "momentum": 0.9}, "recipe.momentum: it is for sgd, not for adam"),
        ({"optimiser": "gd", "momentum": 0.9}, "recipe.momentum: it is for sgd, not for gd"),
        ({"optimiser": "rmsprop", "momentum": 0.9}, "it is for sgd, not for rmsprop"),
        ({"optimiser": "sgd", "momentum": 1.0}, "less than 1"),
        ({"learning_rate": 0}, "greater than 0"),
        ({"steps": 0}, "greater than or equal to 1"),
        ({"optimiser": "adamw"}, "recipe.optimiser"),
    ],
)
def test_recipes_that_cannot_be_are_refused(recipe, match):
    refused(match, recipe=recipe)


@pytest.mark.parametrize("optimiser", ["sgd", "adam", "rmsprop"])
def test_a_batch_of_all_points_is_allowed(optimiser):
    recipe = population(recipe={"optimiser": optimiser, "batch_size": 600}).recipe
    assert recipe.batch_size == 600


@pytest.mark.parametrize(
    ("snapshots", "recorded"),
    [([], [0, 10]), ([3, 1, 3], [0, 1, 3, 10]), ([10, 11, 400], [0, 10]), ([9], [0, 9, 10])],
)
def test_recorded_steps_hold_both_ends_in_order(snapshots, recorded):
    assert population(recipe={"steps": 10}, snapshots=snapshots).recorded == recorded


# -- sweeps ------------------------------------------------------------------------------------

BASE = population(data={"points": 40}, recipe={"steps": 5}, snapshots=[1, 2], size=3)


def sweep(over, **options):
    return Sweep(population="base", over=over, **options)


def test_cells_are_the_product_in_order():
    of = sweep({"recipe.learning_rate": [1, 2], "data.label_scale": [0.5, 1, 3]})
    assert of.cells() == [
        {"recipe.learning_rate": rate, "data.label_scale": scale}
        for rate in (1, 2)
        for scale in (0.5, 1, 3)
    ]
    assert of.varied() == {"recipe.learning_rate", "data.label_scale"}


def test_joined_keys_vary_together():
    of = sweep({"data.points, recipe.steps": [[40, 3], [80, 6]], "network.trained": ["both"]})
    assert of.varied() == {"data.points", "recipe.steps", "network.trained"}
    found = [(p.data.points, p.recipe.steps, p.network.trained) for p in of.populations(BASE)]
    assert found == [(40, 3, "both"), (80, 6, "both")]


def test_cells_change_their_keys_and_no_other():
    for cell, found in zip(
        sweep({"recipe.learning_rate": [1.0, 2.0]}).cells(),
        sweep({"recipe.learning_rate": [1.0, 2.0]}).populations(BASE),
        strict=True,
    ):
        expected = BASE.model_dump()
        expected["recipe"] |= {"learning_rate": cell["recipe.learning_rate"]}
        expected["snapshots"] = []
        assert found.model_dump() == expected


def test_the_base_is_left_as_it_was():
    before = BASE.model_dump()
    sweep({"data.points": [80]}).populations(BASE)
    assert BASE.model_dump() == before and BASE.snapshots == [1, 2]


@pytest.mark.parametrize(
    ("over", "match"),
    [
        ({"data.points, recipe.steps": [40]}, "each entry must be a list of 2 values"),
        ({"data.points, recipe.steps": [[40]]}, "each entry must be a list of 2 values"),
        ({"data.points, recipe.steps": [[40, 1, 2]]}, "each entry must be a list of 2 values"),
        ({"data.pionts": [40]}, "over.data.pionts: there is no such key to vary"),
        ({"dat.points": [40]}, "over.dat.points: there is no such key to vary"),
        ({"points": [40]}, "over.points: there is no such key to vary"),
        # Keys below one that has nothing below it.
        ({"data.points.x": [40]}, "over.data.points.x: there is no such key"),
        ({"recipe.batch_size.x": [40]}, "over.recipe.batch_size.x: there is no such key"),
        ({"recipe.batch_size.x.y": [40]}, "over.recipe.batch_size.x.y: there is no such key"),
        ({"data.points": [41]}, "data.points_per_dimension: the dimension d"),
        ({"recipe.learning_rate": [-1]}, "greater than 0"),
    ],
)
def test_sweeps_that_cannot_be_are_refused(over, match):
    with pytest.raises(ValueError, match=match):
        sweep(over).populations(BASE)


def test_a_sweep_without_values_is_refused():
    # Its product is empty: nothing would be trained, and no run could be told what it is.
    with pytest.raises(ValueError, match=r"data\.points"):
        sweep({"data.points": []}).populations(BASE)
    with pytest.raises(ValidationError, match="at least 1"):
        sweep({})


@pytest.mark.parametrize(
    ("key", "values"),
    [("size", [1, 2]), ("varies", [["init"], ["data"]]), ("runs_per_job", [1, 2])],
)
def test_keys_that_a_sweep_cannot_vary_are_refused(key, values):
    # Runs and streams are those of the sweep and its base: a cell's own would be ignored.
    with pytest.raises(ValueError, match=key):
        sweep({key: values}).populations(BASE)


def test_a_key_that_is_varied_twice_is_refused():
    # The later one would win, and its partners would be trained with values nobody asked for.
    with pytest.raises(ValueError, match=r"data\.points"):
        sweep({"data.points": [80], "data.points, recipe.steps": [[40, 3]]}).populations(BASE)


# -- groups of runs ----------------------------------------------------------------------------


def test_a_population_is_one_cell():
    group = Group(base=BASE)
    assert group.cells == [BASE]
    assert all(group.population(run) == BASE for run in range(3))
    assert list(group.blocks()) == ["0000-0002"]


def test_larger_size_keeps_the_runs_there_were():
    over = {"recipe.learning_rate": [1, 2, 3], "data.label_scale": [1, 2]}
    small, large = (Group(base=BASE, sweep=sweep(over, size=size)) for size in (1, 4))
    assert [small.population(run) for run in range(6)] == small.cells
    assert [large.population(run) for run in range(6)] == small.cells
    runs = [run for block in large.blocks() for run in block_runs(block)]
    assert runs == list(range(24))
    counts = [sum(large.population(run) == cell for run in runs) for cell in large.cells]
    assert counts == [4] * 6


@pytest.mark.parametrize(("size", "per_job"), [(1, 1), (2, 5), (3, 200), (5, 7)])
def test_blocks_cover_every_run_once(size, per_job):
    of = sweep({"recipe.steps": [1, 2, 3]}, size=size, runs_per_job=per_job)
    blocks = list(Group(base=BASE, sweep=of).blocks())
    runs = [run for block in blocks for run in block_runs(block)]
    assert runs == list(range(3 * size))
    assert all(len(block_runs(block)) <= per_job for block in blocks)


def test_groups_come_back_from_json():
    group = Group(base=BASE, sweep=sweep({"data.points, recipe.steps": [[40, 3], [80, 6]]}))
    back = Group(**json.loads(json.dumps(group.model_dump(mode="json"))))
    assert back.cells == group.cells and back.base == group.base


def test_snapshots_are_for_populations_alone():
    group = Group(base=BASE, sweep=sweep({"recipe.steps": [5, 7]}))
    assert [cell.recorded for cell in group.cells] == [[0, 5], [0, 7]]
    assert Group(base=BASE).cells[0].recorded == [0, 1, 2, 5]


# -- the study's cross-checks ------------------------------------------------------------------


@pytest.fixture
def content():
    mlp = {"dataset": "digits2", "architecture": {"name": "mlp"}, "size": 2}
    head = {
        "dataset": "digits2",
        "architecture": {"name": "mobilenet_v2", "pretrained": True},
        "recipe": {"trainable": "head"},
        "size": 2,
    }
    rates = {"recipe.learning_rate": [1, 2]}
    return {
        "name": "s",
        "datasets": {"digits2": {"test": 300}},
        "populations": {"mlp": mlp, "head": head},
        "spectra": {
            "populations": {"GD": {}, "Adam": {"recipe": {"optimiser": "adam"}}},
            "sweeps": {
                "sizes": {"population": "GD", "over": {"data.points": [100, 200]}},
                "rates": {"population": "GD", "over": rates},
                "adam": {"population": "Adam", "over": rates},
                "both": {"population": "GD", "over": rates | {"data.label_scale": [1, 3]}},
            },
            "expected": {"GD": "bulk"},
            "multi_index": ["GD"],
            "scaling": ["sizes"],
            "phases": ["both"],
            "forensics": {
                "classes": {"gd": ["rates"], "adam": ["adam"]},
                "unknown": {"other": ["both"]},
                "held_out": ["recipe.learning_rate"],
            },
            "images": {"populations": ["mlp"], "points": 300},
        },
    }


def put(content, path, value):
    content = copy.deepcopy(content)
    *parents, last = path.split("/")
    place = content
    for part in parents:
        place = place.setdefault(part, {})
    place[last] = value
    return content


def test_a_study_of_spectra_that_works(content):
    study = load_study(content)
    groups = study.spectra.groups()
    assert list(groups) == ["GD", "Adam", "sizes", "rates", "adam", "both"]
    assert len(groups["both"].cells) == 4 and groups["adam"].base.recipe.optimiser == "adam"
    assert study.spectra.level == 0.01


def test_spectra_alone_are_a_study(content):
    del content["populations"], content["datasets"], content["spectra"]["images"]
    assert load_study(content).populations == {}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            "sweeps/sizes/population",
            "SGD",
            r"spectra\.sweeps\.sizes\.population: there is no population 'SGD'; known: Adam, GD",
        ),
        ("sweeps/GD", {"population": "GD", "over": {"data.points": [100]}}, "GD: .* rename one"),
        ("sweeps/sizes/over", {"data.pts": [1]}, r"sizes: over\.data\.pts: there is no such key"),
        ("sweeps/sizes/over", {"data.points": [101]}, r"sizes\.over: .*points_per_dimension"),
        (
            "sweeps/sizes/over",
            {"recipe.learning_rate": [-1]},
            r"sizes\.over: recipe\.learning_rate: .*greater than 0 \(got -1\)",
        ),
        (
            "sweeps/sizes/over",
            {"data.points, recipe.steps": [[100]]},
            r"sizes: over\.data\.points, recipe\.steps: each entry must be a list of 2 values",
        ),
        ("sweeps/sizes/over", {"data.points.x": [1]}, r"sizes: over\.data\.points\.x: there is no"),
        ("sweeps/sizes/over", {"data.points": []}, r"sizes: over.*data\.points"),
        ("expected", {"SGD": "bulk"}, "spectra.expected: there is no population 'SGD'"),
        ("expected", {"GD": "spiky"}, "spectra.expected.GD"),
        ("multi_index", ["rates"], "spectra.multi_index: there is no population 'rates'"),
        ("scaling", ["GD"], "spectra.scaling: there is no sweep 'GD'; known: adam, both"),
        (
            "scaling",
            ["rates"],
            r"spectra\.scaling: rates does not vary data\.points; add it to the sweep's `over`",
        ),
        (
            "phases",
            ["rates"],
            r"spectra\.phases: rates does not vary data\.label_scale; add it to the sweep's `over`",
        ),
        ("phases", ["sizes"], "does not vary data.label_scale or recipe.learning_rate"),
        ("phases", ["no"], "spectra.phases: there is no sweep 'no'"),
        (
            "forensics/classes/gd",
            ["GD"],
            r"spectra\.forensics\.classes\.gd: there is no sweep 'GD'; known: adam",
        ),
        ("forensics/unknown/x", ["no"], r"forensics\.unknown\.x: there is no sweep 'no'"),
        (
            "forensics/held_out",
            ["data.link"],
            r"held_out: the sweep rates does not vary data\.link; add it to the .*or leave it out",
        ),
        ("forensics/classes", {"gd": ["rates"]}, r"spectra\.forensics\.classes.*at least 2"),
        ("forensics/classes/gd", [], r"spectra\.forensics\.classes\.gd"),  # nothing to learn
        ("images/populations", ["GD"], r"images\.populations: there is no population 'GD'; known"),
        ("images/populations", ["head"], r"of head the head alone is trained; choose .*: all"),
        (
            "images/points",
            301,
            r"spectra\.images\.points: 301 asked for, digits2 has 300 test points",
        ),
        ("level", 1, "spectra.level"),
        ("populations/GD/data/points", 601, r"spectra\.populations\.GD: data\.points_per_dim"),
        ("populations/a\0b", {}, "invisible characters"),
        ("sweep", {}, "spectra.sweep: unknown key; did you mean 'sweeps'"),
        ("sweeps/rates/ovr", {}, "ovr: unknown key; did you mean 'over'"),
        ("populations/GD/recipe/step", 3, "recipe.step: unknown key; did you mean 'steps'"),
    ],
)
def test_what_cannot_work_is_named(content, path, value, message):
    with pytest.raises(StudyError, match=message) as error:
        load_study(put(content, f"spectra/{path}", value), source="my.yaml")
    assert str(error.value).startswith("my.yaml: ")


def test_an_unknown_key_of_a_sweep_is_named_with_what_is_near(content):
    wrong = put(content, "spectra/sweeps/sizes/over", {"data.point": [100]})
    with pytest.raises(StudyError, match=r"data\.point: .*data\.points'?"):
        load_study(wrong)


@pytest.mark.parametrize("spectra", [None, {}, {"level": 0.05}])
def test_a_study_that_trains_nothing_is_refused(spectra):
    content = {"name": "s"} | ({} if spectra is None else {"spectra": spectra})
    with pytest.raises(StudyError, match="populations: there is nothing to train; name at least"):
        load_study(content)


def test_points_of_all_test_images_are_allowed(content):
    del content["datasets"]["digits2"]["test"]
    there = 597  # of scikit-learn's 1,797 digits, 1,200 are for training
    assert load_study(put(content, "spectra/images/points", there)).spectra.images.points == there
    with pytest.raises(StudyError, match=f"{there + 1} asked for, digits2 has {there}"):
        load_study(put(content, "spectra/images/points", there + 1))
