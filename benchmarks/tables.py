"""The tables of README.md and of pages of the documentation (PAGES), written from the committed results.

A table stands between `<!-- table NAME -->` and `<!-- end -->`; `python benchmarks/tables.py` writes all of them anew.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
_OF_DOCS = ("performance.md", "chaos.md", "arena_attacks.md", "market.md", "robustness.md")
PAGES = (ROOT / "README.md", *(ROOT / "docs" / name for name in _OF_DOCS))
_TABLE = re.compile(r"(<!-- table (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True)
class Row:
    """One figure: what it is, its name among the headlines, how it is written, and what was aimed at."""

    label: str
    metric: str
    form: str = "{:.2f}×"
    target: str = ""

    def written(self, headline: dict[str, float]) -> str:
        """The figure, or that there is none."""
        return self.form.format(headline[self.metric]) if self.metric in headline else "not measured"


TRAINING = (
    Row("8 members in one batch, against adapters swapped in turn, 64 tokens a member-step", "swap_ratio_k8_t64",
        target="≥ 1.7×"),
    Row("… with compiled layers", "swap_ratio_k8_t64_compiled"),
    Row("… at 256 tokens a member-step", "swap_ratio_k8_t256"),
    Row("… in float32, 64 tokens", "swap_ratio_k8_t64_float32"),
    Row("8 members in one batch, against a base reloaded for each, 64 tokens", "reload_ratio_k8_t64", target="≥ 3×"),
    Row("… at 256 tokens", "reload_ratio_k8_t256"),
    Row("one member, against a plain PEFT loop", "k1_vs_peft_ratio", target="≥ 1×"),
    Row("share of the matrix products' rate at the best point (MFU)", "gemm_fraction_best", "{:.0%}", "≥ 50 %"),
    Row("… in float32, 8 members, 64 tokens", "gemm_fraction_float32", "{:.0%}"),
    Row("… the rate of these products, TFLOP/s", "gemm_tflops_per_second", "{:.2f}"),
    Row("useful tokens a second, 8 members, 64 tokens", "tokens_per_second_k8_t64", "{:,.0f}"),
)  # fmt: skip
FLOWER = (
    Row("a round of Flower's simulation, one core a client, against one here, no votes, no settlement",
        "flower_ratio_plain", target="≥ 2.5×"),
    Row("… with votes and settlement on a chain", "flower_ratio_full", target="≥ 1.3×"),
    Row("… without, at the lowest of all points", "flower_ratio_plain_lowest"),
    Row("… with, at the lowest of all points", "flower_ratio_full_lowest"),
    Row("both cores a client, as FlowerTune asks, against one here, no votes, no settlement", "flowertune_ratio_plain"),
    Row("… with votes and settlement on a chain", "flowertune_ratio_full"),
)  # fmt: skip
ORCHESTRATION = (
    Row("driver CPU a member, 1,000 members × 0.2 MB, no votes", "driver_ms_per_member_1000", "{:.2f} ms", "≤ 1 ms"),
    Row("round of 1,000 × 0.2 MB, no votes", "round_seconds_1000x0.2MB", "{:.2f} s", "≤ 1.5 s"),
    Row("round of 1,000 × 0.2 MB, 22 voters, settled", "round_seconds_1000x0.2MB_voting", "{:.2f} s", "≤ 4 s"),
    Row("round of 20 × 26 MB, no votes", "round_seconds_20x26MB", "{:.2f} s", "≤ 1 s"),
    Row("driver's peak memory, 100 × 6.5 MB", "driver_peak_mb_100x6.5MB", "{:.0f} MB", "≤ 500 MB"),
    Row("growth from 1,000 to 10,000 members (1: linear)", "growth_exponent_1000_to_10000", "{:.2f}", "about 1"),
)
MEMBERSHIP = (
    Row("joins and leaves of a run on a chain that verification follows", "joins_and_leaves_followed", "{:.0f}", "4"),
    Row("10,000 members stake and join, on an anvil", "joins_10000_seconds", "{:.0f} s", "≤ 600 s"),
    Row("… claim and have their stakes released", "claims_10000_seconds", "{:.0f} s"),
    Row("an epoch of 10,000 members, 64 of them propose", "epoch_seconds_10000_members", "{:.1f} s"),
    Row("growth of driver and actors, 100 epochs of 32 members", "rss_slope_mb_per_100_epochs", "{:.1f} MB", "< 1 MB"),
    Row("share of ten epochs' gain that bfloat16 with error feedback loses against float32 updates",
        "bytes_bf16_feedback_lost_gain", "{:.1%}"),
    Row("… bytes of an update, of those of float32", "bytes_bf16_feedback_ratio", "{:.0%}"),
)  # fmt: skip
GPU = (
    Row("MFU, 8B Llama shape", "mfu_8b", "{:.0%}", "≥ 40 %"),
    Row("… with compiled layers", "mfu_8b_compiled", "{:.0%}"),
    Row("32 members in one batch, against adapters swapped in turn, 1B, 256 tokens", "swap_ratio_1b_t256",
        target="≥ 4×"),
    Row("… with compiled layers", "swap_ratio_1b_t256_compiled"),
    Row("8 members in one batch, against adapters swapped in turn, 8B, 1,024 tokens", "swap_ratio_8b_t1024"),
    Row("… with compiled layers", "swap_ratio_8b_t1024_compiled"),
)  # fmt: skip
CHAOS = (
    Row("cases", "chaos_cases", "{:.0f}", "≥ 30"),
    Row("… that ended as they should", "chaos_as_intended", "{:.0f}", "all"),
    Row("silent changes", "chaos_silent_changes", "{:.0f}", "0"),
    Row("hangs", "chaos_hangs", "{:.0f}", "0"),
    Row("of 40 rounds, a worker killed in each, those that served every proposer", "served_of_40_with_kills", "{:.0f}",
        "40"),
    Row("from a kill to the group's next answer", "rebuild_seconds", "{:.1f} s"),
    Row("what a kill costs beside that and the work done again", "extra_seconds_per_kill", "{:.2f} s"),
)  # fmt: skip
ARENA = (
    Row("64 submissions in a race, against today's validator, wall time", "arena_wall_vs_validator", target="≥ 4×"),
    Row("… without the race: every submission on all rows", "arena_wall_vs_validator_without_racing", target="≥ 2.5×"),
    Row("… in a race, CPU time", "arena_cpu_vs_validator"),
    Row("… without, CPU time", "arena_cpu_vs_validator_without_racing"),
    Row("losses to measure without a race, over those with it; a day of 96 rows", "arena_row_forwards_saved",
        target="≥ 4×"),
    Row("simulated contests with the same first 8 in the same order", "arena_same_top_8", "{:.1%}", "≥ 95 %"),
    Row("losses to measure without a race, over those with it; a day of 32 rows", "arena_row_forwards_saved_short_day"),
    Row("simulated contests of such days with the same first 8", "arena_same_top_8_short_day", "{:.1%}"),
    Row("largest difference of a row to plain PEFT, unmerged, float32, nats a token", "score_max_abs_diff", "{:.1e}",
        "≤ 1e-5"),
    Row("what batch size, order and company change of a score, nats a token", "score_batch_diff", "{:.1e}", "≤ 1e-6"),
    Row("published figures of FLock that our formulas give", "flock_compat_vectors", "{:.0f}", "19 (all)"),
    Row("attacked days on which the honest first 8 are paid in their order", "honest_top8_under_attack", "{:.0%}",
        "100 %"),
    Row("copies within the copy distance that are found and unpaid", "copies_caught", "{:.0%}", "100 %"),
    Row("pairs of honest adapters within the copy distance", "honest_called_copies", "{:.1%}", "< 1 %"),
    Row("most that a disguised copy earned, over the mean of honest nodes", "copy_earned_vs_honest"),
    Row("lazy validators unpaid", "lazy_validators_unpaid", "{:.0%}", "100 %"),
    Row("every wei accounted for (1: on all days)", "wei_conserved", "{:.0f}", "1"),
    Row("gas of a day, 64 nodes: settlement and everybody's pay", "gas_per_day_64", "{:,.0f}"),
    Row("… 1,000 nodes", "gas_per_day_1000", "{:,.0f}"),
    Row("`make arena-demo` after its set-up", "arena_demo_seconds", "{:.0f} s", "≤ 480 s"),
    Row("a stranger derives its three days again: `flock-ray verify`", "stranger_replay_seconds", "{:.0f} s"),
)  # fmt: skip
SERVING = (
    Row("8 adapters, 16 users: tokens a second, against PEFT's mixed batch", "ratio_vs_peft", target="≥ 1.8×"),
    Row("… against PEFT under one adapter after the other", "ratio_vs_peft_one_at_a_time_8x16"),
    Row("… against vLLM's CPU build", "ratio_vs_vllm_cpu", target="≥ 1.3×"),
    Row("… as a share of what the base model alone does", "share_of_base", "{:.0%}", "≥ 75 %"),
    Row("… tokens a second", "tok_s_8x16", "{:,.0f}"),
    Row("… the first token of 95 % of the answers, at 70 % of the most requests a second", "ttft_p95_ms", "{:,.0f} ms"),
    Row("32 adapters, 32 users: tokens a second, against PEFT's mixed batch", "ratio_vs_peft_32x32"),
    Row("… as a share of what the base model alone does", "share_of_base_32x32", "{:.0%}"),
    Row("… tokens a second", "tok_s_32x32", "{:,.0f}"),
    Row("8 adapters, 16 users, prompts of 512 tokens: against PEFT's mixed batch", "ratio_vs_peft_8x16_512"),
    Row("answers of ours that are not their own adapter's", "cross_adapter_errors", "{:.0f}", "0"),
)  # fmt: skip
MARKET_LOOP = (
    Row(
        "held-out corrections: what an epoch with feedback gains beyond one without it, nats a token",
        "loop_loss_gain",
        "{:.3f}",
        "> 0",
    ),
    Row("… in its standard errors", "loop_loss_gain_in_standard_errors", "{:.1f}", "> 1"),
    Row("… their loss before, nats a token", "loop_heldout_loss_before", "{:.3f}"),
    Row("… and after the epoch with feedback", "loop_heldout_loss_after", "{:.3f}"),
    Row(
        "members' own held-out code: what the epoch with feedback makes worse, less the band",
        "loop_old_set_excess_over_band",
        "{:+.3f}",
        "≤ 0",
    ),
    Row("the committee's score of 200 corrections, nats a token", "feedback_score", "{:+.3f}"),
    Row("… of the same with the words of the answers shuffled", "poisoned_feedback_score", "{:+.3f}"),
    Row("runs of three in which poisoned feedback was accepted", "poisoned_feedback_accepted", "{:.0f}", "0"),
    Row("`flock-ray market-demo`, its run included", "market_demo_seconds", "{:.0f} s", "≤ 480 s"),
)
GATEWAY = (
    Row("a whole answer of 64 tokens, beyond the engine itself, mean", "gateway_overhead_ms", "{:.1f} ms", "≤ 10 ms"),
    Row("… as a stream", "gateway_overhead_ms_stream", "{:.1f} ms"),
    Row("answers a second, eight connections, one process", "requests_per_s_gateway", "{:,.0f}"),
    Row("64 clients and two processes race one budget: wei beyond it", "overspend_at_64_concurrent", "{:.0f}", "0"),
    Row("… wei charged beyond the receipts", "bill_vs_receipts", "{:.0f}", "0"),
    Row("gateways killed with open streams, and at every step of a request: answers without their receipt",
        "killed_gateway_lost_rows", "{:.0f}", "0"),
    Row("… wei billed twice", "killed_gateway_billed_twice", "{:.0f}", "0"),
    Row("client suites that pass whole, of openai, litellm, lm_eval and compatcanary", "client_suites_passed", "{:.0f}",
        "4"),
    Row("soak with clients that leave, stall and vanish: growth of the process in an hour", "soak_mb_per_hour",
        "{:+.1f} MB"),
    Row("… answers", "soak_answers", "{:,.0f}"),
    Row("… wei by which bill and receipts differ", "soak_bill_difference", "{:.0f}", "0"),
)  # fmt: skip
GRAM = (
    Row("inner products of 8 updates", "gram_seconds_8", "{:.2f} s", "about 0.3 s"),
    Row("… of 16", "gram_seconds_16", "{:.2f} s"),
    Row("an epoch's candidate of 8 updates, `mean`", "mean_seconds_8", "{:.2f} s"),
    Row("… `multi_krum`", "multi_krum_seconds_8", "{:.2f} s"),
    Row("… `geometric_median`", "geometric_median_seconds_8", "{:.2f} s"),
    Row("difference to dense matrices, of the largest product", "gram_relative_error", "{:.0e}"),
)
ROBUSTNESS = (
    Row("most that an attack by 30 % of the members costs: lost gain under `marginal`", "max_lost_gain_at_30pct",
        "{:.3f}", "≤ 0.05"),
    Row("most that an attack earns of an honest proposer's pay, value-lowering and without training",
        "max_proposer_leakage_at_30pct", "{:.3f}", "≤ 0.1"),
    Row("most that dishonest votes earn of an honest voter's pay", "max_voter_leakage_at_30pct", "{:.3f}", "≤ 0.1"),
    Row("what one step of fifteen earns of an honest proposer's pay", "one_step_leakage", "{:.2f}", "≤ 0.25"),
    Row("… one training sent by all accomplices", "shared_training_leakage", "{:.2f}"),
    Row("slashes of honest members, of their seats, the outlier's included", "honest_slash_rate", "{:.2%}", "< 1 %"),
    Row("gain without attacks, against `marginal1`", "gain_against_marginal1", "{:.3f}×", "≥ 1.08×"),
    Row("honest proposals that are accepted, without attacks", "honest_accept_rate", "{:.0%}"),
    Row("… what honest members pay in fees, of all rewards", "honest_fee_rate", "{:.1%}"),
    Row("backdoor: probability of its token after its trigger", "backdoor_success", "{:.2%}"),
    Row("… without an attack", "backdoor_success_untaught", "{:.2%}"),
    Row("… under `open`", "fedavg_backdoor_success", "{:.2%}"),
    Row("epochs lost to withheld reveals", "epochs_lost_to_withheld_reveals", "{:.0%}"),
    Row("proposals of the left-handed member that are accepted", "left_handed_accepted", "{:.0%}"),
    Row("… its net over the mean of honest members'", "left_handed_net_over_honest_mean", "{:.2f}"),
    Row("… of the member with shuffled rows", "shuffled_net_over_honest_mean", "{:.2f}"),
    Row("… of the member that sends noise", "noise_net_over_honest_mean", "{:.2f}"),
    Row("FLock's rules: most that such an attack earns of an honest proposer's pay",
        "flock_rules_max_leakage_at_30pct", "{:.2f}"),
    Row("… most that an attack costs", "flock_rules_max_lost_gain_at_30pct", "{:.3f}"),
    Row("FedAvg (`open`, mean): most that an attack costs", "fedavg_max_lost_gain_at_30pct", "{:.3f}"),
    Row("Multi-Krum under `open`: most that an attack costs", "multikrum_open_lost_gain", "{:.3f}"),
)  # fmt: skip
TABLES: dict[str, tuple[str, tuple[Row, ...]]] = {
    "gateway": ("gateway", GATEWAY),
    "market_loop": ("market_loop", MARKET_LOOP),
    "serving": ("serving", SERVING),
    "arena": ("arena", ARENA),
    "training": ("training_throughput", TRAINING),
    "flower": ("flower_peer", FLOWER),
    "orchestration": ("orchestration", ORCHESTRATION),
    "membership": ("membership", MEMBERSHIP),
    "gpu": ("training_gpu", GPU),
    "robustness": ("robustness", ROBUSTNESS),
}


def _result(benchmark: str) -> dict[str, Any] | None:
    path = RESULTS / f"{benchmark}.json"
    return dict(json.loads(path.read_text())) if path.exists() else None


def _headline_table(benchmark: str, rows: tuple[Row, ...], result: dict[str, Any]) -> str:
    lines = ["| what | measured | aimed at |", "|---|---|---|"]
    lines += [f"| {row.label} | {row.written(result['headline'])} | {row.target} |" for row in rows]
    environment = result["environment"]
    where = result.get("device") or f"{environment['processor']}, {environment['cores']} cores"
    lines += ["", f"`python benchmarks/run.py {benchmark}`; {where}."]
    return "\n".join(lines) + "\n"


SWITCHES = {
    "sequence_packing": "sequence packing (uneven sequences)",
    "logits_only_where_labelled": "logits only where there are labels (half of the tokens)",
    "chunked_cross_entropy": "cross-entropy in chunks",
    "explicit_attention": "explicit products in short attention (CPU)",
    "no_gradient_below_first_layer": "no gradient below the first adapted layer",
    "compiled_layers": "`training.compiled=true`",
    "grouped_instead_of_stacked": "`training.backend=grouped` (uneven members)",
    "checkpointing": "`training.checkpointing=true`",
    "checkpointing_memory": "… its peak memory",
}


def _gpu_points_table(result: dict[str, Any]) -> str:
    """Every point of every shape: tokens a second of each contender, and the share of the product rate of ours."""
    titles = ("shape", "K × tokens", "one batch, tokens/s", "MFU", "… compiled", "MFU", "swapped", "plain PEFT")
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for shape, found in result["shapes"].items():
        cells: dict[str, list[str]] = {}
        for point in found["points"]:
            if point["deterministic"]:
                continue
            row = cells.setdefault(f"{point['members']} × {point['tokens']:,}", ["", "", "", "", "", ""])
            for name, column in (("stacked", 2 * point["compiled"]), ("swap", 4), ("peft", 5)):
                if name in point:
                    row[column] = f"{point[name]['useful_tokens_per_second']:,.0f}"
                    if name == "stacked":
                        row[column + 1] = f"{point[name]['mfu']:.0%}"
        lines += [f"| {shape} | {size} | {' | '.join(row)} |" for size, row in cells.items()]
    return "\n".join(lines) + "\n"


def _switches_table(result: dict[str, Any]) -> str:
    gain = result["switches"]["gain"]
    lines = ["| switch | time without / with |", "|---|---|"]
    lines += [f"| {label} | {gain[name]:.2f}× |" for name, label in SWITCHES.items()]
    return "\n".join(lines) + "\n"


def _chaos_table(result: dict[str, Any]) -> str:
    """Fault by fault what became of the run; phases at which it was the same share a line."""
    lines: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in result["rows"]:
        fault = row["case"].removesuffix(f", {row['phase']}")
        code = f" ({row['code']})" if row["outcome"] in ("refused", "broken") else ""
        lines.setdefault((fault, row["outcome"].replace("_", " "), code), []).append(row)
    found = ["| fault | before or in | outcome (exit code) | rebuilt in |", "|---|---|---|---:|"]
    for (fault, outcome, code), rows in lines.items():
        phases = ", ".join(f"`{row['phase']}`" for row in rows)
        seconds = [one for row in rows for one in row["rebuild_seconds"]]
        rebuilt = f"{median(seconds):.1f} s" if seconds else ""
        found.append(f"| {fault} | {phases} | {outcome}{code} | {rebuilt} |")
    return "\n".join(found) + "\n"


def _attacks_table(result: dict[str, Any]) -> str:
    """What each attack on a contest's day cost and brought, in tokens, mean over the played days."""
    lines = ["| attack | what | days | would have earned | earned | slashed | honest first 8 as without |"]
    lines += ["|---|---|---:|---:|---:|---:|---:|"]
    for one in result["attacks"]:
        name = f"{one['attack']} (not solved)" if one["unsolved"] else one["attack"]
        money = " | ".join(f"{one[figure]:,.1f}" for figure in ("earned_without", "earned", "slashed"))
        lines.append(f"| {name} | {one['what']} | {one['days']} | {money} | {one['unharmed']:.0%} |")
    return "\n".join(lines) + "\n"


