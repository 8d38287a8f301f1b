"""The compiled contracts: bytecode, calls and answers as bytes, and reverts as text. No network, no web3."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError
from eth_utils.abi import (
    abi_to_signature,
    function_signature_to_4byte_selector,
    get_abi_input_types,
    get_abi_output_types,
)

from flock_ray.protocol.hashing import keccak

CONTRACTS = (
    "FlockToken",
    "EmissionController",
    "TaskRegistry",
    "RewardDistributor",
    "EpochSettlement",
    "StakeVault",
    "UsageSettlement",
    "TimelockController",
)

_PANICS = {0x01: "assertion failed", 0x11: "arithmetic overflow", 0x12: "division by zero", 0x32: "index out of bounds"}


class Contract:
    """ABI and bytecode of one contract.

    Attributes:
        name: its Solidity name.
        bytecode: creation code without constructor arguments.
        source: path of the source file in the compiler's input.
        compiler: version of the compiler.
    """

    def __init__(self, name: str, artifact: Mapping[str, Any]) -> None:
        """Take `abi` and `bytecode` (hex) of `artifact`; what else it holds is for explorers and checks."""
        self.name = name
        self.source, self.compiler = str(artifact.get("source", "")), str(artifact.get("compiler", ""))
        self._deployed: Mapping[str, Any] = artifact.get("deployed", {"offset": 0, "length": 0, "immutables": []})
        self.bytecode = bytes.fromhex(artifact["bytecode"].removeprefix("0x"))
        self._entries: dict[tuple[str, str], Any] = {}
        for entry in artifact["abi"]:
            self._entries.setdefault((entry["type"], entry.get("name", "")), entry)

    def constructor(self, *args: Any) -> bytes:
        """Data of the transaction that deploys the contract."""
        entry = self._entries.get(("constructor", ""), {"type": "constructor", "inputs": []})
        return self.bytecode + encode(get_abi_input_types(entry), args)

    def runs_as(self, code: bytes) -> bool:
        """Whether this is the contract's code on a chain, whatever values its immutables have there."""
        start, length = self._deployed["offset"], self._deployed["length"]
        expected = bytearray(self.bytecode[start : start + length])
        if not length or len(code) != length:
            return False
        for places in self._deployed["immutables"]:
            value = code[places[0] : places[0] + 32]
            for place in places:
                expected[place : place + 32] = value
        return bytes(expected) == code

    def encode(self, function: str, *args: Any) -> bytes:
        """Data of a call."""
        entry = self._entries["function", function]
        selector = function_signature_to_4byte_selector(abi_to_signature(entry))
        return bytes(selector) + encode(get_abi_input_types(entry), args)

    def decode(self, function: str, data: bytes) -> tuple[Any, ...]:
        """Return values of a call.

        Raises:
            ValueError: `data` is no answer of this function: the address has another contract, or none.
        """
        types = get_abi_output_types(self._entries["function", function])
        try:
            return decode(types, data)
        except DecodingError as error:
            raise ValueError(f"the answer is not one of {self.name}.{function}") from error

    def inputs(self, function: str) -> list[Any]:
        """ABI entries of a function's arguments; of the constructor's for an empty name."""
        return list(self._entries["function" if function else "constructor", function]["inputs"])

    def output_components(self, function: str) -> list[Any]:
        """ABI entries of the fields of the struct that a function returns."""
        return list(self._entries["function", function]["outputs"][0]["components"])

    def event_topic(self, event: str) -> bytes:
        """First topic of an event's logs: the keccak of its signature."""
        return keccak(abi_to_signature(self._entries["event", event]).encode())

    def functions(self) -> dict[bytes, str]:
        """Names of the functions by selector."""
        entries = [entry for (kind, _), entry in self._entries.items() if kind == "function"]
        return {bytes(function_signature_to_4byte_selector(abi_to_signature(one))): one["name"] for one in entries}

    def errors(self) -> dict[bytes, Any]:
        """Custom errors by selector."""
        entries = [entry for (kind, _), entry in self._entries.items() if kind == "error"]
        return {bytes(function_signature_to_4byte_selector(abi_to_signature(entry))): entry for entry in entries}


@cache
def contract(name: str) -> Contract:
    """The compiled contract `name`, one of CONTRACTS."""
    text = resources.files("flock_ray.chain").joinpath("artifacts", f"{name}.json").read_text()
    return Contract(name, json.loads(text))


def compiler_input() -> str:
    """The compiler's input (Standard JSON) with all sources, from which an explorer compiles the same bytecode."""
    return resources.files("flock_ray.chain").joinpath("artifacts", "standard-input.json").read_text()


@cache
def _errors() -> dict[bytes, Any]:
    return {selector: entry for name in CONTRACTS for selector, entry in contract(name).errors().items()}


@cache
def _functions() -> dict[bytes, str]:
    return {selector: function for name in CONTRACTS for selector, function in contract(name).functions().items()}


def function_name(data: bytes) -> str:
    """Name of the function that a call's data is for; empty if none of our contracts has it."""
    return _functions().get(data[:4], "")


def decode_revert(data: bytes) -> tuple[str, dict[str, Any]]:
    """Name and fields of a custom error of our contracts; an empty name for any other revert.

    Args:
        data: return data of the reverted call.
    """
    entry = _errors().get(data[:4])
    if entry is None:
        return "", {}
    try:
        values = decode(get_abi_input_types(entry), data[4:])
    except DecodingError:
        return "", {}
    shown = ["0x" + value.hex() if isinstance(value, bytes) else value for value in values]
    return entry["name"], dict(zip([item["name"] for item in entry["inputs"]], shown, strict=True))


def describe_revert(data: bytes) -> tuple[str, str]:
    """Name and full text of a contract's revert.

    Args:
        data: return data of the reverted call.

    Returns:
        (name, text), such as (`InsufficientStake`, `InsufficientStake(required=2, given=1)`) for a custom error of our
        contracts; the name is empty for data of another form, and both are empty without data.
    """
    selector, body = data[:4], data[4:]
    try:
        if selector == bytes.fromhex("08c379a0"):
            return "Error", str(decode(["string"], body)[0])
        if selector == bytes.fromhex("4e487b71"):
            code = decode(["uint256"], body)[0]
            return "Panic", _PANICS.get(code, f"panic {code:#x}")
    except DecodingError:
        return "", f"0x{data.hex()}"
    name, fields = decode_revert(data)
    if name:
        return name, f"{name}({', '.join(f'{field}={value}' for field, value in fields.items())})"
    return "", f"0x{data.hex()}" if data else ""
