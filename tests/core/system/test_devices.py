import sys

import pytest

from lema_core.llm.endpoints import EndpointSpec, running
from lema_core.system.processes import device_environment, share_devices, use_devices
from lema_core.training.launch import clean_environment, ranks_here
from lema_core.training.specs import LaunchSpec

SERVER = """
import http.server, os, pathlib, sys
pathlib.Path(sys.argv[2]).write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Ready).serve_forever()
"""


@pytest.mark.parametrize(
    ("devices", "workers", "shares"),
    [
        ("0123", 2, [("0", "2"), ("1", "3")]),
        ("01", 3, [("0",), ("1",), ("0",)]),
        ("012", 2, [("0", "2"), ("1",)]),
        ("", 2, [(), ()]),
        ("01", 1, [("0", "1")]),
    ],
)
def test_gpus_are_share_devices(devices, workers, shares):
    assert share_devices(devices, workers) == shares


def test_a_training_run_sees_its_share_and_has_a_rank_a_gpu(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with use_devices(("2", "5")):
        assert clean_environment({}, LaunchSpec())["CUDA_VISIBLE_DEVICES"] == "2,5"
        assert ranks_here(LaunchSpec()) == 2
        assert ranks_here(LaunchSpec(ranks=1)) == 1
        with use_devices(()):
            assert device_environment({})["CUDA_VISIBLE_DEVICES"] == "2,5"
    assert "CUDA_VISIBLE_DEVICES" not in clean_environment({}, LaunchSpec())


async def test_a_model_server_sees_its_share(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for devices, seen in (((), "all"), (("1",), "1")):
        file = tmp_path / seen
        endpoint = EndpointSpec(model="m", command=(sys.executable, "-c", SERVER, "{port}", str(file)))
        with use_devices(devices):
            async with running(endpoint):
                assert file.read_text() == seen
