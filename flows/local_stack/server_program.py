"""``python -m flows.local_stack.server_program``: the Prefect server that we start, behind a gate.

It serves what ``prefect server start`` serves, by the same settings. In addition it takes requests only from its own
pages and from programs (``lema_core.system.loopback``), and has one page of ours, which logs a browser in. Prefect's
own protection against cross-site request forgery stays off: a browser adds no credentials by itself here, for the UI
sends them in a header from its own storage.
"""

import os
import sys
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI, HTTPException
from fastapi.responses import HTMLResponse
from prefect.server.api.server import create_app
from prefect.settings import get_current_settings
from pydantic import BaseModel

from flows.local_stack.server import LOGIN_PATH, Logins, stored_login
from lema_core.system.loopback import FilteredApp, Receive, RequestFilter, Scope, Send

LOGIN_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>LeMa</title><link rel="icon" href="data:,">
<body style="font: 16px system-ui; margin: 4em auto; max-width: 40em"><p id="said">Logging in ...</p>
<script>
// The token stands in the fragment, which browsers do not send; it is taken out of the address at once.
const token = location.hash.slice(1);
const page = "/v2/" + location.pathname.split("/").slice(2).join("/");
history.replaceState(null, "", location.pathname);
fetch("LOGIN_PATH", {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify({token})})
  .then(async (answer) => {
    if (answer.ok) localStorage.setItem("prefect-password", (await answer.json()).login);
    // A link that is opened again finds the login of before; the UI checks it.
    if (localStorage.getItem("prefect-password")) return location.replace(page);
    document.getElementById("said").textContent =
      "This address was used already, or is older than a day. `lema ui start` prints a new one.";
  })
  .catch((error) => { document.getElementById("said").textContent = `The server does not answer: ${error.message}`; });
</script></body></html>
""".replace("LOGIN_PATH", LOGIN_PATH)
LOGIN_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:"
)


class Token(BaseModel):
    """What the login page sends."""

    token: str


class Served:
    """The ASGI application: Prefect's, and our login page beside it."""

    def __init__(self, prefect_app: FastAPI, auth: str) -> None:
        self._prefect, self._login = prefect_app, _login_app(auth)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to the application that has its path; Prefect's has the start and the end of the server."""
        ours = scope["type"] == "http" and f"{scope['path']}/".startswith(f"{LOGIN_PATH}/")
        await (self._login if ours else self._prefect)(scope, receive, send)


def _login_app(auth: str) -> FastAPI:
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    logins = Logins(auth, os.getpid())

    @app.get(LOGIN_PATH)
    @app.get(LOGIN_PATH + "/{page:path}")
    async def open_page(page: str = "") -> HTMLResponse:  # noqa: ARG001 - the page reads it from its address
        headers = {"Content-Security-Policy": LOGIN_POLICY, "Cache-Control": "no-store"}
        return HTMLResponse(LOGIN_PAGE, headers=headers)

    @app.post(LOGIN_PATH)
    async def log_in(given: Token) -> dict[str, str]:
        if not logins.take(given.token):
            raise HTTPException(403, "this token was used already, is older than a day, or is of another server")
        return {"login": stored_login(auth)}

    return app


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    settings = get_current_settings()
    secret = settings.server.api.auth_string
    if secret is None or not secret.get_secret_value():
        sys.exit("PREFECT_SERVER_API_AUTH_STRING is not set; `lema ui start` starts this program with it")
    # Before the umask: this copies the UI beside Prefect's code, where other users of the installation read it.
    prefect_app = create_app(final=True)
    os.umask(0o077)
    name = urlsplit(settings.server.ui.api_url or "").hostname or "localhost"
    origins = settings.server.api.cors_allowed_origins.lower().split(",")
    gate = RequestFilter(hosts=tuple(dict.fromkeys([*RequestFilter().hosts, name])), origins=tuple(origins))
    # Prefect's UI asks an analytics service for its settings, also where analytics are off.
    sockets = [origin.replace("http", "ws", 1) for origin in origins]
    policy = f"connect-src 'self' {' '.join([*origins, *sockets])}"
    uvicorn.run(
        FilteredApp(Served(prefect_app, secret.get_secret_value()), gate, policy),
        host=settings.server.api.host,
        port=settings.server.api.port,
        timeout_keep_alive=settings.server.api.keepalive_timeout,
        ws_ping_interval=settings.server.api.websocket_ping_interval,
        ws_ping_timeout=settings.server.api.websocket_ping_timeout,
        log_level=settings.server.logging_level.lower(),
    )


if __name__ == "__main__":
    main()
