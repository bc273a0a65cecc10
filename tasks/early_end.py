"""What a run that ends early leaves: a page with the reason, in a file, at the terminal and in Prefect."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prefect.exceptions import PrefectException

from lema_core.errors import BatchPendingError, CancelledRunError
from lema_core.pipeline import Pipeline
from lema_core.report.early_end import remove_early_end, write_early_end
from lema_core.system.redaction import to_lema_error
from tasks.progress import notify_user
from tasks.ui_artifacts import show_early_end

_log = logging.getLogger(__name__)


@asynccontextmanager
async def early_end_written(pipeline: Pipeline) -> AsyncIterator[None]:
    """Write the page of a run that an error ends, and raise the error; a complete run has none.

    A run that waits for batches, or that a person cancelled, has not failed and gets no page.
    """
    run, root = pipeline.run, pipeline.root
    try:
        yield
    except (BatchPendingError, CancelledRunError, PrefectException):
        raise
    except Exception as error:
        try:
            page, text = await asyncio.to_thread(write_early_end, run, root, pipeline.artifacts, to_lema_error(error))
            notify_user(f"Why the run ended, and what it has made: {page}")
            await show_early_end(run, page, text)
        # The first error is what the user must see, also where a full disk or a damaged artifact was its cause.
        except Exception as second:  # noqa: BLE001 see above
            _log.warning("the page of a run that ended early could not be written: %s", to_lema_error(second))
        raise
    await asyncio.to_thread(remove_early_end, run, root)
