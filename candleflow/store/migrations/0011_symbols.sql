-- A symbol's name may have 50 characters, as Binance's rule says (market/symbol.py has the whole rule): the
-- database bounds the length, those who write check the rest.
--
-- Run once, by the owner, in a transaction of store/schema.py. No stored row can break the wider bound, so none
-- is read again (NOT VALID); new rows are checked all the same.

ALTER TABLE candles
    DROP CONSTRAINT candles_symbol_check,
    ADD CONSTRAINT candles_symbol_check CHECK (length(symbol) BETWEEN 1 AND 50) NOT VALID;
ALTER TABLE alert_states
    DROP CONSTRAINT alert_states_symbol_check,
    ADD CONSTRAINT alert_states_symbol_check CHECK (length(symbol) <= 50) NOT VALID;
ALTER TABLE alerts
    DROP CONSTRAINT alerts_symbol_check,
    ADD CONSTRAINT alerts_symbol_check CHECK (length(symbol) <= 50) NOT VALID;
