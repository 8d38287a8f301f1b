"""Forgeries of a run, and what the verifier must say of each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from eth_account.typed_transactions.typed_transaction import TypedTransaction
from hexbytes import HexBytes

from flock_ray.chain import transactions
from flock_ray.chain.abi import contract
from flock_ray.chain.keys import compact
from flock_ray.chain.values import TxContext
from flock_ray.protocol.ballot import ballot_body, read_ballot_a, read_ballot_b
from flock_ray.protocol.encoding import canonical_json, to_hex
from flock_ray.protocol.hashing import sha256
from flock_ray.protocol.message import Kind, Message
from tests.verify.forger import ATTACKER, Forger

if TYPE_CHECKING:
    pass

Forgery = Callable[[Forger], None]
FORGERIES: dict[str, tuple[Forgery, str]] = {}


def forgery(caught: str) -> Callable[[Forgery], Forgery]:
    """A forgery, and what the verifier must say of it (a regular expression)."""

    def add(function: Forgery) -> Forgery:
        FORGERIES[function.__name__] = (function, caught)
        return function

    return add


# Records, with every hash above them recomputed.


@forgery(r"epoch 1 record\.rewards\[0\]\[1\]: claimed")
def a_reward_is_raised(forger: Forger) -> None:
    def raise_it(record: Any) -> None:
        member = record["rewards"][0][0]
        record["rewards"][0][1] += 10**18
        next(row for row in record["members"] if row[0] == member)[3] += 10**18
        record["pool_left"] -= 10**18

    forger.forge_record(1, raise_it)


@forgery(r"epoch 1 record\.members")
def a_row_is_added(forger: Forger) -> None:
    """The cheat's, which the epoch did not pay."""
    paid = {number for number, *_ in forger.read("records/1.json")["members"]}
    [other] = set(range(8)) - paid or {0}
    row = [other, 3_000 * 10**18, 0, 10**18, 0, {}]
    forger.forge_record(1, lambda record: record.update(members=sorted([*record["members"], row])))


@forgery(r"epoch 2 record\.changes")
def a_member_joins_that_nobody_let_in(forger: Forger) -> None:
    def let_in(record: Any) -> None:
        record["changes"] = [[8, 1, 2, False]]
        record["joined"] = [[ATTACKER.address, 1, to_hex(sha256(b"tip")), 3_000 * 10**18, 0]]

    forger.forge_record(2, let_in)


@forgery(r"epoch 2 record\.changes")
def a_member_is_thrown_out(forger: Forger) -> None:
    forger.forge_record(2, lambda record: record.update(changes=[[0, 1, 2, True]]))


@forgery(r"epoch 2 record\.slashes")
def a_slash_is_taken_back(forger: Forger) -> None:
    forger.forge_record(2, lambda record: record.update(slashes=[]))


@forgery(r"epoch 2 record\.slashes")
def a_slash_is_invented(forger: Forger) -> None:
    slash = {"member": 0, "amount": 10**18, "reason": "harmful"}
    forger.forge_record(2, lambda record: record["slashes"].insert(0, slash))


@forgery(r"epoch 1 record\.proposals\[0\]\.score")
def a_score_is_raised(forger: Forger) -> None:
    forger.forge_record(1, lambda record: record["proposals"][0].update(score=10**9))


@forgery(r"epoch 2 record\.proposals\[\d\]\.status: claimed accepted, found (harmful|rejected)")
def a_bad_proposal_is_accepted(forger: Forger) -> None:
    def accept(record: Any) -> None:
        bad = (proposal for proposal in record["proposals"] if proposal["status"] in ("harmful", "rejected"))
        next(bad)["status"] = "accepted"

    forger.forge_record(2, accept)


@forgery(r"epoch 1 record\.voters\[0\]")
def two_roles_are_swapped(forger: Forger) -> None:
    def swap(record: Any) -> None:
        record["voters"][0], record["proposers"][0] = record["proposers"][0], record["voters"][0]

    forger.forge_record(1, swap)


@forgery(r"epoch 2 record\.seed")
def another_seed_draws_the_second_epoch(forger: Forger) -> None:
    forger.forge_record(2, lambda record: record.update(seed=to_hex(sha256(b"better"))))


