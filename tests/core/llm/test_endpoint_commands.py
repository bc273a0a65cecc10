import os
import signal
import subprocess
import sys

import psutil
from support import until

START = """
import asyncio, sys
from lema_core.llm.endpoints import EndpointSpec, running

async def main():
    command = (sys.executable, "-m", "lema_core.llm.simulated", "--port", "{port}")
    async with running(EndpointSpec(model="fixed", command=command)):
        print("up", flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


def test_a_killed_run_leaves_no_server_behind():
    run = subprocess.Popen([sys.executable, "-c", START], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    assert run.stdout.readline() == "up\n"
    (server,) = psutil.Process(run.pid).children()
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    until("the server's end", lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE)
