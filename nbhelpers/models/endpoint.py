"""Questions to a language model over any OpenAI-compatible endpoint, answered in JSON, cached, a bounded number at a time.

The `openai` SDK (extra `judge`) is the only layer that retries: it waits as Retry-After says. One question takes one request,
a second with a higher cap if the answer was cut off, and one that asks to repair an answer that is not the JSON wanted;
what fails then is missing. A key stands in the SDK's header and nowhere else: no error, log, row or answer holds it.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Generator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from nbhelpers.models.endpoint_client import (
    RETRIES,
    TIMEOUT,
    EndpointError,
    checked_url,
    client,
    finished,
    silent,
)
from nbhelpers.models.verdict_cache import About, Exchange, VerdictCache, key_of

SAMPLING = {"temperature": 0, "seed": 0}
CONCURRENCY = 16
RAISED = 2048  # cap in tokens of the second request, if the first was cut off
SECRET = 8  # characters; a shorter key is a placeholder such as "none" and is not looked for in answers
REPAIR = "Your answer could not be read: {problem}. Send it again as one JSON object as described, and nothing else."


class Ask(NamedTuple):
    """One question: the messages, name and JSON schema of the answer, what reads it, its rubric's hash and cap in tokens.

    `read` takes the raw text and returns the answer; it raises ValueError, whose message says what is wrong.
    """

    messages: list[dict]
    task: str
    schema: dict
    read: Callable[[str], object]
    rubric: str
    cap: int


class Answer(NamedTuple):
    """What came of a question: what `read` returned, or None and why; and whether a request was sent for it now."""

    value: object
    why: str = ""
    sent: bool = False


class _Failed(Exception):
    """A request that failed for good; the message says how, without any key."""


def steps(ask: Ask) -> Generator[tuple[list[dict], int], Exchange, tuple[object, str]]:
    """Yield the requests of a question, (messages, cap), each after the exchange of the one before; return (answer, why).

    The answer is None where it is missing. At most three requests: the first, the same with a higher cap, a repair.
    """
    messages, cap = ask.messages, ask.cap
    reply = yield messages, cap
    if reply.finish == "length":
        cap = max(RAISED, 2 * cap)
        reply = yield messages, cap
        if reply.finish == "length":
            return None, f"cut off at {cap} tokens"
    try:
        return ask.read(reply.text), ""
    except ValueError as error:
        said = {"role": "assistant", "content": reply.text}
        again = {"role": "user", "content": REPAIR.format(problem=error)}
    reply = yield [*messages, said, again], cap
    try:
        return ask.read(reply.text), ""
    except ValueError as error:
        return None, f"not the JSON that was asked for: {error}"


class Endpoint:
    """One model behind one address, with its cache.

    After `answers`, `sent` counts the requests that were answered, `tokens_in` and `tokens_out` their tokens, and `failed`
    the requests without an answer.

    Parameters
    ----------
    url, model, key
        The address up to and with "/v1", the model's name there, and the API key.
    cache
        Where exchanges are kept.
    slot
        Names a second opinion of the same model: "" or "retest". Slots share no answers.
    retry_missing
        Whether questions whose cached answer is missing are asked once more.
    concurrency, timeout, max_retries
        Requests at a time; seconds a request; retries by the SDK.
    """

    def __init__(
        self,
        url: str,
        model: str,
        key: str,
        cache: VerdictCache,
        *,
        slot: str = "",
        retry_missing: bool = False,
        concurrency: int = CONCURRENCY,
        timeout: float = TIMEOUT,
        max_retries: int = RETRIES,
    ):
        self.url, self.model, self.cache, self.slot = checked_url(url), model, cache, slot
        self.retry_missing, self.concurrency = retry_missing, concurrency
        self._key, self._options = key, {"timeout": timeout, "max_retries": max_retries}
        self.plain = cache.plain(self.url, model)
        self.sent = self.tokens_in = self.tokens_out = self.failed = self._in_a_row = 0

    def answers(self, asks: Sequence[Ask], done: Callable[[], object] = lambda: None) -> list[Answer]:
        """Return the answer to each question, from the cache or the endpoint; `done` is called after each.

        EndpointError if the endpoint refuses the key or the model, or fails on every request.
        """
        with silent():
            return finished(self._online(asks, done))

    def waiting(self, asks: Sequence[Ask]) -> list[Ask]:
        """Return the questions that would send a request now; sends none."""

        async def needed():
            return [ask for ask in asks if (await self._answer(ask, None)).sent]

        return finished(needed())

    async def _online(self, asks, done) -> list[Answer]:
        self._gate, self._first = asyncio.Semaphore(self.concurrency), asyncio.Lock()

        async def one(ask):
            answer = await self._answer(ask, asked)
            done()
            return answer

        async with client(self.url, self._key, **self._options) as asked:
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(one(ask)) for ask in asks]
            except BaseExceptionGroup as errors:
                raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _answer(self, ask: Ask, asked) -> Answer:
        """Return one answer: the first attempt in the cache that is not missing, else a new one where that is allowed."""
        for attempt in itertools.count():
            found = await self._attempt(ask, attempt, asked)
            if found.value is not None or found.sent:
                return found
            following = self._key_of(ask, ask.messages, ask.cap, attempt + 1)[0]
            if not self.retry_missing and self.cache.get(following) is None:
                return found

    async def _attempt(self, ask: Ask, attempt: int, asked) -> Answer:
        """Return the answer of one attempt, asking for what the cache lacks; without a client nothing is sent."""
        course, sent, reply = steps(ask), False, None
        while True:
            try:
                messages, cap = course.send(reply)
            except StopIteration as end:
                return Answer(*end.value, sent)
            key, about = self._key_of(ask, messages, cap, attempt)
            reply = self.cache.get(key)
            if reply is None and asked is None:
                return Answer(None, "not asked yet", True)
            if reply is None:
                sent = True
                try:
                    reply = await self._asked(asked, ask, messages, cap)
                except _Failed as error:
                    return Answer(None, str(error), sent)
                self.cache.put(key, about, reply)

    def _key_of(self, ask: Ask, messages, cap, attempt: int) -> tuple[str, About]:
        """Return the key of a request and what the cache says of it."""
        slot = f"{self.slot}{attempt or ''}"
        about = About(self.model, self.url, ask.task, ask.rubric, slot, cap)
        return key_of(about, messages, SAMPLING), about

    async def _asked(self, asked, ask: Ask, messages, cap) -> Exchange:
        """Return a new exchange; until it is known whether the endpoint takes a schema, requests go one by one."""
        async with self._gate:
            if self.plain is None:
                async with self._first:
                    if self.plain is None:
                        return await self._sent(asked, ask, messages, cap)
            return await self._sent(asked, ask, messages, cap)

    async def _sent(self, asked, ask: Ask, messages, cap) -> Exchange:
        """Return the exchange of one request; _Failed if there is no answer, EndpointError if there will be none to any."""
        started = time.monotonic()
        try:
            raw = await self._completed(asked, ask, messages, cap)
        except _Failed as error:
            self.failed, self._in_a_row = self.failed + 1, self._in_a_row + 1
            if self._in_a_row < 2 * self.concurrency:
                raise
            raise EndpointError(
                f"{self.url} failed on {self._in_a_row} requests in a row ({error}); what was answered is kept, and the same "
                "command goes on from there."
            ) from None
        self._in_a_row = 0
        return self._counted(raw, messages, time.monotonic() - started)

    async def _completed(self, asked, ask: Ask, messages, cap):
        """Return the SDK's completion; a server that refuses a JSON schema at first is asked without one from then on."""
        import openai

        refused = (openai.BadRequestError, openai.UnprocessableEntityError)
        try:
            if self.plain is None:
                try:
                    return self._learned(False, await self._create(asked, ask, messages, cap, False))
                except refused:
                    return self._learned(True, await self._create(asked, ask, messages, cap, True))
            return await self._create(asked, ask, messages, cap, self.plain)
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise EndpointError(
                f"{self.url} refuses the key with status {error.status_code}; check OPENAI_API_KEY."
            ) from None
        except openai.NotFoundError:
            raise EndpointError(
                f"{self.url} has no model {self.model!r} or no chat completions; check OPENAI_BASE_URL and the model's name."
            ) from None
        except openai.APIStatusError as error:
            raise _Failed(f"status {error.status_code}") from None
        except openai.APITimeoutError:
            raise _Failed(f"no answer in {self._options['timeout']:g} s") from None
        except openai.APIConnectionError:
            raise _Failed("no connection") from None
        except (openai.APIError, ValueError):
            raise _Failed("an answer that is no completion") from None

    async def _create(self, asked, ask: Ask, messages, cap, plain: bool):
        """Return the completion of one request; ValueError if what came back is none."""
        form = {
            "type": "json_schema",
            "json_schema": {"name": ask.task, "schema": ask.schema, "strict": True},
        }
        found = await asked.chat.completions.create(
            model=self.model,
            messages=messages,
            max_tokens=cap,
            extra_body={}
            if plain
            else {"response_format": form},  # as it stands: the SDK would walk through it
            **SAMPLING,
        )
        if not getattr(found, "choices", None):
            raise ValueError("no choices")
        return found

    def _learned(self, plain: bool, found):
        """Return what was found, after keeping whether the endpoint takes a schema."""
        self.plain = plain
        self.cache.remember_plain(self.url, self.model, plain)
        return found

    def _counted(self, raw, messages, seconds: float) -> Exchange:
        """Return a completion as exchange; tokens that a server does not tell are guessed as a quarter of the characters."""
        choice, usage = raw.choices[0], raw.usage
        text = self._without_key(choice.message.content or "")
        tokens_in = usage.prompt_tokens if usage else guessed(messages)
        tokens_out = usage.completion_tokens if usage else len(text) // 4
        self.sent += 1
        self.tokens_in, self.tokens_out = self.tokens_in + tokens_in, self.tokens_out + tokens_out
        created = datetime.now(UTC).isoformat(timespec="seconds")
        finish = self._without_key(str(choice.finish_reason))
        return Exchange(text, finish, tokens_in, tokens_out, round(seconds, 3), created)

    def _without_key(self, text: str) -> str:
        """Return a server's text without the key, which an echo may hold."""
        return text.replace(self._key, "[key]") if len(self._key) >= SECRET else text


def guessed(messages: list[dict]) -> int:
    """Return about how many tokens messages have: a quarter of their characters."""
    return sum(len(message["content"]) for message in messages) // 4