@forgery(r"epoch 1 record\.next_seed")
def another_seed_follows(forger: Forger) -> None:
    forger.forge_record(1, lambda record: record.update(next_seed=to_hex(sha256(b"better"))))


@forgery(r"epoch 1 record\.accepted")
def the_verdict_is_turned(forger: Forger) -> None:
    forger.forge_record(1, lambda record: record.update(accepted=not record["accepted"]))


@forgery(r"epoch 1 record\.candidate\.adapter")
def another_candidate_is_named(forger: Forger) -> None:
    forger.forge_record(1, lambda record: record["candidate"].update(adapter=to_hex(sha256(b"mine"))))


@forgery(r"epoch 1 record\.pool_left")
def the_pool_is_drained(forger: Forger) -> None:
    forger.forge_record(1, lambda record: record.update(pool_left=0))


@forgery(r"epoch 2 record\.members\[0\]\[1\]")
def a_stake_is_lowered(forger: Forger) -> None:
    forger.forge_record(2, lambda record: record["members"][0].__setitem__(1, 1))


@forgery(r"records/2\.json is not the canonical text")
def the_mechanism_is_made_to_note_something(forger: Forger) -> None:
    forger.forge_record(2, lambda record: record["members"][0][5].update(weight=10**6))


@forgery(r"epoch 1 record\.proposals\[0\]\.entering")
def more_of_an_update_enters(forger: Forger) -> None:
    entering = {"score": 10**9, "band": 50, "gains": [[0, 10**9]]}
    forger.forge_record(1, lambda record: record["proposals"][0].update(entering=entering))


@forgery(r"epoch 1 record\.candidate\.steps")
def the_score_of_a_step_is_raised(forger: Forger) -> None:
    forger.forge_record(1, lambda record: record["candidate"]["steps"][0].__setitem__(2, 10**9))


@forgery(r"epoch 1 record\.candidate\.step: claimed 7")
def another_step_is_taken(forger: Forger) -> None:
    forger.forge_record(1, lambda record: record["candidate"].update(step=7))


@forgery(r"epoch 1 record\.voiceless")
def a_voter_loses_its_voice(forger: Forger) -> None:
    """A first epoch has no accuracies to lose it by."""
    forger.forge_record(1, lambda record: record.update(voiceless=record["voters"][:1]))


@forgery(r"epoch 1 record\.fees")
def a_fee_is_invented(forger: Forger) -> None:
    forger.forge_record(1, lambda record: record["fees"].append([7, 10**18, 0]))


@forgery(r"epoch 2 record\.withheld")
def more_is_withheld(forger: Forger) -> None:
    forger.forge_record(2, lambda record: record.update(withheld=record["withheld"] + 1))


@forgery(r"records/1\.json is not the canonical text")
def a_record_says_more_than_it_should(forger: Forger) -> None:
    forger.forge_record(1, lambda record: record.update(note="nothing to see here"))


# Messages.


@forgery(r"epoch 1 record\.messages")
def a_message_is_left_out_of_the_receipt(forger: Forger) -> None:
    name, _ = forger.message(1, "ballot_b")
    forger.change("receipts/1.json", lambda receipt: receipt["messages"].pop(name))


@forgery(r"receipt of epoch 1: the signature of voter \d+ is not its own")
def a_ballot_is_left_out_and_all_derived_again(forger: Forger) -> None:
    forger.rederive(drop=[forger.message(1, "ballot_b")[0]])


@forgery(r"epoch 2: message 0x\w+…: a ballot_a of epoch 1")
def a_ballot_of_another_epoch_is_replayed(forger: Forger) -> None:
    name, _ = forger.message(1, "ballot_a")
    signature = forger.read("receipts/1.json")["messages"][name]
    forger.change("receipts/2.json", lambda receipt: receipt["messages"].update({name: signature}))
    forger.rederive()


@forgery(r"epoch 1: message 0x\w+…: member \d did not sign this ballot_a")
def a_ballot_is_changed(forger: Forger) -> None:
    name, message = forger.message(1, "ballot_a")
    ballot, salt = read_ballot_a(message)
    entries = tuple(replace(entry, score=replace(entry.score, gain=7)) for entry in ballot.entries if entry.score)
    forger.replace_message(1, name, replace(message, body=ballot_body(replace(ballot, entries=entries), salt)))


