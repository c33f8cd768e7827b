"""The forecasts: no look-ahead, skill where returns are predictable, and no skill claimed on random walks."""

from __future__ import annotations

import random
from collections import Counter
from decimal import Decimal

import pytest

from candleflow.forecast.features import LOOK_BACK, NAMES, Features
from candleflow.forecast.race import AHEAD, COVERAGE, Race, Width, forecasts
from candleflow.forecast.scores import FEWEST, NO_SKILL, Scored, evaluate, scores, wilson
from tests.made_candles import SIZE_US, market

WALKS = range(12)
"""Seeds of random walks. By chance one in 40 has a lower bound above 0: of twelve, one may, not two."""


def test_a_forecast_knows_nothing_of_what_comes_after_it() -> None:
    """With the candles cut off at any point, the forecasts before it are exactly the same."""
    candles = market(1, 600, autocorrelation=0.3)
    whole = list(forecasts(candles, SIZE_US))
    for end in (LOOK_BACK + 1, 50, 101, 333, 599):
        known = list(forecasts(candles[:end], SIZE_US))
        assert known == whole[: len(known)]
        assert len(known) == end - LOOK_BACK


def test_a_changed_future_changes_no_earlier_forecast() -> None:
    candles = market(2, 400)
    changed = [*candles[:300], *(one._replace(close=one.close * 2) for one in candles[300:])]
    before = [one for one in forecasts(candles, SIZE_US) if one.open_time <= candles[299].open_time]
    after = [one for one in forecasts(changed, SIZE_US) if one.open_time <= candles[299].open_time]
    assert before == after


def test_a_forecast_is_of_a_window_that_has_not_begun_when_its_candles_have_closed() -> None:
    candles = market(3, 100)
    race = Race(SIZE_US)
    for one in candles:
        made = race.add(one)
        if made is not None:
            assert made.open_time == one.open_time + AHEAD * SIZE_US > one.open_time + SIZE_US
            assert made.last_close == float(one.close)
            assert made.lower <= made.forecast <= made.upper


@pytest.mark.parametrize("seed", range(2))
def test_skill_is_found_where_returns_are_correlated(seed: int) -> None:
    """With an autocorrelation of 0.3, the best forecast two windows ahead has a 2.5 % smaller error."""
    found = evaluate(market(seed, 2_500, autocorrelation=0.3), SIZE_US).scores
    assert found is not None
    assert found.has_skill
    assert found.skill > 0.01
    assert found.rmse < found.rmse_last
    assert found.verdict.startswith("better than the last price by")
    assert found.hits_verdict == "better than a coin"


def test_no_skill_is_claimed_of_random_walks() -> None:
    verdicts: Counter[str] = Counter()
    for seed in WALKS:
        found = evaluate(market(seed, 1_200), SIZE_US).scores
        assert found is not None
        assert found.skill > -0.02  # the cost of choosing among models without skill
        verdicts[found.verdict] += 1
    assert verdicts[NO_SKILL] >= len(WALKS) - 1


@pytest.mark.parametrize("autocorrelation", [0.0, 0.5, -0.3])
def test_eighty_of_a_hundred_closes_are_in_the_interval(autocorrelation: float) -> None:
    found = evaluate(market(5, 2_000, autocorrelation=autocorrelation), SIZE_US).scores
    assert found is not None
    assert found.coverage.value == pytest.approx(COVERAGE, abs=0.02)


def test_the_interval_comes_to_its_share_whatever_the_errors_are() -> None:
    chance = random.Random(1)
    width, held = Width(), 0
    for at in range(4_000):
        error = chance.gauss(0, 1 if at < 2_000 else 2)
        held += abs(error) <= width.value
        width.learn(error, width.value)
    assert held / 4_000 == pytest.approx(COVERAGE, abs=0.02)


def test_a_break_stops_forecasts_until_there_are_enough_candles_again() -> None:
    candles = market(4, 200)
    broken = candles[:100] + candles[101:]
    made = [one.open_time for one in forecasts(broken, SIZE_US)]
    first_after = candles[101 + LOOK_BACK].open_time + AHEAD * SIZE_US
    assert next(at for at in made if at > candles[99].open_time + AHEAD * SIZE_US) == first_after
    assert candles[99].open_time + AHEAD * SIZE_US in made


def test_candles_without_trades_are_candles() -> None:
    candles = market(4, 200)
    quiet = candles[150]._replace(
        close=candles[149].close, volume=Decimal(0), quote_volume=Decimal(0), taker_buy_volume=Decimal(0),
        trade_count=0,
    )  # fmt: skip
    made = list(forecasts([*candles[:150], quiet, *candles[151:]], SIZE_US))
    assert len(made) == 200 - LOOK_BACK


def test_a_constant_price_gives_no_features() -> None:
    still = [one._replace(close=Decimal(5)) for one in market(1, 100)]
    assert list(forecasts(still, SIZE_US)) == []


def test_there_is_a_feature_for_each_name_and_none_is_far_out() -> None:
    features = Features(SIZE_US)
    for one in market(1, 50):
        seen = features.add(one)
        if seen is not None:
            assert len(seen.values) == len(NAMES)
            assert max(map(abs, seen.values)) <= 6


def test_few_forecasts_allow_no_claim_of_skill() -> None:
    perfect = [Scored(at * SIZE_US, 2.0, 1.9, 2.1, 1.0, 2.0) for at in range(FEWEST - 1)]
    found = scores(perfect, SIZE_US)
    assert found is not None
    assert not found.has_skill
    assert "too few" in found.verdict
    assert NO_SKILL in found.verdict


def test_the_scores_are_what_their_formulas_say() -> None:
    """Errors of 1 and 3 against 2 and 2, computed by hand."""
    found = scores([Scored(0, 101, 99, 103, 100, 102), Scored(SIZE_US, 95, 90, 96, 100, 98)], SIZE_US)
    assert found is not None
    assert (found.mae, found.mae_last) == (2.0, 2.0)
    assert found.rmse == pytest.approx(5**0.5)
    assert found.skill == 0
    assert found.coverage.value == 0.5
    assert found.hits is not None
    assert (found.hits.value, found.hits.count) == (1.0, 1)  # only every second window counts
    assert scores([], SIZE_US) is None


def test_wilsons_interval() -> None:
    """For 8 of 10: 0.490 to 0.943, as in published tables."""
    found = wilson(8, 10)
    assert (round(found.lower, 3), round(found.upper, 3)) == (0.490, 0.943)


def test_few_directions_allow_no_claim() -> None:
    """Five right out of five prove nothing."""
    found = scores([Scored(at * SIZE_US, 2.0, 1.9, 2.1, 1.0, 2.0) for at in range(10)], SIZE_US)
    assert found is not None
    assert found.hits is not None
    assert found.hits.value == 1
    assert found.hits_verdict.startswith("too few to tell: 5")
