"""The rows of `to_error` as tables in Markdown: the seconds, and the plans that took them."""


def markdown(rows: list[dict], command: str) -> str:
    """The tables for the README and the documentation, and one line about the machine."""
    timed = [row for row in rows if row["part"] == "seconds"]
    chosen = [row for row in rows if row["part"] == "plans"]
    lines = [*_seconds(timed), "", *_plans(chosen), "", _machine(timed, command), ""]
    return "\n".join(lines)


def _seconds(timed: list[dict]) -> list[str]:
    """A line for each batch, version of JAX and stated error; a column for each contender."""
    columns = list(dict.fromkeys(row["contender"] for row in timed))
    head = ["images", "error", *columns]
    versions = list(dict.fromkeys(row["jax"] for row in timed))
    lines = [_line(head), _line(["---"] * len(head))]
    for batch in sorted({row["batch"] for row in timed}):
        for version in versions:
            for error in dict.fromkeys(row["error"] for row in timed):
                cell = [row for row in timed if (row["batch"], row["error"]) == (batch, error)]
                # PyTorch ran beside the first version only, and the ratios are to its seconds.
                best = min(map(_torch_seconds, cell), default=float("inf"))
                here = {row["contender"]: row for row in cell if row["jax"] == version}
                which = f"{batch}, JAX {version}" if len(versions) > 1 else f"{batch}"
                texts = [_cell(here[name], best) if name in here else "" for name in columns]
                lines.append(_line([which, f"{error:g}", *texts]))
    return lines


def _torch_seconds(row: dict) -> float:
    """The seconds of a contender in PyTorch; infinite for others, and without the right result."""
    if not row["contender"].startswith("torch") or not row.get("agrees"):
        return float("inf")
    return row["wall"]


def _cell(row: dict, best: float) -> str:
    """Evaluations, seconds, and their ratio to the fastest contender in PyTorch."""
    if row["evaluations"] is None:
        return "not reached"
    if not row["agrees"]:
        return f"{row['evaluations']} evaluations, another result"
    ratio = f" ({row['wall'] / best:.2f})" if best < float("inf") else ""
    return f"{row['evaluations']} evaluations, {row['wall']:.3g} s{ratio}"


def _plans(chosen: list[dict]) -> list[str]:
    """A line for each stated error: the plan of each list, with its own error."""
    lists = list(dict.fromkeys(row["list"] for row in chosen))
    lines = [_line(["error", *lists]), _line(["---"] * (1 + len(lists)))]
    for error in dict.fromkeys(row["error"] for row in chosen):
        here = {row["list"]: row for row in chosen if row["error"] == error}
        lines.append(_line([f"{error:g}", *(_plan(here[name]) for name in lists)]))
    return lines


def _plan(row: dict) -> str:
    """The solver, its shift and its own error."""
    if row["evaluations"] is None:
        return "not reached"
    shift = "" if row["shift"] is None else f", shift {row['shift']:g}"
    return f"{row['solver']}{shift}, {row['evaluations']} evaluations: {row['rms']:.2g}"


def _machine(timed: list[dict], command: str) -> str:
    """The processor, the versions, the load and the command, as one line."""
    measured = [row for row in timed if "load" in row]
    if not measured:
        return f"nothing was timed; `{command}`"
    devices = ", ".join(dict.fromkeys(row["device"] for row in measured))
    libraries = "; ".join(dict.fromkeys(row["libraries"] for row in measured))
    load = max(row["load"] for row in measured)
    return f"{devices}; {libraries}; load of the machine up to {load:.1f}; `{command}`"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
