"""A server that speaks the protocol of chat completions, for tests of the judge: it says what a script tells it to."""

import contextlib
import json
import threading

from pytest_httpserver import HTTPServer
from werkzeug import Response
from werkzeug.serving import WSGIRequestHandler

KEY = "sk-planted-0123456789abcdef"


def completion(text, finish="stop", tokens=(100, 20)):
    """Return the body of a chat completion."""
    return {
        "id": "x", "object": "chat.completion", "created": 0, "model": "m",
        "choices": [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)},
    }  # fmt: skip


def answer(body):
    """Return the JSON that a good judge sends to a request: 4, the first class, or A."""
    text = body["messages"][0]["content"]
    for field, value in (("winner", "A"), ("g1", 4), ("g2", 4), ("s1", "REFUSE"), ("s2", "ANSWERS")):
        if f'{{"{field}":' in text:
            return json.dumps({field: value, "reason": "because"})
    raise AssertionError("a request that names no field")


class Server:
    """What was asked, and how it is answered: `script` maps (number of the request, body) to a body, status or Response."""

    def __init__(self, httpserver):
        self._lock = threading.Lock()
        self.cleared()
        self.url = httpserver.url_for("/v1")
        httpserver.expect_request("/v1/chat/completions", method="POST").respond_with_handler(self._respond)

    def cleared(self, script=lambda n, body: completion(answer(body))):
        """Forget what was asked, and answer by a script from now on."""
        self.bodies, self.headers, self.script = [], [], script
        return self

    def _respond(self, request):
        body = json.loads(request.data)
        with self._lock:
            self.bodies.append(body)
            self.headers.append(dict(request.headers))
            n = len(self.bodies)
        said = self.script(n, body)
        if isinstance(said, Response):
            return said
        if isinstance(said, int):
            return Response(
                json.dumps({"error": {"message": "no"}}), status=said, content_type="application/json"
            )
        return Response(json.dumps(said), content_type="application/json")


def status(code, message="no", **headers):
    """Return a response of an error, with headers such as retry_after."""
    names = {name.replace("_", "-").title(): value for name, value in headers.items()}
    return Response(
        json.dumps({"error": {"message": message}}),
        status=code,
        headers=names,
        content_type="application/json",
    )


@contextlib.contextmanager
def serving():
    """Yield a server of many threads that keeps connections open, as endpoints do; it takes half a second to end."""
    before = WSGIRequestHandler.protocol_version
    WSGIRequestHandler.protocol_version = "HTTP/1.1"
    try:
        with HTTPServer(host="127.0.0.1", threaded=True) as httpserver:
            yield Server(httpserver)
    finally:
        WSGIRequestHandler.protocol_version = before


def hurry(monkeypatch):
    """Keep the SDK from waiting between its own retries, except where a server says Retry-After."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.001)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.002)
