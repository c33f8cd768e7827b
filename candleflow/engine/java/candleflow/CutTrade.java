package candleflow;

import java.util.regex.Pattern;
import org.apache.spark.sql.api.java.UDF1;

/**
 * A Spark SQL function that decodes a record into a trade's columns; null if {@link LayoutReader} can't read it.
 *
 * <p>All files here are compiled by Janino, which Spark uses for its generated code. It supports no lambdas and no
 * bridge methods, so type parameters are Object.
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
