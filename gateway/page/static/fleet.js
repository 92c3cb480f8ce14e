// Workers and models: what is live where, and what it takes.

import { fillTable } from "./dom.js";
import { showFamily } from "./family.js";
import { NONE, bytes, count, exactUsd, percent, shortUsd, span } from "./format.js";

const TONES = { ready: "good", starting: "warn", draining: "warn" };
const workers = document.getElementById("workers");
const models = document.getElementById("models");

const WORKER_COLUMNS = [
  { title: "worker", header: true, cell: (one) => one.name },
  { title: "state", cell: (one) => ({ text: one.state, className: `state ${TONES[one.state] ?? "bad"}` }) },
  { title: "engine", cell: (one) => one.engine || NONE },
  {
    title: "price",
    number: true,
    cell: (one) => one.usd_per_hour === null ? NONE
      : { text: `${shortUsd(one.usd_per_hour)}/h`, title: `${exactUsd(one.usd_per_hour)} per hour` },
  },
  {
    title: "busy, last minute",
    cell: (one) => one.utilisation === null ? { text: NONE, share: 0 }
      : { text: percent(one.utilisation, 0), share: one.utilisation },
  },
  { title: "running", number: true, cell: (one) => count(one.running) },
  { title: "waiting", number: true, cell: (one) => count(one.waiting) },
  {
    title: "weights in memory",
    cell: (one) => ({
      text: one.memory_budget_bytes
        ? `${one.memory_used_bytes ? bytes(one.memory_used_bytes) : "0"} of ${bytes(one.memory_budget_bytes)}`
        : bytes(one.memory_used_bytes),
      share: one.memory_budget_bytes ? one.memory_used_bytes / one.memory_budget_bytes : 0,
    }),
  },
  { title: "up", number: true, cell: (one) => span(one.uptime_s) },
  { title: "live models", wide: true, cell: (one) => one.loaded.join(", ") || NONE },
];

const modelColumns = (now_s) => [
  { title: "model", header: true, cell: (one) => ({ text: one.name, title: one.description }) },
  { title: "stored as", cell: (one) => storedAs(one) },
  {
    title: "on disk",
    cell: (one) => ({
      text: one.stored_bytes ? `${bytes(one.stored_bytes)} of ${bytes(one.full_bytes)}` : NONE,
      share: one.full_bytes ? one.stored_bytes / one.full_bytes : 0,
      title: one.full_bytes ? `${percent(one.stored_bytes / one.full_bytes)} of a full checkpoint` : "",
    }),
  },
  { title: "live on", cell: (one) => one.live_on.join(", ") || NONE },
  { title: "last used", number: true, cell: (one) => one.last_used_s ? `${span(now_s - one.last_used_s)} ago` : NONE },
  { title: "quality", number: true, cell: (one) => one.quality.toFixed(2) },
  { title: "for", wide: true, cell: (one) => ({ text: one.description, className: "muted" }) },
];

function storedAs({ fault, codec, kind }) {
  if (fault) return { text: "cannot be served", className: "bad", title: fault };
  return codec || kind.replaceAll("_", " ");
}

export function showFleet(state) {
  fillTable(workers, WORKER_COLUMNS, state.workers, (one) => one.name,
    "No workers: name some in `pool.workers` of fleet.yaml.");
  fillTable(models, modelColumns(state.now_s), state.models, (one) => one.name, "No models.");
  showFamily(state.models, state.family);
}
