"""The command line of `flock-ray`: each command names the function that runs it, so nothing slow is imported here."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flock_ray.commands.arguments import (
    address,
    amount,
    basis_points,
    book_or_address,
    count,
    digest,
    numbers,
    positive,
    seconds,
    task,
)
from flock_ray.commands.ledger_parser import add_deposit, add_gateway, add_key, add_usage
from flock_ray.commands.market_parser import add_feedback, add_models
from flock_ray.commands.parser_parts import of_run as _of_run
from flock_ray.commands.parser_parts import sentence as _sentence
from flock_ray.commands.settings import (
    SWEEP,
    ChatSettings,
    EvaluateSettings,
    ExportSettings,
    MarketDemoSettings,
    StatusSettings,
    SubmitSettings,
    SweepSettings,
    words_of,
)

COMPOSED = {
    ("alliance",): "alliance:run",
    ("arena",): "arena:run",
    ("demo",): "demo:run",
    ("check",): "check:check",
    ("deployment", "deploy"): "deploy:deploy",
    ("serve",): "serve:serve",
}
"""Commands whose arguments are overrides of a configuration, with `--help` and all other options: Hydra's."""


PARSED = (("arena", "submit"), ("arena", "status"))
"""Commands under one of these words that are parsed like all others."""


def build_parser() -> argparse.ArgumentParser:
    """The parser; it sets `act` to `module:function` of the command."""
    parser = argparse.ArgumentParser(
        prog="flock-ray",
        description="FL Alliance on Ray: train together, settle on a chain, hold stake, check what others did.",
        epilog="flock-ray COMMAND --help tells more; docs/commands.md has a line for each, docs/exit-codes.md the exit"
        " codes.",
    )
    commands = _sub_parsers(parser)
    commands.add_parser("alliance", help="train: an alliance from configuration to report", add_help=False)
    arena = commands.add_parser(
        "arena", help="contest: find the best of many adapters, settled day by day", add_help=False
    )
    _add_submissions(_sub_parsers(arena))
    commands.add_parser("demo", help="an alliance of private code in the size that suits this machine", add_help=False)
    commands.add_parser("check", help="look whether a run will work, before it costs anything", add_help=False)
    commands.add_parser("serve", help="serve what was trained, through the API of OpenAI's clients", add_help=False)
    _add_sweep(_Group(commands, "sweep", "many runs over the values of some settings, and what they came to"))
    _add_verify(commands)
    _add_results(commands)
    _add_compare(commands)
    add_models(commands)
    add_feedback(commands)
    _add_task(_Group(commands, "task", "a task: its members, its money, evidence about it"))
    _add_stake(_Group(commands, "stake", "an operator's own stake"))
    _add_pool(_Group(commands, "pool", "an operator's pool: its terms, and what it was paid"))
    _add_delegation(_Group(commands, "delegation", "stake that an account delegates to operators"))
    _add_account(_Group(commands, "account", "what an account owns"))
    _add_deployment(_Group(commands, "deployment", "the contracts on a chain"))
    add_key(_Group(commands, "key", "keys of a gateway's API"))
    add_usage(_Group(commands, "usage", "what a gateway's users used, and its settlement"))
    add_gateway(_Group(commands, "gateway", "a gateway's stake and receipt keys"), _chain, _sender, _much)
    add_deposit(_Group(commands, "deposit", "what users deposit at a gateway, and their caps"), _chain, _sender, _much)
    return parser


def _sub_parsers(parser: argparse.ArgumentParser) -> Any:
    return parser.add_subparsers(title="commands", metavar="COMMAND", required=True)


class _Group:
    """Commands with one first word."""

    def __init__(self, commands: Any, name: str, help: str) -> None:
        self._name = name
        self.parsers = _sub_parsers(commands.add_parser(name, help=help, description=_sentence(help)))

    def add(self, name: str, help: str, *parts: Callable[[Any], None], act: str = "") -> argparse.ArgumentParser:
        """Add a command, run by `<group>:<name>` unless `act` names another function; the parts add its arguments."""
        parser: argparse.ArgumentParser = self.parsers.add_parser(name, help=help, description=_sentence(help))
        parser.set_defaults(act=act or f"{self._name}:{name}")
        for part in parts:
            part(parser)
        return parser


# Parts of commands


