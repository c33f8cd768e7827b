-- The tables of a new database. schema.py runs this file once, as the owner, and records it as version 11. A later
-- change of a table is a file of its own in migrations/, numbered from 0012. comments.sql says what each table and
-- column means. Only the SQL functions in functions/ change rows; roles.py lists which role may call which.
--
-- Names are compared byte by byte (COLLATE "C"), whatever locale the server has.


-- From the topic to the candles ---------------------------------------------------------------------------

-- Each batch updates the same few rows of the next four tables. The fill factor keeps room in their page for new
-- row versions, and autovacuum starts after an absolute number of dead rows.
CREATE TABLE topics (
    topic        text PRIMARY KEY,
    topic_id     text NOT NULL,
    run_id       uuid,
    held_by      text,
    claimed_at   timestamptz,
    caught_up_at timestamptz
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

CREATE TABLE topic_offsets (
    topic           text NOT NULL REFERENCES topics,
    partition       integer NOT NULL CHECK (partition >= 0),
    next_offset     bigint NOT NULL CHECK (next_offset >= 0),
    last_offset     bigint,
    last_written_at bigint,
    PRIMARY KEY (topic, partition)
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

CREATE TABLE record_counts (
    topic   text NOT NULL REFERENCES topics,
    outcome text NOT NULL CHECK (length(outcome) <= 200),
    records bigint NOT NULL CHECK (records >= 0),
    PRIMARY KEY (topic, outcome)
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

CREATE TABLE symbols (
    symbol           text COLLATE "C" PRIMARY KEY,
    last_trade_id    bigint NOT NULL,
    last_price       numeric NOT NULL,
    last_trade_time  timestamptz NOT NULL,
    newest_open_time timestamptz NOT NULL,
    updated_at       timestamptz NOT NULL,
    repaired         bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);


-- Candles -------------------------------------------------------------------------------------------------

-- A partial aggregate of one finest window; market/partial.py encodes it.
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

-- trade_ids proves that a candle is complete. end_time makes queries independent of the interval's name.
--
-- Each batch updates the live candles. No index contains a column that these updates change, so they are
-- heap-only (HOT) while the page has room: the fill factor keeps that room.
--
-- Where the finest windows divide a minute, roll-ups longer than a minute store no set of ids. The set would grow
-- with each gap of the day, and each merge would write it again. The function held_ids derives it.
--
-- Autovacuum starts after an absolute number of dead rows: a share of years of candles would be millions.
-- vacuum_index_cleanup is on because candles_open keeps an entry for each candle that was ever open, and VACUUM
-- skips the index pass where few pages have dead rows.
--
-- The table checks only a symbol's length (Binance's limit); writers check its characters (market/symbol.py).
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


-- Alerts --------------------------------------------------------------------------------------------------

-- Rules, their states, and the outbox of messages. A decision is one transaction: the rule's new state by
-- compare-and-set, the alert, and one delivery for each channel. So an alert is decided once, even if a process is
-- killed at any moment. It is sent at most once: the state 'sending' is committed before the request starts. If the
-- process dies while it sends, the outcome is unknown, and the message is not sent again.
CREATE TABLE alert_rules (
    rule_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    rule       jsonb NOT NULL CHECK (jsonb_typeof(rule) = 'object' AND length(rule::text) <= 2000),
    added_at   timestamptz NOT NULL,
    removed_at timestamptz
);

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

CREATE TABLE alerter (
    only_one   boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    run_id     uuid NOT NULL,
    held_by    text NOT NULL,
    claimed_at timestamptz NOT NULL
);


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

-- Old forecasts are deleted by age, across all symbols.
CREATE INDEX forecasts_by_time ON forecasts (open_time);
