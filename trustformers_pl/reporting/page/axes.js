// Scales, ticks, and numbers as people write them.

function linearScale(domain, range) {
  const [a, b] = domain, [from, to] = range;
  const width = b - a || 1;
  const scale = (value) => from + ((value - a) / width) * (to - from);
  scale.invert = (pixel) => a + ((pixel - from) / (to - from || 1)) * width;
  return scale;
}

function logScale(domain, range) {
  const inner = linearScale(domain.map(Math.log10), range);
  return (value) => inner(Math.log10(value));
}

// At most about `count` round numbers: 1, 2 or 5 times a power of ten.
function ticksOf([low, high], count) {
  const rough = (high - low || 1) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999);
  const first = Math.ceil(low / step - 1e-9), last = Math.floor(high / step + 1e-9);
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => (first + i) * step);
}

// Powers of ten; where that is fewer than two, their double and quintuple too; where that is still few, round numbers.
function logTicksOf([low, high], count) {
  const powers = [];
  for (let p = Math.floor(Math.log10(low)); p <= Math.ceil(Math.log10(high)); p += 1) powers.push(10 ** p);
  const inside = (values) => values.filter((v) => v >= low * 0.9999 && v <= high * 1.0001);
  const sparse = inside(powers);
  if (sparse.length > count) return sparse.filter((_, i) => i % Math.ceil(sparse.length / count) === 0);
  if (sparse.length >= 2) return sparse;
  const fine = inside(powers.flatMap((p) => [p, 2 * p, 5 * p]));
  return fine.length >= 2 ? fine : inside(ticksOf([low, high], count)).filter((v) => v > 0);
}

// About `digits` significant digits, without an exponent where that can be read.
function figure(value, digits = 5) {
  if (value === null || value === undefined) return "—";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e7 || size < 1e-4) return value.toExponential(Math.min(digits - 1, 3)).replace(/\.?0+e/, "e").replace("e+", "e");
  if (size >= 1e4) return Math.round(value).toLocaleString("en");
  return String(Number(value.toPrecision(digits)));
}

// On an axis: as short as it can be said.
function tickText(value, step) {
  const size = Math.abs(value);
  for (const [unit, sign] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (size >= unit * 10 || (size >= unit && step >= unit / 10)) return String(Number((value / unit).toPrecision(4))) + sign;
  }
  return figure(Number(value.toPrecision(10)), 6);
}

function clockText(seconds) {
  if (seconds < 60) return `${figure(seconds, 3)} s`;
  const whole = Math.round(seconds), minutes = Math.floor(whole / 60), pad = (n) => String(n).padStart(2, "0");
  return minutes < 60 ? `${minutes}:${pad(whole % 60)} min` : `${Math.floor(minutes / 60)}:${pad(minutes % 60)} h`;
}

// Round marks of an axis of seconds: of seconds, minutes or hours.
function clockTicksOf([low, high], count) {
  const rough = (high - low || 1) / count;
  const step = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400].find((s) => s >= rough);
  if (rough < 1 || step === undefined) return ticksOf([low, high], count);
  const first = Math.ceil(low / step);
  return Array.from({ length: Math.max(0, Math.floor(high / step) - first + 1) }, (_, i) => (first + i) * step);
}
