// Put a false match rate into words: how often strangers look at least this much alike.
import { shell, words } from "./shell.js";

const COMMON = 0.1; // from this rate on, a percentage is easier to understand than "1 in n"

// `comparison` has false_match_rate and false_match_rate_interval; the calibration cannot show rates below `floor`.
export function rate(comparison, floor) {
  const odds = comparison.false_match_rate, said = words();
  if (odds <= floor) return said.rateFloor(round(1 / odds));
  return odds > COMMON ? said.rateMany(Math.round(odds * 100)) : said.rate(round(1 / odds));
}

// How exact the rate is. A rate of 0 has no "1 in n": then only the upper end is stated.
export function exactness(comparison, floor) {
  const said = words(), odds = comparison.false_match_rate, finest = odds <= floor ? said.finestRate : "";
  if (!comparison.false_match_rate_interval) return finest;
  const [low, high] = comparison.false_match_rate_interval;
  if (odds > COMMON) return said.betweenMany(Math.round(low * 100), Math.round(high * 100));
  return `${low > 0 ? said.between(round(1 / high), round(1 / low)) : said.atMost(round(1 / high))} ${finest}`.trim();
}

export function round(number) { // two significant digits: the data does not support more
  return Number(number.toPrecision(2)).toLocaleString(shell.language);
}
