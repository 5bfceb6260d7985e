"""`nbh judge` from a finished result to a file of verdicts: nothing sent unasked, nothing paid twice, no key anywhere."""

import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import xarray as xr

from nbhelpers import experiments
from nbhelpers.core import params, store
from nbhelpers.core.params import ParameterError
from nbhelpers.measures import llm_judge
from nbhelpers.measures.judge import PAIRWISE, TASKS, Item, Verdict
from nbhelpers.run import judging
from tests.endpoints import KEY, answer, completion, hurry, serving, status
from tests.stubs import REPOSITORY

ARMS = ("A", "B_late", "C")
KEPT = {"small_talk": 3, "harmful": 2, "harmless": 3, "fact": 2}


@pytest.fixture(scope="module")
def running():
    with serving() as found:
        yield found


def records():
    """A few pocket records of each of four kinds."""
    lines = (REPOSITORY / "pocket/evaluation.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return [record for kind, n in KEPT.items() for record in [r for r in found if r["kind"] == kind][:n]]


def finished(root, arms=ARMS, change=""):
    """Write the prompts and a finished result of exp90 on ann: each condition's reply names it."""
    rows = records()
    (root / "evaluation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    profile = root / "params/profiles/pocket.yml"
    profile.write_text(profile.read_text().replace("prompts: stub", f"prompts: {root}/evaluation.jsonl"))
    texts = np.array([[f"{arm} says {row['reply']}{change}" for row in rows] for arm in arms], dtype=object)
    text = xr.DataArray(texts, dims=("condition", "prompt"), attrs={"units": "1", "long_name": "reply"})
    coords = {"condition": list(arms), "prompt": [row["id"] for row in rows]}
    run = experiments.resolve("exp90", model="ann", profile="pocket")
    about = store.provenance(run, wall_time_s=0.0, device="cpu")
    store.save(
        xr.Dataset({"text": text}, coords=coords),
        store.result_path("pocket", "ann", "exp90"),
        provenance=about,
    )
    return text.assign_coords(coords)


@pytest.fixture
def server(running, project, monkeypatch):
    """A finished result, a server that answers well, and the environment that names it."""
    hurry(monkeypatch)
    finished(project)
    running.cleared()
    for name, value in (
        ("OPENAI_BASE_URL", running.url),
        ("OPENAI_API_KEY", KEY),
        ("NBH_JUDGE_MODEL", "wise"),
    ):
        monkeypatch.setenv(name, value)
    return running


def judge(**options):
    return list(judging.judge("exp90", "ann", **options))


def verdicts():
    path = llm_judge.judged_path("pocket", "ann", "exp90")
    return store.load(path, experiment="exp90_judge")


def test_verdicts_stand_beside_the_result(server):
    lines = judge(prices=(10.0, 100.0))
    found = verdicts()
    # g1 of 10 prompts, g2 of 3, s1 of 2, s2 of 3, of three conditions; 3 + 3 pairs in two orders; one of each task twice
    first, again = 3 * 18 + 12, 2 + 1 + 1 + 1 + 1 + 1
    assert len(server.bodies) == first + again
    assert lines[0].startswith(
        f"wise: {first} items, {first + again} requests now (0 failed), {100 * (first + again)} tokens read"
    )
    assert lines[0].endswith(f"{(100 * 10 + 20 * 100) * (first + again) / 1e6:.2f} in money")
    assert (
        lines[-2] == "wrote _build/results/pocket/ann/exp90_judge.nc"
        and "`nbh run exp90 --model ann" in lines[-1]
    )
    assert found["task"].values.tolist() == [*TASKS, *PAIRWISE] and found["judge"].values.tolist() == ["wise"]
    rating = found.rating.sel(judge="wise", condition="C")
    assert (rating.sel(task="g1") == 4).all() and int(rating.sel(task="s2").notnull().sum()) == 3
    assert int(found.missing.sum()) == 0 and found.missing.notnull().all()
    # A judge that always says A: the target in one order, the other in the other.
    preference = found.preference.sel(task="pairwise_g2", judge="wise", comparison="pt_late_vs_a").dropna(
        "prompt"
    )
    assert preference.sel(order="target_first").values.tolist() == [1, 1, 1]
    assert preference.sel(order="target_second").values.tolist() == [-1, -1, -1]
    assert (
        found.retest_n.sel(judge="wise").values.tolist() == [2, 1, 1, 1, 1, 1]
        and float(found.retest_flips.sum()) == 0
    )
    swaps = found.order_swaps.sel(judge="wise", comparison="pt_late_vs_a")
    assert (
        swaps.sel(task=list(PAIRWISE)).values.tolist() == [1, 1]
        and swaps.sel(task=list(TASKS)).isnull().all()
    )
    assert lines[1].startswith("wise: 0 of 7 verdicts differ when asked again, 100.0% of the preferences")
    assert found.attrs["endpoint"] == server.url and "g1:" in found.attrs["rubrics"]


def test_the_judge_is_blind(server):
    """Requests hold nothing of the condition, model or experiment: with two arms renamed they stay the same."""

    def sent():
        return sorted(json.dumps(body["messages"]) for body in server.bodies)

    judge()
    first, path = sent(), store.result_path("pocket", "ann", "exp90")
    found = store.load(path)
    renamed = found.assign_coords(condition=["B_late", "A", "C"])
    store.save(renamed, path, provenance=found.attrs)
    server.cleared()
    (params.ROOT / "_build/judge_cache.sqlite").unlink()
    judge()
    assert sent() == first and not any(
        word in text for word in ("exp90", "ann ", "condition") for text in first
    )


def test_a_second_run_sends_nothing_and_a_new_reply_is_judged(server, project):
    judge()
    sent, before = len(server.bodies), verdicts()
    lines = judge()
    assert len(server.bodies) == sent and " 0 requests now" in lines[0]
    xr.testing.assert_equal(verdicts(), before)
    finished(project, change="!")
    judge()
    assert len(server.bodies) == 2 * sent


def test_a_dry_run_predicts_what_is_sent_and_sends_nothing(server, project, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    lines = judge(dry_run=True, prices=(1e6, 0.0))
    assert server.bodies == [] and "nothing was sent" in lines[-1]
    assert lines[0].startswith("wise: 73 requests (0 more are cached), about ")
    assert not llm_judge.judged_path("pocket", "ann", "exp90").exists()
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    judge()
    read = sum(len(message["content"]) for body in server.bodies for message in body["messages"]) / 4
    told = int(lines[0].split("about ")[1].split()[0])
    assert len(server.bodies) == 73 and abs(told - read) <= 73
    assert lines[0].endswith(f"{told:.2f} in money")
    assert judge(dry_run=True)[0].startswith("wise: 0 requests (73 more are cached)")


def test_two_judges_stand_side_by_side(server):
    server.cleared(
        lambda n, body: (
            completion(answer(body).replace("4", "2"))
            if body["model"] == "fool"
            else completion(answer(body))
        )
    )
    judge(judge_models=["wise", "fool"])
    rating = verdicts().rating.sel(task="g1", condition="A")
    assert (rating.sel(judge="wise") == 4).all() and (rating.sel(judge="fool") == 2).all()


def test_flips_are_measured(server):
    """A judge that says something else when it is asked the same again: all that is asked twice flips, of g1 alone."""
    seen = []

    def fickle(n, body):
        again = body["messages"] in seen
        seen.append(body["messages"])
        return completion(answer(body).replace('"g1": 4', f'"g1": {2 if again else 4}'))

    server.cleared(fickle)
    judge()
    found = verdicts().sel(judge="wise")
    assert found.retest_n.values.tolist() == [2, 1, 1, 1, 1, 1]
    assert found.retest_flips.values.tolist() == [2, 0, 0, 0, 0, 0]
    assert (found.rating.sel(task="g1") == 4).all(), "the second verdict replaces none"


def test_flips_by_hand():
    items = [Item("g1", "q", str(i)) for i in range(4)] + [Item("s2", "q", "r")]
    first = [Verdict(v) for v in (1, 2, 3, np.nan, 0)]
    second = [Verdict(v) for v in (1, 3, 5, 2, 0)]
    found = llm_judge.flips(items, first, second, ["g1", "s1", "s2"])
    assert found.retest_n.values.tolist() == [3, 0, 1] and found.retest_flips.values.tolist() == [2, 0, 0]


def test_five_percent_of_each_task_are_judged_twice_the_same_ones_each_time():
    items = [Item("g1", "q", str(i)) for i in range(100)] + [Item("s2", "q", "r")]
    chosen = llm_judge.retested(items)
    assert [item.task for item in chosen] == ["g1"] * 5 + ["s2"]
    assert set(llm_judge.retested(items[::-1] + items)) == set(chosen)


def test_missing_verdicts_are_warned_of_by_arm_and_an_arm_without_any_fails(server):
    def broken(*words):
        return lambda n, body: completion(
            "?" if all(word in body["messages"][0]["content"] for word in words) else answer(body)
        )

    server.cleared(broken('{"g1"', "C says Nice"))
    expected = sum(record["reply"].startswith("Nice") for record in records())
    warned = [line for line in judge() if "are missing" in line]
    assert expected and warned == [f"wise · g1 · C: {expected / 10:.1%} of 10 verdicts are missing"]
    assert int(verdicts().missing.sum()) == expected
    server.cleared(broken('{"s1"', "B_late says"))
    with pytest.raises(store.ResultError, match="other · s1 · B_late: none of 2 verdicts"):
        judge(judge_models=["other"])


@pytest.mark.parametrize(
    "lost, says",
    [
        ("OPENAI_BASE_URL", "no endpoint is named"),
        ("OPENAI_API_KEY", "no key is set"),
        ("NBH_JUDGE_MODEL", "no judge is named"),
    ],
)
def test_nothing_is_sent_unless_all_is_named(server, monkeypatch, lost, says):
    monkeypatch.delenv(lost)
    with pytest.raises(ParameterError, match=says) as error:
        judge()
    assert server.bodies == [] and str(error.value).endswith("nothing was sent.")


def test_what_cannot_be_judged_is_said(server, project):
    with pytest.raises(store.ResultError, match="no result _build/results/pocket/bob/exp90.nc yet"):
        list(judging.judge("exp90", "bob"))
    (project / "evaluation.jsonl").write_text(json.dumps(records()[0]) + "\n")
    with pytest.raises(ParameterError, match="no longer among its prompts"):
        judge()
    path = store.result_path("pocket", "ann", "exp90")
    found = store.load(path)
    store.save(found.isel(condition=0), path, provenance=found.attrs)
    with pytest.raises(ParameterError, match="no replies by condition and prompt"):
        judge()
    assert server.bodies == []


def test_pages_read_verdicts_on_the_replies_that_they_show(server, project):
    text = finished(project)
    none, said = llm_judge.stored("pocket", "ann", "exp90", text)
    assert none is None and "`nbh judge exp90 --model ann --profile pocket`" in said
    judge()
    found, said = llm_judge.stored("pocket", "ann", "exp90", text)
    assert said.startswith("Judged by wise on 2") and found.rating.sizes["condition"] == 3
    old, said = llm_judge.stored("pocket", "ann", "exp90", finished(project, change="!"))
    assert old is None and "earlier replies" in said
    llm_judge.judged_path("pocket", "ann", "exp90").write_bytes(b"no result")
    old, said = llm_judge.stored("pocket", "ann", "exp90", text)
    assert old is None and "cannot be read" in said


def test_no_key_is_written_or_shown_when_a_server_repeats_it(server, project, run_cli, caplog):
    caplog.set_level(logging.DEBUG)
    server.cleared(lambda n, body: completion(f'{answer(body)[:-1]}, "key": "{KEY}"}} {KEY}'))
    code, said, errors = run_cli("judge", "exp90", "--model", "ann")
    assert code == 0, errors
    server.cleared(lambda n, body: status(401, f"Incorrect API key: {KEY}", www_authenticate=KEY))
    code, more, wrong = run_cli("judge", "exp90", "--model", "ann", "--judge-model", "other")
    assert code != 0
    with pytest.raises(store.ResultError, match="refuses the key with status 401") as error:
        judge(judge_models=["other"])
    shown = said + errors + more + wrong + caplog.text + str(error.value)
    assert KEY not in shown
    files = [path for path in project.rglob("*") if path.is_file()]
    assert any(path.name == "exp90_judge.nc" for path in files) and any(
        "sqlite" in path.name for path in files
    )
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


@pytest.mark.slow
def test_after_a_kill_in_the_middle_nothing_is_paid_twice(server):
    """Killed while four requests hang: what was answered before is not asked again, the rest is."""
    free, killed = 30, threading.Event()
    code = "from nbhelpers.run import judging; list(judging.judge('exp90', 'ann', concurrency=4))"

    def script(n, body):
        if n > free:
            killed.wait(60)
        return completion(answer(body))

    server.cleared(script)
    environment = os.environ | {"NBHELPERS_ROOT": str(params.ROOT), "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, env=environment)
    while len(server.bodies) < free + 4 and process.poll() is None:
        time.sleep(0.05)
    process.kill()
    process.wait()
    killed.set()
    first = [json.dumps(body["messages"]) for body in server.bodies]
    assert len(first) == free + 4
    judge()
    second = [json.dumps(body["messages"]) for body in server.bodies[free + 4 :]]
    assert len(second) == 73 - free, "only what hung is asked again"
    assert len(set(first[:free]) & set(second)) <= 7, "the retest asks the same on purpose, nothing else does"
    assert int(verdicts().missing.sum()) == 0


@pytest.mark.slow
def test_ctrl_c_ends_it_without_a_traceback_and_keeps_what_was_answered(server):
    free, ended = 10, threading.Event()

    def script(n, body):
        if n > free:
            ended.wait(60)
        return completion(answer(body))

    server.cleared(script)
    environment = os.environ | {"NBHELPERS_ROOT": str(params.ROOT), "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "nbhelpers", "judge", "exp90", "--model", "ann"]
    process = subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    while len(server.bodies) < free + 16 and process.poll() is None:  # 16 hang: the rest is written
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    ended.set()
    assert process.returncode == 130 and "Traceback" not in said and KEY not in said
    (kept,) = sqlite3.connect(judging.cache_path()).execute("SELECT count(*) FROM exchange").fetchone()
    assert kept >= free
