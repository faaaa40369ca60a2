/** An image with the objects found in it, and its classes. */

import { useState } from "react";
import type { ImageAnalysis } from "../api";
import { percent, placedFound } from "./boxes";
import { Models } from "./Models";
import { Overlay } from "./Overlay";
import classes from "./Vision.module.css";

const LEAST_SCORE = 0.5;

interface Props {
  url: string;
  name: string;
  found: ImageAnalysis | null;
}

export function ImageView({ url, name, found }: Props) {
  const [size, setSize] = useState<{ width: number; height: number } | null>(null);
  const result = found?.results[0];
  const objects = (result?.objects ?? []).filter((object) => object.score >= LEAST_SCORE);
  return (
    <div className={classes.result}>
      <div className={classes.stage}>
        <img
          src={url}
          alt={name}
          onLoad={({ currentTarget }) => setSize({ width: currentTarget.naturalWidth, height: currentTarget.naturalHeight })}
        />
        {size && <Overlay {...size} placed={placedFound(objects)} />}
      </div>
      {result && found && (
        <div className={classes.panel}>
          {result.labels && (
            <section>
              <h2>As a whole</h2>
              <ul className={classes.labels} data-testid="labels">
                {result.labels.map(({ label, score }) => (
                  <li key={label}>
                    <span>{label}</span>
                    <meter min={0} max={1} value={score} aria-label={`Score of ${label}`} />
                    <span className={classes.number}>{percent(score)}</span>
                  </li>
                ))}
              </ul>
            </section>
          )}
          {result.objects && (
            <section>
              <h2>Objects</h2>
              <p className={classes.dim} data-testid="objects">
                {objects.length > 0 ? counted(objects.map((object) => object.label)) : "None was found."}
              </p>
            </section>
          )}
          <Models models={found.models} latencyMs={found.latency_ms} />
        </div>
      )}
    </div>
  );
}

function counted(labels: string[]): string {
  const counts = new Map<string, number>();
  for (const label of labels) counts.set(label, (counts.get(label) ?? 0) + 1);
  return [...counts].map(([label, count]) => `${label} × ${count}`).join(", ");
}