def _copies_table(result: dict[str, Any]) -> str:
    """Copies of the best adapter of the day before: how far they are by sketch, what they lost, what they earned."""
    lines = ["| submitted | sketch distance | called a copy | worse by, nats a token | rank | earned |"]
    lines += ["|---|---:|---|---:|---:|---:|"]
    for one in result["copies"]:
        known, rank = ("yes" if one["called_copy"] else "no"), (one["rank"] if one["rank"] is not None else "-")
        figures = f"{one['distance']:.3f} | {known} | {one['worse_by']:+.4f} | {rank} | {one['earned']:.1f}"
        lines.append(f"| {one['copy']} | {figures} |")
    return "\n".join(lines) + "\n"


def _committees_table(result: dict[str, Any]) -> str:
    """How often each committee is captured and blocked: by the closed form, and as drawn."""
    lines = ["| slots | dishonest | voters | median captured | … as drawn | quorum captured | blocked | … as drawn |"]
    lines += ["|---:" * 8 + "|"]
    for one in result["points"].values():
        counts = f"{one['slots']} | {one['malicious']} | {one['voters']}"
        chances = (one[name] for name in ("expected", "drawn", "quorum", "blocked", "drawn_blocked"))
        lines.append(f"| {counts} | {' | '.join(f'{chance:.2%}' for chance in chances)} |")
    return "\n".join(lines) + "\n"


