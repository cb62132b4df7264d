# The study, checked, and what several stages share.
import os
import sys
from pathlib import Path

# Scripts and this file find the library in the checkout, installed or not; jobs that start
# another interpreter (conda environments, cluster nodes) get it from the environment.
sys.path.insert(0, workflow.basedir)
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [workflow.basedir, os.environ.get("PYTHONPATH")])
)

from model_metrology.digests import code_digest
from model_metrology.study import StudyError, load_study

_config_files = [str(path) for path in workflow.config_settings.configfiles] or [
    "config.yaml"
]
try:
    study = load_study(config, source=", ".join(map(os.path.relpath, _config_files)))
except StudyError as error:
    # The findings are for whoever wrote the study: no traceback around them.
    raise WorkflowError(str(error)) from None

# A GPU is asked of the scheduler only when the study insists on one; `auto` takes what is there.
GPUS = 1 if study.device == "cuda" else 0


wildcard_constraints:
    dataset=r"[^/]+",
    population=r"[^/]+",
    block=r"\d+(-\d+)?",


def run_files(population):
    """Files with the trained runs of a population, in the order of the runs."""
    blocks = study.populations[population].blocks()
    return [f"<results>/training/{population}/{block}/runs.h5" for block in blocks]
