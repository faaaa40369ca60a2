/** Loading and unloading, with what each call is doing and how it ended. */

import { useCallback, useState } from "react";
import { loadModel, unloadModel, type Model } from "../api";
import { useServer } from "../server";
import { formatBytes } from "./format";

export type Verb = "load" | "unload";

export interface ActionState {
  /** The call under way. */
  running: Verb | null;
  /** How the last call ended, in words; null before the first. */
  outcome: { text: string; failed: boolean } | null;
}

export interface ModelActions {
  stateOf: (model: Model) => ActionState;
  act: (verb: Verb, model: Model) => Promise<void>;
  dismiss: (model: Model) => void;
}

const IDLE: ActionState = { running: null, outcome: null };

export function keyOf(model: { name: string; version: string }): string {
  return `${model.name}:${model.version}`;
}

export function useModelActions(): ModelActions {
  const { refresh } = useServer();
  const [states, setStates] = useState<Record<string, ActionState>>({});

  const set = useCallback((model: Model, state: ActionState) => {
    setStates((before) => ({ ...before, [keyOf(model)]: state }));
  }, []);

  const act = useCallback(
    async (verb: Verb, model: Model) => {
      set(model, { running: verb, outcome: null });
      // The server lists the new state before the call ends; the page should show it.
      const early = window.setTimeout(() => void refresh(), 150);
      const outcome = await attempt(verb, model);
      window.clearTimeout(early);
      await refresh();
      set(model, { running: null, outcome });
    },
    [refresh, set],
  );

  return {
    stateOf: (model) => states[keyOf(model)] ?? IDLE,
    act,
    dismiss: (model) => set(model, IDLE),
  };
}

async function attempt(verb: Verb, model: Model): Promise<ActionState["outcome"]> {
  try {
    if (verb === "load") {
      await loadModel(model);
      return null;
    }
    const { memory_returned_bytes: returned } = await unloadModel(model);
    return returned ? { text: `Unloaded; ${formatBytes(returned)} of memory came back.`, failed: false } : null;
  } catch (error) {
    return { text: error instanceof Error ? error.message : String(error), failed: true };
  }
}