_UNDER = (("open", "mean"), ("open", "multi_krum"), ("flock", "mean"), ("marginal1", "mean"), ("marginal", "mean"))
"""What the attacks' table has lost gains of."""
_PAYING = ("flock", "marginal1", "marginal")


def _robustness_attacks_table(result: dict[str, Any]) -> str:
    """Every attack by 30 %: what it costs, and what it earns under the mechanisms that score; means over the seeds."""
    lines = {(one["mechanism"], one["rule"], one["attack"]): one for one in result["attacks"] if one["share"]}

    def mean(mechanism: str, rule: str, attack: str, figure: str) -> str:
        found = lines.get((mechanism, rule, attack), {}).get(figure)
        return f"{found[0]:.2f}" if found else ""

    titles = [f"`{mechanism}`" if rule == "mean" else f"`{mechanism}`, Multi-Krum" for mechanism, rule in _UNDER]
    titles = ["attack", *(f"lost gain, {title}" for title in titles)]
    titles += [f"{role}', `{name}`" for role in ("proposers", "voters") for name in _PAYING]
    found = [f"| {' | '.join(titles)} |", "|---" + "|---:" * (len(titles) - 1) + "|"]
    for attack in dict.fromkeys(attack for _, _, attack in lines):
        cells = [mean(*under, attack, "lost_gain") for under in _UNDER]
        cells += [mean(name, "mean", attack, f"{role}_leakage") for role in ("proposer", "voter") for name in _PAYING]
        found.append(f"| `{attack}` | {' | '.join(cells)} |")
    return "\n".join(found) + "\n"


