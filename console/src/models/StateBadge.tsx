/** A model's state as a badge, or as a dot where room is short. */

import type { ModelState } from "../api";
import classes from "./State.module.css";

const TEXT: Record<ModelState, string> = {
  unloaded: "Unloaded",
  loading: "Loading",
  ready: "Ready",
  draining: "Draining",
  failed: "Failed",
};

export function StateBadge({ state }: { state: ModelState }) {
  return (
    <span className={classes.badge} data-state={state}>
      {TEXT[state] ?? state}
    </span>
  );
}

export function StateDot({ state }: { state: ModelState }) {
  return <span className={classes.dot} data-state={state} role="img" aria-label={TEXT[state] ?? state} title={TEXT[state] ?? state} />;
}