@forgery(r"epoch 1: message 0x\w+…: member \d did not sign this ballot_b")
def a_ballot_is_signed_by_the_attacker(forger: Forger) -> None:
    name, message = forger.message(1, "ballot_b")
    ballot, salt = read_ballot_b(message)
    reveal = replace(ballot, reveal=sha256(b"a better seed"))
    forger.replace_message(1, name, replace(message, body=ballot_body(reveal, salt)), ATTACKER)


@forgery(r"epoch 1: message 0x\w+…: member \d did not sign this acknowledgement")
def a_list_passes_for_another_voter_s(forger: Forger) -> None:
    name, message = forger.message(1, "acknowledgement")
    other = forger.message(1, "acknowledgement", 1)[1].member
    forger.replace_message(1, name, replace(message, member=other))


@forgery(r"epoch 1: message 0x\w+…: a commitment of epoch 1 of task 0x")
def a_commitment_to_another_task_is_used(forger: Forger) -> None:
    name, message = forger.message(1, "commitment")
    forger.replace_message(1, name, replace(message, task=sha256(b"another task")), ATTACKER)


@forgery(r"epoch 1: message 0x\w+…: no message of the schema")
def garbage_passes_for_a_message(forger: Forger) -> None:
    name = to_hex(forger.store.put(b'{"kind": "ballot_a"}'))
    forger.change("receipts/1.json", lambda receipt: receipt["messages"].update({name: "0x" + "11" * 65}))


@forgery(r"epoch 1: message 0x\w+…: a manifest of member 99, whom")
def a_stranger_speaks(forger: Forger) -> None:
    name, message = forger.message(1, "manifest")
    foreign = Message(Kind.MANIFEST, message.task, 1, 99, message.body)
    new = to_hex(forger.store.put(foreign.data))
    forger.change("receipts/1.json", lambda receipt: receipt["messages"].update({new: "0x" + "11" * 65}))
    assert new != name


@forgery(r"blob \w+ has other bytes than its hash says")
def a_stored_message_is_overwritten(forger: Forger) -> None:
    blob = forger.blob(forger.message(2, "ballot_a")[0])
    blob.write_bytes(blob.read_bytes().replace(b"valid", b"vexed"))


@forgery(r"epoch 2: message 0x\w+ is not in the store")
def a_stored_message_is_removed(forger: Forger) -> None:
    forger.blob(forger.message(2, "acknowledgement")[0]).unlink()


# Payloads and adapters.


def accepted_payload(forger: Forger, epoch: int = 1) -> str:
    proposals = forger.read(f"records/{epoch}.json")["proposals"]
    return str(next(proposal["payload"] for proposal in proposals if proposal["status"] == "accepted"))


@forgery(r"blob \w+ has other bytes than its hash says")
def a_payload_is_altered(forger: Forger) -> None:
    blob = forger.blob(accepted_payload(forger))
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)


@forgery(r"payload 0x\w+… of member \d, judged accepted, is not in the store")
def a_payload_is_removed(forger: Forger) -> None:
    forger.blob(accepted_payload(forger)).unlink()


@forgery(r"message 0x\w+…: member \d did not sign this manifest")
def a_manifest_names_another_payload(forger: Forger) -> None:
    name, manifest = forger.message(1, "manifest")
    data = bytearray(forger.blob(str(manifest.body["payload"])).read_bytes())
    data[-1] ^= 1
    payload = to_hex(forger.store.put(bytes(data)))
    forger.replace_message(1, name, replace(manifest, body={**manifest.body, "payload": payload}))


@forgery(r"the global adapter 0x\w+ is not in the store")
def the_first_adapter_is_removed(forger: Forger) -> None:
    forger.blob(forger.task["terms"]["start_adapter"]).unlink()


@forgery(r"SHA-256 of adapter/adapter_model\.safetensors")
def the_final_adapter_is_another(forger: Forger) -> None:
    path = forger.path / "adapter/adapter_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    digest = to_hex(forger.store.put(bytes(data)))
    forger.change("summary.json", lambda summary: summary.update(final_adapter_hash=digest))


@forgery(r"adapter_config\.json\.lora_alpha")
def the_adapter_is_scaled(forger: Forger) -> None:
    forger.change("adapter/adapter_config.json", lambda config: config.update(lora_alpha=2 * config["lora_alpha"]))


