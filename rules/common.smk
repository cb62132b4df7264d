# The study, checked, and what several stages share.
import os
import shutil
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from itertools import chain, product
from pathlib import Path
from tempfile import TemporaryFile

# Scripts and this file find the library in the checkout, installed or not; jobs that start
# another interpreter (conda environments, cluster nodes) get it from the environment.
sys.path.insert(0, workflow.basedir)
os.environ.update(
    PYTHONPATH=os.pathsep.join(
        filter(None, [workflow.basedir, os.getenv("PYTHONPATH")])
    )
)

from model_metrology.digests import code_digest
from model_metrology.embeddings.names import (
    BASELINES,
    CONTRAST_TABLES,
    CONTRASTS_SHOWN,
    SEPARATION_TABLES,
    SIGNATURE,
    SIGNATURE_TABLES,
)
from model_metrology.embeddings.names import TABLES as EMBEDDING_TABLES
from model_metrology.model_folders import local_folder
from model_metrology.recipes import block_runs
from model_metrology.study import (
    StudyError,
    folder_name,
    load_study,
    name_of_folder,
)
from model_metrology.surrogates.builders import find_builder
from model_metrology.surrogates.names import TABLES as SURROGATE_TABLES
from model_metrology.surrogates.names import column_bounds

_config_files = [str(path) for path in workflow.config_settings.configfiles] or [
    "config.yaml"
]
try:
    study = load_study(config, source=", ".join(map(os.path.relpath, _config_files)))
except StudyError as error:
    # The findings are for whoever wrote the study: no traceback around them.
    raise WorkflowError(str(error)) from None

# Pretrained weights, too, are looked for in the study's own folder first.
if study.data.root:
    os.environ.update(MODEL_METROLOGY_DATA=os.path.abspath(study.data.root))

# A GPU is asked of the scheduler only when the study insists on one; `auto` takes what is there.
GPUS = 1 if study.device == "cuda" else 0


def growing(first):
    """Memory or time that a rule asks for, as much again at each new attempt.

    A number, or a function of the wildcards where it depends on the study's sizes.
    """
    return lambda wildcards, attempt: attempt * round(
        first(wildcards) if callable(first) else first
    )


wildcard_constraints:
    dataset=r"[^/]+",
    population=r"[^/]+",
    block=r"\d+(-\d+)?",
    subject=r"[^/]+",
    run=r"\d\d\d\d+",
    columns=r"\d+-\d+",
    source=r"[^/]+",
    collection=r"[^/]+",
    embedder=rf"(?!{BASELINES}/)[^/]+",


RESULTS = f"results/{folder_name(study.name)}"


def check_results():
    """Refuse to start what could not be stored."""
    try:
        Path(RESULTS).mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=RESULTS):
            pass
    except OSError as error:
        raise WorkflowError(
            f"{RESULTS}: nothing can be written there ({error.strerror}); make the folder "
            "writable, or let `results` be a link to one that is"
        ) from None


# Snakemake would look for results below it, and fail without saying why.
if Path("results").exists() and not Path("results").is_dir():
    check_results()


# Figures by `<stage>/<name>`, drawn by the rules of figures.smk: each stage adds its own.
FIGURES = {}


def add_figures(stage, figures):
    """Have figures drawn by functions `<name>_figure` of `model_metrology.plots.<stage>`.

    Each entry has `label` and `inputs`, and may have `options` (the function's other arguments),
    `figure` (the function's name, where it is not the entry's) and `mem_mb`.
    """
    for key, figure in figures.items():
        FIGURES[f"{stage}/{key}"] = {"stage": stage, "figure": key} | figure


def write_report(targets):
    """Write the report of a finished study to its results, and to report.html as the latest.

    A run of some targets alone leaves the report as it is.
    """
    if not all(
        Path(str(target).replace("<results>", RESULTS)).exists() for target in targets
    ):
        return
    page, latest = f"{RESULTS}/report.html", "report.html"
    # Snakemake's own extra: a study that is done must not fail for want of it.
    if not find_spec("pygments"):
        print(
            "No report was made: it needs Pygments where Snakemake is installed. Say "
            f"`pip install pygments`, and then the same command with `--report {page}`",
            file=sys.stderr,
        )
        return
    files = [str(path) for path in workflow.config_settings.configfiles]
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--report",
        page,
        "--nolock",
        "--quiet",
        "all",
    ]
    command += ["--snakefile", workflow.main_snakefile]
    # The same study again: what was set on the command line is part of it.
    command += ["--configfile", *files] if files else []
    settings = workflow.config_settings.config
    command += (
        ["--config", *(f"{key}={value}" for key, value in settings.items())]
        if settings
        else []
    )
    subprocess.run(command, check=True)
    shutil.copyfile(page, latest)
    print(f"The report is in {page} and, as the latest, in {latest}", file=sys.stderr)


