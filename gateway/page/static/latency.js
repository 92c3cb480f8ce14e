// How long requests took, and how many there were.

import { Plot } from "./charts.js";
import { count, rate, seconds } from "./format.js";

const EMPTY = "No requests in the last hour: `deltafleet ask \"What is 37 plus 45?\"`";
const LOOKS = [["c1", "solid"], ["c4", "dashed"], ["c5", "dotted"]];
const first = new Plot("latency-first", { kind: "line", format: seconds, empty: EMPTY });
const total = new Plot("latency-total", { kind: "line", format: seconds, empty: EMPTY });
const throughput = new Plot("throughput", {
  kind: "line", format: (value) => `${rate(value)}/s`, right: count, empty: "Measuring …",
});

export function showLatency(history) {
  showQuantiles(first, history, history.first_token_s, "Time to first token");
  showQuantiles(total, history, history.total_s, "Whole request");
  showThroughput(history);
}

function showQuantiles(plot, { quantiles, at_s: x }, columns, name) {
  const series = quantiles.map((share, i) => ({
    label: share === 0.5 ? "median" : `p${Math.round(share * 100)}`,
    color: LOOKS[i % LOOKS.length][0],
    dash: LOOKS[i % LOOKS.length][1],
    values: columns[i],
    x,
  }));
  const told = series.map((one) => `${one.label} ${seconds(one.values.at(-1) ?? null)}`);
  plot.show(series, [], `${name}, latest: ${told.join(", ")}`);
}

function showThroughput(history) {
  const { at_s: x, requests_per_s: requests, failed_per_s: failed, output_tokens_per_s: tokens } = history;
  const series = [
    { label: "requests/s", color: "c1", values: requests, x },
    { label: "not answered/s", color: "bad", values: failed, x, dash: "dotted" },
    { label: "output tokens/s (right)", color: "c3", values: tokens, x, dash: "dashed", axis: "right" },
  ];
  const told = x.length ? `${rate(requests.at(-1))} requests/s, ${rate(tokens.at(-1))} output tokens/s` : "none yet";
  throughput.show(series, [], `Throughput, latest: ${told}`);
}
