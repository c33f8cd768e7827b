package candleflow;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.RowFactory;

/** Aggregates trades by the candle rules of market/candle.py into the rows of engine/candles.py's Block. */
final class Blocks {
  private static final String TOO_MANY = "(too many)"; // candles.TOO_MANY
  private static final String LAST_RECORD = "(last record)"; // candles.LAST_RECORD

  private final long paneUs;
  private final long most;
  private final Map blocks = new HashMap();
  private final Map rejected = new HashMap();
  private final Map lastRecords = new HashMap();
  private Block latest = null;
  private LastRecord last = null;
  private long records = 0;

  /** The limit is {@code most} blocks: the caller checks {@link #isFull} before each record. */
  Blocks(long paneUs, long most) {
    this.paneUs = paneUs;
    this.most = most;
  }

  /** Returns whether the limit of blocks is exceeded; then the caller stops reading records. */
  boolean isFull() {
    return blocks.size() > most;
  }

  /** Notes a record's position in the topic. Call it for each record, rejected ones included. */
  void note(int partition, long offset, long writtenAt) {
    records++;
    if (last == null || last.partition != partition) {
      Integer key = Integer.valueOf(partition);
      last = (LastRecord) lastRecords.get(key);
      if (last == null) {
        last = new LastRecord(partition);
        lastRecords.put(key, last);
      }
    }
    if (offset > last.offset) {
      last.offset = offset;
      last.writtenAt = writtenAt;
    }
  }

  void add(Trade trade, long writtenAt, boolean isLive) {
    long openTime = trade.time - trade.time % paneUs;
    long number = trade.id >> Block.ID_BITS;
    if (latest == null || !latest.isOf(trade.symbol, openTime, number)) {
      Block sought = new Block(trade.symbol, openTime, number);
      latest = (Block) blocks.get(sought);
      if (latest == null) {
        blocks.put(sought, sought);
        latest = sought;
      }
    }
    latest.add(trade, writtenAt, isLive);
  }

  void reject(String reason) {
    long[] count = (long[]) rejected.get(reason);
    if (count == null) rejected.put(reason, new long[] {1});
    else count[0]++;
  }

  Iterator rows() {
    List rows = new ArrayList();
    if (isFull()) {
      rows.add(Block.rejection(TOO_MANY, records));
      return rows.iterator();
    }
    for (Iterator one = lastRecords.values().iterator(); one.hasNext(); ) rows.add(((LastRecord) one.next()).row());
    for (Iterator one = rejected.entrySet().iterator(); one.hasNext(); ) {
      Map.Entry rejection = (Map.Entry) one.next();
      rows.add(Block.rejection((String) rejection.getKey(), ((long[]) rejection.getValue())[0]));
    }
    for (Iterator one = blocks.values().iterator(); one.hasNext(); ) rows.add(((Block) one.next()).row());
    return rows.iterator();
  }

  private static final class LastRecord {
    private final int partition;
    private long offset = -1;
    private long writtenAt;

    LastRecord(int partition) {
      this.partition = partition;
    }

    Row row() {
      Object[] row = new Object[Block.COLUMNS];
      row[0] = LAST_RECORD;
      row[2] = Long.valueOf(partition); // the columns' order is that of candles.Block
      row[3] = Long.valueOf(offset);
      row[5] = Long.valueOf(writtenAt);
      return RowFactory.create(row);
    }
  }

  private static final class Block {
    static final int ID_BITS = 8; // candles.BLOCK_SIZE
    private static final int WORD_BITS = 6;
    private static final int COLUMNS = 29;

    private final String symbol;
    private final long openTime;
    private final long number;
    private final long[] bits = new long[1 << (ID_BITS - WORD_BITS)];
    private final long[] added = new long[Trade.ADDED];
    private final long[] boughtByTakers = new long[Trade.ADDED];
    private long records = 0;
    private long writtenAt = Long.MIN_VALUE;
    private long firstId = Long.MAX_VALUE;
    private long lastId = Long.MIN_VALUE;
    private long open;
    private long high = Long.MIN_VALUE;
    private long low = Long.MAX_VALUE;
    private long close;
    private long lastTradeTime;
    private long live = 0;
    private long firstLiveTime = Long.MAX_VALUE;

    Block(String symbol, long openTime, long number) {
      this.symbol = symbol;
      this.openTime = openTime;
      this.number = number;
    }

    boolean isOf(String symbol, long openTime, long number) {
      return this.number == number && this.openTime == openTime && this.symbol.equals(symbol);
    }

    public boolean equals(Object other) {
      return other instanceof Block && isOf(((Block) other).symbol, ((Block) other).openTime, ((Block) other).number);
    }

    public int hashCode() {
      return 31 * (31 * symbol.hashCode() + Long.hashCode(openTime)) + Long.hashCode(number);
    }

    void add(Trade trade, long writtenAt, boolean isLive) {
      records++;
      this.writtenAt = Math.max(this.writtenAt, writtenAt);
      bits[(int) (trade.id >> WORD_BITS) & (bits.length - 1)] |= 1L << (int) trade.id; // by its lowest six bits
      if (trade.id < firstId) {
        firstId = trade.id;
        open = trade.price;
      }
      if (trade.id > lastId) {
        lastId = trade.id;
        close = trade.price;
        lastTradeTime = trade.time;
      }
      high = Math.max(high, trade.price);
      low = Math.min(low, trade.price);
      sum(added, trade.added);
      if (trade.isTakerBuy) sum(boughtByTakers, trade.added);
      if (isLive) {
        live++;
        firstLiveTime = Math.min(firstLiveTime, trade.time);
      }
    }

    private static void sum(long[] sums, long[] added) {
      for (int i = 0; i < sums.length; i++) sums[i] = Math.addExact(sums[i], added[i]);
    }

    Row row() {
      List row = new ArrayList();
      row.add(null); // no reason for rejection
      row.add(symbol);
      addAll(row, new long[] {openTime, number, records, writtenAt});
      addAll(row, bits);
      addAll(row, new long[] {open, high, low, close, lastTradeTime, live});
      row.add(live > 0 ? Long.valueOf(firstLiveTime) : null);
      addAll(row, added);
      addAll(row, boughtByTakers);
      return RowFactory.create(row.toArray());
    }

    private static void addAll(List row, long[] numbers) {
      for (int i = 0; i < numbers.length; i++) row.add(Long.valueOf(numbers[i]));
    }

    /** Returns the row that counts the records rejected for a reason. */
    static Row rejection(String reason, long records) {
      Object[] row = new Object[COLUMNS];
      row[0] = reason;
      row[4] = Long.valueOf(records);
      return RowFactory.create(row);
    }
  }
}
