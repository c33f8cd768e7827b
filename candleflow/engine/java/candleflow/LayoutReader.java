package candleflow;

import java.nio.charset.StandardCharsets;
import java.util.HashSet;
import java.util.regex.Pattern;

/**
 * Reads a record in the exact layout that Binance sends, that of market/payload.py, into a trade.
 *
 * <p>A record in any other layout, even by a blank, is not read, nor is one that is no sound trade: both are left to
 * market/payload.py's decode_payload, so nothing is decided here.
 */
final class LayoutReader {
  private static final byte[] EVENT_TIME = bytes("{\"e\":\"trade\",\"E\":");
  private static final byte[] SYMBOL = bytes(",\"s\":\"");
  private static final byte[] TRADE_ID = bytes("\",\"t\":");
  private static final byte[] PRICE = bytes(",\"p\":\"");
  private static final byte[] QUANTITY = bytes("\",\"q\":\"");
  private static final byte[] TRADE_TIME = bytes("\",\"T\":");
  private static final byte[] IS_MAKER = bytes(",\"m\":");
  private static final byte[] IGNORED = bytes(",\"M\":");
  private static final byte[] TRUE = bytes("true");
  private static final byte[] FALSE = bytes("false");
  private static final byte[] END = bytes("}");

  private static final int INTEGER_DIGITS = 18; // the most that every 64-bit integer holds
  private static final int PRICE_DIGITS = 11; // market.trade.PRICE_LIMIT is 10^11
  private static final int QUANTITY_DIGITS = 12; // market.trade.QUANTITY_LIMIT is 10^12
  private static final int PLACES = 8; // market.trade.DECIMAL_PLACES
  private static final int MILLISECOND_DIGITS = 13;
  private static final int MICROSECOND_DIGITS = 16;

  private final Trade trade;
  private final Pattern symbolPattern;
  private final HashSet symbols = new HashSet(); // those met that match
  private byte[] record;
  private int at;
  private boolean fits;

  /** {@code trade} is what the records are read into, one after the other; the pattern is market.symbol's. */
  LayoutReader(Trade trade, Pattern symbolPattern) {
    this.trade = trade;
    this.symbolPattern = symbolPattern;
  }

  /** Whether the record is a trade, as far as it tells that by itself; if not, the trade is of no use. */
  boolean read(byte[] record) {
    this.record = record;
    at = 0;
    fits = true;
    skip(EVENT_TIME);
    integer(INTEGER_DIGITS);
    skip(SYMBOL);
    trade.symbol = symbol();
    skip(TRADE_ID);
    trade.id = integer(INTEGER_DIGITS);
    skip(PRICE);
    long price = digits(PRICE_DIGITS);
    long priceSteps = steps();
    skip(QUANTITY);
    long quantity = digits(QUANTITY_DIGITS);
    long quantitySteps = steps();
    skip(TRADE_TIME);
    trade.time = microseconds();
    skip(IS_MAKER);
    trade.isTakerBuy = !truth();
    skip(IGNORED);
    truth();
    skip(END);
    return fits && at == record.length && trade.setAmounts(price, priceSteps, quantity, quantitySteps);
  }

  private void skip(byte[] text) {
    fits = fits && isNext(text);
    if (fits) at += text.length;
  }

  private boolean isNext(byte[] text) {
    if (record.length - at < text.length) return false;
    for (int i = 0; i < text.length; i++) {
      if (record[at + i] != text[i]) return false;
    }
    return true;
  }

  /** One digit or more, and no more than {@code most}, which is no more than 18. */
  private long digits(int most) {
    int begin = at;
    long number = 0;
    while (at < record.length && at - begin < most && isDigit(record[at])) {
      number = 10 * number + record[at] - '0';
      at++;
    }
    fits = fits && at > begin; // a digit too many is no text that may follow
    return number;
  }

  /** As {@link #digits}, without a leading zero, as JSON has integers. */
  private long integer(int most) {
    int begin = at;
    long number = digits(most);
    fits = fits && (record[begin] != '0' || at - begin == 1);
    return number;
  }

  /** The digits after a point in steps of 10^-8, nothing where there is no point. */
  private long steps() {
    if (at >= record.length || record[at] != '.') return 0;
    at++;
    int begin = at;
    long steps = digits(PLACES);
    for (int places = at - begin; places < PLACES; places++) steps *= 10;
    return steps;
  }

  private long microseconds() {
    int begin = at;
    long time = integer(MICROSECOND_DIGITS);
    if (at - begin == MILLISECOND_DIGITS) return 1000 * time;
    fits = fits && at - begin == MICROSECOND_DIGITS;
    return time;
  }

  private boolean truth() {
    boolean isTrue = isNext(TRUE);
    skip(isTrue ? TRUE : FALSE);
    return isTrue;
  }

  /** Bytes that are no UTF-8 become U+FFFD, which no symbol has. */
  private String symbol() {
    if (!fits) return null;
    int begin = at;
    while (at < record.length && record[at] != '"') at++;
    String symbol = new String(record, begin, at - begin, StandardCharsets.UTF_8);
    if (!symbols.contains(symbol)) {
      fits = symbolPattern.matcher(symbol).matches();
      if (fits) symbols.add(symbol);
    }
    return symbol;
  }

  private static boolean isDigit(byte one) {
    return one >= '0' && one <= '9';
  }

  private static byte[] bytes(String text) {
    return text.getBytes(StandardCharsets.US_ASCII);
  }
}
