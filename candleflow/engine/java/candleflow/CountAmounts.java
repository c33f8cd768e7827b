package candleflow;

import org.apache.spark.sql.api.java.UDF4;

/** A function of Spark's SQL: {@link Trade#setAmounts}, null where that is false, or where a digit is null. */
public final class CountAmounts implements UDF4<Object, Object, Object, Object, Object> {
  public Object call(Object priceWhole, Object priceSteps, Object quantityWhole, Object quantitySteps) {
    if (priceWhole == null || priceSteps == null || quantityWhole == null || quantitySteps == null) return null;
    Trade trade = new Trade();
    boolean isCounted =
        trade.setAmounts(
            ((Long) priceWhole).longValue(),
            ((Long) priceSteps).longValue(),
            ((Long) quantityWhole).longValue(),
            ((Long) quantitySteps).longValue());
    return isCounted ? trade.amounts() : null;
  }
}
