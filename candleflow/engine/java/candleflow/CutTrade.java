package candleflow;

import java.util.regex.Pattern;
import org.apache.spark.sql.api.java.UDF1;

/**
 * A function of Spark's SQL: a record into the columns of its trade, or null where {@link LayoutReader} leaves it.
 *
 * <p>All that is here is written for Janino, the compiler of the code that Spark generates: without lambdas, and with
 * Object for type parameters, as it makes no bridge to a method of other types.
 */
public final class CutTrade implements UDF1<Object, Object> {
  private final Pattern symbolPattern;

  public CutTrade(String symbolPattern) {
    this.symbolPattern = Pattern.compile(symbolPattern);
  }

  public Object call(Object record) {
    Trade trade = new Trade();
    return record != null && new LayoutReader(trade, symbolPattern).read((byte[]) record) ? trade.row() : null;
  }
}
