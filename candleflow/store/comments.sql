-- What each table and column means: one COMMENT each. schema.py applies this file again whenever its text has
-- changed, to new and to existing databases. `make reference` writes docs/reference/database.md from it.

COMMENT ON TYPE partial_candle IS
    'A partial aggregate: the candle of one batch''s trades in one window. Times are in microseconds since the epoch; trade_ids is NULL where the batch has every id from first to last';

COMMENT ON TABLE candles IS
    'Candles of all symbols and intervals: the finest windows, and the roll-ups 1m, 5m, 15m, 1h and 1d';
COMMENT ON COLUMN candles.symbol IS 'Market, such as BTCUSDT';
COMMENT ON COLUMN candles.interval IS 'Length of the candle, such as 5s, 1m or 1d';
COMMENT ON COLUMN candles.open_time IS 'Start of the window, UTC; included';
COMMENT ON COLUMN candles.end_time IS 'End of the window, UTC; not included: open_time plus the interval';
COMMENT ON COLUMN candles.open IS 'Price of the trade with the least id, in the quote asset (USDT for BTCUSDT)';
COMMENT ON COLUMN candles.high IS 'Highest price, in the quote asset';
COMMENT ON COLUMN candles.low IS 'Lowest price, in the quote asset';
COMMENT ON COLUMN candles.close IS 'Price of the trade with the greatest id, in the quote asset';
COMMENT ON COLUMN candles.volume IS 'Sum of the traded quantities, in the base asset (BTC for BTCUSDT)';
COMMENT ON COLUMN candles.quote_volume IS 'Sum of price times quantity, in the quote asset';
COMMENT ON COLUMN candles.taker_buy_volume IS 'The part of volume in which the taker bought, in the base asset';
COMMENT ON COLUMN candles.taker_buy_quote_volume IS
    'The part of quote_volume in which the taker bought, in the quote asset';
COMMENT ON COLUMN candles.trade_count IS 'Number of trades';
COMMENT ON COLUMN candles.first_trade_id IS 'Least trade id in the candle, as the exchange numbers trades';
COMMENT ON COLUMN candles.last_trade_id IS 'Greatest trade id in the candle';
COMMENT ON COLUMN candles.trade_ids IS
    'Ids of the trades in the candle. NULL in roll-ups longer than a minute, where the function held_ids(candle) derives them from shorter candles';
COMMENT ON COLUMN candles.is_closed IS
    'True once the symbol had a trade at end_time or later, or once the window passed with no later trade to read';
COMMENT ON COLUMN candles.is_complete IS
    'True if no trade id is missing inside the candle, nor between it and the previous candle';
COMMENT ON COLUMN candles.revision IS 'How often the candle changed after it had closed';
COMMENT ON COLUMN candles.source IS
    'Where its trades come from: trades (Kafka), kline (the exchange''s klines), archive (the exchange''s trade archive) or mixed';
COMMENT ON COLUMN candles.updated_at IS 'When the trades in the row last changed, by PostgreSQL''s clock';

COMMENT ON TABLE symbols IS 'The newest trade of each symbol';
COMMENT ON COLUMN symbols.symbol IS 'Market, such as BTCUSDT';
COMMENT ON COLUMN symbols.last_trade_id IS 'Id of the newest trade in the candles';
COMMENT ON COLUMN symbols.last_price IS 'Price of that trade, in the quote asset';
COMMENT ON COLUMN symbols.last_trade_time IS 'Time of that trade, by the exchange''s clock';
COMMENT ON COLUMN symbols.newest_open_time IS
    'Latest open time of a finest candle of the symbol: every candle that ends by then is closed';
COMMENT ON COLUMN symbols.updated_at IS 'When a batch last changed this row, by PostgreSQL''s clock';
COMMENT ON COLUMN symbols.repaired IS 'How many candles of the symbol were ever rebuilt from their trades';

COMMENT ON TABLE topics IS 'Kafka topics that were merged into the candles, and the processor that holds each one';
COMMENT ON COLUMN topics.topic IS 'Name of the topic';
COMMENT ON COLUMN topics.topic_id IS
    'Kafka''s id of the topic that the stored offsets belong to: a topic that is deleted and created again has another';
COMMENT ON COLUMN topics.run_id IS
    'Random id of the processor run that may merge: the last to claim the topic. NULL after adopt-topic';
COMMENT ON COLUMN topics.held_by IS 'Host and process id of that run. NULL after adopt-topic';
COMMENT ON COLUMN topics.claimed_at IS 'When that run claimed the topic. NULL before the first claim';
COMMENT ON COLUMN topics.caught_up_at IS
    'When the processor last had merged every record of the topic. NULL if it never had';

COMMENT ON TABLE topic_offsets IS 'How far each partition is merged; a batch updates it in the transaction of its candles';
COMMENT ON COLUMN topic_offsets.topic IS 'Name of the topic';
COMMENT ON COLUMN topic_offsets.partition IS 'Number of the partition, from 0';
COMMENT ON COLUMN topic_offsets.next_offset IS 'Offset of the first record that is not merged yet';
COMMENT ON COLUMN topic_offsets.last_offset IS
    'Offset of the last record before next_offset, Kafka''s own control records left out. NULL if unknown';
COMMENT ON COLUMN topic_offsets.last_written_at IS
    'Timestamp of that record in Kafka, in microseconds since the epoch. NULL if unknown';

COMMENT ON TABLE record_counts IS
    'Records of each topic by outcome: received = merged + duplicate + all "rejected: ...". late counts those merged records whose candle had closed';