def name_of(wildcards):
    """The population that a path's folder stands for."""
    return name_of_folder(wildcards.population)


def population_of(wildcards):
    return study.populations[name_of(wildcards)]


def outputs_mb(name):
    """Megabytes of the outputs of all of a population's runs."""
    population = study.populations[name]
    points = dataset_points(population.dataset, "test")
    classes = len(study.spec(population.dataset).classes)
    return population.size * points * classes * 4 / 1e6


def run_files(wildcards):
    """Files with the trained runs of a population, in the order of the runs."""
    folder = f"<results>/training/{wildcards.population}"
    return [f"{folder}/{block}/runs.h5" for block in population_of(wildcards).blocks()]


def data_file(dataset):
    return f"<results>/data/{folder_name(dataset)}.h5"


def dataset_file(wildcards):
    return data_file(population_of(wildcards).dataset)


def dataset_points(dataset, part):
    """How many points of a dataset are used, of its part `train` or `test`."""
    asked = getattr(study.datasets[dataset], part)
    return asked or getattr(study.spec(dataset), f"{part}_size")


def dataset_options(wildcards):
    options = study.datasets[name_of_folder(wildcards.dataset)]
    return options.model_dump(exclude={"poison"}) | {"seed": study.seed}


def dataset_poison(wildcards):
    poison = study.datasets[name_of_folder(wildcards.dataset)].poison
    return poison and poison.model_dump()


def dataset_code(wildcards):
    # Clean datasets do not rest on how others are poisoned.
    poison = ["model_metrology.data.poison"] if dataset_poison(wildcards) else []
    return code_digest("model_metrology.data.datasets", *poison)


def run_spec(population):
    # What a run depends on, and no more: neither a run's siblings nor how runs share jobs
    # may make it look out of date.
    return population.model_dump(mode="json", exclude={"size", "runs_per_job"})


def population_spec(wildcards):
    return run_spec(population_of(wildcards))


def training_inputs(wildcards):
    files = {"dataset": dataset_file(wildcards)}
    if population_of(wildcards).recipe.trainable == "head":
        files["features"] = f"<results>/features/{wildcards.population}.h5"
    return files


# Two-layer networks, populations and sweeps, by name.
groups = study.spectra.groups() if study.spectra else {}


def group_spec(wildcards):
    # What a run depends on, and no more: neither its siblings nor how runs share jobs.
    drop = {"size", "runs_per_job"}
    group = groups[name_of_folder(wildcards.group)]
    return group.model_dump(mode="json", exclude={"base": drop, "sweep": drop})


def spectra_files(names, ending):
    """Files of all blocks of some groups."""
    return [
        f"<results>/spectra/measured/{folder_name(name)}/{block}{ending}"
        for name in names
        for block in groups[name].blocks()
    ]


# Networks whose kernels are taken, by name: populations, foreign instruments, language models.
def subject_kind(name):
    if name in study.surrogates.instruments:
        return "instrument"
    return "language" if name in study.surrogates.language else "population"


def language_of(wildcards):
    return study.surrogates.language[name_of_folder(wildcards.subject)]


def language_options(wildcards):
    # What a run depends on, and no more.
    return language_of(wildcards).model_dump(mode="json", exclude={"size"})


@cache
def model_files(model, *names):
    """Files in a pretrained model's folder; none where it comes from a package or the hub."""
    folder = local_folder(model)
    # The parts of an embedder are in folders of their own, one deep.
    found = (
        folder.glob(f"{inside}{name}")
        for name in (names if folder else ())
        for inside in ("", "*/")
    )
    return sorted(set(map(str, chain.from_iterable(found))))


def token_inputs(wildcards):
    """Files of sentences and of the tokenizer, where they are not in a package or on the hub."""
    language = language_of(wildcards)
    texts = [path for path in (language.texts, language.test_texts) if path is not None]
    return texts + model_files(language.model, "*.json", "*.model", "*.txt")