def _chain(parser: Any) -> None:
    parser.add_argument("--rpc", required=True, metavar="URL", help="node of the chain")
    parser.add_argument(
        "--contracts", type=Path, metavar="PATH", help="address book of a deployment, or the folder of a run on it"
    )
    parser.add_argument(
        "--from-block", type=int, metavar="NUMBER",
        help="first block to search the vault's logs from, if not that of its deployment",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object; amounts in wei, times in seconds")


def _sender(parser: Any) -> None:
    _chain(parser)
    parser.add_argument(
        "--key", required=True, metavar="NAME", help="account that sends and pays the gas, for example member-0"
    )
    parser.add_argument("--keystore", default="", metavar="DIR", help="folder of keystores, instead of the environment")
    parser.add_argument("--dry-run", action="store_true", help="show what would be sent and its cost, send nothing")


def _of_task(parser: Any) -> None:
    parser.add_argument("task", metavar="TASK", type=task, help="id of the task (0x...), or the folder of a run")


def _of_operator(parser: Any) -> None:
    parser.add_argument("operator", metavar="OPERATOR", type=address, help="address of the operator")


def _of_creator(parser: Any) -> None:
    parser.add_argument("creator", metavar="CREATOR", type=address, help="address of the creator")


def _of_account(parser: Any) -> None:
    parser.add_argument("account", metavar="ACCOUNT", type=address, help="address of the account")


def _for_account(parser: Any) -> None:
    parser.add_argument("--account", type=address, help="another account than the one that sends")


def _much(parser: Any) -> None:
    much = parser.add_mutually_exclusive_group(required=True)
    much.add_argument("amount", nargs="?", metavar="AMOUNT", type=amount, help="whole tokens, for example 12.5")
    much.add_argument("--all", action="store_true", help="all that there is")


# Commands


def _add_verify(commands: Any) -> None:
    help = (
        "replay a finished run, or a batch of usage, from what was signed, and name the first thing that does not hold"
    )
    verify = commands.add_parser("verify", help=help, description=_sentence(help))
    verify.set_defaults(act="verify:verify")
    verify.epilog = (
        "Exit codes: 0 everything held, 51 something does not, 61 no finished run, or one that was pruned, 41 the RPC"
        " does not answer, 21 the base model of --rescore is missing, or another one."
    )
    _of_run(verify)
    verify.add_argument(
        "--anchor",
        metavar="HASH",
        type=digest,
        help="what the run started from (task, terms, members' accounts, contract), as you know it from elsewhere:"
        " without it a forger who made up all members would pass",
    )
    verify.add_argument(
        "--rpc", default="", metavar="URL", help="node that you trust, for a run, or a batch, on an external chain"
    )
    verify.add_argument("--store", default="", metavar="URL", help="where the blobs are, if not in RUN_DIR/store")
    again = verify.add_argument_group("losses of a contest, measured again")
    again.add_argument(
        "--rescore", action="store_true",
        help="load the base model, measure what the ballots say, and name the first that lies outside the tolerance",
    )  # fmt: skip
    again.add_argument("--days", type=numbers, metavar="N,...", help="only these days")
    again.add_argument("--rows", type=positive, metavar="N", help="at most so many rows of each rung, drawn")
    again.add_argument("--seed", type=count, metavar="N", help="of that draw (default: a new one, which is told)")
    again.add_argument(
        "--tolerance", type=count, metavar="N",
        help="micro-nats a token that machines may differ by (default: audit_tolerance of the terms)",
    )  # fmt: skip
    again.add_argument(
        "--model", type=Path, metavar="DIR", help="folder of the base model, if not where the run's config.yaml says"
    )
    again.add_argument(
        "--threads", type=positive, metavar="N", help="CPU threads (default: those of a worker of the run)"
    )


def _add_results(commands: Any) -> None:
    """Commands on finished runs, whose settings are words like those of a run's configuration."""
    for name, help, schema in (
        ("chat", "talk to what a run trained; lines may be piped in", ChatSettings),
        ("evaluate", "measure what a run trained on other data, beside its base model", EvaluateSettings),
        ("market-demo", "the marketplace: serve a run, settle what users used, learn from them", MarketDemoSettings),
        ("export", "make a plain model folder of a run, or put its adapter on the Hugging Face hub", ExportSettings),
    ):
        parser = commands.add_parser(name, help=help, description=_sentence(help))
        function = name.replace("-", "_")
        parser.set_defaults(act=f"{function}:{function}")
        parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help=words_of(schema).replace("%", "%%"))
        if schema is EvaluateSettings:
            parser.add_argument("--json", action="store_true", help="print one JSON object")


def _add_submissions(commands: Any) -> None:
    """Commands for those who take part in a contest that others hold."""
    help = "enter an open contest with an adapter, and follow it through the day"
    submit = commands.add_parser("submit", help=help, description=_sentence(help))
    submit.set_defaults(act="submission:submit")
    submit.add_argument("settings", nargs="*", metavar="KEY=VALUE", help=words_of(SubmitSettings).replace("%", "%%"))
    submit.add_argument("--dry-run", action="store_true", help="check the adapter, show what it costs, send nothing")
    help = "show the state of a contest's submissions, and why one was refused"
    status = commands.add_parser("status", help=help, description=_sentence(help))
    status.set_defaults(act="submission:status")
    status.add_argument("settings", nargs="*", metavar="KEY=VALUE", help=words_of(StatusSettings).replace("%", "%%"))
    status.add_argument("--json", action="store_true", help="print one JSON object")


