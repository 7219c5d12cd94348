"""A server for the application: where it listens, what the person is told, how it ends."""

from __future__ import annotations

import errno
import getpass
import logging
import os
import socket
import sys
import threading
import webbrowser
from collections.abc import Iterable, Mapping
from contextlib import suppress

import uvicorn
from starlette.types import ASGIApp

from bayes_merger.errors import ConfigError
from bayes_merger.scoring.people.viewer import has_display
from bayes_merger.web.guard import is_loopback

PORT = 8300
"""Where the pages are, if it is free."""

TRIED = 20
"""Ports that are tried from there on."""


def listen(host: str, port: int | None = None) -> socket.socket:
    """A socket that listens.

    Args:
        host: address or name of this machine; ``127.0.0.1`` for itself alone, ``0.0.0.0`` for its network.
        port: to listen at; ``None``: the first free one from :data:`PORT` on.

    Raises:
        ConfigError: the port is in use, or the host is none of this machine's.
    """
    if port is not None and not 0 <= port < 65536:
        raise ConfigError(f"web.port: {port} is no port; give one from 1024 to 65535, like  --port 9000")
    for number in range(PORT, PORT + TRIED) if port is None else (port,):
        try:
            family = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0][0]
            listening = socket.socket(family)
        except OSError as error:
            raise ConfigError(f"web.host: '{host}' is no address of this machine ({error.strerror})") from None
        try:
            # A former server's connections may linger at its port; another server may not listen there
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, os.name != "nt")
            listening.bind((host, number))
            listening.listen(128)
        except OSError as error:
            listening.close()
            if error.errno != errno.EADDRINUSE:
                raise ConfigError(f"web.host: cannot listen at {host}:{number} ({error.strerror})") from None
            continue
        return listening
    if port is None:
        raise ConfigError(f"web.port: none of {PORT} to {PORT + TRIED - 1} is free; choose one, like  --port 9000")
    raise ConfigError(f"web.port: {port} is in use; choose another, like  --port {port + 1}")


def links(listening: socket.socket, path: str, token: str) -> list[str]:
    """Where to find a page, as lines for the person: the link with the token, and how to get there over ssh."""
    host, port = listening.getsockname()[:2]
    lines = [link(listening, path, token, shown) for shown in _reachable(host)]
    if is_loopback(host) and (way := tunnel(port)):
        lines.append(f"from your own machine first:  {way}")
    return lines


def link(listening: socket.socket, path: str, token: str, host: str = "127.0.0.1") -> str:
    """A page's address, with a token."""
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{listening.getsockname()[1]}{path}?token={token}"


def tunnel(port: int, environment: Mapping[str, str] = os.environ) -> str:
    """The command that makes a port of this machine one of the person's, who is logged in over ssh; else empty."""
    connection = environment.get("SSH_CONNECTION", "").split()  # client address and port, ours and our port
    if len(connection) != 4:
        return ""
    other = "" if connection[3] == "22" else f"-p {connection[3]} "
    return f"ssh {other}-L {port}:127.0.0.1:{port} {getpass.getuser()}@{connection[2]}"


def open_browser(link: str, environment: Mapping[str, str] = os.environ) -> None:
    """Show a page to the person who sits at this machine, if one does."""
    if "SSH_CONNECTION" not in environment and has_display(sys.platform, environment):
        threading.Thread(target=webbrowser.open, args=[link], daemon=True).start()


def server_of(app: ASGIApp) -> uvicorn.Server:
    """What serves an application on a socket, until its ``should_exit`` is set."""
    for name in ("uvicorn", "uvicorn.error", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what goes wrong is said by the application
    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=2,
        )
    )


def serve(app: ASGIApp, listening: socket.socket) -> None:
    """Serve until Ctrl-C or a polite kill, which then do what they always do."""
    server_of(app).run(sockets=[listening])


def _reachable(host: str) -> Iterable[str]:
    """The addresses under which others reach a server that listens at ``host``."""
    if host not in ("0.0.0.0", "::"):
        return [host]
    found = ["127.0.0.1"]
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing; the system chooses the address that it would send from
        found.insert(0, probe.getsockname()[0])
    return dict.fromkeys(found)
