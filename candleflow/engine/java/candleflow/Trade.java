package candleflow;

import org.apache.spark.sql.Row;
import org.apache.spark.sql.RowFactory;

/** A trade in the columns and units of TRADE_COLUMNS in engine/trades.py. One object is reused for all records. */
final class Trade {
  private static final long STEPS = 100_000_000L; // steps of 10^-8 in a unit: market.trade.DECIMAL_PLACES
  private static final long MILLION = 1_000_000L;
  private static final long PRICE_ZERO = -9_000_000_000_000_000_000L; // trades.PRICE_ZERO
  private static final long PRICE_LIMIT = 100_000_000_000L; // this and the next two are those of market.trade
  private static final long QUANTITY_LIMIT = 1_000_000_000_000L;
  private static final long NOTIONAL_MILLIONS = 100_000_000_000_000L; // NOTIONAL_LIMIT

  static final int ADDED = 6;

  String symbol;
  long id;
  long time;
  boolean isTakerBuy;
  long price;
  final long[] added = new long[ADDED]; // trades.ADDED_COLUMNS, one after the other

  /**
   * Sets the price and the quantity, each given as its whole part and its fraction in steps of 10^-8. Returns false if
   * one of them is 0 or reaches its limit, or if their product reaches its limit.
   *
   * <p>The product is computed in units of 10^-16, 10^-8, 10^-2, 1 and 10^6, each with a carry to the next. No
   * intermediate value reaches 2^63 = 9.2 * 10^18.
   */
  boolean setAmounts(long priceWhole, long priceSteps, long quantityWhole, long quantitySteps) {
    if (priceWhole >= PRICE_LIMIT || quantityWhole >= QUANTITY_LIMIT) return false;
    if ((priceWhole | priceSteps) == 0 || (quantityWhole | quantitySteps) == 0) return false;
    long priceMillions = priceWhole / MILLION;
    long priceOnes = priceWhole % MILLION;
    long quantityMillions = quantityWhole / MILLION;
    long quantityOnes = quantityWhole % MILLION;
    long rest = priceSteps * quantitySteps;
    long steps = priceOnes * quantitySteps + priceSteps * quantityOnes + rest / STEPS;
    long hundredths = priceMillions * quantitySteps + priceSteps * quantityMillions + steps / MILLION;
    long ones = priceWhole * quantityOnes + hundredths / 100;
    long millions = priceWhole * quantityMillions + ones / MILLION;
    price = (priceWhole + PRICE_ZERO / STEPS) * STEPS + priceSteps;
    added[0] = quantityWhole;
    added[1] = quantitySteps;
    added[2] = millions / 10_000;
    added[3] = millions % 10_000 * MILLION + ones % MILLION;
    added[4] = hundredths % 100 * MILLION + steps % MILLION;
    added[5] = rest % STEPS;
    return millions < NOTIONAL_MILLIONS;
  }

  /** Copies the trade from a row whose columns for it begin at {@code at}. */
  void set(Row row, int at) {
    symbol = row.getString(at);
    id = row.getLong(at + 1);
    time = row.getLong(at + 2);
    isTakerBuy = row.getBoolean(at + 3);
    price = row.getLong(at + 4);
    for (int i = 0; i < ADDED; i++) added[i] = row.getLong(at + 5 + i);
  }

  Row row() {
    return RowFactory.create(
        new Object[] {
          symbol, id, time, isTakerBuy, price, added[0], added[1], added[2], added[3], added[4], added[5]
        });
  }
}