def poison_of(name):
    """How the dataset of a population is poisoned, or None."""
    if subject_kind(name) != "population":
        return None
    poison = study.datasets[study.populations[name].dataset].poison
    return poison and poison.model_dump()


@cache
def block_of_run(name):
    """Names of the blocks that hold a population's runs, one a run.

    Listed once: to look through the blocks for each job is quadratic in the number of runs.
    """
    return [
        block for block in study.populations[name].blocks() for _ in block_runs(block)
    ]


def subject_inputs(wildcards):
    """Files of a network and of its points."""
    name, run = name_of_folder(wildcards.subject), int(wildcards.run)
    kind, folder = subject_kind(name), f"<results>/surrogates/{wildcards.subject}"
    if kind == "language":
        of_run = f"{folder}/{wildcards.run}"
        return {
            "tokens": f"{folder}/tokens.h5",
            "runs": f"{of_run}/runs.h5",
            "config": f"{of_run}/config.json",
        }
    if kind == "instrument":
        instrument = study.surrogates.instruments[name]
        return {
            "dataset": data_file(instrument.dataset),
            "checkpoint": instrument.checkpoint,
            "builder": os.path.relpath(find_builder(instrument.builder).file),
        }
    return {
        "dataset": data_file(study.populations[name].dataset),
        "runs": f"<results>/training/{wildcards.subject}/{block_of_run(name)[run]}/runs.h5",
    }


def subject_spec(wildcards):
    """What a network and its points are, and no more than their kernel depends on."""
    name, options = name_of_folder(wildcards.subject), study.surrogates
    kind, poison = subject_kind(name), poison_of(name)
    if kind == "population":
        spec = run_spec(study.populations[name])
    elif kind == "instrument":
        spec = options.instruments[name].model_dump(mode="json")
    else:
        spec = language_options(wildcards)
    points = {"train": options.train, "test": options.test}
    points["triggered"] = options.triggered if poison else 0
    return {
        "kind": kind,
        "options": spec,
        "points": points,
        "poison": poison,
        "seed": study.seed,
    }


def subject_dataset(name):
    """The dataset whose points a network is measured on; of a language model, its own."""
    kind = subject_kind(name)
    if kind == "population":
        return study.populations[name].dataset
    return study.surrogates.instruments[name].dataset if kind == "instrument" else name


def subject_datasets():
    """Datasets of images that networks are measured on."""
    names = study.surrogates.subjects(study.populations)
    images = [name for name in names if subject_kind(name) != "language"]
    return list(dict.fromkeys(map(subject_dataset, images)))


def subject_points(name, part="train"):
    """How many training points a network's kernel has, or test points."""
    wanted = getattr(study.surrogates, part)
    if subject_kind(name) == "language":
        there = getattr(study.surrogates.language[name], part)
    else:
        there = dataset_points(subject_dataset(name), part)
    return min(
        (number for number in (wanted, there) if number is not None), default=None
    )


def test_points(name):
    """How many test points a network's kernel has, for estimates of memory."""
    # How many sentences a file has is not known before it is read.
    return subject_points(name, "test") or subject_points(name)


def kernel_mb(name, columns=None):
    """Megabytes of a network's kernel in single precision, or of some of its columns."""
    points = subject_points(name)
    return (points + test_points(name)) * min(columns or points, points) * 4 / 1e6


def kernel_files(wildcards):
    """Files with the columns of a network's kernels."""
    folder = f"<results>/surrogates/{wildcards.subject}/{wildcards.run}/kernels"
    points = subject_points(name_of_folder(wildcards.subject))
    return [
        f"{folder}/{start}-{stop}.h5"
        for start, stop in column_bounds(points, study.surrogates.tile)
    ]


def kept_kernels(path):
    return path if study.surrogates.keep_kernels else temp(path)


def attributions_mb():
    """Megabytes of the attributions that are compared, in single precision."""
    sizes = study.surrogates.subjects(study.populations)
    return sum(
        len(range(size)[: study.surrogates.compared])
        * subject_points(name)
        * test_points(name)
        * 4
        / 1e6
        for name, size in sizes.items()
    )


def subject_results(ending, most=None):
    """Files of all networks' runs, or of the first so many of each."""
    sizes = study.surrogates.subjects(study.populations)
    return [
        f"<results>/surrogates/{folder_name(name)}/{run:04d}/{ending}"
        for name, size in sizes.items()
        for run in range(size)[:most]
    ]


