// Numbers as people read them. Amounts come as exact decimal texts and are only shown here.

const plain = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const cents = new Intl.NumberFormat("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const clock = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
const minute = new Intl.DateTimeFormat("en-GB", { timeStyle: "short" });

export const NONE = "–";

export const count = (value) => plain.format(value);
export const percent = (share, decimals = 1) =>
  `${(100 * share).toFixed(decimals)}%`.replace("-", "−");
export const time = (at_s) => clock.format(new Date(at_s * 1000));
export const minutes = (at_s) => minute.format(new Date(at_s * 1000));
export const days = (number) => `${plain.format(number)} ${number === 1 ? "day" : "days"}`;

/** USD for reading: cents from a dollar on, three digits below; a nano-dollar is the smallest. */
export function usd(amount) {
  if (amount === null || amount === undefined) return NONE;
  const value = Number(amount);
  const size = Math.abs(value);
  return `${value < 0 ? "−" : ""}$${size >= 1 ? cents.format(size) : threeDigits(size)}`;
}

function threeDigits(size) {
  if (!size) return "0";
  const decimals = Math.min(9, 2 - Math.floor(Math.log10(size)));
  return size.toFixed(decimals);
}

/** The same without idle zeros: on an axis, and for a price. */
export const shortUsd = (amount) =>
  usd(amount).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");

/** The exact amount, for whoever asks. */
export const exactUsd = (amount) => `${amount} USD`;

export function bytes(size) {
  if (!size) return NONE;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const step = Math.min(units.length - 1, Math.floor(Math.log2(size) / 10));
  const value = size / 1024 ** step;
  return `${value >= 100 || step === 0 ? plain.format(value) : value.toFixed(1)} ${units[step]}`;
}

export function seconds(value) {
  if (value === null || value === undefined) return NONE;
  if (value === 0) return "0";
  if (value < 0.001) return `${(value * 1e6).toFixed(0)} µs`;
  if (value < 1) return `${(value * 1e3).toFixed(value < 0.01 ? 1 : 0)} ms`;
  return `${value.toFixed(value < 10 ? 2 : 1)} s`;
}

export function span(value) {
  if (value === null || value === undefined) return NONE;
  if (value < 60) return `${Math.max(0, Math.floor(value))} s`;
  if (value < 3600) return `${Math.floor(value / 60)} min`;
  if (value < 86400) return `${Math.floor(value / 3600)} h ${Math.floor((value % 3600) / 60)} min`;
  return `${Math.floor(value / 86400)} d ${Math.floor((value % 86400) / 3600)} h`;
}

export const rate = (value) =>
  value >= 100 || value === 0 ? plain.format(value) : value.toFixed(value < 10 ? 2 : 1);
export const words = (name) => name.replaceAll("_", " ");
