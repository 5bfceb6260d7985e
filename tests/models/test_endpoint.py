"""A judge's endpoint against a real local server: what is answered, retried, repaired, missing, cached, and never written."""

import asyncio
import json
import logging
import re
import sqlite3
import subprocess
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import pytest

from nbhelpers.models.endpoint import RAISED, Ask, Endpoint, EndpointError, checked_url
from nbhelpers.models.verdict_cache import About, CacheError, Exchange, VerdictCache, key_of
from tests.endpoints import KEY, completion, hurry, serving, status

SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}


def read(text):
    """Return the number of {"n": …}, from 0 to 9."""
    found = json.loads(text)["n"] if text.startswith("{") else -1
    if not isinstance(found, int) or not 0 <= found <= 9:
        raise ValueError("n must be a digit")
    return found


def ask(i, rubric="r1", cap=50):
    return Ask([{"role": "user", "content": f"say {i}"}], "digit", SCHEMA, read, rubric, cap)


def good(n, body):
    return completion(json.dumps({"n": int(body["messages"][0]["content"].split()[-1]) % 10}))


@pytest.fixture(scope="module")
def running():
    with serving() as found:
        yield found


@pytest.fixture
def server(running, monkeypatch):
    """A server that answers well, and a client that does not wait between its own retries."""
    hurry(monkeypatch)
    return running.cleared(good)


@pytest.fixture
def cache(tmp_path):
    found = VerdictCache(tmp_path / "cache.sqlite")
    yield found
    found.close()


def endpoint(server, cache, **options):
    return Endpoint(server.url, "m", KEY, cache, **options)


def values(found):
    return [answer.value for answer in found]


def test_answers_come_where_a_loop_runs_already(server, cache):
    """A notebook's thread runs one, and so does a browser test."""

    async def inside():
        return values(endpoint(server, cache).answers([ask(i) for i in range(3)]))

    # In a thread of its own, since a browser test may have left a loop that runs in this one.
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: asyncio.run(inside())).result() == [0, 1, 2]


def test_answers_come_in_order_with_temperature_zero_a_seed_and_a_schema(server, cache):
    judge, seen = endpoint(server, cache), []
    found = judge.answers([ask(i) for i in range(12)], lambda: seen.append(1))
    assert values(found) == [i % 10 for i in range(12)] and len(seen) == 12
    assert (judge.sent, judge.failed, judge.tokens_in, judge.tokens_out) == (12, 0, 1200, 240)
    body = server.bodies[0]
    assert (body["temperature"], body["seed"], body["max_tokens"], body["model"]) == (0, 0, 50, "m")
    assert body["response_format"]["json_schema"] == {"name": "digit", "schema": SCHEMA, "strict": True}
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"


def test_nothing_is_asked_twice(server, cache):
    first = endpoint(server, cache).answers([ask(i) for i in range(5)])
    again = endpoint(server, cache)
    assert values(again.answers([ask(i) for i in range(7)])) == [0, 1, 2, 3, 4, 5, 6]
    assert again.sent == 2 and len(server.bodies) == 7 and all(one.sent for one in first)
    assert again.waiting([ask(3), ask(8)]) == [again.waiting([ask(8)])[0]] and len(server.bodies) == 7


@pytest.mark.parametrize("other", [{"rubric": "r2"}, {"cap": 60}])
def test_another_rubric_or_cap_is_another_question(server, cache, other):
    endpoint(server, cache).answers([ask(1)])
    endpoint(server, cache).answers([ask(1, **other)])
    assert len(server.bodies) == 2


def test_a_second_opinion_and_another_model_share_no_answers(server, cache):
    endpoint(server, cache).answers([ask(1)])
    endpoint(server, cache, slot="retest").answers([ask(1)])
    Endpoint(server.url, "n", KEY, cache).answers([ask(1)])
    assert len(server.bodies) == 3
    endpoint(server, cache, slot="retest").answers([ask(1)])
    assert len(server.bodies) == 3


def test_what_decides_an_answer_is_in_its_key():
    about, said, sampling = About("m", "u", "g1", "r", "", 9), [{"role": "user", "content": "x"}], {"seed": 0}
    keys = {key_of(about._replace(**{name: 1}), said, sampling) for name in About._fields}
    keys |= {
        key_of(about, said, sampling),
        key_of(about, [{**said[0], "content": "y"}], sampling),
        key_of(about, said, {"seed": 1}),
    }
    assert len(keys) == len(About._fields) + 3


@pytest.mark.parametrize("code", [500, 503, 429])
def test_what_fails_once_is_retried_by_the_sdk(server, cache, code):
    server.script = lambda n, body: status(code, retry_after="0") if n == 1 else good(n, body)
    judge = endpoint(server, cache)
    assert values(judge.answers([ask(1)])) == [1] and len(server.bodies) == 2 and judge.failed == 0


def test_retry_after_is_waited_for(server, cache):
    server.script = lambda n, body: status(429, retry_after="0.3") if n == 1 else good(n, body)
    started = time.monotonic()
    assert values(endpoint(server, cache).answers([ask(1)])) == [1]
    assert time.monotonic() - started >= 0.3


