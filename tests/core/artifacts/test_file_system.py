"""The file system of a root: whatever a driver raises, at whichever call, becomes one error of ours."""

import errno
import ssl

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from lema_core.artifacts import ArtifactRef, Identity, Shard, Store
from lema_core.artifacts.files import LOCAL, FileSystem, open_root
from lema_core.artifacts.part import part_files
from lema_core.errors import ArtifactError, ConfigError
from lema_core.rating.pilot import is_begun, read_corrections
from lema_core.records import Question

aws = pytest.importorskip("botocore.exceptions")
SIGNED = "https://b.example/x?X-Amz-Signature=S3cret&Expires=1"
RAISED = [
    aws.NoCredentialsError(),
    aws.EndpointConnectionError(endpoint_url=SIGNED),
    aws.NoRegionError(),
    aws.ClientError({"Error": {"Code": "403", "Message": f"denied at {SIGNED}"}}, "HeadObject"),
    PermissionError(errno.EACCES, "Access Denied"),
    OSError(5, "Input/output error"),
    TimeoutError("slow"),
    ConnectionResetError(),
    ssl.SSLError("bad certificate"),
    RuntimeError("loop is closed"),
    ImportError("no driver"),
    TypeError("missing argument"),
    KeyError("bucket"),
    ValueError(SIGNED),
    AttributeError("x"),
    NotImplementedError(),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    RecursionError(),
    EOFError(),
    AssertionError(),
    IsADirectoryError(21, "Is a directory"),
    Exception("\x1b[2J\ud800 odd"),
]


class Broken(LocalFileSystem):
    """Raises one error at every call, or at all but the first ones."""

    cachable = False
    error: BaseException

    def _raise(self, *_: object, **__: object):
        raise self.error

    exists = isfile = isdir = glob = cat_file = put_file = open = info = ls = _raise


@pytest.fixture(params=RAISED, ids=lambda error: type(error).__name__)
def broken(request, monkeypatch):
    driver = Broken()
    driver.error = request.param
    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda *_, **__: (driver, "/b"))
    return FileSystem(driver, "s3://b")


def refused(work) -> str:
    with pytest.raises(ArtifactError) as caught:
        work()
    said = str(caught.value)
    assert "S3cret" not in said
    assert said.isprintable()
    assert len(said) < 700
    assert caught.value.__cause__ is None
    return said


def test_every_call_of_a_driver_is_translated(broken, tmp_path):
    for work in (
        lambda: broken.exists("/b/x"), lambda: broken.isfile("/b/x"), lambda: broken.isdir("/b/x"),
        lambda: broken.glob("/b/*"), lambda: broken.cat_file("/b/x"), lambda: broken.put_file("x", "/b/x"),
        lambda: broken.open("/b/x").__enter__(), lambda: part_files(broken, "/b"),
    ):  # fmt: skip
        assert "credentials" in refused(work)


def test_every_use_of_a_root_is_translated(broken):
    store, ref = Store("s3://b"), ArtifactRef("questions", Identity("questions", {}).fingerprint)

    def write() -> None:
        with store.part(ref, Shard(0, 0, 1), Question) as part:
            part.rows_in = 0

    for work in (
        lambda: store.exists(ref), lambda: store.manifest(ref), lambda: list(store.manifests()), write,
        lambda: store.finished_part(ref, Shard(0, 0, 1), verified=True), lambda: list(store.rows(ref, Question)),
        lambda: is_begun("s3://b"), lambda: list(read_corrections("s3://b/x")),
    ):  # fmt: skip
        refused(work)


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
def test_a_driver_that_cannot_be_made_is_a_config_error(monkeypatch, error):
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(fsspec.core, "url_to_fs", fail)
    with pytest.raises(ConfigError) as caught:
        open_root("s3://b")
    assert "S3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_what_is_missing_stays_a_question_of_the_caller(tmp_path):
    with pytest.raises(FileNotFoundError):
        LOCAL.cat_file(str(tmp_path / "no"))
    with pytest.raises(FileNotFoundError), LOCAL.open(str(tmp_path / "no")):
        pass
    assert not LOCAL.exists(str(tmp_path / "no"))
