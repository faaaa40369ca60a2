/** Numbers, times and shapes as people read them. */

/** Nothing held, like nothing known, is a dash. */
export function formatBytes(bytes: number | null | undefined): string {
  if (!bytes) return "–";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let value = bytes;
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${value.toFixed(unit === 0 || value >= 100 ? 0 : value >= 10 ? 1 : 2)} ${units[unit]}`;
}

export function formatTime(iso: string | null): string {
  if (!iso) return "–";
  const time = new Date(iso);
  return Number.isNaN(time.getTime()) ? iso : time.toLocaleString();
}

/** `[-1, 4]` as `any × 4`; a shape without dimensions is one value. */
export function formatShape(shape: number[]): string {
  return shape.length === 0 ? "one value" : shape.map((size) => (size < 0 ? "any" : size)).join(" × ");
}
