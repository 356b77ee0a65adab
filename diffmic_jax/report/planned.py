"""The section of a report about what `fit` decided, and the candidates that it chose between."""

from __future__ import annotations

from diffmic_jax.planning.plan import Plan
from diffmic_jax.report import page
from diffmic_jax.report.page import Raw
from diffmic_jax.report.sections import TITLES


def section(plan: Plan) -> str:
    """The candidates on the held-out images, and each decision with its reason."""
    rows = [
        (each.field, Raw(f"<code>{page.text(each.value)}</code>"), each.reason)
        for each in plan.decisions
    ]
    decisions = page.table(("field", "value", "reason"), rows, "decisions", "stack")
    return page.paragraph(f"{plan.head}.") + _candidates(plan) + decisions


def _candidates(plan: Plan) -> str:
    """Empty as long as none is chosen."""
    if not plan.candidates:
        return ""
    names = [name for name in TITLES if plan.candidates[0][name] is not None]
    titles = [f"{each['name']}{' (answers)' * each['chosen']}" for each in plan.candidates]
    rows = [
        (TITLES[name], *(page.number(each[name]) for each in plan.candidates)) for name in names
    ]
    text = plan.choice[0].upper() + plan.choice[1:]
    return page.table(("", *titles), rows, "candidates", "stack") + page.paragraph(f"{text}.")
