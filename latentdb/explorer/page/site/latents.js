// Arithmetic of latents, as latentdb.model.arithmetic does it.

const dot = (a, b) => { let sum = 0; for (let i = 0; i < a.length; i++) sum += a[i] * b[i]; return sum; };
const norm = (a) => Math.sqrt(dot(a, a));
const scaled = (a, by) => Float64Array.from(a, (value) => value * by);

function weightedSum(points, weights) {
  const sum = new Float64Array(points[0].length);
  points.forEach((point, number) => { for (let i = 0; i < sum.length; i++) sum[i] += weights[number] * point[i]; });
  return sum;
}

// The weighted mean of units on the sphere (Buss & Fillmore 2001), with the weighted mean of the norms.
function sphericalMean(points, weights) {
  const norms = points.map(norm);
  if (norms.some((length) => !length)) return weightedSum(points, weights);
  const units = points.map((point, number) => scaled(point, 1 / norms[number]));
  let mean = weightedSum(units, weights);
  if (norm(mean) < 1e-7) return weightedSum(points, weights);
  mean = scaled(mean, 1 / norm(mean));
  for (let round = 0; round < 100; round++) {
    const tangents = units.map((unit) => {
      const cosine = Math.min(1, Math.max(-1, dot(unit, mean))), tangent = unit.map((value, i) => value - cosine * mean[i]);
      const length = norm(tangent);
      return scaled(tangent, length > 1e-7 ? Math.acos(cosine) / length : 1);
    });
    const step = weightedSum(tangents, weights), length = norm(step);
    if (length < 1e-12) break;
    mean = mean.map((value, i) => Math.cos(length) * value + (Math.sin(length) * step[i]) / length);
    mean = scaled(mean, 1 / norm(mean));
  }
  return scaled(mean, dot(weights, norms));
}

export function blend(points, weights, method) {
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  if (Math.abs(total) <= 1e-12 * weights.reduce((sum, weight) => sum + Math.abs(weight), 0)) throw new Error("the weights sum to zero: move one of them");
  const shares = weights.map((weight) => weight / total);
  const used = shares.flatMap((share, number) => (share ? [number] : []));
  if (used.length === 1) return Float32Array.from(points[used[0]]);
  if (method !== "slerp") return Float32Array.from(weightedSum(points, shares));
  if (shares.some((share) => share < 0)) throw new Error("the weights have different signs: slerp needs weights of one sign");
  return Float32Array.from(sphericalMean(used.map((number) => points[number]), used.map((number) => shares[number])));
}
