"""What can be known to fail before anything is paid: packages, endpoints and their keys, tokenizers, the machine."""

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Iterable

from lema_core.ablation.cells import cell_runs
from lema_core.llm.client import contact_servers, open_client
from lema_core.llm.costs.shutdowns import shutdown_warning
from lema_core.llm.costs.tokenizers import need_tokenizer
from lema_core.llm.endpoints import EndpointSpec
from lema_core.run.needs import check_installed
from lema_core.run.own_tasks import own_tasks
from lema_core.run.plan import planned_stages
from lema_core.run.spec import RunSpec
from lema_core.scoring.pool import check_scorer
from lema_core.stages.pretraining import PRETRAINED
from lema_core.training.chat_format import check_template

WithKey = Callable[[EndpointSpec], Awaitable[EndpointSpec]]
"""Fetches an endpoint's key from where only flows can read it."""


async def preflight(run: RunSpec, root: str, with_key: WithKey | None = None) -> None:
    """Plan a run or a sweep, ask each endpoint that it needs, and look for what training needs of this machine.

    Args:
        run: what is to be run.
        root: where its artifacts lie.
        with_key: see ``all_answer``.

    Raises:
        LemaError: what would fail after the first requests had been paid.
    """
    stages = await asyncio.to_thread(lambda: list(planned_stages(run, root)))
    check_installed(run, stages)
    asked = {stage.endpoint.name: stage.endpoint for stage in stages if stage.requests and stage.endpoint}
    for warning in filter(None, map(shutdown_warning, asked.values())):
        _warn(warning)
    await check_own_tasks(run)
    await all_answer({stage.endpoint for stage in stages if stage.requests and stage.endpoint}, with_key)
    trains = any(stage.ref.stage == "training" and not stage.there for stage in stages)
    await asyncio.to_thread(check_templates, run, download=trains)
    for cell_run in cell_runs(run) if run.ablation else [run]:
        await asyncio.to_thread(_find_tokenizer, cell_run)
        if trains:
            await asyncio.to_thread(_check_training, cell_run)


def _warn(text: str) -> None:
    """Show a warning: where tasks show theirs, or before a run has begun in the log."""
    # Importing tasks.progress here would import Prefect, which reads its settings then: before the CLI has a server.
    progress = sys.modules.get("tasks.progress")
    show = progress.notify_user if progress else logging.getLogger(__name__).warning
    show(text)


async def check_own_tasks(run: RunSpec) -> None:
    """Load each scorer once in a process of its own, under its limits: after the samples were paid it would be late.

    Raises:
        ConfigError: a task's file cannot be loaded there.
    """
    for task in own_tasks(run):
        if task.scorer is not None:
            await check_scorer(task)


async def all_answer(endpoints: Iterable[EndpointSpec], with_key: WithKey | None = None) -> None:
    """Ask every endpoint at a URL now: a teacher's wrong key must fail before the students are paid.

    Without ``with_key`` those with a key in a Secret block are left out: there may be no Prefect server yet.
    """
    for endpoint in endpoints:
        if endpoint.api_key_secret is None:
            await _answers(endpoint)
        elif with_key:
            await _answers(await with_key(endpoint))


async def _answers(endpoint: EndpointSpec) -> None:
    endpoint.api_key()
    clients = {url: open_client(endpoint.at(url)) for url in endpoint.urls}
    try:
        if clients:
            for url, why in (await contact_servers(endpoint, clients)).items():
                _warn(f"{url} of endpoint {endpoint.name!r} does not answer; its other servers do. {why}")
    finally:
        for client in clients.values():
            await client.close()


def check_templates(run: RunSpec, *, download: bool = False) -> None:
    """Refuse a base model whose chat template cannot be trained exactly, for every arm of a run or a sweep.

    A model whose tokenizer is not on this machine is left out, unless ``download`` fetches it.

    Raises:
        ConfigError: there is one; its text names the difference.
    """
    checked: set[str] = set()
    for cell_run in cell_runs(run) if run.ablation else [run]:
        for arm in cell_run.mixture.arms if cell_run.training and cell_run.mixture else ():
            spec = start = cell_run.training_of(arm)
            while start.starts_from_arm is not None:
                start = cell_run.training_of(start.starts_from_arm)
            key = f"{start.base} {spec.tokens_identity()}"
            # The run's own tokenizer has no chat template: it is trained with the plain one.
            if key not in checked and start.base != PRETRAINED:
                checked.add(key)
                check_template(spec, start.base, download=download)


def _check_training(run: RunSpec) -> None:
    """Look for what training needs of this machine now: after the corrections it would be late."""
    # Training's libraries are an extra that a run without training does not need.
    from lema_core.training.estimate import check_base
    from lema_core.training.options import check_machine

    for arm in run.mixture.arms if run.mixture else ():
        if run.training_of(arm).base != PRETRAINED:
            check_base(run.training_of(arm).base)
        check_machine(run.training_of(arm), run.launch)


def _find_tokenizer(run: RunSpec) -> None:
    """Find, or fetch, the tokenizer that arms of equal tokens are cut by: after the corrections it would be late."""
    if run.training and run.mixture and any(run.arm(arm).by_tokens for arm in run.mixture.arms):
        need_tokenizer(run.training.base)
