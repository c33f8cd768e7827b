"""Exact amounts as Spark columns of longs: reading, multiplying and writing decimals without one.

A price or quantity is two longs, its whole part and its fraction in units of 10^-8. Such pairs equal
decimals exactly; unlike Spark's decimals they are quick, and mutable inside a hash aggregation. A product is
four longs, ``LIMBS``, cut so that each fits a sum of 5 million (2^63 / 5*10^6 = 1.8 * 10^12), the most
records that a batch may have:

    product = millions_of_millions * 10^12 + whole + fraction * 10^-8 + remainder * 10^-16
"""

from __future__ import annotations

from typing import Final, NamedTuple

from pyspark.sql import Column
from pyspark.sql import functions as F  # noqa: N812 - the name that every Spark programmer knows

from candleflow.market.trade import DECIMAL_PLACES, PRICE_LIMIT

FRACTIONS: Final = 10**DECIMAL_PLACES
"""Units of 10^-8 in one."""
_MILLION: Final = 10**6
_MILLIONS_OF_MILLIONS: Final = 10**12
_HALF_PRICE_LIMIT: Final = int(PRICE_LIMIT) // 2


class Product(NamedTuple):
    """A product of two amounts, or a sum of such: see this module's head."""

    millions_of_millions: Column
    whole: Column
    fraction: Column
    remainder: Column


LIMBS: Final = Product._fields


def product(
    first_whole: Column, first_fraction: Column, second_whole: Column, second_fraction: Column
) -> Product:
    """The exact product of two amounts, the first below 10^11 and the second below 10^12.

    Both wholes are split at 10^6, so that no step leaves the range of a long: none is above 4 * 10^14 but
    the product of the fractions, which stays below 10^16.
    """
    a1, a0 = _div(first_whole, _MILLION), first_whole % _MILLION
    b1, b0 = _div(second_whole, _MILLION), second_whole % _MILLION
    fractions = first_fraction * second_fraction
    crossed_millions = a1 * second_fraction + b1 * first_fraction
    crossed = a0 * second_fraction + b0 * first_fraction
    low = crossed + crossed_millions % 100 * _MILLION + _div(fractions, FRACTIONS)
    millions = a1 * b0 + a0 * b1
    whole = a0 * b0 + millions % _MILLION * _MILLION + _div(low, FRACTIONS) + _div(crossed_millions, 100)
    return Product(
        a1 * b1 + _div(millions, _MILLION) + _div(whole, _MILLIONS_OF_MILLIONS),
        whole % _MILLIONS_OF_MILLIONS,
        low % FRACTIONS,
        fractions % FRACTIONS,
    )


def price_key(whole: Column, fraction: Column) -> Column:
    """One long that orders prices below 10^11 as they are: 10^-8 units, counted from half the limit."""
    return (whole - _HALF_PRICE_LIMIT) * FRACTIONS + fraction


def price_text(key: Column) -> Column:
    """The price of a ``price_key`` in plain digits, with eight places."""
    fraction = F.pmod(key, F.lit(FRACTIONS))
    return _joined(_div(key - fraction, FRACTIONS) + _HALF_PRICE_LIMIT, fraction)


def amount_text(whole: Column, fraction: Column) -> Column:
    """An amount, or a sum of amounts whose fractions add up to more than one, with eight places."""
    return _joined(whole + _div(fraction, FRACTIONS), fraction % FRACTIONS)


def product_text(sums: Product) -> Column:
    """A sum of products in plain digits, with sixteen places."""
    fraction = sums.fraction + _div(sums.remainder, FRACTIONS)
    whole = sums.whole + _div(fraction, FRACTIONS)
    high = sums.millions_of_millions + _div(whole, _MILLIONS_OF_MILLIONS)
    digits = F.concat(high.cast("string"), F.lpad((whole % _MILLIONS_OF_MILLIONS).cast("string"), 12, "0"))
    return F.concat(
        F.when(high > 0, digits).otherwise(whole.cast("string")),
        F.lit("."),
        _padded(fraction % FRACTIONS),
        _padded(sums.remainder % FRACTIONS),
    )


def _div(dividend: Column, divisor: int) -> Column:
    return F.call_function("div", dividend, F.lit(divisor).cast("bigint"))


def _padded(fraction: Column) -> Column:
    return F.lpad(fraction.cast("string"), DECIMAL_PLACES, "0")


def _joined(whole: Column, fraction: Column) -> Column:
    return F.concat(whole.cast("string"), F.lit("."), _padded(fraction))
