/** What a person chose for the chat, kept in this browser. An empty field leaves the choice to the server. */

import { createContext, useContext } from "react";
import { isRecord, type ChatRequest } from "../api";

export interface ChatSettings {
  model: string | null;
  system: string;
  temperature: number | null;
  topP: number | null;
  maxTokens: number | null;
  seed: number | null;
  /** One of EFFORTS: how much the model thinks before it answers. */
  effort: string | null;
}

export const EFFORTS = ["none", "minimal", "low", "medium", "high"];

export const DEFAULT_SETTINGS: ChatSettings = {
  model: null,
  system: "",
  temperature: null,
  topP: null,
  maxTokens: null,
  seed: null,
  effort: null,
};

const KEY = "inference-engine.chat-settings";

export function readSettings(): ChatSettings {
  try {
    const stored: unknown = JSON.parse(window.localStorage.getItem(KEY) ?? "null");
    return isRecord(stored) ? parseSettings(stored) : DEFAULT_SETTINGS;
  } catch {
    return DEFAULT_SETTINGS;
  }
}

/** Keeps what is of the right type; anything else falls back to the default. */
export function parseSettings(stored: Record<string, unknown>): ChatSettings {
  const numberOf = (value: unknown) => (typeof value === "number" && Number.isFinite(value) ? value : null);
  return {
    model: typeof stored["model"] === "string" ? stored["model"] : null,
    system: typeof stored["system"] === "string" ? stored["system"] : "",
    temperature: numberOf(stored["temperature"]),
    topP: numberOf(stored["topP"]),
    maxTokens: numberOf(stored["maxTokens"]),
    seed: numberOf(stored["seed"]),
    effort: EFFORTS.find((effort) => effort === stored["effort"]) ?? null,
  };
}

export function writeSettings(settings: ChatSettings): void {
  try {
    window.localStorage.setItem(KEY, JSON.stringify(settings));
  } catch {
    // Storage is full or blocked: the settings then last until the page is closed.
  }
}

/** The sampling part of a request: only what was chosen. */
export function samplingOf(settings: ChatSettings): Omit<ChatRequest, "model" | "messages"> {
  return {
    ...(settings.temperature !== null && { temperature: settings.temperature }),
    ...(settings.topP !== null && { top_p: settings.topP }),
    ...(settings.maxTokens !== null && { max_tokens: settings.maxTokens }),
    ...(settings.seed !== null && { seed: settings.seed }),
    ...(settings.effort !== null && { reasoning_effort: settings.effort }),
  };
}

/** How many settings differ from their defaults; the model is chosen elsewhere and does not count. */
export function countChanged(settings: ChatSettings): number {
  const { model: _, ...rest } = settings;
  return Object.values(rest).filter((value) => value !== null && value !== "").length;
}

export interface ChatContextValue {
  settings: ChatSettings;
  change: (part: Partial<ChatSettings>) => void;
  /** The public name a message goes to: the chosen one if the server still has it, else its first. */
  model: string | null;
  chatModels: string[];
}

export const ChatContext = createContext<ChatContextValue | null>(null);

export function useChat(): ChatContextValue {
  const value = useContext(ChatContext);
  if (!value) throw new Error("useChat needs a ChatContext around it");
  return value;
}
