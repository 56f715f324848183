// Spark is the shape of a row of counts; the counts themselves stand beside it.
export function Spark({ points, hue }: { points: readonly number[]; hue?: 'red' | 'amber' | 'teal' }) {
  const top = Math.max(1, ...points);
  const step = points.length > 1 ? 100 / (points.length - 1) : 0;
  const line = points.map((n, i) => `${i ? 'L' : 'M'}${(i * step).toFixed(1)} ${(21 - (n / top) * 20).toFixed(1)}`).join('');
  return (
    <svg className={`spark ${hue ?? ''}`} viewBox="0 0 100 22" preserveAspectRatio="none" aria-hidden="true">
      <path d={line} />
    </svg>
  );
}
