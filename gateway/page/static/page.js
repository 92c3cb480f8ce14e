// Asks the gateway every few seconds while somebody looks, and shows what it says.

import { showFleet } from "./fleet.js";
import { showLatency } from "./latency.js";
import { showMoney, showMoneyHour } from "./money.js";
import { sayLive, sayLost, showOverview } from "./overview.js";
import { showRecent, showRouting } from "./routing.js";

const STATE_MS = 2000;
const HISTORY_MS = 5000;
const LIMIT_MS = 10000;
let history = null;
let historyAt_ms = -Infinity;
let answeredAt_s = null;
let timer = null;
let isLooking = false;

async function ask(path) {
  const answer = await fetch(path, { signal: AbortSignal.timeout(LIMIT_MS) });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

/** What the gateway says now; null where it does not answer. */
async function hear() {
  try {
    const isOld = performance.now() - historyAt_ms >= HISTORY_MS;
    const [state, newer] = await Promise.all([
      ask("page/state.json"),
      isOld ? ask("page/history.json") : null,
    ]);
    if (newer) {
      history = newer;
      historyAt_ms = performance.now();
    }
    return { state, newer };
  } catch {
    return null;
  }
}

async function look() {
  const heard = await hear();
  if (!heard) {
    sayLost(answeredAt_s);
    return;
  }
  const { state, newer } = heard;
  answeredAt_s = state.now_s;
  sayLive(state);
  showOverview(state, history);
  showMoney(state);
  showFleet(state);
  showRecent(state);
  if (!newer) return;
  showMoneyHour(newer);
  showRouting(newer);
  showLatency(newer);
}

/** Look, and again after a while; one round at a time. */
async function lookOn() {
  if (isLooking) return;
  isLooking = true;
  clearTimeout(timer);
  try {
    await look();
  } finally {
    isLooking = false;
    if (!document.hidden) timer = setTimeout(lookOn, STATE_MS);
  }
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) clearTimeout(timer);
  else lookOn();
});
lookOn();
