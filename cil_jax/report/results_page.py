"""docs/results.md: published results beside the results recorded in the package, as Markdown.

The page depends on nothing but the package, so a test compares it with what is made of it.
"""

from cil_jax.report import published_results, tables

HEAD = """# Published results beside ours

Do not edit this page: `cil-jax reproduce --markdown` makes it from the results
recorded in `cil_jax/report/reference/`.

*Average* is the average incremental accuracy, the first task included, and *last* the accuracy on
all classes after the last task, both in percent and by the classifier named. The band is where a
faithful reproduction should lie. n counts class orders or, where there is only one, seeds.

Runs that follow iCaRL's paper have its authors' class order ("icarl"), and all others that of PyCIL
and FACIL ("seeded 1993"), so that each stands beside numbers of its own source. In the reduced
protocol all have the order seeded 1993, so that they can be compared with each other.
"""
FOLDERS = "runs/reproduce"


def text() -> str:
    """The page."""
    parts = [HEAD]
    for protocol, about in published_results.ABOUT.items():
        rows = published_results.rows(protocol=protocol)
        outcomes = published_results.outcomes(rows, protocol, None)
        commands = [
            published_results.command(row, protocol, FOLDERS)
            for row in published_results.one_per_run(rows)
            if row.can_be_run
        ]
        table = tables.reproduction_markdown(outcomes, about, commands)
        parts.append(f"## The {protocol} protocol\n\n{table}\n")
    return "\n".join(parts)