def _add_sweep(group: _Group) -> None:
    words = f"overrides of a run, in Hydra's grammar: seed=1,2,3 or training.steps=range(5,20,5); and settings of the" \
        f" sweep itself: {words_of(SweepSettings, SWEEP)}"  # fmt: skip
    for name, help in (
        ("alliance", "many runs of flock-ray alliance"),
        ("arena", "many runs of flock-ray arena"),
    ):
        parser = group.add(name, help)
        parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=words.replace("%", "%%"))
        parser.add_argument("--dry-run", action="store_true", help="show the points and their states, start nothing")
        parser.add_argument("--json", action="store_true", help="print one JSON object, and progress to standard error")


def _add_compare(commands: Any) -> None:
    help = "compare finished runs: a table here, and a page with a chart"
    parser = commands.add_parser("compare", help=help, description=_sentence(help))
    parser.set_defaults(act="compare:compare")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument("--to", type=Path, default=Path("compare.html"), metavar="FILE", help="the page to write")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _add_task(group: _Group) -> None:
    group.add("show", "show how far a task is, its terms, its money, its members", _of_task, _chain)
    join = group.add("join", "join a task with stake that is free in your pool", _of_task, act="membership:join")
    stake = join.add_mutually_exclusive_group()
    stake.add_argument("amount", nargs="?", metavar="AMOUNT", type=amount, help="stake in whole tokens")
    stake.add_argument("--slots", type=int, help="slots to pay for (default: as many as a member may have)")
    known = join.add_mutually_exclusive_group()
    known.add_argument(
        "--run", type=Path, metavar="RUN_DIR",
        help="folder of a run with the configuration that you mean to join, if TASK is not one",
    )  # fmt: skip
    known.add_argument(
        "--expect", type=digest, metavar="HASH",
        help="digest of creator and terms, from whoever published the task; the one on the chain is in: task show",
    )  # fmt: skip
    _sender(join)
    enter = group.add("enter", "enter a running contest as a node, without slots", _of_task, act="membership:enter")
    enter.add_argument(
        "amount", nargs="?", metavar="AMOUNT", type=amount, help="stake in whole tokens (default: the least)"
    )
    enter.add_argument(
        "--expect", type=digest, metavar="HASH", required=True,
        help="digest of creator, terms and least stake, from whoever published the contest; the one on the chain is in:"
        " task show",
    )  # fmt: skip
    _sender(enter)
    cancel = "leave a task that has not started; the stake is free at once"
    group.add("cancel-join", cancel, _of_task, _sender, act="membership:cancel_join")
    group.add(
        "resign", "ask to leave a running task, as a member or a node", _of_task, _sender, act="membership:resign"
    )
    release = "release the stake of a member that is out, or of a closed task"
    group.add("release", release, _of_task, _for_account, _sender, act="membership:release")
    paid = "have what was earned of a task's rewards paid, to accounts or their pools"
    claim = group.add("claim", paid, _of_run, act="membership:claim")
    whose = claim.add_mutually_exclusive_group()
    _for_account(whose)
    whose.add_argument("--all", action="store_true", help="everybody who has something to claim")
    claim.add_argument("--rewards", type=Path, metavar="FILE", help="rewards of a correction, which no record has")
    _sender(claim)
    group.add("start", "fix the members, or close a task that too few have joined", _of_task, _sender)
    opening = "begin the first epoch of a task whose members are fixed, once its seed block is mined"
    group.add("open", opening, _of_task, _sender, act="task:open_")
    abandon = "give up an epoch that nobody settles: the first call announces it, a second one later does it"
    group.add("abandon", abandon, _of_task, _sender)
    group.add("refund", "pay the creator what has come into a closed task's pool", _of_task, _sender)
    settle = "settle the next epoch with what its committee signed, if the relayer does not"
    group.add("settle", settle, _of_run, _sender, act="evidence:settle")
    challenge = group.add(
        "challenge", "challenge seats whose signature the last report came without", _of_run, act="challenges:challenge"
    )
    challenge.add_argument("--seat", type=int, metavar="NUMBER", help="only this one")
    _sender(challenge)
    answer = group.add("answer", "answer challenges out of a run's folder", _of_run, act="challenges:answer")
    answer.add_argument("--every", type=float, default=0.0, metavar="SECONDS", help="look again and again")
    _sender(answer)
    slash = "slash challenged seats that give no answer: the first call announces it, a second one later does it"
    group.add("slash-absent", slash, _of_task, _sender, act="challenges:slash_absent")
    accuse = group.add("accuse", "prove that a member contradicted itself", _of_run, act="evidence:accuse")
    accuse.add_argument(
        "files", nargs=2, type=Path, metavar="FILE",
        help='two signed messages, or two reports, of one member: {"message": {...}, "signature": "0x..."} or'
        ' {"report": {...}, "signature": "0x..."}',
    )  # fmt: skip
    _sender(accuse)
    correct = group.add(
        "correct", "sign or send what replaces rewards that the guardian disabled", _of_run, act="evidence:correct"
    )
    correct.add_argument(
        "file", type=Path, metavar="FILE", help='{"rewards": {ACCOUNT: WEI, ...}}; gets the signatures of --sign'
    )
    correct.add_argument("--sign", action="store_true", help="as a voter: add your signature to FILE, send nothing")
    _sender(correct)


