package candleflow;

import java.util.Iterator;
import org.apache.spark.api.java.function.MapPartitionsFunction;
import org.apache.spark.sql.Row;

/**
 * Folds trades that were read already: the columns with the reason of a refusal, when the record was written in
 * microseconds, whether it came live, and those of {@link Trade}.
 */
public final class FoldTrades implements MapPartitionsFunction<Object, Object> {
  private static final int FIRST_OF_TRADE = 3;

  private final long paneUs;

  public FoldTrades(long paneUs) {
    this.paneUs = paneUs;
  }

  public Iterator call(Iterator rows) {
    Blocks blocks = new Blocks(paneUs);
    Trade trade = new Trade();
    while (rows.hasNext()) {
      Row row = (Row) rows.next();
      if (row.isNullAt(0)) {
        trade.set(row, FIRST_OF_TRADE);
        blocks.add(trade, row.getLong(1), row.getBoolean(2));
      } else {
        blocks.refuse(row.getString(0));
      }
    }
    return blocks.rows();
  }
}
