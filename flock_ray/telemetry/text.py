"""Numbers as a person reads them: the same in tables and in the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_WEI = 10**18


def tokens(wei: int, *, signed: bool = False) -> str:
    """An amount of wei in tokens, cut to two decimals (a loss of one wei still shows its sign)."""
    whole, cents = divmod(abs(wei) * 100 // _WEI, 100)
    sign = "-" if wei < 0 else "+" if signed and wei > 0 else ""
    return f"{sign}{whole:,}.{cents:02d}"


def loss(value: float | None, decimals: int = 4) -> str:
    """Nats a token."""
    return "-" if value is None else f"{value:.{decimals}f}"


def score(micro_nats: float | None) -> str:
    """A score in nats a token, signed."""
    return "-" if micro_nats is None else f"{micro_nats / 1e6:+.4f}"


def at_step(step: int | None) -> str:
    """How far a candidate goes, where it is not once the combined updates."""
    return f" at step {step}" if step is not None and step > 1 else ""


def fees(rows: Sequence[tuple[int, int, int]]) -> str:
    """(member, wei charged, wei withheld) of an epoch in one line, in tokens; empty without any."""
    charged = ", ".join(f"member {member} {tokens(wei)}" for member, wei, _ in rows if wei)
    withheld = ", ".join(f"member {member} {tokens(wei)}" for member, _, wei in rows if wei)
    return "; ".join([f"fees: {charged}"] * bool(charged) + [f"withheld for fees: {withheld}"] * bool(withheld))


def voiceless(members: Sequence[int]) -> str:
    """Voters whose scores did not count in one line; empty without any."""
    return f"voters without a voice: {', '.join(map(str, members))}" if members else ""


def percent(before: float | None, after: float | None) -> str:
    """The change of a loss in percent; empty where there is none to tell."""
    return f"{(after - before) / before:+.2%}" if before and after is not None else ""


def seconds(value: float) -> str:
    """A duration: `0.4 s`, `83 s`, `12 min 5 s`."""
    if value < 120:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    return f"{int(value) // 60} min {int(value) % 60} s"


def short(hexadecimal: str) -> str:
    """A hash or address, shortened."""
    return hexadecimal if len(hexadecimal) <= 14 else f"{hexadecimal[:8]}..{hexadecimal[-4:]}"


def setting(value: object) -> str:
    """A value of a configuration as its command line has it: `[1,2]`, `{3:sign_flip}`, `true`, `null`."""
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{setting(key)}:{setting(item)}' for key, item in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(setting, value))}]"
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)


def settings(values: Mapping[str, object]) -> str:
    """Settings as a command line has them, in one line."""
    return " ".join(f"{name}={setting(value)}" for name, value in values.items())


def spoken(text: str) -> str:
    """What a model said, in lines as it has them, without control characters."""
    return "".join(char if char in "\n\t" else printable(char) for char in text)


def printable(text: str) -> str:
    """Text from elsewhere (a file name, say) without control characters that could drive a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)