def test_the_sdk_is_the_only_layer_that_retries(server, cache):
    server.script = lambda n, body: 500
    judge = endpoint(server, cache, max_retries=3)
    (answer,) = judge.answers([ask(1)])
    assert answer == (None, "status 500", True) and len(server.bodies) == 4 and judge.failed == 1
    server.script = good  # a failed request was not paid for, so it is asked again
    assert values(endpoint(server, cache).answers([ask(1)])) == [1]


def test_a_slow_server_times_out(server, cache):
    def slow(n, body):
        time.sleep(0.5)
        return good(n, body)

    server.script = slow
    (answer,) = endpoint(server, cache, timeout=0.1, max_retries=0).answers([ask(1)])
    assert answer.value is None and answer.why == "no answer in 0.1 s"


@pytest.mark.parametrize("said", ["no JSON", '{"n": 1', '{"n": 12}', '{"n": "1"}', '{"n": null}', ""])
def test_what_cannot_be_read_is_repaired_once(server, cache, said):
    server.script = lambda n, body: completion(said) if len(body["messages"]) == 1 else completion('{"n": 7}')
    judge = endpoint(server, cache)
    assert values(judge.answers([ask(1)])) == [7] and judge.sent == 2
    first, second = server.bodies
    assert second["messages"][:1] == first["messages"] and second["messages"][1]["content"] == said
    assert "could not be read" in second["messages"][2]["content"]
    assert values(endpoint(server, cache).answers([ask(1)])) == [7] and len(server.bodies) == 2


def test_what_cannot_be_repaired_is_missing_and_asked_again_only_on_request(server, cache):
    server.script = lambda n, body: completion("never JSON")
    (answer,) = endpoint(server, cache).answers([ask(1)])
    assert answer.value is None and "not the JSON" in answer.why and len(server.bodies) == 2
    assert values(endpoint(server, cache).answers([ask(1)])) == [None] and len(server.bodies) == 2
    server.script = good
    assert endpoint(server, cache, retry_missing=True).waiting([ask(1)])
    assert values(endpoint(server, cache, retry_missing=True).answers([ask(1)])) == [1]
    assert values(endpoint(server, cache).answers([ask(1)])) == [1] and len(server.bodies) == 3
    kept = [row[0] for row in sqlite3.connect(cache.path).execute("SELECT text FROM exchange")]
    assert kept.count("never JSON") == 2, "the raw replies stay"


def test_what_is_cut_off_gets_a_higher_cap_once(server, cache):
    server.script = lambda n, body: (
        completion('{"n"', "length") if body["max_tokens"] == 50 else good(n, body)
    )
    assert values(endpoint(server, cache).answers([ask(1)])) == [1]
    assert [body["max_tokens"] for body in server.bodies] == [50, RAISED]
    server.script = lambda n, body: completion('{"n": 2', "length")
    (answer,) = endpoint(server, cache).answers([ask(2)])
    assert answer == (None, f"cut off at {RAISED} tokens", True) and len(server.bodies) == 4
    assert endpoint(server, cache).answers([ask(2)])[0].value is None and len(server.bodies) == 4


@pytest.mark.parametrize("code", [400, 422])
def test_a_server_without_response_formats_is_asked_plainly_and_that_is_remembered(server, cache, code):
    server.script = lambda n, body: code if "response_format" in body else good(n, body)
    judge = endpoint(server, cache)
    assert values(judge.answers([ask(i) for i in range(8)])) == list(range(8))
    assert sum("response_format" in body for body in server.bodies) == 1 and len(server.bodies) == 9
    endpoint(server, cache).answers([ask(9)])
    assert len(server.bodies) == 10 and "response_format" not in server.bodies[-1]


def test_a_refused_request_is_missing_and_does_not_make_the_server_a_plain_one(server, cache):
    server.script = lambda n, body: 400 if "say 1" in str(body) else good(n, body)
    judge = endpoint(server, cache)
    assert values(judge.answers([ask(0), ask(1), ask(2)])) == [0, None, 2]
    assert cache.plain(judge.url, "m") is False
    assert Endpoint(server.url, "m", KEY, cache).answers([ask(1)])[0].why == "status 400"


@pytest.mark.parametrize(
    "code, says", [(401, "refuses the key"), (403, "refuses the key"), (404, "has no model 'm'")]
)
def test_a_wrong_key_or_model_ends_it_in_one_sentence(server, cache, code, says):
    server.script = lambda n, body: code
    with pytest.raises(EndpointError, match=says) as error:
        endpoint(server, cache).answers([ask(i) for i in range(50)])
    assert len(server.bodies) <= 16 and "\n" not in str(error.value)


def test_a_server_that_fails_on_everything_is_given_up(server, cache):
    server.script = lambda n, body: 500
    with pytest.raises(EndpointError, match=r"failed on 8 requests in a row \(status 500\)"):
        endpoint(server, cache, max_retries=0, concurrency=4).answers([ask(i) for i in range(100)])
    assert len(server.bodies) < 20


def test_a_server_that_is_not_there(cache):
    judge = Endpoint("http://127.0.0.1:9/v1", "m", KEY, cache, max_retries=0)
    assert judge.answers([ask(1)])[0].why == "no connection"


