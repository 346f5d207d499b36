"""The page of all measures, from the table `symjax.similarity.MEASURES`.

    python -m docs.measures > docs/measures.md

A measure without notes has those of the measure with which its name begins or ends: cka_distance and
channel_normalized_cka have those of cka.
"""

import math

from symjax.similarity import INVARIANCES, MEASURES

INTRODUCTION = """# All measures

Start with `cka`, which depends on the distances between all examples, and `mutual_knn`, which depends only on the
nearest neighbors of each; both compare networks of any widths. `procrustes_distance` is a metric. `cca` and `svcca`
ignore the scale of directions and need many more examples than features. The `wreath` measures, `soft_matching` and
`permutation_procrustes` compare single neurons. Values of different measures cannot be compared, since their bias and
their spread for independent data differ. `error_bars`, `permutation_test` and `calibrate` take any of them."""


def notes(name, field):
    """Return a note of a measure, or of the measure with which its name begins or ends."""
    parts = name.split("_")
    shorter = ["_".join(parts[:end]) for end in range(len(parts), 0, -1)]
    shorter += ["_".join(parts[start:]) for start in range(1, len(parts))]
    with_note = [other for other in shorter if other in MEASURES and getattr(MEASURES[other], field)]
    if field == "bias" and with_note and MEASURES[name].kind != MEASURES[with_note[0]].kind:
        return f"that of `{with_note[0]}`, as a distance"
    return getattr(MEASURES[with_note[0]], field) if with_note else ""


def number(end):
    return {math.inf: "∞", -math.inf: "-∞", math.pi: "π", math.pi / 2: "π/2"}.get(end, f"{end:.3g}")


def row(*cells):
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def properties(measure):
    low, high = map(number, measure.range)
    kept = ("yes" if name in measure.invariances else "" for name in INVARIANCES)
    symmetric, differentiable = ("yes" if holds else "no" for holds in (measure.symmetric, measure.differentiable))
    return row(f"`{measure.name}`", measure.kind, f"{low} to {high}", symmetric, differentiable, *kept)


def main():
    headings = [name.replace("_", " ") for name in INVARIANCES]
    print(INTRODUCTION)
    print("\n## Invariances\n")
    print('"yes": the value does not change if one side is transformed and the other is not. Tests check that every')
    print("invariance in the table holds and that every other one fails.")
    print("`symmetric`: the order of the two sides does not matter. `derivative`: `jax.grad` is not zero everywhere.\n")
    print(*(f"- {heading}: {text}" for heading, text in zip(headings, INVARIANCES.values(), strict=True)), sep="\n")
    print()
    print(row("measure", "kind", "range", "symmetric", "derivative", *headings))
    print(row(*["---"] * 3, *[":-:"] * (2 + len(headings))))
    print(*map(properties, MEASURES.values()), sep="\n")
    print("\n## Cost, bias, use\n")
    print("The cost is the number of operations of `pairwise`, once for each network and for each pair, for n examples")
    print("and p features (q on the other side). The bias is the value for independent data.\n")
    print(row("measure", "cost", "bias", "when to use", "reference"))
    print(row(*["---"] * 5))
    for name, measure in MEASURES.items():
        print(row(f"`{name}`", *(notes(name, field) for field in ("cost", "bias", "use")), measure.reference))
    print("\n`python -m docs.measures > docs/measures.md` writes this page from `symjax.similarity.MEASURES`.")


if __name__ == "__main__":
    main()
