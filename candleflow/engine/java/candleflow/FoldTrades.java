package candleflow;

import java.util.Iterator;
import org.apache.spark.api.java.function.MapPartitionsFunction;
import org.apache.spark.sql.Row;

/**
 * Aggregates decoded trades. The columns: reason for rejection, the record's timestamp in microseconds, whether it is
 * live, partition, offset, and those of {@link Trade}.
 */
public final class FoldTrades implements MapPartitionsFunction<Object, Object> {
  private static final int FIRST_OF_TRADE = 5;

  private final long paneUs;
  private final long most;

  public FoldTrades(long paneUs, long most) {
    this.paneUs = paneUs;
    this.most = most;
  }

  public Iterator call(Iterator rows) {
    Blocks blocks = new Blocks(paneUs, most);
    Trade trade = new Trade();
    while (!blocks.isFull() && rows.hasNext()) {
      Row row = (Row) rows.next();
      blocks.note(row.getInt(3), row.getLong(4), row.getLong(1));
      if (row.isNullAt(0)) {
        trade.set(row, FIRST_OF_TRADE);
        blocks.add(trade, row.getLong(1), row.getBoolean(2));
      } else {
        blocks.reject(row.getString(0));
      }
    }
    return blocks.rows();
  }
}