@forgery(r"adapter_config\.json\.use_rslora is True")
def the_adapter_is_scaled_by_an_option(forger: Forger) -> None:
    forger.change("adapter/adapter_config.json", lambda config: config.update(use_rslora=True))


@forgery(r"adapter_config\.json\.target_modules")
def the_adapter_is_put_elsewhere(forger: Forger) -> None:
    forger.change("adapter/adapter_config.json", lambda config: config["target_modules"].pop())


# Receipts.


@forgery(r"receipt of epoch 1: the signature of voter \d+ is not its own")
def a_signature_is_the_attacker_s(forger: Forger) -> None:
    def sign(receipt: Any) -> None:
        receipt["signatures"][next(iter(receipt["signatures"]))] = forger.sign_report(1)

    forger.change("receipts/1.json", sign)


@forgery(r"receipt of epoch 1: 2 seats signed, 3 are needed")
def two_signatures_are_claimed_to_be_enough(forger: Forger) -> None:
    def thin_out(receipt: Any) -> None:
        receipt["signatures"] = dict(list(receipt["signatures"].items())[:2])

    forger.change("receipts/1.json", thin_out)


@forgery(r"receipt of epoch 2: \d+ signed and is no voter")
def a_proposer_signs(forger: Forger) -> None:
    proposer = forger.read("records/2.json")["proposers"][0]
    signature = forger.sign_report(2)
    forger.change("receipts/2.json", lambda receipt: receipt["signatures"].update({str(proposer): signature}))


@forgery(r"receipt of epoch 1: the signature of voter \d+ is not its own")
def the_relayer_s_part_goes_to_the_attacker(forger: Forger) -> None:
    forger.task["relayer"] = ATTACKER.address
    forger.write("task.json", forger.task)
    forger.reseal()


@forgery(r"receipt of epoch 1\.report\.rewards_total")
def a_receipt_states_another_total(forger: Forger) -> None:
    forger.change("receipts/1.json", lambda receipt: receipt["report"].update(rewards_total=1))


@forgery(r"receipt of epoch 2: transaction")
def a_receipt_names_another_transaction(forger: Forger) -> None:
    settlement = forger.read("receipts/1.json")["settlement"]
    forger.change("receipts/2.json", lambda receipt: receipt.update(settlement=settlement))
    forger.change("summary.json", lambda summary: summary["epochs"][1].update(
        settlement_tx=settlement["transaction"], gas_used=settlement["gas_used"]))  # fmt: skip


@forgery(r"receipt of epoch 1: gas used")
def a_receipt_states_less_gas(forger: Forger) -> None:
    forger.change("receipts/1.json", lambda receipt: receipt["settlement"].update(gas_used=21_000))
    forger.change("summary.json", lambda summary: summary["epochs"][0].update(gas_used=21_000))


# The genesis, and what is said of the run.


@forgery(r"member 0 in task\.json")
def two_members_are_swapped(forger: Forger) -> None:
    members = forger.task["members"]
    members[0], members[1] = members[1], members[0]
    forger.write("task.json", forger.task)
    forger.rederive()


@forgery(r"does not answer as a|slots_per_member, of 0x|member 0 in task\.json")
def a_member_s_account_is_the_attacker_s(forger: Forger) -> None:
    forger.task["members"][0][0] = ATTACKER.address
    forger.write("task.json", forger.task)
    forger.rederive()


@forgery(r"task id of this creator, these terms and this seed")
def another_seed_is_claimed(forger: Forger) -> None:
    config = (forger.path / "config.yaml").read_text()
    (forger.path / "config.yaml").write_text(config.replace(f"seed: {forger.run_seed}\n", "seed: 12\n"))


@forgery(r"seed of epoch 1")
def the_first_seed_is_chosen(forger: Forger) -> None:
    forger.task["seed"] = to_hex(sha256(b"better"))
    forger.write("task.json", forger.task)
    forger.rederive()


@forgery(r"config\.yaml training\.learning_rate: claimed 0\.1")
def another_learning_rate_is_claimed(forger: Forger) -> None:
    forger.change_config("training", "learning_rate", 0.1)


