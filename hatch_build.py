"""Puts run files, tasks, templates and Prefect's deployments into a wheel, beside the code that reads them."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class BundledFiles(BuildHookInterface):  # type: ignore[type-arg]
    """Adds ``deployments/`` as ``lema_core/bundled/``.

    Not to an editable install: a folder ``lema_core`` without code there would hide the checkout's package.
    """

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Name the files to include."""
        if version != "editable":
            build_data["force_include"]["deployments"] = "lema_core/bundled"
