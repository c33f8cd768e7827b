// Applies the patches of patch.py; its docstring describes their format.

// Returns the value that a message of delivery.py (format: see its docstring) means for `holder`. If the message's base
// is not the one held, as after lost messages, calls `lost` to request the whole value, and returns undefined.
export function received(holder, sent, lost) {
  forgetMarks();
  if (sent.whole !== undefined) holder.base = { id: sent.base, whole: sent.whole };
  const [nextId, step] = sent.next ?? [sent.base, null];
  if (holder.base?.id === sent.base) holder.base = { id: nextId, whole: apply(holder.base.whole, step) };
  if (holder.base?.id === nextId) return apply(holder.base.whole, sent.patch);
  lost(sent.base);
  return undefined;
}

// Streamlit adds performance entries with each run and never clears them: the browser's process grew by 43 MB an hour,
// and by 9 MB without them (docs/explanation/performance.md). Called here, as every refresh passes received().
function forgetMarks() {
  performance.clearMarks();
  performance.clearMeasures();
}

export function apply(before, patch) {
  if (patch === null || patch === undefined) return before;
  switch (patch[0]) {
    case "set":
      return patch[1];
    case "keys": {
      const after = { ...before };
      for (const key of patch[2]) delete after[key];
      for (const [key, one] of Object.entries(patch[1])) after[key] = apply(before[key], one);
      return after;
    }
    case "items":
      return before.map((one, at) => apply(one, patch[1][at]));
    case "points": {
      const [, dropped, length, runs] = patch;
      const points = before.slice(dropped, dropped + length);
      for (const [at, values] of runs) values.forEach((value, step) => { points[at + step] = value; });
      return points;
    }
    default:
      throw new Error(`no patch: ${patch[0]}`);
  }
}