@forgery(r"configuration hash")
def another_configuration_is_claimed(forger: Forger) -> None:
    forger.change_config("training", "learning_rate", 0.1)
    forger.task["configuration"]["training.learning_rate"] = "0.1"
    forger.write("task.json", forger.task)


@forgery(r"terms on chain\.termsHash")
def another_configuration_is_claimed_down_to_the_task_s_id(forger: Forger) -> None:
    forger.change_config("training", "learning_rate", 0.1)
    forger.task["configuration"]["training.learning_rate"] = "0.1"
    forger.forge_terms(configuration=sha256(canonical_json(forger.task["configuration"])))


@forgery(r"config\.yaml\.num_voters")
def a_larger_committee_is_claimed(forger: Forger) -> None:
    forger.change_config("alliance", "num_voters", 5)


@forgery(r"epoch 2 of 2: records/2\.json is missing")
def the_last_epoch_is_cut_off(forger: Forger) -> None:
    for folder in ("records", "receipts"):
        (forger.path / folder / "2.json").unlink()
    forger.change("summary.json", lambda summary: summary.update(epochs=summary["epochs"][:1]))


@forgery(r"records/3\.json is of an epoch that the task does not have")
def an_epoch_is_added(forger: Forger) -> None:
    shutil.copy(forger.path / "records/2.json", forger.path / "records/3.json")


@forgery(r"terms on chain\.termsHash")
def the_run_is_claimed_to_have_one_epoch(forger: Forger) -> None:
    the_last_epoch_is_cut_off(forger)
    forger.change_config("alliance", "num_epochs", 1)
    forger.forge_terms(num_epochs=1)


@forgery(r"summary\.json\.members\[0\]\.earned_wei")
def the_summary_says_that_more_was_earned(forger: Forger) -> None:
    def raise_it(summary: Any) -> None:
        summary["members"][0]["earned_wei"] += 10**18
        summary["members"][0]["balance_end_wei"] += 10**18

    forger.change("summary.json", raise_it)


@forgery(r"summary\.json\.epochs\[1\]\.candidate_score")
def the_summary_says_that_an_epoch_was_better(forger: Forger) -> None:
    forger.change("summary.json", lambda summary: summary["epochs"][1].update(candidate_score=10**6))


@forgery(r"summary\.json\.epochs\[0\]\.fees")
def the_summary_says_that_somebody_paid_a_fee(forger: Forger) -> None:
    row = {"member": 0, "charged_wei": 10**18, "withheld_wei": 0}
    forger.change("summary.json", lambda summary: summary["epochs"][0].update(fees=[row, row, row, row, row]))


@forgery(r"summary\.json\.epochs\[0\]\.step: claimed 7")
def the_summary_names_another_step(forger: Forger) -> None:
    forger.change("summary.json", lambda summary: summary["epochs"][0].update(step=7))


@forgery(r"summary\.json\.num_honest_members_with_more")
def the_summary_counts_more_winners(forger: Forger) -> None:
    forger.change("summary.json", lambda summary: summary.update(num_honest_members_with_more=99))


@forgery(r"summary\.json\.chain\.contracts")
def the_summary_names_another_token(forger: Forger) -> None:
    forger.change("summary.json", lambda summary: summary["chain"]["contracts"].update(token=ATTACKER.address))


# The chain: its journal mined again, so that all its hashes fit.


def context(forger: Forger, address: str, nonce: int) -> TxContext:
    return TxContext(forger.domain.chain_id, nonce, fee(forger), 10**6, 10**21, 10**27, **forger.task["contracts"])


def fee(forger: Forger) -> int:
    return transactions.max_fee_of(bytes.fromhex(json.loads(journal(forger)[0])["raws"][0]))


def journal(forger: Forger) -> list[str]:
    return (forger.path / "chain/blocks.jsonl").read_text().splitlines()


def call(forger: Forger, nonce: int, to: str, data: bytes) -> bytes:
    """A transaction of the creator."""
    fields = {"type": 2, "chainId": forger.domain.chain_id, "nonce": nonce, "maxFeePerGas": fee(forger),
              "maxPriorityFeePerGas": 10**6, "gas": 1_500_000, "to": to, "value": 0, "data": data}  # fmt: skip
    return forger.creator.sign_transaction(fields)


