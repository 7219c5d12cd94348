"""Where a server listens, and what the person is told of it."""

from __future__ import annotations

import socket

import pytest

from bayes_merger.errors import ConfigError
from bayes_merger.web.guard import local_names
from bayes_merger.web.serving import links, listen, tunnel


def test_only_this_machine_reaches_it_unless_one_says_so() -> None:
    with listen("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        assert links(listening, "/rate/x", "t")[0] == f"http://127.0.0.1:{port}/rate/x?token=t"
    with listen("0.0.0.0", 0) as listening:
        port = listening.getsockname()[1]
        assert f"http://127.0.0.1:{port}/rate/x?token=t" in links(listening, "/rate/x", "t")
    with listen("::1", 0) as listening:
        port = listening.getsockname()[1]
        assert links(listening, "/rate/x", "t")[0] == f"http://[::1]:{port}/rate/x?token=t"


def test_over_ssh_the_way_there_is_told() -> None:
    here = {"SSH_CONNECTION": "192.0.2.1 51000 192.0.2.9 22"}
    assert tunnel(8300, here).startswith("ssh -L 8300:127.0.0.1:8300 ")
    assert tunnel(8300, here).endswith("@192.0.2.9")
    assert tunnel(8301, {"SSH_CONNECTION": "192.0.2.1 51000 192.0.2.9 2222"}).startswith("ssh -p 2222 -L 8301:")
    assert tunnel(8300, {}) == tunnel(8300, {"SSH_CONNECTION": "nonsense"}) == ""


def test_a_port_in_use_is_told_with_the_way_out() -> None:
    with listen("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(ConfigError, match=f"web.port: {port} is in use; choose another, like  --port {port + 1}"):
            listen("127.0.0.1", port)


def test_without_a_port_the_next_free_one_is_taken() -> None:
    with listen("127.0.0.1") as one, listen("127.0.0.1") as other:
        assert one.getsockname()[1] != other.getsockname()[1]


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.77", "", "a b"])
def test_an_address_of_another_machine_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match=r"web\.host"):
        listen(host, 0)


def test_a_machine_is_known_by_its_name_only_where_others_reach_it() -> None:
    assert local_names("127.0.0.1") == {"localhost"}
    assert socket.gethostname().lower() in local_names("0.0.0.0")


@pytest.mark.parametrize("port", [-1, 65536, 10**30])
def test_what_is_no_port_is_refused(port: int) -> None:
    with pytest.raises(ConfigError, match=r"web\.port: .* is no port"):
        listen("127.0.0.1", port)
