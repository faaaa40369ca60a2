/** Which models answered, and how long it took. */

import type { Report } from "../api";
import classes from "./Vision.module.css";

export function Models({ models, latencyMs }: { models: Record<string, Report>; latencyMs: number }) {
  return (
    <section>
      <h2>Answered by</h2>
      <ul className={classes.models}>
        {Object.entries(models).map(([task, { model, version, latency_ms }]) => (
          <li key={task}>
            <code>
              {model}:{version}
            </code>
            <span className={classes.number}>{latency_ms.toFixed(0)} ms</span>
          </li>
        ))}
      </ul>
      <p className={classes.dim}>{latencyMs.toFixed(0)} ms in all</p>
    </section>
  );
}