def _add_stake(group: _Group) -> None:
    group.add("show", "show own stake: where it is locked, what thaws", _of_account, _chain)
    group.add("add", "add to your own stake", _much, _sender)
    group.add("unstake", "ask for own stake back; it thaws first", _much, _sender)
    group.add("withdraw", "take out own stake that has thawed", _sender)


def _add_pool(group: _Group) -> None:
    group.add("show", "show a pool: stake, commission, locks", _of_operator, _chain)
    commission = group.add("commission", "set the commission on the delegators' rewards", _sender)
    commission.add_argument("percent", metavar="PERCENT", type=basis_points, help="for example 12.5")
    accept = group.add("accept", "accept new delegations, or no more", _sender)
    accept.add_argument("accepts", choices=("on", "off"), help="whether from now on")
    group.add("claim", "take your rewards and commission as operator", _sender)
    creators = _Group(group.parsers, "creators", "the creators whose tasks can lock the pool's delegated stake")
    creators.add("list", "list them, with the epoch from which each counts", _of_operator, _chain, act="pool:creators")
    creators.add("add", "add one; it counts after the commission delay", _of_creator, _sender, act="pool:add_creator")
    creators.add("remove", "remove one, from now on", _of_creator, _sender, act="pool:remove_creator")


def _add_delegation(group: _Group) -> None:
    group.add("show", "show delegated stake: with whom, what locks it, what it earned, what thaws", _of_account, _chain)
    group.add("add", "delegate to an operator", _of_operator, _much, _sender)
    group.add("remove", "ask for delegated stake back; it thaws first", _of_operator, _much, _sender)
    group.add("withdraw", "take out delegated stake that has thawed", _of_operator, _sender)
    group.add("claim", "take your rewards as delegator", _of_operator, _sender)


def _add_account(group: _Group) -> None:
    group.add("show", "show what an account owns: coin, tokens, stake, rewards", _of_account, _chain)


def _add_deployment(group: _Group) -> None:
    help = "deploy the contracts, or what is missing of them"
    group.parsers.add_parser("deploy", help=help, add_help=False)
    check = group.add("check", "compare deployed contracts with this package: code, ties, roles, parameters")
    check.add_argument(
        "contracts", metavar="BOOK|ADDRESS", type=book_or_address,
        help="address book of the deployment, or without one the address of EpochSettlement",
    )  # fmt: skip
    check.add_argument("--rpc", required=True, metavar="URL", help="node of the chain")
    check.add_argument(
        "--usage", metavar="ADDRESS", type=address, help="contract of usage beside them, to be compared too"
    )
    check.add_argument(
        "--from-block", type=int, default=0, metavar="NUMBER",
        help="with an address: a block from before the timelock was created, to search its logs from",
    )  # fmt: skip
    check.add_argument("--json", action="store_true", help="print one JSON object")
    usage = group.add("usage", "deploy the contract that takes what users of models pay", _sender, act="usage:deploy")
    usage.add_argument("--min-stake", required=True, metavar="AMOUNT", type=amount, help="least stake of a gateway")
    for name, help in (
        ("activation-delay", "from a batch's settlement to its activation"),
        ("response-window", "in which a challenged charge may be collected"),
        ("withdrawal-delay", "of deposits and stakes: longer than the two others together"),
    ):
        usage.add_argument(f"--{name}", required=True, metavar="SECONDS", type=seconds, help=help)
    usage.add_argument(
        "--guardian", metavar="ADDRESS", type=address, help="may void batches that are not active yet; left out: nobody"
    )
    sources = group.add("sources", "write what an explorer needs to verify the contracts' source code")
    sources.add_argument("book", metavar="BOOK", type=Path, help="address book of the deployment")
    sources.add_argument("folder", metavar="DIR", type=Path, help="where to write standard-input.json, contracts.json")
    sources.add_argument("--json", action="store_true", help="print one JSON object")
