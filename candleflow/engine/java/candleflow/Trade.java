package candleflow;

import org.apache.spark.sql.Row;
import org.apache.spark.sql.RowFactory;

/** A sound trade in the columns and units of engine/trades.py's TRADE_COLUMNS; one object is used for many. */
final class Trade {
  private static final long STEPS = 100_000_000L; // of a price or quantity, to one: market.trade.DECIMAL_PLACES
  private static final long MILLION = 1_000_000L;
  private static final long PRICE_ZERO = -9_000_000_000_000_000_000L; // trades.PRICE_ZERO
  private static final long PRICE_LIMIT = 100_000_000_000L; // market.trade's, as the next ones
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
   * Takes a price and a quantity, each as what is before its point and the steps of 10^-8 after it. False where one of
   * them is nothing or beyond its limit, or their product is.
   *
   * <p>The product's digits are gathered in steps of 10^-16, 10^-8, 10^-2, 1 and 10^6, where each carries to the next:
   * nothing on the way reaches 2^63 = 9.2 * 10^18.
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

  /** From a row that has the columns from its column {@code at} on. */
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
