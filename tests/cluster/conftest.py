"""The cluster's tests compare with what the workflow's tests have run locally."""

from ..workflow.conftest import smoke, workflow  # noqa: F401 - fixtures
