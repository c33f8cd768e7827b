"""Format the scores of forecasts, for ``forecast evaluate`` and for the page."""

from __future__ import annotations

from collections.abc import Iterator

from candleflow.forecast.scores import Scores, percent

Line = tuple[str, str, str]
"""A label, the forecast's value, and the baseline's value (the last price, or a coin toss)."""


def table(scores: Scores) -> Iterator[Line]:
    """Yield the rows of the table of scores; errors in the quote asset."""
    yield "forecasts scored", f"{scores.count:,}", ""
    yield "mean absolute error", f"{scores.mae:.6g}", f"{scores.mae_last:.6g}"
    yield "root mean square error", f"{scores.rmse:.6g}", f"{scores.rmse_last:.6g}"
    yield "skill", percent(scores.skill, 2), "0 %"
    yield "its 95 % interval", f"{percent(scores.skill_lower, 2)} to {percent(scores.skill_upper, 2)}", ""
    yield "closes within the 80 % interval", percent(scores.coverage.value), ""
    if scores.hits is not None:
        hits = scores.hits
        yield "direction right", f"{percent(hits.value)} of {hits.count:,}", "50 % (a coin)"
        yield "its 95 % interval", f"{percent(hits.lower)} to {percent(hits.upper)}", ""


def sentences(scores: Scores) -> Iterator[str]:
    """Yield sentences that explain the scores."""
    yield f"Forecast: {scores.verdict}"
    yield f"Interval: coverage {percent(scores.coverage.value)}, {scores.coverage_verdict}"
    yield f"Direction: {scores.hits_verdict}"