@pytest.mark.parametrize("body", [{}, {"choices": []}, {"error": "no"}])
def test_an_answer_that_is_no_completion_is_missing(server, cache, body):
    server.script = lambda n, _: body
    assert endpoint(server, cache).answers([ask(1)])[0].why == "an answer that is no completion"


def test_at_most_so_many_requests_at_a_time(server, cache):
    running, most = [], []

    def watched(n, body):
        running.append(n)
        most.append(len(running))
        time.sleep(0.1)
        running.remove(n)
        return good(n, body)

    server.script = watched
    endpoint(server, cache, concurrency=3).answers([ask(i) for i in range(10)])
    assert 2 <= max(most) <= 3


@pytest.mark.parametrize(
    "url, says",
    [("api.example.org/v1", "no address"), ("ftp://host/v1", "no address"), ("", "no address"),
     (f"https://me:{KEY}@host/v1", "holds more"), (f"https://host/v1?key={KEY}", "holds more")],
)  # fmt: skip
def test_an_address_with_a_key_in_it_is_refused_without_saying_it(url, says):
    with pytest.raises(EndpointError, match=says) as error:
        checked_url(url)
    assert KEY not in str(error.value)


def echo(n, body):
    """Return an answer or an error that repeats the key, as servers do."""
    if n == 1:
        return status(500, f"Incorrect key {KEY}", retry_after="0")
    if n == 2:
        return completion(f"no JSON but {KEY}")
    return completion(json.dumps({"n": 1, "reason": KEY}), finish=f"stop {KEY}")


def test_a_key_is_nowhere_after_answers_that_repeat_it(server, cache, tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    server.script = echo
    judge = endpoint(server, cache)
    assert values(judge.answers([ask(i) for i in range(3)])) == [1, 1, 1]
    found = Endpoint(server.url, "m", KEY, cache, max_retries=0)
    cache.close()
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"[key]" in written and KEY.encode() not in written
    assert KEY not in caplog.text and KEY not in "".join(capfd.readouterr())
    assert KEY not in str(found) and KEY not in repr(found)


@pytest.mark.parametrize("code", [400, 401, 403, 404, 500])
def test_a_key_is_in_no_error_when_the_server_repeats_it(server, cache, caplog, code):
    caplog.set_level(logging.DEBUG)
    server.script = lambda n, body: status(code, f"Incorrect API key provided: {KEY}", www_authenticate=KEY)
    said = ""
    try:
        said = str(endpoint(server, cache, max_retries=0).answers([ask(1)]))
    except EndpointError as error:
        said = str(error) + "".join(traceback.format_exception(error))
    assert said and KEY not in said and KEY not in caplog.text


def test_a_placeholder_is_no_secret(server, cache):
    server.script = lambda n, body: completion('{"n": 1, "reason": "none of it"}')
    Endpoint(server.url, "m", "none", cache).answers([ask(1)])
    (row,) = sqlite3.connect(cache.path).execute("SELECT text FROM exchange").fetchall()
    assert "none of it" in row[0]


@pytest.mark.slow
def test_the_sdk_can_be_imported_after_nnsight():
    """nnsight gives every object a `save`, which anyio refuses when it is imported later; afterwards nnsight has it back."""
    code = (
        "import nnsight, sys\n"
        "assert 'openai' not in sys.modules and hasattr(object, 'save')\n"
        "from nbhelpers.models.endpoint_client import client\n"
        "client('http://localhost/v1', 'none')\n"
        "import anyio._backends._asyncio, anyio.streams.tls\n"
        "assert hasattr(object, 'save')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_cache_that_is_none_is_one_sentence(tmp_path):
    path = tmp_path / "cache.sqlite"
    path.write_bytes(b"no database, but long enough to be told from an empty file" * 20)
    with pytest.raises(CacheError, match=re.escape(str(path))):
        VerdictCache(path)


def test_two_processes_write_one_cache(tmp_path):
    """Both write at once; every row is there, and the first of a key stays."""
    code = (
        "import sys; from nbhelpers.models.verdict_cache import *\n"
        "cache = VerdictCache(sys.argv[1]); who = sys.argv[2]\n"
        "for i in range(200):\n"
        "    for key in (f'{who}{i}', f'both{i}'):\n"
        "        cache.put(key, About('m', 'u', 't', 'r', '', 1), Exchange(who, 'stop', 1, 1, 0.1, 'now'))\n"
    )
    path = tmp_path / "cache.sqlite"
    running = [subprocess.Popen([sys.executable, "-c", code, str(path), who]) for who in "ab"]
    assert [process.wait(60) for process in running] == [0, 0]
    cache = VerdictCache(path)
    assert all(cache.get(f"{who}{i}").text == who for who in "ab" for i in range(200))
    assert all(cache.get(f"both{i}").text in "ab" for i in range(200)) and cache.get("c1") is None
    before = cache.get("both0")
    cache.put("both0", About("m", "u", "t", "r", "", 1), Exchange("c", "stop", 1, 1, 0.1, "now"))
    assert cache.get("both0") == before
