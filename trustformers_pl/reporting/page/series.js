"use strict";
// What is done to a curve's numbers before it is drawn. A value that is not finite is null.

// The seconds at which steps were done, between two records of the clock in proportion; before and after, at its pace.
function secondsOf(clock, steps) {
  const { step, seconds } = clock;
  let place = 0;
  return steps.map((logged) => {
    const done = logged + 1; // the k-th optimizer step is logged as k - 1
    while (place < step.length - 2 && step[place + 1] < done) place += 1;
    const span = step[place + 1] - step[place] || 1;
    const share = (done - step[place]) / span;
    return Math.max(0, seconds[place] + share * (seconds[place + 1] - seconds[place]));
  });
}

// Exponential moving average that forgets by distance, not by value: `weight` is left of a value after a thousandth of
// the curve's length, so that a validation's few values are hardly moved and a training's many are smoothed alike. It is
// divided by the weight given out so far, so that it starts at the first value (as in Adam, Kingma & Ba 2015, section 3).
function smoothed(xs, ys, weight) {
  if (weight === 0 || xs.length < 2) return ys;
  const unit = (xs[xs.length - 1] - xs[0]) / 1000 || 1;
  let mean = 0, given = 0, before = 2 * xs[0] - xs[1]; // as far from the first value as that is from the second
  return ys.map((y, place) => {
    if (y === null) return null;
    const kept = weight ** ((xs[place] - before) / unit);
    before = xs[place];
    mean = kept * mean + (1 - kept) * y;
    given = kept * given + (1 - kept);
    return given > 0 ? mean / given : y;
  });
}

// The first place in ascending `values` whose value is not below `bound`.
function firstFrom(values, bound) {
  let low = 0, high = values.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] < bound) low = middle + 1; else high = middle;
  }
  return low;
}

// The places of `xs` from the last one at or before `low` to the first one at or after `high`: what a frame shows of it.
function placesWithin(xs, low, high) {
  return [Math.max(0, firstFrom(xs, low) - 1), Math.min(xs.length, firstFrom(xs, high) + 1)];
}

// Points to draw: all of them where there are few, else of each pixel's the first, least, greatest and last.
function pointsPerPixel(xs, ys, [start, end], toPixel) {
  const points = [];
  let pixel = null, kept = null;
  const flush = () => {
    if (kept === null) return;
    const places = [...new Set([kept.first, kept.least, kept.greatest, kept.last])].sort((a, b) => a - b);
    for (const place of places) points.push([xs[place], ys[place]]);
    kept = null;
  };
  for (let i = start; i < end; i += 1) {
    if (ys[i] === null) {
      flush();
      points.push(null); // the line is broken here
      continue;
    }
    const at = Math.round(toPixel(xs[i]));
    if (kept === null || at !== pixel) {
      flush();
      pixel = at;
      kept = { first: i, least: i, greatest: i, last: i };
    } else {
      if (ys[i] < ys[kept.least]) kept.least = i;
      if (ys[i] > ys[kept.greatest]) kept.greatest = i;
      kept.last = i;
    }
  }
  flush();
  return points;
}

// The least and the greatest of the values at some places that `counts` accepts; null where there is none.
function rangeOf(values, [start, end], counts) {
  let low = Infinity, high = -Infinity;
  for (let i = start; i < end; i += 1) {
    const value = values[i];
    if (value === null || !counts(value)) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return low <= high ? [low, high] : null;
}
