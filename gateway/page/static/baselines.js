// What closed APIs are called: one whose price is too old says so wherever it is shown.

const stale = new Set();

/** baselines: as /page/state.json tells them. */
export function hearBaselines(baselines) {
  stale.clear();
  for (const one of baselines) if (one.is_stale) stale.add(one.name);
}

export const label = (name) => (stale.has(name) ? `${name} (STALE)` : name);
