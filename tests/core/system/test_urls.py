"""URLs of ledgers, roots, sources and endpoints: the known schemes, no secret, and no secret in the refusal."""

import pytest

from lema_core.errors import ConfigError
from lema_core.system.urls import parse_base_url, parse_url, postgres_url, scheme_of

SECRET = "S3cr"
PASSWORDS = ["S3cret", "S3cr%t", "S3cr%20t", "S3cr t", "S3cr/t", "S3cr[t", "S3cr]t", "S3cr@t", "S3cr:t", "S3cr?t",
             "S3cr#t",
             "12?S3cr", "12/S3cr", "12#S3cr", "S3cr\\t", "S3cr\tt", "S3cr\nt", "S3crété", "S3cr\ud800t", "S3cr&t=1",
             "S3cr;t",
             "S3cr,t", "S3cr%00t", "@S3cr", "/S3cr", "S3cr'\"t"]  # fmt: skip
QUERIES = ["password={}", "PASSWORD={}", "sslpassword={}", "pass%77ord={}", "a=1&password={}", "a=1;password={}",
           "ssl_password={}", "api_key={}", "api-key={}", "apikey={}", "key={}", "subscription-key={}",
           "access_token={}",
           "token={}", "sig={}", "X-Amz-Signature={}", "X-Amz-Credential={}", "auth={}", "code={}", "secret={}", "{}",
           "pwd={}", "jwt={}", "client_secret={}", "x=sk-proj-{}", "x={}"]  # fmt: skip
KEY = "S3cretKey0123456789abcdefghij"


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize(
    "form",
    ["postgresql://u:{}@h/db", "postgres://u:{}@h:5432/db", "POSTGRESQL://u:{}@h/db", "postgresql+psycopg://u:{}@h/db",
     "postgresql:u:{}@h/db", "postgresql:/u:{}@h/db", "postgresql//u:{}@h/db", "Postgresql+asyncpg://u:{}@[::1]:5/db",
     "mysql://u:{}@h/db", "u:{}@h:5432/db", " postgresql://u:{}@h/db", "host=h user=u password={}", "psql://u:{}@h",
     "//u:{}@h/db", "jdbc:postgresql://u:{}@h/db"],
)  # fmt: skip
def test_a_ledger_with_a_password_is_refused_and_the_password_not_shown(form, password):
    with pytest.raises(ConfigError) as refused:
        postgres_url(form.format(password))
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("form", ["postgresql://u@h/db?{}", "https://h/v1?{}", "http://127.0.0.1:80/v1?v=2&{}"])
def test_a_secret_in_a_query_is_refused_and_not_shown(form, query):
    url = form.format(query.format(KEY))
    with pytest.raises(ConfigError) as refused:
        postgres_url(url) if url.startswith("postgres") else parse_base_url(url)
    assert "S3cr" not in str(refused.value)
    assert KEY.lower() not in str(refused.value).lower()


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("form", ["http://u:{}@h/v1", "HTTPS://u:{}@h:1/v1", "https://{}@h/v1", "ftp://u:{}@h"])
def test_a_base_url_with_a_user_is_refused_and_not_shown(form, password):
    with pytest.raises(ConfigError) as refused:
        parse_base_url(form.format(password))
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("url", [
    "http://", "http:///v1", "http://:80/v1", "http://h:x/v1", "http://[::1/v1", "http://h/v1#x", "http://h h/v1",
    "h/v1",
    "", "https:/h", "file:///etc/passwd", "javascript://h", "http://h\n/v1", "http://h/v 1", "http://h:999999/",
    "http://h:65536/",
    "http://h:99999/",
])  # fmt: skip
def test_a_malformed_base_url_is_one_clear_error(url):
    with pytest.raises(ConfigError):
        parse_base_url(url)


@pytest.mark.parametrize(("url", "host", "path"), [
    ("http://127.0.0.1:8000/v1", "127.0.0.1", "/v1"),
    ("HTTPS://Api.Example.com/v1/", "api.example.com", "/v1/"),
    ("http://[::1]:8000/v1", "::1", "/v1"),
    ("https://x.openai.azure.com/openai/deployments/d?api-version=2024-10-21", "x.openai.azure.com",
     "/openai/deployments/d"),
])  # fmt: skip
def test_an_endpoint_s_address(url, host, path):
    found = parse_base_url(url)
    assert (found.host, found.path) == (host, path)
    assert "?" not in found.shown


@pytest.mark.parametrize("url", [
    "postgresql://lema@10.0.0.5/lema", "postgres://h/db", "Postgresql://u@h:5432/db?sslmode=require", "postgresql:///db",
    "postgresql://u@h1:5432,h2:5433/db", "postgresql://u@[::1]/db", "postgresql://u@%2Fvar%2Frun/db",
    "postgresql://lema@127.0.0.1:5/ledger?passfile=/home/a%20b/.lema/postgres.pass", "POSTGRES://u@h/db",
])  # fmt: skip
def test_a_postgresql_url_without_a_password(url):
    found = postgres_url(url)
    assert found
    assert found.text.startswith(("postgresql://", "postgres://"))


@pytest.mark.parametrize(
    "path", ["ledger.sqlite", ".lema/ledger.sqlite", "/a/b c/l.sqlite", "./10:30/l.sqlite", "a=b.sqlite"]
)
def test_a_path_is_a_file(path):
    assert postgres_url(path) is None


@pytest.mark.parametrize(
    "url", ["s3://b/l.sqlite", "sqlite:///l.sqlite", "file:///l.sqlite", "http://h/l", "x://y", "", " "]
)
def test_no_other_url_becomes_a_file(url):
    with pytest.raises(ConfigError):
        postgres_url(url)


def test_what_stands_before_the_host_of_a_root():
    assert parse_url("abfs://container@account.dfs.core.windows.net/p", "root", {"abfs"}, "").user == "container"
    assert parse_url("github://org:repo@main/f.jsonl", "source", {"github"}, "").path == "/f.jsonl"
    assert parse_url("s3://bucket/a b@c.jsonl", "source", {"s3"}, "").path == "/a b@c.jsonl"
    with pytest.raises(ConfigError):
        parse_url("s3://AKIA:S3cret@bucket/p", "root", {"s3"}, "")


@pytest.mark.parametrize(
    ("text", "scheme"), [("S3://b", "s3"), ("a/b", None), ("C:\\x", None), ("git+ssh://h", "git+ssh")]
)
def test_schemes(text, scheme):
    assert scheme_of(text) == scheme
