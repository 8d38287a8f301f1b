"""Gateways as processes of their own on one ledger: they share its bounds, and one that dies loses nothing."""

from __future__ import annotations

import threading
from pathlib import Path

from benchmarks.gateway_load import Client, Seen, at_once, conversation, events
from benchmarks.gateway_process import DOMAIN, GATEWAY, Process, ledger_of, make, new_key, running
from flock_ray.chain.keys import run_signer
from flock_ray.market.answering import AT_ONCE
from flock_ray.market.ledger import LEASE
from flock_ray.market.ledger_values import Gateway, State
from flock_ray.market.receipts import receipt_signer
from flock_ray.protocol.hashing import sha256
from tests.waiting import PATIENCE, wait_until

TEXT = "x" * 32
COST = 32 * 8


def test_64_clients_race_one_budget_through_two_gateways(tmp_path: Path) -> None:
    make(tmp_path)
    key, secret = new_key(tmp_path, budget=40 * COST + 10)
    seen = Seen()
    with running(tmp_path) as one, running(tmp_path) as two:

        def ask(number: int) -> None:
            client = Client((one, two)[number % 2].port, secret, PATIENCE)
            for _ in range(1_000):
                status, body = client.whole(conversation(TEXT, max_tokens=32))
                seen.note(status, body)
                if status == 429 and body["error"]["code"] == "insufficient_quota":
                    return

        at_once(64, ask)
    with ledger_of(tmp_path) as ledger:
        (spent,) = [one.spent for one in ledger.keys.find() if one.id == key]
        assert ledger.balance(ledger.keys.find()[0].terms.account).reserved == 0
    assert spent == 40 * COST == sum(seen.receipts.values())
    assert seen.statuses[200] == 40 == len(seen.receipts)


def test_a_gateway_killed_in_the_middle_of_several_prompts_bills_those_that_it_had_begun(tmp_path: Path) -> None:
    make(tmp_path)
    key, secret = new_key(tmp_path)
    gateway = Process(tmp_path, "echo", 0.005)
    client = Client(gateway.port, secret, PATIENCE)
    body = {"model": "model-0", "prompt": ["x" * 400] * 3 * AT_ONCE, "stream": True}
    response = client.ask(body, path="/v1/completions")
    for count, _ in enumerate(events(response)):
        if count == 40:
            gateway.kill()
            break
    client.close()
    with ledger_of(tmp_path, LEASE + 5) as ledger:
        ledger.bind(Gateway(GATEWAY, DOMAIN, lends=False), 32, 3_600)
        (row,) = ledger.recover(receipt_signer(run_signer(1, "receipts"), DOMAIN))
        assert row.receipt is not None and row.reservation.prompt_tokens == 400 * 3 * AT_ONCE
        billed = row.receipt.receipt
        assert billed.prompt_tokens == 400 * AT_ONCE and billed.output_tokens == row.delivered > 0
        (spent,) = [one.spent for one in ledger.keys.find() if one.id == key]
        assert spent == billed.cost == 400 * AT_ONCE * 2 + row.delivered * 6


def test_a_gateway_killed_in_the_middle_of_streams_bills_what_it_had_noted(tmp_path: Path) -> None:
    make(tmp_path)
    key, secret = new_key(tmp_path)
    gateway, streams = Process(tmp_path, "echo", 0.005), 4
    half, got = threading.Barrier(streams + 1), dict[str, int]()

    def read(number: int) -> None:
        client = Client(gateway.port, secret, PATIENCE)
        response = client.ask(conversation("x" * 3_000, stream=True))
        request = response.headers["x-request-id"]
        try:
            for count, _ in enumerate(events(response)):  # the first has only the role
                got[request] = count
                if count == 40 + number:
                    half.wait()
        except OSError:
            return

    threads = [threading.Thread(target=read, args=(number,)) for number in range(streams)]
    for thread in threads:
        thread.start()
    half.wait()
    gateway.kill()
    for thread in threads:
        thread.join()
    sign = receipt_signer(run_signer(1, "receipts"), DOMAIN)
    with ledger_of(tmp_path, LEASE + 5) as ledger:
        ledger.bind(Gateway(GATEWAY, DOMAIN, lends=False), 32, 3_600)
        ended = ledger.recover(sign)
        assert len(ended) == streams and ledger.recover(sign) == []
        for request, tokens in got.items():
            row = ledger.row(bytes.fromhex(request))
            assert row and row.state is State.SETTLED and row.receipt and row.finish_reason == "interrupted"
            billed = row.receipt.receipt.output_tokens
            assert tokens - 2 * 16 < billed <= tokens + 16 and billed % 16 == 0  # what was on its way is not read
            assert row.receipt.receipt.output == sha256(b"x" * billed)
        (spent,) = [one.spent for one in ledger.keys.find() if one.id == key]
        assert spent == sum(row.cost for row in ended)
    with running(tmp_path) as again:  # and another one goes on
        wait_until(lambda: Client(again.port, secret, PATIENCE).whole(conversation(TEXT))[0] == 200)
