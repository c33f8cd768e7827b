package candleflow;

import java.util.Iterator;
import java.util.regex.Pattern;
import org.apache.spark.api.java.function.MapPartitionsFunction;
import org.apache.spark.sql.Row;

/**
 * Decodes and aggregates Kafka's records. The columns: value, timestamp in microseconds, whether the record is live,
 * partition and offset.
 *
 * <p>A record that {@link LayoutReader} can't read, or whose trade time is too far after its timestamp, is counted as
 * unread. The driver then decodes it with market/payload.py.
 */
public final class FoldRecords implements MapPartitionsFunction<Object, Object> {
  private final long paneUs;
  private final long maxFutureUs;
  private final String unread;
  private final Pattern symbolPattern;
  private final long most;

  public FoldRecords(long paneUs, long maxFutureUs, String unread, String symbolPattern, long most) {
    this.paneUs = paneUs;
    this.maxFutureUs = maxFutureUs;
    this.unread = unread;
    this.symbolPattern = Pattern.compile(symbolPattern);
    this.most = most;
  }

  public Iterator call(Iterator rows) {
    Blocks blocks = new Blocks(paneUs, most);
    Trade trade = new Trade();
    LayoutReader reader = new LayoutReader(trade, symbolPattern);
    while (!blocks.isFull() && rows.hasNext()) {
      Row row = (Row) rows.next();
      long writtenAt = row.getLong(1);
      blocks.note(row.getInt(3), row.getLong(4), writtenAt);
      if (!row.isNullAt(0) && reader.read((byte[]) row.get(0)) && trade.time <= writtenAt + maxFutureUs) {
        blocks.add(trade, writtenAt, row.getBoolean(2));
      } else {
        blocks.reject(unread);
      }
    }
    return blocks.rows();
  }
}
