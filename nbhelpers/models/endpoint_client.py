"""The client of an OpenAI-compatible endpoint: its address is checked, its loggers are quiet, its loop finds a thread."""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

RETRIES = 6  # by the SDK, the only ones
TIMEOUT = 60  # seconds a request


class EndpointError(RuntimeError):
    """An endpoint that cannot be asked; the message is one sentence without any key."""


def checked_url(url: str) -> str:
    """Return an endpoint's address without a slash at its end.

    EndpointError if it is none, or holds a name, password or query, which may be a key.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise EndpointError("OPENAI_BASE_URL is no address; write it like https://host/v1.")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise EndpointError(
            f"OPENAI_BASE_URL for {parts.hostname} holds more than an address; put the key into OPENAI_API_KEY."
        )
    return url.rstrip("/")


def client(url: str, key: str, *, timeout: float = TIMEOUT, max_retries: int = RETRIES):
    """Return the SDK's asynchronous client of an endpoint; EndpointError if the extra `judge` is not installed."""
    try:
        with _bare_objects():
            from anyio.abc import SocketAttribute  # noqa: F401
            from anyio.streams.tls import TLSAttribute  # noqa: F401
            from openai import AsyncOpenAI
    except ImportError:
        raise EndpointError(
            "the judge needs the openai package: run `pip install --editable '.[judge]'`."
        ) from None
    return AsyncOpenAI(base_url=url, api_key=key, timeout=timeout, max_retries=max_retries)


@contextlib.contextmanager
def _bare_objects() -> Iterator[None]:
    """Take nnsight's `save` off every object while anyio, below the SDK, is imported: it refuses attributes unknown to it."""
    if not hasattr(object, "save"):
        yield
        return
    import nnsight
    from nnsight import _c

    _c.unmount("save")
    try:
        yield
    finally:
        _c.mount(nnsight.save, "save")


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Keep HTTP libraries from logging below a warning: at DEBUG they log a server's headers, which may repeat the key."""
    loggers = [logging.getLogger(name) for name in ("openai", "httpx2", "httpcore2")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        yield
    finally:
        for logger, level in zip(loggers, before):
            logger.setLevel(level)


def finished(coroutine: Coroutine):
    """Return what a coroutine returns; in a thread of its own where a loop runs already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()