def subject_key(wildcards):
    """Columns that say whose a row of a table is."""
    name = name_of_folder(wildcards.subject)
    return {
        "population": name,
        "run": int(wildcards.run),
        "dataset": subject_dataset(name),
    }


def attribution_examples(wildcards):
    """How many test points of a run have their attributions shown; 0: none are kept."""
    compared = int(wildcards.run) < study.surrogates.compared
    return study.surrogates.examples if compared else 0


def measure_options(wildcards):
    """How a network's surrogates are fitted and measured."""
    # `include` at the start of a line would be Snakemake's.
    measured = {"solvers", "l2", "bootstraps", "level"}
    options = study.surrogates.model_dump(include=measured)
    penalty = study.surrogates.sgd_l2.get(name_of_folder(wildcards.subject), "auto")
    return options | {"sgd_l2": penalty}


def compared_keys():
    """Of the runs that are compared: population, run, dataset, architecture, recipe."""
    keys = []
    for name, size in study.surrogates.subjects(study.populations).items():
        kind = subject_kind(name)
        if kind == "population":
            population = study.populations[name]
            architecture = population.architecture.model_dump_json()
            recipe = population.recipe.model_dump_json(exclude={"checkpoint_epochs"})
        elif kind == "instrument":
            instrument = study.surrogates.instruments[name]
            architecture = f"{instrument.builder} {instrument.arguments}"
            recipe = instrument.checkpoint
        else:
            language = study.surrogates.language[name]
            architecture = language.model
            recipe = language.model_dump_json(exclude={"size", "varies"})
        key = {
            "population": name,
            "dataset": subject_dataset(name),
            "architecture": architecture,
            "recipe": recipe,
        }
        compared = range(size)[: study.surrogates.compared]
        keys += [key | {"run": run} for run in compared]
    return keys


# Sources of texts and images, embedders, and what is held against what.
def source_options(wildcards):
    """What a source is; where its folder of results is does not matter."""
    return study.embeddings.sources[name_of_folder(wildcards.source)].model_dump(
        mode="json"
    )


def source_files(names):
    return [f"<results>/embeddings/sources/{folder_name(name)}.h5" for name in names]


def source_inputs(wildcards):
    """Files that a source is read or made from."""
    options = study.embeddings.sources[name_of_folder(wildcards.source)]
    if options.generator:
        return {"images": f"<results>/embeddings/generated/{wildcards.source}.h5"}
    if options.dataset:
        return {"dataset": data_file(options.dataset)}
    made = options.translation or options.recompression
    if made:
        return {"origin": source_files([made.of])[0]}
    paths = {"path": options.path, "groups": options.groups}
    return {key: path for key, path in paths.items() if path is not None}


def embedder_options(wildcards):
    return study.embeddings.embedders[name_of_folder(wildcards.embedder)].model_dump(
        mode="json"
    )


def embedder_files(wildcards):
    """Files of an embedder that is a folder."""
    model = study.embeddings.embedders[name_of_folder(wildcards.embedder)].named_model
    if model is None:
        return []
    return model_files(model, "*.json", "*.safetensors*", "*.model", "*.txt")


def controls_of(wildcards):
    """What is taken away from the items of a contrast; from images nothing."""
    name = name_of_folder(wildcards.collection)
    contrast = study.embeddings.contrasts.get(name)
    texts = contrast and not study.embeddings.of_images(contrast.sources[0])
    return contrast.controls if texts else []


def embedding_key(wildcards):
    """Columns that say of what a row of a table is."""
    return {
        "contrast": name_of_folder(wildcards.collection),
        "embedder": name_of_folder(wildcards.embedder),
    }


def embedding_tables(name):
    """Files of a table, of all collections and embedders that have it."""
    options = study.embeddings
    kinds = {
        **dict.fromkeys(CONTRAST_TABLES, options.contrasts),
        "translation": options.translations,
        **dict.fromkeys(SIGNATURE_TABLES, [SIGNATURE] if options.signature else []),
    }
    baselines = [BASELINES] if name in SEPARATION_TABLES else []
    return [
        f"<results>/embeddings/{folder_name(collection)}/{folder_name(embedder)}/{name}.csv"
        for collection in kinds[name]
        for embedder in [*options.embedders_of(collection), *baselines]
    ]
