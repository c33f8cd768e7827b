// Applies what patch.py finds to differ between two values; its docstring has the form of a patch.

// The value that delivery.py has sent to `holder`; its docstring has the form of a message. Undefined where the
// base never came, as after a refresh that was lost: then the whole is asked for.
export function received(holder, sent, lost) {
  forgetMarks();
  if (sent.whole !== undefined) holder.base = { id: sent.base, whole: sent.whole };
  const [nextId, step] = sent.next ?? [sent.base, null];
  if (holder.base?.id === sent.base) holder.base = { id: nextId, whole: apply(holder.base.whole, step) };
  if (holder.base?.id === nextId) return apply(holder.base.whole, sent.patch);
  lost(sent.base);
  return undefined;
}

// Streamlit marks each run of the script for the browser's profiler, and lets none of the marks go: of a page that is
// open all day the browser's process grew by 43 MB an hour, and by 9 without them. Each refresh passes here, with a
// chart or without.
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
