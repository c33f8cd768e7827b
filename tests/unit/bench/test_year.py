from __future__ import annotations

from bench.year import plan_in_short

LOGGED = """2026-11-29 05:00:00.000 UTC [71] LOG:  duration: 12.345 ms  plan:
\t{
\t  "Query Text": "SELECT \\n {of} FROM candles",
\t  "Plan": {
\t    "Node Type": "Aggregate", "Actual Rows": 30, "Actual Loops": 1,
\t    "Shared Hit Blocks": 26, "Shared Read Blocks": 3,
\t    "Plans": [
\t      {"Node Type": "Seq Scan", "Relation Name": "symbols", "Actual Rows": 1, "Actual Loops": 1,
\t        "Rows Removed by Filter": 499, "Shared Hit Blocks": 1, "Shared Read Blocks": 0},
\t      {"Node Type": "Index Scan", "Scan Direction": "Backward", "Index Name": "candles_pkey",
\t        "Relation Name": "candles", "Actual Rows": 1200.0, "Actual Loops": 1,
\t        "Shared Hit Blocks": 25, "Shared Read Blocks": 3}
\t    ]
\t  }
\t}
2026-11-29 05:00:01.000 UTC [71] LOG:  another line, {with} braces
"""


def test_a_plan_is_described_by_what_it_reads() -> None:
    assert plan_in_short(LOGGED) == (
        "   12.3  Seq Scan of symbols: 1 of 500 rows, 1 pages;"
        " Index Scan backward of candles by candles_pkey: 1,200 rows, 28 pages, 3 of them not in memory"
    )
