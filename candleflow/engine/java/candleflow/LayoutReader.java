package candleflow;

import java.nio.charset.StandardCharsets;
import java.util.HashSet;
import java.util.regex.Pattern;

/**
 * Reads records in exactly the layout that Binance sends (see market/payload.py) into a trade.
 *
 * <p>A record in any other layout, even with one more space, is not read, and neither is an invalid trade. Both go to
 * decode_payload in market/payload.py, so this class never rejects a record.
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

  private static final int INTEGER_DIGITS = 18; // every number of 18 digits fits 64 bits
  private static final int PRICE_DIGITS = 11; // market.trade.PRICE_LIMIT is 10^11
  private static final int QUANTITY_DIGITS = 12; // market.trade.QUANTITY_LIMIT is 10^12
  private static final int PLACES = 8; // market.trade.DECIMAL_PLACES
  private static final int MILLISECOND_DIGITS = 13;
  private static final int MICROSECOND_DIGITS = 16;

  private final Trade trade;
  private final Pattern symbolPattern;
  private final HashSet symbols = new HashSet(); // the valid symbols seen so far
  private byte[] record;
  private int at;
  private boolean fits;

  /** Every record is read into {@code trade}. The pattern is SYMBOL_PATTERN of market/symbol.py. */
  LayoutReader(Trade trade, Pattern symbolPattern) {
    this.trade = trade;
    this.symbolPattern = symbolPattern;
  }

  /** Reads a record into the trade. Returns false if it can't; then the trade's fields are undefined. */
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

  /** Reads one to {@code most} digits; {@code most} is at most 18. */
  private long digits(int most) {
    int begin = at;
    long number = 0;
    while (at < record.length && at - begin < most && isDigit(record[at])) {
      number = 10 * number + record[at] - '0';
      at++;
    }
    fits = fits && at > begin; // one digit too many fails in the next skip()
    return number;
  }

  /** Like {@link #digits}, but rejects leading zeros, which JSON's integers can't have. */
  private long integer(int most) {
    int begin = at;
    long number = digits(most);
    fits = fits && (record[begin] != '0' || at - begin == 1);
    return number;
  }

  /** Reads a decimal point and the digits after it, in steps of 10^-8; 0 if there is no point. */
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

  /** Reads the symbol. Invalid UTF-8 becomes U+FFFD, which is in no symbol. */
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
