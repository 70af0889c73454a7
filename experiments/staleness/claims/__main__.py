"""`python -m experiments.staleness.claims`: the table of docs/findings.md, from the kept rows."""

from experiments import staleness
from experiments.lab.claims import markdown
from experiments.staleness import claims


def main() -> None:
    """Print the claims as a table in Markdown."""
    found = staleness.gathered(staleness.KEPT)
    rows = [row for own in found.values() for row in own.rows]
    configs = {name: own.config for name, own in found.items()}
    print(markdown(claims.listed(claims.readings(rows, configs))), end="")


if __name__ == "__main__":
    main()
