// The tiles at the top, the line that says whether the gateway answers, and the footer.

import { el, say } from "./dom.js";
import { NONE, count, exactUsd, percent, rate, seconds, span, time, usd } from "./format.js";

const tiles = document.getElementById("tiles");
const status = document.getElementById("status");
const banner = document.getElementById("banner");
const footer = document.getElementById("footer");
const main = document.getElementById("main");

/** state, history: as /page/*.json tells them; history may not be there yet. */
export function showOverview(state, history) {
  const told = [...moneyTiles(state), ...trafficTiles(history), workersTile(state)];
  told.forEach((one, place) => fillTile(tiles.children[place] ?? newTile(), one));
  while (tiles.children.length > told.length) tiles.lastChild.remove();
  say(footer, `deltafleet ${state.version}, up ${span(state.now_s - state.started_s)}. Times are ` +
    "your clock’s; days are UTC’s. No login guards this page: keep its port private.");
}

function newTile() {
  const parts = ["name", "value", "more"].map((className) => el("span", { className }));
  parts[0].append(el("span"), el("span", { className: "stale", textContent: "STALE", hidden: true }));
  return tiles.appendChild(el("li", {}, ...parts));
}

function fillTile(tile, { name, value, more, tone = "", exact = "", stale = false }) {
  const [nameBox, valueBox, moreBox] = tile.children;
  say(nameBox.firstChild, name);
  nameBox.lastChild.hidden = !stale;
  say(valueBox, value, `value ${tone}`.trim());
  say(moreBox, more);
  if (valueBox.title !== exact) valueBox.title = exact;
}

function moneyTiles({ money, ledger_failure: failure }) {
  if (!money) {
    return [{ name: "Spent on requests", value: NONE, more: failure ?? "reading the ledger …" }];
  }
  const { total, baselines } = money;
  const spent = {
    name: "Spent on requests",
    value: usd(total.cost_usd),
    more: failure ?? `${usd(total.effective_usd)} with idle and loading`,
    exact: exactUsd(total.cost_usd),
  };
  return [spent, ...baselines.map((one) => savedTile(one, total.baselines[one.name]))];
}

function savedTile(baseline, compared) {
  const name = `Saved on ${baseline.name}`;
  const stale = baseline.is_stale;
  if (!compared) return { name, value: NONE, more: "nothing answered yet", stale };
  const { saved_usd: saved, saved_share: share } = compared;
  const all = compared.effective_saved_share;
  return {
    name,
    value: usd(saved) + (share === null ? "" : ` · ${percent(share, 0)}`),
    more: `${usd(compared.effective_saved_usd)}${all === null ? "" : ` (${percent(all, 0)})`} ` +
      "with idle and loading",
    tone: Number(saved) >= 0 ? "good" : "bad",
    exact: exactUsd(saved),
    stale,
  };
}

function trafficTiles(history) {
  const last = (column) => column?.at(-1) ?? null;
  const requests = last(history?.requests_per_s);
  const tokens = last(history?.output_tokens_per_s);
  const [median, p95, p99] = history?.first_token_s?.map(last) ?? [null, null, null];
  return [
    {
      name: "Requests now",
      value: requests === null ? NONE : `${rate(requests)}/s`,
      more: tokens === null ? "measuring …" : `${rate(tokens)} output tokens/s`,
    },
    {
      name: "First token, median",
      value: seconds(median),
      more: median === null ? "no request in the last minute" :
        `p95 ${seconds(p95)}, p99 ${seconds(p99)}`,
    },
  ];
}

function workersTile({ workers, models }) {
  const ready = workers.filter((one) => one.state === "ready").length;
  const live = models.filter((one) => one.live_on.length).length;
  return {
    name: "Workers ready",
    value: `${ready} of ${workers.length}`,
    more: `${count(live)} of ${count(models.length)} models live`,
    tone: ready === workers.length ? "" : ready ? "warn" : "bad",
  };
}

/** The gateway answered. */
export function sayLive(state) {
  banner.hidden = true;
  main.classList.remove("old");
  say(status, `live, ${time(state.now_s)}`, "live");
}

/** It did not. since_s: when it last did, null for never. */
export function sayLost(since_s) {
  banner.hidden = false;
  main.classList.add("old");
  say(banner, since_s === null
    ? "The gateway does not answer. Trying again every few seconds."
    : `The gateway has not answered since ${time(since_s)}. What is below is of then; ` +
      "trying again every few seconds.");
  say(status, "no answer", "lost");
}
