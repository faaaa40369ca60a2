/** Chat completion events folded into one growing answer. Pure: the clock is handed in. */

import { isRecord, readError } from "../api";

export interface Answer {
  text: string;
  reasoning: string;
  /** "stop", "length", ... as the server said it; null while it has not. */
  finishReason: string | null;
  /** The name of the model that answered, as the server gave it. */
  model: string | null;
  completionTokens: number | null;
  error: { message: string; code: string | null } | null;
  done: boolean;
  startMs: number;
  firstTokenMs: number | null;
  lastTokenMs: number | null;
  chunks: number;
}

export function startAnswer(nowMs: number): Answer {
  return {
    text: "",
    reasoning: "",
    finishReason: null,
    model: null,
    completionTokens: null,
    error: null,
    done: false,
    startMs: nowMs,
    firstTokenMs: null,
    lastTokenMs: null,
    chunks: 0,
  };
}

/** Adds the data of one event. What follows `[DONE]` or an error changes nothing. */
export function addEvent(answer: Answer, data: string, nowMs: number): Answer {
  if (answer.done || answer.error) return answer;
  if (data.trim() === "[DONE]") return { ...answer, done: true };
  let chunk: unknown;
  try {
    chunk = JSON.parse(data);
  } catch {
    return withError(answer, "The server sent a piece of the answer that is not JSON.", null);
  }
  if (!isRecord(chunk)) return answer;
  if ("error" in chunk && chunk["error"]) {
    const { message, code } = readError(chunk);
    return withError(answer, message ?? "The server reported an error without a message.", code);
  }
  return addChunk(answer, chunk, nowMs);
}

function withError(answer: Answer, message: string, code: string | null): Answer {
  return { ...answer, error: { message, code } };
}

function addChunk(answer: Answer, chunk: Record<string, unknown>, nowMs: number): Answer {
  const choices = Array.isArray(chunk["choices"]) ? (chunk["choices"] as unknown[]) : [];
  const choice = isRecord(choices[0]) ? choices[0] : {};
  const delta = isRecord(choice["delta"]) ? choice["delta"] : {};
  const text = stringOr(delta["content"], "");
  const reasoning = stringOr(delta["reasoning_content"], "") || stringOr(delta["reasoning"], "");
  const arrived = text !== "" || reasoning !== "";
  const usage = isRecord(chunk["usage"]) ? chunk["usage"] : {};
  const tokens = usage["completion_tokens"];
  return {
    ...answer,
    text: answer.text + text,
    reasoning: answer.reasoning + reasoning,
    finishReason: stringOr(choice["finish_reason"], null) ?? answer.finishReason,
    model: stringOr(chunk["model"], null) ?? answer.model,
    completionTokens: typeof tokens === "number" ? tokens : answer.completionTokens,
    firstTokenMs: answer.firstTokenMs ?? (arrived ? nowMs : null),
    lastTokenMs: arrived ? nowMs : answer.lastTokenMs,
    chunks: answer.chunks + (arrived ? 1 : 0),
  };
}

function stringOr<T>(value: unknown, otherwise: T): string | T {
  return typeof value === "string" ? value : otherwise;
}

/** A stream that just ends is a cut connection, unless the model had already said why it stopped. */
export function endAnswer(answer: Answer): Answer {
  if (answer.done || answer.error || answer.finishReason) return { ...answer, done: true };
  return withError(answer, "The connection ended before the answer was complete.", "stream_cut");
}

export interface Speed {
  tokens: number;
  firstTokenMs: number;
  /** Null when the answer came in one piece, so that no rate can be told. */
  tokensPerS: number | null;
}

/** Null before the first token. Tokens are the server's count; until it comes, pieces stand in for them. */
export function speedOf(answer: Answer): Speed | null {
  const { firstTokenMs, lastTokenMs, startMs } = answer;
  if (firstTokenMs === null || lastTokenMs === null) return null;
  const tokens = answer.completionTokens ?? answer.chunks;
  const seconds = (lastTokenMs - firstTokenMs) / 1000;
  return {
    tokens,
    firstTokenMs: firstTokenMs - startMs,
    tokensPerS: answer.chunks > 1 && seconds > 0 ? (tokens - 1) / seconds : null,
  };
}