def call_of(raw: bytes) -> tuple[bytes, int, bytes]:
    """(selector, nonce, data) of a transaction."""
    fields = TypedTransaction.from_bytes(HexBytes(raw)).as_dict()
    data = bytes(HexBytes(fields["data"]))
    return data[:4], fields["nonce"], data


def settlements(forger: Forger) -> list[int]:
    """Numbers of the transactions that settle epochs, from 0."""
    compiled = contract("EpochSettlement")
    report = (bytes(32), 0, bytes(32), bytes(32), bytes(32), bytes(32), 0, (), bytes(32), bytes(32), "0x" + "00" * 20)
    selector = compiled.encode("settle", report, 0, b"")[:4]
    raws = [bytes.fromhex(raw) for line in journal(forger) for raw in json.loads(line)["raws"]]
    return [number for number, raw in enumerate(raws) if call_of(raw)[0] == selector]


@forgery(r"block 3 of the chain has another hash")
def a_block_s_time_is_changed(forger: Forger) -> None:
    lines = journal(forger)
    block = json.loads(lines[2])
    lines[2] = json.dumps(block | {"timestamp": block["timestamp"] + 1})
    (forger.path / "chain/blocks.jsonl").write_text("\n".join(lines))


@forgery(r"claims of member \d: claimed 0")
def nobody_was_paid(forger: Forger) -> None:
    last = settlements(forger)[-1]
    forger.remine(lambda number, raw: [raw] if number <= last else [])


@forgery(r"EpochSettlement logged EpochSettled 0 times")
def an_epoch_is_not_settled(forger: Forger) -> None:
    last = settlements(forger)[-1]
    forger.remine(lambda number, raw: [raw] if number < last else [])


@forgery(r"EpochSettlement logged EpochSettled 0 times")
def an_epoch_is_settled_by_the_attacker_s_signatures(forger: Forger) -> None:
    data = (forger.path / "records/1.json").read_bytes()
    report = forger.report_of(json.loads(data), sha256(data))
    signatures = compact(bytes.fromhex(forger.sign_report(1)[2:])) * 3
    first = settlements(forger)[0]

    def change(number: int, raw: bytes) -> list[bytes]:
        if number != first:
            return [raw] if number < first else []
        ctx = context(forger, forger.relayer.address, call_of(raw)[1])
        return [transactions.settle(forger.relayer, ctx, report, 0b111, signatures)]

    forger.remine(change)


@forgery(r"terms on chain\.termsHash: claimed 0x0{64}, found")  # another pool is another task
def the_creator_escrows_less(forger: Forger) -> None:
    terms = (bytes(32), bytes(32), bytes(32), *[0] * 13, True)
    selector = contract("TaskRegistry").encode("createTask", terms, bytes(32))[:4]
    first = settlements(forger)[0]

    def change(number: int, raw: bytes) -> list[bytes]:
        called, nonce, data = call_of(raw)
        if called != selector:
            return [raw] if number < first else []
        pool = 4 + 3 * 32
        data = data[:pool] + (10**18).to_bytes(32, "big") + data[pool + 32 :]
        return [call(forger, nonce, forger.task["contracts"]["task"], data)]

    forger.remine(change)


@forgery(r"was not deployed as this package's FlockToken")
def another_token_is_deployed(forger: Forger) -> None:
    deployed = call(forger, 0, "", contract("FlockToken").bytecode + b"\0")
    forger.remine(lambda number, raw: [raw] if number else [deployed])


@forgery(r"receipt of epoch \d: gas used|tokens of the creator")
def the_token_begins_with_more_than_pool_and_stakes(forger: Forger) -> None:
    def change(number: int, raw: bytes) -> list[bytes]:
        if number:
            return [raw]
        data = call_of(raw)[2]
        supply = int.from_bytes(data[-32:], "big") + 10**18
        return [call(forger, 0, "", data[:-32] + supply.to_bytes(32, "big"))]

    forger.remine(change)


@forgery(r"chain/genesis\.json is missing")
def the_chain_is_taken_away(forger: Forger) -> None:
    shutil.rmtree(forger.path / "chain")


@forgery(r"chain id: claimed|does not run")
def another_chain_id_is_claimed(forger: Forger) -> None:
    forger.change("chain/genesis.json", lambda genesis: genesis.update(chain_id=1))