COMMENT ON COLUMN record_counts.topic IS 'Name of the topic';
COMMENT ON COLUMN record_counts.outcome IS 'received, merged, late, duplicate, or "rejected: " with the reason';
COMMENT ON COLUMN record_counts.records IS 'Number of records since the topic was first read';

COMMENT ON TABLE forecasts IS
    'Forecasts of the close of finest candles. Each is stored before its window begins; later only actual and scored_at are filled in';
COMMENT ON COLUMN forecasts.symbol IS 'Market, such as BTCUSDT';
COMMENT ON COLUMN forecasts.interval IS 'Length of the candle, such as 5s';
COMMENT ON COLUMN forecasts.open_time IS 'Start of the window whose close is forecast';
COMMENT ON COLUMN forecasts.made_at IS 'When the row was written, by PostgreSQL''s clock; before open_time';
COMMENT ON COLUMN forecasts.model IS 'Name of the model that made the forecast';
COMMENT ON COLUMN forecasts.version IS 'Version of the forecaster''s code';
COMMENT ON COLUMN forecasts.forecast IS 'Forecast close, in the quote asset';
COMMENT ON COLUMN forecasts.lower IS 'Lower end of the 80 % interval of the close';
COMMENT ON COLUMN forecasts.upper IS 'Upper end of the 80 % interval of the close';
COMMENT ON COLUMN forecasts.last_close IS 'Close of the last complete candle when the forecast was made';
COMMENT ON COLUMN forecasts.actual IS 'The real close. NULL until the candle is closed and complete';
COMMENT ON COLUMN forecasts.scored_at IS 'When actual was filled in. NULL until then';

COMMENT ON TABLE alert_rules IS 'Alert rules, removed ones included';
COMMENT ON COLUMN alert_rules.rule_id IS 'Number of the rule';
COMMENT ON COLUMN alert_rules.rule IS
    'The rule as JSON: kind, threshold, symbols and names of channels, never their addresses; candleflow/alerts/rules.py reads it';
COMMENT ON COLUMN alert_rules.added_at IS 'When the rule was added';
COMMENT ON COLUMN alert_rules.removed_at IS 'When the rule was removed. NULL while it is in force';

COMMENT ON TABLE alert_states IS 'What a rule remembers of a symbol from one evaluation to the next';
COMMENT ON COLUMN alert_states.rule_id IS 'Number of the rule';
COMMENT ON COLUMN alert_states.symbol IS 'Market, such as BTCUSDT';
COMMENT ON COLUMN alert_states.version IS
    'Number of changes so far; a decision that was made from an older version fails (compare-and-set)';
COMMENT ON COLUMN alert_states.state IS 'The state as JSON, such as whether the rule is armed and when it last fired';

COMMENT ON TABLE alerts IS 'Alerts that were decided in the last 90 days';
COMMENT ON COLUMN alerts.alert_id IS 'Number of the alert';
COMMENT ON COLUMN alerts.rule_id IS 'Number of the rule that fired';
COMMENT ON COLUMN alerts.symbol IS 'Market that the alert is about';
COMMENT ON COLUMN alerts.window_at IS
    'Open time of the candle in which the rule fired: a rule has at most one alert for a symbol and a window';
COMMENT ON COLUMN alerts.sampled_at IS 'Time of the sample that fired the rule';
COMMENT ON COLUMN alerts.text IS 'Full text of the message';
COMMENT ON COLUMN alerts.brief IS 'One line, for a message that carries many alerts';
COMMENT ON COLUMN alerts.decided_at IS 'When the alert was decided, by PostgreSQL''s clock';

COMMENT ON TABLE alert_deliveries IS 'The outbox: one row for each alert and channel';
COMMENT ON COLUMN alert_deliveries.alert_id IS 'Number of the alert';
COMMENT ON COLUMN alert_deliveries.channel IS 'Name of the channel in CANDLEFLOW_ALERT_CHANNELS';
COMMENT ON COLUMN alert_deliveries.state IS
    'pending, sending (the request may be on its way), sent, refused, unknown (it was on its way and no answer came: it is not sent again) or given up';
COMMENT ON COLUMN alert_deliveries.attempts IS 'How often sending was started';
COMMENT ON COLUMN alert_deliveries.due_at IS 'Earliest time of the next attempt';
COMMENT ON COLUMN alert_deliveries.detail IS 'Why the last attempt ended as it did; empty if there is nothing to say';
COMMENT ON COLUMN alert_deliveries.updated_at IS 'When the state last changed';

COMMENT ON TABLE alerter IS 'The process that may decide and send alerts: the last to claim it. At most one row';
COMMENT ON COLUMN alerter.only_one IS 'Always true; as the primary key it allows one row';
COMMENT ON COLUMN alerter.run_id IS 'Random id of that process''s claim';
COMMENT ON COLUMN alerter.held_by IS 'Host and process id';
COMMENT ON COLUMN alerter.claimed_at IS 'When it claimed';

COMMENT ON TABLE schema_version IS 'Schema versions that were applied to this database';
COMMENT ON COLUMN schema_version.version IS 'Number: 11 is tables.sql, later ones are migrations';
COMMENT ON COLUMN schema_version.name IS 'Name of the file';
COMMENT ON COLUMN schema_version.applied_at IS 'When it was applied, by PostgreSQL''s clock';

COMMENT ON TABLE schema_functions IS 'SQL functions, and this list of comments, as last applied';
COMMENT ON COLUMN schema_functions.name IS 'Name of the function, or comments.sql';
COMMENT ON COLUMN schema_functions.checksum IS
    'SHA-256 of its text and of all roles'' rights: another one makes the next start apply it again';
