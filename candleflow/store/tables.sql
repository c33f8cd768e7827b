-- The tables of a new database. schema.py runs this once, as the owner, and records it as version 11. A later
-- change of a table is a file of its own in migrations/, numbered from 0012. functions/ has the SQL functions,
-- the only way in which any role but the owner changes a row; roles.py has who may call which.
--
-- Names compare by their bytes (COLLATE "C"), whatever the server's language.


-- From the topic to the candles ---------------------------------------------------------------------------

-- Each batch updates the same few rows of the next four tables: the fill factor leaves room for the new
-- versions in their page, and VACUUM comes after so many rows rather than after a share of them.
CREATE TABLE topics (
    topic        text PRIMARY KEY,
    topic_id     text NOT NULL,
    run_id       uuid,
    held_by      text,
    claimed_at   timestamptz,
    caught_up_at timestamptz
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

COMMENT ON COLUMN topics.topic_id IS 'Kafka''s id of the topic that the offsets belong to';
COMMENT ON COLUMN topics.run_id IS 'the processor''s run that may merge: the last to claim the topic';
COMMENT ON COLUMN topics.caught_up_at IS 'when the processor last said that it had read everything';

CREATE TABLE topic_offsets (
    topic           text NOT NULL REFERENCES topics,
    partition       integer NOT NULL CHECK (partition >= 0),
    next_offset     bigint NOT NULL CHECK (next_offset >= 0),
    last_offset     bigint,
    last_written_at bigint,
    PRIMARY KEY (topic, partition)
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

COMMENT ON TABLE topic_offsets IS 'the first record of each partition that is not in the candles yet';
COMMENT ON COLUMN topic_offsets.last_offset IS
    'the offset of the last record before next_offset that is not Kafka''s own; NULL where none is known';
COMMENT ON COLUMN topic_offsets.last_written_at IS
    'that record''s timestamp in Kafka, in microseconds since the epoch';

CREATE TABLE record_counts (
    topic   text NOT NULL REFERENCES topics,
    outcome text NOT NULL CHECK (length(outcome) <= 200),
    records bigint NOT NULL CHECK (records >= 0),
    PRIMARY KEY (topic, outcome)
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

COMMENT ON TABLE record_counts IS
    'received = merged + duplicate + the sum of "rejected: ..."; late are those of merged that came after their candle had closed';

CREATE TABLE symbols (
    symbol           text COLLATE "C" PRIMARY KEY,
    last_trade_id    bigint NOT NULL,
    last_price       numeric NOT NULL,
    last_trade_time  timestamptz NOT NULL,
    newest_open_time timestamptz NOT NULL,
    updated_at       timestamptz NOT NULL,
    repaired         bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

COMMENT ON TABLE symbols IS 'the trade with the greatest id, by symbol';
COMMENT ON COLUMN symbols.newest_open_time IS
    'the latest open time of a finest candle: a trade at or after this time exists, so candles that end by then are closed';
COMMENT ON COLUMN symbols.repaired IS 'how often a candle of the symbol was put right by folding it anew';


-- Candles -------------------------------------------------------------------------------------------------

-- A partial candle of the finest windows, times in microseconds; market/partial.py writes it. Without trade_ids
-- it has every id from the first to the last.
CREATE TYPE partial_candle AS (
    symbol                 text,
    open_time              bigint,
    last_trade_time        bigint,
    trade_count            bigint,
    first_trade_id         bigint,
    last_trade_id          bigint,
    trade_ids              int8multirange,
    open                   numeric,
    high                   numeric,
    low                    numeric,
    close                  numeric,
    volume                 numeric,
    quote_volume           numeric,
    taker_buy_volume       numeric,
    taker_buy_quote_volume numeric
);

-- The contract's relation, and two columns more: trade_ids, the ledger that proves a candle complete, and
-- end_time, which with open_time tells an interval's length without reading its name.
--
-- A live candle is updated by each batch until it ends. No index holds a column that those updates change, so
-- they stay in the page (HOT) as long as it has room: hence the fill factor.
--
-- A roll-up longer than a minute has no set of ids of its own where the finest windows divide a minute: such a
-- set would grow with each gap of the day, and each merge write it again. The function held_ids derives it.
--
-- VACUUM comes after an absolute number of rows, as a share of years of candles is millions. candles_open has an
-- entry for each candle that was ever open; only a pass over the indexes drops it, which VACUUM leaves out by
-- itself where few pages have dead rows.
--
-- The database bounds a symbol's length, as Binance's rule has it; who writes checks the rest of the rule
-- (market/symbol.py).
CREATE TABLE candles (
    symbol                 text COLLATE "C" NOT NULL CHECK (length(symbol) BETWEEN 1 AND 50),
    interval               text COLLATE "C" NOT NULL CHECK (length(interval) BETWEEN 2 AND 20),
    open_time              timestamptz NOT NULL,
    end_time               timestamptz NOT NULL CHECK (end_time > open_time),
    open                   numeric NOT NULL,
    high                   numeric NOT NULL CHECK (high < 'Infinity' AND high >= greatest(open, low, close)),
    low                    numeric NOT NULL CHECK (low > 0 AND low <= least(open, close)),
    close                  numeric NOT NULL,
    volume                 numeric NOT NULL CHECK (volume > 0 AND volume < 'Infinity'),
    quote_volume           numeric NOT NULL CHECK (quote_volume > 0 AND quote_volume < 'Infinity'),
    taker_buy_volume       numeric NOT NULL CHECK (taker_buy_volume BETWEEN 0 AND volume),
    taker_buy_quote_volume numeric NOT NULL CHECK (taker_buy_quote_volume BETWEEN 0 AND quote_volume),
    trade_count            bigint NOT NULL
        CHECK (trade_count BETWEEN 1 AND last_trade_id - first_trade_id + 1),
    first_trade_id         bigint NOT NULL CHECK (first_trade_id >= 0),
    last_trade_id          bigint NOT NULL,
    trade_ids              int8multirange
        CHECK (lower(trade_ids) = first_trade_id AND upper(trade_ids) = last_trade_id + 1),
    is_closed              boolean NOT NULL DEFAULT false,
    is_complete            boolean NOT NULL DEFAULT false,
    revision               integer NOT NULL DEFAULT 0,
    source                 text NOT NULL DEFAULT 'trades',
    updated_at             timestamptz NOT NULL,
    PRIMARY KEY (symbol, interval, open_time)
) WITH (fillfactor = 80, autovacuum_analyze_scale_factor = 0.05, autovacuum_vacuum_scale_factor = 0,
        autovacuum_vacuum_threshold = 50000, vacuum_index_cleanup = on);

CREATE INDEX candles_open ON candles (symbol, end_time) WHERE NOT is_closed;

COMMENT ON COLUMN candles.end_time IS 'the first instant after the candle: open_time plus the interval';
COMMENT ON COLUMN candles.trade_ids IS
    'the ids of the trades that are in it; null in roll-ups longer than a minute: held_ids(candle) tells them';
COMMENT ON COLUMN candles.is_closed IS 'the symbol has had a trade at end_time or later, or was quiet past it';
COMMENT ON COLUMN candles.is_complete IS
    'no id is missing inside it, nor between it and the last candle that ended before it began';
COMMENT ON COLUMN candles.revision IS 'how often it changed after it had closed';
COMMENT ON COLUMN candles.source IS
    'trades: the topic''s; kline: the exchange''s own klines; archive: its archives of trades; mixed: several';


-- Alerts --------------------------------------------------------------------------------------------------

-- Rules, what they remember, and the outbox of what is to be sent. A decision is one transaction: the rule's
-- new state by compare-and-set, the alert, and a delivery for each of its channels. So an alert is decided once,
-- whichever process is killed, and when. It is sent at most once, because it is marked as being sent, and that
-- committed, before the first byte leaves: what was being sent when its process died is unknown, and stays so.
CREATE TABLE alert_rules (
    rule_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    rule       jsonb NOT NULL CHECK (jsonb_typeof(rule) = 'object' AND length(rule::text) <= 2000),
    added_at   timestamptz NOT NULL,
    removed_at timestamptz
);

COMMENT ON COLUMN alert_rules.rule IS 'as alerts/rules.py has it; channels by their names, never addresses';

CREATE TABLE alert_states (
    rule_id bigint NOT NULL REFERENCES alert_rules,
    symbol  text COLLATE "C" NOT NULL CHECK (length(symbol) <= 50),
    version bigint NOT NULL,
    state   jsonb NOT NULL,
    PRIMARY KEY (rule_id, symbol)
) WITH (fillfactor = 50);

CREATE TABLE alerts (
    alert_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    rule_id    bigint NOT NULL REFERENCES alert_rules,
    symbol     text COLLATE "C" NOT NULL CHECK (length(symbol) <= 50),
    window_at  timestamptz NOT NULL,
    sampled_at timestamptz NOT NULL,
    text       text NOT NULL CHECK (length(text) <= 1000),
    brief      text NOT NULL CHECK (length(brief) <= 200),
    decided_at timestamptz NOT NULL,
    UNIQUE (rule_id, symbol, window_at)
);

CREATE INDEX alerts_latest ON alerts (decided_at);

COMMENT ON COLUMN alerts.window_at IS 'when the candle opened by which the rule fired: one alert for each';

CREATE TABLE alert_deliveries (
    alert_id   bigint NOT NULL REFERENCES alerts ON DELETE CASCADE,
    channel    text COLLATE "C" NOT NULL CHECK (channel ~ '^[a-z][a-z0-9_-]{0,30}$'),
    state      text NOT NULL DEFAULT 'pending'
        CHECK (state IN ('pending', 'sending', 'sent', 'refused', 'unknown', 'given up')),
    attempts   integer NOT NULL DEFAULT 0,
    due_at     timestamptz NOT NULL,
    detail     text NOT NULL DEFAULT '' CHECK (length(detail) <= 200),
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (alert_id, channel)
) WITH (fillfactor = 50);

CREATE INDEX alert_deliveries_open ON alert_deliveries (channel, alert_id) WHERE state IN ('pending', 'sending');

COMMENT ON COLUMN alert_deliveries.state IS
    'sending: the request may be on its way; unknown: it was, and no answer is known, so it is not sent again';

CREATE TABLE alerter (
    only_one   boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    run_id     uuid NOT NULL,
    held_by    text NOT NULL,
    claimed_at timestamptz NOT NULL
);

COMMENT ON TABLE alerter IS 'the process that may decide and send: the last to claim it';


-- Forecasts -----------------------------------------------------------------------------------------------

CREATE TABLE forecasts (
    symbol text NOT NULL,
    interval text NOT NULL,
    open_time timestamptz NOT NULL,
    made_at timestamptz NOT NULL,
    model text NOT NULL,
    version integer NOT NULL,
    forecast double precision NOT NULL,
    lower double precision NOT NULL,
    upper double precision NOT NULL,
    last_close numeric NOT NULL,
    actual numeric,
    scored_at timestamptz,
    PRIMARY KEY (symbol, interval, open_time),
    CHECK (made_at < open_time),
    CHECK (lower <= forecast AND forecast <= upper),
    CHECK ((actual IS NULL) = (scored_at IS NULL))
);

-- What has ended is deleted by age, of all symbols at once.
CREATE INDEX forecasts_by_time ON forecasts (open_time);

COMMENT ON TABLE forecasts IS
    'the forecast of a candle''s close, made before its window began; never changed but for what came';
COMMENT ON COLUMN forecasts.made_at IS 'by PostgreSQL''s clock, when the row was written';
COMMENT ON COLUMN forecasts.last_close IS 'the close of the last complete candle that was known then';
COMMENT ON COLUMN forecasts.actual IS 'the close that came; null until the candle has closed complete';
