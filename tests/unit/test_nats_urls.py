"""URLs of NATS servers: one and several, with and without a login, which is never shown."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventchain.errors import ConfigError
from eventchain.nats.urls import parse_servers, parse_url


@pytest.mark.parametrize(
    ("url", "server", "login"),
    [
        ("nats://h", "nats://h:4222", {}),
        ("tls://h:1", "tls://h:1", {}),
        ("nats://h:", "nats://h:4222", {}),
        ("nats://[::1]", "nats://[::1]:4222", {}),
        ("tls://[2001:db8::1]:4333", "tls://[2001:db8::1]:4333", {}),
        ("nats://me:pw@h:1", "nats://h:1", {"user": "me", "password": "pw"}),
        ("nats://me:pw@[::1]:1", "nats://[::1]:1", {"user": "me", "password": "pw"}),
        ("nats://m%3Ae:%40%2F%2C@h", "nats://h:4222", {"user": "m:e", "password": "@/,"}),
        ("nats://t0ken@h", "nats://h:4222", {"token": "t0ken"}),
        ("nats://t%3A0@h", "nats://h:4222", {"token": "t:0"}),
        ("nats://me:@h", "nats://h:4222", {"user": "me", "password": ""}),
    ],
)
def test_server_and_login(url, server, login):
    parsed = parse_url(url)
    assert (parsed.server, parsed.login) == (server, login)
    assert "@" not in parsed.shown
    assert parsed.shown.startswith(server.removesuffix(":4222"))


@given(st.text(min_size=1), st.text())
def test_any_user_and_password_can_be_written(user, password):
    parsed = parse_url(f"nats://{quote(user, safe='')}:{quote(password, safe='')}@h:4222")
    assert parsed.login == {"user": user, "password": password}
    assert parsed.shown == "nats://h:4222"


def test_several():
    found = parse_servers("nats://me:a%2Cb@h1:1, nats://me:a%2Cb@h2 ,nats://[::1]:3")
    assert [url.server for url in found] == ["nats://h1:1", "nats://h2:4222", "nats://[::1]:3"]
    assert [url.login for url in found] == [{"user": "me", "password": "a,b"}] * 2 + [{}]


@pytest.mark.parametrize(
    ("urls", "said"),
    [
        ("", "no URL"),
        ("h:4222", "no URL"),
        ("http://h", "no URL"),
        ("nats://", "no URL"),
        ("nats://::1:4222", "no URL"),
        ("nats://h:99999", "no URL"),
        ("nats://h1,h2", "no URL"),
        ("nats://h1,,nats://h2", "no URL"),
        ("nats://me:s3c,s3cret@h", "no URL"),
        ("nats://me:1234,s3cret@h", "no URL"),
        ("nats://me:s3cret/@h", "no URL"),
        ("nats://s3c@s3cret@h", "no URL"),
        ("nats://me:s3cret@h/stream", "'nats://h/stream' has a path"),
        ("nats://me:s3cret@h?x=1", "unknown option 'x'"),
        ("nats://me:s3cret@h1,nats://you:s3cret@h2", "different logins"),
    ],
)
def test_what_is_none_is_refused_and_no_secret_shown(urls, said):
    with pytest.raises(ConfigError, match=said) as caught:
        parse_servers(urls)
    assert "s3c" not in str(caught.value)
    assert caught.value.hint