def _robustness_curves_table(result: dict[str, Any]) -> str:
    """The picture, once there is one."""
    if not result["curves"]:
        return "The curves are not measured.\n"
    return "![Lost gain over the share of the members that cheat](robustness.svg)\n"


def _summary_table() -> str:
    """The first figures of every benchmark that has a result."""
    lines = ["| what | measured | `benchmarks/run.py` |", "|---|---|---|"]
    for benchmark, rows in TABLES.values():
        if result := _result(benchmark):
            shown = (row for row in rows if row.target)
            lines += [f"| {row.label} | {row.written(result['headline'])} | `{benchmark}` |" for row in shown]
    return "\n".join(lines) + "\n"


OTHER_TABLES: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "attacks": ("arena", _attacks_table),
    "copies": ("arena", _copies_table),
    "switches": ("training_throughput", _switches_table),
    "gpu_points": ("training_gpu", _gpu_points_table),
    "chaos": ("chaos", _chaos_table),
    "chaos_headline": ("chaos", lambda result: _headline_table("chaos", CHAOS, result)),
    "committees": ("capture", _committees_table),
    "robustness_attacks": ("robustness", _robustness_attacks_table),
    "robustness_curves": ("robustness", _robustness_curves_table),
    "gram": ("gram", lambda result: _headline_table("gram", GRAM, result)),
}


def render(name: str) -> str:
    """A table by its name, in Markdown."""
    if name == "summary":
        return _summary_table()
    benchmark, _ = {**TABLES, **OTHER_TABLES}[name]
    result = _result(benchmark)
    if result is None:
        return "No result is committed.\n"
    if name in OTHER_TABLES:
        return OTHER_TABLES[name][1](result)
    return _headline_table(benchmark, TABLES[name][1], result)


def rewritten(page: str) -> str:
    """A page with its tables as the results have them."""
    return _TABLE.sub(lambda found: found[1] + render(found[2]) + found[3], page)


def main() -> None:
    """Write all pages."""
    for path in PAGES:
        path.write_text(rewritten(path.read_text()))


if __name__ == "__main__":
    main()
